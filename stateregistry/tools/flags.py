"""Freezing: which parameters the optimizer may change now. Kinds and values stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stateregistry import errors, plugins
from stateregistry.tools.select import Where, selector

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry


def freeze(reg: StateRegistry | Any, where: Where = None) -> StateRegistry:
    """Stop the training of the parameters selected. Rebind what it returns.

        reg = sr.tools.freeze(reg, "encoder/*")

    Args:
        reg: a registry or a live object.
        where: a pattern of keys, a predicate of `(key, entry)`; by default all parameters. Buffers are passed over.

    Returns:
        The registry with the flags: the same one if it is in place (torch: `requires_grad`), else a new one. Where the
        framework has no flag, `sr.mask(reg, lambda key, entry: entry.trainable)` gives it to an optimizer.

    Raises:
        UnknownKeyError: nothing that can be trained is selected. UnsupportedError: a registry that is read-only.
    """
    return _set(reg, where, trainable=False)


def unfreeze(reg: StateRegistry | Any, where: Where = None) -> StateRegistry:
    """Train the parameters selected again. Arguments, result and errors as `freeze`."""
    return _set(reg, where, trainable=True)


def _set(reg: StateRegistry | Any, where: Where, *, trainable: bool) -> StateRegistry:
    registry = plugins.of(reg)
    chosen = selector(where, lambda _key, _entry: True)
    mask = {key: trainable for key, entry in registry.items() if entry.can_train and chosen(key, entry)}
    if not mask:
        message = f"{where!r} selects no parameter that can be trained"
        raise errors.UnknownKeyError(message, keys=(str(where),), hint="`*` stands for any characters: 'encoder/*'")
    return registry.with_trainable(mask)
