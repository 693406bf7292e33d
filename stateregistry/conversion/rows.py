"""Rows: frozen values as plain data for JSON. What `dataclasses.asdict` gives, without its deep copies.

A plan of 100,000 entries has half a million of these, and they are written and hashed for every receipt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

_PLAIN = frozenset({str, int, float, bool, type(None)})


#: The fields of every dataclass that was met; none of any other type.
_FIELDS: dict[type, tuple[str, ...]] = {}


def _names(kind: type) -> tuple[str, ...]:
    found = _FIELDS.get(kind)
    if found is None:
        found = _FIELDS[kind] = tuple(one.name for one in fields(kind)) if is_dataclass(kind) else ()
    return found


def row(value: Any, /) -> Any:
    """A dataclass as a dict of its fields, and so on inside; tuples and mappings are made anew, all else is shared."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return tuple([row(one) for one in value])
    names = _names(kind)
    if names:
        return {name: row(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: row(one) for key, one in value.items()}
    return value


def lines(data: Mapping[str, Any], /) -> str:
    """JSON of a mapping, a line for everything that is directly in it or in a list or mapping of it.

    The encoder of the standard library that indents is written in Python and takes ten times as long.
    """
    parts = [f" {json.dumps(name)}: {_lines(value)}" for name, value in data.items()]
    return "{\n" + ",\n".join(parts) + "\n}"


def _lines(value: Any) -> str:
    if isinstance(value, (list, tuple)) and value:
        return "[\n" + ",\n".join(f"  {json.dumps(one)}" for one in value) + "\n ]"
    if isinstance(value, dict) and value:
        inside = (f"  {json.dumps(name)}: {_inner(one)}" for name, one in value.items())
        return "{\n" + ",\n".join(inside) + "\n }"
    return json.dumps(value)


def _inner(value: Any) -> str:
    if isinstance(value, dict) and len(value) > 1 and any(isinstance(one, dict) for one in value.values()):
        inside = (f"   {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items())
        return "{\n" + ",\n".join(inside) + "\n  }"
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"   {json.dumps(one)}" for one in value) + "\n  ]"
    return json.dumps(value)
