"""Bare: layers that names and ranks tell only together with what stands around them, on a side without types.

A tree of `nn.scan` holds every array with one more axis in front; the projections of an attention have an axis for the heads,
or lie in thirds of one array; torch keeps several recurrent layers in one module. What does not fit exactly is left as it was.
Imports the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, final

from stateregistry.layers.infer import candidates, infer_layers
from stateregistry.layers.vocabulary import Dialect, Layer, Piece

if TYPE_CHECKING:
    from stateregistry.entry import Entry

#: Leaves that are vectors in every layer.
_VECTORS: Final = frozenset({"scale", "mean", "var"})
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


def read(entries: Mapping[str, Entry], layers: Sequence[Layer], dialect: Dialect) -> Read:
    """The layers of a side of which every layer was inferred; any other side keeps its own."""
    made = Read(list(layers))
    if not all(layer.inferred for layer in layers):
        return made
    stacks = _stacks(entries)
    for prefix, length in stacks.items():
        _unstack(prefix, length, entries, dialect, made)
    loose = {key: entry for key, entry in entries.items() if not any(_below(key, prefix) for prefix in stacks)}
    _replace(made, _heads(loose, dialect, made.layers))
    _replace(made, _recurrent(loose, dialect))
    _replace(made, _thirds(loose, dialect))
    _replace(made, _weight_normed(loose))
    _turn_transposed(loose, dialect, made)
    return made


def _below(key: str, prefix: str) -> bool:
    return key.startswith(f"{prefix}/")


def _replace(made: Read, new: Iterable[Layer]) -> None:
    """Put layers in the place of those that have arrays of theirs."""
    found = list(new)
    keys = {layer.key(piece) for layer in found for piece in layer.pieces}
    made.layers = [layer for layer in made.layers if keys.isdisjoint(layer.key(piece) for piece in layer.pieces)]
    made.layers += found
    made.readings.update({layer.path: {layer.kind: layer} for layer in found})


# -------------------------------------------------------------------- stacked layers


def _stacks(entries: Mapping[str, Entry]) -> dict[str, int]:
    """The outermost containers in which every array has one more axis than it should, all of one length in front.

    Vectors tell that, and linears whose bias has an axis that is not that of heads.
    """
    lengths: dict[str, set[int]] = {}
    ranks: dict[str, set[int]] = {}
    leaves: dict[str, set[str]] = {}
    for key, entry in entries.items():
        *steps, leaf = key.split("/")
        for depth in range(1, len(steps) + 1):
            prefix = "/".join(steps[:depth])
            lengths.setdefault(prefix, set()).add(entry.shape[0] if entry.shape else 0)
            leaves.setdefault(prefix, set()).add(key)
            if leaf in _VECTORS or (leaf == "bias" and _stacked_linear(key, entry, entries)):
                ranks.setdefault(prefix, set()).add(len(entry.shape))
            elif leaf == "bias" and len(entry.shape) == 1:
                ranks.setdefault(prefix, set()).add(1)
    found: dict[str, int] = {}
    for prefix, sizes in lengths.items():
        if len(sizes) == 1 and ranks.get(prefix) == {2} and not any(_below(prefix, outer) for outer in found):
            length = next(iter(sizes))
            if length > 1 and len(leaves[prefix]) > 1:
                found[prefix] = length
    return {prefix: size for prefix, size in found.items() if not any(_below(prefix, outer) for outer in found)}


def _stacked_linear(key: str, bias: Entry, entries: Mapping[str, Entry]) -> bool:
    """Whether a kernel and its bias have one more axis each, in front: of heads it would be the last of the kernel."""
    kernel = entries.get(f"{key.removesuffix('bias')}kernel")
    if kernel is None or len(kernel.shape) != 3 or len(bias.shape) != 2 or kernel.shape[1:] == bias.shape:
        return False
    return (kernel.shape[0], kernel.shape[2]) == bias.shape


def _unstack(prefix: str, length: int, entries: Mapping[str, Entry], dialect: Dialect, made: Read) -> None:
    """The layers of one stack, one for each index."""
    inner = {key: replace(e, shape=e.shape[1:]) for key, e in entries.items() if _below(key, prefix)}
    inside = Read(list(infer_layers(inner, dialect.name)))
    _replace(inside, _heads(inner, dialect, inside.layers))
    keys = {layer.key(piece) for layer in inside.layers for piece in layer.pieces}
    made.layers = [layer for layer in made.layers if keys.isdisjoint(layer.key(piece) for piece in layer.pieces)]
    parts = "|".join(map(str, range(length)))
    for layer in inside.layers:
        ways = inside.readings.get(layer.path) or candidates(layer, dialect, inner) or {layer.kind: layer}
        for index in range(length):
            each = {kind: _one_of(way, parts, index) for kind, way in ways.items()}
            first = each[layer.kind] if layer.kind in each else next(iter(each.values()))
            made.layers.append(first)
            made.readings[first.path] = each


def _one_of(layer: Layer, parts: str, index: int) -> Layer:
    pieces = tuple(replace(piece, axes=f"({parts}:) {piece.axes}", part=str(index)) for piece in layer.pieces)
    config = {**layer.config, "stacked": True}
    return replace(layer, path=f"{layer.path}/{index}", base=layer.path, pieces=pieces, config=config)


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


def _turn_transposed(entries: Mapping[str, Entry], dialect: Dialect, made: Read) -> None:
    """Kernels of Flax whose bias is as long as their last axis but one: those of the convolution that they transpose."""
    row = dialect.declaration("conv_transpose")
    kernel = row.piece("kernel") if row is not None else None
    if kernel is None or kernel.axes != "-*spatial in out/groups":
        return
    for layer in made.layers:
        shapes = {
            piece.name: entry.shape for piece in layer.pieces if (entry := entries.get(layer.key(piece))) is not None
        }
        shape, bias = shapes.get("kernel", ()), shapes.get("bias", ())
        if set(shapes) != {"kernel", "bias"} or len(shape) < 3 or len(bias) != 1 or layer.path in made.readings:
            continue
        if shape[-2] == bias[0] != shape[-1]:
            pieces = (replace(kernel, axes="*spatial out/groups in"), Piece("bias", "bias", "out"))
            kind = "conv_transpose"
            turned = Layer(kind, layer.path, pieces, inferred=True, candidates=(kind,))
            made.layers[made.layers.index(layer)] = turned
            made.readings[layer.path] = {kind: turned}


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
