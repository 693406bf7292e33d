"""Writes `docs/layers.md`: which native types are which layer kind, and what becomes of a layer in another framework.

The first two tables are made from the declarations of the adapters: a type is asked what it is, and a class follows from the
roles that both sides have a place for. The third lists what was measured, and the tests that hold it. Run by `make docs`.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flax import nnx

import stateregistry_flax.dialect
import stateregistry_torch.dialect
from stateregistry.layers.vocabulary import ROLES, Declaration, Dialect, Lack, Layer, Limit, Piece
from stateregistry_flax import linen_layers, nnx_layers
from stateregistry_numpy.dialect import DIALECT as NUMPY
from stateregistry_torch import standard

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "layers.md"
NAMES = {"torch": "torch", "flax-linen": "Linen", "flax-nnx": "NNX", "numpy": "NumPy"}
DIALECTS: Mapping[str, Dialect] = {
    "torch": stateregistry_torch.dialect.DIALECT, "flax-linen": stateregistry_flax.dialect.LINEN,
    "flax-nnx": stateregistry_flax.dialect.NNX, "numpy": NUMPY,
}  # fmt: skip

HEAD = """\
# Layers

What the adapters declare, and what becomes of a layer of one framework in another. Written by `make docs` from the
declarations; a test holds this page to them. What the kinds and roles mean is [the chapter on layers](spec/0.1.md), how a type
of your own is declared [a guide](guides/register-a-layer.md).

## Types

| kind | PyTorch | Flax Linen | Flax NNX | NumPy reference |
| --- | --- | --- | --- | --- |
"""
CLASSES = """
Wrappers around any of them: torch's `weight_norm` and `spectral_norm` (parametrizations and the older hooks), and `WeightNorm`
and `SpectralNorm` of Linen and of NNX.

## Classes

What follows from the declarations for a layer that has every role that its framework has a place for. `exact`: the bits
arrive, rearranged. `choice`: the same function, but it could have been done otherwise; the residual keeps what is left out.
`if zero`: a condition on the values, asked before anything is written. `impossible`: refused with the reason, as soon as a
layer has the role.

"""
MEASURED = """
## Rows

Every correspondence that was measured, in all six directions: outputs are equal within 1e-5 of their scale and every bit comes
back, or the conversion is refused by name. `by a rule`: no module says it, so a rule has to. `missing`, `unexpected`: an array
that only one side has, which `allow=` has to name. `finding`: the state arrives and the function differs, which the plan says.
`–`: there is nothing that could be converted.

