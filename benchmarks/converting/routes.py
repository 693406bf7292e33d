"""The routes that are measured, each as it would be written by somebody who takes it. All of them end on the disk.

A route gets the directory of the checkpoint and an empty one to write into. `prepare` imports what it needs, so that only
the work is on the clock. A route whose package is not installed is left out, and said to be.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from converting.checkpoint import INDEX, shards

ALLOW = ("assumption", "choice")


def synced(path: Path) -> None:
    """Wait until a file, or every file of a directory, is on the disk."""
    for one in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
        handle = os.open(one, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _shard_bytes(source: Path) -> int:
    return max(path.stat().st_size for path in shards(source))


def _kernel(name: str) -> str:
    return name.replace(".weight", ".kernel")


# ---------------------------------------------------------------------- safetensors to safetensors


def copy(source: Path, target: Path) -> None:
    """The limit: the same bytes, read and written in blocks of 16 MiB."""
    buffer = memoryview(bytearray(1 << 24))
    for path in shards(source):
        with path.open("rb", buffering=0) as one, (target / path.name).open("wb", buffering=0) as two:
            while count := one.readinto(buffer):
                two.write(buffer[:count])
            os.fsync(two.fileno())


def ours(source: Path, target: Path, workers: int) -> None:
    """Planned from the files alone, streamed, with digests of every value and every file."""
    import stateregistry as sr

    out = target / "model.safetensors"
    sr.convert(source / INDEX, to="flax-linen", allow=ALLOW, out=out, shard_bytes=_shard_bytes(source), workers=workers)


def by_numpy(source: Path, target: Path) -> None:
    """`safetensors.numpy` with `ascontiguousarray(array.T)`."""
    from safetensors.numpy import load_file, save_file

    for path in shards(source):
        arrays = {
            _kernel(name): np.ascontiguousarray(array.T) if array.ndim == 2 else array
            for name, array in load_file(path).items()
        }
        save_file(arrays, target / path.name)
        synced(target / path.name)


def by_torch(source: Path, target: Path) -> None:
    """`safetensors.torch` with `tensor.t().contiguous()`."""
    from safetensors.torch import load_file, save_file

    for path in shards(source):
        tensors = {
            _kernel(name): tensor.t().contiguous() if tensor.ndim == 2 else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, target / path.name)
        synced(target / path.name)


# ---------------------------------------------------------------------- safetensors to msgpack


def ours_msgpack(source: Path, target: Path, workers: int) -> None:
    """As `ours`, into the file that Flax reads."""
    import stateregistry as sr

    sr.convert(source / INDEX, to="flax-linen", allow=ALLOW, out=target / "model.msgpack", workers=workers)


def _loaded(source: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {name: array for path in shards(source) for name, array in load_file(path).items()}


def _tree(source: Path) -> dict[str, Any]:
    """Variables of Flax, with transposed views: nothing is copied yet."""
    from flax.traverse_util import unflatten_dict

    arrays = _loaded(source).items()
    flat = {tuple(_kernel(name).split(".")): array.T if array.ndim == 2 else array for name, array in arrays}
    return {"params": unflatten_dict(flat)}


def by_flax(source: Path, target: Path) -> None:
    """`flax.serialization.to_bytes` of a tree of arrays."""
    from flax.serialization import to_bytes

    (target / "model.msgpack").write_bytes(to_bytes(_tree(source)))
    synced(target / "model.msgpack")


def by_transformers(source: Path, target: Path) -> None:
    """What `from_pretrained(from_pt=True)` and `save_pretrained` of a Flax model do with the weights, with no model around."""
    import jax
    from flax.serialization import to_bytes
    from flax.traverse_util import unflatten_dict
    from transformers.modeling_flax_pytorch_utils import convert_pytorch_state_dict_to_flax

    state = _loaded(source)
    shapes = {
        tuple(_kernel(name).split(".")): jax.ShapeDtypeStruct(array.shape[::-1], array.dtype)
        for name, array in state.items()
    }
    model = SimpleNamespace(base_model_prefix="model", params=unflatten_dict(shapes))
    (target / "model.msgpack").write_bytes(to_bytes(convert_pytorch_state_dict_to_flax(state, model)))
    synced(target / "model.msgpack")


# ---------------------------------------------------------------------- safetensors to Orbax, and back


def ours_orbax(source: Path, target: Path, workers: int) -> None:  # one thread reads
    """As `ours`, into a directory that Orbax reads."""
    import stateregistry as sr

    sr.convert(source / INDEX, to="flax-linen", allow=ALLOW, out=target / "model.orbax")


def by_orbax(source: Path, target: Path) -> None:
    """`orbax.checkpoint.StandardCheckpointer` with a tree of arrays."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((target / "model.orbax").absolute(), _tree(source))
    synced(target / "model.orbax")


