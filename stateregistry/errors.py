"""Errors: every failure of the project is a `StateError` and also the builtin that a caller would expect.

An error says where, what was expected, what was found and what to do, and carries the same as attributes, so that
programs need not parse text. Exceptions of a framework appear only as `__cause__`. Imports nothing at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateregistry.checking import Report


#: What a terminal acts on, or shows in another order than it is: the names of a file are data, and are shown as such.
_ACTED_ON = (
    *range(10), *range(11, 32), *range(127, 160), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A),
)  # fmt: skip
_SHOWN = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _ACTED_ON}


class StateError(Exception):
    """The root of all errors of the project.

    Attributes:
        keys: the keys that are wrong (empty where the failure is not about keys).
        expected, found: what was wanted and what was there, where one value of each says it.
        hint: what to do, one sentence.
    """

    def __init__(
        self,
        message: str,
        *,
        keys: tuple[str, ...] = (),
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.keys = keys
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        # KeyError would print the repr of the message, OSError its errno: one spelling for all.
        text = f"{self.message}\n  to do: {self.hint}" if self.hint else self.message
        return text if text.isascii() and text.isprintable() else text.translate(_SHOWN)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(cls: type[StateError], state: dict[str, Any]) -> StateError:
    error = cls.__new__(cls, state["message"])
    error.__dict__.update(state)
    return error


class KeyPathError(StateError, ValueError):
    """A key or a path segment is not legal (empty, not a `str`, a malformed escape)."""


class DuplicateKeyError(StateError, ValueError):
    """Two native places would have the same key, or one key is a prefix of another."""


class UnknownKeyError(StateError, KeyError):
    """The registry has no such key."""


class KindError(StateError, TypeError):
    """A buffer, or an array of integers or booleans, was to be made trainable."""


class AbstractError(StateError, RuntimeError):
    """The place holds no values (meta device, `ShapeDtypeStruct`, lazily built layer)."""


class UnsupportedError(StateError, TypeError):
    """A state that the specification excludes or an operation that this registry does not offer."""


class OpaqueError(UnsupportedError):
    """The model holds registered state that is not an array, so it cannot be read or would be left out."""


class CastError(StateError, ValueError, TypeError):
    """A value cannot be cast to the wanted dtype under the given rule."""


class CommitError(StateError, RuntimeError):
    """The framework failed in the middle of a write; the old values were put back."""


class MismatchError(StateError, ValueError):
    """Values do not fit a registry; `report` lists everything that is wrong. Nothing was written."""

    def __init__(self, message: str, *, report: Report, keys: tuple[str, ...], hint: str | None = None) -> None:
        super().__init__(message, keys=keys, hint=hint)
        self.report = report


class UnexpectedKeyError(MismatchError, KeyError):
    """Only keys that the registry does not have are wrong."""


class MissingKeyError(MismatchError, KeyError):
    """Only keys that were not given are wrong."""


class ShapeError(MismatchError):
    """Only shapes are wrong."""


class DtypeError(StateError, TypeError):
    """A dtype that a registry does not hold."""


class DtypeMismatchError(MismatchError, DtypeError):
    """Only dtypes are wrong: writes never cast."""


class ConflictError(MismatchError):
    """Aliases of one place were given different bits."""


class SourceError(MismatchError):
    """Only the values themselves are at fault: not arrays, or the mapping raised while it was read."""


class LoadError(MismatchError):
    """`load` was refused; `report` lists everything that is wrong. Nothing was written."""


class AdapterError(StateError, TypeError):
    """No adapter, or more than one, knows the object; or an option that the adapter does not have."""


class MissingDependencyError(StateError, ImportError):
    """An optional package is needed for this and not installed."""


class FileFormatError(StateError, ValueError):
    """A file is truncated, damaged, or not what it says it is."""


class UnsafeFileError(StateError, ValueError):
    """A file could be read only by running code from it. Nothing was run."""


class FileMissingError(StateError, FileNotFoundError):
    """There is no such file."""


class FileAccessError(StateError, OSError):
    """The system does not let a file be read or written: permissions, a full disk, a directory in its place."""


class TargetExistsError(StateError, FileExistsError):
    """The output exists and `overwrite` was not given."""


class RuleError(StateError, ValueError):
    """A rule does not parse, matches nothing, or claims what another rule claims."""


class AxesError(StateError, ValueError):
    """An axis pattern does not parse, or does not fit a shape."""


class PlanError(StateError, ValueError):
    """A plan has problems or unaccepted moves; `plan` carries all of it. Nothing was written."""

    def __init__(self, message: str, *, plan: Any, keys: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, keys=keys, hint=hint)
        self.plan = plan


class AmbiguousAlignment(PlanError):  # noqa: N818  # the name says what is wrong
    """Nothing decides which layers are one: `plan.problems` shows the candidates and the rule that would decide."""
