"""Grounds: what a check stands on. Where it gives way the check is blocked, and the requirement that is broken says so itself.

A check of loading says nothing about loading where the model is not even listed as it was declared: it would only turn red a
second time for the same bug. So before a check uses a declaration, that declaration is tried on fresh models: how it is listed,
whether it is read, whether a write arrives natively. A fault that the check itself is about never blocks it. What is blocked is
`untested`, never a pass. Imports NumPy and the core.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from stateregistry import errors
from stateregistry.entry import DTYPES, Kind
from stateregistry_conformance import samples
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.verdict import BLOCKED_BY, Status, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateregistry_conformance.subject import Subject

#: The grounds, each standing on those before it.
GROUNDS: Final = ("opened", "present", "listed", "read", "refused", "written")


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a fresh model of a declaration.

    Attributes:
        key: the place, `""` for the model as a whole.
        owners: the requirements that it breaks: their checks are not blocked by it. The first one is named.
        text: what was expected and found.
        absent: the place is not listed, or what is listed is none, or nothing is.
    """

    key: str
    owners: tuple[str, ...]
    text: str
    absent: bool = False


@final
class Blocked(Stop):
    """Something more basic is broken: nothing can be said about this requirement."""

    status = Status.UNTESTED
    blame = "adapter"

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"blocked by {fault.owners[0]}: {fault.text}")
        self.note = f"{BLOCKED_BY}{' '.join(fault.owners)}"


#: By requirement: the grounds that its checks need. A longer prefix counts more.
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "": (),
    **dict.fromkeys(("SR-LIST-001", "SR-LIST-004"), ("present",)),
    **dict.fromkeys(("SR-LIST-002", "SR-LIST-003"), ("opened",)),
    **dict.fromkeys(("SR-LIST-009", "SR-LIST-012"), ("listed",)),
    "SR-LIST-010": ("listed", "written"),
    "SR-LIST-011": ("listed", "read"),
    "SR-KIND-": ("listed",),
    **dict.fromkeys(("SR-KIND-001", "SR-KIND-003", "SR-KIND-007", "SR-KIND-008", "SR-KIND-009"), ("present",)),
    "SR-KIND-010": ("listed", "read", "written"),
    "SR-READ-": ("listed",),
    **dict.fromkeys(("SR-READ-001", "SR-READ-010"), ("present",)),
    **dict.fromkeys(("SR-READ-003", "SR-READ-009"), ("listed", "read")),
    "SR-WRITE-": ("listed", "written"),
    **dict.fromkeys((f"SR-WRITE-{number:03}" for number in (1, 2, 4, 5, 6, 7, 13, 14, 15, 16)), ("listed",)),
    "SR-ATOM-": ("listed", "refused", "written"),
    # What `check`, `load` and `snapshot` say is judged even where the listing is broken: they are what a caller sees of it.
    "SR-LOAD-": ("opened",),
    **dict.fromkeys((f"SR-LOAD-{number:03}" for number in (2, 3, 5, 6)), ("opened", "written")),
    "SR-LOAD-007": ("opened", "read", "written"),
    "SR-DTYPE-": ("listed", "written"),
    "SR-DTYPE-001": ("present",),
    "SR-DTYPE-011": ("listed", "refused", "written"),
    **dict.fromkeys((f"SR-DTYPE-{number:03}" for number in (12, 13, 14, 15)), ("listed", "refused")),
    **dict.fromkeys(("SR-ALIAS-004", "SR-ALIAS-006"), ("listed", "written")),
    "SR-ALIAS-005": ("listed",),
    "SR-SNAP-": ("opened", "read"),
    "SR-SNAP-001": ("present",),
    "SR-SNAP-006": ("opened", "read", "written"),
    "SR-ERR-": ("listed", "refused"),
}

#: What an entry says -> the requirements that a wrong one breaks.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "kind": ("SR-KIND-001", "SR-KIND-002", "SR-KIND-009"),
    "shape": ("SR-READ-001", "SR-READ-005", "SR-READ-002", "SR-WRITE-005"),
    "dtype": ("SR-DTYPE-001", *(f"SR-DTYPE-{number:03}" for number in range(2, 12))),
    "trainable": ("SR-KIND-003", "SR-KIND-004", "SR-KIND-005", "SR-KIND-006", "SR-ALIAS-009"),
    "persistent": ("SR-SNAP-001", "SR-LOAD-005", "SR-ALIAS-009"),
    "concrete": ("SR-READ-010", "SR-READ-011", "SR-WRITE-014"),
    "rng": ("SR-KIND-009",),
}

