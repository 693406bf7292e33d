"""Which part of a torch file is the state: a mapping of names to tensors, never guessed.

A file whose root is such a mapping is opened as it is. A file that holds several states, as trainers write them
(`{"model": ..., "optimizer": ...}`), is refused with the list of what it holds; the caller names one of them by its
sub-key. Imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from stateregistry import errors
from stateregistry.stores.pickle_machine import Function, Name, Other, Table
from stateregistry.stores.torch_objects import Absent, Opaque, Storage, StorageType, Tensor, TorchDtype

if TYPE_CHECKING:
    from stateregistry.stores.limits import Limits

#: The sub-key that means the root itself, whatever else it holds.
ROOT = "."
_ARRAYS = (Tensor, Absent, Opaque)
_EXTRA = "_extra_state"


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """A mapping inside the file that holds tensors by name."""

    path: str
    tensors: int


def select_state(root: object, part: str, where: str, limits: Limits) -> Table:
    """The mapping of names to tensors that is asked for.

    Args:
        root: what the file holds.
        part: the sub-key, names joined by `.`; empty for the root, if that is a state and nothing else.

    Raises:
        FileFormatError: there is no such part, or it is not a mapping; the message lists the parts that are.
    """
    found = root if part in ("", ROOT) else _descend(root, part, where, limits)
    prefix = "" if part in ("", ROOT) else part
    if not isinstance(found, Table):
        raise _no_state(f"holds {_kind(found)}", found, prefix, where, limits)
    strange = next((key for key in found if not isinstance(key, str)), None)
    if strange is not None:
        what = f"holds a mapping with keys that are no names ({type(strange).__name__})"
        raise _no_state(what, found, prefix, where, limits)
    if part == ROOT:
        return found
    inner = [(key, value) for key, value in found.items() if not key.endswith(_EXTRA) and _is_container(value)]
    below = _candidates(inner, limits)
    if below:
        alone = len(below) == 1 and not any(isinstance(value, _ARRAYS) for value in found.values())
        what = "holds its state further down" if alone else "holds more than one state"
        raise _no_state(what, found, prefix, where, limits)
    return found


def describe_opaque(name: str, value: object) -> str:
    """Why a value of a state is not an entry."""
    if isinstance(value, Opaque):
        return value.reason
    if name.endswith(_EXTRA):
        return f"extra state of a module, {_kind(value)}"
    return f"{_kind(value)}, not a tensor"


def _kind(value: object) -> str:
    if isinstance(value, _ARRAYS):
        return "a single tensor without a name"
    if isinstance(value, Table):
        return f"a mapping of {len(value)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Other):
        return value.what
    if isinstance(value, Storage):
        return "a storage without a tensor"
    if isinstance(value, (TorchDtype, StorageType, Name, Function)):
        return "a name of torch"
    return f"a Python {type(value).__name__}"


def _children(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Table):
        return [(str(key), child) for key, child in value.items() if isinstance(key, (str, int))]
    if isinstance(value, (list, tuple)):
        return [(str(index), child) for index, child in enumerate(value)]
    return []


def _descend(value: object, part: str, where: str, limits: Limits) -> object:
    """The value under a sub-key. Names may have dots themselves: every way to cut the sub-key is tried."""
    found: list[object] = []
    todo: list[tuple[object, str, int]] = [(value, part, 0)]
    while todo:
        node, rest, depth = todo.pop()
        if depth > limits.nesting:
            continue
        for name, child in _children(node):
            if name == rest:
                found.append(child)
            elif rest.startswith(f"{name}."):
                todo.append((child, rest[len(name) + 1 :], depth + 1))
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{where}: the sub-key {part!r} can be read in {len(found)} ways"
        raise errors.FileFormatError(message, hint="take the state out of the file in the program that made it")
    raise _no_state(f"has no part {part!r}", value, "", where, limits)


def _is_container(value: object) -> bool:
    return isinstance(value, (Table, list, tuple))


def _is_named(node: object) -> bool:
    """Whether a container gives names to what it holds, so that it can be a state."""
    return isinstance(node, Table) and all(isinstance(key, str) for key in node)


def _candidates(roots: list[tuple[str, object]], limits: Limits, *, named: bool = False) -> list[Candidate]:
    """Every container among the roots and below them that holds tensors directly, by its path; or such with names alone.

    Each container is looked at once: a file may hold one in a million places, or inside itself.
    """
    found = []
    seen: set[int] = set()
    todo = [(path, value, 0) for path, value in reversed(roots)]
    while todo:
        path, node, depth = todo.pop()
        if id(node) in seen or depth > limits.nesting:
            continue
        seen.add(id(node))
        children = _children(node)
        count = sum(isinstance(child, _ARRAYS) for _, child in children)
        if count and (_is_named(node) or not named):
            found.append(Candidate(path or ROOT, count))
        prefix = f"{path}." if path else ""
        inner = [(f"{prefix}{name}", child, depth + 1) for name, child in children if _is_container(child)]
        todo.extend(reversed(inner))
    return found


def _no_state(what: str, value: object, prefix: str, where: str, limits: Limits) -> errors.FileFormatError:
    found = _candidates([(prefix, value)], limits, named=True)
    if not found:
        hint = "save the state itself: torch.save(model.state_dict(), path)"
        return errors.FileFormatError(f"{where}: {what}, and no mapping of names to tensors in it", hint=hint)
    found = sorted(found, key=lambda candidate: -candidate.tensors)
    lines = [f"{where}: {what}; tensors by name are in"]
    lines += [f"  {one.path}: {one.tensors} tensor{'s' if one.tensors > 1 else ''}" for one in found[:8]]
    if len(found) > 8:
        lines.append(f"  ... and {len(found) - 8} more places with fewer")
    paths = tuple(candidate.path for candidate in found)
    which = "name it" if len(paths) == 1 else "say which one"
    hint = f"{which}: sr.open({f'{where}::{paths[0]}'!r})"
    return errors.FileFormatError("\n".join(lines), found=paths, hint=hint)
