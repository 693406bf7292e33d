"""The public interface of Python as text, one line for each name: `python tests/typing/public_api.py --write` writes it down.

What is listed is what the reference promises: the names of the package and of its public modules with their signatures, and
the public members and fields of the classes among them. Signatures are those that `inspect` sees; the text is the same on every
machine, because nothing that a framework or a version of NumPy says stands in it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType

LIST = Path(__file__).with_name("public_api.txt")
#: Public modules, with the names that they promise; `None`: those of `__all__`.
MODULES: dict[str, tuple[str, ...] | None] = {
    "stateregistry": None,
    "stateregistry.tools": None,
    "stateregistry.keys": ("check_prefix_free", "escape", "flatten", "join", "natural", "nest", "split", "unescape"),
    "stateregistry.rules": ("Rules", "suggest"),
    "stateregistry.errors": (),
    "stateregistry.plugins": (
        "ADAPTERS", "STORES", "Adapter", "Found", "Store", "SupportsDerivation", "SupportsObservation", "SupportsTemplates",
        "adapter", "adapters", "discover", "store", "stores",
    ),
    "stateregistry.registry": ("ReadOnlyRegistry",),
    "stateregistry.checking": ("Problem",),
    "stateregistry.conversion.planning.plan": ("Condition", "Feed", "Finding", "Move", "PlanProblem"),
    "stateregistry.conversion.execution.results": ("Done", "Receipt"),
    "stateregistry.conversion.residual": ("Record", "Residual"),
    "stateregistry.conversion.rules.rules": ("Fill", "Join", "Layout", "Order", "Rename", "Rules", "Settle", "Split"),
    "stateregistry.conversion.verification.verify": ("Difference",),
    "stateregistry.conversion.verification.departure": ("Departure",),
    "stateregistry.tools.compare": ("MetadataDifference", "ValueDifference"),
    "stateregistry.tools.measures": ("Measures",),
    "stateregistry.tools.derived": ("Derived",),
    "stateregistry.stores.limits": ("Limits",),
    "stateregistry.stores.base": (
        "Document", "FileRegistry", "KeepsSidecar", "LaysOut", "OpensPart", "OpensWithin", "Progress", "load_object",
    ),
    "stateregistry.stores.bits": ("decode", "encode"),
    "stateregistry.stores.listed": ("ListedFile", "OneFile"),
    "stateregistry.stores.listing": ("Listing", "Stored", "list_stored"),
    "stateregistry.stores.names": ("names_of",),
    "stateregistry.layers.vocabulary": ("Declaration", "Dialect", "Lack", "Layer", "Limit", "Piece"),
    "stateregistry_torch": None,
    "stateregistry_flax": None,
    "stateregistry_conformance": None,
}  # fmt: skip


#: Hooks of a registry that authors of adapters implement: public, for all that they begin with an underscore.
HOOKS = frozenset(
    {
        "_activations", "_aliases", "_backup", "_commit", "_commit_trainable", "_convert", "_entries", "_find", "_holders",
        "_layers", "_opaque", "_read", "_stage", "_tree",
    }
)  # fmt: skip


class Plain(str):
    """A text that shows itself without quotes, as an annotation reads."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def signature(function: Callable[..., object]) -> str:
    """The signature of a function, annotations as they are written, a default that is a mark of ours as `...`."""
    found = inspect.signature(function)
    parameters = [
        one.replace(
            annotation=Plain(one.annotation) if isinstance(one.annotation, str) else one.annotation,
            default=Plain("...") if type(one.default) is object else one.default,
        )
        for one in found.parameters.values()
    ]
    back = found.return_annotation
    return str(found.replace(parameters=parameters, return_annotation=Plain(back) if isinstance(back, str) else back))


def module(name: str) -> ModuleType:
    """A public module; `sr.rules` is one by its public name."""
    parent, _, last = name.rpartition(".")
    if parent == "stateregistry" and last == "rules":
        found: ModuleType = importlib.import_module(parent).rules
        return found
    return importlib.import_module(name)


def names(name: str) -> list[str]:
    """What a public module promises, sorted."""
    here, given = module(name), MODULES[name]
    if name == "stateregistry.errors":
        return sorted(
            key for key, value in vars(here).items() if isinstance(value, type) and issubclass(value, Exception)
        )
    return sorted(here.__all__ if given is None else given)


def lines() -> Iterator[str]:
    """Every line of the list."""
    for name in MODULES:
        here = module(name)
        for one in names(name):
            yield from described(f"{name}.{one}", getattr(here, one))


def described(name: str, value: object) -> Iterator[str]:
    """One public name: a function with its signature, a class with its bases, fields and members, else its type."""
    if isinstance(value, ModuleType):
        yield f"{name}: module"
    elif isinstance(value, type):
        yield from of_class(name, value)
    elif callable(value) and hasattr(value, "__name__"):
        yield f"{name}{signature(value)}"
    elif isinstance(value, str):
        yield f"{name}: str"
    else:
        yield f"{name}: {type(value).__module__}.{type(value).__qualname__}"


def of_class(name: str, cls: type) -> Iterator[str]:
    """A class: its bases among ours and the builtins, then what is public in it."""
    bases = [base.__name__ for base in cls.__bases__ if base is not object and not base.__name__.startswith("_")]
    yield f"class {name}({', '.join(bases)})"
    if issubclass(cls, Enum):
        yield from (f"{name}.{member.name} = {member.value!r}" for member in cls)
        return
    fields = {}
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            if field.name.startswith("_"):
                continue
            fields[field.name] = field
            default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            yield f"{name}.{field.name}: {field.type}{' = ...' if default else ''}"
    elif "__init__" in vars(cls) and not getattr(cls, "_is_protocol", False):
        yield f"{name}{signature(cls.__init__)}"
    for member, found in sorted(vars(cls).items()):
        if (member.startswith("_") and member not in HOOKS) or member in fields:
            continue
        kind = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        if isinstance(found, property):
            yield f"{name}.{member}: {inspect.signature(found.fget or of_class).return_annotation}"
        elif inspect.isfunction(kind):
            yield f"{name}.{member}{signature(kind)}"
        else:
            yield f"{name}.{member}: {cls.__annotations__.get(member, type(found).__name__)}"
    for member, annotation in sorted(getattr(cls, "__annotations__", {}).items()):
        if not member.startswith("_") and member not in fields and member not in vars(cls):
            yield f"{name}.{member}: {annotation}"


def text() -> str:
    """The list as it is now."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        LIST.write_text(text(), encoding="utf-8")
    else:
        print(text(), end="")
