"""StateRegistry: one reading of the state of a model or a checkpoint, whatever the framework.

An ordered, read-only `Mapping[str, Entry]` in sorted order of keys, plus reading and replacing values. Always rebind:
`reg = reg.replace(...)`; an in-place registry returns itself, a functional one a new registry.
Writes are all-or-nothing: everything is read, checked and staged before the first place changes, every problem is
reported at once, and a write that fails inside the framework is rolled back.

An adapter implements four hooks: `_entries`, `_read`, `_stage`, `_commit` (and `_aliases`, `_opaque`, `_layers`,
`_find`, `_commit_trainable`, ... where its framework has more to say). All public behaviour is derived here, once.
NumPy is loaded with the first value: listing what a file holds needs none.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, ItemsView, Iterator, KeysView, Mapping, ValuesView
from dataclasses import replace as with_fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from stateregistry import checking, errors
from stateregistry.display import Displayed, counted
from stateregistry.entry import Entry, Kind, dtype_name

if TYPE_CHECKING:
    import numpy as np

    from stateregistry.layers.vocabulary import Holder, Layer


class StateRegistry(Displayed, Mapping[str, Entry], ABC):
    """The state of one model or one checkpoint.

    Iteration, `len`, `in` and `[]` know canonical keys only; `read`, `view`, `replace`, `with_trainable` and
    `sr.load` accept aliases too. A registry over a live object shows what that object holds now: nothing but metadata
    that has been verified against the object is ever remembered.
    """

    #: Name of the adapter or store that made the registry, as `sr.of(..., adapter=...)` takes it.
    adapter: ClassVar[str] = ""
    #: `replace` changes the native object and returns the same registry.
    in_place: ClassVar[bool]
    #: Whether `replace` can give values to an entry that is not concrete.
    materialises: ClassVar[bool] = False

    #: `trainable` as asked for by `with_trainable`, where the framework has no flag of its own.
    _flags: Mapping[str, bool] = MappingProxyType({})
    #: The entries of a functional registry, which cannot change.
    _listed: Mapping[str, Entry] | None = None

    # ---------------------------------------------------------------- hooks

    @abstractmethod
    def _entries(self) -> Mapping[str, Entry]:
        """Every place under its canonical key, in native order, as it is now. Reads no values, has no effect."""

    @abstractmethod
    def _read(self, key: str, /) -> np.ndarray:
        """The full value of a canonical, concrete key; it may share memory with the model."""

    @abstractmethod
    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        """A native value for a canonical key, ready to be committed; changes nothing.

        `value` fits the entry, is C-contiguous and belongs to the callee. Refuses, with a `StateError`, what the
        framework would narrow.
        """

    def _stage_part(self, key: str, value: np.ndarray, /) -> Any:
        """As `_stage`, of the box of a value that is in this process; for registries that hold parts."""
        raise errors.UnsupportedError(f"{key!r} lies here as a whole", keys=(key,))

    @abstractmethod
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        """Write staged values.

        Returns:
            `self` where it is in place, else a new registry that leaves this one untouched.
        """

    def _aliases(self) -> Mapping[str, str]:
        """Every further key of a place, with its canonical key: the least of the group."""
        return {}

    def _opaque(self) -> Mapping[str, str]:
        """Registered state that is not an array of a known dtype, by key, with the reason."""
        return {}

    def _layers(self) -> tuple[Layer, ...]:
        """The standard layers that the entries form, in native order; a shared one under each of its paths."""
        return ()

    def _holders(self) -> Mapping[str, Holder]:
        """The module that holds each place, by key or alias, where the native object has modules with types."""
        return {}

    def _activations(self) -> Mapping[str, str]:
        """The activations that hang at modules without being layers, by path: `gelu`, `gelu_tanh`, `relu`, ..."""
        return {}

    def _find(self, key: str, /) -> Entry | None:
        """The entry of one canonical key. In-place adapters override it where `_entries` walks a whole model."""
        return self._entries().get(key)

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        """A value that a caller gives, as an array: bits unchanged. Adapters teach it their native arrays."""
        import numpy as np  # lazy: metadata alone need none

        return np.asarray(value)

    def _backup(self, key: str, /) -> Any:
        """A staged value that brings the present one back."""
        import numpy as np  # lazy: metadata alone need none

        return self._stage(key, np.array(self._read(key), order="C", copy=True))

    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        """Set the flags of canonical keys, by a mask. The default keeps them on the handle.

        Returns:
            As `_commit`.
        """
        flags = MappingProxyType({**self._flags, **mask})
        if self.in_place:
            self._flags = flags
            return self
        other = copy.copy(self)
        other._flags, other._listed = flags, None  # noqa: SLF001  # the same class
        return other

    def _tree(self, flat: Mapping[str, Any], /) -> Any:
        """Values by canonical key of every parameter, in the tree type that the framework has for its parameters."""
        return dict(flat)

    @abstractmethod
    def unwrap(self) -> Any:
        """The native object: a module, a tree of variables, a path."""

    # ---------------------------------------------------------------- mapping

    def _listing(self) -> Mapping[str, Entry]:
        if self.in_place:
            return self._flagged(self._entries())
        if self._listed is None:
            self._listed = self._flagged(self._entries())
        return self._listed

    def _flagged(self, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
        if not self._flags:
            return entries
        return {key: self._with_flag(key, entry) for key, entry in entries.items()}

    def _with_flag(self, key: str, entry: Entry) -> Entry:
        flag = self._flags.get(key)
        if flag is None or flag is entry.trainable or not entry.can_train:
            return entry
        return with_fields(entry, trainable=flag)

    def __getitem__(self, key: str) -> Entry:
        entry = None
        if isinstance(key, str):
            if self.in_place:
                entry = self._find(key)
                if entry is not None and self._flags:
                    entry = self._with_flag(key, entry)
            else:
                entry = self._listing().get(key)
        if entry is None:
            raise self._unknown(key)
        return entry

    def _unknown(self, key: object) -> errors.UnknownKeyError:
        hint = checking.suggest(key, self._listing()) if isinstance(key, str) else "keys are str"
        canonical = self.aliases.get(key) if isinstance(key, str) else None
        if canonical is not None:
            hint = f"{key!r} is an alias of {canonical!r}: entries stand under the canonical key"
        message = f"no entry {key!r} among the {len(self)} of this registry"
        return errors.UnknownKeyError(message, keys=(str(key),), hint=hint or None)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._listing()))

    def __len__(self) -> int:
        return len(self._listing())

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        return (self._find(key) if self.in_place else self._listing().get(key)) is not None

    def _sorted(self) -> dict[str, Entry]:
        listing = self._listing()
        return {key: listing[key] for key in sorted(listing)}

    # The views are over the entries as of the call, so that writing while iterating is safe.
    def keys(self) -> KeysView[str]:
        """The canonical keys, sorted."""
        return self._sorted().keys()

    def values(self) -> ValuesView[Entry]:
        """The entries, in the order of their keys."""
        return self._sorted().values()

    def items(self) -> ItemsView[str, Entry]:
        """Keys and entries, sorted by key."""
        return self._sorted().items()

    # ---------------------------------------------------------------- structure

    @property
    def dialect(self) -> str:
        """Name of the dialect that keys and layouts are in: that of the adapter, or what a file says of itself."""
        return self.adapter

    @property
    def aliases(self) -> Mapping[str, str]:
        """Every alias key with its canonical key, sorted."""
        found = self._aliases()
        return MappingProxyType({key: found[key] for key in sorted(found)})

    @property
    def opaque(self) -> Mapping[str, str]:
        """Registered state that cannot be an entry, by key, with the reason, sorted."""
        found = self._opaque()
        return MappingProxyType({key: found[key] for key in sorted(found)})

    @property
    def native_order(self) -> tuple[str, ...]:
        """The canonical keys as the framework declares them or the file stores them."""
        return tuple(self._listing())

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The standard layers that the entries form, in native order; entries in none of them stand alone."""
        return self._layers()

    @property
    def holders(self) -> Mapping[str, Holder]:
        """The module that holds each entry, by key or alias; empty where only arrays are known, as of a file."""
        return MappingProxyType(dict(self._holders()))

    @property
    def activations(self) -> Mapping[str, str]:
        """Functions without state that hang at modules, by path, in neutral words; only those that can be seen there."""
        return MappingProxyType(dict(self._activations()))

    # ---------------------------------------------------------------- reading

    def _canonical(self, key: str) -> tuple[str, Entry]:
        if isinstance(key, str):
            if key in self:
                return key, self[key]
            canonical = self._aliases().get(key)
            if canonical is not None:
                return canonical, self[canonical]
            reason = self._opaque().get(key)
            if reason is not None:
                message = f"{key!r} is opaque and cannot be read as an array: {reason}"
                raise errors.OpaqueError(message, keys=(key,))
        raise self._unknown(key)

    def view(self, key: str, /) -> np.ndarray:
        """The value of a key or alias as a read-only array that may share memory with the model or the file.

        Returns:
            An array of the entry's shape and dtype, same bits as `read`; zero-copy where possible. It is valid until
            the registry's object is written or closed.

        Raises:
            UnknownKeyError, AbstractError (no values), OpaqueError, UnsupportedError (not addressable).
        """
        import numpy as np  # lazy: metadata alone need none

        canonical, entry = self._canonical(key)
        if not entry.concrete:
            message = f"{key!r} is abstract: it has a shape and a dtype but no values"
            raise errors.AbstractError(message, keys=(key,), hint="load or replace its value first")
        try:
            array = np.asarray(self._read(canonical))
        except errors.StateError:
            raise
        except Exception as error:
            message = f"{key!r}: the framework could not give its value: {type(error).__name__}: {error}"
            raise errors.UnsupportedError(message, keys=(key,)) from error
        if array.shape != entry.shape or dtype_name(array.dtype) != entry.dtype:
            message = (
                f"{key!r}: the {self.adapter or type(self).__name__} adapter listed {entry.dtype}{list(entry.shape)} "
                f"but read {array.dtype}{list(array.shape)}"
            )
            raise errors.StateError(message, keys=(key,), hint="this is a bug of the adapter: report it")
        array = array.view()
        array.flags.writeable = False
        return array

    def read(self, key: str, /) -> np.ndarray:
        """The value of a key or alias as an array of the caller's own.

        Returns:
            A writable, C-contiguous, native-endian array of the entry's shape and dtype that owns its memory.

        Raises:
            UnknownKeyError, AbstractError (no values), OpaqueError, UnsupportedError (not addressable).
        """
        import numpy as np  # lazy: metadata alone need none

        array = self.view(key)
        dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
        return np.array(array, dtype=dtype, order="C", copy=True)

    # ---------------------------------------------------------------- writing

    def replace(self, values: Mapping[str, Any], /) -> Self:
        """Write the values of the keys given; the others keep their bits. Rebind: `reg = reg.replace(...)`.

        Args:
            values: arrays by key or alias, of exactly the entry's shape and dtype, in any memory layout. They are
                copied. Aliases of one place must be given equal bits.

        Returns:
            This registry if `in_place` (native objects keep their identity), else a new one.

        Raises:
            MismatchError: with `.report` of everything that is wrong; of the child class that also derives from
                `KeyError`, `TypeError` or `ValueError` where all problems are of one class. Nothing was written.
            AbstractError: an entry without values that this registry cannot give any. Nothing was written.
            CommitError: the framework failed while writing; the old values were put back.
        """
        arrays, problems = checking.gather(values, self._convert)
        entries, aliases = self._listing(), self._aliases()
        problems += checking.compare(entries, aliases, arrays, partial=True, opaque=self._opaque())
        if problems:
            raise checking.refuse(checking.Report.of(problems), "cannot replace")
        names = {aliases.get(key, key): key for key in arrays}
        try:
            return self._write({key: arrays[given] for key, given in names.items()}, entries)
        except errors.MismatchError as error:
            raise checking.refuse(error.report.renamed(names), "cannot replace") from error

    def _write(
        self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry], parts: Collection[str] = ()
    ) -> Self:
        """Stage and commit arrays by canonical key; those of `parts` are the boxes of the values that are here."""
        abstract = tuple(sorted(key for key in arrays if not entries[key].concrete))
        if abstract and not self.materialises:
            shown = ", ".join(map(repr, abstract[:5]))
            message = (
                f"{counted(len(abstract), 'entry', 'is', 'are')} abstract and cannot be given values in place: {shown}"
            )
            raise errors.AbstractError(message, keys=abstract, hint="build the model with real arrays first")
        staged: dict[str, Any] = {}
        problems = []
        for key, array in arrays.items():
            try:
                staged[key] = (self._stage_part if key in parts else self._stage)(key, array)
            except errors.StateError as error:
                text = str(entries[key])
                problems.append(checking.Problem("invalid", key, text, error.message, error.hint or "", error))
            except Exception as error:  # noqa: BLE001  # the framework refused the value: reported with the others
                found = f"{type(error).__name__}: {error}"
                problems.append(checking.Problem("invalid", key, str(entries[key]), found, cause=error))
        if problems:
            raise checking.refuse(checking.Report.of(problems), "cannot replace")
        if not staged:
            return self
        return self._commit_or_roll_back(staged)

    def _commit_or_roll_back(self, staged: Mapping[str, Any]) -> Self:
        if not self.in_place:
            try:
                other = self._commit(staged)
            except errors.StateError:
                raise
            except Exception as error:
                raise self._failed(error, ()) from error
            other._flags = self._flags  # noqa: SLF001  # the same class
            return other
        try:
            undo = {key: self._backup(key) for key in staged}
        except errors.StateError:
            raise
        except Exception as error:
            raise self._failed(error, ()) from error
        try:
            return self._commit(staged)
        except BaseException as error:
            lost = self._roll_back(undo)
            if isinstance(error, Exception) and not (isinstance(error, errors.StateError) and not lost):
                raise self._failed(error, lost) from error
            if lost:
                error.add_note(f"NOT restored: {', '.join(lost)}")
            raise

    def _roll_back(self, undo: dict[str, Any]) -> tuple[str, ...]:
        """Put every old value back, each on its own: the place that failed may fail again. Returns what is lost."""
        lost = []
        for key, value in reversed(undo.items()):
            for again in (True, False):
                try:
                    self._commit({key: value})
                except Exception:  # noqa: BLE001  # the next place must be restored all the same; the bits decide below
                    lost.append(key)
                except BaseException:  # noqa: BLE001  # a second Ctrl-C: the first one is raised when all is restored
                    if again:
                        continue
                    lost.append(key)
                break
        return tuple(key for key in lost if not self._same(key, undo[key]))

    def _same(self, key: str, backup: Any) -> bool:
        """Whether a place that refused to be restored holds its old bits after all."""
        import numpy as np  # lazy: metadata alone need none

        if not isinstance(backup, np.ndarray):
            backup = self._convert(key, backup)
        same: bool = np.asarray(self._read(key)).tobytes() == backup.tobytes()
        return same

    def _failed(self, error: BaseException, lost: tuple[str, ...]) -> errors.CommitError:
        state = "every place has its old value" if not lost else f"NOT restored: {', '.join(lost)}"
        message = f"the framework failed while writing ({type(error).__name__}: {error}); {state}"
        return errors.CommitError(message, keys=lost)

    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        """Set whether the optimizer may change the entries named. Values and kinds stay as they are.

        Args:
            mask: `bool` by key or alias.

        Returns:
            This registry if `in_place`, else a new one; rebind it.

        Raises:
            KindError: a buffer, or an integer or boolean parameter, is to be trainable. Nothing was changed.
            MismatchError: unknown keys, values that are not `bool`, or aliases that disagree. Nothing was changed.
        """
        wanted, problems = self._checked_mask(mask)
        entries = self._listing()
        if problems:
            raise checking.refuse(checking.Report.of(problems), "cannot set trainable")
        wrong = tuple(sorted(key for key, flag in wanted.items() if flag and not entries[key].can_train))
        if wrong:
            names = ", ".join(f"{key!r} (a {entries[key].kind.value} of {entries[key].dtype})" for key in wrong[:5])
            message = f"{counted(len(wrong), 'entry')} cannot be trainable: {names}; nothing was changed"
            hint = "only a parameter of floating or complex dtype can be trainable"
            raise errors.KindError(message, keys=wrong, hint=hint)
        if not wanted:
            return self
        undo = {key: entries[key].trainable for key in wanted}
        try:
            return self._commit_trainable(wanted)
        except BaseException as error:
            if self.in_place:
                for key, flag in undo.items():
                    self._commit_trainable({key: flag})
            if isinstance(error, Exception) and not isinstance(error, errors.StateError):
                raise self._failed(error, ()) from error
            raise

    def _checked_mask(self, mask: Mapping[Any, Any]) -> tuple[dict[str, bool], list[checking.Problem]]:
        import numpy as np  # lazy: metadata alone need none

        entries, aliases, opaque = self._listing(), self._aliases(), self._opaque()
        problems: list[checking.Problem] = []
        try:
            given = {key: mask[key] for key in list(mask)}
        except Exception as error:  # noqa: BLE001  # a caller's mapping may raise anything; it is reported
            found = f"{type(error).__name__}: {error}"
            return {}, [checking.Problem("invalid", "*", "a mapping that can be read", found, cause=error)]
        wanted: dict[str, bool] = {}
        for key, flag in given.items():
            if not isinstance(key, str):
                problems.append(checking.Problem("invalid", repr(key), "a str key", type(key).__name__))
                continue
            canonical = aliases.get(key, key)
            if not isinstance(flag, (bool, np.bool_)):
                problems.append(checking.Problem("invalid", key, "a bool", type(flag).__name__))
            elif canonical not in entries:
                problems.append(checking.unknown(key, entries, opaque))
            elif wanted.setdefault(canonical, bool(flag)) is not bool(flag):
                text = f"one flag for every alias of {canonical!r}"
                problems.append(checking.Problem("conflict", key, text, "two"))
        return wanted, problems

    # ---------------------------------------------------------------- display

    def __repr__(self) -> str:
        entries = list(self._listing().values())
        parts = []
        for kind in Kind:
            those = [entry for entry in entries if entry.kind is kind]
            parts.append(f"{len(those)} {kind.value}s of {sum(e.size for e in those):,} elements")
        return f"<{type(self).__name__} {self.adapter}: {', '.join(parts)}>"


class ReadOnlyRegistry(StateRegistry):
    """A registry whose values cannot be replaced: a file, or the lazy result of a plan."""

    in_place: ClassVar[bool] = False
    #: What to do instead of writing here.
    _instead: ClassVar[str] = "load it into a live model, or write a new file with sr.save"

    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        raise self._refusal(key)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        raise self._refusal(*staged)

    def replace(self, values: Mapping[str, Any], /) -> Self:
        """Refuse: `UnsupportedError`."""
        raise self._refusal(*list(values))

    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        """Refuse: `UnsupportedError`."""
        raise self._refusal(*list(mask))

    def _refusal(self, *keys: str) -> errors.UnsupportedError:
        return errors.UnsupportedError(f"{self!r} is read-only", keys=keys, hint=self._instead)
