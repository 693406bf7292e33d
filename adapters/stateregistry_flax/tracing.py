"""Tracing: what every call inside of a Linen module sees, without computing anything.

`watch` runs a module by `jax.eval_shape` with every method call intercepted, and notes each module that is a layer: its
path, and its arrays as it sees them. Inside of `nn.scan` and `nn.vmap` it sees one of many: where the shapes alone do not
tell which axis counts them, the module is run once more with these arrays in boxes that Flax tells of every axis it
removes. A module whose variables a function changes on the way in (`nn.map_variables`) is no layer, except inside of
`WeightNorm` and `SpectralNorm`, whose function is known. Imports JAX and Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, final

import flax.linen as nn
import jax
import numpy as np
from flax import struct, traverse_util
from flax.core import DenyList, unfreeze
from flax.core.meta import AxisMetadata

from stateregistry import errors, keys
from stateregistry.entry import Kind
from stateregistry.layers.config import function_of
from stateregistry.layers.declared import Row
from stateregistry_flax import recurrent
from stateregistry_flax.arrays import is_array
from stateregistry_flax.declared import DECLARED
from stateregistry_flax.dialect import LINEN, PARAMS
from stateregistry_flax.functions import functions_of
from stateregistry_flax.rows import Held, Sight, sight
from stateregistry_flax.tree import Tree
from stateregistry_flax.wrappers import Wrapper, feature_axes, wrapped


@final
@dataclass(frozen=True, slots=True)
class Invocation:
    """A call of a module: an unbound module, and what it is called with."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rngs: Any = None
    method: Any = None

    def run(self, variables: Any, note: Callable[..., Any]) -> None:
        """Run it abstractly with every method call passed through `note`."""

        def apply(variables: Any, args: Any, kwargs: Any) -> None:
            rngs = {PARAMS: jax.random.key(0)} if self.rngs is None else self.rngs
            # A collection that may change is also made where it is missing, but parameters have to be there.
            buffers = DenyList(PARAMS)
            with nn.intercept_methods(note):
                self.module.apply(variables, *args, **kwargs, rngs=rngs, method=self.method, mutable=buffers)

        abstract(apply, variables, self.args, dict(self.kwargs))


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """What a run showed.

    Attributes:
        sights: the layers inside of the module, in the order of calls.
        types: the type of every module that was called, by path.
        activations: functions among the fields of modules that are no layers, by path.
    """

    sights: tuple[Sight, ...]
    types: Mapping[str, type]
    activations: Mapping[str, str]


def watch(invocation: Invocation, variables: Any, table: Mapping[type, Row]) -> Seen:
    """What is inside of a module.

    Raises:
        AdapterError: the module cannot be run on these variables and arguments, or a registered declaration fails.
    """
    first = _Watch(invocation.module, table)
    try:
        invocation.run(variables, first.note)
    except errors.StateError:
        raise
    except Exception as error:  # the module is the user's: whatever it raises is told
        native = type(invocation.module).__name__
        message = f"{native} cannot be run on these variables{first.failed}: {type(error).__name__}: {error}"
        hint = "pass the module that made the variables, with args= and kwargs= as it is called (and rngs=, method=)"
        raise errors.AdapterError(message, hint=hint) from error
    stacks = _stacks(invocation, variables, table, first)
    return Seen(tuple(made for call in first.calls for made in call.sights(stacks)), *first.others)


# -------------------------------------------------------------------- what is seen


@final
@dataclass(slots=True)
class _Call:
    """A module that was called: what it is, its arrays (key in the collections, relative to it), and what is around it."""

    seen: Sight
    arrays: dict[str, Any] = field(default_factory=dict)
    around: _Around | None = None

    def sights(self, stacks: Mapping[str, tuple[tuple[int, int], ...] | None]) -> tuple[Sight, ...]:
        """The layers, with the axes that a transform added to their arrays."""
        held = _held(self.seen.path, self.arrays, stacks)
        seen = replace(self.seen, held=held)
        if self.around is None:
            return (seen,)
        found = wrapped(seen, self.around.wrapper(stacks))
        return () if found is None else (found,)


