"""Graph: every place of an NNX module under its native paths, found by one iterative walk.

What is a node, and what of it is data, is asked of NNX's own node protocol, so user-registered node types and
pytrees are walked as `nnx.state` walks them, only faster and in the order of declaration; every path to a shared
place is listed, and cycles (a child that knows its parent) end where they close. `Site` remembers how a place was
reached, so that it can later be found again, and be proven still there, without a walk. Imports Flax.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, final

from flax import nnx
from flax.nnx import graph as nnx_graph

from stateregistry import errors, keys
from stateregistry_flax.arrays import is_array

#: More paths than this are not walked: modules that all know one another have a path for every order of them.
MOST_PATHS = 1_000_000


@final
@dataclass(slots=True, eq=False)
class Site:
    """A step of a path: `value` was found under `name` in the container `parent`; the root has neither.

    The site of a bare array has no `value`: it is exchanged, never edited, so only the attribute that holds it lasts.
    """

    parent: Site | None
    name: Any
    value: Any

    def content(self) -> Any:
        """What the place holds now: an array, or whatever else is registered there."""
        value = self.value
        if value is None and self.parent is not None:
            value = child(self.parent.value, self.name)
        elif isinstance(value, nnx.Variable):
            value = value.get_raw_value()
        return value[...] if is_ref(value) else value

    def holds(self) -> bool:
        """Whether everything on the path is still what it was. O(depth)."""
        site = self
        if site.value is None and site.parent is not None:
            if not is_array(child(site.parent.value, site.name)):
                return False
            site = site.parent
        while site.parent is not None:
            if child(site.parent.value, site.name) is not site.value:
                return False
            site = site.parent
        return True

    def has_above(self, value: object) -> bool:
        """Whether a value is one of the containers on the path."""
        site: Site | None = self
        while site is not None:
            if site.value is value:
                return True
            site = site.parent
        return False

    def put(self, value: Any) -> None:
        """Exchange the array that the place holds; a `Variable` or `jax.Ref` stays the object that it is."""
        place = self.value
        if place is None:
            _assign(self, value)
            return
        target = place.get_raw_value() if isinstance(place, nnx.Variable) else place
        if is_ref(target):
            target[...] = value
        else:
            place.set_raw_value(value)  # raw: a hook could change the bits


@final
@dataclass(slots=True, eq=False)
class Place:
    """One place: every key of it, with the path that the key spells."""

    sites: dict[str, Site]

    @property
    def key(self) -> str:
        """The canonical key."""
        return min(self.sites)

    @property
    def site(self) -> Site:
        """The path of the canonical key."""
        return self.sites[self.key]


@final
@dataclass(slots=True, eq=False)
class Walk:
    """What one walk has found: places in order of declaration, and modules with their least path."""

    root: Any
    places: list[Place] = field(default_factory=list)
    modules: dict[int, tuple[Any, list[str]]] = field(default_factory=dict)


def walk(root: Any) -> Walk:
    """Find every place of a module.

    Raises:
        KeyPathError: an empty name. UnsupportedError: sharing so dense that the paths cannot be listed.
    """
    found = Walk(root)
    by_identity: dict[Any, Place] = {}
    nodes: dict[type[Any], Any] = {}
    stack: list[tuple[Site, str]] = [(Site(None, None, root), "")]
    count = 0
    while stack:
        site, key = stack.pop()
        value = site.value
        count += 1
        if count > MOST_PATHS:
            raise _too_dense()
        if _node(value, nodes) is None:
            identity = _identity(site)
            place = by_identity.get(identity)
            if place is None:
                place = by_identity[identity] = Place({})
                found.places.append(place)
            if type(identity) is not int:
                site.value = None
            if key in place.sites or not key:
                raise _twice(key)
            place.sites[key] = site
            continue
        if isinstance(value, nnx.Module):
            found.modules.setdefault(id(value), (value, []))[1].append(key)
        prefix = f"{key}/" if key else ""
        for name, below in reversed(children(value, nodes)):
            if below is not None and not (_node(below, nodes) is not None and site.has_above(below)):
                stack.append((Site(site, name, below), prefix + _segment(name, key)))
    return found


def _too_dense() -> errors.UnsupportedError:
    message = f"the shared modules of this model have more than {MOST_PATHS:,} paths"
    hint = (
        "modules that know one another have a path for every order of them: keep such references out of the attributes"
    )
    return errors.UnsupportedError(message, hint=hint)


def _twice(key: str) -> errors.DuplicateKeyError:
    message = f"{key!r}: an index and a digit, or two names of one container, are spelled alike"
    return errors.DuplicateKeyError(message, keys=(key,), hint="rename one")


def _segment(name: Any, where: str) -> str:
    if isinstance(name, str) and name:
        return keys.escape(name)
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if isinstance(name, tuple) and name and all(isinstance(part, (str, int)) and part != "" for part in name):
        return spelled(name)
    message = f"{name!r} below {where or 'the root'!r} is no legal name: that is a non-empty str, or an index"
    raise errors.KeyPathError(message, keys=(where,), hint="rename the member in the model")


def spelled(path: Iterable[Any]) -> str:
    """One segment for a name that is itself a path: NNX's `WeightNorm` and `SpectralNorm` name what they hold like that."""
    return keys.escape("/".join(map(str, path)))


