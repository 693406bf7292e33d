"""stateregistry: the state of a model, specified.

`import stateregistry as sr` imports no framework and no NumPy: every name is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry._version import __version__ as __version__
from stateregistry.lazily import attributes

if TYPE_CHECKING:
    from stateregistry import errors as errors
    from stateregistry import keys as keys
    from stateregistry import tools as tools
    from stateregistry.casting import cast as cast
    from stateregistry.checking import Report as Report
    from stateregistry.checking import check as check
    from stateregistry.conversion.api import convert as convert
    from stateregistry.conversion.api import plan as plan
    from stateregistry.conversion.planning.plan import Plan as Plan
    from stateregistry.conversion.rules import rules as rules
    from stateregistry.conversion.verification.verify import Verification as Verification
    from stateregistry.conversion.verification.verify import verify as verify
    from stateregistry.entry import Entry as Entry
    from stateregistry.entry import Kind as Kind
    from stateregistry.errors import StateError as StateError
    from stateregistry.layers.vocabulary import Layer as Layer
    from stateregistry.plugins import of as of
    from stateregistry.registry import StateRegistry as StateRegistry
    from stateregistry.stores.api import save as save
    from stateregistry.stores.opening import open as open  # noqa: A004  # the public name of the design
    from stateregistry.tools.compare import Diff as Diff
    from stateregistry.tools.compare import diff as diff
    from stateregistry.tools.select import count as count
    from stateregistry.tools.select import mask as mask
    from stateregistry.transfer import load as load
    from stateregistry.transfer import snapshot as snapshot

#: Public name -> the module that has it, or that it is.
_HOMES = {
    "errors": "stateregistry.errors",
    "keys": "stateregistry.keys",
    "tools": "stateregistry.tools",
    "rules": "stateregistry.conversion.rules.rules",
    "cast": "stateregistry.casting",
    "Report": "stateregistry.checking",
    "check": "stateregistry.checking",
    "convert": "stateregistry.conversion.api",
    "plan": "stateregistry.conversion.api",
    "Plan": "stateregistry.conversion.planning.plan",
    "Verification": "stateregistry.conversion.verification.verify",
    "verify": "stateregistry.conversion.verification.verify",
    "Entry": "stateregistry.entry",
    "Kind": "stateregistry.entry",
    "StateError": "stateregistry.errors",
    "Layer": "stateregistry.layers.vocabulary",
    "of": "stateregistry.plugins",
    "StateRegistry": "stateregistry.registry",
    "open": "stateregistry.stores.opening",
    "save": "stateregistry.stores.api",
    "Diff": "stateregistry.tools.compare",
    "diff": "stateregistry.tools.compare",
    "count": "stateregistry.tools.select",
    "mask": "stateregistry.tools.select",
    "load": "stateregistry.transfer",
    "snapshot": "stateregistry.transfer",
}

_MODULES = frozenset({"errors", "keys", "tools", "rules"})

__all__ = ["__version__", *_HOMES]


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error
    __getattr__ = attributes(__name__, _HOMES, _MODULES)


def __dir__() -> list[str]:
    return sorted(__all__)
