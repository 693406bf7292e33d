"""Variants of the zoo that differ in one thing: the first sentence says the thing, with a module, with a tree and with files.

Each row changes the torch side of a pair once: a block more or less, a width, a vocabulary, a kernel, a bias, a norm, a head, a
part twice. What is said must be true, must come first, and must not be one of very many.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn
from zoo_all import FOREIGN
from zoo_pairs import FlaxSide, Nnx

import stateregistry as sr

PAIRS = {pair.name: pair for pair in FOREIGN}
SIDES: dict[str, FlaxSide] = {}
#: So many problems are still read by a person.
FEW = 5

Change = Callable[[nn.Module], None]


def put(path: str, new: Callable[[nn.Module], nn.Module]) -> Change:
    """Another module in the place of one."""

    def change(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        old = model.get_submodule(path)
        setattr(model.get_submodule(parent), name, new(old))

    return change


def every(kind: type[nn.Module], new: Callable[[nn.Module], nn.Module]) -> Change:
    def change(model: nn.Module) -> None:
        for path in [path for path, module in model.named_modules() if isinstance(module, kind)]:
            put(path, new)(model)

    return change


def more(path: str, number: int = 0) -> Change:
    """A repetition of a list once more, in its middle."""

    def change(model: nn.Module) -> None:
        some = model.get_submodule(path)
        some.insert(number + 1, copy.deepcopy(some[number]))

    return change


def less(path: str, number: int = 1) -> Change:
    def change(model: nn.Module) -> None:
        del model.get_submodule(path)[number]

    return change


def twice(path: str, name: str) -> Change:
    """A part that only one side has, which is as another one of it."""

    def change(model: nn.Module) -> None:
        setattr(model, name, copy.deepcopy(model.get_submodule(path)))

    return change


def wider(by: int) -> Callable[[nn.Module], nn.Module]:
    return lambda old: nn.Linear(old.in_features, old.out_features + by, bias=old.bias is not None)


def unbiased(old: nn.Module) -> nn.Module:
    return nn.Linear(old.in_features, old.out_features, bias=False)


def gone(old: nn.Module) -> nn.Module:
    return nn.Identity()


def grouped(old: nn.Module) -> nn.Module:
    return nn.GroupNorm(1, old.num_features)


def scaled(old: nn.Module) -> nn.Module:
    return nn.RMSNorm(old.normalized_shape)


def vocabulary(old: nn.Module) -> nn.Module:
    return nn.Embedding(old.num_embeddings + 2, old.embedding_dim)


def kernel(size: int) -> Callable[[nn.Module], nn.Module]:
    def made(old: nn.Module) -> nn.Module:
        sizes = tuple(size for _ in old.kernel_size)
        return type(old)(old.in_channels, old.out_channels, sizes, groups=old.groups, bias=old.bias is not None)

    return made


def fewer_heads(model: nn.Module) -> None:
    for block in model.layers:
        block.attention.wk = nn.Linear(24, 12, bias=False)
        block.attention.wv = nn.Linear(24, 12, bias=False)


def one_way(model: nn.Module) -> None:
    model.lstm = nn.LSTM(model.lstm.input_size, 2 * model.lstm.hidden_size, 2, batch_first=True)


VARIANTS: list[tuple[str, str, Change, str]] = [
    # a block more or less
    (
        "resnet18-linen",
        "block-more",
        more("layer1"),
        "has 9 repetitions of `layer/#`, the target has 8 of `ResNetBlock`",
    ),
    (
        "resnet18-linen",
        "block-less",
        less("layer1"),
        "has 7 repetitions of `layer/#`, the target has 8 of `ResNetBlock`",
    ),
    (
        "vit-timm-linen",
        "block-more",
        more("blocks"),
        "4 repetitions of `blocks`, the target has 3 of `Transformer/encoderblock`",
    ),
    (
        "gpt2-linen",
        "block-less",
        less("transformer.h"),
        "2 repetitions of `transformer/h`, the target has 3 of `layer`",
    ),
    (
        "moe-linen",
        "block-more",
        more("layers"),
        "3 repetitions of `layers`, the target has 2 of `moe` and `pre_moe_norm`",
    ),
    (
        "mixer-linen",
        "block-more",
        more("", 2),
        "the source has 4 blocks like `2`, the target has 3 repetitions of `MixerBlock`",
    ),
    (
        "convmixer-linen",
        "block-less",
        less("", 4),
        "the source has 2 blocks like `3`, the target has 3 repetitions of `depthwise`",
    ),
    (
        "cyclegan-linen",
        "block-more",
        more("model", 12),
        "4 blocks like `model/10`, the target has 3 repetitions of `trunk`",
    ),
    (
        "diffusion-linen",
        "block-more",
        more("downs.1"),
        "3 blocks like `downs/1/0`, the target has 2 blocks like `down_1_res_0`",
    ),
    (
        "tacotron2-linen",
        "layer-more",
        more("postnet.convolutions", 1),
        "5 repetitions of `postnet/convolutions`, the target has 4 of",
    ),
    # a part twice, or beside the list that it is like
    ("unet-linen", "part-twice", twice("inc", "aside"), "one more of"),
    (
        "vit-timm-linen",
        "like-a-layer",
        twice("blocks.1.mlp.fc1", "aside"),
        "the source has `aside` (linear 24 to 96), and the target",
    ),
    (
        "conformer-linen",
        "like-a-layer",
        twice("layers.1.ff1.fn.fn.net.0", "aside"),
        "the source has `aside` (linear 24 to 40), and",
    ),
    # sizes
    ("llama-linen", "classes", put("output", wider(3)), "differ in one size: 43 in the source is 40 in the target"),
    (
        "tagger-linen",
        "vocabulary",
        put("word_embeddings", vocabulary),
        "differ in one size: 42 in the source is 40 in the target",
    ),
    ("resnet18-linen", "kernel", put("conv1", kernel(9)), "differ in one size: 9 in the source is 7 in the target"),
    (
        "unet-linen",
        "kernel",
        put("inc.double_conv.0", kernel(5)),
        "differ in one size: 5 in the source is 3 in the target",
    ),
    (
        "vit-timm-linen",
        "width",
        put("blocks.1.mlp.fc1", wider(1)),
        "`blocks/1` has linear 24 to 97 where the others of `blocks` have linear 24 to 96",
    ),
    (
        "moe-linen",
        "width",
        put("layers.1.block_sparse_moe.gate", wider(1)),
        "`layers/1/block_sparse_moe/gate` (linear 24 to 5) and one of `moe_0/router`",
    ),
    ("llama-linen", "heads", fewer_heads, "one size differs: 12 in the source is 8 in the target"),
    ("tagger-linen", "one-way", one_way, "one direction against two"),
    # what is there on one side alone
    ("resnet18-linen", "no-head", put("fc", gone), "no source for"),
    (
        "vit-timm-linen",
        "no-bias",
        every(nn.Linear, unbiased),
        "has a bias in each of the 19 layers that are left, and the source in none of its 13",
    ),
    (
        "pointnet-linen",
        "no-bias",
        every(nn.Linear, unbiased),
        "the target has a bias in `Dense_3` (linear 20 to 16), `Dense_4` (linear 16 to 6), and the source none",
    ),
    (
        "vit-timm-linen",
        "one-bias",
        put("blocks.1.mlp.fc1", unbiased),
        "`blocks/1/mlp/fc1` (linear 24 to 96) has no bias in the source, where",
    ),
    (
        "gpt2-linen",
        "one-norm",
        put("transformer.h.1.ln_2", gone),
        "in the source `transformer/h/1` has fewer of them than the others",
    ),
    (
        "conformer-linen",
        "one-norm",
        put("layers.1.ff1.fn.norm", gone),
        "in the source `layers/1/ff1` has fewer of them than the others",
    ),
    (
        "crnn-linen",
        "one-norm",
        put("cnn.5", gone),
        "the target has `BatchNorm_1` (batch norm 14), and the source nothing of that kind and size",
    ),
    (
        "attention-unet-linen",
        "no-head",
        put("Conv_1x1", gone),
        "the target has `logits` (conv 4 2 (1, 1)), and the source nothing",
    ),
    # another kind
    (
        "resnet18-linen",
        "norms",
        every(nn.BatchNorm2d, grouped),
        "in the source and of the kind batch norm in the target",
    ),
    ("gpt2-linen", "norms", every(nn.LayerNorm, scaled), "`transformer/h/0/ln_1` ("),
]


def side(name: str) -> FlaxSide:
    if name not in SIDES:
        SIDES[name] = PAIRS[name].flax()
    return SIDES[name]


@pytest.mark.parametrize("way", ["live", "variables", "files"])
@pytest.mark.parametrize(("name", "what", "change", "text"), VARIANTS, ids=[f"{row[0]}-{row[1]}" for row in VARIANTS])
def test_the_first_sentence_says_what_differs(
    name: str, what: str, change: Change, text: str, way: str, tmp_path: Path
) -> None:
    flax = side(name)
    if way == "variables" and isinstance(flax, Nnx):
        way = "live"  # it has no other form
    model, native = PAIRS[name].torch().eval(), flax.fresh(1)
    change(model)
    if way == "files":
        sr.save(model, tmp_path / "source.safetensors")
        sr.save(native, tmp_path / "target.msgpack")
        sides = tmp_path / "source.safetensors", tmp_path / "target.msgpack"
    else:
        sides = model, flax.registry(native) if way == "live" else flax.tree(native)
    plan = sr.plan(*sides, allow=("assumption", "choice"))
    assert not plan.ok
    assert text in plan.problems[0].text, str(plan)
    assert len(plan.problems) <= FEW, str(plan)
    back = sr.plan(*sides[::-1], allow=("assumption", "choice"))
    assert not back.ok
    assert len(back.problems) <= FEW, str(back)