def _node(value: Any, known: dict[type[Any], Any]) -> Any:
    """NNX's protocol for a node, `None` for a leaf. It hangs on the type alone, so `known` spares asking again."""
    kind = type(value)
    if kind not in known:
        known[kind] = nnx_graph.get_node_impl(value)
    return known[kind]


def is_ref(value: Any) -> bool:
    """Whether a value is a mutable `jax.Ref`."""
    return bool(nnx.variablelib.is_array_ref(value))


def _is_leaf(value: Any) -> bool:
    return is_array(value) or isinstance(value, nnx.Variable) or is_ref(value)


def children(node: Any, known: dict[type[Any], Any]) -> list[tuple[Any, Any]]:
    """Name and value of what a node registers as data: nodes, variables, arrays, and whatever `nnx.data` marks."""
    implementation = _node(node, known)
    if implementation is None:
        return []
    try:
        registered = implementation.flatten(node)[0]
    except Exception as error:  # a registered type is somebody's code, and NNX sorts names that cannot be sorted
        message = f"NNX cannot list what a {type(node).__name__} holds: {type(error).__name__}: {error}"
        raise errors.UnsupportedError(message, hint="give its members names that can be sorted") from error
    found = []
    for name, value in registered:
        kind = type(value)
        if kind is nnx_graph.StaticElem or name == "_pytree__state":
            continue  # NNX's own bookkeeping is marked as data, and holds none
        if kind is nnx_graph.DataElem:
            found.append((name, value.value))
        elif _node(value, known) is not None or _is_leaf(value):
            found.append((name, value))
    return _declared(node, found)


def _declared(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """In order of declaration where Python keeps it: NNX sorts the attributes of a module, a list stays as it is."""
    if not isinstance(node, nnx.Pytree) or isinstance(node, nnx.List):
        return found
    order = {name: number for number, name in enumerate(vars(node))}
    return sorted(found, key=lambda item: order.get(str(item[0]), len(order)))


def child(node: Any, name: Any) -> Any:
    """What is under one name of a node, without listing the others; `None` where there is nothing."""
    if isinstance(node, nnx.Pytree):
        return vars(node).get(str(name))
    if isinstance(node, (list, tuple)) and type(name) is int:
        return node[name] if 0 <= name < len(node) else None
    if isinstance(node, dict):
        return node.get(name)
    return next((value for key, value in children(node, {}) if key == name), None)


def resolve(root: Any, key: str) -> Any:
    """What is natively under a key, alias or not, without a walk; `None` where there is nothing."""
    node = root
    for segment in keys.split(key):
        if _node(node, {}) is None:
            return None
        below = child(node, segment)
        if below is None and segment.isdecimal():
            below = child(node, int(segment))
        if below is None and isinstance(node, dict):
            spelled_so = (name for name in node if isinstance(name, tuple) and "/".join(map(str, name)) == segment)
            below = node.get(next(spelled_so, None))
        node = below
    return node


def _identity(site: Site) -> Any:
    """What makes two paths lead to one place: the id of the variable; of a bare array the attribute that holds it."""
    if isinstance(site.value, nnx.Variable) or is_ref(site.value):
        return id(site.value)
    names: list[Any] = []
    while site.parent is not None:
        names.append(site.name)
        site = site.parent
        implementation = nnx_graph.get_node_impl(site.value)
        if implementation is not None and implementation.set_key is not None:
            break  # whoever else holds this container sees what is put into it; a tuple is rebuilt instead
    return (id(site.value), *names)


def _assign(site: Site, value: Any) -> None:
    """Put a value where a bare array or a tuple is: into its attribute, or into a rebuilt tuple, assigned in turn."""
    if site.parent is None:
        raise errors.UnsupportedError("a bare array is no model", hint="make it an attribute of an nnx.Module")
    container = site.parent.value
    implementation = nnx_graph.get_node_impl(container)
    if implementation is None:
        message = f"a {type(container).__name__} is no node of a model any more"
        raise errors.UnsupportedError(message, hint="make the registry again: sr.of(model)")
    if implementation.set_key is not None:
        implementation.set_key(container, site.name, value)
    else:
        nodes, metadata = implementation.flatten(container)
        changed = [(name, value if name == site.name else old) for name, old in nodes]
        rebuilt = implementation.unflatten(changed, metadata)
        _assign(site.parent, rebuilt)
        site.parent.value = rebuilt
