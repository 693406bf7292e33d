"""Module: a small model in plain NumPy, to teach with and to test against.

Parameters, buffers and submodules are members, in the order in which they were registered; one cell or module under two
names is a tie. A plain array attribute is not state. The tree is walked without recursion, shared modules once per path.
Refuses empty names and names that are taken. Imports NumPy and the errors of the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stateregistry import errors, keys
from stateregistry_numpy.cells import Abstract, Buffer, Cell, Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from stateregistry_numpy.tree import FrozenModel

Member: TypeAlias = "Cell | Module | None"


class Module:
    """A model: parameters, buffers and submodules by name.

    `self.weight = Parameter(array)`, `self.mean = Buffer(array)` and `self.child = Module()` register; so do
    `register_parameter`, `register_buffer` and `add_module`, which take any non-empty name. `self.cache = array` is a
    plain attribute and not state, except where the name is that of a buffer: then the buffer gets the array.
    """

    _members: dict[str, Member]

    def __init__(self) -> None:
        object.__setattr__(self, "_members", {})

    # ---------------------------------------------------------------- registering

    def register_parameter(
        self, name: str, value: Parameter | ArrayLike | Abstract | None, *, trainable: bool = True
    ) -> None:
        """Register a parameter: an array (copied), a `Parameter` (shared), or `None` for a place left empty.

        Raises:
            KeyPathError: the name is empty or not a `str`. DuplicateKeyError: the name is taken.
        """
        if value is not None and not isinstance(value, Parameter):
            value = Parameter(value, trainable)
        self._register(name, value)

    def register_buffer(
        self, name: str, value: Buffer | ArrayLike | Abstract | None, *, persistent: bool = True
    ) -> None:
        """Register a buffer: an array (copied), a `Buffer` (shared), or `None` for a place left empty.

        Raises:
            KeyPathError: the name is empty or not a `str`. DuplicateKeyError: the name is taken.
        """
        if value is not None and not isinstance(value, Buffer):
            value = Buffer(value, persistent)
        self._register(name, value)

    def add_module(self, name: str, module: Module | None) -> None:
        """Register a submodule, or `None` for a place left empty.

        Raises:
            KeyPathError: the name is empty or not a `str`. DuplicateKeyError: the name is taken.
        """
        self._register(name, module)

    def _register(self, name: str, member: Member) -> None:
        keys.escape(name)  # refuses the empty name
        # A name of the class itself (`forward`) may be registered: `find` and `members` reach it, attributes do not.
        if name in self._members or name in self.__dict__:
            message = f"{type(self).__name__} already has an attribute {name!r}"
            raise errors.DuplicateKeyError(message, keys=(name,), hint="delete it first, or choose another name")
        self._members[name] = member

    # ---------------------------------------------------------------- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        members = self.__dict__.get("_members")
        if members is None:
            message = f"{type(self).__name__}: call super().__init__() before the first attribute is assigned"
            raise errors.UnsupportedError(message)
        if isinstance(value, (Cell, Module)):
            if name in members:
                members[name] = value
            elif hasattr(type(self), name):
                message = f"{name!r} is an attribute of the class {type(self).__name__}: assigning would not be seen"
                hint = f"choose another name, or register it with register_parameter({name!r}, ...) or the like"
                raise errors.DuplicateKeyError(message, keys=(name,), hint=hint)
            else:
                self._register(name, value)
        elif name not in members:
            object.__setattr__(self, name, value)
        elif value is None:
            members[name] = None
        elif isinstance(members[name], Buffer) and isinstance(value, np.ndarray):
            members[name].array = np.array(value, order="C", copy=True)
        else:
            message = f"cannot assign a {type(value).__name__} to {name!r}, which holds {members[name]!r}"
            hint = f"write its values with {name}.array[...] = value, or assign a Parameter, Buffer, Module or None"
            raise errors.UnsupportedError(message, keys=(name,), hint=hint)

    def __getattr__(self, name: str) -> Any:
        members = self.__dict__.get("_members", {})
        if name in members:
            return members[name]
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(message)

    def __delattr__(self, name: str) -> None:
        if name in self._members:
            del self._members[name]
        else:
            object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._members})

    # ---------------------------------------------------------------- walking

    @property
    def members(self) -> dict[str, Member]:
        """The direct members by name, in order of registration; changing the copy changes nothing."""
        return dict(self._members)

    def cells(self) -> Iterator[tuple[str, Cell]]:
        """Every cell under its key, at every place where it is reached, in order of declaration.

        Raises:
            UnsupportedError: a module contains itself.
        """
        for path, member in self._walk():
            if isinstance(member, Cell):
                yield path, member

    def modules(self) -> Iterator[tuple[str, Module]]:
        """Every module under its key (`""` for this one), at every place where it is reached, outer ones first."""
        yield "", self
        for path, member in self._walk():
            if isinstance(member, Module):
                yield path, member

    def _walk(self) -> Iterator[tuple[str, Member]]:
        # Each frame: its module, the key prefix of its members, and what is left of them. The dicts are copied, so that
        # a member that is registered meanwhile breaks nothing.
        stack: list[tuple[Module, str, Iterator[tuple[str, Member]]]]
        stack = [(self, "", iter(list(self._members.items())))]
        inside = {id(self)}
        while stack:
            module, prefix, rest = stack[-1]
            for name, member in rest:
                path = prefix + (keys.escape(name) if "/" in name or "~" in name else name)
                yield path, member
                if isinstance(member, Module):
                    if id(member) in inside:
                        message = f"the module at {path!r} contains itself: it has no finite set of keys"
                        raise errors.UnsupportedError(message, keys=(path,))
                    inside.add(id(member))
                    stack.append((member, path + "/", iter(list(member.members.items()))))
                    break
            else:
                inside.discard(id(module))
                stack.pop()

    def find(self, key: str, /) -> Member:
        """The member at a key, `None` where nothing is."""
        member: Member = self
        for segment in keys.split(key):
            if not isinstance(member, Module):
                return None
            member = member.members.get(segment)
        return member

    # ---------------------------------------------------------------- using

    def forward(self, *inputs: Any) -> Any:
        """What the model computes. Subclasses say it.

        Raises:
            UnsupportedError: this class computes nothing.
        """
        message = f"{type(self).__name__} computes nothing: it only holds state"
        raise errors.UnsupportedError(message, hint="write a forward method in a subclass")

    def __call__(self, *inputs: Any) -> Any:
        """`forward`."""
        return self.forward(*inputs)

    def freeze(self) -> FrozenModel:
        """An immutable copy of the state.

        Raises:
            KeyPathError, UnsupportedError: as for a registry over the model.
        """
        from stateregistry_numpy.tree import freeze  # the two modules know each other; this direction is lazy

        return freeze(self)

    def __repr__(self) -> str:
        # Submodules by type only: a model may be large, or wrongly contain itself.
        shown = {name: type(m).__name__ if isinstance(m, Module) else repr(m) for name, m in self._members.items()}
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


class Sequential(Module):
    """Modules applied one after the other, named `0`, `1`, ..."""

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for number, module in enumerate(modules):
            self.add_module(str(number), module)

    def forward(self, *inputs: Any) -> Any:
        """Apply every module to the result of the one before."""
        (value,) = inputs
        for member in self._members.values():
            assert isinstance(member, Module)
            value = member(value)
        return value
