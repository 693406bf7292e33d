"""Writes the golden files of the suite: `python tests/conformance/golden_files.py`; a test holds them current.

Every expectation is written out here or follows from a rule of three lines; nothing is computed by the library or by the
suite, whose answers the files are to be compared with.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "conformance_tests" / "stateregistry_conformance" / "golden"
SPEC = "0.1"
#: Bytes of one element; the name is that of the specification.
SIZES = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
NEEDS = {
    "bool": "dtype.bool", "bfloat16": "dtype.bfloat16", "float64": "dtype.float64",
    "int64": "dtype.int64", "uint64": "dtype.int64", "complex64": "dtype.complex", "complex128": "dtype.complex",
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16", "uint32"), "dtype.integer"),
    **dict.fromkeys((name for name in SIZES if name.startswith("float8")), "dtype.float8"),
}  # fmt: skip


class Bytes:
    """The one file of raw little-endian bytes, and where in it a value is."""

    def __init__(self) -> None:
        self.raw = b""
        self._state = 0x5EED

    def put(self, raw: bytes) -> list[int]:
        """Append; returns offset and length."""
        self.raw += raw
        return [len(self.raw) - len(raw), len(raw)]

    def noise(self, shape: tuple[int, ...], dtype: str) -> list[int]:
        """Values without two equal neighbours: a counter of bytes that any language can repeat, finite for floats."""
        count = int(np.prod(shape, dtype=np.int64))
        if dtype == "bool":
            return self.put(bytes(self._next() & 1 for _ in range(count)))
        if "int" in dtype:
            return self.put(bytes(self._next() for _ in range(count * SIZES[dtype])))
        if dtype.startswith("float8"):
            return self.put(bytes(0x30 + self._next() % 0x18 for _ in range(count)))
        parts = count * (2 if dtype.startswith("complex") else 1)
        numbers = np.array([(self._next() - 128) / 16 + self._next() / 4096 for _ in range(parts)])
        wide = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "complex64": "<f4", "complex128": "<f8"}
        cast = numbers.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else numbers.astype(wide[dtype])
        return self.put(cast.tobytes())

    def _next(self) -> int:
        self._state = (self._state * 1103515245 + 12345) & 0x7FFFFFFF
        return self._state >> 16 & 0xFF


def leaf(
    path: list[str], kind: str = "parameter", shape: tuple[int, ...] = (3, 3), dtype: str = "float32", **more: Any
) -> dict[str, Any]:
    key = "/".join(name.replace("~", "~0").replace("/", "~1") for name in path)
    return {"key": key, "path": path, "kind": kind, "shape": list(shape), "dtype": dtype,
            "persistent": True, "concrete": True, "rng": False, **more}  # fmt: skip


def case(
    store: Bytes,
    name: str,
    about: str,
    leaves: list[dict[str, Any]],
    *,
    needs: tuple[str, ...] = (),
    ties: dict[str, str] | None = None,
    keys: list[str],
    aliases: dict[str, str] | None = None,
    values: dict[str, tuple[bytes, bytes]] | None = None,
) -> dict[str, Any]:
    """One case. `keys` is the listing that is expected, said by hand; `values` gives bytes to build and to write."""
    build, written, listing = [], {}, {}
    ties = ties or {}
    for one in leaves:
        given = (values or {}).get(one["key"])
        shape = tuple(one["shape"])
        first = store.put(given[0]) if given else store.noise(shape, one["dtype"])
        build.append({**one, "value": first if one["concrete"] else None})
        names = [one["key"], *(alias for alias, target in ties.items() if target == one["key"])]
        canonical = next(key for key in keys if key in names)
        floating = "float" in one["dtype"] or "complex" in one["dtype"]
        trains = one["kind"] == "parameter" and floating
        fields = ("kind", "shape", "dtype", "persistent", "concrete", "rng")
        listing[canonical] = {"key": canonical, **{f: one[f] for f in fields}, "trainable": trains}
        if one["concrete"]:
            written[canonical] = store.put(given[1]) if given else store.noise(shape, one["dtype"])
    assert sorted(listing) == sorted(keys), (name, sorted(listing), keys)
    return {
        "name": name,
        "about": about,
        "needs": list(needs),
        "build": build,
        "ties": ties,
        "listing": [listing[key] for key in keys],
        "aliases": aliases or {},
        "snapshot": [key for key in keys if listing[key]["persistent"] and listing[key]["concrete"]],
        "write": written,
    }


def _words(dtype: str, words: list[int]) -> bytes:
    return np.array(words, dtype).tobytes()


def cases(store: Bytes) -> list[dict[str, Any]]:
    found = [
        case(
            store, "plain", "both kinds, nested, declared in an order that is not the sorted one",
            [leaf(["norm", "mean"], "buffer", (4,)), leaf(["enc", "weight"]), leaf(["enc", "bias"], shape=(3,)),
             leaf(["Enc"], "buffer", (2,), "float16"), leaf(["enc2"], shape=(2, 2, 2), dtype="float16")],
            keys=["Enc", "enc/bias", "enc/weight", "enc2", "norm/mean"],
        ),
        case(
            store, "shapes", "scalars, vectors of one, empty arrays and five axes",
            [leaf(["a"], shape=()), leaf(["b"], "buffer", (1,)), leaf(["c"], shape=(0,)), leaf(["d"], "buffer", (0, 3)),
             leaf(["e"], shape=(2, 0, 3)), leaf(["f"], "buffer", (1, 1)), leaf(["g"], shape=(2, 1, 3, 2, 2))],
            keys=["a", "b", "c", "d", "e", "f", "g"],
        ),
        case(
            store, "list", "steps of a list are decimals, and sorted as text",
            [leaf(["layers", str(n), "w"], shape=(2,)) for n in range(11)],
            keys=[f"layers/{n}/w" for n in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)],
        ),
        case(
            store, "escapes", "names that hold the separator and the escape",
            [leaf(["x", "a/b"]), leaf(["x", "a~b"], "buffer"), leaf(["x", "~1"]), leaf(["x", "a", "b"])],
            keys=["x/a/b", "x/a~0b", "x/a~1b", "x/~01"],
        ),
        case(
            store, "unicode", "composed and decomposed letters are two names; order is that of code points",
            [leaf(["n", "\u00e9"]), leaf(["n", "e\u0301"], "buffer"), leaf(["n", "\uce35"]), leaf(["n", "z"])],
            keys=["n/e\u0301", "n/z", "n/\u00e9", "n/\uce35"],
        ),
        case(
            store, "case", "upper case stands before lower case",
            [leaf(["cell", "w"]), leaf(["cell", "W"]), leaf(["cell", "_u"], "buffer")],
            keys=["cell/W", "cell/_u", "cell/w"],
        ),
        case(
            store, "ties", "a place with three names, of which the least is an alias of the declared one, and one with two",
            [leaf(["head", "w"]), leaf(["stat"], "buffer"), leaf(["body", "w"])],
            needs=("ties",),
            ties={"tail": "head/w", "emb/w": "head/w", "z": "body/w"},
            keys=["body/w", "emb/w", "stat"],
            aliases={"head/w": "emb/w", "tail": "emb/w", "z": "body/w"},
        ),
        case(
            store, "transient", "a buffer that is not saved",
            [leaf(["w"]), leaf(["cache"], "buffer", persistent=False), leaf(["mean"], "buffer", (3,))],
            needs=("nonpersistent",),
            keys=["cache", "mean", "w"],
        ),
        case(
            store, "abstract", "a place without values among others",
            [leaf(["w"]), leaf(["ghost"], concrete=False), leaf(["mean"], "buffer", (3,))],
            needs=("abstract",),
            keys=["ghost", "mean", "w"],
        ),
        case(
            store, "generator", "the state of a generator beside an ordinary buffer",
            [leaf(["w"]), leaf(["rng", "key"], "buffer", (2,), "uint32", rng=True), leaf(["mean"], "buffer", (2,))],
            needs=("rng",),
            keys=["mean", "rng/key", "w"],
        ),
        case(
            store, "special-float32", "signed zeros, subnormals, infinities, NaNs with payloads",
            [leaf(["p"], shape=(12,)), leaf(["b"], "buffer", (12,))],
            keys=["b", "p"],
            values={k: (_words("<u4", _F32), _words("<u4", _F32[::-1])) for k in ("b", "p")},
        ),
        case(
            store, "special-float16", "the same for float16",
            [leaf(["p"], shape=(12,), dtype="float16"), leaf(["b"], "buffer", (12,), "float16")],
            keys=["b", "p"],
            values={k: (_words("<u2", _F16), _words("<u2", _F16[::-1])) for k in ("b", "p")},
        ),
    ]  # fmt: skip
    for dtype in SIZES:
        leaves = [leaf(["b"], "buffer", (2, 3), dtype), leaf(["n"], "buffer", (), dtype)]
        if "float" in dtype or "complex" in dtype:
            leaves.append(leaf(["p"], "parameter", (2, 3), dtype))
        needs = (NEEDS[dtype],) if dtype in NEEDS else ()
        keys = [one["key"] for one in leaves]
        found.append(case(store, f"dtype-{dtype}", f"arrays and a scalar of {dtype}", leaves, needs=needs, keys=keys))
    return found


_F32 = [0, 0x80000000, 1, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC12345,
        0x7FFFFFFF]  # fmt: skip
_F16 = [0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0x7C00, 0xFC00, 0x7C01, 0xFE55, 0x7FFF]


def files() -> dict[str, bytes]:
    """The golden files by name."""
    store = Bytes()
    found = cases(store)
    document = {
        "schema": "stateregistry.golden/1",
        "spec": SPEC,
        "bytes": f"{SPEC}.bin",
        "sha256": hashlib.sha256(store.raw).hexdigest(),
        "cases": found,
    }
    text = _text(document)
    return {f"{SPEC}.json": text.encode(), f"{SPEC}.bin": store.raw}


def _text(document: dict[str, Any]) -> str:
    """JSON with one leaf, entry or value per line."""
    lines = ["{"]
    lines += [f" {json.dumps(k)}: {json.dumps(v)}," for k, v in document.items() if k != "cases"]
    lines.append(' "cases": [')
    for number, one in enumerate(document["cases"]):
        lines.append("  {")
        fields = list(one.items())
        for at, (name, value) in enumerate(fields):
            comma = "," if at < len(fields) - 1 else ""
            if name in {"build", "listing"}:
                rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in value)
                lines.append(f"   {json.dumps(name)}: [\n{rows}\n   ]{comma}")
            else:
                lines.append(f"   {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}{comma}")
        lines.append("  }" + ("," if number < len(document["cases"]) - 1 else ""))
    return "\n".join([*lines, " ]", "}", ""])


if __name__ == "__main__":
    for name, raw in files().items():
        (FOLDER / name).write_bytes(raw)
        print(f"{FOLDER.name}/{name}: {len(raw)} bytes")
