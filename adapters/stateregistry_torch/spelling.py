"""The spelling of PyTorch: names whose segments are joined by dots, as `state_dict` and `named_parameters` give them.

A torch module refuses a dot inside a name, so a key whose segments have one has no dotted name. Imports the core only.
"""

from __future__ import annotations

from collections.abc import Iterable

from stateregistry import errors, keys


def dotted(key: str, /) -> str:
    """The dotted name of a key whose segments have no dot."""
    return ".".join(keys.split(key))


def check_dotted(wanted: Iterable[str], /, what: str) -> None:
    """Refuse keys that have no dotted name of their own.

    Raises:
        UnsupportedError: with every such key.
    """
    wrong = tuple(sorted(key for key in wanted if any("." in segment for segment in keys.split(key))))
    if wrong:
        names = ", ".join(map(repr, wrong[:5]))
        message = f"{what} joins names with '.', so it cannot hold {len(wrong)} keys with a '.' inside a name: {names}"
        hint = "rename them with a rule, or write a format that keeps keys (safetensors)"
        raise errors.UnsupportedError(message, keys=wrong, hint=hint)
