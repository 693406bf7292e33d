"""Cells: the tensors that are one place, and the entry that describes it as of now.

A cell is one object under one or several names, or several objects over identical memory. Imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch

from stateregistry.entry import Entry, Kind
from stateregistry_torch.bits import NAMES
from stateregistry_torch.dialect import BUFFER_TAG, PARAMETER_TAG


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One place that holds an array.

    Attributes:
        tensors: the distinct objects, in native order, all over one memory.
        parameters: those of them that are registered as parameters.
        entry: what it is now.
    """

    tensors: tuple[torch.Tensor, ...]
    parameters: tuple[torch.Tensor, ...]
    entry: Entry


# Models have many tensors and few distinct entries: equal ones are one object.
@lru_cache(maxsize=1 << 16)
def entry_of(
    parameter: bool, shape: torch.Size, dtype: torch.dtype, trainable: bool, persistent: bool, concrete: bool, /
) -> Entry:
    """The entry of what a tensor and its registration say.

    Raises:
        KeyError: a dtype that no registry holds.
    """
    return Entry(
        Kind.PARAMETER if parameter else Kind.BUFFER,
        tuple(int(size) for size in shape),
        NAMES[dtype],
        trainable=parameter and trainable,
        persistent=persistent,
        concrete=concrete,
        tag=PARAMETER_TAG if parameter else BUFFER_TAG,
    )
