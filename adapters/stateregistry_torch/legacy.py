"""Reads `.pt` files of the format before zip (torch before 1.6), by `torch.load(weights_only=True)` and by nothing else.

The file is looked through first without torch (`stateregistry.stores.torch_legacy`): what an archive would be refused for
is refused here, and so is a storage that is not in the file. torch is asked only then, and only from the version on whose
restricted reader has no known hole. The format cannot be mapped: all values are in memory while the registry is open.
Imports torch.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
import torch

from stateregistry import errors
from stateregistry.stores.bits import check_bools
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listed import ListedFile
from stateregistry.stores.listing import list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.pickle_machine import Other, Table
from stateregistry.stores.torch_legacy import screen_legacy
from stateregistry.stores.torch_listing import stored_of
from stateregistry.stores.torch_objects import Absent, Opaque, Storage, Tensor, TorchDtype
from stateregistry.stores.torch_tree import select_state
from stateregistry.stores.url import refuse_url
from stateregistry_torch.bits import NAMES, lend, obstacle

#: Before it, `weights_only=True` could be made to run code (CVE-2025-32434) or to write over memory (CVE-2026-24747).
SAFE: Final = (2, 10)
_SCALARS: Final = (str, int, float, bool, bytes, type(None))


def open_legacy(path: Path, /, *, part: str = "", limits: Limits = DEFAULT) -> LegacyTorchRegistry:
    """A read-only registry over a file of the legacy format, whose values are read now.

    Args:
        path: the file. part: the sub-key, as `stateregistry.stores.torch_zip.open_torch` takes it.
        limits: how much the file may ask for.

    Raises:
        As `open_torch`. MissingDependencyError: this torch is too old to read a stranger's file.
    """
    _require_safe(path)
    refuse_url(path, "the torch format from before 1.6")
    with collector_paused():
        with MappedFile(path) as file:
            screen_legacy(file, limits)
        tree = _Tree(str(path), limits)
        state = select_state(tree.of(_load(path)), part, str(path), limits)
        limits.check("entries", len(state), f"{path}: number of arrays")
        limits.check("name_chars", max(map(len, state), default=0), f"{path}: length of a name")
        return LegacyTorchRegistry(path, state, tree.tensors)


def _require_safe(path: Path) -> None:
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or tuple(map(int, found.groups())) < SAFE:
        wanted = ".".join(map(str, SAFE))
        message = (
            f"{path}: is in the torch format from before 1.6, and torch {torch.__version__} cannot read such safely"
        )
        raise errors.MissingDependencyError(message, hint=f"pip install 'torch>={wanted}'")


def _load(path: Path) -> object:
    """What torch makes of the file.

    Raises:
        UnsafeFileError: torch would have to run something. FileFormatError: it cannot read it. FileAccessError.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise errors.FileAccessError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        message = f"{path}: torch does not read it with weights_only=True: {str(error)[:300]}"
        hint = "nothing was run; load it in the program that made it and save its weights alone"
        refused = errors.UnsafeFileError if "Unsupported global" in str(error) else errors.FileFormatError
        raise refused(message, hint=hint) from error
    except Exception as error:
        message = f"{path}: torch cannot read it: {type(error).__name__}: {str(error)[:200]}"
        raise errors.FileFormatError(message, hint="the file is damaged: get it again") from error


@final
class _Tree:
    """What torch has loaded, told in the terms of the restricted reader: tables, lists, inert tensors."""

    def __init__(self, where: str, limits: Limits) -> None:
        self._where, self._limits = where, limits
        self._made: dict[int, object] = {}
        self._todo: list[tuple[Any, Any]] = []
        #: The tensor of torch that each inert one stands for.
        self.tensors: dict[Tensor, torch.Tensor] = {}

    def of(self, root: object) -> object:
        """The same tree. Not by recursion: a file may nest as deep as it is long."""
        result = self._shell(root)
        while self._todo:
            native, made = self._todo.pop()
            if isinstance(made, Table):
                made.update({key: self._shell(value) for key, value in native.items()})
            else:
                made.extend(self._shell(value) for value in native)
        return result

    def _shell(self, value: object) -> object:
        if type(value) in _SCALARS:
            return value
        known = self._made.get(id(value))
        if known is not None:
            return known
        made: object
        if isinstance(value, torch.Tensor):
            made = self._tensor(value)
        elif isinstance(value, dict):
            made = Table()
            self._todo.append((value, made))
        elif isinstance(value, (list, tuple)):
            made = []
            self._todo.append((value, made))
        else:
            made = Other(f"a {type(value).__name__}")
        self._made[id(value)] = made
        return made

    def _tensor(self, tensor: torch.Tensor) -> Tensor | Absent | Opaque:
        reason = obstacle(tensor)
        if reason:
            return Opaque(reason)
        shape, dtype = tuple(tensor.shape), NAMES[tensor.dtype]
        self._limits.check("rank", len(shape), f"{self._where}: number of axes of a tensor")
        parameter = isinstance(tensor, torch.nn.Parameter)
        if tensor.is_meta:
            return Absent(dtype, shape, tensor.requires_grad, parameter)
        held = tensor.untyped_storage()
        times = tensor.numel() // max(1, held.nbytes() // tensor.element_size())
        self._limits.check("expansion", times, f"{self._where}: a tensor {list(shape)} repeated")
        storage = Storage(str(held.data_ptr()), held.nbytes(), TorchDtype(dtype, dtype))
        told = Tensor(
            storage, dtype, int(tensor.storage_offset()), shape, tuple(tensor.stride()), tensor.requires_grad,
            conjugate=tensor.is_conj(), negative=tensor.is_neg(), parameter=parameter,
        )  # fmt: skip
        self.tensors[told] = tensor.detach()
        return told


@final
class LegacyTorchRegistry(ListedFile):
    """A registry over the state in one torch file of the legacy format, all of it in memory."""

    adapter: ClassVar[str] = "torch"

    def __init__(self, path: Path, state: Table, tensors: Mapping[Tensor, torch.Tensor]) -> None:
        # None is absence, as in a module: `register_buffer(name, None)` has no value to save.
        values = {name: value for name, value in state.items() if value is not None}
        listing = list_stored(stored_of(values, None), str(path))
        told = dict(zip(listing.keys, values.values(), strict=True))
        super().__init__(path, listing, dialect="torch")
        self._tensors = {key: tensors[told[key]] for key, entry in listing.entries.items() if entry.concrete}
        self._closed = False

    def _read(self, key: str, /) -> np.ndarray:
        if self._closed:
            message = f"{self.path}: the registry over this file is closed"
            raise errors.UnsupportedError(message, hint="read the values inside the with block")
        array = lend(self._tensors[key])
        check_bools(array, self._list.entries[key].dtype, f"{self.path}: {key!r}")
        return array

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        self._closed = True
        self._tensors = {}
