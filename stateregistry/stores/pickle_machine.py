"""A pickle machine that cannot run anything: it interprets a fixed set of instructions over inert values.

Not `pickle.Unpickler` with a filter: no class is ever looked up, no function of the file's choice is ever called. A
global is a name; the caller's table says which names it knows and what to make of them, all in code of this project.
Everything else is remembered by name and makes the file refused as unsafe, with all such names in the message.
Mappings refuse a key that stands twice. Limits bound steps and stack. Imports no framework.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, final

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateregistry.stores.limits import Limits

#: Longest integer that a pickle may hold; no checkpoint needs one that takes quadratic time to print.
_LONG_BYTES = 64
#: Steps between two looks at the height of the stack; one step pushes at most one value.
_STRIDE = 4096
_U32 = struct.Struct("<I")
_SCALARS = (str, int, float, bool, bytes, type(None))


@final
@dataclass(frozen=True, slots=True)
class Function:
    """A global that the caller's table knows: `build` is a function of this project, given the arguments."""

    name: str
    build: Callable[[tuple[Any, ...]], Any]


@final
@dataclass(frozen=True, slots=True)
class Name:
    """A global that the caller's table knows and that is never called: a class or a constant."""

    name: str


@final
@dataclass(frozen=True, slots=True)
class Class:
    """A global that the caller's table knows: a class of plain records, which become `Record`s."""

    name: str


@final
@dataclass(slots=True, eq=False)
class Record:
    """An object of a known class: what the file says of it. As a key of a mapping it is equal to itself alone."""

    name: str
    state: object = None


@final
@dataclass(frozen=True, slots=True)
class Unknown:
    """A global that nobody knows, or what would have come of calling it."""

    name: str


@final
@dataclass(frozen=True, slots=True)
class Other:
    """A value that is no container to look into and no array: `what` it is, for people."""

    what: str


class Table(dict[Any, Any]):
    """A dict or an OrderedDict of the file. Attributes that the file gives it are not kept."""

    __slots__ = ()


