"""The census: a walk over a module settled into places, aliases and opaque keys.

Which rows of the walk are one place is the business of `settling`. A census remembers objects and where they were, never
values: `entry` looks at the tensors as they are, and says `None` where the module has changed. Has no effect on the module.
Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from torch import nn

from stateregistry import errors
from stateregistry.entry import Entry
from stateregistry_torch.cells import Cell, entry_of
from stateregistry_torch.settling import settle
from stateregistry_torch.walk import walk


@final
class Census:
    """What a module holds at one moment.

    Attributes:
        found: the walk.
        rows: the first row of every place, by canonical key, in native order.
        groups: all rows of a place, by its first row, where they are several.
        entries: the entry of every place, as of the census, in native order.
        aliases: every further key, with the canonical one.
        opaque: registered state that is no entry, with the reason.
    """

    __slots__ = ("_addresses", "aliases", "entries", "found", "groups", "opaque", "rows")

    def __init__(self, root: nn.Module, /) -> None:
        """Walk over a module and settle what was found.

        Raises:
            AbstractError: lazy parameters or buffers without a shape; all of them are named.
            KeyPathError, DuplicateKeyError, UnsupportedError: as `walk`.
        """
        self.found = found = walk(root)
        settled = settle(found)
        if settled.lazy:
            raise _no_shape(tuple(sorted(settled.lazy)))
        self.groups, self._addresses = settled.groups, settled.addresses
        self.opaque = found.opaque | settled.opaque
        self.aliases: dict[str, str] = {}
        keys = found.keys
        for group in self.groups.values():
            first, *others = sorted(keys[row] for row in group)
            self.aliases.update(dict.fromkeys(others, first))
        rows = [row for row, entry in enumerate(settled.entries) if entry is not None]
        entries = [entry for entry in settled.entries if entry is not None]
        names = [keys[row] for row in rows] if self.groups else keys
        if self.aliases:
            names = [self.aliases.get(name, name) for name in names]
        elif len(rows) < len(keys):
            names = [keys[row] for row in rows]
        self.rows = dict(zip(names, rows, strict=True))
        self.entries = dict(zip(names, entries, strict=True))
        for row, group in self.groups.items():
            self.entries[self.aliases.get(keys[row], keys[row])] = self._entry_of_group(group)

    def _entry_of_group(self, group: Iterable[int]) -> Entry:
        """A parameter, persistent and trainable if any member is."""
        found = self.found
        members = [(found.tensors[row], found.parameter[row], found.persistent[row]) for row in group]
        first = members[0][0]
        return entry_of(
            any(parameter for _, parameter, _ in members),
            first.shape,
            first.dtype,
            any(parameter and tensor.requires_grad for tensor, parameter, _ in members),
            any(persistent for _, _, persistent in members),
            not first.is_meta,
        )

    def entry(self, row: int, /) -> Entry | None:
        """The entry of the place that begins at a row as it is now; `None` where the module no longer has it so.

        Costs the depth of its names, not the size of the model.
        """
        found, address = self.found, self._addresses[row]
        tensor = found.tensors[row]
        group = self.groups.get(row) if self.groups else None
        if not (found.has(row) if group is None else all(map(found.has, group))):
            return None
        if address and tensor.data_ptr() != address:
            return None  # other memory, which something else may share
        try:
            if group is not None:
                return self._entry_of_group(group)
            concrete = not tensor.is_meta
            return entry_of(
                found.parameter[row], tensor.shape, tensor.dtype, tensor.requires_grad, found.persistent[row], concrete
            )
        except KeyError:
            return None  # its dtype has become one that no registry holds

    def cell(self, row: int, entry: Entry, /) -> Cell:
        """The tensors of the place that begins at a row."""
        found = self.found
        group = self.groups.get(row, (row,))
        tensors = {id(found.tensors[member]): found.tensors[member] for member in group}
        parameters = {id(found.tensors[member]): found.tensors[member] for member in group if found.parameter[member]}
        return Cell(tuple(tensors.values()), tuple(parameters.values()), entry)


def _no_shape(lazy: tuple[str, ...]) -> errors.AbstractError:
    listed = ", ".join(map(repr, lazy[:5]))
    message = f"{len(lazy)} lazy parameters have no shape yet: {listed}"
    hint = "run one batch through the model, then make the registry"
    return errors.AbstractError(message, keys=lazy, hint=hint)
