"""Single pieces of evidence: lists and numbers, answers as neighbours, habits, and what rules say of layers inside arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import save_file

import stateregistry as sr
from stateregistry.alignment.containers import Item, Tied
from stateregistry.alignment.evidence.analogy import as_counted
from stateregistry.alignment.evidence.population import Population
from stateregistry.alignment.model import Unit
from stateregistry.alignment.spelling import tokens
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.rules.rules import Rules

TYPED = (True, True)


def placed(plan: Plan) -> dict[str, str]:
    """Source layer -> target layer, of everything that is copied."""
    return {
        feed.key.rpartition("/")[0]: move.target.rpartition("/")[0]
        for move in plan.moves if move.op == "copy"
        for feed in move.sources
    }  # fmt: skip


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def nested(flat: Mapping[str, np.ndarray]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key, value in flat.items():
        *path, leaf = key.split("/")
        inner = tree
        for name in path:
            inner = inner.setdefault(name, {})  # type: ignore[assignment]
        inner[leaf] = value
    return tree


@pytest.mark.parametrize("torn", [False, True])
def test_numbers_in_an_order_that_nobody_wrote_are_an_assumption(torn: bool) -> None:
    toys = toy.model([("linear", (8, 8), f"n{n}", f"dense_{n}") for n in range(6)])
    source, target = toy.side(toys, "torch", typed=True), toy.side(toys, "flax", typed=True)
    if torn:
        keys = [key for part in ("weight", "bias") for key in (f"n{n}/{part}" for n in (4, 0, 2, 5, 1, 3))]
        source = replace(source, entries={key: source.entries[key] for key in keys})
    grades = {move.grade for move in make(source, target, allow=("assumption",)).moves}
    assert grades == ({"assumption"} if torn else {"numbers"})


def test_a_place_in_a_list_is_no_number_beside_others() -> None:
    toys = toy.model([
        ("conv", (4, 8, 3), "conv1", "Conv_0"), ("batch_norm", (8,), "bn1", "BatchNorm_0"),
        ("conv", (8, 8, 3), "conv2", "Conv_1"), ("batch_norm", (8,), "bn2", "BatchNorm_1"),
        ("conv", (4, 8, 1), "downsample.0", "Conv_2"), ("batch_norm", (8,), "downsample.1", "BatchNorm_2"),
    ])  # fmt: skip
    plan = toy.planned(toys, toys, typed=TYPED)
    assert plan.ok, str(plan)
    assert placed(plan)["downsample/1"] == "BatchNorm_2"
    assert toy.judge(toys, toys, plan) == "right"


def test_a_number_that_runs_against_its_order_says_nothing_of_a_neighbours() -> None:
    toys = toy.model([
        ("layer_norm", (6,), "norms.0", "LayerNorm_1"), ("linear", (6, 9), "mixers.0.inner", "Mix_0/Dense_0"),
        ("linear", (9, 6), "mixers.0.outer", "Mix_0/Dense_1"), ("layer_norm", (6,), "norms.1", "LayerNorm_0"),
        ("linear", (6, 9), "mixers.1.inner", "Mix_1/Dense_0"), ("linear", (9, 6), "mixers.1.outer", "Mix_1/Dense_1"),
    ])  # fmt: skip
    assert placed(toy.planned(toys, toys, typed=TYPED)).get("norms/0") != "LayerNorm_0"
    plan = toy.planned(toys, toys, typed=TYPED, allow=("assumption",))
    assert not plan.ok or toy.judge(toys, toys, plan) == "right"


def test_a_name_that_is_counted_against_its_order_is_no_equal_name() -> None:
    toys = toy.model([("linear", (6, 6), "fc1", "fc0"), ("linear", (6, 6), "fc0", "fc1")])
    away = (*toys, *toy.model([("linear", (6, n), f"a{n}", f"Z{n}z") for n in range(7, 16)]))
    assert not toy.planned(away, away, typed=TYPED).ok


def test_what_stands_beside_an_answer_follows_from_it() -> None:
    toys = toy.model([
        ("linear", (6, 9), "left.inner", "north/first"), ("linear", (9, 6), "left.outer", "north/second"),
        ("linear", (6, 9), "right.inner", "south/first"), ("linear", (9, 6), "right.outer", "south/second"),
    ])  # fmt: skip
    sides = toy.side(toys, "torch", typed=True), toy.side(toys, "flax", typed=True)
    assert not make(*sides).ok
    plan = make(*sides, rules=Rules.of({"left/inner": "north/first"}))
    assert plan.ok, str(plan)
    assert toy.judge(toys, toys, plan) == "right"
    other = make(*sides, rules=Rules.of({"left/inner": "south/first"}))
    assert placed(other)["left/outer"] == "south/second"


def test_the_norm_of_the_attention_before_that_of_the_mlp_is_a_habit() -> None:
    toys = toy.model([("layer_norm", (6,), "norm1", "attn_norm"), ("layer_norm", (6,), "norm2", "ffn_norm")])
    plan = toy.planned(toys, toys, typed=(True, False))
    assert {problem.problem for problem in plan.problems} == {"assumption"}
    assert all("by habit" in problem.text for problem in plan.problems)
    assert toy.judge(toys, toys, toy.planned(toys, toys, typed=(True, False), allow=("assumption",))) == "right"


def test_the_norm_of_the_attention_before_the_final_one_of_a_block_is_a_habit() -> None:
    here, names = ("self_attn_layer_norm", "final_layer_norm"), ("attn_norm", "ffn_norm")
    toys = toy.model([("layer_norm", (6,), *both) for both in zip(here, names, strict=True)])
    plan = toy.planned(toys, toys, typed=(True, False))
    assert {problem.problem for problem in plan.problems} == {"assumption"}
    assert toy.judge(toys, toys, toy.planned(toys, toys, typed=(True, False), allow=("assumption",))) == "right"


def test_a_final_norm_beside_none_of_an_attention_has_no_habit() -> None:
    toys = toy.model(
        [("layer_norm", (6,), "first_half", "attn_norm"), ("layer_norm", (6,), "final_layer_norm", "ffn_norm")]
    )
    plan = toy.planned(toys, toys, typed=(True, False), allow=("assumption",))
    assert "ambiguous" in {problem.problem for problem in plan.problems}


def test_the_norm_of_the_input_before_one_after_something_is_a_habit() -> None:
    names = "input_layernorm", "post_attention_layernorm"
    toys = toy.model([("layer_norm", (6,), names[0], "LayerNorm_0"), ("layer_norm", (6,), names[1], "LayerNorm_1")])
    assert {problem.problem for problem in toy.planned(toys, toys, typed=(True, False)).problems} == {"assumption"}
    assert toy.judge(toys, toys, toy.planned(toys, toys, typed=(True, False), allow=("assumption",))) == "right"


@pytest.mark.parametrize(
    "names",
    [
        ("pre_attn_norm", "post_mlp_norm"),
        ("post_attention_norm", "pre_feedforward_norm"),
        ("attn_norm", "final_norm"),
        ("one", "two"),
    ],
)
def test_names_that_have_no_usual_order_are_asked_about(names: tuple[str, str]) -> None:
    toys = toy.model([("layer_norm", (6,), "norm1", names[0]), ("layer_norm", (6,), "norm2", names[1])])
    plan = toy.planned(toys, toys, typed=(True, False), allow=("assumption",))
    assert {problem.problem for problem in plan.problems} == {"ambiguous"}


# -------------------------------------------------------------------- layers inside arrays and modules


def cells(*names: str) -> dict[str, object]:
    """Two GRU cells of Flax without their module."""
    gates = {**dict.fromkeys(("ir", "iz", "in"), (4, 5)), **dict.fromkeys(("hr", "hz", "hn"), (5, 5))}
    flat = {f"{name}/{gate}/kernel": array(*shape) for name in names for gate, shape in gates.items()}
    flat |= {f"{name}/{gate}/bias": array(5) for name in names for gate in ("ir", "iz", "in", "hn")}
    return {"params": nested({**flat, "head/kernel": array(10, 3), "head/bias": array(3)})}


@pytest.fixture
def recurrent(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(4, 5, bidirectional=True), "head": torch.nn.Linear(10, 3)})
    save_file(model.state_dict(), tmp_path / "rnn.safetensors")
    return tmp_path / "rnn.safetensors"


def test_the_direction_that_is_counted_first_is_forward_by_habit(recurrent: Path) -> None:
    target = cells("GRUCell_0", "GRUCell_1")
    allow = ("choice", "lossy", "missing")
    plan = sr.plan(recurrent, target, allow=allow)
    assert "assumption" in {problem.problem for problem in plan.problems}
    plan = sr.plan(recurrent, target, allow=("assumption", *allow))
    assert plan.ok, str(plan)
    kernels = {move.target: move.sources[0].key for move in plan.moves if move.target.endswith("kernel")}
    assert not kernels["GRUCell_0/ir/kernel"].endswith("reverse")
    assert kernels["GRUCell_1/ir/kernel"].endswith("reverse")


def test_a_rule_may_speak_of_one_direction_inside_a_module(recurrent: Path) -> None:
    target = cells("GRUCell_0", "GRUCell_1")
    plan = sr.plan(recurrent, target, rules={"rnn/l0": "GRUCell_1"}, allow=("choice", "assumption"))
    assert plan.ok, str(plan)
    kernels = {move.target: move.sources[0].key for move in plan.moves if move.target.endswith("kernel")}
    assert not kernels["GRUCell_1/ir/kernel"].endswith("reverse")


def test_a_rule_may_speak_of_one_layer_inside_stacked_arrays_both_ways() -> None:
    names = ("one", "two")
    model = torch.nn.ModuleDict({
        "layers": torch.nn.ModuleList(
            torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4), **{name: torch.nn.LayerNorm(4) for name in names}})
            for _ in range(3)
        )
    })  # fmt: skip
    flat = {f"stack/{name}/{leaf}": array(3, 4) + number for number, name in enumerate(("ex", "why"))
            for leaf in ("scale", "bias")}  # fmt: skip
    variables = {"params": nested({**flat, "stack/dense/kernel": array(3, 4, 4), "stack/dense/bias": array(3, 4)})}
    assert not sr.plan(model, variables, allow=("assumption",)).ok
    rules = Rules.of({"layers/{i}/one": "stack/why/{i}"})
    there = sr.convert(model, variables, rules=rules, allow=("assumption",))
    made = there.target["params"]["stack"]["why"]["scale"]
    assert np.asarray(made[1]).tobytes() == model["layers"][1]["one"].weight.detach().numpy().tobytes()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
    sr.convert(variables, model, rules=rules.inverse(), allow=("assumption",))
    assert model["layers"][2]["one"].weight.detach().numpy().tobytes() == flat["stack/why/scale"][2].tobytes()


class Normed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(6, 8, 3), dim=2)
        self.head = torch.nn.Linear(8, 3)


@pytest.mark.parametrize("live", [True, False])
def test_a_weight_norm_without_its_type_is_read_by_its_names(live: bool, tmp_path: Path) -> None:
    model = Normed()
    source: object = model
    if not live:
        save_file(model.state_dict(), tmp_path / "normed.safetensors")
        source = tmp_path / "normed.safetensors"
    conv = {"weight_g": array(1, 1, 3), "weight_v": array(8, 6, 3), "bias": array(8)}
    variables = {"params": {"conv": conv, "head": {"kernel": array(8, 3), "bias": array(3)}}}
    done = sr.convert(source, variables, allow=("assumption",))
    held = done.target["params"]["conv"]
    state = model.state_dict()
    pairs = {"weight_g": "conv.parametrizations.weight.original0", "weight_v": "conv.parametrizations.weight.original1"}
    for mine, its in pairs.items():
        assert np.asarray(held[mine]).tobytes() == state[its].numpy().tobytes()
    back = Normed()
    sr.convert(variables, back, allow=("assumption",))
    assert back.state_dict()[pairs["weight_v"]].numpy().tobytes() == variables["params"]["conv"]["weight_v"].tobytes()


# -------------------------------------------------------------------- one framework on both sides


class Block(torch.nn.Module):
    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        if fused:
            self.qkv = torch.nn.Linear(6, 18)
        else:
            self.q, self.k, self.v = (torch.nn.Linear(6, 6) for _ in range(3))
        self.out, self.norm = torch.nn.Linear(6, 6), torch.nn.LayerNorm(6)
        self.up, self.down = torch.nn.Linear(6, 24), torch.nn.Linear(24, 6)


def blocks(*, fused: bool) -> torch.nn.ModuleDict:
    torch.manual_seed(int(fused))
    return torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(Block(fused=fused) for _ in range(2))})


SPLIT = Rules.of({"split": [{
    "source": "blocks.{i}.qkv", "axis": "out", "axes": "q|k|v: out",
    "targets": ["blocks/{i}/q", "blocks/{i}/k", "blocks/{i}/v"],
}]})  # fmt: skip


@pytest.mark.parametrize("files", [False, True])
def test_a_split_works_between_two_models_of_one_framework_both_ways(files: bool, tmp_path: Path) -> None:
    fused, apart = blocks(fused=True), blocks(fused=False)
    source: object = fused
    if files:
        save_file(fused.state_dict(), tmp_path / "fused.safetensors")
        source = tmp_path / "fused.safetensors"
    sr.convert(source, apart, rules=SPLIT)
    for one, two in zip(fused["blocks"], apart["blocks"], strict=True):
        assert torch.equal(one.qkv.weight, torch.cat([two.q.weight, two.k.weight, two.v.weight]))
        assert torch.equal(one.qkv.bias, torch.cat([two.q.bias, two.k.bias, two.v.bias]))
        assert torch.equal(one.down.weight, two.down.weight)
    back = blocks(fused=True)
    with torch.no_grad():
        for tensor in back.parameters():
            tensor.zero_()
    sr.convert(apart, back, rules=SPLIT.inverse())
    assert all(torch.equal(value, fused.state_dict()[name]) for name, value in back.state_dict().items())


def test_without_the_rule_the_parts_are_missing_and_the_whole_is_unexpected() -> None:
    plan = sr.plan(blocks(fused=True), blocks(fused=False))
    assert {problem.problem for problem in plan.problems} == {"missing", "unexpected"}


# -------------------------------------------------------------------- numbers that are no evidence


def test_equal_names_whose_numbers_run_against_the_calls_are_an_assumption() -> None:
    rows = [("linear", (6, 6), f"{part}.{n}.fc", f"{part}_{n}/fc") for part in ("encoder", "decoder") for n in (0, 1)]
    toys = toy.model(rows)
    called = [toys[0], toys[1], toys[3], toys[2]]  # the decoder's second is called first
    plan = make(toy.side(toys, "torch", typed=True), toy.side(called, "flax", typed=True))
    assert {problem.problem for problem in plan.problems} == {"assumption"}
    assert "order of calls" in str(plan)
    assert all("decoder" in key for problem in plan.problems for key in problem.keys)
    assert make(toy.side(called, "torch", typed=True), toy.side(called, "flax", typed=True)).ok  # both count backwards
    sized = toy.model([(kind, (6, 6 + n), one, two) for n, (kind, _, one, two) in enumerate(rows)])
    turned = [sized[0], sized[1], sized[3], sized[2]]
    assert make(toy.side(sized, "torch", typed=True), toy.side(turned, "flax", typed=True)).ok  # their sizes say it


def test_the_number_of_a_neighbour_that_is_counted_from_elsewhere_says_nothing() -> None:
    rows = [("conv", (4, 6, n + 1), f"convs.{n}", f"char_conv_w{n + 1}") for n in range(3)]
    toys = toy.model([*rows, *(("linear", (6, 6), f"mixing.{n}", f"blend_{n}") for n in range(3))])
    found = placed(toy.planned(toys, toys, typed=(True, False), allow=("assumption",)))
    assert all(found.get(f"mixing/{n}", f"blend_{n}") == f"blend_{n}" for n in range(3))


def test_a_number_that_all_share_a_container_with_is_no_neighbour() -> None:
    """Of two norms beside one embedding: a word on one side, and only the number that Linen gave on the other."""
    toys = toy.model([
        ("embedding", (9, 6), "net.word_embeddings", "Net_0/Embed_0"),
        ("layer_norm", (6,), "net.word_embeddings_layernorm", "Net_0/LayerNorm_1"),
        ("linear", (6, 4), "net.up", "Net_0/Dense_0"),
        ("layer_norm", (6,), "net.ln_f", "Net_0/LayerNorm_0"),
    ])  # fmt: skip
    plan = toy.planned(toys, toys, typed=(True, False), allow=("assumption",))
    assert {problem.problem for problem in plan.problems} == {"ambiguous"}


def _item(path: str) -> Item:
    unit = Unit(path, tokens(path), (("linear", 6, 6, True),), {}, (path,), typed=True, place=0)
    return Item([unit], unit.tokens, single=True)


def test_a_name_counts_on_as_it_does_in_what_is_paired() -> None:
    known = [Tied(_item(f"body_{n}"), _item(f"layers/{n + 1}/deep"), "") for n in (1, 2)]
    xs, ys = [_item("body_3"), _item("body_7"), _item("odd")], [_item(f"layers/{n}/deep") for n in (4, 5)]
    (found,) = as_counted(xs, ys, known)
    assert (found.source, found.target, found.grade) == (xs[0], ys[0], "numbers")
    assert not as_counted(xs, ys, known[:1])  # one pair says nothing of a name
    assert not as_counted(xs, ys, [*known, Tied(_item("body_5"), _item("layers/5/deep"), "")])  # and these disagree
    assert not as_counted(xs, [_item("layers/4/other")], known)


def test_a_name_that_counts_in_steps_counts_on_in_them() -> None:
    known = [Tied(_item(f"body_{n}"), _item(f"deep_{3 * n + 4}"), "") for n in (0, 3)]
    xs, ys = [_item("body_1"), _item("body_2")], [_item("deep_10"), _item("deep_7")]
    for one, two in ((xs, ys), (ys, xs)):
        pairs = known if one is xs else [Tied(each.target, each.source, "") for each in known]
        found = as_counted(one, two, pairs)
        assert {(each.source.numbers, each.target.numbers) for each in found} == {
            (a, b) if one is xs else (b, a) for a, b in (((1,), (7,)), ((2,), (10,)))
        }
    # The name counts something in between too, so that its numbers are no steps of three.
    others = Population(((), [_item("deep_5"), *ys]))
    assert not as_counted(xs, ys, known, others)
    assert not as_counted(xs, ys, [*known, Tied(_item("body_5"), _item("deep_16"), "")])  # two distances


def test_what_is_fused_without_a_name_is_told_by_the_names_of_the_parts() -> None:
    parts = [("linear", (6, 6), f"x{n}", f"attn/{word}") for n, word in enumerate(("query", "key", "value"))]
    there = toy.model([*parts, ("linear", (6, 5), "tail", "head")])
    here = toy.model([("linear", (6, 18), "blob", "none"), ("linear", (6, 5), "tail", "head")])
    plan = make(toy.side(here, "torch", typed=True), toy.side(there, "flax", typed=True), allow=("assumption",))
    assert plan.ok, plan
    assert {feed.part for move in plan.moves for feed in move.sources} >= {"query", "key", "value"}
    odd = toy.model([*parts[:2], ("linear", (6, 6), "x2", "attn/gate"), ("linear", (6, 5), "tail", "head")])
    assert not make(toy.side(here, "torch", typed=True), toy.side(odd, "flax", typed=True), allow=("assumption",)).ok
