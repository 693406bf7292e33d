"""The layers of a torch module: every module whose type is declared, with the pieces that it has.

A type is declared in `standard` or by `register_layer`. A subclass counts as its base as long as it leaves the methods alone
that compute. A tensor that weight_norm or spectral_norm computes is replaced by what it is computed from; one that is
computed in any other way makes its module no layer, so that its entries stand alone. Imports torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterator
from dataclasses import replace
from typing import Any, Final, final

import torch
from torch import nn
from torch.nn.utils import parametrize

from stateregistry.entry import Kind
from stateregistry.errors import AxesError
from stateregistry.keys import join, split
from stateregistry.layers import axes
from stateregistry.layers.config import contradiction, function_of
from stateregistry.layers.declared import Row, layers_by, qualified
from stateregistry.layers.vocabulary import ESSENTIAL, WRAPPERS, Holder, Lack, Layer, Piece
from stateregistry_torch.declared import DECLARED
from stateregistry_torch.standard import TYPES
from stateregistry_torch.walk import Walk
from stateregistry_torch.wrappers import wrapped

#: What a name does not say and a type does: scale and bias, or the statistics, may be all that there is.
_BY_PARTS: Final = frozenset({"batch_norm", "instance_norm"})
_ENDINGS: Final = tuple(ending for endings in WRAPPERS.values() for ending in endings if ending)


def layers_of(found: Walk, opaque: Container[str] = ()) -> tuple[Layer, ...]:
    """Every layer of a walk, in native order. What is a piece of an outer module is no layer of its own.

    Args:
        found: the walk.
        opaque: keys that are no entries; a layer with such a piece is none.

    Raises:
        AdapterError: a declaration fails, or returns what is no layer. AxesError: its axes are not those of the roles, or
            not as many as its tensors have.
    """
    layers: list[Layer] = []
    taken: set[str] = set()  # keys below a module that is a layer with them
    for prefix, module in zip(found.prefixes, found.modules, strict=True):
        for layer in layers_at(module, prefix, opaque):
            if taken and not taken.isdisjoint(layer.key(piece) for piece in layer.pieces):
                continue
            layers.append(layer)
            taken.update(layer.key(piece) for piece in layer.pieces if "/" in piece.name)
    return tuple(layers)


def holders_of(found: Walk) -> dict[str, Holder]:
    """The module of every tensor, by every key of it."""
    holders: dict[int, Holder] = {}
    rows = {prefix: row for row, prefix in reversed(tuple(enumerate(found.prefixes)))}
    for row in dict.fromkeys(found.owners):
        prefix, module = found.prefixes[row], found.modules[row]
        if isinstance(
            module, parametrize.ParametrizationList
        ):  # what it holds is that of the module it is registered at
            *above, _, _ = split(prefix[:-1])
            prefix = f"{join(*above)}/" if above else ""
            module = found.modules[rows[prefix]] if prefix in rows else module
        cls = type_of(module)
        holders[row] = DECLARED.holder(cls, prefix[:-1], TYPES, {})
    return {key: holders[row] for key, row in zip(found.keys, found.owners, strict=True)}


def row_of(cls: type, /) -> Row | None:
    """The row that a type counts as: its own, or that of a base whose methods it leaves alone; `None` for none."""
    return DECLARED.row_of(cls, TYPES)


def layers_at(module: nn.Module, prefix: str, opaque: Container[str] = ()) -> Iterator[Layer]:
    """The layers that a module is by itself: one, none, or several that hang under it.

    Args:
        module: the module.
        prefix: what its keys begin with: `""` or ending in `/`.
        opaque: as `layers_of`.

    Raises:
        AdapterError, AxesError: as `layers_of`.
    """
    cls = type_of(module)
    row = row_of(cls)
    if row is None:
        return
    home = prefix[:-1]
    for made in layers_by(row, module, home, cls):
        found = _Pieces(module, prefix, opaque)
        if not all(found.take(piece) for piece in made.pieces) or not _complete(made.kind, found.pieces):
            continue
        misfit = found.misfit()
        if misfit is not None and row.strict:
            raise _wrong_rank(home, cls, *misfit)
        if misfit is None:
            path, base = (prefix + made.path, home) if made.path else (home, None)
            layer = replace(
                made, path=path, base=base, pieces=tuple(found.pieces), type=made.type or cls.__name__,
                config={**made.config, **found.config}, lacks=(*made.lacks, *found.lacks),
            )  # fmt: skip
            wrong = contradiction(layer, found.shapes)
            if wrong:
                raise _contradicts(layer, cls, wrong)
            yield layer


def function_at(module: nn.Module, path: str) -> str:
    """What a module of a declared type computes without holding anything, in one word; empty for nothing to tell.

    Raises:
        AdapterError: as `layers_of`.
    """
    cls = type_of(module)
    row = row_of(cls)
    if row is None or next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return ""
    made = layers_by(row, module, path, cls)
    return function_of(made[0]) if len(made) == 1 else ""


def _complete(kind: str, pieces: list[Piece]) -> bool:
    """Whether a layer has what it cannot do without."""
    if kind in _BY_PARTS:
        return bool(pieces)
    roles = {role for piece in pieces for role in piece.parts}
    return bool(pieces) and all(any(role + end in roles for end in ("", *_ENDINGS)) for role in ESSENTIAL[kind])


def type_of(module: nn.Module) -> type[nn.Module]:
    """The type of a module; for a parametrized one, the type that it was given."""
    if "parametrizations" in module._modules:  # noqa: SLF001  # the registry of torch itself
        return parametrize.type_before_parametrizations(module)
    return type(module)


def _wrong_rank(path: str, cls: type, piece: Piece, rank: int) -> AxesError:
    message = (
        f"{path or '(the model)'} ({qualified(cls)}): {piece.name} has {rank} axes, and {piece.axes!r} was declared"
    )
    hint = "mend the declaration that register_layer was given for the type"
    return AxesError(message, keys=(path,), expected=piece.axes, found=rank, hint=hint)


def _contradicts(layer: Layer, cls: type, wrong: str) -> AxesError:
    message = f"{layer.path or '(the model)'} ({qualified(cls)}): the config contradicts the state: {wrong}"
    hint = "one of the two was changed after the module was made: make it anew with the config that its arrays have"
    return AxesError(message, keys=tuple(layer.key(piece) for piece in layer.pieces), hint=hint)


@final
class _Pieces:
    """The pieces of one layer that a module has, as they are found.

    Attributes:
        pieces, lacks: what was found, and the roles that a wrapped layer has no place for.
        shapes: of the tensors, by name of the piece.
    """

    def __init__(self, module: nn.Module, prefix: str, opaque: Container[str]) -> None:
        self.pieces: list[Piece] = []
        self.lacks: list[Lack] = []
        self._module, self._prefix, self._opaque = module, prefix, opaque
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._config: dict[str, list[str | bool]] = {}

    @property
    def config(self) -> dict[str, str | bool]:
        """What wrappers add to the config, as far as all of them say the same."""
        return {name: values[0] for name, values in self._config.items() if len(set(values)) == 1}

    def take(self, piece: Piece) -> bool:
        """Take a piece, or what it is computed from, if the module has it. Returns whether the module can be the layer."""
        owner, name = self._find(piece.name)
        if owner is None:
            return True
        table = _table(owner, piece)
        if name in table:
            return table[name] is None or self._add(piece, table[name])
        found = wrapped(owner, name, piece)
        if found is None:
            return not _has(owner, name)  # one type of a kind may lack what others have
        for config, value in found.config.items():
            self._config.setdefault(config, []).append(value)
        self.lacks += found.lacks
        head = piece.name[: piece.name.rfind("/") + 1]
        return all(self._take_part(replace(each, name=head + each.name)) for each in found.pieces)

    def _take_part(self, piece: Piece) -> bool:
        owner, name = self._find(piece.name)
        tensor = None if owner is None else _table(owner, piece).get(name)
        return tensor is not None and self._add(piece, tensor)

    def _find(self, key: str) -> tuple[nn.Module | None, str]:
        """The module that a piece is a tensor of, `None` for none, and what it is called there."""
        *parents, name = split(key)
        owner: nn.Module | None = self._module
        for parent in parents:
            owner = None if owner is None else owner._modules.get(parent)  # noqa: SLF001  # the registry of torch itself
        return owner, name

    def _add(self, piece: Piece, tensor: torch.Tensor) -> bool:
        if self._prefix + piece.name in self._opaque:
            return False
        self.pieces.append(piece)
        self.shapes[piece.name] = tuple(int(size) for size in tensor.shape)
        return True

    def misfit(self) -> tuple[Piece, int] | None:
        """The first piece whose tensor has another number of axes, with that number."""
        ranks = ((piece, len(self.shapes[piece.name])) for piece in self.pieces)
        return next(((piece, rank) for piece, rank in ranks if not axes.rank_fits(piece.axes, rank)), None)


def _table(owner: nn.Module, piece: Piece) -> Any:
    return owner._parameters if piece.kind is Kind.PARAMETER else owner._buffers  # noqa: SLF001


def _has(owner: nn.Module, name: str) -> bool:
    """Whether a module has anything of a name, other than `None`. Nothing is computed: that could change its state."""
    tables = (owner._parameters, owner._buffers, owner._modules)  # noqa: SLF001
    found = [table[name] for table in tables if name in table] or [inspect.getattr_static(owner, name, None)]
    return any(each is not None for each in found)
