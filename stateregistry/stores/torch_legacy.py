"""Looks through a torch file of the format before zip, before torch may read it: nothing is run and no value is read.

The format is five pickles in a row, then every storage with its length before it. The pickles go through the same
machine as those of an archive, so that what is unsafe there is unsafe here; every storage that a tensor uses must be listed,
once, and lie in the file in full, and the file must end with the last. `torch.load` checks neither: a storage that is not
listed would be memory that nobody wrote. Imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from stateregistry import errors
from stateregistry.stores.pickle_machine import Machine
from stateregistry.stores.torch_objects import Allowlist, Storage, StorageType, width_of

if TYPE_CHECKING:
    from stateregistry.stores.limits import Limits
    from stateregistry.stores.mapped import MappedFile

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
#: Bytes of the beginning of a file in which its pickles are looked for, one after another.
_ENOUGH: Final = (1 << 20, 1 << 24)
#: Bytes of the number of elements before each storage.
_LENGTH: Final = 8


def screen_legacy(file: MappedFile, limits: Limits) -> None:
    """Hold a whole file of the legacy format against what it may hold.

    Raises:
        UnsafeFileError: reading it would run code from it. FileFormatError: truncated, damaged, over a limit, or using
            what torch no longer writes (storages that are views of others).
    """
    for size in _ENOUGH:
        if size >= min(file.size, limits.pickle_bytes):
            break
        try:
            _Screen(file, size, limits).run()
        except errors.UnsafeFileError:
            raise
        except errors.FileFormatError:
            continue  # its pickles may be longer: look at more of the file
        return
    _Screen(file, min(file.size, limits.pickle_bytes), limits).run()


@final
class _Screen:
    def __init__(self, file: MappedFile, size: int, limits: Limits) -> None:
        self._file, self._limits, self._where = file, limits, str(file.path)
        self._data, self._at = file.read(0, size), 0
        self._storages: dict[str, Storage] = {}

    def run(self) -> None:
        if self._pickle() != _MAGIC or self._pickle() != _PROTOCOL:
            self._fail("does not begin as the torch format from before 1.6 does")
        system = self._pickle()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            self._fail("was written on a machine of another byte order, or does not say on which")
        self._pickle()
        listed = self._pickle()
        if type(listed) is not list or not all(type(key) is str for key in listed):
            self._fail("has no list of its storages")
        if len(set(listed)) != len(listed) or set(listed) != self._storages.keys():
            self._fail("lists other storages than its tensors use")
        for key in listed:
            self._step_over(self._storages[key])
        if self._at != self._file.size:
            self._fail(f"goes on for {self._file.size - self._at:,} bytes after its last storage")

    def _pickle(self) -> Any:
        known = Allowlist(self._where, self._limits).known
        machine = Machine(self._data, known, self._storage, self._where, self._limits, begin=self._at, whole=False)
        found = machine.run()
        self._at = machine.end
        return found

    def _storage(self, ident: object) -> Storage:
        """The storage of a persistent id, `("storage", type, key, location, number of elements, view)`."""
        if type(ident) is not tuple or len(ident) != 6 or ident[0] != "storage":
            self._fail("keeps something other than a storage outside of its pickle")
        _, kind, key, location, count, view = ident
        if not isinstance(kind, StorageType) or type(key) is not str or type(location) is not str:
            self._fail("names a storage by the wrong values")
        if view is not None:
            self._fail(f"has the storage {key[:80]!r}, which is a view of another one: torch 0.4 wrote such")
        if type(count) is not int or not 0 <= count * width_of(kind.dtype) <= self._file.size:
            self._fail(f"has the storage {key[:80]!r} of {count!r:.40} elements, more than the file can hold")
        storage = Storage(key, count * width_of(kind.dtype), kind.dtype)
        if self._storages.setdefault(key, storage) != storage:
            self._fail(f"uses the storage {key[:80]!r} under two dtypes or lengths")
        return self._storages[key]

    def _step_over(self, storage: Storage) -> None:
        end = self._at + _LENGTH + storage.nbytes
        if end > self._file.size:
            self._fail(f"ends before the storage {storage.key[:80]!r} does")
        count = int.from_bytes(self._file.read(self._at, _LENGTH), "little")
        if count * width_of(storage.dtype) != storage.nbytes:
            self._fail(f"has {count:,} elements where the storage {storage.key[:80]!r} has another number")
        self._at = end

    def _fail(self, what: str) -> NoReturn:
        hint = "the file is truncated or damaged: get it again"
        raise errors.FileFormatError(f"{self._where}: {what}", hint=hint)
