"""The page on formats says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from stateregistry import plugins
from stateregistry.stores.kinds import BUFFER_NAMES
from stateregistry.stores.limits import DEFAULT

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_every_limit_stands_in_the_table_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", PAGE, re.MULTILINE))
    assert rows == {name: f"{value:,}" for name, value in dataclasses.asdict(DEFAULT).items()}


def test_every_buffer_name_stands_in_the_table_with_its_sibling():
    rows = {}
    for names, siblings in re.findall(r"^\| (`[\w`, ]+) \|(.*)\|$", PAGE, re.MULTILINE):
        found = re.findall(r"`(\w+)`", names)
        beside = re.findall(r"`(\w+)`", siblings)
        if set(found) <= set(BUFFER_NAMES):
            rows |= dict(
                zip(found, beside * len(found) if len(beside) == 1 else beside or [""] * len(found), strict=True)
            )
    assert rows == dict(BUFFER_NAMES)


@pytest.mark.parametrize("name", ["safetensors", "torch", "flax-msgpack", "npz", "torch-dcp", "gguf", "orbax", "keras"])
def test_every_first_party_store_stands_in_the_table(name):
    assert name in plugins.stores()
    assert f"`{name}`" in PAGE
