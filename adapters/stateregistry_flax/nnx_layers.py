"""Layers of an NNX model: which module at which path has which type. Modules are there, so nothing is run or traced.

A layer type is a row of `ROWS` or registered by the user. A module with several paths is a layer at each, as in torch: the
other side may hold two of them. Where the arrays of a module have one axis more than its config says (`nnx.vmap`, `nnx.scan`),
and only one place can be that of the axis that counts, it is a layer for each index; where several can, it is none. Imports
JAX and Flax.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import jax
import jax.numpy as jnp
from flax import nnx

from stateregistry import keys
from stateregistry.entry import Entry, Kind
from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.config import function_of
from stateregistry.layers.declared import Row
from stateregistry_flax import attention, contraction, recurrent, standard
from stateregistry_flax.declared import DECLARED, PART_OF_ANOTHER
from stateregistry_flax.dialect import NOT_TRAINED
from stateregistry_flax.dialect import SPELLED_NNX as SPELLED
from stateregistry_flax.functions import functions_of
from stateregistry_flax.graph import spelled
from stateregistry_flax.rows import Held, Sight, placed, sight
from stateregistry_flax.wrappers import Wrapper, feature_axes, wrapped

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Holder, Layer, Piece
    from stateregistry_flax.graph import Walk
    from stateregistry_flax.standard import Shapes

ACTIVATIONS: Final[recurrent.Names] = {
    jax.nn.sigmoid: "sigmoid", nnx.sigmoid: "sigmoid", jnp.tanh: "tanh", nnx.tanh: "tanh", jax.nn.tanh: "tanh",
    jax.nn.relu: "relu", nnx.relu: "relu",
}  # fmt: skip


def _kernel(module: Any) -> Shapes:
    return {"kernel": tuple(module.kernel_shape), "bias": (int(module.out_features),)}


def _vectors(module: Any) -> Shapes:
    return dict.fromkeys(("scale", "bias", "mean", "var"), (int(module.num_features),))


def _general(module: Any) -> Shapes:
    return {"kernel": (*module.in_features, *module.out_features), "bias": tuple(module.out_features)}


def _einsum(module: Any) -> Shapes:
    bias = () if module.bias_shape is None else module.bias_shape
    return {"kernel": tuple(module.kernel_shape), "bias": tuple(bias)}


_SHAPES: Final = {
    "Linear": lambda m: {"kernel": (int(m.in_features), int(m.out_features)), "bias": (int(m.out_features),)},
    "Conv": _kernel,
    "ConvTranspose": _kernel,
    "BatchNorm": _vectors,
    "LayerNorm": _vectors,
    "RMSNorm": _vectors,
    "InstanceNorm": _vectors,
    "GroupNorm": lambda m: dict.fromkeys(("scale", "bias"), (int(m.num_groups) * int(m.group_size),)),
    "Embed": lambda m: {"embedding": (int(m.num_embeddings), int(m.features))},
    "PReLU": lambda _: {"negative_slope": ()},
}


def _cell(build: Any, pieces: tuple[Piece, ...]) -> Row:
    return Row(build, shapes=recurrent.shapes(pieces))


_SIMPLE: Final = SPELLED.simple("dense_i", "dense_h")

#: Every type of NNX that is a standard layer.
ROWS: Final[Mapping[type, Row]] = {
    **standard.table(SPELLED, nnx, nnx.Linear, "(*features)", lambda module: int(module.num_groups), _SHAPES),
    nnx.LinearGeneral: Row(
        standard.used(contraction.general(SPELLED, lambda m: m.out_features, lambda m: m.batch_axis)),
        shapes=_general,
    ),
    nnx.Einsum: Row(contraction.einsum(SPELLED), shapes=_einsum),
    nnx.MultiHeadAttention: Row(
        standard.used(attention.attention(SPELLED, nnx.dot_product_attention, lambda module: int(module.head_dim))),
        shapes=attention.shapes,
    ),
    nnx.LSTMCell: _cell(recurrent.gated("lstm", SPELLED.lstm("{}_"), ACTIVATIONS), SPELLED.lstm("{}_")),
    nnx.OptimizedLSTMCell: _cell(recurrent.gated("lstm", SPELLED.fused_lstm, ACTIVATIONS), SPELLED.fused_lstm),
    nnx.GRUCell: _cell(recurrent.fused_gru(SPELLED, ACTIVATIONS), SPELLED.fused_gru),
    nnx.SimpleCell: _cell(recurrent.simple(_SIMPLE, ACTIVATIONS), _SIMPLE),
}

#: Types of NNX that are never a layer, with the reason.
NO_LAYERS: Final[Mapping[type, str]] = {nnx.WeightNorm: PART_OF_ANOTHER, nnx.SpectralNorm: PART_OF_ANOTHER}


def layers_of(walk: Walk, entries: Mapping[str, Entry]) -> tuple[Layer, ...]:
    """The layers of a module in order of declaration. `entries` has the keys of aliases too.

    Raises:
        AdapterError: a registered declaration fails, or returns what is no layer. AxesError: an array has other axes than
            a registered declaration says.
    """
    modules = [(module, path) for module, paths in walk.modules.values() for path in sorted(paths)]
    backwards = _directions(module for module, _ in modules)
    wrappers = [_wrapper(module, path, entries) for module, path in modules if isinstance(module, _WRAPPERS)]
    sights = []
    for module, path in modules:
        found = sight(module, ROWS, path)
        if found is None:
            continue
        row, seen = found
        seen = replace(seen, held=_held(seen, row, module, entries))
        if id(module) in backwards:
            reverse, keep_order = backwards[id(module)]
            directed = (recurrent.directed(one, reverse=reverse, keep_order=keep_order) for one in seen.layers)
            seen = replace(seen, layers=tuple(directed))
        around = [one for one in wrappers if path == one.inner or path.startswith(f"{one.inner}/")]
        if len(around) == 1:
            inside = wrapped(seen, around[0])
            sights += [] if inside is None else [inside]
        elif not around:
            sights.append(seen)
    return placed(sights, entries)


def _directions(modules: Iterable[Any]) -> dict[int, tuple[bool, bool]]:
    """For every cell that an `RNN` runs, by identity: whether it runs it backwards, and puts outputs back in place."""
    found: dict[int, tuple[bool, bool]] = {}
    both: dict[int, tuple[bool, bool]] = {}
    for module in modules:
        if isinstance(module, nnx.RNN):
            found.setdefault(id(module.cell), (bool(module.reverse), bool(module.keep_order)))
        elif isinstance(module, nnx.Bidirectional):
            runs = ((module.forward_rnn, False), (module.backward_rnn, True))
            both |= {id(rnn.cell): (reverse, True) for rnn, reverse in runs if isinstance(rnn, nnx.RNN)}
    return found | both


def holders_of(walk: Walk) -> dict[str, Holder]:
    """The module of every place, by every key of it."""
    types = {path: type(module) for module, paths in walk.modules.values() for path in paths}
    found: dict[str, Holder] = {}
    for place in walk.places:
        for key in place.sites:
            path = key.rpartition("/")[0]
            while path and path not in types:  # it may be in a list or dict of the module
                path = path.rpartition("/")[0]
            if path in types:
                found[key] = DECLARED.holder(types[path], path, ROWS, NO_LAYERS)
    return found


def functions_at(walk: Walk) -> dict[str, str]:
    """The functions among the attributes of modules that are no layers, and the norms that hold nothing, by path."""
    found: dict[str, str] = {}
    holding = {key.rpartition("/")[0] for place in walk.places for key in place.sites}
    for module, paths in walk.modules.values():
        path = min(paths)
        if DECLARED.row_of(type(module), ROWS) is None:  # what a layer has is its config
            found |= dict(functions_of(path, vars(module).items(), "/"))
        elif path not in holding and (seen := sight(module, ROWS, path)) is not None and len(seen[1].layers) == 1:
            word = function_of(seen[1].layers[0])
            found |= {path: word} if word else {}
    return found


# -------------------------------------------------------------------- what a module holds


def _held(seen: Sight, row: Row, module: Any, entries: Mapping[str, Entry]) -> dict[str, Held]:
    """The arrays of a module, with the axis that counts modules where there is one."""
    prefix = f"{seen.path}/" if seen.path else ""
    pieces = {piece.name: piece for made in seen.layers for piece in made.pieces}
    stored = {name: entries[prefix + name].shape for name in pieces if prefix + name in entries}
    if row.shapes is None:
        return {name: Held(_written_out(seen, pieces[name], shape)) for name, shape in stored.items()}
    own = {name: shape for name, shape in row.shapes(module).items() if name in stored}
    if own == stored:
        return {name: Held(shape) for name, shape in own.items()}
    at = _counting(own, stored)
    if at is None:
        _refuse_contradiction(seen, own, stored)
    return {name: Held(shape, None if at is None else ((at, stored[name][at]),)) for name, shape in own.items()}


def _written_out(seen: Sight, piece: Piece, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array of a registered type, whose declaration alone says how many axes it has.

    Raises:
        AxesError: it does not: a stacked array would pass for one with more axes.
    """
    if any(atom.many for group in axes.parse(piece.axes) for atom in group.atoms):
        where = f"{seen.path or '(the model)'} ({seen.native.__module__}.{seen.native.__qualname__})"
        message = f"{where}: nothing says how many axes {piece.axes!r} of {piece.name} stands for in an NNX module"
        hint = "write every axis out, spatial.0 spatial.1, by what the module says of itself"
        raise AxesError(message, keys=(seen.path,), expected=piece.axes, found=shape, hint=hint)
    return shape


