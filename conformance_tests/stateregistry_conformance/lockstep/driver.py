"""Lockstep: one program of literal calls, run on a harness and on the oracle, compared by bytes after every call.

Every argument is a literal, so that a program that fails can be printed and pasted. Values are made from numbers, handed over
in many memory layouts and spoilt after every call; so is whatever was read. Imports NumPy and the core.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.lockstep.oracle import (
    FIELDS,
    Flat,
    Given,
    bits,
    differing,
    error_of,
    none_of_one_class,
)
from stateregistry_conformance.lockstep.values import given_value
from stateregistry_conformance.samples import BUFFER, buffer, parameter, scribble, values
from stateregistry_conformance.subject import Subject
from stateregistry_conformance.verdict import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from stateregistry_conformance.harness import Harness

#: Every requirement that a step can find broken.
IDS: Final = (
    "SR-KIND-002", "SR-KIND-006", "SR-LIST-001", "SR-LIST-004", "SR-LIST-007", "SR-LIST-010", "SR-LIST-011", "SR-LIST-012", "SR-READ-003",
    "SR-READ-004", "SR-READ-006", "SR-WRITE-001", "SR-WRITE-002", "SR-WRITE-003", "SR-WRITE-004", "SR-WRITE-008",
    "SR-WRITE-011", "SR-WRITE-015", "SR-WRITE-016", "SR-ATOM-001", "SR-ATOM-002", "SR-LOAD-001", "SR-LOAD-002", "SR-LOAD-003",
    "SR-ALIAS-006", "SR-SNAP-002", "SR-SNAP-006", "SR-ERR-002", "SR-ERR-004",
)  # fmt: skip

#: Names that nothing is ever called: prefixes, other spellings and containers of those that are.
ABSENT: Final = ("Ws", "w/s", "layers/1/k", "layers/02/k", "net", "net.W", "a/V", "")


#: What is broken when a native change of values is not seen: in place, and in a new registry over a new object.
_SEEN: Final = {True: "SR-LIST-011", False: "SR-READ-004"}

#: Names that are worth more attempts: one place under three names, names near to one another, a scalar, what is not saved.
HOT: Final = ("net/W", "a/v", "tail", "w", "ws", "n", "cache")


class Found(Exception):  # noqa: N818  # it is an answer
    """A step that does not agree with the oracle."""

    def __init__(self, requirement: str, claim: str) -> None:
        super().__init__(f"{requirement}: {claim}")
        self.requirement, self.claim = requirement, claim


@final
@dataclasses.dataclass(slots=True)
class _Model:
    """One side of the comparison: a native model, the registry over it, and what both should hold."""

    native: Any
    registry: sr.StateRegistry
    flat: Flat


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """Something that must stay as it is: what it is, what it was, and which requirement says so."""

    requirement: str
    what: str
    now: Callable[[], object]
    was: object


@final
class Lockstep:
    """Two models of one declaration, each beside its oracle, and the snapshots taken so far.

    Args:
        harness: the harness of the adapter.
    """

    def __init__(self, harness: Harness) -> None:
        self._h = Subject(harness)
        self._models: list[_Model] = []
        self._snapshots: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
        self._kept: list[_Kept] = []
        self._cells: list[dict[str, object]] = []

    # ---------------------------------------------------------------- the start

    def names(self) -> list[str]:
        """Every name that a fresh model has, sorted."""
        return sorted(Flat.of(populated(self._h)).names)

    def start(self) -> None:
        """Two populated models: containers with numbers, names that are near to one another, a tie, and a snapshot."""
        declaration = populated(self._h)
        for _ in range(2):
            native = self._h.build(declaration)
            self._models.append(_Model(native, self._h.registry(native), Flat.of(declaration)))
        self._cells = [self._h.cells(model.native, declaration) for model in self._models]
        for at in range(len(self._models)):
            self._agree(at, "of a fresh model", "SR-READ-004")
        self.snapshot(0)

    @property
    def snapshots(self) -> int:
        """How many snapshots were taken."""
        return len(self._snapshots)

    # ---------------------------------------------------------------- writing

    def replace(self, at: int, given: Mapping[str, int | str]) -> None:
        """`replace` by values or faults."""
        model = self._at(at)
        items = self._given(model, given)
        report, before = model.flat.report(items, whole=False), model.flat.copy()
        expected = error_of(report)
        what = f"replace({dict(given)!r})"
        result, error = self._call(lambda: model.registry.replace(_objects(items)), what)
        if expected is not None:  # a refusal is not a matter of how often one asks
            result, error = self._call(lambda: model.registry.replace(_objects(items)), what)
        _spoil(items)
        if expected is None:
            self._no_error(error, "SR-WRITE-001", what)
            model.flat.write({name: one.value for name, one in items.items() if one.value is not None})
            self._rebind(at, result, what, before)
            self._agree(at, f"after {what}, with the caller's arrays spoilt", "SR-WRITE-001")
        else:
            self._refused(error, expected, "SR-ERR-002", what)
            if expected is errors.MismatchError:
                self._hold(
                    error is not None and none_of_one_class(error), "SR-ERR-002", f"{what}: {error!r} is of one class"
                )
            self._reported(error, report, "SR-ATOM-002", what)
            self._agree(at, f"after {what} was refused", "SR-ATOM-001")

    def load(
        self, at: int, snapshot: int, changes: Mapping[str, int | str] | None = None, allow: Sequence[str] = ()
    ) -> None:
        """`load` of an earlier snapshot, changed or not: a value in `changes`, `"-"` to leave a name out."""
        model = self._at(at)
        held, pristine = self._snapshots[snapshot % len(self._snapshots)]
        items = {name: Given(held[name], value, self._misfit(model, name, value)) for name, value in pristine.items()}
        changes = changes or {}
        items |= self._given(model, {name: spec for name, spec in changes.items() if spec != "-"}, whole=True)
        faulty = {model.flat.names[n] for n in changes if n in model.flat.names and n in items and items[n].fault}
        alone = {name for name in items if name not in changes and model.flat.names.get(name) in faulty}
        items = {name: one for name, one in items.items() if changes.get(name) != "-" and name not in alone}
        report, before = model.flat.report(items, whole=True), model.flat.copy()
        what = f"load(snapshot {snapshot}, {dict(changes)!r}, allow={tuple(allow)!r})"
        found, error = self._call(lambda: sr.check(model.registry, _objects(items)), f"check of {what}")
        self._no_error(error, "SR-LOAD-001", f"check of {what}")
        self._same_report(found, report, "SR-LOAD-001", f"check of {what}")
        result, error = self._call(lambda: sr.load(model.registry, _objects(items), tuple(allow)), what)
        _spoil({name: one for name, one in items.items() if one.item is not held.get(name)})
        if any(report[field] for field in FIELDS if field not in allow):
            self._refused(error, errors.LoadError, "SR-LOAD-002", what)
            self._agree(at, f"after {what} was refused", "SR-ATOM-001")
            return
        requirement = "SR-LOAD-003" if allow else "SR-SNAP-006" if not changes else "SR-LOAD-002"
        self._no_error(error, requirement, what)
        written = {n: one.value for n, one in items.items() if n not in report["unexpected"] and one.value is not None}
        model.flat.write(written)
        self._rebind(at, result, what, before)
        self._agree(at, f"after {what}", requirement)

    def freeze(self, at: int, mask: Mapping[str, Any]) -> None:
        """`with_trainable`."""
        model = self._at(at)
        expected, before = model.flat.mask_error(mask), model.flat.copy()
        what = f"with_trainable({dict(mask)!r})"
        result, error = self._call(lambda: model.registry.with_trainable(dict(mask)), what)
        if expected is None:
            self._no_error(error, "SR-WRITE-015", what)
            model.flat.flag(mask)
            self._rebind(at, result, what, before)
            self._agree(at, f"after {what}", "SR-WRITE-015")
        else:
            self._refused(error, expected, "SR-WRITE-016", what)
            self._agree(at, f"after {what} was refused", "SR-ATOM-001")

    # ---------------------------------------------------------------- native changes

    def poke(self, at: int, name: str, number: int) -> None:
        """A native write."""
        model = self._at(at)
        if name not in model.flat.names:
            return
        entry = model.flat.leaves[model.flat.names[name]]
        written = values(f"poke {number}", entry.shape, entry.dtype)
        native = self._h.poke(model.native, name, written)
        model.flat.write({name: written})
        self._natively(at, native)
        self._agree(at, f"after a native write to {name!r}", _SEEN[model.registry.in_place])

    def train(self, at: int) -> None:
        """A native step: what it changes is taken over, what it must not change is compared."""
        model = self._at(at)
        if not self._h.trains:
            return
        native = self._h.train_step(model.native)
        own = "native_trainable" in self._h.capabilities
        for leaf, entry in model.flat.leaves.items():
            if entry.trainable if own else entry.can_train:
                model.flat.values[leaf] = self._h.peek(native, model.flat.members(leaf)[0])
        self._natively(at, native)
        self._agree(at, "after a training step", _SEEN[model.registry.in_place])

    def flag(self, at: int, name: str, on: bool) -> None:  # the value of the flag
        """A native change of a flag, where the framework has one."""
        model = self._at(at)
        if "native_trainable" not in self._h.capabilities or name not in model.flat.names:
            return
        if not model.flat.leaves[model.flat.names[name]].can_train:
            return
        native = self._h.poke_trainable(model.native, name, flag=on)
        model.flat.flag({name: on})
        self._natively(at, native)
        self._agree(at, f"after the flag of {name!r} was set natively", "SR-KIND-006")

    def add(self, at: int, number: int) -> None:
        """A further place, natively, under an in-place registry."""
        model = self._at(at)
        leaf = _LATE[number % len(_LATE)]
        if not model.registry.in_place or leaf.key in model.flat.names:
            return
        self._h.add(model.native, leaf)
        model.flat.add(leaf)
        self._restructured(at)
        self._agree(at, f"after {leaf.key!r} was added natively", "SR-LIST-012")

    def drop(self, at: int, name: str) -> None:
        """A name less, natively, under an in-place registry."""
        model = self._at(at)
        if not model.registry.in_place or name not in model.flat.names or len(model.flat.names) <= 3:
            return
        entry = model.flat.leaves[model.flat.names[name]]
        if entry.trainable is not entry.can_train and "native_trainable" not in self._h.capabilities:
            return  # whether a flag that a registry carries belongs to a place or to its key, nobody says
        self._h.drop(model.native, name)
        model.flat.drop(name)
        self._restructured(at)
        self._agree(at, f"after {name!r} was dropped natively", "SR-LIST-012")

    def reopen(self, at: int) -> None:
        """Another registry over the same model."""
        model = self._at(at)
        native = model.registry.unwrap() if not model.registry.in_place else model.native
        self._natively(at, native, anew=True)
        self._agree(at, "of a new registry", "SR-WRITE-004")

    # ---------------------------------------------------------------- looking

    def snapshot(self, at: int) -> None:
        """Take a snapshot, compare it, and keep it."""
        model = self._at(at)
        found, error = self._call(lambda: sr.snapshot(model.registry), "snapshot")
        self._no_error(error, "SR-SNAP-002", "snapshot")
        expected = model.flat.saved()
        self._hold(
            type(found) is dict and list(found) == list(expected), "SR-SNAP-002", f"keys of a snapshot: {list(found)}"
        )
        lost = differing(found, expected, expected)
        self._hold(not lost, "SR-SNAP-002", f"a snapshot has other bits under {lost}")
        for array in found.values():
            scribble(array)
        again = sr.snapshot(model.registry)
        lost = differing(again, expected, expected)
        self._hold(not lost, "SR-SNAP-002", f"a snapshot has other bits under {lost} after an earlier one was spoilt")
        self._snapshots.append((again, {name: np.array(value) for name, value in expected.items()}))
        kept = {name: bits(value) for name, value in expected.items()}
        self._keep("SR-SNAP-002", "a snapshot", lambda: {name: bits(value) for name, value in again.items()}, kept)

    def look(self, at: int, name: str) -> None:
        """Read and view a name, spoil what was read, try to spoil what was viewed."""
        model = self._at(at)
        if name not in model.flat.names:
            for look in (model.registry.read, model.registry.view):
                _, error = self._call(lambda look=look: look(name), f"read of {name!r}")  # type: ignore[misc]  # a default
                self._refused(error, errors.UnknownKeyError, "SR-LIST-004", f"read of {name!r}")
            self._hold(name not in model.registry, "SR-LIST-004", f"{name!r} is in the registry")
            return
        expected = model.flat.values[model.flat.names[name]]
        array, view = model.registry.read(name), model.registry.view(name)
        self._hold(bits(array) == bits(expected), "SR-READ-004", f"read of {name!r} has other bits")
        self._hold(bits(np.array(view, order="C")) == bits(expected), "SR-READ-006", f"view of {name!r} has other bits")
        self._hold(
            array.flags.writeable and array.flags.owndata, "SR-READ-003", f"read of {name!r} is not the caller's own"
        )
        self._hold(not view.flags.writeable, "SR-READ-006", f"view of {name!r} can be written")
        kept = model.registry.read(name)
        scribble(array)
        was = bits(expected)
        self._keep("SR-READ-003", f"what read gave for {name!r}", lambda: bits(kept), was)
        self._agree(at, f"after what read gave for {name!r} was spoilt", "SR-READ-003")

    def write_on_the_way(self, at: int, number: int) -> None:
        """Replace every entry while iterating over them."""
        keys, seen = list(self._at(at).flat.entries()), []
        iteration = iter(self._at(at).registry)
        while (key := self._next(iteration)) is not None:
            seen.append(key)
            self._hold(key in keys and len(seen) <= len(keys), "SR-LIST-010", f"an iteration with writes sees {seen}")
            self.replace(at, {key: number})
        self._hold(seen == keys, "SR-LIST-010", f"an iteration with writes: expected {keys}, found {seen}")

    def _next(self, iteration: Iterator[str]) -> str | None:
        try:
            return next(iteration, None)
        except Exception as error:
            raise Found("SR-LIST-010", f"an iteration with writes raised {type(error).__name__}: {error}") from error

    def round_trip(self, at: int, numbers: Sequence[int]) -> None:
        """Save, go on, and come back to what was saved."""
        model = self._at(at)
        self.snapshot(at)
        saved, before = len(self._snapshots) - 1, model.flat.saved()
        self.train(at)
        names = sorted(model.flat.names)
        for number in numbers:
            self.replace(at, {names[number % len(names)]: number})
            self.poke(at, names[(number // 7) % len(names)], number)
        self.load(at, saved)
        after = self._at(at).flat.saved()
        self._hold(not differing(after, before, before), "SR-SNAP-006", "a model is not what it was when it was saved")

    def finish(self) -> None:
        """Everything once more, and what was to stay as it was."""
        for at in range(len(self._models)):
            self._agree(at, "at the end", "SR-WRITE-001")
        for kept in self._kept:
            self._hold(kept.now() == kept.was, kept.requirement, f"{kept.what} has changed since")

    # ---------------------------------------------------------------- comparing

    def _at(self, at: int) -> _Model:
        return self._models[at % len(self._models)]

    def _hold(self, condition: object, requirement: str, claim: str) -> None:
        if not condition:
            raise Found(requirement, claim)

    def _keep(self, requirement: str, what: str, now: Callable[[], object], was: object) -> None:
        self._kept.append(_Kept(requirement, what, now, was))

    def _call(self, action: Callable[[], Any], what: str) -> tuple[Any, Exception | None]:
        try:
            return action(), None
        except Stop:
            raise
        except errors.StateError as error:
            return None, error
        except Exception as error:
            raise Found("SR-ERR-004", f"{what} raised {type(error).__name__}: {error}") from error

    def _no_error(self, error: Exception | None, requirement: str, what: str) -> None:
        if error is not None:
            raise Found(requirement, f"{what} was refused: {type(error).__name__}: {error}") from error

    def _refused(self, error: Exception | None, expected: type[Exception], requirement: str, what: str) -> None:
        self._hold(error is not None, requirement, f"{what} was not refused; expected {expected.__name__}")
        good = isinstance(error, expected) and (
            expected is not errors.StateError or isinstance(error, errors.StateError)
        )
        self._hold(good, requirement, f"{what}: expected {expected.__name__}, found {type(error).__name__}: {error}")

    def _reported(self, error: Any, report: Mapping[str, tuple[str, ...]], requirement: str, what: str) -> None:
        found = getattr(error, "report", None)
        self._hold(found is not None, "SR-ERR-002", f"{what}: the {type(error).__name__} carries no report")
        self._same_report(found, report, requirement, what)

    def _same_report(self, found: Any, report: Mapping[str, tuple[str, ...]], requirement: str, what: str) -> None:
        said = {field: getattr(found, field) for field in FIELDS}
        self._hold(said == dict(report), requirement, f"{what}: expected the report {dict(report)}, found {said}")
        self._hold(found.ok is (not any(report.values())), requirement, f"{what}: ok is {found.ok!r}")

    def _agree(self, at: int, when: str, requirement: str) -> None:
        model = self._at(at)
        registry, flat = model.registry, model.flat
        entries, keys = flat.entries(), list(flat.entries())
        self._hold(list(registry) == keys, "SR-LIST-001", f"keys {when}: expected {keys}, found {list(registry)}")
        self._hold(
            dict(registry.aliases) == flat.aliases(), "SR-ALIAS-006", f"aliases {when}: {dict(registry.aliases)}"
        )
        listed = dict(registry.items())
        self._hold(list(listed) == keys, "SR-LIST-004", f"items {when}: expected {keys}, found {list(listed)}")
        kinds = [key for key in keys if listed[key].kind is not entries[key].kind]
        self._hold(not kinds, "SR-KIND-002", f"kinds {when}: {kinds}")
        wrong = [key for key in keys if listed[key] != entries[key]]
        structure = (
            requirement
            if requirement in {"SR-WRITE-015", "SR-LIST-012", "SR-ATOM-001", "SR-KIND-006"}
            else "SR-WRITE-008"
        )
        self._hold(not wrong, structure, f"entries {when}: {[(k, listed[k], entries[k]) for k in wrong]}")
        looked = [key for key in keys if registry.get(key) != entries[key]]
        self._hold(
            not looked and len(registry) == len(keys),
            "SR-LIST-004",
            f"lookups {when}: {looked}, length {len(registry)}",
        )
        order = sorted(registry.native_order)
        self._hold(order == keys, "SR-LIST-007", f"native_order {when}, sorted: {order}")
        native = model.native if registry.in_place else registry.unwrap()
        self._hold(
            registry.unwrap() is native or not registry.in_place, "SR-WRITE-004", f"unwrap {when} gives another object"
        )
        expected = {name: flat.values[leaf] for name, leaf in flat.names.items()}
        found = {name: self._h.peek(native, name) for name in expected}
        lost = differing(found, expected, expected)
        self._hold(not lost, requirement, f"native values {when} have other bits under {lost}")
        for look in (registry.read, registry.view):
            seen = {name: np.array(look(name)) for name in expected}
            lost = differing(seen, expected, expected)
            self._hold(not lost, requirement, f"what {look.__name__} gives {when} has other bits under {lost}")
        if "native_trainable" in self._h.capabilities:
            flags = {key: entry.trainable for key, entry in entries.items() if entry.can_train}
            told = {key: self._h.peek_trainable(native, key) for key in flags}
            self._hold(told == flags, "SR-KIND-006", f"native flags {when}: expected {flags}, found {told}")
        other = self._at(at + 1)
        elsewhere = {name: other.flat.values[leaf] for name, leaf in other.flat.names.items()}
        found = {name: self._h.peek(other.native, name) for name in elsewhere}
        lost = differing(found, elsewhere, elsewhere)
        self._hold(not lost, requirement, f"native values of another model {when} have other bits under {lost}")
        if registry.in_place:
            cells = self._cells[at % len(self._cells)]
            lost = [name for name in flat.names if self._h.cell(native, name) is not cells[name]]
            self._hold(not lost, "SR-WRITE-002", f"cells {when} are other objects under {lost}")

    # ---------------------------------------------------------------- rebinding

    def _rebind(self, at: int, result: Any, what: str, before: Flat) -> None:
        model = self._at(at)
        if model.registry.in_place:
            self._hold(result is model.registry, "SR-WRITE-002", f"{what} did not return the receiver")
            return
        self._hold(isinstance(result, sr.StateRegistry), "SR-WRITE-003", f"{what} returned a {type(result).__name__}")
        old, native = model.registry, model.native
        values = {name: bits(before.values[leaf]) for name, leaf in before.names.items()}
        was = (before.entries(), {name: (value, value) for name, value in values.items()})
        self._hold(self._seen(old, native) == was, "SR-WRITE-003", f"the receiver is not what it was after {what}")
        self._keep("SR-WRITE-003", f"the receiver of {what}", lambda: self._seen(old, native), was)
        model.registry, model.native = result, result.unwrap()

    def _seen(self, registry: sr.StateRegistry, native: Any) -> object:
        names = [*registry, *registry.aliases]
        return dict(registry), {name: (bits(self._h.peek(native, name)), bits(registry.read(name))) for name in names}

    def _natively(self, at: int, native: Any, *, anew: bool = False) -> None:
        model = self._at(at)
        if anew or not model.registry.in_place:
            model.native, model.registry = native, self._h.registry(native)
            if "native_trainable" not in self._h.capabilities:
                model.flat.thaw()

    def _restructured(self, at: int) -> None:
        model = self._at(at)
        self._cells[at % len(self._cells)] = {name: self._h.cell(model.native, name) for name in model.flat.names}

    # ---------------------------------------------------------------- values

    def _given(self, model: _Model, given: Mapping[str, int | str], *, whole: bool = False) -> dict[str, Given]:
        """The objects that specs stand for; of one place, a fault stands alone (what both would mean is not specified)."""
        found: dict[str, Given] = {}
        spoilt: set[str] = set()
        for name, spec in given.items():
            leaf = model.flat.names.get(name)
            entry = model.flat.leaves.get(leaf or "")
            plain = entry is None or (whole and not entry.persistent)
            one = given_value(spec, name, entry, model.flat, model.registry, good=plain)
            if leaf is not None and one.fault:
                if leaf in spoilt or any(model.flat.names.get(other) == leaf for other in found):
                    continue
                spoilt.add(leaf)
            elif leaf in spoilt:
                continue
            found[name] = one
        return found

    def _misfit(self, model: _Model, name: str, value: np.ndarray) -> str:
        leaf = model.flat.names.get(name)
        if leaf is None or model.flat.leaves[leaf].shape == value.shape:
            return ""
        return "shape"


def _objects(items: Mapping[str, Given]) -> dict[str, Any]:
    return {name: one.item for name, one in items.items()}


def _spoil(items: Mapping[str, Given]) -> None:
    for one in items.values():
        if isinstance(one.item, np.ndarray) and one.item.flags.writeable and one.item.dtype != object:
            one.item[...] = np.zeros((), one.item.dtype) if one.item.dtype.kind in "USO" else _other(one.item)


def _other(array: np.ndarray) -> np.ndarray:
    spoilt = np.array(array, order="C")
    scribble(spoilt)
    return spoilt


#: What `add` adds.
_LATE: Final = (buffer("wss", (3,)), parameter("net/late", (2, 2)), buffer("late", ()))


def populated(h: Subject) -> Declaration:
    """As much of the machine's model as the framework can hold."""
    leaves = [
        parameter("w", (2, 2)),
        buffer("ws", (2, 2)),
        parameter("layers/0/k", (3,), "float16"),
        parameter("layers/2/k", (2, 2)),
        buffer("layers/10/k", (2, 2)),
        parameter("net/W", (2, 2)),
        parameter("e", (0,)),
    ]
    wishes = [
        parameter("net/w", (2, 2)),
        buffer("n", (), "int64"),
        buffer("i", (3,), "int32"),
        buffer("mask", (3,), "bool"),
        parameter("h", (3,), "bfloat16"),
        Leaf("cache", BUFFER, values("cache", (2, 2)), persistent=False),
    ]
    leaves += [leaf for leaf in wishes if h.can_build(Declaration((*leaves, leaf))) is not None]
    ties = {"a/v": "net/W", "tail": "net/W"} if "ties" in h.capabilities else {}
    return Declaration(tuple(leaves), ties)
