"""The store object for `.pt` files: reading needs no torch, writing does.

What reads them is the restricted reader of the core, which runs nothing from a file; what writes them is `writing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from stateregistry_torch.adapter import INSTALL, require_torch

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import FileRegistry, Progress
    from stateregistry.stores.limits import Limits


@final
class TorchStore:
    """The zip format of `torch.save`: a mapping of dotted names to tensors."""

    name: str = "torch"
    suffixes: tuple[str, ...] = (".pt", ".pth", ".bin")
    install: str = INSTALL
    dialect: str = "torch"

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether the content is a torch archive."""
        from stateregistry.stores.torch_zip import sniff_torch

        return sniff_torch(path, head)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy, read-only registry over a `.pt` file. Needs no torch and runs nothing from the file."""
        from stateregistry.stores.torch_zip import open_torch

        return open_torch(path)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry.stores.torch_zip import open_torch

        return open_torch(path, limits=limits)

    def open_part(self, path: Path, part: str, limits: Limits, /) -> FileRegistry:
        """As `open`, the state under a sub-key of a file that holds several (`sr.open("file.pt::model")`)."""
        from stateregistry.stores.torch_zip import open_torch

        return open_torch(path, part=part, limits=limits)

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write every entry of `source` as `torch.save` would write its state_dict, one value in memory at a time.

        Raises:
            UnsupportedError: a name with a dot, which no torch module can have. AbstractError: an entry without
                values. MissingDependencyError: torch is not installed. All before the first byte is written.
        """
        require_torch("writing a .pt file")
        from stateregistry_torch.writing import write_torch  # lazy: needs torch

        write_torch(path, source, extra=extra, progress=progress)


store: Final = TorchStore()