def _refuse_contradiction(seen: Sight, own: Shapes, stored: Shapes) -> None:
    """Refuse an array that has as many axes as the config of its module says, and other sizes."""
    for name, shape in own.items():
        if len(stored[name]) == len(shape) and stored[name] != shape:
            where = f"{seen.path or '(the model)'} ({seen.native.__module__}.{seen.native.__qualname__})"
            config = ", ".join(f"{key}={value!r}" for made in seen.layers for key, value in made.config.items())
            message = (
                f"{where}: the config contradicts the state: {name} has the shape {stored[name]}, and the module says"
                f" {shape}{f' with {config}' if config else ''}"
            )
            hint = "one of the two was changed after the module was made: make it anew with the config that its arrays have"
            raise AxesError(message, keys=(seen.path,), expected=shape, found=stored[name], hint=hint)


def _counting(own: Shapes, stored: Shapes) -> int | None:
    """The one place where an axis that counts modules can be, in all arrays alike; `None` for none or several."""
    ranks = {len(stored[name]) - len(shape) for name, shape in own.items()}
    if ranks != {1}:
        return None
    places = [
        at
        for at in range(min(map(len, stored.values())))
        if all(stored[name][:at] + stored[name][at + 1 :] == shape for name, shape in own.items())
        and len({shape[at] for shape in stored.values()}) == 1
    ]
    return places[0] if len(places) == 1 else None


