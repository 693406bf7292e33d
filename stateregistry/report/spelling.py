"""How numbers, shapes, kinds and names are spelled for people, the same on every surface.

Names come from files and are not trusted: what does not print (control characters, escape sequences, bidirectional
overrides) is shown by its escape. Pure.
"""

from __future__ import annotations

from stateregistry.display import counted as plural
from stateregistry.entry import Entry, Kind

__all__ = ["number", "plural", "printable", "remarks", "shape", "share", "size", "standing"]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str, /, *, keep: str = "") -> str:
    """The text with every character that does not print replaced by its escape, less those in `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def number(value: int, /) -> str:
    """`486552` as `486,552`."""
    return f"{value:,}"


def size(nbytes: int, /) -> str:
    """A number of bytes in powers of 1000: three digits that matter."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{nbytes} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def share(part: float, /) -> str:
    """`37.7 %` of a part between 0 and 1; `< 0.1 %` for what is there and would read as none."""
    return f"{100 * part:.1f} %" if part >= 5e-4 or not part else "< 0.1 %"


def shape(sizes: tuple[int | None, ...], /) -> str:
    """`16x1x64x1`; `scalar` for no axes; `*` for an axis that differs among the entries of a fold."""
    return "x".join("*" if n is None else str(n) for n in sizes) if sizes else "scalar"


def standing(entry: Entry, /) -> str:
    """What an entry is to a person who trains: `trainable`, `frozen` or `buffer`."""
    if entry.kind is Kind.BUFFER:
        return "buffer"
    return "trainable" if entry.trainable else "frozen"


def remarks(entry: Entry, /) -> str:
    """What else is not usual about an entry, empty where nothing is."""
    found = []
    if not entry.persistent:
        found.append("not saved")
    if entry.rng:
        found.append("rng")
    if not entry.concrete:
        found.append("abstract")
    return ", ".join(found)
