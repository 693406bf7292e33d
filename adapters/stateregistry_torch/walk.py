"""The walk over a module: every registered tensor under every one of its names, in order of declaration.

It goes over `_parameters`, `_buffers` and `_modules` itself: `state_dict` renames by hooks and leaves out what is not
persistent, and `named_parameters` hides further names of a tie. It has no effect and looks into no tensor. Refuses empty
names, names used twice, and modules that contain themselves. Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, final

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from stateregistry import errors
from stateregistry.keys import escape

EXTRA_STATE: Final = "_extra_state"
#: Ways of saving that add nothing to what is registered, or never save.
_SAVE: Final = (nn.Module._save_to_state_dict, LazyModuleMixin._save_to_state_dict)  # noqa: SLF001  # to see overrides


@final
class Walk:
    """What a walk found, in native order, as columns: an object per tensor would cost more than the walk itself.

    Attributes:
        modules, above, called, prefixes: one row per name of a module: the object, the row of the module that it is in
            (the root is row 0), its name there, and what its keys begin with (`""` or ending in `/`).
        keys, tensors, owners, names, parameter, persistent: one row per name of a tensor: its key, the object, the row
            of its module, its name there, whether it is registered as a parameter, and whether it is saved.
        opaque: state that is no tensor, by key, with the reason.
    """

    __slots__ = (
        "above", "called", "keys", "modules", "names", "opaque", "owners", "parameter", "persistent", "prefixes", "tensors",
    )  # fmt: skip

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.above: list[int] = []
        self.called: list[str] = []
        self.prefixes: list[str] = []
        self.keys: list[str] = []
        self.tensors: list[torch.Tensor] = []
        self.owners: list[int] = []
        self.names: list[str] = []
        self.parameter: list[bool] = []
        self.persistent: list[bool] = []
        self.opaque: dict[str, str] = {}

    def has(self, row: int, /) -> bool:
        """Whether the root still has the tensor of a row, the same object in the same place; costs its depth."""
        owner, name, modules = self.owners[row], self.names[row], self.modules
        module = modules[owner]
        try:
            if self.parameter[row]:
                found: object = module._parameters[name]  # noqa: SLF001  # the registry of torch itself
            else:
                found = module._buffers[name]  # noqa: SLF001
                if (name in module._non_persistent_buffers_set) is self.persistent[row]:  # noqa: SLF001
                    return False
            if found is not self.tensors[row]:
                return False
            while owner:
                owner, name = self.above[owner], self.called[owner]
                outer = modules[owner]
                if outer._modules[name] is not module:  # noqa: SLF001
                    return False
                module = outer
        except KeyError:
            return False
        return True

    def dotted(self, row: int, /) -> str:
        """The name of the tensor of a row as `named_parameters` spells it."""
        steps, owner = [self.names[row]], self.owners[row]
        while owner:
            steps.append(self.called[owner])
            owner = self.above[owner]
        return ".".join(reversed(steps))


@final
class _Spelled(dict[str, str]):
    """Native names as key segments: models repeat few names many times."""

    def __missing__(self, name: str) -> str:
        self[name] = spelled = escape(name)
        return spelled


@final
class _SavesMore(dict[type[nn.Module], bool]):
    """Whether a class saves state beside the tensors that it registers."""

    def __missing__(self, cls: type[nn.Module]) -> bool:
        more = cls.get_extra_state is not nn.Module.get_extra_state or cls._save_to_state_dict not in _SAVE
        self[cls] = more
        return more


def walk(root: nn.Module, /) -> Walk:
    """Walk over a module and everything inside it. A shared module is visited under each of its names.

    Raises:
        KeyPathError: an empty name. DuplicateKeyError: one name for two things.
        UnsupportedError: a module inside itself, or one whose `__init__` was not run.
    """
    found, spelled = Walk(), _Spelled()
    keys, tensors, owners, names = found.keys, found.tensors, found.owners, found.names
    is_parameter, is_persistent, modules, prefixes = found.parameter, found.persistent, found.modules, found.prefixes
    seen: set[int] = set()
    saves_more = _SavesMore()
    waiting, outers, called = [root], [0], [""]
    while waiting:
        module, outer, step = waiting.pop(), outers.pop(), called.pop()
        here = len(modules)
        prefix = f"{prefixes[outer]}{escape(step)}/" if here else ""
        if id(module) in seen:
            _refuse_cycle(found, module, outer, prefix)
        seen.add(id(module))
        modules.append(module)
        prefixes.append(prefix)
        found.above.append(outer)
        found.called.append(step)
        try:
            parameters, buffers = module._parameters, module._buffers  # noqa: SLF001
            transient, children = module._non_persistent_buffers_set, module._modules  # noqa: SLF001
        except AttributeError as error:
            raise _uninitialised(module, prefix[:-1]) from error
        for name, tensor in parameters.items():
            if tensor is not None:
                keys.append(prefix + spelled[name])
                tensors.append(tensor)
                owners.append(here)
                names.append(name)
                is_parameter.append(True)
                is_persistent.append(True)
        if buffers:
            for name, buffer in buffers.items():
                if buffer is not None:
                    keys.append(prefix + spelled[name])
                    tensors.append(buffer)
                    owners.append(here)
                    names.append(name)
                    is_parameter.append(False)
                    is_persistent.append(name not in transient)
        if saves_more[type(module)]:
            _add_opaque(module, here, prefix, found)
        if buffers or children:
            _refuse_shared_names(module, prefix)
        if children:
            inner = [child for child in children.values() if child is not None]
            waiting += reversed(inner)  # the first one is on top
            called += reversed([name for name, child in children.items() if child is not None])
            outers += [here] * len(inner)
    return found


def _uninitialised(module: nn.Module, key: str) -> errors.UnsupportedError:
    message = f"the module {key!r} ({type(module).__name__}) is not initialised"
    return errors.UnsupportedError(message, keys=(key,), hint="call super().__init__() first in its __init__")


def _refuse_shared_names(module: nn.Module, prefix: str) -> None:
    """Refuse a name that is in two of the tables of a module; torch's own methods never let that happen."""
    parameters, buffers, children = module._parameters, module._buffers, module._modules  # noqa: SLF001
    for name in buffers.keys():  # noqa: SIM118  # the tables of a ScriptModule are no mappings
        if name in parameters and parameters[name] is not None and buffers[name] is not None:
            raise _used_twice(prefix + escape(name), "a parameter and a buffer")
    for name in children.keys():  # noqa: SIM118
        for table in (parameters, buffers):
            if name in table and table[name] is not None and children[name] is not None:
                raise _used_twice(prefix + escape(name), "a tensor and a module")


