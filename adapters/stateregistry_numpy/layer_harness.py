"""Layers of the reference for the conformance suite: made and run as the model itself does, without the adapter.

Data comes channels last; the reference has channels behind the batch. Imports NumPy, the core and the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from stateregistry_conformance.declaration import CannotBuild
from stateregistry_conformance.harness import Specimen
from stateregistry_conformance.trials.case import LayerCase
from stateregistry_numpy.cells import Parameter
from stateregistry_numpy.layers import BatchNorm, Conv, Embedding, LayerNorm, Linear
from stateregistry_numpy.module import Module

#: The layer kinds that the reference has.
KINDS: Final = ("linear", "conv", "embedding", "batch_norm", "layer_norm")


def build(case: LayerCase, /) -> Module:
    """The layer of a case, in float32.

    Raises:
        CannotBuild: the reference has no such layer, or not with such config.
    """
    if case.depth > 1 or case.kind not in KINDS:
        raise CannotBuild(f"the reference has no {case.name}")
    makers: Mapping[str, Callable[[LayerCase, dict[str, Any]], Module]] = {
        "linear": _linear,
        "conv": _conv,
        "embedding": lambda case, _: Embedding(case.sizes["vocab"], case.sizes["features"]),
        "batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
    }
    asked = dict(case.config)
    made = makers[case.kind](case, asked)
    if asked:
        raise CannotBuild(f"a {case.kind} of the reference has no {', '.join(sorted(asked))}")
    return made


def _linear(case: LayerCase, _: dict[str, Any]) -> Module:
    if "out" not in case.sizes:
        raise CannotBuild("a linear layer of the reference has one axis out")
    return Linear(case.sizes["in"], case.sizes["out"], bias=case.has("bias"))


def _conv(case: LayerCase, asked: dict[str, Any]) -> Module:
    numbers = {name: asked.pop(name, default) for name, default in (("stride", 1), ("padding", 0), ("groups", 1))}
    if not all(isinstance(number, int) for number in numbers.values()):
        raise CannotBuild("a convolution of the reference has one number for all axes and sides")
    return Conv(case.sizes["in"], case.sizes["out"], case.spatial, bias=case.has("bias"), **numbers)


def _batch_norm(case: LayerCase, asked: dict[str, Any]) -> Module:
    if not {"mean", "var"} <= case.roles:
        raise CannotBuild("a batch norm of the reference has statistics")
    made = BatchNorm(case.sizes["features"], **_eps(asked))
    if "momentum" in asked:
        raise CannotBuild("the reference is not trained")
    if not case.has("scale"):
        _drop(made, "gain")
        _drop(made, "bias")
    return made


def _layer_norm(case: LayerCase, asked: dict[str, Any]) -> Module:
    made = LayerNorm(*case.family("features"), **_eps(asked))
    if not case.has("bias"):
        _drop(made, "bias")
    return made


def _drop(module: Module, name: str) -> None:
    """Leave a place empty, as assigning `None` does."""
    setattr(module, name, None)


def _eps(asked: dict[str, Any]) -> dict[str, float]:
    return {"eps": asked.pop("eps")} if "eps" in asked else {}


def forward(model: Module, inputs: Sequence[np.ndarray], /) -> np.ndarray:
    """What a layer computes, channels last."""
    (x,) = (x if x.dtype.kind in "iu" else x.astype(np.float32) for x in inputs)
    moved = isinstance(model, (Conv, BatchNorm))
    y = model(np.moveaxis(x, -1, 1) if moved else x)
    return np.ascontiguousarray(np.moveaxis(y, 1, -1) if moved else y)


class Scaled(Linear):
    """Computes twice what its base does."""

    def forward(self, *inputs: Any) -> np.ndarray:
        """Twice the product."""
        doubled: np.ndarray = 2 * super().forward(*inputs)
        return doubled


def _square(seed: int) -> Parameter:
    return Parameter(np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32))


def odd(name: str, /) -> Specimen:
    """A module that looks like a linear layer.

    Raises:
        CannotBuild: the reference cannot be made to hold such a thing.
    """
    if name == "undeclared":
        module = Module()
        module.matrix = _square(1)
        module.bias = Parameter(np.ones(4, np.float32))
        return Specimen(module, ("bias", "matrix"))
    if name == "overridden":
        return Specimen(Scaled(4, 4), ("bias", "matrix"))
    if name == "bare":
        module = Module()
        module.layer = Linear(4, 4)
        module.table = _square(2)
        return Specimen(module, ("table",))
    reasons = {
        "contradiction": "config of the reference says nothing that its shapes say",
        "norm_of_several": "the reference has no weight_norm",
    }
    raise CannotBuild(reasons[name])
