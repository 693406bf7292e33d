"""Declared layer types: what an adapter knows of which types of module are layers, and what its users add to that.

A framework has one `DeclaredTypes`: rows by type, or by name for types that need not be importable. A subclass counts as its
base as long as it leaves the methods alone that compute. What a declaration returns is held against the vocabulary
before anybody uses it. Looks types up and calls declarations; knows no framework, so an adapter's `register_layer` is a
docstring and one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, final

from stateregistry.errors import AdapterError, AxesError
from stateregistry.keys import split
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES, WRAPPERS, Holder, Layer, Piece, a_kind

#: What a module is: a layer, several, or `None` for none.
Builder = Callable[[Any], Layer | Iterable[Layer] | None]

_ENDINGS: Final = tuple(ending for endings in WRAPPERS.values() for ending in endings if ending)


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What a type is.

    Attributes:
        build: from a module to its layers.
        methods: what a subclass must leave alone to count as the type; `None` for the methods that compute in the framework.
        shapes: what shapes its arrays have by its own config, by name, where nothing else tells a stacked module from a
            plain one. `None`: the declared axes say how many there are.
        strict: an array that contradicts the declaration is an error; else the module is no layer then.
    """

    build: Builder
    methods: tuple[str, ...] | None = None
    shapes: Callable[[Any], Mapping[str, tuple[int, ...]]] | None = None
    strict: bool = False


def bare(_: Any) -> None:
    """A declaration: its parameters are parameters of their own, as a class token or a layer scale is."""


def qualified(target: type | str, /) -> str:
    """A type as `module.Class`, where it is defined."""
    return target if isinstance(target, str) else f"{target.__module__}.{target.__qualname__}"


@final
class DeclaredTypes:
    """Which types of one framework are layers, beside those of its own table.

    Args:
        rows: types of well-known packages, by qualified name.
        methods: the methods in which a module of the framework computes.
        modules: the base classes of its modules, of what is loaded.
        noun: what its modules are called: `"torch modules"`.
        bare: how a user of the adapter writes `bare`.
    """

    def __init__(
        self,
        rows: Mapping[type | str, Row],
        *,
        methods: tuple[str, ...],
        modules: Callable[[], tuple[type, ...]],
        noun: str,
        bare: str,
    ) -> None:
        self.rows = dict(rows)
        self.methods = methods
        self._modules, self._noun, self._bare = modules, noun, bare

    def register(self, target: type | str, build: Builder, /, methods: tuple[str, ...]) -> None:
        """Say what a type is from now on; the last word is valid.

        Args:
            target: the type, or its name as `module.Class` where it is defined; the class need not be importable.
            build: called with a module of the type. It returns a `Layer` whose `path` is `""` (or, for one module that is
                several layers, different names), and whose pieces are named relative to the module; `None` for no layer.
            methods: what a subclass must leave alone to count as this type.

        Raises:
            AdapterError: no type of module, a name without a module, no function, or a method that the type lacks.
        """
        if isinstance(target, str):
            if not all(part.isidentifier() or part == "<locals>" for part in target.split(".")) or "." not in target:
                message = f"register_layer: {target!r} is no qualified name of a class"
                raise AdapterError(message, hint="write it as package.module.Class, where the class is defined")
        elif not (isinstance(target, type) and issubclass(target, self._modules())):
            message = f"register_layer: {target!r} is neither a type of {self._noun} nor the name of one"
            raise AdapterError(message, hint="pass the class itself, or its qualified name as a string")
        else:
            _refuse_unknown(target, methods)
        if not callable(build):
            message = f"register_layer: the declaration of {qualified(target)} is {build!r}, not a function of a module"
            raise AdapterError(message, hint=f"pass a function that returns a Layer, or {self._bare}")
        for other in [known for known in self.rows if qualified(known) == qualified(target)]:
            if isinstance(other, str) or isinstance(target, str) or other is target:
                del self.rows[other]
        self.rows[target] = Row(build, methods, strict=True)

    def registered(self, cls: type, /) -> Row | None:
        """What was declared for exactly this type, `None` for nothing.

        Raises:
            AdapterError: it was declared by name with methods that the type lacks.
        """
        row = self.rows.get(cls)
        if row is not None:
            return row
        row = self.rows.get(qualified(cls))
        if row is not None and row.methods:
            _refuse_unknown(cls, row.methods)
        return row

    def row_of(self, cls: type, table: Mapping[type, Row], /) -> Row | None:
        """The row that a type counts as: its own, or that of a base whose methods it leaves alone; `None` for none.

        Args:
            cls: the type.
            table: the rows of the framework's own types; what was declared here goes before them.
        """
        for base in cls.__mro__:
            row = self.registered(base) or table.get(base)
            if row is not None:
                methods = self.methods if row.methods is None else row.methods
                return row if all(_method(cls, name) is _method(base, name) for name in methods) else None
        return None

    def holder(self, cls: type, path: str, table: Mapping[type, Row], no_layers: Mapping[type, str]) -> Holder:
        """A module of a type, as what holds entries.

        Args:
            cls, path: the type, and where the module is.
            table: as for `row_of`.
            no_layers: types that are never a layer, with the reason.
        """
        row = self.row_of(cls, table)
        is_bare = row is not None and row.build is bare
        reason = no_layers.get(cls, "") if row is None else ""
        return Holder(qualified(cls), path, is_bare, (row is not None and not is_bare) or bool(reason), reason)


