"""The registry over a `torch.nn.Module`: parameters and buffers as they are registered, written in place.

A write copies bits into the memory that is there: the `Parameter` object, its gradient, device, strides, flags and ties
stay, so optimizers stay linked; autograd does not record it and notices it. Tensors on the meta device are given memory
and stay the same objects. Nothing goes through `state_dict` or `load_state_dict`. Imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
import torch
from torch import nn

from stateregistry import errors, keys
from stateregistry.entry import Entry
from stateregistry.layers.vocabulary import Holder, Layer
from stateregistry.registry import StateRegistry
from stateregistry_torch import bits, sharded
from stateregistry_torch.cells import Cell
from stateregistry_torch.census import Census
from stateregistry_torch.functions import functions_of
from stateregistry_torch.layers import holders_of, layers_of
from stateregistry_torch.staged import (
    Hollow,
    Shard,
    Staged,
    Write,
    stage_fill,
    stage_hollow,
    stage_part,
    stage_shard,
    stage_write,
)

if TYPE_CHECKING:
    from stateregistry.parts import Box, Together


@final
class TorchRegistry(StateRegistry):
    """The state of a `torch.nn.Module`.

    A lookup by key costs the depth of the key: the census of the last listing says which objects a key means, and the
    module is asked whether it still holds them. The objects of that census are kept alive until the next listing.
    A write holds the values given and the old ones in host memory until it is done, whatever the device of the model.

    Raises:
        AbstractError: lazy parameters without a shape. KeyPathError, DuplicateKeyError, UnsupportedError: names or
            structures that the specification refuses.
    """

    adapter: ClassVar[str] = "torch"
    in_place: ClassVar[bool] = True
    materialises: ClassVar[bool] = True

    def __init__(self, module: nn.Module, /) -> None:
        self._module = module
        self._census = Census(module)

    def unwrap(self) -> nn.Module:
        """The module that the registry was made from."""
        return self._module

    # ---------------------------------------------------------------- structure

    def _recount(self) -> Census:
        self._census = Census(self._module)
        return self._census

    def _entries(self) -> Mapping[str, Entry]:
        return self._recount().entries

    def _aliases(self) -> Mapping[str, str]:
        return self._recount().aliases

    def _opaque(self) -> Mapping[str, str]:
        return self._recount().opaque

    def _layers(self) -> tuple[Layer, ...]:
        census = self._recount()
        return layers_of(census.found, census.opaque)

    def _holders(self) -> Mapping[str, Holder]:
        return holders_of(self._recount().found)

    def _activations(self) -> Mapping[str, str]:
        return functions_of(self._recount().found)

    def _find(self, key: str, /) -> Entry | None:
        census = self._census
        row = census.rows.get(key)
        if row is not None:
            entry = census.entry(row)
            if entry is not None:
                return entry
        elif not self._could_be(key, census):
            return None
        return self._recount().entries.get(key)

    def _could_be(self, key: str, census: Census) -> bool:
        """Whether a key that was not canonical at the last census may be so now."""
        canonical = census.aliases.get(key)
        if canonical is not None:
            return census.entry(census.rows[canonical]) is None
        try:
            *parents, name = keys.split(key)
        except errors.KeyPathError:
            return False
        node: Any = self._module
        for step in parents:
            if node is None or step not in node._modules:  # noqa: SLF001  # the registry of torch itself
                return False
            node = node._modules[step]  # noqa: SLF001
        tables = () if node is None else (node._parameters, node._buffers)  # noqa: SLF001
        return any(name in table and table[name] is not None for table in tables)

    def _cell(self, key: str) -> Cell:
        entry = self._find(key)  # brings the census up to date
        if entry is None:
            raise errors.UnknownKeyError(f"the module has lost {key!r} meanwhile", keys=(key,))
        return self._census.cell(self._census.rows[key], entry)

    # ---------------------------------------------------------------- values

    def _read(self, key: str, /) -> np.ndarray:
        return bits.lend(self._cell(key).tensors[0])

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        return bits.lend(value) if isinstance(value, torch.Tensor) else np.asarray(value)

    def _stage(self, key: str, value: np.ndarray, /) -> Staged:
        cell = self._cell(key)
        return stage_write(cell, value) if cell.entry.concrete else stage_fill(cell, value)

    def _stage_part(self, key: str, value: np.ndarray, /) -> Staged:
        return stage_part(self._cell(key), value)

    def _commit(self, staged: Mapping[str, Staged], /) -> Self:
        for value in staged.values():
            value.commit()
        return self

    def _backup(self, key: str, /) -> Staged:
        cell = self._cell(key)
        if not cell.entry.concrete:
            return stage_hollow(cell)
        return super()._backup(key) if not sharded.is_sharded(cell.tensors[0]) else stage_shard(cell)

    def _same(self, key: str, backup: Any) -> bool:
        if isinstance(backup, Hollow):
            return backup.done
        if isinstance(backup, Shard):
            return self.part(key).tobytes() == bits.lend(backup.part).tobytes()
        assert isinstance(backup, Write)
        return super()._same(key, backup.value)

    # ---------------------------------------------------------------- parts

    def _sharded(self) -> dict[str, Any]:
        """The `DTensor`s that have values, by canonical key."""
        census = self._recount()
        tensors = {key: census.found.tensors[row] for key, row in census.rows.items()}
        return {key: one for key, one in tensors.items() if sharded.is_sharded(one) and not one.is_meta}

    def together(self) -> Together | None:
        """The processes over which the values are sharded, `None` where none is or not over all of them."""
        return sharded.world_of(list(self._sharded().values())) if sharded.has_group() else None

    def boxes(self) -> Mapping[str, Box]:
        """The box of each sharded value that this process holds, by canonical key."""
        if not sharded.has_group():
            return {}
        found = {key: sharded.box_of(tensor) for key, tensor in self._sharded().items()}
        return {key: box for key, box in found.items() if box is not None}

    def part(self, key: str, /) -> np.ndarray:
        """The elements of the box of a canonical key, borrowed; no process is asked."""
        return bits.lend(sharded.local(self._cell(key).tensors[0]))

    def tensor(self, key: str, /) -> torch.Tensor:
        """The tensor of a canonical key, as it is."""
        return self._cell(key).tensors[0]

    # ---------------------------------------------------------------- flags

    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        changed: list[torch.Tensor] = []
        try:
            for key, flag in mask.items():
                cell = self._cell(key)
                if cell.entry.trainable is flag:
                    continue  # a group of several objects may differ inside: it is left as it is
                for tensor in cell.parameters:
                    if tensor.requires_grad is not flag:
                        _set_trainable(tensor, flag)
                        changed.append(tensor)
        except BaseException:
            for tensor in reversed(changed):
                _set_trainable(tensor, not tensor.requires_grad)
            raise
        return self

    def _tree(self, flat: Mapping[str, Any], /) -> dict[str, Any]:
        """By dotted name, as `named_parameters` has it: every object once, under its first name."""
        census = self._recount()
        found = census.found
        tree: dict[str, Any] = {}
        seen: set[int] = set()
        for row, key in enumerate(found.keys):
            tensor, canonical = found.tensors[row], census.aliases.get(key, key)
            if found.parameter[row] and id(tensor) not in seen and canonical in census.rows:
                seen.add(id(tensor))
                tree[found.dotted(row)] = flat[canonical]
        return tree


def _set_trainable(tensor: torch.Tensor, flag: bool) -> None:
    with torch.inference_mode(tensor.is_inference()):
        tensor.requires_grad_(flag)
