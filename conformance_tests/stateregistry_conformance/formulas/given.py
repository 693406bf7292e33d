"""What one layer gives to its formula: roles, config and inputs, with an account of what was read.

A formula asks for what its definition names. What it did not ask for is refused at the end, so a role that the definition
does not have and a config value that it does not know are errors instead of being ignored. Sizes are compared by the
formula itself: nothing is broadcast that the definition does not broadcast. Imports NumPy and the errors of the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from stateregistry.errors import AxesError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stateregistry_conformance.formulas.named import Named


@final
class Given:
    """One layer and what goes into it. Every method notes what it reads; `settle` refuses the rest.

    Args:
        kind: the layer kind, for messages.
        roles: the neutral arrays by role.
        config: values by the names of the spec.
        inputs: the arrays that the layer is called with, channels last.
    """

    def __init__(
        self, kind: str, roles: Mapping[str, Named], config: Mapping[str, object], inputs: Sequence[np.ndarray]
    ) -> None:
        self.kind = kind
        self.inputs = tuple(inputs)
        self._roles = dict(roles)
        self._config = dict(config)
        self._read: set[str] = set()

    # ------------------------------------------------------------------------------------------------------------ roles

    def named(self, role: str) -> Named:
        """The array of a role that the definition cannot do without.

        Raises:
            UnsupportedError: the layer does not have it.
        """
        found = self.perhaps(role)
        if found is None:
            message = f"{self.kind}: no {role}, which the formula cannot do without"
            raise UnsupportedError(message, keys=(role,), expected=role, found=sorted(self._roles))
        return found

    def perhaps(self, role: str) -> Named | None:
        """The array of a role, `None` where the layer does not have it."""
        self._read.add(role)
        return self._roles.get(role)

    def need(self, role: str, *axes: str) -> np.ndarray:
        """The values of a role in float64, axes in this order.

        Raises:
            UnsupportedError: the layer does not have the role.
            AxesError: its axes have other names.
        """
        return self._ordered(role, self.named(role), axes)

    def may(self, role: str, *axes: str) -> np.ndarray | None:
        """As `need`; `None` where the layer does not have the role."""
        found = self.perhaps(role)
        return None if found is None else self._ordered(role, found, axes)

    def total(self, roles: tuple[str, str], axis: str, size: int) -> np.ndarray:
        """The sum of two vectors, of which either may be absent, or that are given as their sum (role `a+b`).

        Raises:
            UnsupportedError: both the sum and a part of it are given.
            AxesError: the axis has another name or size.
        """
        sums = [name for name in ("+".join(roles), "+".join(reversed(roles))) if name in self._roles]
        parts = [name for name in roles if name in self._roles]
        if len(sums) > 1 or (sums and parts):
            message = f"{self.kind}: {', '.join(sums + parts)} are given together: the sum would count twice"
            raise UnsupportedError(message, keys=tuple(sums + parts))
        whole = np.zeros(size)
        for name in (*sums, *parts):
            one = self.need(name, axis)
            self.same(name, one.shape, (size,))
            whole += one
        return whole

    def _ordered(self, role: str, found: Named, axes: tuple[str, ...]) -> np.ndarray:
        try:
            return found.to(*axes)
        except AxesError as error:
            raise AxesError(f"{self.kind}, {role}: {error}", expected=error.expected, found=error.found) from error

    # ----------------------------------------------------------------------------------------------------------- config

    def real(self, name: str, default: float | None = None) -> float:
        """A number; without a default, one that has to be given, because frameworks do not have the same default.

        Raises:
            UnsupportedError: it is not given or is no number.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._refused(name, value, "a number (frameworks have different defaults, so there is none here)")
        return float(value)

    def whole(self, name: str, default: int) -> int:
        """An integer.

        Raises:
            UnsupportedError: it is no integer.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._refused(name, value, "an integer")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """A truth value.

        Raises:
            UnsupportedError: it is none.
        """
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._refused(name, value, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """Text.

        Raises:
            UnsupportedError: it is none.
        """
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._refused(name, value, "text")
        return value

    def word(self, name: str, default: str, allowed: Iterable[str]) -> str:
        """One of several names.

        Raises:
            UnsupportedError: it is none of them.
        """
        value = self.text(name, default)
        if value not in allowed:
            raise self._refused(name, value, f"one of {', '.join(allowed)}")
        return value

    def per_axis(self, name: str, rank: int, default: int) -> tuple[int, ...]:
        """One integer for each spatial axis, not less than the default; one number stands for all of them.

        Raises:
            UnsupportedError: it is neither.
        """
        value = self._value(name, default)
        numbers = (value,) * rank if isinstance(value, int) else value
        if (
            not isinstance(numbers, (tuple, list))
            or len(numbers) != rank
            or any(isinstance(number, bool) or not isinstance(number, int) for number in numbers)
            or min(numbers) < default
        ):
            raise self._refused(name, value, f"{rank} integers of at least {default}")
        return tuple(numbers)

    def sides(self, name: str, rank: int) -> str | tuple[tuple[int, int], ...]:
        """Padding: `"SAME"`, `"VALID"`, or low and high for each spatial axis, zero where nothing is said.

        One number stands for all sides, one per axis for both of its sides; low and high are pairs, or one flat tuple.

        Raises:
            UnsupportedError: it is none of these.
        """
        value = self._value(name, 0)
        if value in ("SAME", "VALID"):
            return str(value)
        flat = [value] * 2 * rank if isinstance(value, int) else _flat(value)
        if len(flat) == rank:
            flat = [side for side in flat for _ in range(2)]
        if len(flat) != 2 * rank or any(isinstance(side, bool) or not isinstance(side, int) for side in flat):
            raise self._refused(name, value, f"SAME, VALID, or low and high for each of {rank} axes")
        sides = [side for side in flat if isinstance(side, int)]
        return tuple(zip(sides[::2], sides[1::2], strict=True))

    def agrees(self, name: str, found: object) -> None:
        """Refuse a config value that contradicts what the arrays say; nothing where the config is silent.

        Raises:
            AxesError: they differ.
        """
        value = self._value(name)
        value = tuple(value) if isinstance(value, list) else value
        if value is not None and value != found:
            message = f"{self.kind}: config {name} is {value}, the arrays say {found}"
            raise AxesError(message, expected=value, found=found)

    def _value(self, name: str, default: object = None) -> object:
        self._read.add(f"config {name}")
        return self._config.get(name, default)

    def _refused(self, name: str, value: object, expected: str) -> UnsupportedError:
        message = f"{self.kind}: config {name} is {value!r}, expected {expected}"
        return UnsupportedError(message, expected=expected, found=value)

    # ----------------------------------------------------------------------------------------------------------- inputs

    def input(self, number: int, *, least: int) -> np.ndarray:
        """An input in float64 with at least so many axes.

        Raises:
            UnsupportedError: it is not given or complex.
            AxesError: it has fewer axes.
        """
        if number >= len(self.inputs):
            message = f"{self.kind}: called with {len(self.inputs)} inputs, the formula needs input {number}"
            raise UnsupportedError(message, expected=number + 1, found=len(self.inputs))
        value = np.asarray(self.inputs[number])
        if np.issubdtype(value.dtype, np.complexfloating):
            raise UnsupportedError(f"{self.kind}: the formulas are real, input {number} is {value.dtype}")
        if value.ndim < least:
            message = f"{self.kind}: input {number} has the shape {value.shape}, expected at least {least} axes"
            raise AxesError(message, expected=least, found=value.shape)
        return value.astype(np.float64)

    def same(self, what: str, found: object, expected: object) -> None:
        """Refuse sizes that differ.

        Raises:
            AxesError: they do.
        """
        if found != expected:
            message = f"{self.kind}: {what} is {found}, expected {expected}"
            raise AxesError(message, expected=expected, found=found)

    # ------------------------------------------------------------------------------------------------------------ ledger

    def settle(self, known: Iterable[str]) -> None:
        """Refuse what the formula did not read.

        Args:
            known: config that the kind has and the formula need not read: it says nothing about the function.

        Raises:
            UnsupportedError: a role, or a config name that is not in `known`, was not read.
        """
        roles = sorted(set(self._roles) - self._read)
        names = sorted({name for name in self._config if f"config {name}" not in self._read} - set(known))
        if roles or names:
            parts = [f"no role {', '.join(roles)}"] * bool(roles) + [f"no config {', '.join(names)}"] * bool(names)
            message = f"{self.kind}: the formula of this kind knows {' and '.join(parts)}"
            raise UnsupportedError(message, keys=tuple(roles + names))


def _flat(value: object) -> list[object]:
    """The members of a sequence, and of the sequences in it; a lone value is a sequence of one."""
    if not isinstance(value, (tuple, list)):
        return [value]
    return [side for one in value for side in (one if isinstance(one, (tuple, list)) else (one,))]
