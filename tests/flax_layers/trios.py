"""One network in three frameworks, under the same names, and what it takes to get its state from one into another.

`there_and_back` converts, compares outputs, converts back with the residual and compares bits. Data is channels last;
`to` and `of` are what torch wants to be called with, and what is made of its result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from cases import assert_close, opened, random
from flax import nnx

import stateregistry as sr
from stateregistry.conversion.rules.rules import Rules

#: Every ordered pair of the three.
WAYS = tuple(itertools.permutations(("torch", "linen", "nnx"), 2))


def same(x: np.ndarray) -> torch.Tensor:
    """As it is."""
    return torch.from_numpy(np.array(x))


def plain(y: torch.Tensor) -> np.ndarray:
    """As it is."""
    return y.detach().numpy()


def first(x: np.ndarray) -> torch.Tensor:
    """Channels first."""
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def last(y: torch.Tensor) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(y.detach().numpy(), 1, -1)


@dataclass(frozen=True)
class Trio:
    """A network in three frameworks.

    Attributes:
        torch, linen, nnx: make it. inputs: what it is called with.
        rules: of the way from torch, read backwards on the way there; between Linen and NNX nothing is in another order.
        choices: whether a way from or to torch chooses something. allow: what else has to be accepted, by way.
        zero: keys of arrays that are zero in every framework, where one has no place for them.
    """

    name: str
    torch: Callable[[], Any]
    linen: Callable[[], Any]
    nnx: Callable[[nnx.Rngs], Any]
    inputs: tuple[np.ndarray, ...]
    to: Callable[[np.ndarray], torch.Tensor] = same
    of: Callable[[torch.Tensor], np.ndarray] = plain
    rules: Any = None
    choices: bool = False
    allow: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    zero: tuple[str, ...] = ()
    mutable: tuple[str, ...] = ()

    def registry(self, framework: str, seed: int) -> sr.StateRegistry:
        """Over a model with values that no initialiser made; variances are above zero."""
        if framework == "linen":
            reg = opened(self.linen(), *self.inputs, seed=seed)
        elif framework == "nnx":
            reg = sr.of(self.nnx(nnx.Rngs(0)))
            reg = reg.replace(random(reg, seed))
        else:
            reg = sr.of(self.torch().eval())
            draw = np.random.default_rng(seed)
            values = {key: draw.normal(size=entry.shape) for key, entry in reg.items() if "float" in entry.dtype}
            values = {key: np.abs(value) + 0.5 if key.endswith("var") else value for key, value in values.items()}
            reg = reg.replace({key: value.astype(reg[key].dtype) for key, value in values.items()})
        return reg.replace({key: np.zeros_like(reg.read(key)) for key in self.zero if key in reg})

    def run(self, framework: str, native: Any) -> np.ndarray:
        """What it computes in evaluation."""
        if framework == "torch":
            with torch.no_grad():
                return self.of(native(*(self.to(x) for x in self.inputs)))
        if framework == "nnx":
            return np.asarray(native(*self.inputs))
        result = self.linen().apply(native, *self.inputs, mutable=list(self.mutable) or False)
        return np.asarray(result[0] if self.mutable else result)

    def there_and_back(self, source: str, target: str) -> sr.Plan:
        """Outputs agree after the way there, and every bit comes back. Returns the plan of the way there."""
        rules = self._rules(source, target)
        allow = self._allowed(source, target)
        begun = self.registry(source, 1)
        done = sr.convert(begun, self.registry(target, 2), rules=rules, allow=allow)
        assert_close(self.run(target, done.target), self.run(source, begun.unwrap()))
        middle = self.registry(target, 3).replace(_values(sr.of(done.target)))
        inverse = self._allowed(target, source)
        rules = self._rules(target, source)
        # Where an entry has no counterpart, the model that comes back keeps its own: that is the one it came from.
        again = begun if "missing" in inverse else self.registry(source, 4)
        back = sr.convert(middle, again, rules=rules, allow=inverse, residual=done.residual)
        assert _bits(sr.of(back.target)) == _bits(self.registry(source, 1))
        return done.plan

    def _allowed(self, source: str, target: str) -> tuple[str, ...]:
        """Nothing that is not said: a row called exact needs no leave."""
        chosen = ("choice",) if self.choices and "torch" in (source, target) else ()
        return (*chosen, *self.allow.get((source, target), ()))

    def _rules(self, source: str, target: str) -> Any:
        if self.rules is None or "torch" not in (source, target):
            return None
        return Rules.of(self.rules) if source == "torch" else Rules.of(self.rules).inverse()


def _values(reg: sr.StateRegistry) -> dict[str, np.ndarray]:
    return {key: value for key, value in sr.snapshot(reg).items() if not reg[key].rng}


def _bits(reg: sr.StateRegistry) -> dict[str, bytes]:
    return {key: value.tobytes() for key, value in _values(reg).items()}
