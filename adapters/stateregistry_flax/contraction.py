"""Contractions: `DenseGeneral`, `LinearGeneral` and `Einsum` as linear layers with several axes in or out.

An axis is numbered by its place in the data: `in.0` comes before `in.1` in the input, `out.0` before `out.1` in the output,
whatever the order in the kernel. A contraction with axes that are in all three (a matrix for each place of a batch), or
with an axis of the kernel that is only summed over, is no linear layer. Imports the core, neither JAX nor Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stateregistry.layers.vocabulary import Layer
from stateregistry_flax.dialect import Spelling
from stateregistry_flax.patterns import split_axes


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in value) if isinstance(value, Sequence) else (int(value),)


def general(
    spelling: Spelling, outputs: Callable[[Any], Any], batched: Callable[[Any], Any]
) -> Callable[[Any], Layer | None]:
    """`DenseGeneral` and `LinearGeneral`.

    Flax sorts the axes that it contracts, so the kernel has them in the order of the data.

    Args:
        spelling: the labels.
        outputs: the number or numbers of output features of a module. batched: its batch axes.
    """

    def build(module: Any) -> Layer | None:
        if batched(module):
            return None
        inner, outer = _tuple(module.axis), _tuple(outputs(module))
        out = split_axes(len(outer), "out")
        pieces = spelling.weighted(f"{split_axes(len(inner), 'in')} {out}", out)
        over = tuple(sorted(inner))
        config = {} if over == tuple(range(-len(over), 0)) else {"axis": over}
        return Layer("linear", "", pieces, config=config)

    return build


def einsum(spelling: Spelling) -> Callable[[Any], Layer | None]:
    """`Einsum`, where the module itself has the equation."""

    def build(module: Any) -> Layer | None:
        named = None if module.einsum_str is None else contracted(module.einsum_str)
        if named is None:
            return None
        kernel, bias, last = named
        return Layer(
            "linear", "", spelling.weighted(kernel, bias), config={} if last else {"einsum": module.einsum_str}
        )

    return build


def contracted(equation: str) -> tuple[str, str, bool] | None:
    """The axes of kernel and bias in an equation `input,kernel->output`, and whether they are the last of the data.

    Returns:
        `None` where the equation is no plain contraction.
    """
    operands, _, result = equation.replace(" ", "").replace("...", ".").partition("->")
    data, _, kernel = operands.partition(",")
    if not kernel.isalpha() or any(len(set(letters)) != len(letters) for letters in (data, kernel, result)):
        return None
    inner = [letter for letter in data if letter in kernel]
    outer = [letter for letter in result if letter in kernel]
    if set(inner) & set(outer) or set(inner) | set(outer) != set(kernel) or not inner or not outer:
        return None
    if [letter for letter in result if letter not in kernel] != [letter for letter in data if letter not in kernel]:
        return None  # it also moves or sums axes of the data: another function of the same arrays
    names = dict(zip(inner, split_axes(len(inner), "in").split(), strict=True))
    names |= dict(zip(outer, split_axes(len(outer), "out").split(), strict=True))
    last = data.endswith("".join(inner)) and result.endswith("".join(outer))
    return " ".join(names[letter] for letter in kernel), " ".join(names[letter] for letter in outer), last
