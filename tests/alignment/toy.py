"""Toy models of headers alone: layers with a truth, spelled for two frameworks, and what can be done to their names.

A `Model` lists layers in the order of calls, each with its path on either side. A perturbation changes names, order or
layers of one side and keeps the truth, so that every pair of a plan can be judged. Nothing here computes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.side import Side
from stateregistry.entry import Entry, Kind
from stateregistry.layers.infer import candidates, infer_layers
from stateregistry.plugins import adapter


@dataclass(frozen=True)
class Toy:
    """One layer: its number in the truth, kind, sizes, and its path in torch and in Flax."""

    id: int
    kind: str
    sizes: tuple[int, ...]
    torch: str
    flax: str


Model = tuple[Toy, ...]


def model(rows: Sequence[tuple[str, tuple[int, ...], str, str]]) -> Model:
    return tuple(Toy(number, *row) for number, row in enumerate(rows))


def entry(*shape: int, kind: Kind = Kind.PARAMETER) -> Entry:
    return Entry(kind, shape, "float32", trainable=kind is Kind.PARAMETER)


def entries(toys: Sequence[Toy], framework: str) -> dict[str, Entry]:
    """The entries of a side, in the order of the layers."""
    found: dict[str, Entry] = {}
    for toy in toys:
        first = framework == "torch"
        path = toy.torch.replace(".", "/") if first else toy.flax
        if toy.kind == "linear":
            inner, outer = toy.sizes
            kernel = (outer, inner) if first else (inner, outer)
            found |= {f"{path}/{'weight' if first else 'kernel'}": entry(*kernel), f"{path}/bias": entry(outer)}
        elif toy.kind == "conv":
            inner, outer, size = toy.sizes
            kernel = (outer, inner, size, size) if first else (size, size, inner, outer)
            found |= {f"{path}/{'weight' if first else 'kernel'}": entry(*kernel)}
        elif toy.kind == "embedding":
            found |= {f"{path}/{'weight' if first else 'embedding'}": entry(*toy.sizes)}
        else:
            found |= {f"{path}/{'weight' if first else 'scale'}": entry(*toy.sizes), f"{path}/bias": entry(*toy.sizes)}
            if toy.kind == "batch_norm":
                names = ("running_mean", "running_var") if first else ("mean", "var")
                found |= {f"{path}/{name}": entry(*toy.sizes, kind=Kind.BUFFER) for name in names}
    return found


def side(toys: Sequence[Toy], framework: str, *, typed: bool) -> Side:
    """A side with the layers that its names say, typed as by a module, or only inferred."""
    listed = entries(toys, framework)
    dialect = "torch" if framework == "torch" else "flax-linen"
    layers = infer_layers(listed, dialect)
    if typed:
        kinds = {(toy.torch.replace(".", "/") if framework == "torch" else toy.flax): toy.kind for toy in toys}
        table = adapter(dialect).dialect
        assert table is not None
        layers = tuple(
            replace(candidates(layer, table, listed)[kinds[layer.path]], inferred=False, candidates=())
            for layer in layers
        )
    return Side(dialect, listed, {}, layers)


# -------------------------------------------------------------------- models


def transformer(depth: int, width: int = 16) -> Model:
    rows: list[tuple[str, tuple[int, ...], str, str]] = [("embedding", (40, width), "wte", "token_embed")]
    for n in range(depth):
        here, there = f"h.{n}", f"TransformerBlock_{n}"
        rows.append(("layer_norm", (width,), f"{here}.attn_norm", f"{there}/attention_norm"))
        rows += [
            ("linear", (width, width), f"{here}.attn.{a}", f"{there}/attention/{b}")
            for a, b in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("o_proj", "out"))
        ]
        rows.append(("layer_norm", (width,), f"{here}.mlp_norm", f"{there}/ffn_norm"))
        rows.append(("linear", (width, 3 * width), f"{here}.mlp.fc1", f"{there}/ffn/Dense_0"))
        rows.append(("linear", (3 * width, width), f"{here}.mlp.fc2", f"{there}/ffn/Dense_1"))
    rows += [("layer_norm", (width,), "ln_f", "final_norm"), ("linear", (width, 40), "head", "classifier")]
    return model(rows)


def convnet(stages: Sequence[int], width: int = 8) -> Model:
    rows: list[tuple[str, tuple[int, ...], str, str]] = [
        ("conv", (3, width, 7), "conv1", "conv_init"), ("batch_norm", (width,), "bn1", "bn_init"),
    ]  # fmt: skip
    inner, count = width, 0
    for stage, depth in enumerate(stages, 1):
        outer = width * 2 ** (stage - 1)
        for n in range(depth):
            here, there = f"layer{stage}.{n}", f"ResNetBlock_{count}"
            rows.append(("conv", (inner, outer, 3), f"{here}.conv1", f"{there}/Conv_0"))
            rows.append(("batch_norm", (outer,), f"{here}.bn1", f"{there}/BatchNorm_0"))
            rows.append(("conv", (outer, outer, 3), f"{here}.conv2", f"{there}/Conv_1"))
            rows.append(("batch_norm", (outer,), f"{here}.bn2", f"{there}/BatchNorm_1"))
            if inner != outer:
                rows.append(("conv", (inner, outer, 1), f"{here}.downsample.0", f"{there}/conv_proj"))
                rows.append(("batch_norm", (outer,), f"{here}.downsample.1", f"{there}/norm_proj"))
            inner, count = outer, count + 1
    rows.append(("linear", (inner, 10), "fc", "Dense_0"))
    return model(rows)


def two_towers(depth: int) -> Model:
    rows: list[tuple[str, tuple[int, ...], str, str]] = []
    for tower, other in (("text", "language"), ("visual", "image")):
        for n in range(depth):
            for a, b in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
                rows.append(("linear", (16, 16), f"{tower}.blocks.{n}.{a}", f"{other}_tower/layer_{n}/{b}"))
            rows.append(("linear", (16, 24), f"{tower}.blocks.{n}.up", f"{other}_tower/layer_{n}/up"))
    return model(rows)


def perceptron(depth: int) -> Model:
    return model([("linear", (12, 12), f"fc{n + 1}", f"Dense_{n}") for n in range(depth)])


MODELS: dict[str, Model] = {
    "transformer": transformer(4), "deep transformer": transformer(11), "convnet": convnet((2, 2, 2)),
    "convnet with a deep stage": convnet((1, 4, 2)), "two towers": two_towers(3), "perceptron": perceptron(5),
}  # fmt: skip


# -------------------------------------------------------------------- perturbations


def _renamed(toys: Sequence[Toy], framework: str, change: Callable[[str], str]) -> list[Toy]:
    """Every stem of a side renamed, one to one."""
    names: dict[str, str] = {}

    def one(match: re.Match[str]) -> str:
        return names.setdefault(match.group(0), change(match.group(0)))

    return [
        replace(toy, **{framework: re.sub(r"[A-Za-z]+(_(?=[A-Za-z])[A-Za-z]+)*", one, getattr(toy, framework))})
        for toy in toys
    ]


def rename_stems(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    """Names that mean nothing, consistently."""
    taken: set[str] = set()

    def fresh(_: str) -> str:
        while (name := "".join(luck.choices("bcdfgjlnrtxz", k=5))) in taken:
            pass
        taken.add(name)
        return name

    return _renamed(toys, framework, fresh)


def shuffle(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    return luck.sample(list(toys), len(toys))


def sort(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    return sorted(toys, key=lambda toy: getattr(toy, framework))


def drop(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    gone = luck.randrange(len(toys))
    return [toy for number, toy in enumerate(toys) if number != gone]


def duplicate(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    toy = luck.choice(list(toys))
    return [*toys, replace(toy, id=-1, **{framework: f"extra_{getattr(toy, framework)}"})]


def anonymise(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    """One flat list in the order of the layers."""
    return [replace(toy, **{framework: f"n{number}"}) for number, toy in enumerate(toys)]


def anonymise_shuffled(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    return anonymise(shuffle(toys, framework, luck), framework, luck)


def prefix(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    outer = "backbone." if framework == "torch" else "backbone/"
    return [replace(toy, **{framework: f"{outer}{getattr(toy, framework)}"}) for toy in toys]


def renumber(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    """An offset and gaps."""
    step, start = luck.randint(1, 3), luck.randint(0, 4)

    def shift(match: re.Match[str]) -> str:
        return str(start + step * int(match.group(0)))

    return [replace(toy, **{framework: re.sub(r"[0-9]+", shift, getattr(toy, framework))}) for toy in toys]


def backwards(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    """The last number of every path counted from the other end, as nested calls do."""
    most: dict[str, int] = {}
    for toy in toys:
        match = re.fullmatch(r"(.*?)(\d+)", getattr(toy, framework))
        if match:
            most[match.group(1)] = max(most.get(match.group(1), 0), int(match.group(2)))
    found = []
    for toy in toys:
        match = re.fullmatch(r"(.*?)(\d+)", getattr(toy, framework))
        path = f"{match.group(1)}{most[match.group(1)] - int(match.group(2))}" if match else getattr(toy, framework)
        found.append(replace(toy, **{framework: path}))
    return found


def exchange(toys: Sequence[Toy], framework: str, luck: random.Random) -> list[Toy]:
    """The names of two layers of different shapes."""
    one = luck.choice(list(toys))
    others = [toy for toy in toys if (toy.kind, toy.sizes) != (one.kind, one.sizes)]
    if not others:
        return list(toys)
    two = luck.choice(others)
    swap = {one.id: getattr(two, framework), two.id: getattr(one, framework)}
    return [replace(toy, **{framework: swap.get(toy.id, getattr(toy, framework))}) for toy in toys]


PERTURBATIONS: dict[str, Callable[[Sequence[Toy], str, random.Random], list[Toy]]] = {
    "as it is": lambda toys, framework, luck: list(toys), "stems renamed": rename_stems, "shuffled": shuffle,
    "sorted": sort, "one dropped": drop, "one doubled": duplicate, "anonymous": anonymise,
    "anonymous, shuffled": anonymise_shuffled, "a prefix": prefix, "renumbered": renumber, "leaves backwards": backwards,
    "two shapes exchanged": exchange,
}  # fmt: skip


# -------------------------------------------------------------------- judging


def judge(here: Sequence[Toy], there: Sequence[Toy], plan: Plan) -> str:
    """`right`, `refused`, or `wrong` with what went where; the truth of an exchange is that names lie, shapes do not."""
    if not plan.ok:
        return "refused"
    left = {key: (toy.id, key.rpartition("/")[2]) for toy in here for key in entries([toy], "torch")}
    right = {key: toy.id for toy in there for key in entries([toy], "flax")}
    for move in plan.moves:
        for feed in move.sources if move.op == "copy" else ():
            if left[feed.key][0] != right[move.target]:
                return f"wrong: {feed.key} -> {move.target} ({move.grade}: {move.evidence})"
    return "right"


def planned(
    here: Sequence[Toy], there: Sequence[Toy], *, typed: tuple[bool, bool], allow: tuple[str, ...] = ()
) -> Plan:
    return make(side(here, "torch", typed=typed[0]), side(there, "flax", typed=typed[1]), allow=("choice", *allow))
