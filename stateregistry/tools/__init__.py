"""Tools: written once, over any registry, live or file.

`average`, `interpolate` and `Ema` mix states; `stats` describes values; `count`, `mask` and `by_layer` select; `freeze` and
`unfreeze` set flags; `hash` says whether two states are one, whatever framework holds them; `merge` and `split` put models
together and take parts out; `cast` changes dtypes. What has values that are not there yet (`average`, `merge`, ...) is a
lazy, read-only registry: save it, load it into a model, or look at it, a value at a time. Every name is loaded when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry.lazily import attributes

if TYPE_CHECKING:
    from stateregistry.casting import cast as cast
    from stateregistry.tools.averaging import average as average
    from stateregistry.tools.averaging import interpolate as interpolate
    from stateregistry.tools.compare import diff as diff
    from stateregistry.tools.flags import freeze as freeze
    from stateregistry.tools.flags import unfreeze as unfreeze
    from stateregistry.tools.identity import hash as hash  # noqa: A004  # a public name of the design
    from stateregistry.tools.moving import Ema as Ema
    from stateregistry.tools.moving import ema as ema
    from stateregistry.tools.parts import merge as merge
    from stateregistry.tools.parts import split as split
    from stateregistry.tools.select import by_layer as by_layer
    from stateregistry.tools.select import count as count
    from stateregistry.tools.select import mask as mask
    from stateregistry.tools.statistics import Statistics as Statistics
    from stateregistry.tools.statistics import stats as stats

_HOMES = {
    "cast": "stateregistry.casting",
    "average": "stateregistry.tools.averaging",
    "interpolate": "stateregistry.tools.averaging",
    "diff": "stateregistry.tools.compare",
    "freeze": "stateregistry.tools.flags",
    "unfreeze": "stateregistry.tools.flags",
    "hash": "stateregistry.tools.identity",
    "Ema": "stateregistry.tools.moving",
    "ema": "stateregistry.tools.moving",
    "merge": "stateregistry.tools.parts",
    "split": "stateregistry.tools.parts",
    "by_layer": "stateregistry.tools.select",
    "count": "stateregistry.tools.select",
    "mask": "stateregistry.tools.select",
    "Statistics": "stateregistry.tools.statistics",
    "stats": "stateregistry.tools.statistics",
}

__all__ = list(_HOMES)


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error
    __getattr__ = attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
