"""Pairs: one network as two frameworks write it, with random state that no initialiser gives, and how to run both.

A pair converts in three ways: `live` (a torch module, and a Flax side whose layer types are known), `variables` (the
module, and a bare tree), `files` (safetensors and msgpack, neither module at hand). Everything here goes through the
public names of stateregistry. Knows no model: those are in the modules beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import torch
from flax import nnx, serialization, traverse_util

import stateregistry as sr

#: Outputs may differ by this much of their scale: float32 arithmetic in another order.
TOLERANCE = 1e-5
#: Tiny models run once: compiling dominates, and what it would optimise is nothing.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class FlaxSide(Protocol):
    """A Flax model: Linen variables with their module, or an NNX module."""

    def fresh(self, seed: int) -> Any:
        """The native object with random state, another for each seed."""

    def registry(self, native: Any) -> sr.StateRegistry:
        """With the types of the layers."""

    def tree(self, native: Any) -> Any:
        """Linen: the variables without their module. NNX has no other form than itself."""

    def run(self, native: Any) -> Any:
        """The outputs for the inputs of the pair, in evaluation mode."""


@dataclass(eq=False)
class Linen:
    """A Linen module with the arguments of one call."""

    module: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def shapes(self) -> Any:
        def init() -> Any:
            return self.module.init(jax.random.key(0), *self.args, **self.kwargs)

        return jax.eval_shape(init)

    @cached_property
    def _compiled(self) -> Any:
        def call(variables: Any) -> Any:
            return self.module.apply(variables, *self.args, **self.kwargs)

        return jax.jit(call).lower(self.shapes).compile(compiler_options=QUICK)

    def fresh(self, seed: int) -> Any:
        return random_tree(self.shapes, seed)

    def registry(self, native: Any) -> sr.StateRegistry:
        return sr.of(native, module=self.module, args=self.args, kwargs=dict(self.kwargs))

    def tree(self, native: Any) -> Any:
        return native

    def run(self, native: Any) -> Any:
        return self._compiled(native)


@dataclass(eq=False)
class Nnx:
    """A factory of an NNX module, and its inputs."""

    make: Callable[[], Any]
    args: tuple[Any, ...]

    @cached_property
    def _state(self) -> tuple[Any, Any]:
        return nnx.split(nnx.eval_shape(self.make))

    @cached_property
    def _compiled(self) -> Any:
        graph, state = self._state

        def call(given: Any) -> Any:
            return nnx.merge(graph, given)(*self.args)

        return jax.jit(call).lower(state).compile(compiler_options=QUICK)

    def fresh(self, seed: int) -> Any:
        graph, state = self._state
        flat = nnx.to_flat_state(state)
        random = np.random.default_rng(seed)
        filled = [(path, leaf.replace(random_array(str(path[-1]), leaf.get_value(), random))) for path, leaf in flat]
        return nnx.merge(graph, nnx.from_flat_state(filled))

    def registry(self, native: Any) -> sr.StateRegistry:
        return sr.of(native)

    def tree(self, native: Any) -> Any:
        return native

    def run(self, native: Any) -> Any:
        return self._compiled(nnx.split(native)[1])


@dataclass(frozen=True, eq=False)
class Pair:
    """One network in two frameworks.

    Attributes:
        name: what the table calls it. torch: makes the torch module.
        flax: makes the Flax side. call: runs the torch module on the inputs of the Flax side.
        rules: what no header, type or order of calls can tell here, empty for none.
        allow: by way, or `always`, what else must be accepted by name, with the reason in `why`.
        why: what the pair shows, one sentence.
        open: the ways in which nothing decides without a rule: there it must be refused.
    """

    name: str
    torch: Callable[[], torch.nn.Module]
    flax: Callable[[], FlaxSide]
    call: Callable[[torch.nn.Module, FlaxSide], Any]
    rules: Any = None
    allow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    why: str = ""
    open: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def allowed(self, way: str) -> tuple[str, ...]:
        """What a conversion by this way is allowed.

        Counters of BatchNorm are a choice everywhere. Without types the layout of a matrix may rest on its name alone.
        """
        bare = () if way == "live" else ("assumption",)
        return tuple(dict.fromkeys(("choice", *bare, *self.allow.get("always", ()), *self.allow.get(way, ()))))

    def fresh_torch(self, seed: int) -> torch.nn.Module:
        """The torch module in evaluation mode with random state, another for each seed."""
        torch.manual_seed(0)
        module = self.torch().eval()
        randomise(module, seed)
        return module

    def run_torch(self, module: torch.nn.Module, side: FlaxSide) -> list[np.ndarray]:
        """The outputs of the torch module."""
        with torch.no_grad():
            return leaves(self.call(module, side))


# -------------------------------------------------------------------- random state


def random_array(name: str, like: Any, random: np.random.Generator) -> Any:
    """Values for a leaf: positive variances, scales about one, kernels that keep magnitudes; others by their rank."""
    shape, dtype = tuple(like.shape), np.dtype(like.dtype)
    if dtype.kind != "f":
        return random.integers(1, 1000, shape).astype(dtype) if dtype.kind in "iu" else like
    if name in ("var", "running_var"):
        values = random.uniform(0.5, 2.0, shape)
    elif name in ("scale", "gamma", "weight", "weight_g", "original0", "layer_scale") and len(shape) <= 1:
        values = random.uniform(0.5, 1.5, shape)
    elif len(shape) <= 1:
        values = random.normal(0.0, 0.3, shape)
    else:
        size = int(np.prod(shape))
        values = random.normal(0.0, 1.2 / np.sqrt(max(size / max(shape), 1.0)), shape)
    return np.asarray(values).astype(dtype)


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Parameters, running statistics and counters of a torch module.

    Other buffers, and parameters that are made not to be trained (tables of sines), are constants of its code.
    """
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            leaf = name.rpartition(".")[2]
            if tensor.requires_grad or leaf in ("running_mean", "running_var", "num_batches_tracked"):
                tensor.copy_(torch.from_numpy(np.asarray(random_array(leaf, tensor.numpy(), random))))


