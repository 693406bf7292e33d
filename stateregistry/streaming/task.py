"""One value on its way: where it is read, how its elements are rearranged and cast, and where it is written.

Plain data that can be pickled, so that any executor can carry it to another process or machine; workers write disjoint
stretches of files that are there. `perform` needs one room of memory, whatever the size of the value; a very large one is
shared by workers in parts (`parts`, `perform_part`), and looked at once more for its digest when all are done (`measure`).
Knows no plan and no store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

from stateregistry.streaming import buffers
from stateregistry.streaming.geometry import Group
from stateregistry.streaming.moving import Hands, Move, Stopped
from stateregistry.streaming.origins import Asked, Extents, Held, Joined, Origin, Stored, spread

__all__ = [
    "Asked", "Extents", "Held", "Joined", "Makes", "Origin", "Outcome", "Recipe", "Stopped", "Stored", "Task", "measure",
    "parts", "perform", "perform_part", "spread",
]  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """What becomes a value: origins, how their elements are placed, and the rule of a cast."""

    origins: tuple[Origin, ...]
    groups: tuple[Group, ...]
    cast: Literal["", "lossless", "same_kind"] = ""


@runtime_checkable
class Makes(Protocol):
    """A registry that can say how its values are made, so that nobody has to ask for a whole one."""

    def recipe(self, key: str, /) -> Recipe:
        """How the value of a key is made."""

    def made(self, key: str, digest: str, /) -> None:
        """Take note of a value that somebody made by its recipe."""


@final
@dataclass(frozen=True, slots=True)
class Task:
    """One value.

    Attributes:
        key: of the target. dtype, shape: of the target.
        path: the file to write into. places: where in it, once for each copy.
        origins: what is read. groups: how it becomes the target.
        cast: the rule of a cast, empty for none.
        proven: the digest that an earlier run noted: if what lies there has it, nothing is done again.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    places: tuple[Extents, ...]
    origins: tuple[Origin, ...]
    groups: tuple[Group, ...]
    cast: Literal["", "lossless", "same_kind"] = ""
    proven: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return sum(size for _, size in self.places[0])


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: the digest of the value."""

    key: str
    digest: str


def perform(
    tasks: Sequence[Task],
    wrote: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    room: int = buffers.LARGEST,
) -> list[Outcome]:
    """Move values, one after another.

    Args:
        wrote: told the bytes of each piece that was written.
        stop: asked between pieces whether to give up.
        room: bytes of memory for what is under way.

    Raises:
        FileAccessError, FileFormatError: reading or writing failed. CastError: a value does not fit. Stopped.
    """
    with Hands(room, wrote, stop) as hands:
        return [Outcome(task.key, Move(task, hands).whole()) for task in tasks]


def parts(task: Task, nbytes: int, room: int = buffers.LARGEST) -> int:
    """In how many parts of some `nbytes` several workers can share a value; 1 where that is not worth while."""
    if task.proven or task.nbytes < 2 * nbytes:
        return 1
    with Hands(room) as hands:
        return min(task.nbytes // nbytes, Move(task, hands).boxes_in_all())


def perform_part(
    task: Task,
    number: int,
    of: int,
    wrote: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    room: int = buffers.LARGEST,
) -> list[Outcome]:
    """Move one of `of` parts of a value. Its digest is there when all parts are and somebody looks (`measure`).

    Raises:
        As `perform`.
    """
    with Hands(room, wrote, stop) as hands:
        Move(task, hands).part(number, of)
    return []


def measure(task: Task) -> list[Outcome]:
    """The digest of a value that was written in parts, of what lies in the file.

    Raises:
        FileAccessError, FileFormatError.
    """
    with Hands(0) as hands:
        return [Outcome(task.key, Move(task, hands).measured())]