def orbax_alone(source: Path, target: Path) -> None:
    """The floor of its writer: the same arrays as they lie in the mapped files, nothing transposed and nothing loaded."""
    import orbax.checkpoint as ocp

    import stateregistry as sr

    with sr.open(source / INDEX) as mapped, ocp.StandardCheckpointer() as checkpointer:
        arrays = {key.replace("/", "."): mapped.view(key) for key in mapped}
        checkpointer.save((target / "model.orbax").absolute(), arrays)
        checkpointer.wait_until_finished()
    synced(target / "model.orbax")


def ours_back(source: Path, target: Path, workers: int) -> None:
    """An Orbax directory in torch's layout, as safetensors."""
    import stateregistry as sr

    sr.convert(source / "model.orbax", to="torch", allow=ALLOW, out=target / "model.safetensors", workers=workers)


def by_orbaxport(source: Path, target: Path) -> None:
    """`orbaxport.convert(..., transpose=True)`; it goes this way only."""
    from orbaxport import convert

    def name(key: str) -> str:
        return key.removeprefix("params.").replace("kernel", "weight")

    out = target / "model.safetensors"
    convert(str(source / "model.orbax"), str(out), key_map=name, split_qkv=False, transpose=True, verbose=False)
    synced(out)


# ---------------------------------------------------------------------- all of them

#: By group and name: the route, with the workers of ours after a dash, and what has to be installed.
ROUTES: dict[str, dict[str, tuple[Callable[..., None], tuple[str, ...]]]] = {
    "safetensors": {
        "copy": (copy, ()),
        "ours-1": (ours, ("stateregistry",)),
        "ours-2": (ours, ("stateregistry",)),
        "ours-4": (ours, ("stateregistry",)),
        "numpy": (by_numpy, ("safetensors.numpy",)),
        "torch": (by_torch, ("safetensors.torch", "torch")),
    },
    "msgpack": {
        "ours-msgpack-1": (ours_msgpack, ("stateregistry", "msgpack")),
        "ours-msgpack-2": (ours_msgpack, ("stateregistry", "msgpack")),
        "flax": (by_flax, ("safetensors.numpy", "flax.serialization")),
        "transformers": (by_transformers, ("safetensors.numpy", "transformers.modeling_flax_pytorch_utils")),
    },
    "orbax": {
        "ours-orbax-1": (ours_orbax, ("stateregistry", "orbax.checkpoint")),
        "orbax": (by_orbax, ("safetensors.numpy", "flax.traverse_util", "orbax.checkpoint")),
        "orbax-alone": (orbax_alone, ("stateregistry", "orbax.checkpoint")),
    },
    "from orbax": {
        "ours-back-1": (ours_back, ("stateregistry", "tensorstore")),
        "ours-back-2": (ours_back, ("stateregistry", "tensorstore")),
        "orbaxport": (by_orbaxport, ("orbaxport", "orbax.checkpoint", "safetensors.numpy")),
    },
}


def missing(needs: tuple[str, ...]) -> str:
    """The first package that is not installed, empty where all are."""
    return next((name for name in needs if importlib.util.find_spec(name.partition(".")[0]) is None), "")


def prepare(case: str, source: Path) -> Callable[[Path, Path], None]:
    """The route of a case, with all that it imports imported."""
    route, needs = next(group[case] for group in ROUTES.values() if case in group)
    for name in needs:
        importlib.import_module(name)
    if not case.startswith("ours"):
        return route
    import stateregistry as sr
    from stateregistry.conversion.execution import execute  # noqa: F401  # imported before the clock starts

    there = source / "model.orbax"
    sr.plan(there if there.exists() else source / INDEX, to="torch" if there.exists() else "flax-linen", allow=ALLOW)
    workers = int(case.rpartition("-")[2])
    return lambda one, two: route(one, two, workers)
