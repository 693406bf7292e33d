"""Perturbations: a pair whose names, numbers or order are changed, or that lacks or repeats a layer.

Every perturbation is a function of a header and a random generator; it keeps what the framework fixes (the names of the
pieces of a layer) and changes what authors choose. Each entry keeps the value that is right for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from zoo_decidable import ALONE, AUTOMATIC, BACKWARDS, CONSISTENT, FLAT, SHUFFLED
from zoo_header import Header, below

import stateregistry as sr
from stateregistry.alignment.colours import colour_of

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


# -------------------------------------------------------------------- names


def _words(random: Random) -> Iterator[str]:
    """Words that mean nothing."""
    seen: set[str] = set()
    while True:
        word = "".join(random.choice("bdfgklmnprstvz") + random.choice("aeiou") for _ in range(3))
        if word not in seen:
            seen.add(word)
            yield word


def _parts(segment: str) -> tuple[str, str]:
    """Stem and number of a segment."""
    found = _NUMBERED.match(segment)
    return (found[1], found[2]) if found else (segment, "")


def _renamed(header: Header, random: Random, *, alone: bool = False, layers: bool = True) -> Header:
    words = _words(random)
    given: dict[tuple[str, str], str] = {}

    def new(path: str) -> str:
        made: list[str] = []
        segments = path.split("/") if path else []
        for depth, segment in enumerate(segments):
            stem, number = _parts(segment)
            if stem and (layers or depth < len(segments) - 1):
                bare = stem.rstrip("_")
                where = "/".join(segments[:depth]) if alone else ""
                if (where, bare) not in given:
                    given[where, bare] = next(words)
                stem = given[where, bare] + stem[len(bare) :]
            made.append(stem + number)
        return "/".join(made)

    for key in header.entries:
        new(header.owners[key])  # words are given out in native order, whatever order layers are asked in
    return header.moved(new)


def rename_stems(header: Header, random: Random) -> Header:
    return _renamed(header, random)


def rename_containers(header: Header, random: Random) -> Header:
    return _renamed(header, random, alone=True)


def rename_outer(header: Header, random: Random) -> Header:
    """What layers themselves are called stays: `query`, `fc1`."""
    return _renamed(header, random, layers=False)


def prefixed(header: Header, random: Random) -> Header:
    prefix = random.choice(("module", "model/net", "backbone", "_orig_mod"))
    return header.moved(lambda path: below(prefix, path))


def anonymous(header: Header, random: Random) -> Header:
    """One flat list of layers, in order."""
    return _numbered(header, list(header.groups()))


def anonymous_shuffled(header: Header, random: Random) -> Header:
    owners = list(header.groups())
    random.shuffle(owners)
    return shuffled(_numbered(header, owners), random)


def _numbered(header: Header, owners: list[str]) -> Header:
    stem = "n" if header.dialect == "torch" else "m"
    numbers = {owner: number for number, owner in enumerate(owners)}
    for owner in header.sequence:  # second names of tied places
        numbers.setdefault(owner, len(numbers))
    for owner in header.owners.values():
        numbers.setdefault(owner, len(numbers))
    return header.moved(lambda path: f"{stem}{numbers[path]}")


def renumbered(header: Header, random: Random) -> Header:
    """Numbers of siblings start elsewhere and have gaps, in the same order; what quotes a sibling's name quotes the new one.

    `conv1_norm` beside `conv1` that is now `conv4` is `conv4_norm`.
    """
    step, offset = random.randint(1, 3), random.randint(1, 4)
    siblings: dict[str, set[str]] = {}
    for owner in (*header.owners.values(), *header.sequence):
        segments = owner.split("/")
        for depth, segment in enumerate(segments):
            if _parts(segment)[0] and _parts(segment)[1]:
                siblings.setdefault("/".join(segments[:depth]), set()).add(segment)

    def named(segment: str, beside: Collection[str]) -> str:
        quoted = max((name for name in beside if segment.startswith(f"{name}_")), key=len, default="")
        stem, number = _parts(segment[len(quoted) :])
        return (named(quoted, beside) if quoted else "") + (f"{stem}{int(number) * step + offset}" if number else stem)

    def new(path: str) -> str:
        segments = path.split("/")
        return "/".join(
            named(segment, siblings.get("/".join(segments[:depth]), ())) for depth, segment in enumerate(segments)
        )

    return header.moved(new)


#: Classes of Linen by the kind of layer.
_CLASSES = {
    "linear": "Dense", "conv": "Conv", "conv_transpose": "ConvTranspose", "batch_norm": "BatchNorm", "embedding": "Embed",
    "layer_norm": "LayerNorm", "rms_norm": "RMSNorm", "group_norm": "GroupNorm", "lstm": "LSTMCell", "gru": "GRUCell",
    "attention": "MultiHeadDotProductAttention",
}  # fmt: skip


def automatic(header: Header, random: Random, *, backwards: bool = False, named: bool = False) -> Header:
    """Names as `nn.compact` gives them: the class, and how many of it the parent called before.

    With `named`, layers that are called by a word of their own keep it, as where authors give a name.
    """
    kinds = {(layer.path if layer.base is None else layer.base): layer.kind for layer in header.layers}
    children: dict[str, list[str]] = {}
    owned = set(header.groups())
    for owner in header.sequence:
        segments = owner.split("/")
        for depth in range(len(segments) if owner in owned else 0):
            parent, child = "/".join(segments[:depth]), "/".join(segments[: depth + 1])
            if child not in children.setdefault(parent, []):
                children[parent].append(child)
    new: dict[str, str] = {}
    for parent, inner in children.items():
        classes = {child: _class(child, kinds, parent) for child in inner if child in children or child in kinds}
        totals, seen = Counter(classes.values()), Counter[str]()
        for child, cls in classes.items():
            if named and child not in children and not _parts(child.rpartition("/")[2])[1]:
                new[child] = child.rpartition("/")[2]
                continue
            number = totals[cls] - 1 - seen[cls] if backwards and child not in children else seen[cls]
            new[child] = f"{cls}_{number}"
            seen[cls] += 1

    def path_of(path: str) -> str:
        segments = path.split("/") if path else []
        return "/".join(new.get("/".join(segments[: depth + 1]), segments[depth]) for depth in range(len(segments)))

    return header.moved(path_of)


def _class(path: str, kinds: Mapping[str, str], parent: str) -> str:
    """A layer's class by its kind; a container's by what it is called, or what the list it is in is called."""
    if path in kinds:
        return _CLASSES.get(kinds[path], "Module")
    stem, _ = _parts(path.rpartition("/")[2])
    stem = stem.strip("_") or _parts(parent.rpartition("/")[2])[0].strip("_") or "block"
    return "".join(word[:1].upper() + word[1:] for word in stem.split("_"))


def automatic_containers(header: Header, random: Random) -> Header:
    return automatic(header, random, named=True)


def automatic_backwards(header: Header, random: Random) -> Header:
    return automatic(header, random, backwards=True)


def automatic_containers_backwards(header: Header, random: Random) -> Header:
    return automatic(header, random, backwards=True, named=True)


# -------------------------------------------------------------------- order


def shuffled(header: Header, random: Random) -> Header:
    keys = list(header.entries)
    random.shuffle(keys)
    return header.ordered(keys)


def sorted_by_name(header: Header, random: Random) -> Header:
    return header.ordered(sorted(header.entries))


# -------------------------------------------------------------------- layers


def _without(header: Header, gone: set[str]) -> Header:
    entries = {key: entry for key, entry in header.entries.items() if key not in gone}
    aliases = {alias: key for alias, key in header.aliases.items() if key not in gone}
    layers = tuple(
        layer for layer in header.layers if not {header.aliases.get(k, k) for k in layer.roles.values()} & gone
    )
    values = {key: header.values[key] for key in entries}
    return replace(header, entries=entries, aliases=aliases, layers=layers, values=values).reread()


def dropped(header: Header, random: Random) -> Header:
    """One layer is not there."""
    layers = [
        keys for keys in header.groups().values() if any(header.entries[k].kind is sr.Kind.PARAMETER for k in keys)
    ]
    return _without(header, set(random.choice(layers)))


def _with_copies(header: Header, copies: Mapping[str, str], random: Random) -> Header:
    """With copies of owners under other paths, each after the last entry of what it copies, with other values."""
    groups = header.groups()
    entries, values, owners = {}, dict(header.values), dict(header.owners)
    last = {keys[-1]: owner for owner, keys in groups.items() if owner in copies}
    pending: list[str] = []
    layers = list(header.layers)
    generator = np.random.default_rng(random.randrange(2**32))
    for key, entry in header.entries.items():
        entries[key] = entry
        if key in last:
            pending.append(last[key])
        if len(pending) == len(copies):
            for owner in pending:
                # What is tied to a place elsewhere is a place of its own in the copy.
                tied = {alias: key for alias, key in header.aliases.items() if header.owners[alias] == owner}
                for old, place in {**{one: one for one in groups[owner]}, **tied}.items():
                    name = copies[owner] + old[len(owner) :]
                    entries[name], owners[name] = header.entries[place], copies[owner]
                    values[name] = other_values(header.values[place], generator)
                for layer in header.layers:
                    base = layer.path if layer.base is None else layer.base
                    if base == owner:
                        path = copies[owner] + layer.path[len(base) :]
                        moved_base = None if layer.base is None else copies[owner]
                        layers.append(replace(layer, path=path, base=moved_base))
            pending = []
    new = frozenset(entries) - frozenset(header.entries)
    made = replace(header, entries=entries, values=values, owners=owners, layers=tuple(layers), copies=new)
    return made.ordered(entries)


def other_values(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Other values: the same in another order, or higher by one where that changes nothing."""
    found = generator.permutation(values.reshape(-1)).reshape(values.shape)
    return found + values.dtype.type(1) if np.array_equal(found, values) else found


