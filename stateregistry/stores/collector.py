"""A pause of the cyclic garbage collector while a large table is read.

A header of 100,000 arrays is a million small objects and not one cycle: looking for cycles among them again and again
takes as long as parsing them.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def collector_paused() -> Iterator[None]:
    """Do not look for reference cycles inside the block; as it was before afterwards."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
