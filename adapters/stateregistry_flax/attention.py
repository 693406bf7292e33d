"""Attention: the multi-head attention of Linen and NNX as one layer. Its four projections are pieces of it.

Where keys have other heads than queries (grouped-query attention), it is not this layer: then each projection is a linear
layer by itself. Norms of queries and keys (`normalize_qk`) are layers besides, so a framework without them has no place
for them. Imports the core, neither JAX nor Flax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stateregistry.layers.vocabulary import Layer
from stateregistry_flax.dialect import Spelling
from stateregistry_flax.standard import Shapes


def attention(
    spelling: Spelling, plain: Callable[..., Any], head_dim: Callable[[Any], int]
) -> Callable[[Any], Layer | None]:
    """`MultiHeadAttention` and the types like it.

    Args:
        spelling: the labels.
        plain: the attention function of Flax itself; another one is named in the config.
        head_dim: the size of a head of a module.
    """
    pieces = spelling.attention

    def build(module: Any) -> Layer | None:
        if getattr(module, "num_kv_heads", module.num_heads) != module.num_heads:  # of NNX alone
            return None
        config: dict[str, Any] = {
            "heads": int(module.num_heads),
            "head_dim": head_dim(module),
            "dropout": float(module.dropout_rate),
            "add_zero_attn": False,
        }
        if module.attention_fn is not plain:
            config["attention_fn"] = f"{module.attention_fn.__module__}.{module.attention_fn.__qualname__}"
        if module.normalize_qk:
            config["normalize_qk"] = True
        return Layer("attention", "", pieces, config=config)

    return build


def shapes(module: Any) -> Shapes:
    """What the config of an `nnx.MultiHeadAttention` says of its shapes."""
    heads = (int(module.num_heads), int(module.head_dim))
    inputs = {"query": module.in_features, "key": module.in_kv_features, "value": module.in_kv_features}
    found: dict[str, tuple[int, ...]] = {}
    for name, features in inputs.items():
        found |= {f"{name}/kernel": (int(features), *heads), f"{name}/bias": heads}
    out = int(module.out_features)
    return {**found, "out/kernel": (*heads, out), "out/bias": (out,)}
