"""The bits of tensors on their way to and from NumPy: exact, for every dtype that a registry holds.

bfloat16 and float8 have no way to NumPy in torch: they pass as integers of the same width and become ml_dtypes again.
Writing goes through integers too, so that no kernel ever sees a floating value it could quieten. Imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from stateregistry import entry, errors
from stateregistry.entry import dtype_name, numpy_dtype
from stateregistry_torch import sharded

#: The torch dtype of every dtype name that this torch has.
DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {name: found for name in entry.DTYPES if isinstance(found := getattr(torch, name, None), torch.dtype)}
)
#: The dtype name of every torch dtype that a registry holds.
NAMES: Final[Mapping[torch.dtype, str]] = MappingProxyType({found: name for name, found in DTYPES.items()})

#: Integers of each width in bytes, in torch and in NumPy.
_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CARRIERS: Final = {1: np.dtype(np.uint8), 2: np.dtype(np.int16)}

_DISPATCH: Final = torch.Tensor.__torch_dispatch__


def obstacle(tensor: torch.Tensor, /) -> str:
    """Why a tensor cannot be an entry; empty where it can. Looks at metadata only."""
    cls = type(tensor)
    if not sharded.is_sharded(tensor):
        if cls.__torch_dispatch__ is not _DISPATCH:
            return f"a {cls.__name__} keeps its values in a form of its own"
        if tensor.layout is not torch.strided:
            return f"a tensor of layout {str(tensor.layout).removeprefix('torch.')}"
        if tensor.is_nested:
            return "a nested tensor"
    if tensor.dtype not in NAMES:
        return f"dtype {str(tensor.dtype).removeprefix('torch.')}, which no registry holds"
    return ""


def reach(tensor: torch.Tensor, /) -> int:
    """How many bytes of memory a strided tensor spans, from its first element to the end of its last."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def has_memory(tensor: torch.Tensor, /) -> bool:
    """Whether the storage of a tensor is large enough for it: FSDP and others free it under a living tensor."""
    offset = tensor.storage_offset() * tensor.element_size()
    return tensor.numel() == 0 or tensor.untyped_storage().nbytes() >= offset + reach(tensor)


def lend(tensor: torch.Tensor, /) -> np.ndarray[Any, Any]:
    """The values of a tensor as an array, which shares memory where the tensor is on the CPU.

    Returns:
        An array of the tensor's (global) shape; any layout, any writability.

    Raises:
        AbstractError: a meta tensor. UnsupportedError: a tensor that no registry holds, that has lost its memory, or of
            which this process holds no shard.
    """
    reason = obstacle(tensor)
    if reason:
        raise errors.UnsupportedError(f"it cannot be read as an array: {reason}", found=reason)
    if tensor.is_meta:
        message = "a tensor on the meta device has no values"
        raise errors.AbstractError(message, hint="give it values on a real device first")
    with torch.no_grad():
        plain = sharded.whole(tensor) if sharded.is_sharded(tensor) else tensor.detach()
        if not has_memory(plain):
            message = "the storage of the tensor has been freed or shrunk: there are no values"
            raise errors.UnsupportedError(message, hint="gather or restore the parameters first (FSDP: summon them)")
        plain = plain.resolve_conj().resolve_neg().cpu()
        dtype = numpy_dtype(NAMES[plain.dtype])
        if NAMES[plain.dtype] in entry.EXTENDED:
            return plain.view(_INTEGERS[plain.element_size()]).numpy().view(dtype)
        return plain.numpy()


def adopt(array: np.ndarray[Any, Any], /) -> torch.Tensor:
    """A CPU tensor over the memory of a writable array of any dtype that torch has.

    Raises:
        UnsupportedError: this torch has no such dtype.
    """
    name = dtype_name(array.dtype)
    if name is None or name not in DTYPES:
        message = f"torch {torch.__version__} has no dtype {name or array.dtype}"
        raise errors.UnsupportedError(message, found=name)
    if name in entry.EXTENDED:
        return torch.from_numpy(array.view(_CARRIERS[array.dtype.itemsize])).view(DTYPES[name])
    return torch.from_numpy(array)


def overwrite(tensor: torch.Tensor, value: torch.Tensor, index: tuple[slice, ...] = (), /) -> None:
    """Write bits into the memory of a tensor: the same object, device, strides, flags and gradient as before.

    Args:
        tensor: the place. Its version counter is advanced, as by any write in place, so that autograd notices a write
            between forward and backward; the write itself is not recorded.
        value: what to write: of the dtype of the tensor, and of its shape (after `index`; for a sharded tensor, of the
            shape of the local shard).
        index: the part that is written, for an expanded tensor whose memory is seen several times.
    """
    # An inference tensor can be written in inference mode only, any other one must not be: it would miss its version.
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        memory = sharded.local(tensor) if sharded.is_sharded(tensor) else tensor.detach()
        memory = memory[index] if index else memory
        if memory.is_conj() or memory.is_neg():
            memory.copy_(value)  # what lies in memory is not what the tensor means: torch has to translate
        else:
            _as_integers(memory).copy_(_as_integers(value))
    if sharded.is_sharded(tensor):
        torch.autograd.graph.increment_version(tensor)


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGERS[tensor.element_size()])


def each_once(tensor: torch.Tensor, /) -> tuple[slice, ...]:
    """The index under which every element of memory is seen once; `()` where no axis repeats memory.

    Raises:
        UnsupportedError: elements overlap in another way than by expansion, so that they cannot be written one by one.
    """
    if tensor.is_contiguous():
        return ()
    end = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride and size > 1:
            if stride <= end:
                message = (
                    f"elements of the tensor share memory (shape {tuple(tensor.shape)}, strides {tensor.stride()})"
                )
                raise errors.UnsupportedError(message, hint="register a tensor of its own memory: tensor.clone()")
            end += stride * (size - 1)
    repeats = [stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)]
    return tuple(slice(0, 1) if again else slice(None) for again in repeats) if any(repeats) else ()
