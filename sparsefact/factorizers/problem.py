"""What a solver for products receives: one call of `factorize`, with its input checked and in one type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sparsefact.analysis.tractability import Tractability
from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint
from sparsefact.constraints.double_sparse import DoubleSparse
from sparsefact.constraints.sparse_plus_low_rank import SparsePlusLowRank
from sparsefact.errors import ArgumentError

__all__ = ["FactorizationProblem", "diagonal_of"]


@dataclass(frozen=True, eq=False)
class FactorizationProblem:
    """A matrix, the constraint of every factor, and the weight of the loss.

    Attributes
    ----------
    matrix : (m, n) array, or Source
        Finite; not to be modified. A Source for a solver that says it reads a matrix in parts, and then not checked.
    constraints : tuple of Constraint, DoubleSparse or SparsePlusLowRank
        One per factor, left to right; or one for all of them.
    shapes : tuple of (int, int)
        Of the factors.
    gram : (n, n) array, optional
        Hermitian positive semi-definite weight of the loss, of the type of `matrix`.
    backend : Backend
    start : tuple of arrays, optional
        Factors to start from.
    seed : int
    left_gram : (m, m) array, optional
        The same as `gram` for the rows: the loss is tr(left_gram (A - P) gram (A - P)^H).
    answer : Tractability, optional
        Of two fixed supports, where it was needed to choose the solver.
    """

    matrix: Any
    constraints: tuple[Constraint, ...] | DoubleSparse | SparsePlusLowRank
    shapes: tuple[tuple[int, int], ...]
    gram: NDArray[Any] | None
    backend: Backend
    start: tuple[NDArray[Any], ...] | None = None
    seed: int = 0
    left_gram: NDArray[Any] | None = None
    answer: Tractability | None = None


def diagonal_of(gram: NDArray[Any] | None, solver: str, other: str) -> NDArray[Any] | None:
    """Return the diagonal of a diagonal gram, for a solver that takes no other.

    Raises
    ------
    ArgumentError
        If the gram has entries off its diagonal; the sentence names the other solver.
    """
    if gram is None:
        return None
    diagonal = gram.diagonal().real
    # without a copy of the matrix: what is not zero must all lie on the diagonal
    if int((gram != 0).sum()) != int((diagonal != 0).sum()):
        raise ArgumentError(
            f"gram of shape {gram.shape} has entries off its diagonal, which couple the blocks that {solver} "
            f"solves one by one; pass solver={other}, or gram=np.diag(np.diag(gram))"
        )
    return diagonal.copy()
