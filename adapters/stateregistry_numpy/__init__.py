"""stateregistry_numpy: the reference adapter, and a small model in plain NumPy to teach with.

    from stateregistry_numpy import Module, Parameter, Buffer, Linear

`import stateregistry_numpy` imports no NumPy: the two adapter objects are light, the rest is loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry.lazily import attributes
from stateregistry_numpy.adapter import frozen as frozen
from stateregistry_numpy.adapter import mutable as mutable

if TYPE_CHECKING:
    from stateregistry_numpy.cells import Abstract as Abstract
    from stateregistry_numpy.cells import Buffer as Buffer
    from stateregistry_numpy.cells import Parameter as Parameter
    from stateregistry_numpy.cells import Rng as Rng
    from stateregistry_numpy.layers import BatchNorm as BatchNorm
    from stateregistry_numpy.layers import Conv as Conv
    from stateregistry_numpy.layers import Embedding as Embedding
    from stateregistry_numpy.layers import LayerNorm as LayerNorm
    from stateregistry_numpy.layers import Linear as Linear
    from stateregistry_numpy.layers import ReLU as ReLU
    from stateregistry_numpy.module import Module as Module
    from stateregistry_numpy.module import Sequential as Sequential
    from stateregistry_numpy.tree import FrozenModel as FrozenModel

#: Public name -> the module that has it.
_HOMES = {
    "Abstract": ".cells", "Buffer": ".cells", "Parameter": ".cells", "Rng": ".cells",
    "FrozenModel": ".tree",
    "BatchNorm": ".layers", "Conv": ".layers", "Embedding": ".layers", "LayerNorm": ".layers", "Linear": ".layers",
    "ReLU": ".layers",
    "Module": ".module", "Sequential": ".module",
}  # fmt: skip

__all__ = [  # noqa: PLE0604  # the rest of the names is the table
    "frozen",
    "mutable",
    *_HOMES,
]


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error
    __getattr__ = attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
