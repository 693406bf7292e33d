"""Flags: hints of the library, which name its keyword arguments, as the command line spells them."""

from __future__ import annotations

import re

_SPELLINGS = (
    (r"allow=\('(\w+)',\)", r"--allow \1"),
    (r"sr\.open\('([^']*)'\)", r"\1"),
    (r"\ballow '(\w+)'", r"give --allow \1"),
    (r"\(like=\)", "with --source-like"),
    (r"dtype='(\w+)'", r"--dtype \1"),
    (r"pass overwrite=True", "give --overwrite"),
    (r", or say that you know: format='[^']*'", ""),
    (r"format='([^']*)'", r"--format \1"),
    (r"pass format=", "give --format"),
)


def spelled(hint: str, /) -> str:
    """The hint, for a person who types commands."""
    for pattern, flag in _SPELLINGS:
        hint = re.sub(pattern, flag, hint)
    return hint
