"""Files to draw: with any names, and names that their authors chose to do harm with."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

#: Names from files that their authors chose to do harm with.
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</style><img src=x onerror=alert(3)>",
    "\"'><svg onload=alert(4)>",
    "' autofocus onfocus=alert(5) x='",
    "&lt;b&gt;&amp;",
    "]]><!--",
    "javascript:alert(6)",
    "control\x00\x07\x1b[31m\x7f",
    "line\nbreak\ttab\r",
    "bidi\u202egnirts\u202c\u2066x",
    "עברית\u200f/العربية",
    "宽字符_weight",
    "x" * 300,
    "#e0",
    "e0",
    "{i} {0,1}",
)


def foreign(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A safetensors file by the letter of the format, with any names."""
    header, at = {}, 0
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path
