"""The formulas of the wrappers weight_norm and spectral_norm: how the array of a role is computed from other arrays.

A layer under weight_norm has, instead of a role such as `kernel`, the roles `kernel_direction` and `kernel_magnitude`; one
under spectral_norm has `kernel_original`, which is not yet normalised, and `kernel_u` (and `kernel_v`, `kernel_sigma`).
`unwrapped` computes the role from them. Which axes are kept is said by the axes of the magnitude and of `u`, never by a
position. Imports NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas.named import Named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry_conformance.formulas.given import Given

#: What the roles of a wrapped role end in.
DIRECTION: Final = "_direction"
MAGNITUDE: Final = "_magnitude"
ORIGINAL: Final = "_original"
LEFT: Final = "_u"
RIGHT: Final = "_v"
SIGMA: Final = "_sigma"

#: Config of the wrappers, beside that of the layer kind: what state depends on, and what only the function does.
STATE: Final = frozenset({"weight_norm_dim", "spectral_norm"})
FUNCTION: Final = frozenset({"weight_norm_eps", "spectral_norm_eps", "power_iterations"})


def weight_norm(direction: Named, magnitude: Named, eps: float = 0.0) -> Named:
    """`w[a, b] = magnitude[a] * direction[a, b] / sqrt(sum_b direction[a, b]^2 + eps)` (Salimans and Kingma 2016).

    `a` runs over the axes of the magnitude, `b` over all others of the direction. A magnitude without axes is one number and
    the norm is that of the whole array.

    Returns:
        An array with the axes and sizes of the direction.

    Raises:
        AxesError: the magnitude has an axis that the direction does not have, or another size.
    """
    kept, rest = _parted(direction, magnitude, "magnitude")
    v, g = direction.to(*kept, *rest), magnitude.to(*kept)
    if v.shape[: g.ndim] != g.shape:
        message = (
            f"weight_norm: a magnitude of shape {g.shape} for a direction of shape {v.shape} over {kept} and {rest}"
        )
        raise AxesError(message, expected=v.shape[: g.ndim], found=g.shape)
    norm = np.sqrt(np.sum(v * v, axis=tuple(range(g.ndim, v.ndim))) + eps)
    return Named((g / norm).reshape(*g.shape, *(1,) * len(rest)) * v, (*kept, *rest))


def spectral_norm(original: Named, u: Named, v: Named | None = None, *, iterations: int = 0, eps: float = 0.0) -> Named:
    """`w = original / sigma`, `sigma = sum_ab u[a] * original[a, b] * v[b]` (Miyato et al. 2018).

    `a` runs over the axes of `u`, `b` over all others. Before that, `iterations` times: `v[b] = sum_a u[a] original[a, b]` and
    then `u[a] = sum_b original[a, b] v[b]`, each divided by `sqrt(its sum of squares + eps)`. Where `v` is given, the
    iteration begins with `u`, because then `v` is the newer of the two.

    Returns:
        An array with the axes and sizes of the original.

    Raises:
        AxesError: the axes of `u` and `v` do not make up those of the original, or sizes differ.
        UnsupportedError: no `v` and no iteration that would make one.
    """
    kept, rest = _parted(original, u, "u")
    shape = original.to(*kept, *rest).shape
    rows = int(np.prod(shape[: len(kept)]))
    matrix = original.to(*kept, *rest).reshape(rows, -1)
    left = _vector(u, kept, shape[: len(kept)])
    right = None if v is None else _vector(v, rest, shape[len(kept) :])
    if right is None and iterations < 1:
        raise UnsupportedError("spectral_norm: no v is stored and no iteration makes one: sigma is unknown")
    for _ in range(iterations):
        if v is None:
            right = _unit(left @ matrix, eps)
            left = _unit(matrix @ right, eps)
        else:
            left = _unit(matrix @ right, eps)
            right = _unit(left @ matrix, eps)
    return Named((matrix / (left @ matrix @ right)).reshape(shape), (*kept, *rest))


def unwrapped(given: Given, roles: Mapping[str, Named]) -> dict[str, Named]:
    """The roles of a layer with every wrapped role computed; roles that are not wrapped stay.

    Args:
        given: only its config is read: `weight_norm_eps`, `spectral_norm_eps` (both 0 where nothing is said) and
            `power_iterations`, the number of iterations in evaluation (0 where nothing is said); `weight_norm_dim` (the
            names of the axes that are kept) and `spectral_norm` (true) must not contradict the roles.
        roles: what the layer has.

    Raises:
        AxesError: axes or sizes disagree.
        UnsupportedError: a part is missing, or a role is there beside what it is computed from.
    """
    done = dict(roles)
    for name in roles:
        if name.endswith(DIRECTION):
            role = name.removesuffix(DIRECTION)
            done[role] = _directed(given, role, done)
        elif name.endswith(ORIGINAL):
            role = name.removesuffix(ORIGINAL)
            done[role] = _divided(given, role, done)
    return done


def _directed(given: Given, role: str, roles: dict[str, Named]) -> Named:
    """The role, computed by weight_norm; its parts are taken out of `roles`."""
    direction, magnitude = role + DIRECTION, role + MAGNITUDE
    if role in roles or magnitude not in roles:
        message = f"{given.kind}: {direction} " + (f"beside {role}" if role in roles else f"without {magnitude}")
        raise UnsupportedError(message, keys=(direction,), expected=magnitude, found=sorted(roles))
    kept = roles[magnitude].axes
    said = given.text("weight_norm_dim", " ".join(kept))
    given.same("config weight_norm_dim", sorted(said.split()), sorted(kept))
    return weight_norm(roles.pop(direction), roles.pop(magnitude), given.real("weight_norm_eps", 0.0))


def _divided(given: Given, role: str, roles: dict[str, Named]) -> Named:
    """The role, computed by spectral_norm; the vectors are taken out of `roles`."""
    original, left = role + ORIGINAL, role + LEFT
    if role in roles or left not in roles:
        message = f"{given.kind}: {original} " + (f"beside {role}" if role in roles else f"without {left}")
        raise UnsupportedError(message, keys=(original,), expected=left, found=sorted(roles))
    given.agrees("spectral_norm", found=True)
    u, v = roles.pop(left), roles.pop(role + RIGHT, None)
    roles.pop(role + SIGMA, None)  # what u and v gave when it was stored: the definition computes it
    iterations, eps = given.whole("power_iterations", 0), given.real("spectral_norm_eps", 0.0)
    return spectral_norm(roles.pop(original), u, v, iterations=iterations, eps=eps)


def _parted(whole: Named, part: Named, what: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes of a part, and the others of the whole, both in the order of the whole."""
    if not set(part.axes) <= set(whole.axes):
        message = f"the {what} has the axes {' '.join(part.axes)!r}, the array {' '.join(whole.axes)!r}"
        raise AxesError(message, expected=whole.axes, found=part.axes)
    return (
        tuple(axis for axis in whole.axes if axis in part.axes),
        tuple(axis for axis in whole.axes if axis not in part.axes),
    )


def _vector(part: Named, axes: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A part as one vector over several axes, the last varying fastest."""
    values = part.to(*axes)
    if values.shape != shape:
        message = f"spectral_norm: a vector over {' '.join(axes)} of shape {values.shape}, expected {shape}"
        raise AxesError(message, expected=shape, found=values.shape)
    return values.reshape(-1)


def _unit(vector: np.ndarray, eps: float) -> np.ndarray:
    unit: np.ndarray = vector / np.sqrt(np.sum(vector * vector) + eps)
    return unit
