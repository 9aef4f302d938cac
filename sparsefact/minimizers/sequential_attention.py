"""SequentialAttention++: which blocks to keep is learnt with the weights, by a softmax over the blocks.

    W = theta * A * mask,     A = count * softmax(logits),     one logit per block

The attention A has mean 1. It multiplies the block, so its gradient is how much the loss wants the block, and blocks
compete for it. Phases are dense, a gradual sparsification by attention, and sparse, in cycles, the last of which only
sparsifies; at the end what attention kept is trained on (`sparsefact.minimizers.phased_training`).

Attention is clipped to [density, 1 / density] with no gradient where it is clipped, so that no block starves. A mask
multiplied into decayed weights acts as a nonconvex regulariser of block norms: `sparsefact.objectives.mask_penalties`.

Gradients: that of W times A times the mask for theta; with h_b = count * mask_b * sum over the block of (gradient *
theta), zero where A is clipped, and p the softmax, p * (h - <p, h>) for the logits.

Reference: "SequentialAttention++ for block sparsification: differentiable pruning meets combinatorial optimization",
arXiv 2402.17902.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.minimizers.block_grid import BlockGrid, per_block, sums_per_block
from sparsefact.minimizers.parameters import check_non_negative
from sparsefact.minimizers.phased_training import PhasedTraining
from sparsefact.minimizers.phases import Kind

__all__ = ["SequentialAttention"]

Array = NDArray[Any]


@dataclass(frozen=True)
class SequentialAttention(PhasedTraining):
    """Blocks chosen by learnt attention, while the weights are trained.

    For objectives that are trained (`Perceptron`, `LogisticRegression`, a user's own) and for a `Quadratic`, with
    `BlockTopK`, or `TopK` as blocks of one entry; for several matrices a dict of them.

    Parameters
    ----------
    iterations, learning_rate, batch, weight_decay, dense, sparse, cycles, reset, refit, half_iterations, report_every
        As in `PhasedTraining`; the decay is of the logits, too.
    sparsification : bool
        Let blocks go gradually in the first third of every cycle, and in all of the last one; False drops them at once
        at the beginning of a sparse phase.
    decay_exponent : float
        How early they go: 0 evenly, larger earlier.
    clip : bool
        Clip the attention.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range; by `minimize`, if a constraint is not one of blocks or entries.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 16))
    >>> f = sf.Perceptron(X, (X[:, 0] * X[:, 1] > 0).astype(int), hidden=(16,))
    >>> solver = sf.SequentialAttention(iterations=300)
    >>> W = sf.minimize(f, {"weight1": sf.BlockTopK((2, 16), count=1)}, solver).value["weight1"]
    >>> np.flatnonzero(W.any(axis=1)).tolist()      # the pair of inputs that decides
    [0, 1]
    """

    sparsification: bool = True
    decay_exponent: float = 4.0
    clip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("decay_exponent", self.decay_exponent)

    @property
    def cycle(self) -> tuple[Kind, ...]:
        """The phases of one cycle."""
        return ("sparsify", "sparse", "dense") if self.sparsification else ("sparse", "dense")

    @property
    def exponent(self) -> float:
        """How fast blocks go in a sparsification phase."""
        return self.decay_exponent

    def reparametrisation(self, grid: BlockGrid) -> Attention:
        """Return the attention over the blocks of one matrix."""
        return Attention(grid, clip=self.clip)


class Attention:
    """Weights times the attention of their block; see the module's docstring."""

    def __init__(self, grid: BlockGrid, *, clip: bool) -> None:
        self.grid, self.count = grid, grid.grid[0] * grid.grid[1]
        density = grid.count / self.count
        self.bounds = (density, 1 / density) if clip else (0.0, float(self.count))

    def begin(self, values: Array, backend: Backend, *, informed: bool) -> tuple[Array, Array]:
        """Return equal logits; or those that give every block the attention of its share of the norms."""
        xp = backend.xp
        if not informed:
            return values, xp.zeros(self.grid.grid, dtype=values.real.dtype)
        norms = sums_per_block(abs(values) ** 2, self.grid.grid[1]) ** 0.5
        low, high = self.bounds
        shares = xp.maximum(norms / (norms.mean() + np.finfo(norms.dtype).tiny), max(low, 1e-3) / 2)
        logits = xp.log(shares)
        logits -= logits.mean()
        attention = (self._softmax(logits) * logits.dtype.type(self.count)).clip(low, high)
        return values / per_block(attention, values), logits

    def _softmax(self, logits: Array) -> Array:
        powers: Array = np.exp(logits - logits.max())
        powers /= powers.sum()
        return powers

    def forward(self, theta: Array, extra: Array | None, mask: Array) -> tuple[Array, Any]:
        """Return weights times attention on the mask; and softmax, attention on the mask, and where it is free."""
        assert extra is not None  # `extra` made them
        softmax = self._softmax(extra)
        attention = softmax * softmax.dtype.type(self.count)
        clipped = attention.clip(*self.bounds)
        free = (attention == clipped) & mask
        clipped *= mask
        return theta * per_block(clipped, theta), (softmax, clipped, free)

    def backward(self, theta: Array, kept: Any, mask: Array, gradient: Array) -> tuple[Array, Array]:
        """Return the gradients of weights and logits."""
        softmax, attention, free = kept
        wanted = sums_per_block((gradient.conj() * theta).real, self.grid.grid[1]) * free
        wanted *= wanted.dtype.type(self.count)
        return gradient * per_block(attention, theta), softmax * (wanted - (softmax * wanted).sum())

    def scores(self, theta: Array, extra: Array | None) -> Array:
        """Return the attention."""
        assert extra is not None  # `extra` made them
        return self._softmax(extra)
