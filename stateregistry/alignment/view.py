"""View: the units of one side, from its layers, and from its arrays where no layer is known.

Arrays outside any layer that are named like those of a layer (`weight` and `bias` of a class of the author's) are read as
every layer that they could be; all others stand alone. Layers stacked in one array get their index where the stack is.
Imports the layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment.colours import Colour, array_colour, colour_of
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.orientation import Orientation
from stateregistry.alignment.spelling import Token, Tokens, tokens
from stateregistry.entry import Kind
from stateregistry.layers.vocabulary import Layer, Piece

if TYPE_CHECKING:
    from stateregistry.entry import Entry

#: A lone `gamma` scales what its module gives: only these names are those of a layer without another array.
_OF_LAYERS: Final = frozenset({"weight", "kernel", "scale", "embedding"})
#: Runs of arrays of one module, by the number of modules, above which the order is nobody's.
_SCATTERED: Final = 1.25

#: What leaves are called: by role.
NAMES: Final = {
    "weight": "W", "kernel": "W", "gamma": "W", "scale": "W", "w": "W", "g": "W", "embedding": "W", "gain": "W",
    "bias": "B", "beta": "B", "b": "B", "offset": "B",
    "running_mean": "M", "moving_mean": "M", "mean": "M",
    "running_var": "V", "moving_variance": "V", "var": "V", "variance": "V",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Given:
    """What a side is made of.

    Attributes:
        entries, aliases, layers: of the registry; entries in native order.
        readings: every layer that one can be, by kind.
        path: what a path is called on the other side, by the rules.
        skip: canonical keys that take no part.
        called: typed layers come in the order of calls. channels: where images have them.
        out_first: matrices have their outputs first in this framework, as far as it has a habit; `None` for unknown.
    """

    entries: Mapping[str, Entry]
    aliases: Mapping[str, str]
    layers: Sequence[Layer]
    readings: Callable[[Layer], Mapping[str, Layer]]
    path: Callable[[str], str] = str
    skip: Collection[str] = ()
    called: bool = False
    channels: str = ""
    out_first: bool | None = None


def view(given: Given) -> View:
    """The units of a side, in native order."""
    # Buffers may be listed apart (Linen's collections): what is trained has its place among what is trained.
    listed = sorted(given.entries, key=lambda key: given.entries[key].kind is not Kind.PARAMETER)
    places = {key: number for number, key in enumerate(listed)}
    orientation = Orientation(given.entries, given.layers, out_first=given.out_first)
    builder = _Builder(given, places, orientation)
    builder.of_layers()
    builder.of_arrays()
    units = sorted(builder.units, key=lambda unit: (unit.place, unit.spare, unit.path))
    called = any(unit.call is not None for unit in units)
    ordered, scattered = _order(given.entries)
    return View(units, given.entries, given.aliases, ordered, called, given.channels, scattered)


def _order(entries: Mapping[str, Entry]) -> tuple[bool, bool]:
    """Whether the native order says something, and whether it is nobody's.

    Writers of files sort by name, dtype by dtype or kind by kind: that says nothing. An order that scatters the arrays of one
    module is none in which anybody wrote them.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for key, entry in entries.items():
        groups.setdefault((entry.dtype, entry.kind.value), []).append(key)
    if len(entries) < 3 or all(names == sorted(names) for names in groups.values()):
        return False, False
    runs = held = 0
    for names in groups.values():
        torn, count = _runs(key.rpartition("/")[0] for key in names)
        runs, held = runs + torn, held + count
    scattered = runs > _SCATTERED * held or _is_torn(groups.values())
    return not scattered, scattered


def _is_torn(groups: Iterable[Sequence[str]]) -> bool:
    """Whether containers of modules are torn apart: `layers/1/a`, `layers/2/a`, `layers/1/b`, of one array each.

    Lists are none: `mixers/0`, `norms/0`, `mixers/1` is how what stands side by side is called.
    """
    runs = held = 0
    for names in groups:
        paths = [key.split("/")[:-1] for key in names]
        for depth in range(1, max(map(len, paths))):
            torn, count = _runs(
                "/".join(path[:depth]) for path in paths if len(path) > depth and not path[depth].isdigit()
            )
            runs, held = runs + torn, held + count
    return runs - held > 1 and runs > _SCATTERED * held


