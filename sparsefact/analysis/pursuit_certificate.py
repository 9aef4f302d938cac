"""What can be computed about a support that matching pursuit found, and what it proves.

Both questions are about the Gram matrix and the support alone, and are answered when asked: they cost a linear solve or
an eigenvalue decomposition.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PursuitCertificate", "exact_recovery_constant"]


@dataclass(frozen=True, eq=False)
class PursuitCertificate:
    """How stationary the result of `sparsefact.MatchingPursuit` is, and what is known of its support.

    Attributes
    ----------
    blocks : (rows, columns) bool array
        The support, on the grid of blocks.
    block : (int, int)
    residual_on_support : float
        The largest norm of a block of the gradient on the support; zero up to rounding.
    largest_outside : float
        The largest norm of a block of the gradient off the support.
    smallest_kept : float
        The smallest norm of a kept block.
    trials : int
        Replacements that were tried, each with exact minimisation; between entries of one column, those that were made.
    swap_stable : bool
        Whether the search ended because none of the pairs it looks at lowers the objective.
    gram : (p, p) array or None
        Of the quadratic, with a unit diagonal where the solver scaled it; None for another objective. From samples it
        is formed when it is first asked for.
    """

    blocks: NDArray[np.bool_]
    block: tuple[int, int]
    residual_on_support: float
    largest_outside: float
    smallest_kept: float
    trials: int
    swap_stable: bool
    matrix: NDArray[Any] | Callable[[], NDArray[Any] | None] | None = field(repr=False)

    @cached_property
    def gram(self) -> NDArray[Any] | None:
        """The Gram matrix that decided which blocks were chosen, where there is one."""
        return self.matrix() if callable(self.matrix) else self.matrix

    def exact_recovery(self) -> float | None:
        """Return Tropp's constant of the support: below 1, additions alone would find it in data without noise.

        None where it does not apply (an objective that is not a quadratic with one Gram matrix).
        """
        if self.gram is None:
            return None
        return exact_recovery_constant(self.gram, self.blocks, self.block)

    def comparable_blocks(self) -> int | None:
        """Return a k* such that enough replacements provably reach the loss of the best k* blocks.

        The largest k* with ``kept >= k* (L^2 / mu^2 + 1)``, where mu is the smallest eigenvalue of the Gram matrix and
        L bounds the largest of any two blocks: bounds of the theorem's restricted constants. Often 0: nothing.
        The theorem is about replacements without a stopping rule, so it speaks for a support that ended `swap_stable`
        only as far as the best pair is one of those that were tried.
        """
        if self.gram is None:
            return None
        lowest = float(np.linalg.eigvalsh(self.gram)[0])
        if lowest <= 0:
            return 0
        rows = self.block[0]
        tops = sorted(
            float(np.linalg.eigvalsh(self.gram[start : start + rows, start : start + rows])[-1])
            for start in range(0, self.gram.shape[0], rows)
        )
        return math.floor(int(self.blocks.sum()) / ((sum(tops[-2:]) / lowest) ** 2 + 1))


def exact_recovery_constant(gram: NDArray[Any], blocks: NDArray[np.bool_], block: tuple[int, int]) -> float:
    """Return ``max over blocks j outside of the sum over blocks i inside of ||(X_S^+ X_j)_i||_2``.

    Parameters
    ----------
    gram : (p, p) array
        ``X^H X``.
    blocks : (p / r, columns) bool array
        The support S, on the grid of blocks. Columns of blocks do not interact: the constant is the largest of theirs.
    block : (int, int)
        Rows r and columns of a block.

    Returns
    -------
    float
        Below 1: for ``Y = X W`` with W on S, greedy addition of the block of largest gradient finds S. Infinite where
        the columns of X on S depend on each other.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.analysis.pursuit_certificate import exact_recovery_constant
    >>> gram = np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.6], [0.6, 0.6, 1.0]])
    >>> exact_recovery_constant(gram, np.array([[True], [True], [False]]), (1, 1))
    1.2
    """
    rows, worst = block[0], 0.0
    # columns of blocks with the same support have the same constant
    for support in np.unique(blocks.T, axis=0):
        inside = np.repeat(support, rows)
        if not inside.any() or inside.all():
            continue
        kept = gram[np.ix_(inside, inside)]
        if np.linalg.cond(kept) * np.finfo(gram.dtype).eps >= 1:
            return math.inf
        solved = np.linalg.solve(kept, gram[np.ix_(inside, ~inside)])
        count, others = int(support.sum()), int((~support).sum())
        pieces = solved.reshape(count, rows, others, rows).transpose(0, 2, 1, 3)
        worst = max(worst, float(np.linalg.norm(pieces, 2, axis=(2, 3)).sum(axis=0).max()))
    return worst
