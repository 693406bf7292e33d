"""The examples with published weights: they run, and what they check would notice a wrong layout.

The packages are there without their dependencies (`make` installs them so): a missing one is a failure, never a skip.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry import errors
from stateregistry_flax import declared

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from examples import facenet, resemblyzer  # noqa: E402  # after the path


@pytest.fixture
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test registers, no other knows."""
    monkeypatch.setattr(declared.DECLARED, "rows", dict(declared.DECLARED.rows))


@pytest.mark.parametrize("name", ["resemblyzer", "facenet"])
def test_an_example_runs_as_it_is_told_to_be_run(name: str) -> None:
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = done.stdout.splitlines()
    assert len(found) == {"resemblyzer": 4, "facenet": 9}[name]
    assert sum("16 of 16" in line for line in found) == 2  # the voice encoder; R-net in Linen and in NNX


@pytest.fixture(scope="module")
def encoder() -> tuple[torch.nn.Module, np.ndarray, np.ndarray]:
    """The voice encoder with its weights, two voices, and their embeddings."""
    model = resemblyzer.TorchEncoder().eval()
    model.load_state_dict(resemblyzer.weights())
    mels = np.stack([resemblyzer.spectrogram(resemblyzer.voice(pitch)) for pitch in (110.0, 220.0)])
    with torch.no_grad():
        return model, mels, model(torch.from_numpy(mels)).numpy()


def test_two_voices_are_two_embeddings(encoder) -> None:
    """What is compared is worth comparing: features that are neither all zero nor alike."""
    _, mels, expected = encoder
    assert mels.shape == (2, resemblyzer.FRAMES, resemblyzer.MELS)
    assert (expected > 0.01).sum() > 100
    assert np.abs(expected[0] - expected[1]).max() > 0.05


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_the_voice_encoder_says_the_same_in_flax(encoder, framework: str) -> None:
    model, mels, expected = encoder
    target = resemblyzer.linen_registry(mels) if framework == "linen" else resemblyzer.NnxEncoder(nnx.Rngs(0))
    done = sr.convert(model, target, allow=("choice",))
    found = (
        np.asarray(resemblyzer.LinenEncoder().apply(done.target, mels))
        if framework == "linen"
        else np.asarray(done.target(mels))
    )
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert {move.op for move in done.plan.moves if "bias" in move.target and "lstm" in move.target} == {"sum"}


def test_two_exchanged_gates_of_the_voice_encoder_are_far_off(encoder) -> None:
    model, mels, expected = encoder
    done = sr.convert(model, resemblyzer.NnxEncoder(nnx.Rngs(0)), allow=("choice",))
    kernel = np.array(done.target.lstm["l1"].dense_h.kernel[...])
    width = resemblyzer.WIDTH
    forget, rest = kernel[:, width : 2 * width].copy(), kernel[:, 2 * width : 3 * width].copy()
    kernel[:, width : 2 * width], kernel[:, 2 * width : 3 * width] = rest, forget
    done.target.lstm["l1"].dense_h.kernel.set_value(kernel)
    assert np.abs(np.asarray(done.target(mels)) - expected).max() > 1e-2 * np.abs(expected).max()
    wrong = sr.verify(model, done.target)
    assert [difference.target for difference in wrong.differences] == ["lstm/l1/dense_h/kernel"]


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("name", facenet.NETS)
def test_a_detector_is_refused_by_the_prelu_of_flax_and_fits_a_registered_one(name: str) -> None:
    facenet.register()
    net, x = facenet.NETS[name], facenet.image(facenet.NETS[name].size)
    model = facenet.TorchNet(net).eval()
    model.load_state_dict(facenet.weights(name))
    rules = facenet.rules(net)
    slopes = {f"prelu{number + 1}/weight" for number in range(len(net.stages) + bool(net.dense))}
    plan = sr.plan(model, facenet.linen_registry(net, x, nn.PReLU), rules=rules, allow=("missing",))
    assert {p.keys[0]: p.problem for p in plan.problems} == dict.fromkeys(slopes, "impossible")
    assert all("one slope for all features and refuses a vector" in problem.text for problem in plan.problems)
    expected = facenet.torch_outputs(model, x)
    done = sr.convert(model, facenet.linen_registry(net, x), rules=rules)
    assert facenet.apart(facenet.LinenNet(net).apply(done.target, x), expected) <= 1e-5
    live = sr.convert(model, facenet.NnxNet(net, nnx.Rngs(0)), rules=rules)
    assert facenet.apart(live.target(x), expected) <= 1e-5
    assert all(move.cls == "exact" for move in (*done.plan.moves, *live.plan.moves))


@pytest.mark.parametrize("name", ["rnet", "onet"])
def test_the_flatten_before_a_linear_layer_has_to_be_told(name: str) -> None:
    """Another order of the same columns has the same shape, and another face."""
    net, x = facenet.NETS[name], facenet.image(facenet.NETS[name].size)
    model = facenet.TorchNet(net).eval()
    model.load_state_dict(facenet.weights(name))
    target = facenet.NnxNet(net, nnx.Rngs(0))
    facenet.register()
    with pytest.raises(errors.PlanError, match="flattened image"):
        sr.convert(model, target)
    (order,) = facenet.rules(net)["order"]
    wrong = {"order": [{**order, "target_axes": "h w c"}]}
    done = sr.convert(model, target, rules=wrong)
    assert facenet.apart(done.target(x), facenet.torch_outputs(model, x)) > 1e-3
