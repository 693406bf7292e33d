"""Lexicon: words of different authors for one thing, and words that say nothing.

Only what is common use in published models; a word that means two things in two models is not here. Data and look-up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from stateregistry.alignment.spelling import Token, split_words

#: Groups of words for one thing; the first stands for all.
_GROUPS: Final = (
    "query q queries wq qs",
    "key k keys wk ks",
    "value v values wv vs",
    "out o output wo",
    "qkv wqkv cqkv",
    "attention attn att mha mhsa multihead multiheadattention",
    "cross encdec",
    "mlp ffn ff ffw feedforward",
    "norm ln layernorm bn batchnorm gn groupnorm rmsnorm norms layernorms batchnorms",
    "embedding embeddings embed emb embedder embeds",
    "token tok tokens word words wte",
    "position pos positional positions wpe",
    "segment seg segments",
    "encoder enc",
    "decoder dec",
    "shortcut downsample skip identity",
    "reverse bwd backward back bw",
    "forward fwd fw",
    "head classifier logits classification",
    "final last",
    "gate gating",
    "vision visual image img",
    "text language txt",
    "squeeze reduce",
    "excite expand",
    "depthwise dw dwconv",
    "pointwise pw pwconv",
    "relative rel",
    "time temb timestep",
    "up upsample upsampling upconv",
    "previous prev",
    "patch patches patchify",
    "pool pooler pooling pooled",
    "row rows",
    "column columns col cols",
    "class cls",
    "average avg averaged ema moving",
    "mask masked",
    "bias shift offset",
)
_CANONICAL: Final = {word: group.split()[0] for group in _GROUPS for word in group.split()}

#: What the last letter of several words stands for; alone it is a name like any other.
_LETTERS: Final = {"h": "height", "w": "width"}

#: Two words in one, however they are written.
_JOINED: Final = {
    f"{first}{second}": frozenset({meant, "attention"})
    for first, meant in (("self", "self"), ("cross", "cross"), ("encdec", "cross"), ("enc", "cross"))
    for second in ("attn", "attention", "att")
}

#: What every model is made of: it tells no layer from another.
_EMPTY: Final = frozenset(
    [
        "layer",
        "layers",
        "block",
        "blocks",
        "module",
        "modules",
        "model",
        "net",
        "network",
        "conv",
        "convolution",
        "dense",
        "linear",
        "fc",
        "lin",
        "proj",
        "projection",
        "kernel",
        "weight",
        "weights",
        "the",
        "of",
        "and",
        "c",
        "param",
        "params",
        "list",
        "stack",
        "seq",
        "sequential",
        "main",
        "flax",
        "torch",
        "nnx",
        "fn",
        "1d",
        "2d",
        "3d",
        "d",
    ]
)

#: Words that say before or after what a norm stands: no synonym is safe beside them.
SIDES: Final = frozenset({"pre", "post", "before", "after", "input", "final"})

#: Words for what is before all blocks of a model, and for what is behind them.
BEGINNING: Final = frozenset({"embedding", "stem", "patch"})
END: Final = frozenset({"final", "head", "f", "tail", "end", "readout"})


@lru_cache(maxsize=65536)
def words_of(text: str) -> frozenset[str]:
    """What the words of one name mean."""
    parts = [word for word in split_words(text) if not word.isdigit()]
    joined = "".join(parts)
    if joined in _JOINED:
        return _JOINED[joined]
    if _meaning(joined) != joined or joined in _CANONICAL:
        return frozenset({_meaning(joined)})
    if joined in ("proj", "projection"):  # beside nothing else, it is what follows an attention or a gate
        return frozenset({"out"})
    found = frozenset(_meaning(word) for word in parts if word not in _EMPTY)
    letter = _LETTERS.get(parts[-1], "") if len(parts) > 1 else ""
    return found | {letter} if letter else found


def _meaning(word: str) -> str:
    """What a word stands for; a list is called like its members, with an `s` (`wqs`, `wos`, `mlps`)."""
    return _CANONICAL.get(word) or _CANONICAL.get(word.removesuffix("s"), word)


def telling(several: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Of each of several sets of words those that not all of them have."""
    common = frozenset.intersection(*several) if several else frozenset()
    return [words - common for words in several]


def words(path: Iterable[Token]) -> frozenset[str]:
    """What the words of a path mean."""
    return frozenset().union(*(words_of(token.text) for token in path))


def similarity(one: frozenset[str], two: frozenset[str]) -> float:
    """Dice's coefficient of two sets of words."""
    return 2 * len(one & two) / (len(one) + len(two)) if one and two else 0.0
