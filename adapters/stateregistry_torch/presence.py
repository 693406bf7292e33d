"""Whether torch is there: asked without importing it, or insisted on. Imports nothing until then."""

from __future__ import annotations

import sys
from typing import Final

from stateregistry import errors

INSTALL: Final = "pip install 'stateregistry[torch]'"


def is_of(obj: object, module: str, name: str) -> bool:
    """Whether an object is an instance of a class of torch, without importing anything."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(obj, cls)


def require_torch(what: str, /) -> None:
    """Import torch.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import torch  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise errors.MissingDependencyError(f"{what} needs the package 'torch'", hint=INSTALL) from error
