"""Which arrays of a bare file are buffers: a table of names, used where nothing better is known.

A file without our metadata does not say its kinds, so they are inferred from the last segment of the key and marked so
(`Entry.inferred`); `like=` or a live model that disagrees wins. The table is conservative: a name stands in it only
if a framework's own layers give it to buffers, and a name that people also give to parameters counts only beside the
sibling that the same layer has. All else is a parameter. Imports no framework.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from stateregistry.entry import DTYPES, Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

#: Last segment of the key -> the sibling (same parent) without which the name proves nothing; `""`: needs none.
BUFFER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        # torch: _BatchNorm, InstanceNorm
        "running_mean": "",
        "running_var": "",
        "num_batches_tracked": "",
        # Flax: BatchNorm, in the collection batch_stats or as nnx.BatchStat
        "mean": "var",
        "var": "mean",
        # torch.nn.utils.spectral_norm, and its successor in torch.nn.utils.parametrizations
        "weight_u": "weight_orig",
        "weight_v": "weight_orig",
        "_u": "_v",
        "_v": "_u",
        # transformers, timm: tables that are computed when the model is built
        "position_ids": "",
        "token_type_ids": "",
        "relative_position_index": "",
        "inv_freq": "",
    }
)

#: Dtypes that an optimizer can change.
TRAINABLE = frozenset(name for name in DTYPES if "float" in name or "complex" in name)


def infer_kind(key: str, known: Container[str], /) -> Kind:
    """The kind that the name of an entry suggests.

    Args:
        key: the key of the entry.
        known: all keys of the file, to look for siblings.
    """
    cut = key.rfind("/") + 1
    sibling = BUFFER_NAMES.get(key[cut:])
    if sibling is None or (sibling and key[:cut] + sibling not in known):
        return Kind.PARAMETER
    return Kind.BUFFER


def inferred(kind: Kind, shape: tuple[int, ...], dtype: str, /, *, trainable: bool = True) -> Entry:
    """An entry of an inferred kind: a parameter of floating or complex dtype is taken for trainable."""
    can_train = kind is Kind.PARAMETER and dtype in TRAINABLE
    return Entry(kind, shape, dtype, trainable=trainable and can_train, inferred=True)
