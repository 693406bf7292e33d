"""Flatten: the question in what order the numbers of an axis that may be an image come, and the rule that says it.

The rule leaves the sizes to be written: no shape says them, and pasted as it is it is refused. Reads pairs, makes text; the
same module tells its questions from others, so that a forward pass can try the plain order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from stateregistry.conversion.planning.plan import PlanProblem
from stateregistry.conversion.rules.patterns import matches
from stateregistry.conversion.rules.rules import Order

if TYPE_CHECKING:
    from stateregistry.alignment.images import Image
    from stateregistry.conversion.rules.rules import Rules

_WHY: Final = (
    "which has its channels in another place there, so that the same numbers come in another order: "
    "no shape says whether they are one, nor its sizes"
)
_TEXTS: Final = {
    "in": f"its inputs look like a flattened image, {_WHY}",
    "out": f"its outputs look like a flattened image, {_WHY}",
    "features": f"its features look like a flattened image, {_WHY}",
}
#: What the axes of an image beside its channels are called.
_SPATIAL: Final = {1: ("l",), 2: ("h", "w"), 3: ("d", "h", "w")}
#: One order on both sides.
_PLAIN: Final = "n"
#: The channels in the rule that a question proposes, behind the other axes of the source or before them.
_CHANNELS: Final = re.compile(r'source_axes = "(?P<before>[^"]*?)c=(?P<size>\d+)')


def is_told(image: Image, rules: Rules) -> bool:
    """Whether a rule says the order of an axis."""
    one, two = image.pair.source.path, image.pair.target.path
    return any(
        order.axis == image.axis
        and all(not pattern or matches(pattern, path) for pattern, path in ((order.source, one), (order.target, two)))
        for order in rules.orders
    )


def asked(image: Image, *, first: bool) -> PlanProblem:
    """The question. `first`: the source has its channels first."""
    pair = image.pair
    names = _SPATIAL.get(image.spatial, _SPATIAL[2])
    channels = f"c={image.channels or '..'}"
    sizes = " ".join(f"{name}=.." for name in names)
    spatial = " ".join(names)
    left, right = (f"{channels} {sizes}", f"{spatial} c") if first else (f"{sizes} {channels}", f"c {spatial}")
    hint = (
        f'say the sizes with [[order]] source = "{pair.source.path}" axis = "{image.axis}" '
        f'source_axes = "{left}" target_axes = "{right}", or "{_PLAIN}" for both axes if it is no image'
    )
    keys = pair.source.path or "(the model)", pair.target.path or "(the model)"
    return PlanProblem("ambiguous", keys, _TEXTS[image.axis], hint)


def plain(problems: Iterable[PlanProblem]) -> list[tuple[PlanProblem, Order]]:
    """The questions of this kind among some problems, each with the rule that both sides have one order."""
    axes = {text: axis for axis, text in _TEXTS.items()}
    return [
        (problem, Order(axes[problem.text], _PLAIN, _PLAIN, source=problem.keys[0]))
        for problem in problems
        if problem.problem == "ambiguous" and problem.text in axes
    ]


def moved(problems: Iterable[PlanProblem]) -> list[tuple[PlanProblem, Order]]:
    """The questions of which the channels are known, each with the rule that they lie in another place on either side.

    However high and wide an image is: its other axes keep their order, so that they are one.
    """
    found = []
    for problem, order in plain(problems):
        said = _CHANNELS.search(problem.hint)
        if said is not None:
            channels, last = f"c={said['size']}", said["before"] != ""
            axes = (f"{_PLAIN} {channels}", f"c {_PLAIN}") if last else (f"{channels} {_PLAIN}", f"{_PLAIN} c")
            found.append((problem, Order(order.axis, *axes, source=order.source)))
    return found