#: The requirements that a place which is not listed breaks.
MISSING: Final = (
    *(f"SR-LIST-{number:03}" for number in range(2, 6)),
    *(f"SR-KEY-{number:03}" for number in range(1, 8)),
)
_EXTRA: Final = ("SR-LIST-003", *MISSING)
_DTYPES: Final[Mapping[str, str]] = {
    "float16": "SR-DTYPE-003", "float32": "SR-DTYPE-003", "bfloat16": "SR-DTYPE-004", "complex64": "SR-DTYPE-006",
    "complex128": "SR-DTYPE-006", "int64": "SR-DTYPE-007", "uint64": "SR-DTYPE-007", "float64": "SR-DTYPE-008",
    "bool": "SR-DTYPE-010", **dict.fromkeys((name for name in DTYPES if name.startswith("float8")), "SR-DTYPE-005"),
}  # fmt: skip
#: Requirements of which a silent cast is a violation, too.
_CASTS: Final = ("SR-DTYPE-002", "SR-DTYPE-010")
_TIES: Final = ("SR-ALIAS-002", "SR-ALIAS-001", "SR-ALIAS-003", "SR-ALIAS-007", "SR-ALIAS-008", "SR-ALIAS-009",
    "SR-LIST-002", "SR-ALIAS-004", "SR-ALIAS-005", "SR-READ-009")  # fmt: skip
_RAISED: Final[Mapping[type[Exception], str]] = {
    errors.DuplicateKeyError: "SR-KEY-007",
    errors.KeyPathError: "SR-KEY-002",
    errors.AbstractError: "SR-READ-010",
    errors.UnsupportedError: "SR-ALIAS-008",
}

#: What the error of a read says is broken besides reading.
_UNREAD: Final[Mapping[type[Exception], tuple[str, ...]]] = {
    errors.UnknownKeyError: MISSING,
    errors.AbstractError: _FIELDS["concrete"],
}


def needed(ids: tuple[str, ...]) -> frozenset[str]:
    """The grounds that a check of these requirements stands on."""
    found: set[str] = set()
    for name in ids:
        prefix = max((prefix for prefix in _NEEDS if name.startswith(prefix)), key=len)
        found |= set(_NEEDS[prefix])
    return frozenset(found)


