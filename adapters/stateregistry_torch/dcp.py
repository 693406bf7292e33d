"""The store object for torch distributed checkpoints: reading needs no torch, writing does.

What reads them is the restricted reader of the core. What writes is torch itself, as one process would; the values are in
memory for it. Processes that hold a sharded state write each their own parts. Our document is one more file of the directory,
`stateregistry.json`, with a digest of every value and one of all files. An array of several names is stored under each, as
torch would miss the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors
from stateregistry_torch.presence import INSTALL, require_torch

if TYPE_CHECKING:
    from torch.distributed.checkpoint.api import CheckpointException

    from stateregistry.parts import Together
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import FileRegistry, Progress
    from stateregistry.stores.limits import Limits


@final
class DcpStore:
    """What `torch.distributed.checkpoint.save` writes: a directory with `.metadata` and files of shards."""

    name: str = "torch-dcp"
    suffixes: tuple[str, ...] = (".dcp",)
    install: str = INSTALL
    dialect: str = "torch"
    #: What it writes is a directory.
    folder: bool = True

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether a directory has the metadata of such a checkpoint."""
        if head or not path.is_dir():
            return False
        from stateregistry.stores.torch_dcp import is_checkpoint  # lazy: only for directories

        return is_checkpoint(path)

    def strangers(self, folder: Path, /) -> Sequence[str]:
        """What a directory holds that is no part of such a checkpoint."""
        from stateregistry.stores.torch_dcp import strangers  # lazy: only where one is replaced

        return strangers(folder)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy, read-only registry over a checkpoint directory. Needs no torch and runs nothing from it."""
        from stateregistry.stores.torch_dcp import open_dcp

        return open_dcp(path)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry.stores.torch_dcp import open_dcp

        return open_dcp(path, limits=limits)

    def open_part(self, path: Path, part: str, limits: Limits, /) -> FileRegistry:
        """As `open`, the state under a sub-key of a checkpoint that holds several (`sr.open("run::model")`)."""
        from stateregistry.stores.torch_dcp import open_dcp

        return open_dcp(path, part=part, limits=limits)

    def least_bytes(self, source: StateRegistry, /) -> int:
        """The bytes of all values, which are stored as they are, once for every name."""
        names = (*source, *source.aliases.values())
        return sum(source[key].nbytes for key in names)

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write every entry of `source` as one process would save its state_dict.

        Raises:
            UnsupportedError: a name with a dot, which no torch module can have, or a dtype that this torch lacks.
            MissingDependencyError: torch is not installed. All before anything is written.
        """
        require_torch("writing a distributed checkpoint")
        from stateregistry.stores.folder import FolderDocument, make_durable
        from stateregistry.stores.torch_dcp import METADATA, frame_order
        from stateregistry_torch.assembly import refuse_unfit

        refuse_unfit(source, "a distributed checkpoint")
        document = FolderDocument(source, extra)
        path.mkdir()
        _save(path, source)
        document.write(path, frame_order(file.name for file in path.iterdir() if file.name != METADATA))
        make_durable(path)
        for key, entry in source.items():
            progress(key, entry.nbytes)

    def write_together(
        self, path: Path, source: StateRegistry, group: Together, /, *, extra: Mapping[str, Any], progress: Progress
    ) -> None:
        """As `write`, by every process of a group: each writes the shards that it holds, and no value is gathered.

        Args:
            source: the persistent part of a registry over a module.

        Raises:
            As `write`. FileAccessError: another process failed. UnsupportedError: values that are to be the same everywhere
            are not.
        """
        require_torch("writing a distributed checkpoint")
        from stateregistry_torch.dcp_together import write_together  # lazy: only for sharded states

        write_together(path, source, group, extra=extra, progress=progress)


def _save(folder: Path, source: StateRegistry) -> None:
    from stateregistry_torch.bits import adopt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the arrays are lent for reading, which torch warns of
        tensors = {key: adopt(source.view(key)) for key in source.native_order}
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        save_tensors(folder, source, tensors, alone=True)
    except CheckpointException as error:
        raise _cause(error) from error


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong: torch hides an interrupt or a full disk behind errors of its own."""
    for found, _ in error.failures.values():
        step: BaseException | None = found
        while step is not None:
            if isinstance(step, KeyboardInterrupt):
                return KeyboardInterrupt()
            if isinstance(step, OSError):
                return OSError(step.errno, step.strerror or str(step))
            step = step.__cause__ or step.__context__
    message = f"torch could not write the checkpoint: {str(error)[:300]}"
    return errors.FileAccessError(message, hint="see that there is room and permission")


def save_tensors(folder: Path, source: StateRegistry, tensors: Mapping[str, Any], /, *, alone: bool) -> None:
    """Have torch save tensors by canonical key, each under all its names; `alone`: without the other processes."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.metadata import StorageMeta
    from torch.distributed.checkpoint.state_dict_saver import save

    from stateregistry_torch.assembly import further_names
    from stateregistry_torch.spelling import dotted

    class Writer(FileSystemWriter):
        def storage_meta(self) -> StorageMeta | None:
            """Nothing: torch notes the path and a random number, so that equal states would make different bytes."""
            return None

    further = further_names(source)
    named = {dotted(name): tensor for key, tensor in tensors.items() for name in (key, *further.get(key, ()))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of saving without a process group
        save(named, storage_writer=Writer(folder, sync_files=True), no_dist=alone)


store: Final = DcpStore()