"""


# -------------------------------------------------------------------- types


#: What a type is made with, where that is more than its number of features.
_TORCH: Mapping[str, tuple[Any, ...]] = {
    "Bilinear": (2, 2, 2), "Linear": (2, 2), "NonDynamicallyQuantizableLinear": (2, 2), "Embedding": (2, 2),
    "EmbeddingBag": (2, 2), "GroupNorm": (1, 2), "PReLU": (), "MultiheadAttention": (2, 1),
    **{f"{name}{rank}d": (2, 2, 2) for name in ("Conv", "ConvTranspose") for rank in (1, 2, 3)},
    **{f"{name}{cell}": (2, 2) for name in ("LSTM", "GRU", "RNN") for cell in ("", "Cell")},
}  # fmt: skip
_LINEN: Mapping[str, Mapping[str, Any]] = {
    "Conv": {"features": 2, "kernel_size": (2,)}, "ConvTranspose": {"features": 2, "kernel_size": (2,)},
    "Einsum": {"shape": (2, 2), "einsum_str": "...i,io->...o"}, "Embed": {"num_embeddings": 2, "features": 2},
    "MultiHeadDotProductAttention": {"num_heads": 1, "qkv_features": 2}, "SelfAttention": {"num_heads": 1, "qkv_features": 2},
    **{name: {} for name in ("BatchNorm", "LayerNorm", "RMSNorm", "InstanceNorm", "PReLU")},
    "GroupNorm": {"num_groups": 1},
}  # fmt: skip
_NNX: Mapping[str, tuple[Any, ...]] = {
    "Conv": (2, 2, (2,)), "ConvTranspose": (2, 2, (2,)), "Einsum": ("...i,io->...o", (2, 2), (2,)), "GroupNorm": (2, 1),
    "MultiHeadAttention": (1, 2), "PReLU": (),
    **dict.fromkeys(("BatchNorm", "LayerNorm", "RMSNorm", "InstanceNorm"), (2,)),
}  # fmt: skip


def _made_torch(native: type) -> Any:
    return native(*_TORCH.get(native.__name__, (2,)))


def _made_linen(native: type) -> Any:
    return native(**_LINEN.get(native.__name__, {"features": 2}))


def _made_nnx(native: type) -> Any:
    options: dict[str, Any] = {"rngs": nnx.Rngs(0)} if "rngs" in inspect.signature(native.__init__).parameters else {}
    if native is nnx.MultiHeadAttention:
        options["decode"] = False
    return native(*_NNX.get(native.__name__, (2, 2)), **options)


def _built(table: Mapping[type, Any], make: Callable[[type], Any]) -> dict[type, tuple[Layer, ...]]:
    """What every declared type is, asked of a module of it."""
    found = {}
    for native, row in table.items():
        made = row.build(make(native))
        layers = (made,) if isinstance(made, Layer) else tuple(made or ())
        if not layers:
            raise SystemExit(f"{native.__name__} as made here is no layer: say in docs/layers.py how to make it")
        found[native] = layers
    return found


BUILT: Mapping[str, dict[type, tuple[Layer, ...]]] = {
    "torch": _built(standard.TYPES, _made_torch),
    "flax-linen": _built(linen_layers.ROWS, _made_linen),
    "flax-nnx": _built(nnx_layers.ROWS, _made_nnx),
}


def types() -> Iterable[str]:
    """The rows of the first table."""
    for kind in ROLES:
        cells = []
        for name in ("torch", "flax-linen", "flax-nnx"):
            of_kind = {native.__name__ for native, layers in BUILT[name].items() if any(x.kind == kind for x in layers)}
            cells.append(", ".join(f"`{one}`" for one in sorted(of_kind)) or "–")
        cells.append("yes" if NUMPY.declaration(kind) is not None else "–")
        yield f"| `{kind}` | {' | '.join(cells)} |\n"


# -------------------------------------------------------------------- classes


class Side:
    """What one framework has of a kind: every role with a place, what is said of roles without one, and limits."""

    def __init__(self, name: str, kind: str) -> None:
        rows: tuple[Declaration, ...] = tuple(row for row in DIALECTS[name].declarations if row.kind == kind)
        layers = [layer for made in BUILT.get(name, {}).values() for layer in made if layer.kind == kind]
        pieces: list[Piece] = [piece for row in rows for piece in row.pieces]
        pieces += [piece for layer in layers for piece in layer.pieces]
        self.roles = list(dict.fromkeys(role for piece in pieces for role in piece.parts))
        self.lacks: list[Lack] = [lack for row in rows[:1] for lack in row.lacks]
        self.limits: list[Limit] = [limit for row in rows for limit in row.limits]

    def __bool__(self) -> bool:
        return bool(self.roles)

    def gives(self, role: str) -> str:
        """`whole` where the role has a place, `sum` where it is a part of a sum, empty for neither."""
        if role in self.roles:
            return "whole"
        parts = role.split("+")
        if len(parts) > 1 and all(one in self.roles for one in parts):
            return "parts"
        return "sum" if any(role in held.split("+") for held in self.roles) else ""

    def lack(self, role: str) -> Lack | None:
        """What is said of a role without a place."""
        return Declaration("", (), tuple(self.lacks)).lack(role)


def relation(kind: str, source: str, target: str) -> str:
    """What becomes of a layer of a kind."""
    one, two = Side(source, kind), Side(target, kind)
    if not one or not two:
        return "–"
    found: dict[str, list[str]] = {}
    for role in one.roles:
        how = two.gives(role)
        if how == "whole":
            continue
        if how or ROLES[kind].get(role) == "":
            found.setdefault("choice", []).append(_short(role))
        else:
            lack = two.lack(role)
            word = "unexpected" if lack is None else "if zero" if lack.zero else "choice" if lack.kept else "impossible"
            found.setdefault(word, []).append(_short(role))
    for role in two.roles:
        if ROLES[kind].get(role) == "" and role not in one.roles:
            found.setdefault("choice", []).append(_short(role))
    known = {limit.name for limit in one.limits}
    for limit in two.limits:
        if limit.name not in known:
            found.setdefault("impossible", []).append(f"{limit.name} other than {limit.value}")
    words = ["exact"]
    for word, roles in found.items():
        words.append(f"{word}: {', '.join(f'`{role}`' for role in dict.fromkeys(roles))}")
    return "; ".join(words)


def _short(role: str) -> str:
    """A role of a gate without its gate: `i_input_bias` and `f_input_bias` are one line of a table."""
    return "+".join(one[2:] if one[1:2] == "_" and one[:1] in "ifgorzn" and "_bias" in one and one[0] != "n" else one
                    for one in role.split("+"))  # fmt: skip


def classes(ways: list[tuple[str, str]]) -> Iterable[str]:
    """The second table, for some ordered pairs of frameworks."""
    yield "| kind | " + " | ".join(f"{NAMES[one]} → {NAMES[two]}" for one, two in ways) + " |\n"
    yield "| --- |" + " --- |" * len(ways) + "\n"
    for kind in ROLES:
        cells = [relation(kind, one, two) for one, two in ways]
        if any(cell != "–" for cell in cells):
            yield f"| `{kind}` | {' | '.join(cells)} |\n"


# -------------------------------------------------------------------- rows


def correspondences() -> ModuleType:
    """The table beside the tests."""
    file = ROOT / "tests" / "flax_layers" / "correspondences.py"
    spec = importlib.util.spec_from_file_location("layers_correspondences", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rows() -> Iterable[str]:
    """The third table, and the tests behind each of its cells."""
    table = correspondences()
    words = {"torch": "torch", "linen": "Linen", "nnx": "NNX"}
    yield "| | " + " | ".join(f"{words[one]} → {words[two]}" for one, two in table.WAYS) + " |\n"
    yield "| --- |" + " --- |" * len(table.WAYS) + "\n"
    for row in table.ROWS:
        yield f"| {row.name} | {' | '.join(row.of(way) for way in table.WAYS)} |\n"
    yield "\nThe tests behind each row, and how many cases of each:\n\n| | tests |\n| --- | --- |\n"
    marks: dict[str, str] = {}
    for row in table.ROWS:
        counts: dict[str, int] = {}
        for way in table.WAYS:
            for cell in row.cells[way]:
                if cell.startswith(table.TEST):
                    name = cell.partition("[")[0]
                    counts[name] = counts.get(name, 0) + 1
        for name in counts:
            marks.setdefault(name, str(len(marks) + 1))
        yield f"| {row.name} | {', '.join(f'{marks[name]} ({count})' for name, count in counts.items())} |\n"
    yield "\n"
    for name, mark in marks.items():
        yield f"{mark}. `{name}`\n"


def page() -> str:
    """The whole page."""
    frameworks = ("torch", "flax-linen", "flax-nnx")
    ways = list(itertools.permutations(frameworks, 2))
    numpy_ways = [way for name in frameworks for way in (("numpy", name), (name, "numpy"))]
    parts = [HEAD, *types(), CLASSES, *classes(ways), "\n", *classes(numpy_ways), MEASURED, *rows()]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
