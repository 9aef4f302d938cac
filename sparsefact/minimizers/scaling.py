"""A quadratic in variables in which its Gram matrices have a unit diagonal.

Magnitudes then compare by what they contribute to the objective: to first order, dropping an entry costs half its
square.

Symbols: s scale (p, 1), w right_scale (1, n): the scaled unknown is s B w.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sparsefact.objectives.quadratic import Quadratic

__all__ = ["scale_of", "scaled"]


def scale_of(objective: Quadratic) -> NDArray[Any]:
    """Return the roots of the diagonals, multiplied out to (p, n) or (p, 1); 1 where a diagonal entry is zero."""
    scale = _roots(objective.gram)[:, None]
    return scale if objective.right_gram is None else scale * _roots(objective.right_gram)[None, :]


def scaled(objective: Quadratic) -> Quadratic:
    """Return the quadratic of the scaled unknown."""
    left = _roots(objective.gram)
    gram = objective.gram / left[:, None] / left[None, :]
    cross = objective.cross / left[:, None]
    if objective.right_gram is None:
        return Quadratic(gram, cross, None, objective.constant)
    right = _roots(objective.right_gram)
    cross /= right[None, :]
    return Quadratic(gram, cross, objective.right_gram / right[:, None] / right[None, :], objective.constant)


def _roots(gram: NDArray[Any]) -> NDArray[Any]:
    diagonal = gram.diagonal().real
    roots: NDArray[Any] = (diagonal + (diagonal <= 0)) ** 0.5
    return roots
