"""What a page leaves to its reader: a model at hand, a checkpoint in the folder. By page, made before its first block is run.

A page that is not here begins with nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Names = dict[str, Any]


def _crepe(folder: Path) -> None:
    """The checkpoint of the examples, and the examples beside it."""
    from examples import crepe

    shutil.copy(crepe.weights("tiny"), folder / "tiny.pth")
    (folder / "examples").symlink_to(ROOT / "examples")


def _encoder() -> Any:
    """A torch model with an `encoder/0/weight`, and statistics."""
    import torch

    return torch.nn.ModuleDict(
        {"encoder": torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.BatchNorm1d(512), torch.nn.Linear(512, 8))}
    )


def readme(folder: Path) -> Names:
    """A model, values for one of its entries, and a checkpoint of it."""
    import numpy as np

    import stateregistry as sr

    _crepe(folder)
    model = _encoder()
    sr.save(model, folder / "model.safetensors")
    return {"model": model, "values": np.random.default_rng(0).random(512, np.float32)}


def formats(folder: Path) -> Names:
    """As `readme`, without the checkpoint that the page writes itself."""
    import stateregistry as sr

    model = _encoder()
    sr.save(model, folder / "model.safetensors")
    return {"model": model, "sr": sr}


def front_page(folder: Path) -> Names:
    """A checkpoint whose names and shapes leave nothing open."""
    import torch

    torch.save(_encoder().state_dict(), folder / "model.pt")
    return {}


def _pair() -> Names:
    """A torch model, the same network in Linen under other names, and what runs each."""
    import jax
    import numpy as np
    import torch
    from flax import linen

    import stateregistry as sr

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.LayerNorm(epsilon=1e-5)(linen.Dense(6)(x))
            return linen.Dense(6)(linen.relu(x))

    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.LayerNorm(6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
    x = np.random.default_rng(0).random((4, 6), np.float32)
    net = Net()

    def run_torch(inputs: np.ndarray) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(inputs))

    variables = net.init(jax.random.key(0), x)
    return {"sr": sr, "torch_model": model, "net": net, "variables": variables, "x": x, "run_torch": run_torch}


def conversion(folder: Path) -> Names:
    """A pair; two models of one state to be compared; a sharded checkpoint and the plan of its conversion."""
    import copy

    import numpy as np
    import torch

    import stateregistry as sr

    names = _pair()
    model = names["torch_model"]
    twin = copy.deepcopy(model)
    values = np.random.default_rng(0)
    shapes = {"weight": (64, 32), "bias": (64,)}
    arrays = {f"block/{i}/{k}": values.random(v, np.float32) for i in range(6) for k, v in shapes.items()}
    sr.save(arrays, folder / "model.safetensors", shard_bytes=20_000)
    (folder / "out").mkdir()
    plan = sr.plan(folder / "model.safetensors.index.json", to="flax-linen", allow=("assumption",))
    forward = {"fa": names["run_torch"], "fb": lambda x: twin(torch.from_numpy(x)), "inputs": names["x"]}
    return {**names, "a": model, "b": twin, **forward, "plan": plan}


def alignment(folder: Path) -> Names:
    """A pair."""
    return _pair()


ROOMS: dict[str, Callable[[Path], Names]] = {
    "README.md": readme,
    "docs/index.md": front_page,
    "docs/formats.md": formats,
    "docs/conversion.md": conversion,
    "docs/alignment.md": alignment,
}
