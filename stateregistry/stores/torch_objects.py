"""What a torch archive may be made of: an allowlist of globals, each with an inert value of our own for it.

`torch.save` writes an array as a call of a rebuild function over a storage; here those calls give a `Tensor` record
that says which bytes of which storage with which strides. Arrays that a registry cannot hold (quantised, sparse,
nested) give `Opaque`. A global that is not in the table is refused by the machine. Imports no framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from stateregistry import errors
from stateregistry.entry import DTYPES
from stateregistry.stores.pickle_machine import Function, Name, Other, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateregistry.stores.limits import Limits

_MAX = 2**63 - 1


@final
@dataclass(frozen=True, slots=True)
class TorchDtype:
    """A dtype of torch: its name there, and ours where a registry holds it."""

    torch: str
    ours: str | None


@final
@dataclass(frozen=True, slots=True)
class Storage:
    """A record of values: its key in the archive, how many bytes it is used as, and the dtype it is written as."""

    key: str
    nbytes: int
    dtype: TorchDtype


@final
@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of the file. Offset and strides count elements; all of it lies inside the storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False
    conjugate: bool = False
    negative: bool = False
    parameter: bool = False
    buffer: bool = False


@final
@dataclass(frozen=True, slots=True)
class Absent:
    """An array of torch's meta device: no values."""

    dtype: str
    shape: tuple[int, ...]
    requires_grad: bool = False
    parameter: bool = False
    buffer: bool = False


@final
@dataclass(frozen=True, slots=True)
class Opaque:
    """An array that a registry cannot hold, and why."""

    reason: str


def _dtype_table() -> dict[str, TorchDtype]:
    found = {name: TorchDtype(name, name) for name in DTYPES}
    others = ["complex32", "float4_e2m1fn_x2", "quint8", "qint8", "qint32", "quint4x2", "quint2x4"]
    others += ["bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"]
    others += [f"{sign}int{width}" for sign in ("", "u") for width in range(1, 8)]
    return found | {name: TorchDtype(name, None) for name in others}


