"""The best few of many candidates, without sorting them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["largest_first"]


def largest_first(scores: NDArray[np.float64], count: int) -> list[int]:
    """Return the flat indices of the largest scores, from large to small, without those that are -inf."""
    flat = scores.reshape(-1)
    if count < flat.size:
        threshold = np.partition(flat, flat.size - count)[flat.size - count]
        where = np.flatnonzero(flat >= threshold)
    else:
        where = np.arange(flat.size)
    order = where[np.argsort(-flat[where], kind="stable")][:count]
    return [int(index) for index in order if flat[index] > -np.inf]
