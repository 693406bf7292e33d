"""Plugins: adapters and stores are found by entry point, first-party ones like a stranger's. Knows none by name.

Loading an entry point must import no framework: an adapter object is light, and asks `sys.modules` whether an object
can be its own before it looks closer; a store object is light too, and loads its reader when it opens a file. A plugin
that fails to load is reported when nothing else fits, never swallowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final, runtime_checkable

from stateregistry import errors

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from stateregistry.layers.calls import Observation
    from stateregistry.layers.vocabulary import Dialect
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import FileRegistry, Progress

T = TypeVar("T")

ADAPTERS = "stateregistry.adapters"
STORES = "stateregistry.stores"


class Adapter(Protocol):
    """Makes a registry from a live object of one framework. Module-level code of its package imports no framework."""

    #: The name that `sr.of(..., adapter=)` and `to=` take.
    name: str
    #: How to install what it needs, for error messages.
    install: str
    #: The distribution of the framework, for listing: `"torch"`; empty for none.
    framework: str
    #: Native names and layout of the layer kinds; `None` for an adapter without layers.
    dialect: Dialect | None

    def recognises(self, obj: object, /) -> bool:
        """Whether `obj` is this adapter's. Never imports a framework that is not loaded."""

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over `obj`; refuses options it does not have with `AdapterError`."""

    def explain(self, obj: object, /) -> str:
        """What to pass instead of an object that is nearly this adapter's; empty if it is not near."""


@runtime_checkable
class SupportsTemplates(Protocol):
    """An adapter that can build models without allocating their arrays (`--like module:factory`)."""

    def abstractly(self, thunk: Callable[[], T], /) -> T:
        """What `thunk` returns, called so that arrays of this framework made in it take no memory.

        Imports the framework only if it is loaded.
        """

    def template(self, product: object, /) -> StateRegistry | None:
        """The abstract registry of what a factory returned under `abstractly`, `None` where it is not this adapter's."""


@runtime_checkable
class SupportsDerivation(Protocol):
    """An adapter whose models can be derived from roles alone (`to="flax-linen"`)."""

    def assemble(self, image: StateRegistry, /) -> Any:
        """The native object (variables, state dict, reference model) that holds what `image` lists, with its values."""


@runtime_checkable
class SupportsOptions(Protocol):
    """An adapter of whose objects some are known by the options that come with them alone."""

    def fits(self, obj: object, options: Mapping[str, Any], /) -> bool:
        """Whether an object that no adapter recognises is, with these options, one of this adapter's."""


@runtime_checkable
class SupportsObservation(Protocol):
    """An adapter that can watch the layers of a live model while its owner runs it (`sr.verify(forward=...)`)."""

    def observe(self, registry: StateRegistry, /, *, compiled: bool) -> AbstractContextManager[Observation]:
        """A context in which the layers of `registry` are watched, and which leaves nothing behind.

        The calls that are made meanwhile of the very model (or, where a framework passes copies around, of one that holds
        the same parameters) are noted under the paths that `registry.layers` has. What the model computes stays the same.
        As nothing is seen inside of a compiled function, compilers are switched off where the framework has a switch, unless
        `compiled`: some code does not run without them.
        """