def layers_by(row: Row, module: Any, path: str, cls: type) -> tuple[Layer, ...]:
    """What the declaration of a type says of one module: its layers, with pieces that the vocabulary has for their kinds.

    Args:
        row: of the type `cls`.
        module: what is declared.
        path: where it is, for messages.
        cls: its type.

    Raises:
        AdapterError: the declaration fails, or returns what is no layer.
        AxesError: a piece has other roles or axes than its kind.
    """
    try:
        made = row.build(module)
        several = () if made is None else (made,) if isinstance(made, Layer) else tuple(made)
    except Exception as error:
        where = repr(path) if path else "the model"
        message = f"the declaration of {qualified(cls)} fails on {where}: {type(error).__name__}: {error}"
        raise AdapterError(message, keys=(path,), hint="see register_layer") from error
    names = [one.path if isinstance(one, Layer) else None for one in several]
    if None in names or len(set(names)) != len(names):
        message = f"the declaration of {qualified(cls)} gives {several!r}, expected Layers with different paths"
        raise AdapterError(message, keys=(path,), hint="see register_layer")
    for layer in several:
        wrong = _wrong(layer.kind, layer.pieces)
        if wrong:
            message = f"{path or '(the model)'} ({qualified(cls)}): the declaration of the type is wrong: {wrong}"
            hint = "mend the declaration that register_layer was given: see it, and the spec, chapter Layers"
            raise AxesError(message, keys=(path,), hint=hint)
    return several


@lru_cache(maxsize=1024)
def _wrong(kind: str, pieces: tuple[Piece, ...]) -> str:
    """What is wrong with the pieces of a layer of a kind; empty for nothing."""
    roles = ROLES.get(kind)
    if roles is None:
        return f"no layer kind {kind!r}; there are {', '.join(ROLES)}"
    for piece in pieces:
        try:
            split(piece.name)
            held, mine = tuple(piece.parts), _families(piece.axes)
        except ValueError as error:  # a name that is no key, axes that do not parse, parts without a role
            return f"{piece.name}: {error}"
        for role in (one for name in held for one in name.split("+")):
            plain = next((role.removesuffix(end) for end in _ENDINGS if role.endswith(end)), role)
            if role not in roles and plain not in roles:
                return f"{piece.name}: {a_kind(kind)} has no role {role!r}; it has {', '.join(roles)}"
            if role in roles and mine != _families(roles[role]):  # which axes a wrapper keeps is its own business
                of = f"of {a_kind(kind)} has the axes {roles[role]!r}"
                return f"{piece.name}: the role {role!r} {of}, declared {piece.axes!r}"
    return ""


def _families(pattern: str) -> set[str]:
    """The names of axes, those of one family once."""
    return {atom.name.partition(".")[0] for group in axes.parse(pattern) for atom in group.atoms}


def _refuse_unknown(cls: type, methods: tuple[str, ...]) -> None:
    unknown = [name for name in methods if not hasattr(cls, name)]
    if unknown:
        message = f"register_layer: {qualified(cls)} has no method {', '.join(unknown)}"
        raise AdapterError(message, hint="methods= names what a subclass must leave alone to count as this type")


def _method(cls: type, name: str) -> object:
    """A method as the class has it.

    A lookup gives another object each time where it belongs to the metaclass, as `__call__` does of a module without one.
    """
    return inspect.getattr_static(cls, name, None)