def _held(
    path: str, arrays: Mapping[str, Any], stacks: Mapping[str, tuple[tuple[int, int], ...] | None]
) -> dict[str, Held]:
    prefix = f"{path}/" if path else ""
    return {
        name: Held(tuple(array.shape), stacks.get(f"{prefix}{name}", ()))
        for name, array in arrays.items()
        if hasattr(array, "shape")
    }


@final
@dataclass(slots=True)
class _Around:
    """A wrapper that is being called."""

    module: Any
    path: str
    inner: str
    name: str
    arrays: dict[str, Any] = field(default_factory=dict)

    def wrapper(self, stacks: Mapping[str, tuple[tuple[int, int], ...] | None]) -> Wrapper:
        """What the wrapper holds, and what it does."""
        held = _held(self.path, self.arrays, stacks)
        module = self.module

        def name(key: str, ending: str) -> str:
            return keys.escape("/".join((self.name, *keys.split(key), ending)))

        def named(key: str) -> str:
            return "/".join((self.name, *keys.split(key)))

        if isinstance(module, nn.WeightNorm):
            words = module.variable_filter

            def normed(key: str, _: int) -> bool:
                return not words or any(word in named(key) for word in words)

            label, config = (Kind.PARAMETER, LINEN.parameter_tag), {"weight_norm_eps": float(module.epsilon)}
            return Wrapper(
                self.path, self.inner, name, normed, held, lambda rank: feature_axes(module.feature_axes, rank),
                module.use_scale, lambda _: label, config,
            )  # fmt: skip
        collection = module.collection_name
        config = {"spectral_norm_eps": float(module.epsilon), "power_iterations": int(module.n_steps)}
        label = (Kind.PARAMETER if collection == PARAMS else Kind.BUFFER, collection)
        return Wrapper(
            self.path,
            self.inner,
            name,
            lambda _, rank: rank > 1 and module.n_steps > 0,
            held,
            None,
            False,
            lambda _: label,
            config,
        )


