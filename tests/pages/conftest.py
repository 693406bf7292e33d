"""What the tests of pages share: states to draw, among them one with names meant to do harm, and a browser to look with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page

import stateregistry as sr
import stateregistry_numpy
from stateregistry.cli import main
from stateregistry.pages import inspecting
from stateregistry.report import summary
from stateregistry.tools.profiles import profile

sys.path.insert(0, str(Path(__file__).parent))
from page_files import HOSTILE, foreign  # what lies beside this file


def model(seed: int = 0, *, blocks: int = 6) -> stateregistry_numpy.Module:
    """A model with blocks that fold, two dtypes, a frozen parameter, a tie, and values that are odd."""
    rng = np.random.default_rng(seed)
    top = stateregistry_numpy.Module()
    for n in range(blocks):
        block = stateregistry_numpy.Module()
        block.register_parameter("weight", rng.standard_normal((32, 16 + n)).astype(np.float32))
        block.register_parameter("bias", rng.standard_normal(32).astype(np.float32))
        block.register_buffer("mean", rng.standard_normal(32).astype(np.float32))
        block.register_buffer("steps", np.array(n, np.int64))
        setattr(top, f"block{n}", block)
    head = stateregistry_numpy.Module()
    head.register_parameter("kernel", rng.standard_normal((24, 24)).astype(np.float32))
    head.register_parameter("half", rng.standard_normal((5, 7)).astype(np.float16))
    odd = rng.standard_normal(40).astype(np.float32)
    odd[3], odd[4] = np.nan, np.inf
    head.register_parameter("odd", odd)
    head.register_parameter("empty", np.zeros((0, 3), np.float32))
    top.head = head
    top.tied = top.head.kernel
    return top


def inspected(reg: sr.StateRegistry, title: str = "model.safetensors", *, values: bool = True) -> str:
    """The page of a registry."""
    facts = summary.summarize(reg)
    profiles = {key: profile(reg.view(key)) for key in reg} if values else None
    text = summary.verdict(title, "numpy model", facts).text
    return inspecting.page(title, text, facts, profiles=profiles, how="stateregistry inspect", layers=["conv", "conv"])


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files, and the page of every command about them."""
    room = tmp_path_factory.mktemp("pages")
    before, after = model(), model()
    reg = sr.of(after)
    changed = {"block2/weight": reg.read("block2/weight") * np.float32(1.25), "block1/mean": np.ones(32, np.float32)}
    changed["head/kernel"] = np.ascontiguousarray(reg.read("head/kernel").T)
    reg.replace(changed)
    sr.save(before, room / "before.safetensors")
    sr.save(after, room / "after.safetensors")
    sr.save(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)), room / "norm.safetensors")
    rng = np.random.default_rng(5)
    foreign(room / "hostile.safetensors", {name: rng.standard_normal((3, 4)) for name in HOSTILE})
    foreign(room / "hostile_after.safetensors", {f"{name}2": rng.standard_normal((3, 4)) for name in HOSTILE})
    many = {f"part{n % 7}.{rng.integers(1 << 40):x}.w{n}x": rng.standard_normal(1 + n % 50) for n in range(10_000)}
    foreign(room / "many.safetensors", many)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        for number, line in enumerate(COMMANDS.values()):
            assert main([*line.split(), "--color", "never"]) in (0, 1), (number, line)
    return room


COMMANDS = {
    "inspect": "inspect before.safetensors --html inspect.html",
    "diff": "diff before.safetensors after.safetensors --html diff.html",
    "plan": "convert before.safetensors out.npz --to numpy --html plan.html --allow assumption",
    "refused": "convert norm.safetensors norm.msgpack --to flax-linen --html refused.html",
    "hostile": "inspect hostile.safetensors --html hostile.html",
    "hostile_diff": "diff hostile.safetensors hostile_after.safetensors --html hostile_diff.html",
    "hostile_plan": "convert hostile.safetensors hostile.npz --to numpy --html hostile_plan.html --dry-run",
    "many": "inspect many.safetensors --html many.html",
}


@pytest.fixture
def opened(browser: Browser, room: Path) -> Iterator:
    """Opens a page; what it says on the console, asks for or throws fails the test."""
    wrong: list[str] = []
    contexts = []

    def call(name: str, *, scheme: str = "light", width: int = 1280, fragment: str = "", scripts: bool = True) -> Page:
        path = (room / f"{name}.html").as_uri()
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(path) else None)
        page.goto(path + fragment)
        return page

    yield call
    for context in contexts:
        context.close()
    assert wrong == []
