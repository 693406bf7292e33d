"""Attention: `nn.MultiheadAttention` as one layer. Its inner `out_proj` is a piece of it, never a layer besides.

Query, key and value are thirds of one array, or with `kdim=` or `vdim=` an array each; the one bias is in thirds either way.
Imports the core and the dialect, no torch.
"""

from __future__ import annotations

from typing import Any

from stateregistry.layers.vocabulary import Layer
from stateregistry_torch.dialect import AROUND, FUSED, SEPARATE


def attention(module: Any) -> Layer:
    """The layer that an `nn.MultiheadAttention` is; of the two ways to hold the kernels, it has one as `None`."""
    config = {
        "heads": int(module.num_heads),
        "head_dim": int(module.head_dim),
        "add_zero_attn": bool(module.add_zero_attn),
        "dropout": float(module.dropout),
    }
    return Layer("attention", "", (FUSED, *SEPARATE, *AROUND), config=config)
