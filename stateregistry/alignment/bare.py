"""Bare: layers that names and ranks tell only together with what stands around them, on a side without types.

A tree of `nn.scan` holds every array with one more axis in front; the projections of an attention have an axis for the heads,
or lie in thirds of one array; torch keeps several recurrent layers in one module. What does not fit exactly is left as it was.
Imports the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment.stacked import Stack, below, in_front
from stateregistry.layers.infer import candidates, infer_layers
from stateregistry.layers.vocabulary import Dialect, Layer, Piece

if TYPE_CHECKING:
    from stateregistry.entry import Entry

_GATES: Final = {4: "lstm", 3: "gru", 1: "rnn"}
_MATRIX: Final = "weight_ih_l"
#: What the direction and the magnitude of a kernel under a weight norm are called, by `torch.nn.utils` in either way.
_NORMED: Final = (
    ("weight_v", "weight_g"),
    ("parametrizations/weight/original1", "parametrizations/weight/original0"),
)


@final
@dataclass(slots=True)
class Read:
    """The layers of a side, and for those made here every kind that they can be, by path."""

    layers: list[Layer]
    readings: dict[str, dict[str, Layer]] = field(default_factory=dict)
    #: What the layers of a path rest on, where it is a habit.
    doubts: dict[str, str] = field(default_factory=dict)


def read(
    entries: Mapping[str, Entry],
    layers: Sequence[Layer],
    dialect: Dialect,
    told: Mapping[str, Stack] | None = None,
    turned: Collection[str] = (),
) -> Read:
    """The layers of a side of which every layer was inferred; any other side keeps its own.

    Args:
        entries: of the side. layers: that were inferred from them. dialect: in which they are spelled.
        told: containers that are read as stacks, whatever they show by themselves.
        turned: paths of kernels without a bias that are those of the convolutions that they transpose.
    """
    made = Read(list(layers))
    if not all(layer.inferred for layer in layers):
        return made
    known = told or {}
    own = {
        prefix: stack
        for prefix, stack in in_front(entries).items()
        if not any(prefix == one or below(prefix, one) or below(one, prefix) for one in known)
    }
    stacks = {**known, **own}
    for prefix, stack in stacks.items():
        _unstack(prefix, stack, entries, dialect, made)
    loose = {key: entry for key, entry in entries.items() if not any(below(key, prefix) for prefix in stacks)}
    _replace(made, _heads(loose, dialect, made.layers))
    _see_named_heads(loose, dialect, made)
    _replace(made, _recurrent(loose, dialect))
    _replace(made, _thirds(loose, dialect))
    _replace(made, _weight_normed(loose))
    _turn_transposed(loose, dialect, made, turned)
    return made


def _replace(made: Read, new: Iterable[Layer]) -> None:
    """Put layers in the place of those that have arrays of theirs."""
    found = list(new)
    keys = {layer.key(piece) for layer in found for piece in layer.pieces}
    made.layers = [layer for layer in made.layers if keys.isdisjoint(layer.key(piece) for piece in layer.pieces)]
    made.layers += found
    made.readings.update({layer.path: {layer.kind: layer} for layer in found})


# -------------------------------------------------------------------- stacked layers


def _unstack(prefix: str, stack: Stack, entries: Mapping[str, Entry], dialect: Dialect, made: Read) -> None:
    """The layers of one stack, one for each index."""
    inner = {key: replace(e, shape=stack.inner(e.shape)) for key, e in entries.items() if below(key, prefix)}
    inside = Read(list(infer_layers(inner, dialect.name)))
    _replace(inside, _heads(inner, dialect, inside.layers))
    _see_named_heads(inner, dialect, inside)
    keys = {layer.key(piece) for layer in inside.layers for piece in layer.pieces}
    made.layers = [layer for layer in made.layers if keys.isdisjoint(layer.key(piece) for piece in layer.pieces)]
    for layer in inside.layers:
        ways = inside.readings.get(layer.path) or candidates(layer, dialect, inner) or {layer.kind: layer}
        ranks = {piece.name: len(inner[layer.key(piece)].shape) for piece in layer.pieces}
        for index in range(stack.length):
            each = {kind: stack.one_of(way, index, ranks) for kind, way in ways.items()}
            first = each[layer.kind] if layer.kind in each else next(iter(each.values()))
            made.layers.append(first)
            made.readings[first.path] = each
            if stack.doubt:
                made.doubts[first.path] = stack.doubt


# -------------------------------------------------------------------- projections with heads


def _heads(entries: Mapping[str, Entry], dialect: Dialect, layers: Sequence[Layer]) -> Iterable[Layer]:
    """Linears into and out of heads, as Flax holds them: their sizes are told by the biases beside them."""
    whole = {layer.key(piece) for layer in layers if layer.kind == "attention" for piece in layer.pieces}
    row = dialect.declaration("linear")
    if row is None or row.pieces[0].name != "kernel" or row.pieces[0].axes != "in out":
        return
    sizes: dict[str, set[tuple[int, ...]]] = {}
    for key, entry in entries.items():
        path, _, leaf = key.rpartition("/")
        kernel = entries.get(f"{path}/kernel")
        if leaf == "bias" and len(entry.shape) == 2 and kernel is not None and kernel.shape[1:] == entry.shape:
            sizes.setdefault(path.rpartition("/")[0], set()).add(entry.shape)
    for key, entry in entries.items():
        path, _, leaf = key.rpartition("/")
        heads = sizes.get(path.rpartition("/")[0], set())
        if leaf != "kernel" or len(entry.shape) != 3 or not heads or key in whole:
            continue
        bias = entries.get(f"{path}/bias")
        into = entry.shape[1:] in heads and (bias is None or bias.shape == entry.shape[1:])
        out = entry.shape[:2] in heads and (bias is None or bias.shape == entry.shape[2:])
        if into is not out:
            axes = ("in out.0 out.1", "out.0 out.1") if into else ("in.0 in.1 out", "out")
            pieces = [replace(row.pieces[0], axes=axes[0])]
            pieces += [replace(row.pieces[1], axes=axes[1])] if bias is not None else []
            yield Layer("linear", path, tuple(pieces), inferred=True, candidates=("linear",))


def _see_named_heads(entries: Mapping[str, Entry], dialect: Dialect, made: Read) -> None:
    """Projections without a bias: names say that they may be some, where all four are there and share their heads.

    What else they can be by their names stays, as a convolution is held alike: the other side tells.
    """
    row = dialect.declaration("linear")
    if row is None or row.pieces[0].name != "kernel" or row.pieces[0].axes != "in out":
        return
    known = {layer.path: number for number, layer in enumerate(made.layers)}
    for key in entries:
        home, found, _ = key.rpartition("query/kernel")
        paths = {name: f"{home}{name}" for name in ("query", "key", "value", "out")}
        held = {name: entries.get(f"{path}/kernel") for name, path in paths.items()}
        shapes = {name: entry.shape for name, entry in held.items() if entry is not None and len(entry.shape) == 3}
        if not found or (home and not home.endswith("/")) or len(shapes) < len(paths) or paths.keys() - shapes.keys():
            continue
        (query, head), theirs = shapes["query"][1:], shapes["value"]
        if shapes["key"] != (*theirs[:2], head) or query % theirs[1] or shapes["out"][:2] != (query, theirs[2]):
            continue
        for name, path in paths.items():
            layer = made.layers[known[path]] if path in known else None
            if layer is None or len(layer.pieces) != 1:
                continue
            axes = "in.0 in.1 out" if name == "out" else "in out.0 out.1"
            linear = Layer("linear", path, (replace(row.pieces[0], axes=axes),), inferred=True, candidates=("linear",))
            made.readings[path] = {**candidates(layer, dialect, entries), "linear": linear}


def _thirds(entries: Mapping[str, Entry], dialect: Dialect) -> Iterable[Layer]:
    """Query, key and value of a torch attention, which is known to hold them in this order. Its heads no name says."""
    row = dialect.declaration("linear")
    if row is None or row.pieces[0].name != "weight":
        return
    for key, entry in entries.items():
        path, _, leaf = key.rpartition("/")
        if leaf != "in_proj_weight" or len(entry.shape) != 2 or entry.shape[0] % 3:
            continue
        prefix = f"{path}/" if path else ""
        bias = entries.get(f"{prefix}in_proj_bias")
        for name in ("query", "key", "value"):
            parts = "(query|key|value: out)"
            pieces = [Piece("kernel", "in_proj_weight", f"{parts} in", part=name)]
            pieces += [Piece("bias", "in_proj_bias", parts, part=name)] if bias is not None else []
            yield Layer("linear", f"{prefix}{name}", tuple(pieces), inferred=True, candidates=("linear",), base=path)


def _weight_normed(entries: Mapping[str, Entry]) -> Iterable[Layer]:
    """Convolutions under a weight norm, as torch stores them; and so do authors of a framework that has no such."""
    for key, entry in entries.items():
        ends = next((ends for ends in _NORMED if key.endswith(f"/{ends[0]}")), None)
        if ends is None or len(entry.shape) < 3 or entry.shape[0] == entry.shape[1]:
            continue
        path = key.removesuffix(f"/{ends[0]}")
        scale, bias = entries.get(f"{path}/{ends[1]}"), entries.get(f"{path}/bias")
        if scale is None or len(scale.shape) != len(entry.shape) or bias is None or bias.shape != entry.shape[:1]:
            continue
        names = ("out", "in/groups", *(f"spatial.{number}" for number in range(len(entry.shape) - 2)))
        kept = [number for number, size in enumerate(scale.shape) if size != 1]
        if len(kept) != 1 or scale.shape[kept[0]] != entry.shape[kept[0]]:
            continue
        magnitude = " ".join(name if number in kept else "1" for number, name in enumerate(names))
        pieces = (
            Piece("kernel_direction", ends[0], " ".join(names)),
            Piece("kernel_magnitude", ends[1], magnitude),
            Piece("bias", "bias", "out"),
        )
        config = {"weight_norm_dim": names[kept[0]]}
        yield Layer("conv", path, pieces, inferred=True, candidates=("conv",), config=config)


# -------------------------------------------------------------------- transposed convolutions


def _turn_transposed(entries: Mapping[str, Entry], dialect: Dialect, made: Read, without_bias: Collection[str]) -> None:
    """Kernels of Flax whose bias is as long as their last axis but one: those of the convolution that they transpose.

    Without a bias only what the other side asks for is one: `without_bias` are the paths of these.
    """
    row = dialect.declaration("conv_transpose")
    kernel = row.piece("kernel") if row is not None else None
    if kernel is None or kernel.axes != "-*spatial in out/groups":
        return
    known = {layer.path: number for number, layer in enumerate(made.layers)}
    for key, entry in entries.items():
        path, _, leaf = key.rpartition("/")
        bias = entries.get(f"{path}/bias" if path else "bias")
        if leaf != "kernel" or len(entry.shape) < 3 or path in made.readings or entry.shape[-2] == entry.shape[-1]:
            continue
        if path not in without_bias if bias is None else bias.shape != entry.shape[-2:-1]:
            continue
        pieces = [replace(kernel, axes="*spatial out/groups in")]
        pieces += [Piece("bias", "bias", "out")] if bias is not None else []
        kind = "conv_transpose"
        turned = Layer(kind, path, tuple(pieces), inferred=True, candidates=(kind,))
        if path in known:
            made.layers[known[path]] = turned
        else:
            made.layers.append(turned)
        made.readings[path] = {kind: turned}


# -------------------------------------------------------------------- recurrent stacks


def _recurrent(entries: Mapping[str, Entry], dialect: Dialect) -> Iterable[Layer]:
    """Several recurrent layers in one torch module: one for each layer and direction."""
    for key, entry in entries.items():
        path, _, leaf = key.rpartition("/")
        if not leaf.startswith(_MATRIX) or len(entry.shape) != 2:
            continue
        prefix, ending = f"{path}/" if path else "", leaf.removeprefix("weight_ih")
        state, projected = entries.get(f"{prefix}weight_hh{ending}"), entries.get(f"{prefix}weight_hr{ending}")
        several = sum(name.startswith(f"{prefix}{_MATRIX}") for name in entries) > 1
        if state is None or not several:
            continue
        hidden = (projected or state).shape[1]
        kind = _GATES.get(state.shape[0] // hidden) if state.shape[0] % hidden == 0 else None
        row = next(
            (
                one
                for one in dialect.declarations
                if one.kind == kind and any(piece.name == "weight_ih_l0" for piece in one.pieces)
            ),
            None,
        )
        if row is not None:
            named = (replace(piece, name=piece.name.replace("_l0", ending)) for piece in row.pieces)
            pieces: tuple[Piece, ...] = tuple(piece for piece in named if f"{prefix}{piece.name}" in entries)
            place = f"{prefix}{ending.removeprefix('_')}"
            config = {"reverse": ending.endswith("_reverse")}
            yield Layer(row.kind, place, pieces, inferred=True, candidates=(row.kind,), base=path, config=config)
