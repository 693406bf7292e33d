"""What is wrong with the docstring of something public: no summary, an argument, a result or an error that it does not name.

The house style names in `Args:` what the signature does not say, so that a parameter may also be named in the text. A summary
that says what a function gives ("The registry over ...", "Whether ...") is its result; one that says what it does needs
`Returns:`.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator

#: How a summary begins that says what there is, not what is done.
_GIVES = frozenset(
    {
        "A", "All", "An", "As", "Each", "Every", "Everything", "How", "One", "Plain", "The", "This", "What", "Where", "Whether",
        "Why", "Canonical", "Keys", "Other", "Registered", "Sort", "These", "Values",
    }
)  # fmt: skip
#: Documented elsewhere: a docstring that says so answers for its arguments, its result and its errors.
_SENDS = re.compile(r"\b[Aa]s `[\w.]+`|[Ss]ee `[\w.]+`|[Aa]rguments[\w, ]* as `|those of `[\w.]+`|^Refuse: ")


def problems(name: str, function: Callable[..., object]) -> Iterator[str]:
    """What the docstring of a function or method lacks."""
    text = inspect.getdoc(function) or ""
    summary = text.partition("\n\n")[0]
    if not summary:
        yield f"{name}: no docstring"
        return
    if not summary.rstrip().endswith((".", ":", "?")):
        yield f"{name}: its summary is no sentence"
    if _SENDS.search(text):
        return
    signature = inspect.signature(function)
    for one in list(signature.parameters.values()):
        if (
            one.name not in {"self", "cls", "_"}
            and not re.search(rf"\b{re.escape(one.name)}s?\b", text)
            and not _told(one)
        ):
            yield f"{name}: says nothing of its argument {one.name}"
    back = signature.return_annotation
    gives = back not in {"None", None, "NoReturn", inspect.Signature.empty}
    if (
        gives
        and "Returns:" not in text
        and summary.split()[0].strip("`,:") not in _GIVES
        and "`" not in summary.split()[0]
    ):
        yield f"{name}: says what it does ({summary.split()[0]}) and not what it returns"
    for error in sorted(raised(function)):
        if error not in text:
            yield f"{name}: raises {error} and does not say so"


def _told(one: inspect.Parameter) -> bool:
    """Whether the type of a parameter says all: the registry, the model or the path that a function is about."""
    return one.kind is inspect.Parameter.POSITIONAL_ONLY


def raised(function: Callable[..., object]) -> set[str]:
    """The names of the errors that the function itself raises."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return set()
    found = set()
    tried = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers]
    caught = {one for node in tried for part in node.body for one in ast.walk(part)}
    for node in ast.walk(tree):
        if node in caught:
            continue  # raised for the handler beside it
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func).rpartition(".")[2]
            if name.endswith("Error") and name != "AttributeError" and (name in dir(builtins) or name[0].isupper()):
                found.add(name)
    return found
