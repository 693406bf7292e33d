"""The datasets of an HDF5 file, found without following anything that leads out of it and without loading any code.

HDF5 can point to other files (external and soft links, external storage, virtual datasets) and can load a filter from a
shared library when a value is read. All of that is refused before a value is read, and so is a dataset that was never written
in full, which would read as zeros, and one that declares more than the file can hold. What lies in one stretch in a standard
type is told by its place, so that it can be mapped. h5py parses the structure of the file, which a file can be made to survive
badly: `child` runs this in a process of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, numpy_dtype

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Mapping

    from stateregistry.stores.limits import Limits

#: Filters that are part of HDF5 itself: deflate, shuffle, fletcher32. Any other could be a shared library.
_FILTERS: Final = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
#: Bytes that compressed datasets may declare whatever the file measures.
_FREE: Final = 64 * 2**20


@final
@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset.

    Attributes:
        path: its names from the root. link: what two paths of one dataset have in common.
        shape, dtype: of its values; the dtype `None` where a registry holds none such, with the reason in `opaque`.
        offset: where its bytes begin in the stretch, little-endian and in C order; `None` where they do not lie so.
    """

    path: tuple[str, ...]
    link: int
    shape: tuple[int, ...]
    dtype: str | None
    opaque: str
    offset: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of its values in memory."""
        return math.prod(self.shape) * DTYPES[self.dtype] if self.dtype is not None else 0

    def as_row(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "path": self.path, "link": self.link, "shape": self.shape, "dtype": self.dtype, "opaque": self.opaque,
            "offset": self.offset,
        }  # fmt: skip

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """From what `as_row` gave."""
        return cls(
            tuple(row["path"]), row["link"], tuple(row["shape"]), row["dtype"], row["opaque"], row["offset"]
        )  # fmt: skip


@final
class Walk:
    """An HDF5 file, open for reading.

    Args:
        file: its bytes. where: what it is called in messages.
        limits: what is believed of it.

    Raises:
        FileFormatError: it is none, or damaged.
    """

    def __init__(self, file: io.RawIOBase, size: int, where: str, limits: Limits) -> None:
        import h5py  # type: ignore[import-untyped]  # it ships no types

        self._size, self._limits, self.where = size, limits, where
        self._h5py: Any = h5py
        try:
            self._file = h5py.File(file, "r")
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise self._damaged(error) from error

    def datasets(self) -> Iterator[Dataset]:
        """Every dataset, in the order of their names.

        Raises:
            UnsafeFileError: something leads out of the file, or needs a filter that is no part of HDF5.
            FileFormatError: damaged, not written in full, or over a limit.
        """
        try:
            yield from self._below(self._file.id, (), frozenset())
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, UnicodeError) as error:
            if isinstance(error, errors.StateError):
                raise
            raise self._damaged(error) from error

    def read(self, path: tuple[str, ...], dtype: str) -> np.ndarray:
        """The values of a dataset, little-endian or big as this machine is.

        Raises:
            FileFormatError: they cannot be read.
        """
        try:
            found = self._file["/".join(path)][()]
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise self._damaged(error) from error
        array = np.asarray(found)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        wanted = numpy_dtype(dtype)
        if array.dtype != wanted:
            array = np.frombuffer(array.tobytes(), wanted).reshape(array.shape)
        return np.ascontiguousarray(array)

    def _attribute(self, path: tuple[str, ...], name: str) -> str:
        """A text that is an attribute of a group or dataset; empty where there is none such."""
        try:
            found = self._file["/".join(("", *path))].attrs.get(name, "")
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise self._damaged(error) from error
        return found if isinstance(found, str) else ""

    # ------------------------------------------------------------------ walking

    def _below(self, group: Any, path: tuple[str, ...], above: frozenset[int]) -> Iterator[Dataset]:
        h5py = self._h5py
        address = _address(h5py, group)
        if address in above:
            self._fail(f"has the group {_text(path)} inside of itself")
        self._limits.check("nesting", len(path), f"{self.where}: groups within groups")
        self._limits.check("entries", group.get_num_objs(), f"{self.where}: members of {_text(path)}")
        for name in sorted(group):
            here = (*path, name.decode("utf-8"))
            self._limits.check("name_chars", sum(map(len, here)) + len(here), f"{self.where}: length of a name")
            kind = group.links.get_info(name).type
            if kind != h5py.h5l.TYPE_HARD:
                what = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
                self._refuse(f"{_text(here)} is {what.get(kind, 'a link of an unknown kind')}")
            inner = h5py.h5o.open(group, name)
            if isinstance(inner, h5py.h5g.GroupID):
                yield from self._below(inner, here, above | {address})
            elif isinstance(inner, h5py.h5d.DatasetID):
                yield self._dataset(inner, here)

    def _dataset(self, found: Any, path: tuple[str, ...]) -> Dataset:
        h5py, plist = self._h5py, found.get_create_plist()
        if plist.get_layout() == h5py.h5d.VIRTUAL:
            self._refuse(f"{_text(path)} is a virtual dataset, whose values are in other files")
        if plist.get_external_count():
            self._refuse(f"{_text(path)} has its values in another file")
        for number in range(plist.get_nfilters()):
            code = plist.get_filter(number)[0]
            if code not in _FILTERS:
                self._refuse(f"{_text(path)} needs the filter {code}, which a shared library would have to give")
        address = _address(h5py, found)
        if found.get_space().get_simple_extent_type() not in (h5py.h5s.SIMPLE, h5py.h5s.SCALAR):
            return Dataset(path, address, (), None, "a dataset without values", None)
        shape = tuple(int(size) for size in found.shape)
        self._limits.check("rank", len(shape), f"{self.where}: number of axes of {_text(path)}")
        dtype, opaque = self._dtype(found, path)
        if dtype is None:
            return Dataset(path, address, shape, None, opaque, None)
        nbytes = math.prod(shape) * DTYPES[dtype]
        return Dataset(path, address, shape, dtype, "", self._place(found, plist, path, nbytes, dtype))

    def _dtype(self, found: Any, path: tuple[str, ...]) -> tuple[str | None, str]:
        """The dtype of the values, or why there is none."""
        h5py, kind = self._h5py, found.get_type()
        if isinstance(kind, (h5py.h5t.TypeVlenID, h5py.h5t.TypeReferenceID)) or found.dtype.hasobject:
            return None, "values that are not numbers"
        name = found.dtype.name
        if isinstance(kind, h5py.h5t.TypeOpaqueID):
            # Keras keeps bfloat16 as two bytes without a meaning, and says so.
            if found.dtype.itemsize == 2 and self._attribute(path, "dtype") == "bfloat16":
                return "bfloat16", ""
            return None, f"{found.dtype.itemsize} bytes without a dtype"
        if name not in DTYPES or found.dtype.names is not None or found.dtype.subdtype is not None:
            return None, f"of the dtype {name[:80]}, which a registry does not hold"
        return name, ""

    def _place(self, found: Any, plist: Any, path: tuple[str, ...], nbytes: int, dtype: str) -> int | None:
        """Where the values lie as they are; `None` where they have to be asked for.

        Raises:
            FileFormatError: they were never written in full, or declare more than the file can hold.
        """
        h5py, layout, size = self._h5py, plist.get_layout(), self._size
        if layout == h5py.h5d.CHUNKED:
            chunk = plist.get_chunk()
            wanted = math.prod(-(-extent // step) for extent, step in zip(found.shape, chunk, strict=True))
            declared = max(nbytes, math.prod(chunk) * DTYPES[dtype])
            if declared > _FREE:
                self._limits.check("inflation", declared // max(size, 1), f"{self.where}: {_text(path)}, for each byte")
            if found.get_num_chunks() != wanted:
                self._fail(f"holds {found.get_num_chunks():,} of the {wanted:,} blocks of {_text(path)}")
            return None
        if layout == h5py.h5d.COMPACT:
            return None
        offset = found.get_offset()
        if nbytes and (offset is None or offset + nbytes > size):
            self._fail(f"does not hold the {nbytes:,} bytes of {_text(path)}")
        standard = found.get_type().equal(h5py.h5t.py_create(numpy_dtype(dtype).newbyteorder("<"), logical=False))
        plain = dtype not in ("bool", "bfloat16") and standard
        return offset if nbytes and (plain or dtype == "bfloat16") else None

    # ------------------------------------------------------------------ errors

    def _refuse(self, what: str) -> NoReturn:
        hint = "nothing was read from there; get the file from who made it, saved by Keras"
        raise errors.UnsafeFileError(f"{self.where}: {what}", hint=hint)

    def _fail(self, what: str) -> NoReturn:
        raise errors.FileFormatError(f"{self.where}: {what}", hint="the file is truncated or damaged: get it again")

    def _damaged(self, error: Exception) -> errors.FileFormatError:
        message = f"{self.where}: is no HDF5 file that can be read: {type(error).__name__}: {str(error)[:200]}"
        return errors.FileFormatError(message, hint="the file is truncated or damaged: get it again")


def _address(h5py: Any, found: Any) -> int:
    return int(h5py.h5o.get_info(found).addr)


def _text(path: tuple[str, ...]) -> str:
    return repr("/" + "/".join(path))[:200]
