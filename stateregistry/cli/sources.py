"""Sources: what a person names on the command line, a file or `module:factory`, as a registry."""

from __future__ import annotations

from collections.abc import Iterator
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
    """
    if is_file(text):
        from stateregistry.stores.opening import open as open_file

        template = factories.template(like) if like is not None else None
        with open_file(text, like=template) as file:
            yield file
    else:
        yield factories.live(text) if values else factories.template(text)


def is_file(text: str, /) -> bool:
    """Whether a file or directory is meant.

    Raises:
        FileMissingError: it is neither a file that exists nor spelled `module:factory`.
    """
    # `file.pt::model` is a state inside a file; that a URL is not supported, the stores say.
    if Path(text).exists() or "://" in text or ("::" in text and Path(text.rpartition("::")[0]).exists()):
        return True
    if factories.is_spec(text):
        return False
    message = f"there is no file {text!r}"
    hint = "name a checkpoint, or a model as module:factory"
    near = _near(Path(text))
    raise errors.FileMissingError(message, hint=f"did you mean {near!r}?" if near else hint)


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
