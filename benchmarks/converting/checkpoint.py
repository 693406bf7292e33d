"""A checkpoint with the shapes of a 7B model in float32, in torch's layout: four safetensors shards, or one large matrix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SHAPES = {
    "self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (4096, 4096), "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (11008, 4096), "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}  # fmt: skip
INDEX = "model.safetensors.index.json"


def made(folder: Path, gigabytes: float, *, single: bool) -> int:
    """A checkpoint of random bits in four shards, or of one matrix; returns its bytes."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    wanted = int(gigabytes * 1e9)
    names: list[tuple[str, tuple[int, int]]] = []
    total = 0
    if single:
        names.append(("lm_head", (wanted // 4 // 4096, 4096)))
        total = 4 * names[0][1][0] * 4096
    while total < wanted and not single:
        for name, shape in SHAPES.items():
            if total >= wanted:
                break
            names.append((f"model.layers.{len(names) // len(SHAPES)}.{name}", shape))
            total += 4 * shape[0] * shape[1]
    shards = 1 if single else 4
    weights = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        arrays = {}
        for name, (rows, columns) in names[shard * len(names) // shards : (shard + 1) * len(names) // shards]:
            arrays[f"{name}.weight"] = _random(rng, rows, columns)
            weights[f"{name}.weight"] = file
            arrays[f"{name}.bias"] = rng.standard_normal(rows, np.float32)  # says which axis is the output
            weights[f"{name}.bias"] = file
        save_file(arrays, folder / file, metadata={"format": "pt"})
        del arrays
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return total


def _random(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Bits that repeat nowhere near: making all of them at random would take longer than what is measured."""
    block = rng.integers(0, 2**31, 1 << 20, dtype=np.uint32)
    flat = np.empty(rows * columns, np.uint32)
    for number, start in enumerate(range(0, flat.size, block.size)):
        piece = flat[start : start + block.size]
        piece[...] = (block + np.uint32(number))[: piece.size]
    return (flat & np.uint32(0x3FFFFFFF)).view(np.float32).reshape(rows, columns)


def shards(folder: Path) -> list[Path]:
    """The files of values of a checkpoint."""
    return sorted(folder.glob("*.safetensors"))
