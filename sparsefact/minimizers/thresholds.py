"""The scalar problem behind deep weight factorization, in closed form.

    minimise 1/2 (w - a)^2 + v |w|^p over w,     p = 2 / depth

For p = 1 soft thresholding. For p < 1 zero is the global minimiser up to

    tau = (2 - p) / (2 (1 - p)) * jump,     jump = (2 v (1 - p))^(1 / (2 - p)),

where the minimiser jumps to `jump`; beyond it is the larger root of w + v p w^(p - 1) = |a|. A local minimiser that is
not zero exists as soon as |a| reaches

    stationary = (2 - p) / (1 - p) * (v p (1 - p))^(1 / (2 - p)),

and zero is a local minimiser always. From w = |a| the iteration w <- |a| - v p w^(p - 1) falls to the larger root; for
|a| >= tau each step shrinks the distance by p / 2 or more.

Symbols: a data, v weight of the penalty, p exponent.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["global_threshold", "jump", "local_threshold", "shrink"]

_STEPS = 60


def jump(weight: float, depth: int) -> float:
    """Return the smallest nonzero magnitude of a global minimiser; 0 for depth 2."""
    p = 2.0 / depth
    return float((2 * weight * (1 - p)) ** (1 / (2 - p)))


def global_threshold(weight: float, depth: int) -> float:
    """Return tau: the global minimiser is zero up to it."""
    p = 2.0 / depth
    if p == 1:
        return float(weight)
    return float((2 - p) / (2 * (1 - p)) * jump(weight, depth))


def local_threshold(weight: float, depth: int) -> float:
    """Return the magnitude from which a local minimiser that is not zero exists; `weight` itself for depth 2."""
    p = 2.0 / depth
    if p == 1:
        return float(weight)
    return float((2 - p) / (1 - p) * (weight * p * (1 - p)) ** (1 / (2 - p)))


def shrink(magnitudes: NDArray[Any], weight: float, depth: int, xp: Any) -> NDArray[Any]:
    """Return the global minimisers for data of these magnitudes, elementwise; 0 where two are equal.

    Parameters
    ----------
    magnitudes : real array
        At least 0.
    weight : float
        Of the penalty, positive.
    depth : int
        At least 2.
    xp : module
        numpy or cupy.
    """
    kind = magnitudes.dtype.type
    if depth == 2:
        soft: NDArray[Any] = xp.maximum(magnitudes - kind(weight), 0)
        return soft
    p = 2.0 / depth
    kept = magnitudes > kind(global_threshold(weight, depth))
    w = xp.where(kept, magnitudes, 1)
    for _ in range(_STEPS):
        w = xp.where(kept, magnitudes - kind(weight * p) * w ** kind(p - 1), 1)
    result: NDArray[Any] = xp.where(kept, w, 0)
    return result