def _used_twice(key: str, what: str) -> errors.DuplicateKeyError:
    message = f"{key!r} is at once {what}"
    hint = "rename one: register_parameter, register_buffer and add_module would have refused the second"
    return errors.DuplicateKeyError(message, keys=(key,), hint=hint)


def _refuse_cycle(found: Walk, module: nn.Module, outer: int, prefix: str) -> None:
    while True:
        if found.modules[outer] is module:
            key = prefix[:-1]
            message = f"the module {key!r} ({type(module).__name__}) contains itself: its names would never end"
            hint = "do not register a parent as a child: keep the reference in a tuple or a weakref"
            raise errors.UnsupportedError(message, keys=(key,), hint=hint)
        if not outer:
            return
        outer = found.above[outer]


def _add_opaque(module: nn.Module, here: int, prefix: str, found: Walk) -> None:
    cls = type(module)
    reasons: dict[str, str] = {}
    if cls.get_extra_state is not nn.Module.get_extra_state:
        reasons[EXTRA_STATE] = f"what {cls.__name__}.get_extra_state returns, an object of any type"
    if cls._save_to_state_dict not in _SAVE:
        for name in _saved_names(module):
            reasons.setdefault(name, f"saved by {cls.__name__} itself, registered nowhere")
    own = {name for row, name in enumerate(found.names) if found.owners[row] == here}
    for name, reason in reasons.items():
        if name in own or name in module._modules:  # noqa: SLF001
            raise _used_twice(prefix + escape(name), "a tensor or module and state of another kind")
        found.opaque[prefix + escape(name)] = reason


def _saved_names(module: nn.Module) -> Iterator[str]:
    """The names that a class with a way of its own saves, beside the tensors that it registers."""
    saved: dict[str, Any] = {}
    save: Any = module._save_to_state_dict  # noqa: SLF001
    try:
        save(saved, "", keep_vars=True)
    except Exception:  # noqa: BLE001  # any code may stand there: what it would have saved is unknown, and said to be
        yield "_save_to_state_dict"
    for name in saved:
        if name not in module._parameters and name not in module._buffers and name != EXTRA_STATE:  # noqa: SLF001
            yield name
