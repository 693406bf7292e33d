"""First-party adapters have no privilege: a distribution that we never heard of comes in through the same door."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ADAPTER = '''
"""An adapter for a framework of one class: a bag of named arrays."""
import numpy as np
import stateregistry as sr
from stateregistry.registry import StateRegistry

class Bag(dict):
    pass

class BagRegistry(StateRegistry):
    adapter = "bag"
    in_place = True

    def __init__(self, bag):
        self._bag = bag

    def _entries(self):
        return {k: sr.Entry(sr.Kind.PARAMETER, v.shape, v.dtype.name, trainable=True) for k, v in self._bag.items()}

    def _read(self, key):
        return self._bag[key]

    def _stage(self, key, value):
        return value

    def _commit(self, staged):
        self._bag.update(staged)
        return self

    def unwrap(self):
        return self._bag

class Adapter:
    name, install, framework, dialect = "bag", "pip install bag", "", None

    def recognises(self, obj):
        return isinstance(obj, Bag)

    def wrap(self, obj):
        return BagRegistry(obj)

    def explain(self, obj):
        return ""

adapter = Adapter()
'''

USE = """
    import numpy as np
    import stateregistry as sr
    from bag_adapter import Bag

    reg = sr.of(Bag(w=np.arange(3.0)))
    assert reg.adapter == "bag", reg
    assert reg.replace({"w": np.array([7.0, 8.0, 9.0])}).unwrap()["w"].tolist() == [7, 8, 9]
    assert sr.of(Bag(), adapter="bag").adapter == "bag"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory laid out as pip would leave it: a module and the metadata of its distribution."""
    (tmp_path / "bag_adapter.py").write_text(ADAPTER, encoding="utf-8")
    info = tmp_path / "bag_adapter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bag-adapter\nVersion: 1.0\n", encoding="utf-8")
    declare(tmp_path, "bag = bag_adapter:adapter")
    return tmp_path


def declare(site: Path, line: str) -> None:
    text = f"[stateregistry.adapters]\n{line}\n"
    (site / "bag_adapter-1.0.dist-info" / "entry_points.txt").write_text(text, encoding="utf-8")


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    head = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_strangers_adapter_is_found_and_used(site):
    done = run(site, USE)
    assert done.returncode == 0, done.stderr


def test_a_broken_adapter_of_a_stranger_does_not_break_the_others_and_is_named(site):
    declare(site, "bag = bag_adapter:no_such_name")
    code = """
        import numpy as np
        import stateregistry as sr
        import stateregistry_numpy
        assert sr.of(stateregistry_numpy.Module()).adapter == "numpy"
        try:
            sr.of(object())
        except sr.StateError as error:
            assert "bag_adapter:no_such_name" in str(error), error
        else:
            raise SystemExit("accepted")
    """
    done = run(site, code)
    assert done.returncode == 0, done.stderr


def test_a_name_that_two_distributions_claim_is_refused(site):
    declare(site, "numpy = bag_adapter:adapter")
    done = run(site, "import stateregistry as sr\nsr.of(object())")
    assert done.returncode == 1
    assert "AdapterError" in done.stderr
    assert "'stateregistry'" in done.stderr
    assert "'bag-adapter'" in done.stderr