_DTYPES = _dtype_table()
_UNTYPED = TorchDtype("uint8", "uint8")
_STORAGES: Mapping[str, TorchDtype] = {
    "DoubleStorage": _DTYPES["float64"], "FloatStorage": _DTYPES["float32"], "HalfStorage": _DTYPES["float16"],
    "BFloat16Storage": _DTYPES["bfloat16"], "LongStorage": _DTYPES["int64"], "IntStorage": _DTYPES["int32"],
    "ShortStorage": _DTYPES["int16"], "CharStorage": _DTYPES["int8"], "ByteStorage": _DTYPES["uint8"],
    "BoolStorage": _DTYPES["bool"], "ComplexDoubleStorage": _DTYPES["complex128"],
    "ComplexFloatStorage": _DTYPES["complex64"], "UntypedStorage": _UNTYPED,
    "QInt8Storage": _DTYPES["qint8"], "QInt32Storage": _DTYPES["qint32"], "QUInt8Storage": _DTYPES["quint8"],
    "QUInt4x2Storage": _DTYPES["quint4x2"], "QUInt2x4Storage": _DTYPES["quint2x4"],
}  # fmt: skip
#: Bytes per element of the storages whose dtype a registry does not hold: the record must have their length too.
_OTHER_BYTES = {"qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1}


def width_of(dtype: TorchDtype) -> int:
    """Bytes per element of the dtype of a storage."""
    return DTYPES[dtype.ours] if dtype.ours is not None else _OTHER_BYTES[dtype.torch]


@final
class Allowlist:
    """The table of globals for one file.

    Attributes:
        known: (module, name) -> `Function`, `Name` or a constant, for the pickle machine.
    """

    def __init__(self, where: str, limits: Limits) -> None:
        self._where = where
        self._limits = limits
        known: dict[tuple[str, str], object] = {("torch", name): dtype for name, dtype in _DTYPES.items()}
        for name, dtype in _STORAGES.items():
            for module in ("torch", "torch.cuda", "torch.storage"):
                known[module, name] = StorageType(dtype)
        for name in ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
                     "per_channel_affine_float_qparams"):  # fmt: skip
            known["torch", name] = Name(f"torch.{name}")
        for module, name in (("torch", "Tensor"), ("torch._tensor", "Tensor"), ("torch.nn.parameter", "Parameter")):
            known[module, name] = Name(f"torch.{name}")
        functions: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
            ("collections", "OrderedDict"): self._ordered_dict,
            ("collections", "Counter"): lambda _: Other("a collections.Counter"),
            ("torch", "Size"): self._size,
            ("torch", "device"): lambda _: Other("a torch.device"),
            ("_codecs", "encode"): self._encode,
            ("torch.serialization", "_get_layout"): lambda _: Other("a torch.layout"),
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor_v2,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_v3,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            ("torch._utils", "_rebuild_meta_tensor_no_storage"): self._meta,
            ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): self._moved,
            ("torch._utils", "_rebuild_qtensor"): lambda _: Opaque("a quantised tensor"),
            ("torch._utils", "_rebuild_sparse_tensor"): lambda _: Opaque("a sparse tensor"),
            ("torch._utils", "_rebuild_nested_tensor"): lambda _: Opaque("a nested tensor"),
            ("torch._tensor", "_rebuild_from_type_v2"): self._with_type,
        }
        for builtins in ("builtins", "__builtin__"):
            functions[builtins, "set"] = lambda _: Other("a set")
            functions[builtins, "complex"] = lambda _: Other("a complex number")
            functions[builtins, "bytearray"] = lambda _: Other("a bytearray")
        known |= {key: Function(".".join(key), build) for key, build in functions.items()}
        self.known: Mapping[tuple[str, str], object] = known

    def _fail(self, what: str) -> errors.FileFormatError:
        message = f"{self._where}: {what}"
        return errors.FileFormatError(message, hint="the file is damaged, or was not written by torch.save")

    # ---------------------------------------------------------------- plain values

    def _ordered_dict(self, args: tuple[Any, ...]) -> Table:
        if args:
            raise self._fail("an OrderedDict is made of something")
        return Table()

    def _size(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(args) != 1 or type(args[0]) is not tuple:
            raise self._fail("a torch.Size is not made of a tuple")
        return args[0]

    def _encode(self, args: tuple[Any, ...]) -> bytes:
        if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
            raise self._fail("bytes are not spelled as Latin-1 text")
        return args[0].encode("latin-1")

    # ---------------------------------------------------------------- arrays

    def _tensor(self, args: tuple[Any, ...]) -> Tensor | Opaque:
        if len(args) != 4:
            raise self._fail(f"a tensor is rebuilt from {len(args)} values, expected 4")
        return self._make(args, None, requires_grad=False, metadata=None)

    def _tensor_v2(self, args: tuple[Any, ...]) -> Tensor | Opaque:
        if len(args) not in (6, 7):
            raise self._fail(f"a tensor is rebuilt from {len(args)} values, expected 6 or 7")
        return self._make(args[:4], None, requires_grad=args[4], metadata=args[6] if len(args) == 7 else None)

    def _tensor_v3(self, args: tuple[Any, ...]) -> Tensor | Opaque:
        if len(args) not in (7, 8) or not isinstance(args[6], TorchDtype):
            raise self._fail("a tensor of a newer dtype is rebuilt from the wrong values")
        return self._make(args[:4], args[6], requires_grad=args[4], metadata=args[7] if len(args) == 8 else None)

    def _make(
        self, args: tuple[Any, ...], dtype: TorchDtype | None, *, requires_grad: object, metadata: object
    ) -> Tensor | Opaque:
        storage, offset, shape, stride = args
        if not isinstance(storage, Storage):
            raise self._fail("a tensor is rebuilt without a storage")
        wanted = storage.dtype if dtype is None else dtype
        if wanted.ours is None:
            return Opaque(f"its dtype torch.{wanted.torch} is not one that a registry holds")
        if type(requires_grad) is not bool:
            raise self._fail("requires_grad of a tensor is neither true nor false")
        self._check_layout(storage, DTYPES[wanted.ours], offset, shape, stride)
        bits = metadata if isinstance(metadata, Table) else {}
        return Tensor(
            storage, wanted.ours, offset, shape, stride, requires_grad,
            conjugate=bits.get("conj") is True, negative=bits.get("neg") is True,
        )  # fmt: skip

    def _check_layout(self, storage: Storage, width: int, offset: Any, shape: Any, stride: Any) -> None:
        """Every element lies inside the storage, and there are not absurdly more of them than it has."""
        self._check_sizes(shape, width)
        if type(stride) is not tuple or not all(type(step) is int and 0 <= step <= _MAX for step in stride):
            raise self._fail("the strides of a tensor are not a tuple of numbers")
        if len(stride) != len(shape) or type(offset) is not int or not 0 <= offset <= _MAX:
            raise self._fail(f"a tensor with {len(shape)} axes has {len(stride)} strides, or its offset is no number")
        count = math.prod(shape)
        if count == 0:
            return
        available = storage.nbytes // width
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if last >= available:
            what = f"reaches element {last:,} of storage {storage.key!r}, which has {available:,}"
            raise self._fail(f"a tensor {list(shape)} {what}")
        if count > available * self._limits.expansion:
            self._limits.check("expansion", count // available, f"{self._where}: a tensor {list(shape)} repeated")

    def _check_sizes(self, shape: Any, width: int) -> None:
        if type(shape) is not tuple or not all(type(size) is int and 0 <= size <= _MAX for size in shape):
            raise self._fail("the shape of a tensor is not a tuple of sizes")
        self._limits.check("rank", len(shape), f"{self._where}: number of axes of a tensor")
        if math.prod(size for size in shape if size) * width > _MAX:
            raise self._fail("the shape of a tensor has more elements than memory can have")

    def _parameter(self, args: tuple[Any, ...]) -> Tensor | Absent | Opaque:
        if len(args) not in (3, 4) or type(args[1]) is not bool or not isinstance(args[0], (Tensor, Absent, Opaque)):
            raise self._fail("a parameter is rebuilt from the wrong values")
        data = args[0]
        return data if isinstance(data, Opaque) else replace(data, parameter=True, requires_grad=args[1])

    def _meta(self, args: tuple[Any, ...]) -> Absent | Opaque:
        if len(args) != 4 or not isinstance(args[0], TorchDtype) or type(args[3]) is not bool:
            raise self._fail("a tensor without values is rebuilt from the wrong values")
        if args[0].ours is None:
            return Opaque(f"its dtype torch.{args[0].torch} is not one that a registry holds")
        self._check_sizes(args[1], DTYPES[args[0].ours])
        return Absent(args[0].ours, args[1], args[3])

    def _moved(self, args: tuple[Any, ...]) -> Tensor | Opaque:
        """A tensor of a device that keeps its values in a tensor of the CPU."""
        if len(args) != 4 or not isinstance(args[0], Tensor) or not isinstance(args[1], TorchDtype):
            raise self._fail("a tensor of another device is rebuilt from the wrong values")
        if args[1].ours != args[0].dtype:
            return Opaque(f"its values are stored as {args[0].dtype} and would be cast to torch.{args[1].torch}")
        return replace(args[0], requires_grad=args[3] is True)

    def _with_type(self, args: tuple[Any, ...]) -> Any:
        """A tensor that carries Python attributes: they are no state, except that `nn.Buffer` says so by one."""
        if len(args) != 4 or not isinstance(args[0], Function) or not isinstance(args[1], Name):
            raise self._fail("a tensor with attributes is rebuilt from the wrong values")
        if type(args[2]) is not tuple:
            raise self._fail("a tensor with attributes is rebuilt without arguments")
        data = args[0].build(args[2])
        if not isinstance(data, (Tensor, Absent)):
            return data
        state = args[3][0] if type(args[3]) is tuple and args[3] else args[3]
        if args[1].name == "torch.Parameter":
            return replace(data, parameter=True)
        return replace(data, buffer=isinstance(state, Table) and state.get("_is_buffer") is True)


@final
@dataclass(frozen=True, slots=True)
class StorageType:
    """The class of a storage, which names the dtype that it is written as."""

    dtype: TorchDtype
