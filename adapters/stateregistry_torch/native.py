"""Torch as the harness sees it: building modules and looking into them, without a line of the adapter.

Bits go as bytes, so that what the adapter does with integers and ml_dtypes is checked by something else.
Imports torch and the suite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from stateregistry import keys
from stateregistry.entry import Kind, dtype_name, numpy_dtype
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf


def build(declaration: Declaration, /) -> nn.Module:
    """A fresh module that holds what is declared.

    Raises:
        CannotBuild: a name that torch refuses, a parameter that is not saved, or the state of a generator.
    """
    root = nn.Module()
    tensors = {leaf.key: tensor_of(leaf) for leaf in declaration.leaves}
    for leaf in declaration.leaves:
        register(root, leaf, tensors[leaf.key])
    for alias, target in declaration.ties.items():
        register(root, declaration.leaf(target), tensors[target], path=keys.split(alias))
    return root


def tensor_of(leaf: Leaf, /) -> torch.Tensor:
    """The parameter or the tensor of a leaf."""
    if leaf.rng:
        raise CannotBuild("torch modules hold no generators: torch has a global one")
    if leaf.kind is Kind.PARAMETER and not leaf.persistent:
        raise CannotBuild("torch has no parameter that is not saved")
    tensor = from_array(leaf.value)
    if not leaf.concrete:
        tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(tensor, requires_grad=leaf.trainable) if leaf.kind is Kind.PARAMETER else tensor


def from_array(array: np.ndarray, /) -> torch.Tensor:
    """A tensor with the bytes of an array."""
    dtype = getattr(torch, str(dtype_name(array.dtype)))
    if array.size == 0:
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8).view(dtype).reshape(array.shape).clone()


def array_of(tensor: torch.Tensor, /) -> np.ndarray:
    """An array of its own with the bytes of a tensor."""
    full = getattr(tensor.detach(), "full_tensor", tensor.detach)()
    raw = full.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    dtype = numpy_dtype(str(tensor.dtype).removeprefix("torch."))
    return np.frombuffer(raw, dtype).reshape(tuple(tensor.shape)).copy()


def register(root: nn.Module, leaf: Leaf, tensor: torch.Tensor, path: tuple[str, ...] | None = None) -> None:
    """Register a tensor under a path, making plain modules on the way.

    Raises:
        CannotBuild: torch refuses the name.
    """
    *parents, name = path or leaf.path
    module = root
    try:
        for step in parents:
            if step not in module._modules:  # noqa: SLF001
                module.add_module(step, nn.Module())
            module = module.get_submodule(step)
        if leaf.kind is Kind.PARAMETER:
            assert isinstance(tensor, nn.Parameter)
            module.register_parameter(name, tensor)
        else:
            module.register_buffer(name, tensor, persistent=leaf.persistent)
    except KeyError as error:
        raise CannotBuild(f"torch refuses the name: {error}") from error


def _holder(root: nn.Module, key: str) -> tuple[Any, str]:
    *parents, name = keys.split(key)
    module: Any = root
    for step in parents:
        module = module._modules[step]  # noqa: SLF001
    return module, name


def reach(root: nn.Module, key: str, /) -> torch.Tensor:
    """The tensor that is registered under a key."""
    module, name = _holder(root, key)
    table = module._parameters if name in module._parameters else module._buffers  # noqa: SLF001
    tensor = table[name]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def drop(root: nn.Module, key: str, /) -> None:
    """Delete what is registered under a key."""
    module, name = _holder(root, key)
    delattr(module, name)


def write(tensor: torch.Tensor, value: np.ndarray, /) -> None:
    """Change the values of a tensor as a training loop would."""
    with torch.no_grad():
        tensor.copy_(from_array(np.asarray(value, order="C")))


def train_step(root: nn.Module, /) -> None:
    """Subtract one from every parameter that requires a gradient, once per object."""
    with torch.no_grad():
        for parameter in root.parameters():
            if parameter.requires_grad:
                wide = torch.complex128 if parameter.is_complex() else torch.float64
                parameter.copy_((parameter.to(wide) - 1).to(parameter.dtype))


_FUNCTION: Any = torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]  # a class method, unbound


class _Broken(torch.Tensor):
    """A tensor whose `copy_` raises, and that of everything derived from it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            raise RuntimeError("injected: the device cannot be written")
        # Not super(): `Parameter` switches this off for its results, and a write goes through a detached view.
        return _FUNCTION(cls, func, types, args, kwargs or {})


class _BrokenParameter(_Broken, nn.Parameter):
    """The same as a parameter."""


def break_writes(tensor: torch.Tensor, /) -> None:
    """Make every write to a tensor raise; the object stays the same, and readable."""
    tensor.__class__ = _BrokenParameter if isinstance(tensor, nn.Parameter) else _Broken


def describe(tensor: torch.Tensor, /) -> object:
    """Everything about a tensor but its values and its version."""
    grad = tensor.grad if tensor.is_leaf else None
    return (
        type(tensor),
        tensor.device,
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.requires_grad,
        tensor.is_leaf,
        tensor.is_inference(),
        None if grad is None else (id(grad), grad.dtype, array_of(grad).tobytes()),
        str(getattr(tensor, "placements", "")),
        str(getattr(tensor, "device_mesh", "")),
    )


def fingerprint(root: nn.Module, /) -> object:
    """Everything that looking at a module must not change."""
    modules = tuple((name, id(module), module.training) for name, module in root.named_modules())
    tensors = tuple(
        (name, id(tensor), tensor._version, describe(tensor))  # noqa: SLF001
        for table in (root.named_parameters, root.named_buffers)
        for name, tensor in table(remove_duplicate=False)
    )
    settings = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    return modules, tensors, settings, torch.get_rng_state().numpy().tobytes()