def duplicated(header: Header, random: Random) -> Header:
    """One layer is there twice, the second time with other values."""
    owner = random.choice([owner for owner in header.groups() if owner])
    return _with_copies(header, {owner: f"{owner}_{random.choice(('copy', 'ema', 'old'))}"}, random)


def inserted(header: Header, random: Random) -> Header | None:
    """A block of a numbered list is there twice, and the numbers after it are one higher."""
    runs: dict[str, set[int]] = {}
    for owner in header.groups():
        segments = owner.split("/")
        for depth, segment in enumerate(segments[:-1]):
            if segment.isdigit():
                runs.setdefault("/".join(segments[:depth]), set()).add(int(segment))
    runs = {prefix: numbers for prefix, numbers in runs.items() if len(numbers) > 1}
    if not runs:
        return None
    prefix = random.choice(sorted(runs))
    chosen = random.choice(sorted(runs[prefix]))
    depth = prefix.count("/") + 1 if prefix else 0

    def new(path: str) -> str:
        segments = path.split("/")
        if "/".join(segments[:depth]) == prefix and len(segments) > depth + 1 and segments[depth].isdigit():
            number = int(segments[depth])
            segments[depth] = str(number + (number > chosen))
        return "/".join(segments)

    moved = header.moved(new)
    inside = below(prefix, str(chosen)) + "/"
    copies = {
        owner: below(below(prefix, str(chosen + 1)), owner[len(inside) :])
        for owner in moved.groups()
        if owner.startswith(inside)
    }
    return _with_copies(moved, copies, random) if copies else None