def random_tree(shapes: Any, seed: int) -> Any:
    """Random values for a tree of shapes, as plain nested dicts."""
    random = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(serialization.to_state_dict(shapes))
    return traverse_util.unflatten_dict({path: random_array(path[-1], leaf, random) for path, leaf in flat.items()})


# -------------------------------------------------------------------- outputs


def leaves(output: Any) -> list[np.ndarray]:
    """Every array of an output, in order."""
    return list(_leaves(output))


def _leaves(output: Any) -> Iterator[np.ndarray]:
    if isinstance(output, torch.Tensor):
        yield output.detach().numpy().astype(np.float64)
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _leaves(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _leaves(value)
    elif output is not None:
        yield np.asarray(output).astype(np.float64)


def difference(found: Any, expected: Any) -> float:
    """The largest difference of outputs, of the scale of each; infinite where their structure differs."""
    one, two = leaves(found), leaves(expected)
    if [a.shape for a in one] != [b.shape for b in two] or not one:
        return float("inf")
    gaps = [float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)) for a, b in zip(one, two, strict=True) if a.size]
    return max(float("inf") if np.isnan(gap) else gap for gap in gaps)


# -------------------------------------------------------------------- files


def torch_file(module: torch.nn.Module, path: Path) -> Path:
    """The state of a module as its users save it: safetensors, of tensors that share memory the first only."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    kept = {}
    for name, tensor in module.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous()
    save_file(kept, path)
    return path


def flax_file(native: Any, path: Path) -> Path:
    """The state of a Flax side as its users save it: msgpack of a nested dict."""
    if isinstance(native, nnx.Module):
        flat = {tuple(map(str, where)): leaf.get_value() for where, leaf in nnx.to_flat_state(nnx.state(native))}
        native = traverse_util.unflatten_dict(flat)
    path.write_bytes(serialization.msgpack_serialize(jax.tree.map(np.asarray, serialization.to_state_dict(native))))
    return path
