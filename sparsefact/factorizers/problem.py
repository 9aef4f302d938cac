"""What a solver for products receives: one call of `factorize`, with its input checked and in one type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint
from sparsefact.constraints.double_sparse import DoubleSparse

__all__ = ["FactorizationProblem"]


@dataclass(frozen=True, eq=False)
class FactorizationProblem:
    """A matrix, the constraint of every factor, and the weight of the loss.

    Attributes
    ----------
    matrix : (m, n) array
        Finite; not to be modified.
    constraints : tuple of Constraint, or DoubleSparse
        One per factor, left to right.
    shapes : tuple of (int, int)
        Of the factors.
    gram : (n, n) array, optional
        Hermitian positive semi-definite weight of the loss, of the type of `matrix`.
    backend : Backend
    start : tuple of arrays, optional
        Factors to start from.
    seed : int
    """

    matrix: NDArray[Any]
    constraints: tuple[Constraint, ...] | DoubleSparse
    shapes: tuple[tuple[int, int], ...]
    gram: NDArray[Any] | None
    backend: Backend
    start: tuple[NDArray[Any], ...] | None = None
    seed: int = 0
