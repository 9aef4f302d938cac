"""Where deep weight factorization starts: given weights, or random factors whose product is of ordinary size."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Shape
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["factored_entries", "first_weights", "truncated_factors"]


def truncated_factors(
    rng: np.random.Generator, shape: Shape, std: float, depth: int, smallest: float = 3e-3
) -> NDArray[np.float64]:
    """Return random entries of one factor, neither so small that the product dies nor so large that it explodes.

    Normal numbers of standard deviation ``s = std^(1/depth)``, given that their magnitude lies between
    ``smallest^(1/depth)`` and ``min(1, (2 std)^(1/depth))``.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (int, int)
    std : float
        Of the product before the truncation, which makes it smaller.
    depth : int
    smallest : float
        The smallest magnitude of a balanced product.
    """
    scale = std ** (1 / depth)
    low = smallest ** (1 / depth) / scale
    high = min(1.0, (2 * std) ** (1 / depth)) / scale
    if not low < high:
        low = 0.0
    between = rng.uniform(scipy.special.ndtr(low), scipy.special.ndtr(high), shape)
    signs = rng.integers(0, 2, shape) * 2 - 1
    magnitudes: NDArray[np.float64] = signs * scale * scipy.special.ndtri(between)
    return magnitudes


def first_weights(objective: Any, backend: Backend, seed: int) -> NDArray[Any]:
    """Return weights to start from: a quadratic's dense minimiser, with a trace of ridge, or the objective's own."""
    xp = backend.xp
    if not isinstance(objective, Quadratic):
        start: NDArray[Any] | None = objective.initial(seed) if hasattr(objective, "initial") else None
        zeros: NDArray[Any] = xp.zeros(objective.shape, dtype=objective.dtype)
        return zeros if start is None else start
    solved: NDArray[Any] = _damped_inverse(objective.gram, backend) @ objective.cross
    if objective.right_gram is not None:
        solved = solved @ _damped_inverse(objective.right_gram, backend)
    return solved


def _damped_inverse(gram: NDArray[Any], backend: Backend) -> NDArray[Any]:
    diagonal = gram.diagonal().real
    eps = float(np.finfo(gram.dtype).eps)
    damping = eps**0.5 * (diagonal.mean() + (diagonal.mean() <= 0))
    damped = gram + damping * backend.xp.eye(gram.shape[0], dtype=gram.dtype)
    inverse: NDArray[Any] = backend.spd_inverse(damped, overwrite=True)
    return inverse


def factored_entries(objective: Any, backend: Backend) -> NDArray[np.bool_] | None:
    """Return which entries are factorized, None for all: of several matrices those with more than one row."""
    shapes = getattr(objective, "shapes", None)
    if shapes is None:
        return None
    flags = [np.full(m * n, m > 1) for m, n in shapes.values()]
    found: NDArray[np.bool_] = backend.asarray(np.concatenate(flags)[None])
    return found
