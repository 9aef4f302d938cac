"""The best matrix of low rank under a quadratic, in closed form (reduced-rank regression).

    minimise f(B) = 1/2 tr(B^H G B H) - Re tr(B^H C)   subject to   rank B <= r

With G = S S and H = T T (Hermitian square roots) and X = S B T the objective is 1/2 ||X - S^+ C T^+||^2 and a constant,
and X has the rank of B wherever G and H have no null space. So X is the truncated singular value decomposition of
S^+ C T^+, and B = S^+ X T^+. Directions in a null space of G or H do not change the objective: B is zero there.

References: C. Eckart, G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1 (1936);
A. Izenman, "Reduced-rank regression for the multivariate linear model", J. Multivariate Anal. 5 (1975).

Symbols: G gram (p, p), H right_gram (n, n), C cross (p, n), B the unknown (p, n), r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.low_rank import LowRank
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["ReducedRank", "reduced_rank"]


@dataclass(frozen=True)
class ReducedRank:
    """The minimiser of a quadratic over the matrices of rank at most r, exact, in one step.

    Raises
    ------
    ArgumentError
        By its methods, if the constraint is not `LowRank`, or the objective has no minimum because `cross` leaves the
        range of a Gram matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.constraints.low_rank import LowRank
    >>> from sparsefact.minimizers.reduced_rank import ReducedRank
    >>> f = sf.Quadratic(np.diag([1.0, 4.0]), np.diag([3.0, 8.0]))
    >>> sf.minimize(f, LowRank(1), ReducedRank()).value.round(6) + 0.0
    array([[0., 0.],
           [0., 2.]])
    """

    @property
    def iterations(self) -> int:
        """One."""
        return 1

    @property
    def report_every(self) -> int:
        """One."""
        return 1

    def init(self, problem: MinimizeProblem, warm: Any = None) -> dict[str, NDArray[Any]]:
        """Check the constraint; there is nothing to start from."""
        if not isinstance(problem.constraint, LowRank):
            raise ArgumentError(
                f"ReducedRank takes sparsefact.LowRank(r), but the constraint is {problem.constraint!r}; use "
                "sparsefact.ADMM()"
            )
        return {}

    def step(self, problem: MinimizeProblem, state: dict[str, NDArray[Any]]) -> None:
        """Solve."""
        assert isinstance(problem.constraint, LowRank)
        state["value"] = reduced_rank(problem.objective, problem.constraint.r, problem.backend)

    def report(self, problem: MinimizeProblem, state: dict[str, NDArray[Any]]) -> Report:
        """Measure the objective."""
        return Report(float(problem.objective.value(state["value"])), converged=True)

    def finish(self, problem: MinimizeProblem, state: dict[str, NDArray[Any]]) -> Outcome:
        """Return the matrix."""
        return Outcome(
            state["value"], Status.OPTIMAL, None, "The minimum over all matrices of this rank, in closed form."
        )


def reduced_rank(objective: Quadratic, r: int, backend: Backend) -> NDArray[Any]:
    """Return the minimiser of a quadratic over the matrices of rank at most r.

    Parameters
    ----------
    objective : Quadratic
    r : int
        At least 1.
    backend : Backend

    Returns
    -------
    (p, n) array

    Raises
    ------
    ArgumentError
        If the objective falls without bound, since `cross` leaves the range of a Gram matrix.
    """
    whitened = _inverse_root(objective.gram, backend)
    target = whitened @ objective.cross
    right = None
    if objective.right_gram is not None:
        right = _inverse_root(objective.right_gram, backend)
        target = target @ right
    # what whitening and colouring again loses is what the range of the Gram matrices does not hold
    back = objective.gram @ (whitened @ target)
    if right is not None:
        back = back @ right @ objective.right_gram
    lost, size = backend.floats(np.linalg.norm(back - objective.cross), np.linalg.norm(objective.cross))
    if lost > 16 * float(np.finfo(objective.dtype).eps) ** 0.5 * size:
        raise ArgumentError(
            f"cross leaves the range of its Gram matrices by {lost:.3g} (its norm is {size:.3g}), so the objective "
            "falls without bound; add a ridge, gram + 1e-6 * np.eye(len(gram))"
        )
    u, s, v = backend.rank_r(target[None], min(r, *target.shape))
    left, rest = whitened @ (u[0] * s[0]), v[0]
    value: NDArray[Any] = left @ (rest if right is None else rest @ right)
    return value


def _inverse_root(gram: NDArray[Any], backend: Backend) -> NDArray[Any]:
    """Return the pseudo-inverse of the Hermitian square root of a Gram matrix."""
    values, vectors = backend.xp.linalg.eigh(gram)
    floor = gram.shape[0] * float(np.finfo(values.dtype).eps) * abs(values).max()
    large = values > floor
    roots = backend.xp.where(large, 1 / backend.xp.sqrt(backend.xp.where(large, values, 1)), 0)
    root: NDArray[Any] = (vectors * roots.astype(values.dtype)) @ vectors.conj().T
    return root
