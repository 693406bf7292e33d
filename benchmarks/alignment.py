"""Alignment by size: seconds of one core to pair models of 1,000 to 10,000 layers from metadata alone, with a growth table.

`blocks, equal names` is one transformer on both sides; `blocks, foreign` has other names for everything; `flat` is one list of
layers of one shape; `undecidable` has six linears of one shape in every block, whose names say nothing, and must refuse
without taking longer. `growth` is the time of 10,000 layers over that of 1,000: 10 is linear; `plan` is the whole plan, with
every move derived and checked, for the most layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from stateregistry.conversion.pairing.align import align
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.side import Side
from stateregistry.entry import Entry, Kind
from stateregistry.layers.infer import infer_layers

SIZES = (1_000, 2_000, 5_000, 10_000)
WIDTH = 8
Names = Callable[[int], str]
#: Layers of a block: its sizes in and out, and what it is called on either side, here and abroad.
BLOCK = (
    (8, 8, "attn.q_proj", "attention/query"), (8, 8, "attn.k_proj", "attention/key"), (8, 8, "attn.v_proj", "attention/value"),
    (8, 8, "attn.o_proj", "attention/out"), (8, 32, "mlp.fc1", "mlp/Dense_0"), (32, 8, "mlp.fc2", "mlp/Dense_1"),
)  # fmt: skip


def entry(*shape: int) -> Entry:
    """A parameter."""
    return Entry(Kind.PARAMETER, shape, "float32", trainable=True)


def torch_linear(path: str, inner: int, outer: int) -> Iterator[tuple[str, Entry]]:
    """The entries of a linear in torch."""
    yield f"{path}/weight".replace(".", "/"), entry(outer, inner)
    yield f"{path}/bias".replace(".", "/"), entry(outer)


def flax_linear(path: str, inner: int, outer: int) -> Iterator[tuple[str, Entry]]:
    """The entries of a linear in Flax."""
    yield f"{path}/kernel", entry(inner, outer)
    yield f"{path}/bias", entry(outer)


def side(dialect: str, entries: dict[str, Entry]) -> Side:
    """A side as a file gives it."""
    return Side(dialect, entries, {}, infer_layers(entries, dialect))


def blocks(layers: int, *, foreign: bool) -> tuple[Side, Side]:
    """A transformer of so many layers."""
    here: dict[str, Entry] = {}
    there: dict[str, Entry] = {}
    for number in range(layers // len(BLOCK)):
        for inner, outer, name, other in BLOCK:
            here.update(torch_linear(f"model.layers.{number}.{name}", inner, outer))
            path = (
                f"TransformerBlock_{number}/{other}" if foreign else f"model/layers_{number}/{name.replace('.', '/')}"
            )
            there.update(flax_linear(path, inner, outer))
    return side("torch", here), side("flax-linen", there)


def flat(layers: int) -> tuple[Side, Side]:
    """One list of layers of one shape."""
    here: dict[str, Entry] = {}
    there: dict[str, Entry] = {}
    for number in range(layers):
        here.update(torch_linear(f"layers.{number}", WIDTH, WIDTH))
        there.update(flax_linear(f"Dense_{number}", WIDTH, WIDTH))
    return side("torch", here), side("flax-linen", there)


def undecidable(layers: int) -> tuple[Side, Side]:
    """Blocks in which nothing tells six layers apart."""
    here: dict[str, Entry] = {}
    there: dict[str, Entry] = {}
    for number in range(layers // 6):
        for one, two in zip("abcdef", "uvwxyz", strict=True):
            here.update(torch_linear(f"layers.{number}.{one}{one}", WIDTH, WIDTH))
            there.update(flax_linear(f"Block_{number}/{two}{two}", WIDTH, WIDTH))
    return side("torch", here), side("flax-linen", there)


ROWS: dict[str, Callable[[int], tuple[Side, Side]]] = {
    "blocks, equal names": lambda layers: blocks(layers, foreign=False),
    "blocks, foreign": lambda layers: blocks(layers, foreign=True),
    "flat, one shape": flat,
    "undecidable": undecidable,
}


def main() -> None:
    """Print the table."""
    print("| models | " + " | ".join(f"{size:,}" for size in SIZES) + " | growth | plan | outcome |")
    print("|---|" + "---|" * (len(SIZES) + 3))
    for name, models in ROWS.items():
        seconds = []
        for size in SIZES:
            source, target = models(size)
            begin = time.process_time()
            align(source, target, Rules())
            seconds.append(time.process_time() - begin)
        begin = time.process_time()
        plan = make(source, target, allow=("assumption",))
        whole = time.process_time() - begin
        outcome = "paired" if plan.ok else f"refused, {len(plan.problems)} problems"
        cells = " | ".join(f"{value:.2f}" for value in seconds)
        print(f"| {name} | {cells} | x{seconds[-1] / seconds[0]:.1f} | {whole:.2f} | {outcome} |", flush=True)


if __name__ == "__main__":
    main()