def exchanged(header: Header, random: Random) -> Header | None:
    """Two layers of one sort but other shapes have each other's names. Those that differ in layout alone are of one shape."""
    sorts: dict[tuple[str, ...], list[str]] = {}
    for owner, keys in header.groups().items():
        if all(key != owner for key in keys):
            sorts.setdefault(tuple(sorted(key[len(owner) :] for key in keys)), []).append(owner)
    groups = header.groups()

    colours = {layer.path: colour_of(layer, header.entries, header.aliases) for layer in header.layers}

    def shape(owner: str) -> object:
        return colours.get(owner) or [header.entries[key].shape for key in sorted(groups[owner])]

    choices = [
        (one, two)
        for owners in sorts.values()
        for number, one in enumerate(owners)
        for two in owners[number + 1 :]
        if shape(one) != shape(two)
    ]
    if not choices:
        return None
    one, two = random.choice(choices)
    return header.moved(lambda path: {one: two, two: one}.get(path, path))


# -------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One row of the table.

    Attributes:
        name: of the row. torch, flax: what is done to either side, `None` for nothing.
        allow: what is allowed beside `choice` and `assumption`. base: the share of right answers of the row in the
            measurements that ours are held against, of headers alone; `None` where it was not measured.
        how: what is done to the names of either side, for `undecidable`. refusal: to refuse is the right answer.
    """

    name: str
    torch: Callable[[Header, Random], Header | None] | None = None
    flax: Callable[[Header, Random], Header | None] | None = None
    allow: tuple[str, ...] = ()
    base: float | None = None
    how: tuple[str, str] = ("", "")
    refusal: bool = False


#: Runs and right answers (of any grade) of the table that the rates are held against.
PERTURBATIONS = (
    Perturbation("none", base=200 / 203),
    Perturbation("rename stems consistently, torch", rename_stems, base=156 / 606, how=(CONSISTENT, "")),
    Perturbation("rename stems consistently, Flax", None, rename_stems, how=("", CONSISTENT)),
    Perturbation("rename each container on its own, torch", rename_containers, base=150 / 606, how=(ALONE, "")),
    Perturbation("rename containers, keep what layers are called, torch", rename_outer, base=156 / 606),
    Perturbation("rename containers, keep what layers are called, Flax", None, rename_outer, base=330 / 606),
    Perturbation("shuffle torch entry order", shuffled, base=564 / 606),
    Perturbation("sort torch entries by name", sorted_by_name, base=200 / 202),
    Perturbation("drop a torch layer", dropped, base=0.0, refusal=True),
    Perturbation("duplicate a torch layer (other values)", duplicated, allow=("unexpected",), base=472 / 585),
    Perturbation("insert a copy of a block, renumber", inserted, base=0.0, refusal=True),
    Perturbation("exchange the names of two different-shape layers", exchanged, base=22 / 516),
    Perturbation("torch anonymised flat n0, n1, .., order kept", anonymous, base=36 / 202, how=(FLAT, "")),
    Perturbation("same, numbers and order shuffled", anonymous_shuffled, base=93 / 606, how=(SHUFFLED, "")),
    Perturbation("both trees anonymised, order kept", anonymous, anonymous, base=34 / 202, how=(FLAT, FLAT)),
    Perturbation(
        "both trees anonymised, shuffled",
        anonymous_shuffled,
        anonymous_shuffled,
        base=85 / 606,
        how=(SHUFFLED, SHUFFLED),
    ),
    Perturbation("extra torch prefix", prefixed, base=598 / 606),
    Perturbation("renumber Flax (offset, gaps)", None, renumbered, base=600 / 606),
    Perturbation(
        "containers of Flax renamed to Linen's automatic names, layers keep a word",
        None,
        automatic_containers,
        base=114 / 202,
    ),
    Perturbation(
        "same, layers keep a word, leaf numbers backwards", None, automatic_containers_backwards, base=95 / 202
    ),
    Perturbation("Flax renamed to Linen's automatic names", None, automatic, how=("", AUTOMATIC)),
    Perturbation("same, leaf numbers backwards", None, automatic_backwards, how=("", BACKWARDS)),
)
