"""Writing: rules as the text of a TOML file that reads back as the same rules. Imports nothing but rules."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateregistry.conversion.rules.rules import Rules


def toml(rules: Rules, /, doubtful: Collection[str] = ()) -> str:
    """The rules as TOML. Law: `Rules.of(tomllib.loads(toml(rules))) == rules`; no rules are the empty text.

    Args:
        doubtful: tables that say what names and shapes alone say: they carry a remark to look at them.
    """
    tables = []
    for name, rows in rules.to_dict().items():
        remark = "  # names and shapes alone say so: look at it" if name in doubtful else ""
        for row in rows:
            lines = [
                f"{key} = {_value(value)}" for key, value in row.items() if value != "" or (name, key) not in _LEFT
            ]
            tables.append("\n".join([f"[[{name}]]{remark}", *lines, ""]))
    return "\n".join(tables)


#: Keys that may be left out, and are where they say nothing.
_LEFT = (("order", "source"), ("order", "target"))


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value) if math.isfinite(value) else str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
