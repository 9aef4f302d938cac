"""Alternating compressed and decompressed training: dense and sparse phases by turns, blocks chosen by magnitude.

At the beginning of a sparse phase the blocks of largest Frobenius norm stay; in a dense phase the others come back as
they were. Without cycles it is magnitude pruning of a trained model, with training after it.

Reference: A. Peste, E. Iofinova, A. Vladu, D. Alistarh, "AC/DC: alternating compressed/decompressed training of deep
neural networks", NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.minimizers.block_grid import BlockGrid, per_block, sums_per_block
from sparsefact.minimizers.phased_training import PhasedTraining

__all__ = ["ACDC"]

Array = NDArray[Any]


@dataclass(frozen=True)
class ACDC(PhasedTraining):
    """Dense and sparse training by turns, with the blocks of largest norm; ``ACDC(cycles=0)`` is magnitude pruning.

    For the objectives and constraints of `SequentialAttention`, whose parameters it shares.

    Parameters
    ----------
    iterations, learning_rate, batch, weight_decay, dense, sparse, cycles, reset, refit, half_iterations, report_every
        As in `PhasedTraining`.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 16))
    >>> f = sf.LogisticRegression(X, (X[:, 4] + X[:, 5] > 0).astype(int), intercept=False)
    >>> W = sf.minimize(f, sf.BlockTopK((2, 2), count=1), sf.ACDC(iterations=300, dense=0.4)).value
    >>> np.flatnonzero(W.any(axis=1)).tolist()
    [4, 5]
    """

    def reparametrisation(self, grid: BlockGrid) -> Plain:
        """Return weights as they are."""
        return Plain(grid)


class Plain:
    """Weights that are trained as they are, and judged by the norm of their block."""

    def __init__(self, grid: BlockGrid) -> None:
        self.grid = grid

    def begin(self, values: Array, backend: Backend, *, informed: bool) -> tuple[Array, None]:
        """Return the values."""
        return values, None

    def forward(self, theta: Array, extra: Array | None, mask: Array) -> tuple[Array, Any]:
        """Return the weights on the mask."""
        return theta * per_block(mask, theta), None

    def backward(self, theta: Array, kept: Any, mask: Array, gradient: Array) -> tuple[Array, None]:
        """Return the gradient on the mask."""
        return gradient * per_block(mask, theta), None

    def scores(self, theta: Array, extra: Array | None) -> Array:
        """Return the squared norms of the blocks."""
        return sums_per_block(abs(theta) ** 2, self.grid.grid[1])
