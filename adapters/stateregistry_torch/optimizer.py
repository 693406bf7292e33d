"""The registry over the state of a `torch.optim` optimizer, tied to the registry of its module.

Keys are `<key of the parameter>/<name in the state>`: torch itself numbers parameters by their position. What the first
update of a parameter would make is listed as abstract, and writing it makes it, so a fresh optimizer can be continued.
Values are written in place. Knows Adam, AdamW and SGD; refuses any other, subclasses included. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import torch

from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.optimizers import OptimizerRegistry, Place, Slot
from stateregistry.registry import StateRegistry
from stateregistry_torch import bits
from stateregistry_torch.spelling import dotted

_ADAM: Final[Mapping[str, Slot]] = MappingProxyType(
    {"step": "step", "exp_avg": "first_moment", "exp_avg_sq": "second_moment", "max_exp_avg_sq": "second_moment_max"}
)
_SGD: Final[Mapping[str, Slot]] = MappingProxyType({"momentum_buffer": "momentum"})
#: What each optimizer keeps. By type and not by `isinstance`: a subclass may compute something else with it.
_KEPT: Final[Mapping[type, Mapping[str, Slot]]] = MappingProxyType(
    {torch.optim.Adam: _ADAM, torch.optim.AdamW: _ADAM, torch.optim.SGD: _SGD}
)


@final
@dataclass(frozen=True, slots=True)
class _Cell:
    """One tensor of the state, or the place where the first update would put it."""

    parameter: torch.Tensor
    key: str
    name: str
    group: Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class _Staged:
    """A value that is ready to be committed; `undo` takes away what a commit has made."""

    commit: Callable[[], None]
    cell: _Cell
    makes: bool = False


@final
class TorchOptimizerRegistry(OptimizerRegistry):
    """The state of an Adam, AdamW or SGD.

    Raises:
        UnsupportedError: another optimizer, or one that trains tensors that are no parameters of the model.
    """

    adapter: ClassVar[str] = "torch-optim"
    in_place: ClassVar[bool] = True
    materialises: ClassVar[bool] = True

    def __init__(self, optimizer: torch.optim.Optimizer, model: StateRegistry, /) -> None:
        if type(optimizer) not in _KEPT:
            names = ", ".join(cls.__name__ for cls in _KEPT)
            message = f"the state of a {type(optimizer).__module__}.{type(optimizer).__qualname__} is not known"
            raise errors.UnsupportedError(message, expected=names, hint=f"known are {names}")
        self._optimizer, self._model = optimizer, model
        self._kept = _KEPT[type(optimizer)]
        self._seen: tuple[tuple[int, int], ...] = ()
        self._last = self._recount()  # what is wrong is said now

    def unwrap(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self._optimizer

    @property
    def model(self) -> StateRegistry:
        """The registry of the module."""
        return self._model

    # ---------------------------------------------------------------- structure

    def _names(self) -> dict[int, str]:
        """The canonical key of every parameter of the module, by identity."""
        found = dict(self._model.unwrap().named_parameters(remove_duplicate=False))
        aliases = self._model.aliases
        return {
            id(found[dotted(key)]): aliases.get(key, key) for key in (*self._model, *aliases) if dotted(key) in found
        }

    def _cells(self) -> dict[str, _Cell]:
        """Every place by key, parameters in the order in which the optimizer numbers them."""
        names, cells, strange = self._names(), {}, 0
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                key = names.get(id(parameter))
                if key is None:
                    strange += 1
                    continue
                state = self._optimizer.state.get(parameter, {})
                for name in self._kept:
                    if name in state or (parameter.requires_grad and _would_have(name, group)):
                        cells[f"{key}/{name}"] = _Cell(parameter, key, name, group)
        if strange:
            message = f"the optimizer trains {strange} tensors that are no parameters of the model"
            hint = "pass the very module whose parameters() the optimizer was made with"
            raise errors.UnsupportedError(message, hint=hint)
        return cells

    def _tensor(self, cell: _Cell) -> torch.Tensor | None:
        found = self._optimizer.state.get(cell.parameter, {}).get(cell.name)
        return found if isinstance(found, torch.Tensor) else None  # SGD notes `None` for no momentum yet

    def _entries(self) -> Mapping[str, Entry]:
        return {key: self._entry(cell) for key, cell in self._recount().items()}

    def _recount(self) -> dict[str, _Cell]:
        self._seen, self._last = self._groups(), self._cells()
        return self._last

    def _groups(self) -> tuple[tuple[int, int], ...]:
        """What tells that the optimizer has other groups, or more parameters in one, than when it was last walked."""
        return tuple((id(group), len(group["params"])) for group in self._optimizer.param_groups)

    def _find(self, key: str, /) -> Entry | None:
        cell = self._last.get(key)  # a walk for each key would take a square of the parameters
        if cell is None or self._seen != self._groups():
            return self._entries().get(key)
        if self._tensor(cell) is None and not cell.parameter.requires_grad:
            return self._entries().get(key)
        return self._entry(cell)

    def _entry(self, cell: _Cell) -> Entry:
        tensor = self._tensor(cell)
        made = _made_by_update(cell) if tensor is None else tensor
        shape, dtype = tuple(int(size) for size in made.shape), bits.NAMES[made.dtype]
        concrete = tensor is not None and not tensor.is_meta
        return Entry(Kind.BUFFER, shape, dtype, trainable=False, concrete=concrete, tag=cell.name)

    def _opaque(self) -> Mapping[str, str]:
        names = self._names()
        return {
            f"{names[id(parameter)]}/{name}": f"{type(self._optimizer).__name__} keeps no {name!r} that is known"
            for parameter, state in self._optimizer.state.items()
            if id(parameter) in names
            for name in state
            if name not in self._kept
        }

    @property
    def places(self) -> Mapping[str, Place]:
        """What every entry is of which parameter."""
        return {key: Place(self._kept[cell.name], (cell.key,)) for key, cell in self._cells().items()}

    @property
    def settings(self) -> Mapping[str, object]:
        """Of the parameter groups; where groups differ, the values in their order."""
        rows = [_settings_of(type(self._optimizer), group) for group in self._optimizer.param_groups]
        columns = {name: tuple(row[name] for row in rows) for name in rows[0]}
        return {name: all_[0] if len(set(all_)) == 1 else all_ for name, all_ in columns.items()}

    # ---------------------------------------------------------------- values

    def _read(self, key: str, /) -> np.ndarray:
        tensor = self._tensor(self._last[key])
        assert tensor is not None  # abstract entries are refused by the core
        return bits.lend(tensor)

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        return bits.lend(value) if isinstance(value, torch.Tensor) else np.asarray(value)

    def _stage(self, key: str, value: np.ndarray, /) -> _Staged:
        cell = self._last[key]
        tensor, wanted = self._tensor(cell), bits.adopt(value)
        if tensor is not None and not tensor.is_meta:
            place = tensor
            return _Staged(lambda: bits.overwrite(place, wanted), cell)
        fresh = _made_by_update(cell)
        bits.overwrite(fresh, wanted)
        state = self._optimizer.state

        def put() -> None:
            state[cell.parameter][cell.name] = fresh

        return _Staged(put, cell, makes=True)

    def _backup(self, key: str, /) -> _Staged:
        cell = self._last[key]
        if self._tensor(cell) is not None:
            staged: _Staged = super()._backup(key)
            return staged
        state = self._optimizer.state

        def take_away() -> None:
            state[cell.parameter].pop(cell.name, None)
            if not state[cell.parameter]:
                del state[cell.parameter]

        return _Staged(take_away, cell)

    def _commit(self, staged: Mapping[str, _Staged], /) -> Self:
        self._refuse_halves(staged)
        for value in staged.values():
            value.commit()
        return self

    def _refuse_halves(self, staged: Mapping[str, _Staged]) -> None:
        """Refuse to make a part of what an update makes at once: torch would take it for all."""
        made = {key for key, value in staged.items() if value.makes}
        touched = {staged[key].cell.key for key in made}
        cells = self._cells().items()
        short = [k for k, cell in cells if cell.key in touched and k not in made and self._tensor(cell) is None]
        if short:
            message = f"{len(short)} entries would be left without values beside new ones: {', '.join(short[:5])}"
            hint = "give values to all that the optimizer keeps of a parameter"
            raise errors.AbstractError(message, keys=tuple(short), hint=hint)

    def _same(self, key: str, backup: Any) -> bool:
        cell = self._last[key]
        return self._tensor(cell) is None if not backup.makes else super()._same(key, backup)


def _would_have(name: str, group: Mapping[str, Any]) -> bool:
    """Whether an update would make this of a parameter of the group."""
    if name == "max_exp_avg_sq":
        return bool(group["amsgrad"])
    return name != "momentum_buffer" or group["momentum"] != 0


def _made_by_update(cell: _Cell) -> torch.Tensor:
    """A tensor as the first update makes it: torch/optim/adam.py, `_init_group`, and sgd.py."""
    parameter, group = cell.parameter, cell.group
    if cell.name == "step":
        beside = group.get("capturable") or group.get("fused")
        # What `torch.optim.optimizer._get_scalar_dtype` says.
        dtype = (
            torch.float64 if torch.get_default_dtype() == torch.float64 and not group.get("fused") else torch.float32
        )
        return torch.zeros((), dtype=dtype, device=parameter.device if beside else "cpu")
    return torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _settings_of(kind: type, group: Mapping[str, Any]) -> dict[str, object]:
    """The hyper-parameters of one group, in words that optimizers share."""
    found: dict[str, object] = {"learning_rate": _number(group["lr"])}
    if kind is torch.optim.SGD:
        found |= {name: group[name] for name in ("momentum", "dampening", "nesterov")}
    else:
        found |= dict(zip(("b1", "b2"), map(_number, group["betas"]), strict=True))
        found |= {"eps": group["eps"], "decoupled": group.get("decoupled_weight_decay", kind is torch.optim.AdamW)}
    return {**found, "weight_decay": group["weight_decay"]}
