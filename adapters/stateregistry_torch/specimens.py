"""Odd torch modules that a declaration cannot say, for the conformance suite. Imports torch and the suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from stateregistry.entry import Kind
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.harness import Specimen
from stateregistry_torch import native


def specimen(name: str, /) -> Specimen:
    """A fresh specimen.

    Raises:
        CannotBuild: torch has no such model.
    """
    if name not in _MAKERS:
        raise CannotBuild("torch has no immutable tensor: two names for one tensor are a tie")
    return _MAKERS[name]()


def _value(*shape: int, start: float = 0.5) -> np.ndarray:
    return (np.arange(np.prod(shape, dtype=int), dtype=np.float32) + np.float32(start)).reshape(shape)


def _parameter(key: str, *shape: int) -> Leaf:
    return Leaf(key, Kind.PARAMETER, _value(*shape))


def _buffer(key: str, *shape: int) -> Leaf:
    return Leaf(key, Kind.BUFFER, _value(*shape, start=0.25))


def _declared(*leaves: Leaf, ties: Mapping[str, str] | None = None) -> tuple[nn.Module, Declaration]:
    declaration = Declaration(leaves, ties or {})
    return native.build(declaration), declaration


def _empty_name() -> Specimen:
    model = nn.Module()
    setattr(model, "", nn.Linear(2, 2))  # add_module refuses it, an attribute does not
    return Specimen(model, ("/weight",))


def _duplicate_key() -> Specimen:
    model, _ = _declared(_parameter("w", 2))
    model._buffers["w"] = torch.zeros(2)  # noqa: SLF001  # register_buffer refuses it
    return Specimen(model, ("w",))


def _prefix() -> Specimen:
    model, _ = _declared(_parameter("w", 2))
    model._modules["w"] = nn.Linear(2, 2)  # noqa: SLF001  # add_module refuses it
    return Specimen(model, ("w",))


def _unregistered() -> Specimen:
    model, _ = _declared(_parameter("w", 2), _buffer("b", 3))
    model.plain = torch.ones(4)  # what torch does not register
    inner = weight_norm(nn.Linear(3, 2, bias=False))
    model.add_module("normed", inner)
    scale, direction = (native.array_of(tensor) for tensor in inner.parameters())
    leaves = (
        _parameter("w", 2),
        _buffer("b", 3),
        Leaf("normed/parametrizations/weight/original0", Kind.PARAMETER, scale),
        Leaf("normed/parametrizations/weight/original1", Kind.PARAMETER, direction),
    )
    return Specimen(model, ("plain", "normed/weight"), Declaration(leaves))


def _none() -> Specimen:
    model, declaration = _declared(_parameter("w", 2))
    model.register_buffer("b", None)
    model.register_parameter("p", None)
    return Specimen(model, ("b", "p"), declaration)


class _Counting(nn.Module):
    """A module with state that is no tensor."""

    def get_extra_state(self) -> Any:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        raise NotImplementedError


def _opaque() -> Specimen:
    model, declaration = _declared(_parameter("w", 2))
    model.add_module("counter", _Counting())
    model.register_buffer("packed", torch.empty(2, dtype=torch.bits8))
    model.register_buffer("edges", torch.eye(3).to_sparse())
    return Specimen(model, ("counter/_extra_state", "packed", "edges"), declaration)


def _unknown_shape() -> Specimen:
    model, _ = _declared(_parameter("w", 2))
    model.add_module("lazy", nn.LazyLinear(3))
    return Specimen(model, ("lazy/weight", "lazy/bias"))


def _sharded() -> Specimen:
    import torch.distributed as dist

    if not dist.is_available():
        raise CannotBuild("this build of torch has no torch.distributed")
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, but exported without a word of it
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    model, declaration = _declared(_parameter("w", 4, 3), _buffer("b", 3))
    spread = distribute_tensor(torch.from_numpy(_value(4, 3)), init_device_mesh("cpu", (1,)), [Shard(0)])
    model.register_parameter("w", nn.Parameter(spread))
    return Specimen(model, ("w",), declaration)


def _wrapped() -> Specimen:
    inner, _ = _declared(_parameter("w", 2), _buffer("norm/b", 3))
    declaration = Declaration((_parameter("module/w", 2), _buffer("module/norm/b", 3)))
    return Specimen(nn.DataParallel(inner), declaration=declaration)


def _one_memory() -> Specimen:
    model, _ = _declared(_parameter("z", 2, 3), _buffer("b", 3))
    first = model.get_parameter("z")
    model.register_parameter("a", nn.Parameter(first.detach()))
    declaration = Declaration((_parameter("z", 2, 3), _buffer("b", 3)), {"a": "z"})
    return Specimen(model, ("a", "z"), declaration)


def _overlap() -> Specimen:
    model, declaration = _declared(_parameter("w", 4, 3))
    model.register_buffer("part", model.get_parameter("w").detach()[1:3])
    return Specimen(model, ("w", "part"), declaration)


def _mixed_tie() -> Specimen:
    model, _ = _declared(_parameter("w", 4))
    model.register_buffer("cache", model.get_parameter("w").detach(), persistent=False)
    return Specimen(model, ("cache", "w"), Declaration((_parameter("w", 4),), {"cache": "w"}))


def _gradients() -> Specimen:
    model, declaration = _declared(_parameter("w", 4), _parameter("v", 4))
    (model.get_parameter("w") * torch.arange(4.0)).sum().backward()
    return Specimen(model, ("w",), declaration)


_MAKERS: Final[Mapping[str, Callable[[], Specimen]]] = {
    "empty_name": _empty_name,
    "duplicate_key": _duplicate_key,
    "prefix": _prefix,
    "unregistered": _unregistered,
    "none": _none,
    "opaque": _opaque,
    "unknown_shape": _unknown_shape,
    "sharded": _sharded,
    "wrapped": _wrapped,
    "one_memory": _one_memory,
    "overlap": _overlap,
    "mixed_tie": _mixed_tie,
    "gradients": _gradients,
}
