"""Samples: the declarations and values that the checks use. Deterministic; equal and square shapes on purpose.

A square matrix hides a transpose, equal shapes hide a swap of names, zeros hide a lost write: values here are random bits of
finite numbers, different for every key, seeded by the key. Imports NumPy and the core.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from stateregistry.entry import DTYPES, Kind, numpy_dtype
from stateregistry_conformance.declaration import Declaration, Leaf

if TYPE_CHECKING:
    from collections.abc import Mapping

PARAMETER, BUFFER = Kind.PARAMETER, Kind.BUFFER


def values(seed: str, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Non-trivial values of a dtype: the same for the same arguments, on every machine."""
    return _drawn(seed, shape, dtype).copy()


@lru_cache(maxsize=256)
def _drawn(seed: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{seed} {shape} {dtype}".encode()))
    target = numpy_dtype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        limits = np.iinfo(target)
        return rng.integers(limits.min, limits.max, shape, dtype=target.type, endpoint=True)
    if "complex" in dtype:
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(target)
    if DTYPES[dtype] == 1:
        # Powers of two between 1/4 and 4: every float8 dtype has them exactly.
        return np.asarray(2.0 ** rng.integers(-2, 3, shape)).astype(target)
    return np.asarray(rng.standard_normal(shape)).astype(target)


def parameter(key: str, shape: tuple[int, ...] = (3, 3), dtype: str = "float32") -> Leaf:
    """A parameter with values of its own."""
    return Leaf(key, PARAMETER, values(key, shape, dtype))


def buffer(key: str, shape: tuple[int, ...] = (3, 3), dtype: str = "float32") -> Leaf:
    """A persistent buffer with values of its own."""
    return Leaf(key, BUFFER, values(key, shape, dtype))


def core() -> Declaration:
    """What every framework can hold: both kinds, ranks 1 to 3, float16 and float32, nested. For shapes see `shapes`."""
    return Declaration(
        (
            parameter("encoder/weight", (4, 4)),
            parameter("encoder/bias", (4,)),
            buffer("encoder/norm/mean", (4,)),
            buffer("encoder/norm/var", (4,), "float16"),
            parameter("decoder/weight", (4, 4)),
            parameter("decoder/cube", (2, 2, 2), "float16"),
            parameter("scale", (5,)),
            buffer("one", (2,)),
        )
    )


#: Scalars, vectors of one, empty arrays, and what differs from them by an axis.
SHAPES: tuple[tuple[int, ...], ...] = (
    (), (1,), (0,), (2,), (1, 1), (0, 3), (3, 0), (2, 3), (3, 2), (2, 0, 3), (2, 3, 4, 5),
)  # fmt: skip


def shapes() -> Declaration:
    """A parameter and a buffer of every odd shape. Apart from `core`, so that a fault with scalars is not seen everywhere."""
    leaves = [parameter(f"p{number}", shape) for number, shape in enumerate(SHAPES)]
    return Declaration((*leaves, *(buffer(f"b{number}", shape) for number, shape in enumerate(SHAPES))))


def rich() -> tuple[Leaf, ...]:
    """Leaves of every dtype, rank, kind and flag, of which a framework holds some.

    What tools leave out or mistake stands here on purpose: counters, scalars that are trained, names that begin with an
    underscore, deep nesting, vectors without a negative number, arrays of zeros, generators and what looks like one.
    """
    typed_leaves = [
        leaf
        for dtype in DTYPES
        for leaf in (
            buffer(f"typed/buffer/{dtype}", (3,), dtype),
            parameter(f"typed/parameter/{dtype}", (3,), dtype),
            buffer(f"typed/counter/{dtype}", (), dtype),
        )
    ]
    return (
        parameter("temperature", ()),
        buffer("steps", (), "float16"),
        parameter("line", (4,)),
        buffer("table", (4, 4)),
        parameter("cube", (2, 3, 2)),
        Leaf("positive/weight", PARAMETER, np.abs(values("positive", (4,)))),
        Leaf("zero/weight", PARAMETER, np.zeros((3, 3), np.float32)),
        Leaf("zero/mean", BUFFER, np.zeros(3, np.float32)),
        parameter("a/b/c/d/e/f/g/h/weight", (2,)),
        buffer("a/b/c/d/e/f/g/h/mean", (2,)),
        parameter("_hidden/_weight"),
        buffer("_hidden/_mean"),
        Leaf("cache/recent", BUFFER, values("recent", (3, 3)), persistent=False),
        Leaf("noise/key", BUFFER, np.array([3, 4_000_000_001], np.uint32), rng=True),
        buffer("noise/pair", (2,), "uint32"),
        *typed_leaves,
    )


def nearly(array: np.ndarray) -> np.ndarray:
    """The same array with the last bit of every element changed."""
    if array.dtype == bool:
        return ~array
    if array.dtype.kind == "c":
        part = array.real.dtype
        return np.asarray(nearly(np.array(array.real)) + 1j * array.imag.astype(part)).astype(array.dtype)
    words = np.dtype(f"u{array.dtype.itemsize}")
    changed = np.asarray(array.view(words) ^ words.type(1))
    return changed.view(array.dtype)


def signs_turned(array: np.ndarray) -> np.ndarray:
    """The same array with the first bit of every element changed: of a floating number its sign, so that 0.0 becomes -0.0."""
    if array.dtype == bool:
        return ~array
    size = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    words = np.frombuffer(array.tobytes(), f"u{size}") ^ np.array(1 << (8 * size - 1), f"u{size}")
    return np.frombuffer(words.tobytes(), array.dtype).reshape(array.shape).copy()


def all_bits_set(array: np.ndarray) -> np.ndarray:
    """An array of the same shape and dtype whose floating numbers are NaN, and whose integers are the last there are."""
    if array.dtype == bool:
        return np.ones_like(array)
    return np.frombuffer(b"\xff" * array.nbytes, array.dtype).reshape(array.shape).copy()


def square() -> Declaration:
    """Four places of one shape and dtype, two of each kind: only names tell them apart."""
    return Declaration((parameter("p"), buffer("b"), parameter("q"), buffer("c")))


def neighbours() -> Declaration:
    """Parameters whose keys begin, end or contain one another: what goes by a part of a key reaches more than one."""
    keys = ("w", "w2", "w_", "a/w", "a/w2", "a2/w", "aa/w", "a/b/w", "b/w")
    return Declaration(tuple(parameter(key) for key in keys))


def tied() -> Declaration:
    """Two ties: one whose least name is an alias of the declared leaf, one whose leaf is the least, one with three names."""
    return Declaration(
        (parameter("head/weight"), parameter("body/weight"), buffer("body/stat"), parameter("alone")),
        {"base/weight": "head/weight", "tail/weight": "body/weight", "tip/weight": "body/weight"},
    )


def large() -> Declaration:
    """Places of 1 MiB: frameworks that borrow memory do so for large arrays only."""
    return Declaration((parameter("wide/p", (512, 512)), buffer("wide/b", (512, 512))))


def abstract() -> Declaration:
    """One place of each kind without values, among others with values."""
    return Declaration(
        (
            Leaf("ghost/p", PARAMETER, values("ghost/p", (3, 3)), concrete=False),
            parameter("p"),
            Leaf("ghost/b", BUFFER, values("ghost/b", (3,)), concrete=False),
            buffer("b"),
        )
    )


def transient() -> Declaration:
    """A buffer that is not saved among others that are."""
    return Declaration((parameter("p"), Leaf("cache", BUFFER, values("cache", (3, 3)), persistent=False), buffer("b")))


def typed(dtype: str) -> Declaration:
    """One buffer of a dtype."""
    return Declaration((buffer("x", (4, 4), dtype),))


def others(declaration: Declaration, seed: str = "other") -> dict[str, np.ndarray]:
    """Other values for every canonical key, in arrays of the caller's own."""
    found = declaration.entries()
    return {key: values(f"{seed} {key}", entry.shape, entry.dtype) for key, entry in found.items()}


def spread(declaration: Declaration, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state by canonical key as it is seen under every key and alias of concrete leaves."""
    names = [leaf.key for leaf in declaration.leaves] + list(declaration.ties)
    return {key: state[declaration.canonical(key)] for key in sorted(names) if declaration.canonical(key) in state}


def scribble(array: np.ndarray) -> None:
    """Spoil an array that somebody might still hold."""
    if array.flags.writeable:
        array.reshape(-1).view(np.uint8)[...] ^= 0xA5
