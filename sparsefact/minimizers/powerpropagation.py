"""Powerpropagation of blocks: large blocks learn faster than small ones, so training itself separates them.

    W_b = ||theta_b||^(alpha - 1) theta_b        for every block b; theta |theta|^(alpha - 1) for single entries

With g_b the gradient of W_b that of theta_b is

    ||theta_b||^(alpha - 1) g_b + (alpha - 1) ||theta_b||^(alpha - 3) <theta_b, g_b> theta_b

A decay of ||theta||^2 regularises by sum ||W_b||^(2 / alpha): for alpha = 2 the group lasso.

References: J. Schwarz, S. Jayakumar, R. Pascanu, P. Latham, Y. W. Teh, "Powerpropagation: a sparsity inducing weight
reparameterisation", NeurIPS 2021 (entries); "SequentialAttention++ for block
sparsification", arXiv 2402.17902 (blocks, Lemma 2.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.block_grid import BlockGrid, per_block, sums_per_block
from sparsefact.minimizers.phased_training import PhasedTraining

__all__ = ["Powerpropagation"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Powerpropagation(PhasedTraining):
    """Training in which large blocks learn faster, then the largest blocks alone.

    For the objectives and constraints of `SequentialAttention`, whose parameters it shares.

    Parameters
    ----------
    iterations, learning_rate, batch, weight_decay, dense, sparse, cycles, reset, refit, half_iterations, report_every
        As in `PhasedTraining`; without cycles unless given.
    alpha : float
        The power, above 1.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 16))
    >>> f = sf.LogisticRegression(X, (X[:, 4] + X[:, 5] > 0).astype(int), intercept=False)
    >>> solver = sf.Powerpropagation(iterations=200)
    >>> W = sf.minimize(f, sf.BlockTopK((2, 2), count=1), solver).value
    >>> np.flatnonzero(W.any(axis=1)).tolist()
    [4, 5]
    """

    cycles: int = 0
    alpha: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.alpha > 1 and math.isfinite(self.alpha)):
            raise ArgumentError(f"alpha={self.alpha!r} is not allowed; pass a number above 1, typically 2")

    def reparametrisation(self, grid: BlockGrid) -> Power:
        """Return the power of the norms of blocks."""
        return Power(grid, self.alpha)


class Power:
    """Weights times a power of the norm of their block."""

    def __init__(self, grid: BlockGrid, alpha: float) -> None:
        self.grid, self.alpha = grid, alpha

    def _norms(self, theta: Array) -> Array:
        # A block of zeros has a norm: it would have neither a direction nor a gradient.
        norms: Array = (sums_per_block(abs(theta) ** 2, self.grid.grid[1]) + np.finfo(theta.dtype).tiny) ** 0.5
        return norms

    def begin(self, values: Array, backend: Backend, *, informed: bool) -> tuple[Array, None]:
        """Return the weights whose power the values are."""
        return values * per_block(self._norms(values) ** (1 / self.alpha - 1), values), None

    def forward(self, theta: Array, extra: Array | None, mask: Array) -> tuple[Array, Any]:
        """Return the powers on the mask, and the norms of the weights."""
        norms = self._norms(theta)
        return theta * per_block(norms ** (self.alpha - 1) * mask, theta), norms

    def backward(self, theta: Array, kept: Any, mask: Array, gradient: Array) -> tuple[Array, None]:
        """Return the gradient of the weights."""
        along = sums_per_block((theta.conj() * gradient).real, self.grid.grid[1]) * mask
        along *= (self.alpha - 1) * kept ** (self.alpha - 3)
        straight = gradient * per_block(kept ** (self.alpha - 1) * mask, theta)
        return straight + theta * per_block(along, theta), None

    def scores(self, theta: Array, extra: Array | None) -> Array:
        """Return the squared norms of the weights: the order of those of the powers."""
        return self._norms(theta) ** 2
