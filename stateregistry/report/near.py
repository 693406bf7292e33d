"""Near: the name that was probably meant. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Names that are compared letter by letter; of more, those that share a segment.
_MANY = 5000


def near(wanted: str, known: Iterable[str], /) -> str:
    """The key, or the path of a container, that is nearest to a name; empty where none is near."""
    names: dict[str, None] = {}
    for key in known:
        path = key
        while path and path not in names:
            names[path] = None
            path = path.rpartition("/")[0]
    if not wanted or wanted in names:
        return wanted if wanted in names else ""
    last = wanted.rpartition("/")[2]
    candidates: Iterable[str] = names
    if len(names) > _MANY:
        candidates = [name for name in names if name.rpartition("/")[2].startswith(last[:2])][:_MANY]
    close = difflib.get_close_matches(wanted, list(candidates), n=1, cutoff=0.6)
    if close:
        return close[0]
    tails = [name for name in names if name.endswith(f"/{wanted}")]
    return tails[0] if len(tails) == 1 else ""
