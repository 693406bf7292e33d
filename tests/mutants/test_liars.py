"""The liars lie: each lie shows on its harness and on no honest one; what is dangerous is tried in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mutants import liars
from mutants.support import NotShown
from stateregistry_conformance.harness import Harness

TESTS = Path(__file__).resolve().parents[1]
LIARS = liars.all_liars()
HARMLESS = [liar for liar in LIARS if liar.lie is not None]
HAZARDS = [liar for liar in LIARS if liar.hazard]


def named(those):
    return pytest.mark.parametrize("liar", those, ids=lambda liar: liar.id)


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own():
    assert len(LIARS) >= 12
    assert len({liar.id for liar in LIARS}) == len(LIARS)
    assert all(liar.story and liar.blame == "harness" for liar in LIARS)


def test_every_liar_is_shown_to_lie_or_is_a_hazard():
    assert all((liar.lie is None) == bool(liar.hazard) for liar in LIARS)


@named(HARMLESS)
def test_the_lie_shows(liar: liars.Liar):
    liar.lie(liar.harness())


@named(HARMLESS)
def test_the_lie_does_not_show_on_an_honest_harness(liar: liars.Liar):
    honest = liars.FrozenHarness() if liar.id == "l-harmless-specimens" else liars.honest()
    with pytest.raises(NotShown):
        liar.lie(honest)


@named(LIARS)
def test_a_liar_looks_like_a_harness_and_can_be_named(liar: liars.Liar):
    harness = getattr(liars, liar.id.replace("-", "_"))
    assert isinstance(harness, Harness) or liar.id == "l-half-a-harness"


def test_a_harness_that_cannot_be_imported_is_among_them():
    with pytest.raises(ImportError):
        liars.__getattr__("l_cannot_be_imported")


_USE = """
import sys
sys.path.insert(0, sys.argv[1])
from mutants import liars
from mutants.support import PLAIN, bits, noise
harness = getattr(liars, sys.argv[2])
for _ in range(25):
    model = harness.build(PLAIN)
    registry = harness.registry(model)
    value = harness.peek(model, "enc/b")
try:
    registry.replace({"enc/b": noise((4,))})
except ValueError:
    print("refused")
try:
    exec("assert False")
except AssertionError:
    print("asserted")
except StopIteration:
    pass
print("honest")
"""


def command(program: str, name: str) -> list[str]:
    return [sys.executable, "-c", program, str(TESTS), name]


@named([liar for liar in HAZARDS if liar.hazard == "hangs"])
def test_a_harness_that_hangs_hangs(liar: liars.Liar):
    program = _USE.replace("for _ in range(25)", "print('started', flush=True)\nfor _ in range(25)")
    with subprocess.Popen(command(program, liar.id.replace("-", "_")), stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout.readline() == "started\n"
            with pytest.raises(subprocess.TimeoutExpired):
                running.wait(timeout=1)
        finally:
            running.kill()


@named([liar for liar in HAZARDS if liar.hazard != "hangs"])
def test_a_hazard_does_what_it_threatens(liar: liars.Liar):
    """An honest harness prints three words; no hazard gets as far as that with all of them."""
    called = command(_USE, liar.id.replace("-", "_"))
    done = subprocess.run(called, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout.splitlines()
    assert said[-3:] != ["refused", "asserted", "honest"]
    if liar.hazard == "skips":
        assert done.returncode != 0
        assert any(reason in done.stderr for reason in ("not today", "not on this machine", "known"))
    if liar.hazard == "exits":
        assert done.returncode == 0 or "KeyboardInterrupt" in done.stderr
        assert "honest" not in said
    if liar.hazard == "crashes":
        assert done.returncode < 0
    if liar.hazard == "patches":
        assert set(said) & {"refused", "honest"}


def test_an_honest_harness_gets_through_where_the_hazards_do_not():
    program = _USE.replace("getattr(liars, sys.argv[2])", "liars.honest()")
    done = subprocess.run(command(program, "-"), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["refused", "asserted", "honest"]