@final
class Grounds:
    """What was found out about declarations on fresh models of one subject."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: dict[tuple[str, object], tuple[Fault, ...]] = {}

    def faults(self, declaration: Declaration, needs: frozenset[str], ids: tuple[str, ...]) -> tuple[Fault, ...]:
        """What blocks a check of these requirements over a declaration."""
        found: list[Fault] = []
        for ground in GROUNDS:
            if ground in needs and not found:
                tried = self._tried(ground, declaration)
                tried += self._kept(declaration) if ground == "written" else ()
                found += [fault for fault in tried if not set(fault.owners) & set(ids)]
        return tuple(found)

    def _kept(self, declaration: Declaration) -> tuple[Fault, ...]:
        """The places whose dtype does not keep what is written."""
        found = []
        for leaf in declaration.leaves:
            mark = ("kept", leaf.entry.dtype)
            if mark not in self._known:
                self._known[mark] = tuple(_kept(self._subject, leaf.entry.dtype))
            found += [Fault(leaf.key, fault.owners, fault.text) for fault in self._known[mark]]
        return tuple(found)

    def _tried(self, ground: str, declaration: Declaration) -> tuple[Fault, ...]:
        mark = (ground, None if ground in {"refused", "written"} else _mark(declaration))
        if mark not in self._known:
            probe: dict[str, Callable[[Subject, Declaration], list[Fault]]] = {
                "opened": _opened,
                "present": _present,
                "listed": _listed,
                "read": _read,
                "refused": _refused,
                "written": _written,
            }
            self._known[mark] = tuple(probe[ground](self._subject, declaration))
        return self._known[mark]


def _mark(declaration: Declaration) -> object:
    leaves = tuple(
        (
            x.key,
            x.kind,
            x.trainable,
            x.persistent,
            x.rng,
            x.concrete,
            x.value.dtype,
            x.value.shape,
            zlib.crc32(x.value.tobytes()),
        )
        for x in declaration.leaves
    )
    return leaves, tuple(declaration.ties.items())


def _raised(h: Subject, declaration: Declaration, error: Exception) -> list[Fault]:
    """That the registry raised: because of single places, where there are such."""
    owner = next((name for cls, name in _RAISED.items() if isinstance(error, cls)), "SR-LIST-003")
    owners = (owner, "SR-KEY-006") if owner == "SR-KEY-007" else (owner,)
    text = f"the registry raised {type(error).__name__}: {error}"
    alone = len(declaration.leaves) == 1
    culprits = [leaf for leaf in declaration.leaves if alone or _raises(h, Declaration((leaf,)))]
    found = [Fault(leaf.key, (*owners, *_features(leaf)), text, absent=True) for leaf in culprits]
    if declaration.ties and not culprits and not _raises(h, Declaration(declaration.leaves)):
        owners = (*owners, *_TIES)
    return found or [Fault("", owners, text, absent=True)]


def _raises(h: Subject, declaration: Declaration) -> bool:
    try:
        model = h.try_build(declaration)
    except CannotBuild:
        return False
    try:
        dict(h.registry(model).items())
    except Exception:  # noqa: BLE001  # whatever it is
        return True
    return False


def _features(leaf: Leaf) -> tuple[str, ...]:
    """The requirements that are about what is particular to a place: their checks see its faults themselves."""
    found = ["SR-DTYPE-001", "SR-DTYPE-002", _DTYPES.get(leaf.entry.dtype, "SR-DTYPE-009")]
    found += ["SR-KIND-009"] if leaf.rng else []
    found += [] if leaf.persistent else ["SR-SNAP-001", "SR-LOAD-005"]
    found += ["SR-KIND-003", "SR-KIND-004"] if leaf.kind is Kind.PARAMETER and not leaf.entry.can_train else []
    found += ["SR-READ-001"] if not leaf.value.ndim or not leaf.value.size else []
    found += [] if leaf.concrete else ["SR-READ-010", "SR-READ-011", "SR-WRITE-014", "SR-SNAP-004"]
    return tuple(found)


def _opened(h: Subject, declaration: Declaration) -> list[Fault]:
    """Whether there is a registry at all that can be listed."""
    try:
        dict(h.registry(h.try_build(declaration)).items())
    except Stop:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, nothing stands on it
        return _raised(h, declaration, error)
    return []


def _present(h: Subject, declaration: Declaration) -> list[Fault]:
    """Whether every place is listed at all, and nothing else."""
    return [fault for fault in _listed(h, declaration) if fault.absent]


def _listed(h: Subject, declaration: Declaration) -> list[Fault]:
    expected = declaration.entries()
    try:
        registry = h.registry(h.try_build(declaration))
        names, listed = list(registry), dict(registry.items())
        looked = {key: registry.get(key) for key in expected}
        aliases, opaque = dict(registry.aliases), dict(registry.opaque)
    except Stop:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, nothing stands on it
        return _raised(h, declaration, error)
    found = []
    for key in sorted(expected.keys() - listed.keys()):
        owners = (*MISSING, *_features(declaration.leaf(key)), *(_TIES if key in aliases else ()))
        found.append(Fault(key, owners, f"{key!r} is not listed", absent=True))
    for key in sorted(expected.keys() & listed.keys()):
        for field, owners in _FIELDS.items():
            have, want = getattr(listed[key], field, None), getattr(expected[key], field)
            if have != want or type(have) is not type(want):
                broken = (*owners, *_features(declaration.leaf(key)))
                found.append(Fault(key, broken, f"{field} of {key!r}: expected {want!r}, found {have!r}"))
    extra = sorted(set(listed) - set(expected))
    if extra:
        owners = _TIES if set(extra) <= set(declaration.ties) else ()
        found.append(Fault("", (*_EXTRA, *owners), f"{extra} are listed and were not declared", absent=True))
    if not found and (sorted(names) != list(expected) or looked != expected):
        found.append(Fault("", ("SR-LIST-004",), "iteration, items and lookups do not agree"))
    if not found and aliases != declaration.aliases():
        found.append(Fault("", _TIES, f"aliases: expected {declaration.aliases()}, found {aliases}"))
    if set(opaque) - set(expected):
        found.append(Fault("", ("SR-LIST-006", "SR-SNAP-005"), f"{sorted(opaque)} are opaque"))
    return found


def _read(h: Subject, declaration: Declaration) -> list[Fault]:
    common = ("SR-READ-004", "SR-READ-002", *_FIELDS["dtype"])
    registry, found = h.registry(h.try_build(declaration)), []
    for key, value in declaration.values().items():
        more: tuple[str, ...] = ()
        try:
            same = _same(registry.read(key), value)
            text = f"read of {key!r} has other bits"
        except Stop:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            same, text = False, f"read of {key!r} raised {type(error).__name__}: {error}"
            more = next((owners for cls, owners in _UNREAD.items() if isinstance(error, cls)), ())
        if not same:
            owners = dict.fromkeys((*more, *common, *_features(declaration.leaf(key))))
            found.append(Fault(key, tuple(owners), text))
    return found


def _refused(h: Subject, _: Declaration) -> list[Fault]:
    """Whether what cannot be written is refused, somehow: of a plain model, whatever the declaration."""
    plain, found = samples.square(), []
    good = samples.values("ground", (3, 3))
    wrong: dict[str, tuple[str, object]] = {
        "SR-WRITE-005": ("p", good[:2]),
        "SR-WRITE-006": ("p", good.astype("float16")),
        "SR-WRITE-007": ("nothing", good),
        "SR-WRITE-013": ("p", "weights"),
    }
    for owner, (key, value) in wrong.items():
        for name in (key, "b") if key == "p" else (key,):
            try:
                h.registry(h.try_build(plain)).replace({name: value})
            except Stop:
                raise
            except Exception:  # noqa: BLE001, S112  # how it is refused is decided elsewhere
                continue
            owners = (owner, *_CASTS) if owner == "SR-WRITE-006" else (owner,)
            found.append(Fault("", owners, f"what breaks {owner} is not refused"))
    return found


def _written(h: Subject, _: Declaration) -> list[Fault]:
    """Whether a plain write arrives natively: of a plain model, whatever the declaration."""
    plain = samples.square()
    old, given = plain.values(), samples.others(plain, "ground")
    model = h.try_build(plain)
    try:
        registry = h.registry(model).replace({}).replace(given)
        native = model if registry.in_place else registry.unwrap()
        lost = [key for key, value in given.items() if not _same(h.peek(native, key), value)]
        # The registry has the new value and its object the old one: it gives out another object than it describes.
        stale = [key for key in lost if _same(registry.read(key), given[key]) and _same(h.peek(native, key), old[key])]
    except Stop:
        raise
    except Exception as error:  # noqa: BLE001  # as above
        return [Fault("", ("SR-WRITE-001",), f"a plain write raised {type(error).__name__}: {error}")]
    owner = "SR-WRITE-004" if lost and lost == stale else "SR-WRITE-001"
    return [Fault("", (owner,), f"a plain write of {', '.join(lost)} does not arrive natively")] if lost else []


def _kept(h: Subject, dtype: str) -> list[Fault]:
    """Whether what is written to a buffer of a dtype arrives natively, bit for bit."""
    declaration = samples.typed(dtype)
    owners = (_DTYPES.get(dtype, "SR-DTYPE-009"), "SR-DTYPE-001", "SR-DTYPE-002", "SR-WRITE-001")
    given = samples.others(declaration, "ground")
    try:
        model = h.try_build(declaration)
    except CannotBuild:
        return []
    try:
        registry = h.registry(model).replace(given)
        native = model if registry.in_place else registry.unwrap()
        kept = all(_same(h.peek(native, key), value) for key, value in given.items())
        text = f"a write of {dtype} does not arrive natively with the same bits"
    except Stop:
        raise
    except Exception as error:  # noqa: BLE001  # as above
        kept, text = False, f"a write of {dtype} raised {type(error).__name__}: {error}"
    return [] if kept else [Fault("", owners, text)]


def _same(found: object, expected: object) -> bool:
    return all(getattr(found, name, None) == getattr(expected, name) for name in ("shape", "dtype")) and (
        getattr(found, "tobytes", bytes)() == getattr(expected, "tobytes", bytes)()
    )
