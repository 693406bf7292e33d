"""Derived registries: the entries of one registry with values that are computed when they are asked for. Read-only.

What tools give that change values: it costs nothing until it is read, and the memory of one value then. It lives as long as
the registries that it is computed from: a file that is closed has no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from stateregistry import checking, errors
from stateregistry.registry import ReadOnlyRegistry, StateRegistry

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.layers.vocabulary import Layer

#: Elements that are taken into `float64` at a time: 8 MB for each operand.
BLOCK = 1 << 20


@final
class Derived(ReadOnlyRegistry):
    """A registry whose values are functions of others.

    Args:
        entries: by canonical key, in native order. compute: the value of a key. like: names, layers and dialect are as of
            this one, if it is given.
    """

    adapter: ClassVar[str] = ""

    def __init__(
        self,
        entries: Mapping[str, Entry],
        compute: Callable[[str], np.ndarray],
        *,
        aliases: Mapping[str, str],
        layers: Sequence[Layer] = (),
        opaque: Mapping[str, str] | None = None,
        dialect: str = "",
        origin: Any = None,
    ) -> None:
        self._known, self._compute = dict(entries), compute
        self._names, self._parts, self._hidden = dict(aliases), tuple(layers), dict(opaque or {})
        self._dialect, self._origin = dialect, origin

    @classmethod
    def like(cls, registry: StateRegistry, compute: Callable[[str], np.ndarray]) -> Derived:
        """The entries of a registry with other values, which `compute` gives by key."""
        entries = {key: registry[key] for key in registry.native_order}
        return cls(
            entries, compute, aliases=registry.aliases, layers=registry.layers, opaque=registry.opaque,
            dialect=registry.dialect, origin=registry.unwrap(),
        )  # fmt: skip

    @property
    def dialect(self) -> str:
        """That of the registries it is computed from; empty where they differ."""
        return self._dialect

    def _entries(self) -> Mapping[str, Entry]:
        return self._known

    def _read(self, key: str, /) -> np.ndarray:
        return self._compute(key)

    def _aliases(self) -> Mapping[str, str]:
        return self._names

    def _layers(self) -> tuple[Layer, ...]:
        return self._parts

    def _opaque(self) -> Mapping[str, str]:
        return self._hidden

    def unwrap(self) -> Any:
        """The native object whose entries it has, or objects by name where it was merged."""
        return self._origin


def comparable(registries: Sequence[StateRegistry], what: str) -> None:
    """Refuse registries that do not have the same entries: keys, kinds, shapes and dtypes.

    Raises:
        MismatchError: names every key that is not the same in all of them.
    """
    first = registries[0]
    problems: list[checking.Problem] = []
    for number, other in enumerate(registries[1:], 2):
        where = f"in state {number}"
        for key, entry in first.items():
            mate = other.get(key)
            if mate is None:
                problems.append(checking.Problem("missing", key, str(entry), f"nothing {where}"))
            elif mate.shape != entry.shape:
                problems.append(checking.Problem("shape", key, str(entry), f"{mate} {where}"))
            elif mate.dtype != entry.dtype or mate.kind is not entry.kind:
                problems.append(checking.Problem("dtype", key, str(entry), f"{mate} {where}", hint="see sr.cast"))
        problems += [
            checking.Problem("unexpected", key, "", f"{other[key]} {where}") for key in other if key not in first
        ]
    if problems:
        hint = "states of one architecture are needed; sr.convert brings another framework's into the same names"
        raise checking.refuse(checking.Report.of(problems), what, hint=hint)


def blocks(*arrays: np.ndarray) -> Iterator[tuple[slice, tuple[np.ndarray, ...]]]:
    """The elements of arrays of one shape in C order, block by block, native-endian and contiguous."""
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        place = slice(start, start + BLOCK)
        yield place, tuple(np.ascontiguousarray(one[place], dtype=one.dtype.newbyteorder("=")) for one in flat)


def readable(registry: StateRegistry, what: str) -> None:
    """Refuse a registry with entries that hold no values.

    Raises:
        AbstractError: names them.
    """
    empty = tuple(key for key, entry in registry.items() if not entry.concrete)
    if empty:
        message = f"cannot {what}: {len(empty)} entries are abstract: {', '.join(map(repr, empty[:5]))}"
        raise errors.AbstractError(message, keys=empty, hint="load values first")