@final
class _Watch:
    """The interceptor of one run.

    Attributes:
        calls: what was seen, in the order in which it was called first.
    """

    def __init__(self, root: nn.Module, table: Mapping[type, Row]) -> None:
        self._root, self._table = root, table
        self._places: dict[tuple[str, ...], int] = {}
        self._found: dict[tuple[str, ...], _Call] = {}
        self._around: list[_Around] = []
        # For every `RNN` that is being called, whether it goes backwards, and puts outputs back in place.
        self._running: list[tuple[bool, bool]] = []
        self._types: dict[str, type] = {}
        self._activations: dict[str, str] = {}
        self._failed: Any = None  # the innermost module that raised
        self._foreign = 0  # calls inside of an `apply` with variables of its own
        # What was read by layers, by identity: held, as nothing else may have the identity while the run goes on.
        self._read: dict[int, tuple[int, Any]] = {}

    @property
    def calls(self) -> list[_Call]:
        """What was seen, in order."""
        return [self._found[path] for path in sorted(self._found, key=self._places.__getitem__)]

    def note(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        """Run one method call, and note what its module is."""
        module = context.module
        if context.method_name == "setup" or module.scope is None:
            return call(*args, **kwargs)
        if self._foreign or not (module.path or isinstance(self._root, type(module))):
            self._foreign += 1
            try:
                return call(*args, **kwargs)
            finally:
                self._foreign -= 1
        self._places.setdefault(module.path, len(self._places))
        self._remember(module)
        if context.method_name == "__call__" and isinstance(module, (nn.WeightNorm, nn.SpectralNorm)):
            return self._wrapping(module, call, args, kwargs)
        if context.method_name == "__call__" and isinstance(module, nn.RNN):
            reverse, keep_order = (
                bool(getattr(module, name) if kwargs.get(name) is None else kwargs[name])
                for name in ("reverse", "keep_order")
            )
            self._running.append((reverse, keep_order))
            try:
                return call(*args, **kwargs)
            finally:
                self._running.pop()
        try:
            result = call(*args, **kwargs)
        except Exception:
            self._failed = module if self._failed is None else self._failed
            raise
        if module.path not in self._found:
            self._see(module, args[0] if args else None)
        return result

    def _remember(self, module: Any) -> None:
        """The type of a module, for what it holds without being a layer, and the functions among its fields."""
        path, native = _key(module.path), type(module)
        if path in self._types:
            return
        self._types[path] = native
        if DECLARED.row_of(native, self._table) is None:  # what a layer has is its config
            members = [(each.name, getattr(module, each.name, None)) for each in fields(module)]
            members = [(name, value) for name, value in members if name not in ("parent", "name")]
            self._activations |= dict(functions_of(path, members, "_"))

    @property
    def failed(self) -> str:
        """Where the innermost module is that raised, for people; empty for none."""
        if self._failed is None or not self._failed.path:
            return ""
        return f" at {_key(self._failed.path)} ({type(self._failed).__name__})"

    @property
    def others(self) -> tuple[Mapping[str, type], Mapping[str, str]]:
        """The type of every module that was called, and the activations that hang at them, by path."""
        return self._types, self._activations

    def _wrapping(self, module: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        inner = module.layer_instance
        around = _Around(module, _key(module.path), _key(inner.path), inner.name)
        self._around.append(around)
        try:
            result = call(*args, **kwargs)
        finally:
            self._around.pop()
        around.arrays = _arrays(module)
        return result

    def _reads(self, value: Any) -> int | None:
        """A number for an array that is read: the same whenever it is the same array."""
        if not isinstance(value, jax.Array):
            return None
        return self._read.setdefault(id(value), (len(self._read), value))[0]

    def _see(self, module: Any, value: Any) -> None:
        changed = sum(step.count("map_variables(") for step in module.scope.debug_path)
        around = self._around[-1] if self._around else None
        if changed != len(self._around) or changed > 1:
            return  # what the module sees is not what is stored
        if around is not None and not _is_at(_key(module.path), around.inner):
            return
        found = sight(module, self._table, _key(module.path))
        if found is None:
            return
        seen, arrays = found[1], _arrays(module)
        reads = self._reads(value)
        seen = replace(seen, layers=tuple(replace(one, reads=reads) for one in seen.layers))
        if self._running:
            reverse, keep_order = self._running[-1]
            directed = (recurrent.directed(one, reverse=reverse, keep_order=keep_order) for one in seen.layers)
            seen = replace(seen, layers=tuple(directed))
        if any(piece.name in arrays for made in seen.layers for piece in made.pieces):
            self._found[module.path] = _Call(seen, arrays, around)
        elif not arrays and len(seen.layers) == 1 and (word := function_of(seen.layers[0])):
            self._activations[seen.path] = word


def _is_at(path: str, place: str) -> bool:
    return path == place or not place or path.startswith(f"{place}/")


def _key(path: tuple[str, ...]) -> str:
    return keys.join(*path) if path else ""


def _arrays(module: Any) -> dict[str, Any]:
    """The arrays that a bound module sees, boxes and all, by key below it; collections merged."""
    flat = traverse_util.flatten_dict(unfreeze(dict(module.variables)))
    return {keys.join(*path[1:]): _array(leaf) for path, leaf in flat.items() if all(map(_is_name, path)) and path[1:]}


def _is_name(step: object) -> bool:
    return isinstance(step, str) and step != ""


def _array(leaf: Any) -> Any:
    """A leaf, taken out of the boxes of others."""
    while isinstance(leaf, AxisMetadata) and not isinstance(leaf, Box):
        leaf = leaf.unbox()
    return leaf


# -------------------------------------------------------------------- which axes count modules


@struct.dataclass
class Box(AxisMetadata[Any]):
    """An array that remembers which of its axes were taken away, as Flax tells it.

    Attributes:
        value: the array.
        rank: how many axes it had.
        removed: where each axis was that was removed, in the array of that time.
    """

    value: Any
    rank: int = struct.field(pytree_node=False)
    removed: tuple[int, ...] = struct.field(pytree_node=False, default=())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.value.shape)

    def unbox(self) -> Any:
        """The array."""
        return self.value

    def replace_boxed(self, val: Any) -> Box:
        """The box with another array."""
        return self.replace(value=val)  # type: ignore[attr-defined,no-any-return]  # made by the decorator

    def add_axis(self, index: int, params: dict[Any, Any]) -> Box:
        """The box as it was before the last axis was removed."""
        return self.replace(removed=self.removed[:-1])  # type: ignore[attr-defined,no-any-return]

    def remove_axis(self, index: int, params: dict[Any, Any]) -> Box:
        """The box with one more axis removed."""
        at = index % (self.rank - len(self.removed))
        return self.replace(removed=(*self.removed, at))  # type: ignore[attr-defined,no-any-return]


_Stacks = dict[str, tuple[tuple[int, int], ...] | None]


def _stacks(invocation: Invocation, variables: Any, table: Mapping[type, Row], first: _Watch) -> _Stacks:
    """For every array of which a module sees one of many: the axes that count them, `None` where nothing says which."""
    stored = {
        leaf.key.partition("/")[2]: tuple(leaf.value.shape) for leaf in Tree(variables).leaves if is_array(leaf.value)
    }
    found: _Stacks = {}
    open_: set[str] = set()
    for key, array in _seen_arrays(first):
        outer, shape = stored.get(key), tuple(array.shape)
        if outer is None or outer == shape:
            continue
        places = [at for at in range(len(outer)) if outer[:at] + outer[at + 1 :] == shape]
        found[key] = ((places[0], outer[places[0]]),) if len(places) == 1 else None
        if len(places) != 1 and len(outer) > len(shape):
            open_.add(key)
    if open_:
        found |= _boxed(invocation, variables, table, stored, open_)
    return found


def _seen_arrays(watch: _Watch) -> list[tuple[str, Any]]:
    """Every array that was seen, by its key in the model, as it was seen."""
    seen = []
    for call in watch.calls:
        homes = [(call.seen.path, call.arrays)]
        homes += [] if call.around is None else [(call.around.path, call.around.arrays)]
        for path, arrays in homes:
            prefix = f"{path}/" if path else ""
            seen += [(f"{prefix}{name}", array) for name, array in arrays.items() if hasattr(array, "shape")]
    return seen


def _boxed(
    invocation: Invocation,
    variables: Any,
    table: Mapping[type, Row],
    stored: Mapping[str, tuple[int, ...]],
    wanted: set[str],
) -> _Stacks:
    """Which axes of the arrays `wanted` count modules: what Flax tells boxes in their place."""
    plain = Tree(nn.meta.unbox(variables))
    boxes = plain.map(
        lambda leaf: Box(leaf.value, len(leaf.value.shape)) if leaf.key.partition("/")[2] in wanted else leaf.value
    )
    second = _Watch(invocation.module, table)
    try:
        invocation.run(boxes, second.note)
    except Exception:  # noqa: BLE001  # a module that looks into its variables may fail on boxes: then nothing says it
        return {}
    found: _Stacks = {}
    for key, box in _seen_arrays(second):
        if isinstance(box, Box):
            outer = stored[key]
            left = list(range(len(outer)))
            places = [left.pop(at) for at in box.removed]
            rest = tuple(outer[at] for at in left)
            found[key] = tuple((at, outer[at]) for at in places) if rest == box.shape else None
    return found


# -------------------------------------------------------------------- abstract calls


def abstract(function: Callable[..., Any], /, *operands: Any) -> Any:
    """`jax.eval_shape` of a call in which only arrays are abstract: flags, names and the like stay what they are.

    Returns:
        The arrays of the result as `jax.ShapeDtypeStruct`s; what is no array must not be in it.
    """
    leaves, treedef = jax.tree_util.tree_flatten(operands)
    arrays = {index: leaf for index, leaf in enumerate(leaves) if is_array(leaf) and _traceable(leaf)}

    def call(arrays: Mapping[int, Any]) -> Any:
        filled = [arrays.get(index, leaf) for index, leaf in enumerate(leaves)]
        return function(*jax.tree_util.tree_unflatten(treedef, filled))

    return jax.eval_shape(call, arrays)


_STRINGS: Final = "OSTUVMm"


def _traceable(leaf: Any) -> bool:
    return not isinstance(leaf.dtype, np.dtype) or leaf.dtype.kind not in _STRINGS