def _runs(parents: Iterable[str]) -> tuple[int, int]:
    """In how many runs containers come, and how many they are."""
    found = [parent for parent, _ in itertools.groupby(parents)]
    return len(found), len(set(found))


@final
class _Builder:
    def __init__(self, given: Given, places: Mapping[str, int], orientation: Orientation) -> None:
        self.given, self.places, self.orientation = given, places, orientation
        self.units: list[Unit] = []
        self.claimed: set[str] = set()

    def _canonical(self, key: str) -> str | None:
        return key if key in self.given.entries else self.given.aliases.get(key)

    def of_layers(self) -> None:
        """One unit for each layer; what is inferred inside of an inferred layer is a part of that."""
        found = [layer for layer in outermost(self.given.layers) if self._lives(layer)]
        stacks = _stack_prefixes(found)
        for number, layer in enumerate(found):
            ways = {kind: self.orientation.turned(way) for kind, way in self.given.readings(layer).items()}
            places = [key for piece in layer.pieces if (key := self._canonical(layer.key(piece))) is not None]
            options: dict[Colour, Layer] = {}
            for way in ways.values():
                options.setdefault(colour_of(way, self.given.entries, self.given.aliases), way)
            parts = {(key, piece.part) for piece in layer.pieces for key in [self._canonical(layer.key(piece))]}
            marks = {f"{key}[{part}]" if part else str(key) for key, part in parts}
            spare = bool(marks & self.claimed)
            fresh = () if spare else tuple(marks)
            self.claimed.update(fresh)
            self.units.append(
                Unit(
                    layer.path, self._tokens(layer, stacks), tuple(options), options, tuple(dict.fromkeys(places)),
                    typed=not layer.inferred, place=min(self.places[key] for key in places),
                    call=number if self.given.called and not layer.inferred else None, spare=spare,
                )
            )  # fmt: skip

    def _lives(self, layer: Layer) -> bool:
        keys = [self._canonical(layer.key(piece)) for piece in layer.pieces]
        return bool(keys) and all(key is not None and key not in self.given.skip for key in keys)

    def _tokens(self, layer: Layer, stacks: Mapping[str, tuple[str, int]]) -> Tokens:
        home = stacks.get(layer.path)
        if home is None:
            return tokens(self.given.path(layer.path))
        prefix, count = home
        rest = layer.path.split("/")
        index, rest = rest[len(rest) - count :], rest[: len(rest) - count]
        depth = prefix.count("/") + 1
        inner = tokens(self.given.path("/".join(rest[:depth])))
        for number in index:
            inner = _numbered(inner, int(number))
        return (*inner, *tokens("/".join(rest[depth:])))

    def of_arrays(self) -> None:
        """Units of what no layer has: groups that are named like a layer, and arrays that stand alone."""
        inside = {
            key
            for unit in self.units
            if not unit.spare
            for key in unit.keys
        }  # fmt: skip
        groups: dict[str, dict[str, str]] = {}
        loose: list[str] = []
        for key, entry in self.given.entries.items():
            if key in inside or key in self.given.skip or not entry.persistent or entry.rng:
                continue
            parent, _, leaf = key.rpartition("/")
            role = NAMES.get(leaf.lower())
            if leaf == "num_batches_tracked":
                continue
            if role is None or role in groups.get(parent, {}):
                loose.append(key)
            else:
                groups.setdefault(parent, {})[role] = key
        for parent, roles in groups.items():
            alone = set(roles) == {"W"} and roles["W"].rpartition("/")[2].lower() not in _OF_LAYERS
            loose += roles.values() if alone else self._group(parent, roles)
        self._second_names(inside)
        for key in loose:
            self._array(key)

    def _second_names(self, inside: set[str]) -> None:
        """A second name of a tied array, in a module of nobody's type: it may be the one that the other side has."""
        layered = {layer.key(piece) for layer in self.given.layers for piece in layer.pieces}
        for alias, key in self.given.aliases.items():
            parent, _, leaf = alias.rpartition("/")
            if alias not in layered and key in inside and NAMES.get(leaf.lower()) == "W":
                self._group(parent, {"W": alias}, spare=True)

    def _group(self, parent: str, roles: dict[str, str], *, spare: bool = False) -> list[str]:
        """A unit for a group of arrays; the keys that are none of it."""
        places = {role: self._canonical(key) or key for role, key in roles.items()}
        shapes = {role: self.given.entries[key].shape for role, key in places.items()}
        options: dict[Colour, Layer] = {}
        for layer in self._ways(parent, roles, shapes):
            options.setdefault(colour_of(layer, self.given.entries, self.given.aliases), layer)
        if not options:
            return list(roles.values())
        keys = tuple(places.values())
        place = min(self.places[key] for key in keys)
        path = tokens(self.given.path(parent))
        colours = (array_colour(shapes["W"]), *options) if len(keys) == 1 else tuple(options)
        unit = Unit(parent, path, colours, options, keys, typed=False, place=place, spare=spare)
        self.units.append(unit)
        return []

    def _ways(self, parent: str, roles: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> list[Layer]:
        def made(kind: str, axes: dict[str, tuple[str, str]]) -> Layer:
            pieces = tuple(
                Piece(
                    role,
                    roles[name].rpartition("/")[2],
                    pattern,
                    self.given.entries[self._canonical(roles[name]) or ""].kind,
                )
                for name, (role, pattern) in axes.items()
                if name in roles
            )
            return Layer(kind, parent, pieces, inferred=True, candidates=(kind,))

        if "W" not in roles:
            return []
        rank, bias = len(shapes["W"]), shapes.get("B")
        vectors = {"W": ("scale", "features"), "B": ("bias", "features")}
        if rank == 1 and (bias is None or bias == shapes["W"]):
            if "M" in roles and "V" in roles:
                return [made("batch_norm", {**vectors, "M": ("mean", "features"), "V": ("var", "features")})]
            kinds = ("layer_norm", "group_norm", "instance_norm") if bias else ("rms_norm", "layer_norm", "group_norm")
            return [made(kind, vectors) for kind in kinds] if not {"M", "V"} & set(roles) else []
        if rank == 2 and set(roles) <= {"W", "B"}:
            linear = made("linear", {"W": ("kernel", self.orientation.default), "B": ("bias", "out")})
            turned = self.orientation.turned(linear)
            if bias is not None:
                return [turned] if bias[0] in shapes["W"] and len(bias) == 1 else []
            return [turned, made("embedding", {"W": ("embedding", "vocab features")})]
        return []

    def _array(self, key: str) -> None:
        shape = self.given.entries[key].shape
        colour = array_colour(shape)
        options = [colour]
        if len(colour) == 3:  # a table of positions is an embedding with other authors
            options.append(("embedding", colour[2], colour[1], False))
        path = tokens(self.given.path(key))
        self.units.append(Unit(key, path, tuple(options), {}, (key,), typed=False, place=self.places[key]))


def _numbered(path: Tokens, number: int) -> Tokens:
    if path and path[-1].number is None and path[-1].stem:
        return (*path[:-1], Token(path[-1].stem, number, path[-1].text, apart=True))
    return (*path, Token("", number))


def outermost(layers: Sequence[Layer]) -> list[Layer]:
    """The layers without those that were inferred from arrays of an inferred layer around them."""

    def home(layer: Layer) -> str:
        return layer.path if layer.base is None else layer.base

    deep = {
        layer.key(piece): home(layer)
        for layer in layers
        if layer.inferred
        for piece in layer.pieces
        if "/" in piece.name
    }
    return [
        layer
        for layer in layers
        if not layer.inferred or any(deep.get(layer.key(piece), home(layer)) == home(layer) for piece in layer.pieces)
    ]


def _stack_prefixes(layers: Sequence[Layer]) -> dict[str, tuple[str, int]]:
    """For every layer stacked in an array: the path below which all is stacked alike, and the number of its indices."""
    bases: dict[str, tuple[str, int]] = {}
    kinds: dict[str, set[int]] = {}
    for layer in layers:
        count = len(layer.pieces[0].part.split(".")) if layer.config.get("stacked") and layer.pieces[0].part else 0
        segments = layer.path.split("/") if layer.path else []
        base = segments[: len(segments) - count]
        for depth in range(1, len(base) + 1):
            kinds.setdefault("/".join(base[:depth]), set()).add(count)
        if count and base:
            bases[layer.path] = ("/".join(base), count)
    found = {}
    for path, (home, count) in bases.items():
        steps = home.split("/")
        prefixes = ("/".join(steps[:depth]) for depth in range(1, len(steps) + 1))
        found[path] = (next(prefix for prefix in prefixes if kinds[prefix] == {count}), count)
    return found
