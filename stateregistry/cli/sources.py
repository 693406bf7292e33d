"""Sources: what a person names on the command line, a file or `module:factory`, as a registry."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stateregistry import errors
from stateregistry.cli import factories

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry


@contextmanager
def opened(text: str, /, *, values: bool, like: str | None = None) -> Iterator[StateRegistry]:
    """The registry of a file, or of what a factory builds.

    Args:
        text: a path (`file.pt::model` for a state inside it), or `module:factory` where there is no such path.
        values: a factory is called for a model with values, not for a template.
        like: `module:factory` of the model that the file was saved from; it says kinds and layers.

    Raises:
        FileMissingError, FileFormatError, UnsafeFileError: as `sr.open`. AdapterError: as the factories.
        UnsupportedError: `like` says nothing of it: no name is in both, or it is a model itself.
    """
    if is_file(text):
        from stateregistry.stores.opening import open as open_file

        template = factories.template(like) if like is not None else None
        with open_file(text, like=template) as file:
            if template is not None and like is not None:
                _refuse_unlike(text, file, like, template)
            yield file
    else:
        if like is not None:
            message = f"{text} is a model itself, and {like} was to say what it was saved from"
            raise errors.UnsupportedError(message, hint="leave --source-like and --like out for it")
        yield factories.live(text) if values else factories.template(text)


def _refuse_unlike(text: str, file: StateRegistry, like: str, model: StateRegistry) -> None:
    """Refuse a model that says nothing of a file: under these names it has none of its arrays."""
    names, wanted = {*file, *file.aliases}, (*model, *model.aliases)
    if not names or not wanted or not names.isdisjoint(wanted):
        return
    message = f"{like} is not the model of {text}: no name is in both, such as {min(names)} there and {wanted[0]} here"
    longer, shorter = _prefix(names, wanted), _prefix(wanted, names)
    if longer:
        message = f"{text}: its names begin with {longer}/, which those of {like} do not"
        hint = f"stateregistry rename {text} OUT --name {longer}=, and convert OUT"
    elif shorter:
        message = f"{text}: its names lack {shorter}/, with which those of {like} begin"
        hint = f"stateregistry rename {text} OUT --name '{{rest...}}={shorter}/{{rest...}}', and convert OUT"
    else:
        hint = "name the model that it was saved from, or leave that out"
    raise errors.UnsupportedError(message, keys=(min(names), wanted[0]), hint=hint)


def _prefix(longer: Iterable[str], shorter: Iterable[str]) -> str:
    """What has to be left away of most names of one side to have those of the other; empty where nothing does that."""
    ends, prefixes = set(shorter), Counter[str]()
    for name in longer:
        at = name.find("/")
        while at >= 0:
            if name[at + 1 :] in ends:
                prefixes[name[:at]] += 1
            at = name.find("/", at + 1)
    found = prefixes.most_common(1)
    return found[0][0] if found and 2 * found[0][1] > len(ends) else ""


def is_file(text: str, /) -> bool:
    """Whether a file or directory is meant.

    Raises:
        FileMissingError: it is neither a file that exists nor spelled `module:factory`.
    """
    # `file.pt::model` is a state inside a file; that a URL is not supported, the stores say.
    if "://" in text or _is_there(text) or ("::" in text and _is_there(text.rpartition("::")[0])):
        return True
    if os.path.islink(text):  # noqa: PTH114  # a text
        message = f"{text} is a symbolic link, and what it leads to is not there: {os.readlink(text)}"  # noqa: PTH115
        raise errors.FileMissingError(message, hint="check where it leads")
    if factories.is_spec(text):
        return False
    message = f"there is no file {text!r}"
    hint = "name a checkpoint, or a model as module:factory"
    near = _near(Path(text))
    raise errors.FileMissingError(message, hint=f"did you mean {near!r}?" if near else hint)


def _is_there(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()  # an empty text would be the current directory
    except OSError as error:
        raise errors.FileAccessError(
            f"{text}: cannot be looked at: {error.strerror}", hint="see its permissions"
        ) from error


def path_of(text: str, /) -> Path | None:
    """The file that is meant, also for a state inside it; `None` for `module:factory` and for what is not there.

    Raises:
        FileMissingError: as `is_file`.
    """
    if not is_file(text):
        return None
    from stateregistry.stores.url import path_of as as_path  # lazy: only for files

    path = as_path(text)
    return path if "::" not in text or path.exists() else as_path(text.rpartition("::")[0])


def _near(path: Path) -> str:
    import difflib

    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    return str(path.parent / close[0]) if close else ""
