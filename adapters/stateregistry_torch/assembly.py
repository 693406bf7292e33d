"""Assembling: a state_dict from the image of a registry, bit for bit.

The tensors are the caller's own, on the CPU; an alias is the same tensor object under a further name, as a tied model's
`state_dict` has it. Imports torch.
"""

from __future__ import annotations

from collections import OrderedDict

import torch

from stateregistry import errors
from stateregistry.registry import StateRegistry
from stateregistry_torch import bits
from stateregistry_torch.spelling import check_dotted, dotted


def assemble(image: StateRegistry, /) -> OrderedDict[str, torch.Tensor]:
    """Every entry and alias of `image` as a tensor by dotted name, entries in native order.

    Raises:
        UnsupportedError: a name with a dot. AbstractError: an entry without values.
    """
    aliases = further_names(image)
    refuse_unfit(image, "a torch state_dict")
    tensors: OrderedDict[str, torch.Tensor] = OrderedDict()
    for key in image.native_order:
        tensor = bits.adopt(image.read(key))
        for name in (key, *aliases.get(key, ())):
            tensors[dotted(name)] = tensor
    return tensors


def further_names(source: StateRegistry, /) -> dict[str, list[str]]:
    """The aliases of each canonical key that has any, sorted."""
    found: dict[str, list[str]] = {}
    for alias, key in source.aliases.items():
        found.setdefault(key, []).append(alias)
    return found


def refuse_unfit(source: StateRegistry, /, what: str) -> None:
    """Refuse what dotted names and tensors on the CPU cannot say.

    Raises:
        UnsupportedError: names with a dot. AbstractError: entries without values.
    """
    check_dotted([*source, *source.aliases], what)
    hollow = tuple(key for key, entry in source.items() if not entry.concrete)
    if hollow:
        names = ", ".join(map(repr, hollow[:5]))
        message = f"{what} holds values, and {len(hollow)} entries have none: {names}"
        raise errors.AbstractError(message, keys=hollow, hint="load or replace their values first")
