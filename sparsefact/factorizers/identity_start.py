"""The product that needs no search: one factor is the matrix, projected on its constraint, the others identities.

Its error is that of the one constraint alone, so it bounds what a product with more factors must reach.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint, Shape
from sparsefact.constraints.low_rank import LowRank
from sparsefact.factorizers.grams import weighed

__all__ = ["identity_start", "lengths_of", "product_of"]

Factors = list[NDArray[Any]]


def identity_start(
    matrix: NDArray[Any],
    constraints: tuple[Constraint, ...],
    shapes: tuple[Shape, ...],
    backend: Backend,
    gram: NDArray[Any] | None = None,
    left_gram: NDArray[Any] | None = None,
) -> tuple[Factors, int] | None:
    """Return the best product of one projected matrix and identities, and the place of the matrix in it.

    Parameters
    ----------
    matrix : (m, n) array
    constraints : tuple of Constraint
    shapes : tuple of (int, int)
        Of the factors.
    backend : Backend
    gram, left_gram : (n, n) and (m, m) arrays, optional
        The weights of the loss; their diagonals weight the projection.

    Returns
    -------
    (list of arrays, int) or None
        None where no constraint but one allows an identity (of the shorter side, zeros beside it), or where the
        dimensions between the factors cut the matrix.
    """
    fits = [bool(each.contains(np.eye(*shape))) for each, shape in zip(constraints, shapes, strict=True)]
    best: tuple[Factors, int] | None = None
    lowest = np.inf
    for place, (constraint, shape) in enumerate(zip(constraints, shapes, strict=True)):
        if not all(fits[:place]) or not all(fits[place + 1 :]):
            continue
        lengths = lengths_of(shapes)
        rows, cols = min(lengths[: place + 1]), min(lengths[place + 1 :])
        if (rows, cols) != matrix.shape:
            continue
        whole = backend.xp.zeros(shape, dtype=matrix.dtype)
        whole[:rows, :cols] = matrix
        scores = None
        if (gram is not None or left_gram is not None) and not isinstance(constraint, LowRank):
            scores = abs(whole)
            if gram is not None:
                scores[:, :cols] *= abs(gram.diagonal().real) ** 0.5
            if left_gram is not None:
                scores[:rows] *= abs(left_gram.diagonal().real[:, None]) ** 0.5
        projected = constraint.project(whole) if scores is None else constraint.project(whole, scores)
        missed = matrix - projected[:rows, :cols]
        squared = float(np.vdot(missed, weighed(missed, left_gram, gram)).real)
        if squared < lowest:
            factors = [backend.xp.eye(*each, dtype=matrix.dtype) for each in shapes]
            factors[place] = projected
            best, lowest = (factors, place), squared
    return best


def lengths_of(shapes: tuple[Shape, ...]) -> tuple[int, ...]:
    """Return the dimensions that factors of these shapes run through, from the rows to the columns of the product."""
    assert all(left[1] == right[0] for left, right in pairwise(shapes))
    return (*(shape[0] for shape in shapes), shapes[-1][1])


def product_of(factors: Factors) -> NDArray[Any] | None:
    """Return the product of factors, left to right, in the order that costs least for two dense ends; None for none."""
    product: NDArray[Any] | None = None
    for factor in factors:
        product = factor if product is None else product @ factor
    return product