@final
@dataclass(slots=True)
class Machine:
    """One run over one pickle.

    Attributes:
        data: the pickle.
        known: (module, name) -> what stands for that global.
        persistent: makes the value of a persistent id.
        where: the file, for messages.
        limits: steps and stack.
        begin: where in `data` the pickle begins. whole: it has to end where `data` ends.
        unknown: names of the globals that are not in `known`, in the order of the file.
    """

    data: bytes
    known: Mapping[tuple[str, str], object]
    persistent: Callable[[object], object]
    where: str
    limits: Limits
    begin: int = 0
    whole: bool = True
    unknown: dict[str, None] = field(default_factory=dict)
    _at: int = 0
    _stack: list[Any] = field(default_factory=list)
    _below: list[list[Any]] = field(default_factory=list)
    _memo: dict[int, Any] = field(default_factory=dict)
    _height: int = 0  # values on the stacks in `_below`

    def __post_init__(self) -> None:
        self._at = self.begin

    @property
    def end(self) -> int:
        """Where in `data` the pickle ended, once it ran."""
        return self._at

    def run(self) -> Any:
        """The value of the pickle, made of `Table`, list, tuple, scalars and what the caller's functions return.

        Raises:
            UnsafeFileError: it names a global that is not known. FileFormatError: damaged, or over a limit.
        """
        try:
            result = self._interpret()
        except errors.UnsafeFileError:
            raise
        except errors.StateError:
            # A pickle that is damaged after it asked for something unsafe is unsafe first of all.
            self._refuse_unknown()
            raise
        except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
            self._refuse_unknown()
            reason = f"{type(error).__name__}: {error}"[:200]
            message = f"{self.where}: the pickle is damaged near byte {self._at:,} ({reason})"
            raise errors.FileFormatError(message, hint="the file is truncated or damaged: get it again") from error
        self._refuse_unknown()
        return result

    def _refuse_unknown(self) -> None:
        if not self.unknown:
            return
        names = ", ".join(name[:120] for name in list(self.unknown)[:10])
        more = len(self.unknown) - 10
        message = f"{self.where}: reading it would run code from it: {names}"
        message += f" and {more} more" if more > 0 else ""
        hint = (
            "nothing was run; where the file is trusted, load it in the program that made it and save its weights "
            "alone: torch.save(model.state_dict(), path)"
        )
        raise errors.UnsafeFileError(message, found=tuple(self.unknown), hint=hint)

    def _fail(self, what: str) -> NoReturn:
        message = f"{self.where}: the pickle {what} (near byte {self._at:,})"
        raise errors.FileFormatError(message, hint="the file is damaged, or was not written by torch.save")

    def _interpret(self) -> Any:  # noqa: RET503  # `_fail` does not return
        data, table = self.data, {code: getattr(self, method) for code, method in _STEPS.items()}
        steps = 0
        while steps < self.limits.pickle_steps:
            for _ in range(_STRIDE):
                code = data[self._at]
                self._at += 1
                if code == 0x2E:  # STOP
                    return self._stop()
                step = table.get(code)
                if step is None:
                    self._refuse_code(code)
                step()
            steps += _STRIDE
            # An open mark is a list, which takes the memory of several values.
            if self._height + len(self._stack) + 2 * len(self._below) > self.limits.pickle_stack:
                self._fail(f"puts more than pickle_stack={self.limits.pickle_stack:,} values on the stack")
        self._fail(f"takes more than pickle_steps={self.limits.pickle_steps:,} steps")

    def _stop(self) -> Any:
        if self.whole and self._at != len(self.data):
            self._fail(f"ends {len(self.data) - self._at:,} bytes before its record does")
        if len(self._stack) != 1 or self._below:
            self._fail("leaves values on the stack")
        return self._stack[0]

    def _refuse_code(self, code: int) -> NoReturn:
        if code in _CALLING:
            self.unknown[f"the pickle instruction {_CALLING[code]}"] = None
            self._refuse_unknown()
        self._fail(f"has the instruction 0x{code:02x}, which torch does not write")

    # ---------------------------------------------------------------- operands

    def _take(self, count: int) -> bytes:
        begin = self._at
        if begin + count > len(self.data):
            self._fail("ends in the middle of a value")
        self._at = begin + count
        return self.data[begin : self._at]

    def _u8(self) -> int:
        self._at += 1
        return self.data[self._at - 1]

    def _u32(self) -> int:
        number: int = _U32.unpack_from(self.data, self._at)[0]
        self._at += 4
        return number

    def _number(self, form: str, width: int) -> int:
        number: int = struct.unpack(form, self._take(width))[0]
        return number

    def _line(self) -> str:
        end = self.data.index(b"\n", self._at)
        text = self.data[self._at : end].decode("utf-8")
        self._at = end + 1
        return text

    def _marked(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        self._height -= len(self._stack)
        return items

    # ---------------------------------------------------------------- framing

    def _proto(self) -> None:
        if self._u8() not in (2, 3, 4, 5):
            self._fail("is of a protocol that torch does not write")

    def _frame(self) -> None:
        if self._number("<Q", 8) > len(self.data) - self._at:
            self._fail("has a frame that is longer than the pickle")

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._height += len(self._stack)
        self._stack = []

    # ---------------------------------------------------------------- scalars

    def _none(self) -> None:
        self._stack.append(None)

    def _true(self) -> None:
        self._stack.append(True)

    def _false(self) -> None:
        self._stack.append(False)

    def _int4(self) -> None:
        self._stack.append(self._number("<i", 4))

    def _int1(self) -> None:
        self._stack.append(self._u8())

    def _int2(self) -> None:
        self._stack.append(self._number("<H", 2))

    def _long1(self) -> None:
        self._long(self._u8())

    def _long4(self) -> None:
        self._long(self._number("<i", 4))

    def _long(self, count: int) -> None:
        if not 0 <= count <= _LONG_BYTES:
            self._fail(f"has an integer of {count:,} bytes")
        self._stack.append(int.from_bytes(self._take(count), "little", signed=True))

    def _float(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def _text(self, count: int) -> None:
        self._stack.append(self._take(count).decode("utf-8", "surrogatepass"))

    def _text1(self) -> None:
        self._text(self._u8())

    def _text4(self) -> None:
        self._text(self._u32())

    def _text8(self) -> None:
        self._text(self._number("<Q", 8))

    def _old_text1(self) -> None:
        self._text(self._u8())

    def _old_text4(self) -> None:
        self._text(self._u32())

    def _bytes1(self) -> None:
        self._stack.append(self._take(self._u8()))

    def _bytes4(self) -> None:
        self._stack.append(self._take(self._u32()))

    def _bytes8(self) -> None:
        self._stack.append(self._take(self._number("<Q", 8)))

    # ---------------------------------------------------------------- containers

    def _empty_tuple(self) -> None:
        self._stack.append(())

    def _tuple(self) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def _tuple1(self) -> None:
        self._stack[-1] = (self._stack[-1],)

    def _tuple2(self) -> None:
        last = self._stack.pop()
        self._stack[-1] = (self._stack[-1], last)

    def _tuple3(self) -> None:
        last = self._stack.pop()
        middle = self._stack.pop()
        self._stack[-1] = (self._stack[-1], middle, last)

    def _empty_list(self) -> None:
        self._stack.append([])

    def _append(self) -> None:
        item = self._stack.pop()
        self._extend(self._stack[-1], [item])

    def _appends(self) -> None:
        items = self._marked()
        self._extend(self._stack[-1], items)

    def _extend(self, target: object, items: list[Any]) -> None:
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, (Unknown, Other)):
            self._fail(f"appends to a {type(target).__name__}")

    def _empty_dict(self) -> None:
        self._stack.append(Table())

    def _set_item(self) -> None:
        value = self._stack.pop()
        key = self._stack.pop()
        self._set(self._stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self._marked()
        self._set(self._stack[-1], items)

    def _set(self, target: object, items: list[Any]) -> None:
        if isinstance(target, (Unknown, Other)):
            return
        if type(target) is not Table or len(items) % 2:
            self._fail(f"sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_key(key):
                self._fail(f"has a mapping with a key that is a {type(key).__name__}")
            if key in target:
                self._fail(f"has the name {str(key)[:200]!r} twice in one mapping")
            target[key] = value

    def _empty_set(self) -> None:
        self._stack.append(Other("a set"))

    def _frozen_set(self) -> None:
        self._marked()
        self._stack.append(Other("a set"))

    # ---------------------------------------------------------------- memo

    def _get1(self) -> None:
        self._stack.append(self._memo[self._u8()])

    def _get4(self) -> None:
        self._stack.append(self._memo[self._u32()])

    def _put1(self) -> None:
        self._memo[self._u8()] = self._stack[-1]

    def _put4(self) -> None:
        self._memo[self._u32()] = self._stack[-1]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    # ---------------------------------------------------------------- globals

    def _global(self) -> None:
        module = self._line()
        self._push_global(module, self._line())

    def _stack_global(self) -> None:
        name = self._stack.pop()
        module = self._stack.pop()
        if type(name) is not str or type(module) is not str:
            self._fail("names a global by something that is no text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        found = self.known.get((module, name))
        if found is None:
            found = Unknown(f"{module}.{name}")
            self.unknown[found.name] = None
        self._stack.append(found)

    def _reduce(self) -> None:
        args = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Unknown):
            return
        if type(args) is not tuple:
            self._fail("calls something with arguments that are no tuple")
        if not isinstance(target, Function):
            self._fail(f"calls a {_shown(target)}")
        # A call whose arguments are unknown things gives an unknown thing: refused in the end, named by its parts.
        unknown = any(isinstance(arg, Unknown) for arg in args)
        self._stack[-1] = Unknown(target.name) if unknown else target.build(args)

    def _new_object(self) -> None:
        args = self._stack.pop()
        cls = self._stack.pop()
        if type(cls) is Class and args == ():
            self._stack.append(Record(cls.name))
        else:
            self._made_of(cls)

    def _new_object_with_names(self) -> None:
        names = self._stack.pop()
        if names != {}:
            self._stack[-1] = names  # arguments by name: no record is made with any
        self._new_object()

    def _made_of(self, cls: object) -> None:
        if not isinstance(cls, Unknown):
            # Nothing in the table is made this way, so the file was not written by torch: a class is asked for.
            cls = Unknown(f"object.__new__({_shown(cls)})")
            self.unknown[cls.name] = None
        self._stack.append(cls)

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is Record:
            if target.state is not None:
                self._fail(f"says twice what a {target.name} is")
            target.state = state
            return
        if not isinstance(target, (Table, Unknown, Other)):
            self._fail(f"sets attributes of a {_shown(target)}")

    def _persistent(self) -> None:
        ident = self._stack.pop()
        inside = ident if type(ident) is tuple else ()
        unknown = next((part for part in inside if isinstance(part, Unknown)), None)
        self._stack.append(unknown if unknown is not None else self.persistent(ident))


def _is_key(key: object) -> bool:
    """Scalars, and flat tuples of them: hashing a tuple that nests deep would overflow the C stack."""
    if type(key) is tuple:
        return len(key) <= 16 and all(type(part) in _SCALARS for part in key)
    return type(key) in _SCALARS or type(key) is Record


def _shown(value: object) -> str:
    return value.name if isinstance(value, (Function, Name, Class, Record, Unknown)) else type(value).__name__


#: Instructions that exist to make objects of classes: nothing that torch writes has them.
_CALLING = {0x69: "INST", 0x6F: "OBJ", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4"}

_STEPS = {
    0x80: "_proto", 0x95: "_frame", 0x28: "_mark",
    0x4E: "_none", 0x88: "_true", 0x89: "_false",
    0x4A: "_int4", 0x4B: "_int1", 0x4D: "_int2", 0x8A: "_long1", 0x8B: "_long4", 0x47: "_float",
    0x58: "_text4", 0x8C: "_text1", 0x8D: "_text8", 0x55: "_old_text1", 0x54: "_old_text4",
    0x42: "_bytes4", 0x43: "_bytes1", 0x8E: "_bytes8", 0x96: "_bytes8",
    0x29: "_empty_tuple", 0x74: "_tuple", 0x85: "_tuple1", 0x86: "_tuple2", 0x87: "_tuple3",
    0x5D: "_empty_list", 0x61: "_append", 0x65: "_appends",
    0x7D: "_empty_dict", 0x73: "_set_item", 0x75: "_set_items",
    0x8F: "_empty_set", 0x90: "_appends", 0x91: "_frozen_set",
    0x68: "_get1", 0x6A: "_get4", 0x71: "_put1", 0x72: "_put4", 0x94: "_memoize",
    0x63: "_global", 0x93: "_stack_global",
    0x52: "_reduce", 0x81: "_new_object", 0x92: "_new_object_with_names", 0x62: "_build", 0x51: "_persistent",
}  # fmt: skip