# -------------------------------------------------------------------- wrappers

_WRAPPERS: Final = (nnx.WeightNorm, nnx.SpectralNorm)


def _wrapper(module: Any, path: str, entries: Mapping[str, Entry]) -> Wrapper:
    """What a wrapper holds: in a dict whose names are the paths below the wrapped module.

    Flax 0.12 holds the magnitudes of a `WeightNorm` as bare arrays, which are buffers; whatever else they are, they are
    taken as.
    """
    prefix = f"{path}/" if path else ""
    held = {key.removeprefix(prefix): Held(entry.shape) for key, entry in entries.items() if key.startswith(prefix)}
    inner = f"{prefix}layer_instance"
    paths = {spelled(names): names for names, _ in nnx.to_flat_state(nnx.state(module.layer_instance, nnx.Param))}

    def label(name: str) -> tuple[Kind, str]:
        entry = entries.get(prefix + name)
        return (Kind.BUFFER, SPELLED.buffer_tag) if entry is None else (entry.kind, entry.tag)

    def names_of(key: str) -> tuple[Any, ...]:
        names = keys.split(key)
        return tuple(paths.get(spelled(names), names))

    if isinstance(module, nnx.WeightNorm):
        params = dict(nnx.to_flat_state(nnx.state(module.layer_instance, nnx.Param)))

        def normed(key: str, _: int) -> bool:
            names = names_of(key)
            return names in params and bool(module.variable_filter(names, params[names]))

        return Wrapper(
            path, inner, lambda key, _: f"scales/{spelled(names_of(key))}", normed, held,
            lambda rank: feature_axes(module.feature_axes, rank), bool(module.use_scale), label,
            {"weight_norm_eps": float(module.epsilon)}, NOT_TRAINED,
        )  # fmt: skip
    config = {"spectral_norm_eps": float(module.epsilon), "power_iterations": int(module.n_steps)}
    return Wrapper(
        path, inner, lambda key, ending: f"batch_stats/{spelled((*names_of(key), ending))}",
        lambda _, rank: rank > 1 and module.n_steps > 0, held, None, use_scale=False,
        label=label, config=config,
    )  # fmt: skip