class Store(Protocol):
    """Makes a registry from a file and a file from a registry. Never executes anything from a file.

    Every store that is installed is loaded and asked (`sniff`) before a file is opened, so the module that an entry point
    names should import next to nothing: what reads and writes is imported by `open` and `write`.
    """

    name: str
    #: Suffixes that name the format when a file is written; reading looks at the content.
    suffixes: tuple[str, ...]
    #: How to install what writing or reading needs, for error messages.
    install: str
    #: Name of the dialect that files without our metadata are in; empty where the format does not say.
    dialect: str

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether the content is this format, from its first 4096 bytes (`b""` for a directory)."""

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy, read-only registry over the file: header now, values when read."""

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write every entry of `source` to `path`, one value at a time, with `extra` in our own metadata; tell `progress`.

        `path` is a temporary beside the target: committing it atomically is the caller's business
        (`stateregistry.stores.save`).
        """


@final
@dataclass(frozen=True, slots=True)
class Found:
    """One entry point: loaded, or with the error that loading it raised."""

    name: str
    distribution: str
    value: str
    plugin: Any = None
    error: Exception | None = None


@cache
def discover(group: str, /) -> tuple[Found, ...]:
    """Every plugin of an entry-point group, sorted by name. Cached for the life of the process.

    Raises:
        AdapterError: two distributions use one name, so neither could be meant.
    """
    import importlib.metadata  # lazy: it costs more than the rest of the core

    found: dict[str, Found] = {}
    named = cache(lambda dist: str(dist.name) if dist else "unknown")  # a name costs reading all metadata
    for point in importlib.metadata.entry_points(group=group):
        dist = named(point.dist)
        if point.name in found:
            if found[point.name].value == point.value:
                continue  # one distribution seen twice on the path (a checkout and its installed copy)
            names = f"{found[point.name].distribution!r} and {dist!r}"
            message = f"the entry point {point.name!r} of {group!r} is given by {names}"
            raise errors.AdapterError(message, keys=(point.name,), hint="uninstall one of them")
        try:
            found[point.name] = Found(point.name, dist, point.value, plugin=point.load())
        except Exception as error:  # noqa: BLE001  # any plugin may be broken; the rest must work, and it is reported
            found[point.name] = Found(point.name, dist, point.value, error=error)
    return tuple(found[name] for name in sorted(found))


def adapters() -> Mapping[str, Adapter]:
    """Every adapter that loads, by name."""
    return {found.name: found.plugin for found in discover(ADAPTERS) if found.error is None}


def stores() -> Mapping[str, Store]:
    """Every store that loads, by name."""
    return {found.name: found.plugin for found in discover(STORES) if found.error is None}


def adapter(name: str, /) -> Adapter:
    """The adapter of a name.

    Raises:
        AdapterError: none such, or it does not load.
    """
    found: Adapter = _named(ADAPTERS, "adapter", name)
    return found


def store(name: str, /) -> Store:
    """The store of a name.

    Raises:
        AdapterError: none such, or it does not load.
    """
    found: Store = _named(STORES, "store", name)
    return found


def _named(group: str, what: str, name: str) -> Any:
    for found in discover(group):
        if found.name == name:
            if found.error is None:
                return found.plugin
            message = f"the {what} {name!r} ({found.value}) does not load: {found.error}"
            raise errors.AdapterError(message, keys=(name,)) from found.error
    import difflib  # lazy: for who has mistyped

    names = [found.name for found in discover(group)]
    close = difflib.get_close_matches(name, names, n=1)
    message = f"no {what} {name!r}; installed: {_installed(group)}"
    raise errors.AdapterError(
        message, keys=(name,), hint=f"did you mean {close[0]!r}?" if close else _none_installed(group)
    )


def _installed(group: str) -> str:
    names = [found.name if found.error is None else f"{found.name} (broken)" for found in discover(group)]
    return ", ".join(names) or "none"


def _none_installed(group: str) -> str | None:
    if discover(group):
        return None
    return "entry points exist only for an installed distribution: pip install stateregistry (or -e . in a checkout)"


def of(obj: Any, /, *, adapter: str | None = None, **options: Any) -> StateRegistry:
    """The registry over a live object: a torch module, an NNX module, Linen variables, a reference model.

    Args:
        obj: the live object. A path is opened with `sr.open` instead.
        adapter: the name of the adapter to use; by default the one that knows the object.
        options: options of that adapter (Linen: `module=`, `args=`, `kwargs=`, `transient=`, `prefix_collections=`).

    Raises:
        AdapterError: no adapter, or more than one, knows the object, or an option is not the adapter's; the message
            lists the installed adapters and how to install others.
    """
    from stateregistry.registry import StateRegistry  # lazy: needs NumPy

    if adapter is not None:
        chosen: Adapter = _named(ADAPTERS, "adapter", adapter)
        return chosen.wrap(obj, **options)
    if isinstance(obj, StateRegistry):
        if options:
            raise errors.AdapterError("a registry is already made: options go to the sr.of that makes it")
        return obj
    known = adapters()
    fits = [plugin for plugin in known.values() if plugin.recognises(obj)]
    if not fits and options:
        fits = [one for one in known.values() if isinstance(one, SupportsOptions) and one.fits(obj, options)]
    if len(fits) == 1:
        return fits[0].wrap(obj, **options)
    if fits:
        names = ", ".join(repr(plugin.name) for plugin in fits)
        message = f"{_describe(obj)} is known to the adapters {names}"
        raise errors.AdapterError(message, hint=f"choose one: sr.of(obj, adapter={fits[0].name!r})")
    raise _unknown(obj, known)


def _describe(obj: object) -> str:
    cls = type(obj)
    return f"an object of type {cls.__module__}.{cls.__qualname__}"


def _unknown(obj: object, known: Mapping[str, Adapter]) -> errors.AdapterError:
    if isinstance(obj, (str, Path)):
        message = f"sr.of takes a live object, not the path {str(obj)!r}"
        return errors.AdapterError(message, hint="open a file with sr.open(path)")
    hints = [hint for plugin in known.values() if (hint := plugin.explain(obj))]
    lines = [f"no adapter knows {_describe(obj)}", f"  installed: {_installed(ADAPTERS)}"]
    lines += [
        f"  {found.name} ({found.value}) does not load: {found.error}"
        for found in discover(ADAPTERS)
        if found.error is not None
    ]
    installs = sorted({plugin.install for plugin in known.values() if plugin.install})
    lines.append(f"  frameworks come with: {'; '.join(installs)}" if installs else "  no adapter is installed")
    hint = (
        "; ".join(dict.fromkeys(hints))
        or _none_installed(ADAPTERS)
        or "write an adapter: docs/guides/write-an-adapter.md"
    )
    return errors.AdapterError("\n".join(lines), hint=hint)
