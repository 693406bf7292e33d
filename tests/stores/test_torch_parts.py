"""Which part of a `.pt` file is the state: never guessed, and said with its sub-key where there are several."""

from __future__ import annotations

import pytest
import torch

from stateregistry import errors
from stateregistry.stores.torch_zip import open_torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3)
        self.bn = torch.nn.BatchNorm2d(3)
        self.head = torch.nn.Linear(3, 3)


def saved(path, state):
    torch.save(state, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    net = Net()
    state = {
        "model": net.state_dict(),
        "ema": {"module.a": {"w": torch.ones(2)}},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "history": [torch.ones(1), {"loss": torch.ones(())}],
        "epoch": 3,
    }
    return saved(tmp_path / "trainer.pt", state)


def test_a_file_with_several_states_is_refused_with_the_list_of_them(checkpoint):
    with pytest.raises(errors.FileFormatError, match="more than one state") as caught:
        open_torch(checkpoint)
    text = str(caught.value)
    assert "model: 9 tensors" in text
    assert "optimizer.state.0: 1 tensor\n" in text
    assert f"sr.open('{checkpoint}::model')" in text
    assert caught.value.found[0] == "model"


@pytest.mark.parametrize(
    ("part", "found"),
    [("model", 9), ("ema.module.a", 1), ("optimizer.state.0", 1), ("history.1", 1)],
)
def test_a_part_is_opened_by_its_sub_key(checkpoint, part, found):
    with open_torch(checkpoint, part=part) as opened:
        assert len(opened) + len(opened.aliases) == found


def test_the_root_is_opened_as_it_is_when_that_is_asked_for(checkpoint):
    with open_torch(checkpoint, part=".") as found:
        assert len(found) == 0
        assert set(found.opaque) == {"model", "ema", "optimizer", "history", "epoch"}


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("modle", "no part 'modle'"),
        ("model.conv", "no part"),
        ("epoch", "a Python int"),
        ("history", "a list of 2"),
        ("history.0", "a single tensor"),
        ("optimizer", "its state further down"),
        ("optimizer.state", "keys that are no names"),
    ],
)
def test_a_part_that_is_no_state_is_refused(checkpoint, part, says):
    with pytest.raises(errors.FileFormatError, match=says):
        open_torch(checkpoint, part=part)


def test_a_sub_key_that_can_be_read_in_two_ways_is_refused(tmp_path):
    inner = {"w": torch.ones(1)}
    path = saved(tmp_path / "x.pt", {"a.b": inner, "a": {"b": dict(inner)}})
    with pytest.raises(errors.FileFormatError, match="2 ways"):
        open_torch(path, part="a.b")


def test_a_long_list_of_states_is_cut(tmp_path):
    path = saved(tmp_path / "x.pt", {f"m{index}": {"w": torch.ones(1)} for index in range(12)})
    with pytest.raises(errors.FileFormatError, match="4 more places") as caught:
        open_torch(path)
    assert len(caught.value.found) == 12


@pytest.mark.parametrize(
    ("root", "says"),
    [
        (torch.ones(2), "single tensor"),
        ([torch.ones(2)], "list of 1"),
        (5, "Python int"),
        ({1: torch.ones(1)}, "no names"),
    ],
    ids=["tensor", "list", "int", "numbered"],
)
def test_a_root_that_is_no_mapping_of_names_is_refused(tmp_path, root, says):
    with pytest.raises(errors.FileFormatError, match=says):
        open_torch(saved(tmp_path / "x.pt", root))


@pytest.mark.parametrize("tensors", [[torch.ones(2)], (torch.ones(1), torch.ones(2)), {0: torch.ones(1)}])
def test_what_gives_no_names_is_not_offered_as_a_state(tmp_path, tensors):
    """Who takes such an offer is told the same again."""
    with pytest.raises(errors.FileFormatError, match=r"no mapping of names to tensors") as caught:
        open_torch(saved(tmp_path / "x.pt", tensors))
    assert "::" not in str(caught.value)
    with pytest.raises(errors.FileFormatError) as caught:
        open_torch(saved(tmp_path / "y.pt", {"lists": tensors, "model": {"w": torch.ones(1)}}))
    assert caught.value.found == ("model",)
