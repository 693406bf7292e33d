"""Sparks: small pictures of the values of one array, as SVG: its histogram, and the size of its slices along an axis.

They stand beside the numbers they show and are hidden from a screen reader, which has the numbers. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateregistry.tools.profiles import Axis, Profile

_HEIGHT = 32.0


def histogram(profile: Profile, /) -> str:
    """The histogram as an area, with a line at zero where zero lies inside."""
    counts, low, high = profile.counts, profile.low, profile.high
    if not counts:
        return ""
    if len(counts) == 1:
        inner = f'<path class="area" d="M23 {_HEIGHT:g}V2H25V{_HEIGHT:g}Z"/>'
        return _svg("hist", 48, inner)
    top = max(counts)
    steps = "".join(f"V{_y(count / top)}H{place}" for place, count in enumerate(counts, 1))
    inner = f'<path class="area" d="M0 {_HEIGHT:g}{steps}V{_HEIGHT:g}Z"/>'
    if low < 0 < high:
        at = len(counts) * (-low / 2) / (high / 2 - low / 2)
        inner += f'<path class="zero" d="M{at:.1f} 0V{_HEIGHT:g}"/>'
    return _svg("hist", len(counts), inner)


def pair(first: Sequence[int], second: Sequence[int], /) -> str:
    """Two histograms over one range, the first as an area, the second as a line."""
    if not first or not second or len(first) != len(second):
        return ""
    top = max(*first, *second, 1)
    area = "".join(f"V{_y(count / top)}H{place}" for place, count in enumerate(first, 1))
    line = "".join(f"V{_y(count / top)}H{place}" for place, count in enumerate(second, 1))
    inner = f'<path class="area" d="M0 {_HEIGHT:g}{area}V{_HEIGHT:g}Z"/>'
    inner += f'<path class="line" d="M0 {_HEIGHT:g}{line}V{_HEIGHT:g}"/>'
    return _svg("hist", len(first), inner)


def slices(axis: Axis, /) -> str:
    """The root mean square of the slices along an axis: the mean of neighbours as a line, the largest as an area."""
    top = max(axis.high) or 1.0
    width = len(axis.mean)
    if width <= 24:
        bars = "".join(
            f"M{place + 0.12:.2f} {_HEIGHT:g}V{_y(size / top)}H{place + 0.88:.2f}V{_HEIGHT:g}Z"
            for place, size in enumerate(axis.mean)
        )
        return _svg("axis", width, f'<path class="area" d="{bars}"/>')
    high = "L".join(f"{place + 0.5:g} {_y(size / top)}" for place, size in enumerate(axis.high))
    mean = "L".join(f"{place + 0.5:g} {_y(size / top)}" for place, size in enumerate(axis.mean))
    return _svg(
        "axis",
        width,
        f'<path class="band" d="M0.5 {_HEIGHT:g}L{high}L{width - 0.5:g} {_HEIGHT:g}Z"/><path class="line" d="M{mean}"/>',
    )


def _y(share: float) -> str:
    return f"{_HEIGHT - share * (_HEIGHT - 2):.1f}"


def _svg(cls: str, width: float, inner: str) -> str:
    return (
        f'<svg class="spark {cls}" viewBox="0 0 {width:g} {_HEIGHT:g}" preserveAspectRatio="none" aria-hidden="true">'
        f"{inner}</svg>"
    )
