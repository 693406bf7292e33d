"""Observing: the calls of the layers of a torch module while its owner runs it, by forward hooks.

The hooks are the last ones of every module, see what it really takes and gives, copy it at once (what comes after may work
in place), change nothing, and are removed however the run ends. What torch computes past its modules would not be seen:
functions that were compiled by `torch.compile` run eagerly meanwhile, and the fast path of transformer layers is off.
Imports torch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn

from stateregistry.layers.calls import Call, Observation
from stateregistry_torch.activations import Unreadable, arguments, inputs_of, mode_of, output_of, unseen_of
from stateregistry_torch.walk import walk

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry

_Stages = tuple[tuple[str, ...], ...]


@contextlib.contextmanager
def observed(registry: StateRegistry, *, compiled: bool) -> Iterator[Observation]:
    """Watch the layers of the module of a registry. See `SupportsObservation`."""
    found = Observation()
    with contextlib.ExitStack() as stack:
        for module, stages in _modules(registry):
            watch = _Watch(found, stages)
            before = module.register_forward_pre_hook(watch.before, with_kwargs=True)
            stack.callback(before.remove)
            after = module.register_forward_hook(watch.after, with_kwargs=True)
            stack.callback(after.remove)
        _show_modules(stack, compiled=compiled)
        yield found


def _show_modules(stack: contextlib.ExitStack, *, compiled: bool) -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
    torch.backends.mha.set_fastpath_enabled(False)
    # Nothing is compiled by a compiler that was never loaded, and to load it takes seconds. Older versions of torch have
    # no such switch: there hooks that come after the compiler see nothing, which the result says.
    if not compiled and "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        stack.enter_context(torch.compiler.set_stance("force_eager"))


def _modules(registry: StateRegistry) -> Iterator[tuple[nn.Module, _Stages]]:
    """Every module that is a layer, or several, with the paths that they have; a shared module once, under its first."""
    found = walk(registry.unwrap())
    modules = {prefix[:-1]: module for prefix, module in zip(found.prefixes, found.modules, strict=True)}
    homes: dict[str, list[Layer]] = {}
    for layer in registry.layers:
        homes.setdefault(layer.path if layer.base is None else layer.base, []).append(layer)
    done: set[int] = set()
    for home, layers in homes.items():
        module = modules.get(home)
        if module is not None and id(module) not in done:
            done.add(id(module))
            yield module, _stages(module, [layer.path for layer in layers])


def _stages(module: nn.Module, paths: list[str]) -> _Stages:
    """What runs one after the other inside of a module, and what side by side."""
    if isinstance(module, nn.RNNBase):
        width = 2 if module.bidirectional else 1
        return tuple(tuple(paths[start : start + width]) for start in range(0, len(paths), width))
    return (tuple(paths),)


@final
class _Watch:
    """The hooks of one module."""

    def __init__(self, found: Observation, stages: _Stages) -> None:
        self._found, self._stages = found, stages
        self._running: list[tuple[int, Any]] = []

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note that a call begins, and what it is given."""
        place = self._found.begin()
        try:
            given = arguments(module, args, kwargs)
            seen = Call(
                self._stages, inputs_of(module, given), None, mode=mode_of(module), unseen=unseen_of(module, given)
            )
        except Unreadable as reason:
            self._refuse(str(reason))
            self._running.append((place, None))
        else:
            self._running.append((place, seen))

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> None:
        """Note what the call that began last has given."""
        place, seen = self._running.pop()
        if seen is None:
            return
        try:
            output = output_of(module, value)
        except Unreadable as reason:
            self._refuse(str(reason))
            return
        self._found.end(place, Call(seen.layers, seen.inputs, output, mode=seen.mode, unseen=seen.unseen))

    def _refuse(self, reason: str) -> None:
        for path in (path for stage in self._stages for path in stage):
            self._found.refuse(path, reason)
