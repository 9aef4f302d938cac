"""The state of an alternating search over two factors: half-steps, the Gram matrices, the split of the budget.

`alternating` says what the search does, and when; this file does it, and `alternating_polish` what ends it.

Symbols: A matrix (m, n), H gram (n, n), G left_gram (m, m), k inner dimension, X_i state of factor i as (k, m), (k, n),
K budget, K_1 left_nnz.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint
from sparsefact.constraints.double_sparse import DoubleSparse
from sparsefact.constraints.sparse_plus_low_rank import SparsePlusLowRank
from sparsefact.factorizers.grams import above, damped, diagonal_roots, unit_diagonal, weighed
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.admm_systems import RightGram
from sparsefact.minimizers.protocol import MinimizeProblem
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["SearchState"]

# A rank-one term this small, relative to the largest, is ended.
_VANISHED = 1e-10
# From where on a side is much longer than the inner dimension.
_WIDE = 2
# With so many more inputs, a half-step sees one in so many eigenvectors of the gram.
_LEADING = 4
# Entries of both factors that the split looks at.
_SAMPLE = 1 << 17


class SearchState:
    """Two factors as (inner, m) and (inner, n), the inner solver's state of each, and the split between them."""

    def __init__(self, problem: FactorizationProblem, damping: float = 0.0) -> None:
        self.problem, self.backend, self.iteration = problem, problem.backend, 0
        (m, k), (_, n) = problem.shapes
        self.sizes = (m * k, k * n)
        # Of the rows and of the columns of A, which are those of the factors.
        self.loss_grams = [damped(gram, damping, self.backend) for gram in (problem.left_gram, problem.gram)]
        self.weights = [None if gram is None else diagonal_roots(gram) for gram in self.loss_grams]
        self.ranks: list[int | None] = [None, None]
        self.deficient = False
        # With many inputs: what stands for the gram in half-steps, and the right factor times it, conjugated.
        self.model: RightGram | None = None
        self.image: NDArray[Any] | None = None
        # Squares of what is larger or smaller than this could leave the range of float32.
        largest = float(abs(problem.matrix).max())
        self.unit = 1.0 if 1e-6 < largest < 1e6 or largest == 0 else 4.0 ** round(math.log(largest, 4))
        self.whole = problem.matrix if self.unit == 1 else problem.matrix / problem.matrix.dtype.type(self.unit)
        # Rows and columns are scaled by the roots of the Gram matrices' diagonals, until the very end.
        self.matrix = self._scaled(self._scaled(self.whole, 1).T, 0).T
        # Without them the search sees the diagonals alone, which are now identities.
        self.gram: NDArray[Any] | None = None
        self.left_gram: NDArray[Any] | None = None
        # What weighs the columns of each factor as (k, m) and (k, n): G^T and H, always the same two arrays.
        self.beside: list[NDArray[Any] | None] = [None, None]
        self.target = self.matrix
        self.norm = self._norm(self.matrix)
        self.order = (0, 1) if m * k <= k * n else (1, 0)
        self.left_nnz = self._first_split()
        self.constraints = self._constraints()
        self.warm: list[Any] = [None, None]
        self.values: list[Any] = self._start()
        self.masks: list[NDArray[np.bool_]] = []

    def _scaled(self, x: NDArray[Any], side: int) -> NDArray[Any]:
        """Return a matrix with the columns of one of the factors, in the variables of the search."""
        weight = self.weights[side]
        return x if weight is None else x * weight

    def _first_split(self) -> int:
        joint = self.problem.constraints
        if not isinstance(joint, DoubleSparse):
            return 0
        if joint.left_nnz is not None:
            return joint.left_nnz
        return self._allowed(round(joint.budget * self.sizes[0] / sum(self.sizes)))

    def _allowed(self, left_nnz: int) -> int:
        """Return the nearest split that leaves each row of a factor an entry, and no factor more than it holds."""
        assert isinstance(self.problem.constraints, DoubleSparse)
        budget = self.problem.constraints.budget
        (m, k), _ = self.problem.shapes
        low, high = max(m, budget - self.sizes[1]), min(budget - k, self.sizes[0])
        return max(low, min(left_nnz, high))

    def _constraints(self) -> tuple[Constraint, Constraint]:
        joint = self.problem.constraints
        assert not isinstance(joint, SparsePlusLowRank)  # which is for another solver
        left, right = joint.split(self.left_nnz) if isinstance(joint, DoubleSparse) else joint
        return left.T, right

    def _start(self) -> list[NDArray[Any]]:
        """Return the factors to start from: the given ones, or the larger one pruned from A.

        The first half-step forgets the smaller factor, so only the larger one is chosen: half its budget of the largest
        entries of A's rows (columns), and where `inner` is larger than there are rows, random mixtures of them.
        """
        problem, xp = self.problem, self.backend.xp
        (_, k), (_, n) = problem.shapes
        if problem.start is not None:
            left, right = problem.start
            right = right / right.dtype.type(self.unit)
            return [xp.ascontiguousarray(self._scaled(left.T, 0)), xp.ascontiguousarray(self._scaled(right, 1))]
        small, large = self.order
        rows = self.matrix if large == 1 else self.matrix.T
        value = _spread(rows, k, problem.seed, self.backend)
        constraint = self.constraints[large]
        sparse = value * self.backend.asarray(constraint.mask(value))
        kept = constraint.count(value.shape)
        if kept > 1 and isinstance(problem.constraints, DoubleSparse):
            # Half of the budget: the dense phase of the search fills in the rest.
            sparse *= self.backend.topk_mask(sparse, max(1, kept // 2), "matrix")
        values: list[Any] = [None, None]
        values[large] = sparse
        values[small] = xp.zeros((k, problem.shapes[0][0] if small == 0 else n), dtype=sparse.dtype)
        values[small][:, : values[small].shape[1]] = xp.eye(k, values[small].shape[1], dtype=sparse.dtype)
        return values

    @property
    def brisk(self) -> bool:
        """Whether the factors should take short turns: where one side is much longer.

        With Gram matrices on both sides a turn costs more than what it solves.
        """
        (m, k), (_, n) = self.problem.shapes
        return max(m, n) >= _WIDE * k and self.gram is None and self.left_gram is None

    @property
    def far(self) -> bool:
        """Whether a Gram matrix weighs a side that is much longer than the inner dimension."""
        (m, k), (_, n) = self.problem.shapes
        sides = ((self.problem.left_gram, m), (self.problem.gram, n))
        return any(gram is not None and length >= _WIDE * k for gram, length in sides)

    def half_step(self, side: int, inner: Any) -> None:
        """Improve one factor with the other one fixed."""
        start = self.values[side] if self.warm[side] is None else None
        problem = MinimizeProblem(
            self._objective(side), self.constraints[side], self.backend, start, self.problem.seed, expendable=True
        )
        if hasattr(self.warm[1 - side], "value"):
            # The half-step has no use for the fixed factor, a whole matrix, and its state can give it again.
            self.values[1 - side] = None
        self.values[side] = None
        state = inner.init(problem, self.warm[side])
        for _ in range(inner.iterations):
            inner.step(problem, state)
        if hasattr(state, "release"):
            state.release()
        else:
            self.values[side] = inner.finish(problem, state).value
        self.warm[side] = state

    def factor(self, side: int) -> NDArray[Any]:
        """Return the present factor as a matrix of `inner` rows."""
        if self.values[side] is None:
            self.values[side] = self.warm[side].value()
        value: NDArray[Any] = self.values[side]
        return value

    def _objective(self, side: int) -> Quadratic:
        fixed = self.factor(1 - side)
        turned, other = fixed.conj(), self.beside[1 - side]
        weighted = turned if other is None else turned @ other.T
        inner, cross = weighted @ fixed.T, turned @ (self.target if side == 1 else self.target.T)
        if self.model is not None and side == 0:
            self.image = None if self.order[0] == 1 else weighted
        elif self.model is not None:
            present = self.factor(1)
            image = present @ self.gram if self.image is None else self.image.conj()
            self.image = None
            cross -= inner @ (image - self.model.product(present))
        return Quadratic(inner, cross, self.beside[side])

    def take_gram(self) -> None:
        """From here on minimise the loss itself, with the Gram matrices in full."""
        if self.target is not self.matrix:
            return
        self.left_gram, self.gram = (
            None if gram is None or weight is None else unit_diagonal(gram, weight)
            for gram, weight in zip(self.loss_grams, self.weights, strict=True)
        )
        if self.left_gram is None and self.gram is None:
            return
        self.beside = [None if self.left_gram is None else self.left_gram.T, self.gram]
        self.target = weighed(self.matrix, self.left_gram, self.gram)
        self.norm = self._norm(self.matrix)
        if self.gram is not None and hasattr(self.warm[1], "right"):
            n = len(self.gram)
            if n >= _WIDE * self.problem.shapes[1][0]:
                self.model = RightGram.leading(self.gram, n // _LEADING, self.problem.seed, self.backend)
                self.warm[1].right = self.model

    def share_scale(self) -> NDArray[np.bool_] | None:
        """Give the two sides of every rank-one term the same norm, and end the terms that have vanished.

        The product does not change; without this the norms of a dying term drift apart until they overflow.
        """
        if not all(hasattr(state, "rescale") for state in self.warm):
            return None
        norms = [np.linalg.norm(self.warm[side].value(), axis=1) for side in (0, 1)]
        size = norms[0] * norms[1]
        alive: NDArray[np.bool_] = size > _VANISHED * size.max()
        for side, (own, other) in enumerate((norms, norms[::-1])):
            factor = np.where(alive, np.sqrt(np.where(alive, other, 1) / np.where(alive, own, 1)), 0)
            self.warm[side].rescale(factor.astype(own.dtype)[:, None])
            self.values[side] = None
        return alive

    def revive(self, alive: NDArray[np.bool_] | None) -> None:
        """Start every vanished rank-one term again, from a row (or column) of the residual: the largest first.

        The terms start as they do at the very beginning, with one entry in the smaller factor.
        """
        if alive is None or alive.all():
            return
        small, large = self.order
        residual = self.factor(0).T @ self.factor(1)
        np.subtract(self.matrix, residual, out=residual)
        residual = residual if large == 1 else residual.T
        norms = np.linalg.norm(residual, axis=1)
        dead = np.flatnonzero(~alive)[: norms.size]
        chosen = np.argsort(-norms, kind="stable")[: dead.size]
        chosen = chosen[norms[chosen] > _VANISHED * self.norm]
        dead = dead[: chosen.size]
        roots = np.sqrt(norms[chosen])
        self.warm[small].restart(dead, chosen, roots)
        self.warm[large].restart(dead, None, residual[chosen] / roots[:, None])
        self.values = [None, None]

    def move_split(self) -> None:
        """Move budget to the factor whose smallest kept entries contribute more."""
        joint = self.problem.constraints
        if not isinstance(joint, DoubleSparse) or joint.left_nnz is not None:
            return
        if not all(hasattr(state, "t") for state in self.warm):
            return
        # One stride for both, so that every sampled entry stands for as many.
        stride = -(-sum(self.sizes) // _SAMPLE)
        left, right = (abs(state.t.reshape(-1)[::stride]) for state in self.warm)
        both = np.concatenate([left, right])
        count = min(both.size, max(1, round(joint.budget / stride)))
        threshold, ties = self.backend.kth_largest_abs(both[None], count)
        ties, above, equal, other = self.backend.floats(
            ties, (left > threshold).sum(), (left == threshold).sum(), (right == threshold).sum()
        )
        # Entries equal to the threshold are shared in proportion.
        chosen = above + ties * equal / max(1, equal + other)
        wanted = chosen / count * joint.budget
        allowed = self._allowed(round(wanted))
        if allowed != self.left_nnz:
            self.left_nnz = allowed
            self.constraints = self._constraints()

    def error(self) -> float:
        """Return the relative error of the present factors in the loss that is being minimised."""
        residual = self.factor(0).T @ self.factor(1)
        np.subtract(self.matrix, residual, out=residual)
        return self._norm(residual) / self.norm if self.norm else self._norm(residual)

    def _norm(self, x: NDArray[Any]) -> float:
        if self.gram is None and self.left_gram is None:
            return float(self.backend.xp.linalg.norm(x))
        squared = float(self.backend.xp.vdot(x, weighed(x, self.left_gram, self.gram)).real)
        return math.sqrt(max(squared, 0.0))

    def leave_search(self) -> None:
        """Go from the search to the polish: keep the supports, and take the gram in full."""
        if self.model is not None and self.gram is not None:
            self.deficient = not above(self.gram, _floor(self.model.values, len(self.gram)))
        self.model, self.image = None, None
        for side, state in enumerate(self.warm):
            right = getattr(state, "right", None)
            if right is not None and right.rest is None:
                self.ranks[side] = int((right.values > _floor(right.values, len(right.values))).sum())
        self.values = [self.factor(side) for side in (0, 1)]
        for side, constraint in enumerate(self.constraints):
            state, value = self.warm[side], self.values[side]
            mask = state.mask if hasattr(state, "mask") else value != 0
            # Ended early, just after the split moved or a term was started again, the mask may leave the pattern.
            scores = state.t * mask if hasattr(state, "t") else value
            self.warm[side] = state = None  # a whole matrix, while the choice takes some
            mask = mask & self.backend.asarray(constraint.mask(scores))
            self.values[side] = value * mask
            self.masks.append(mask)
        self.take_gram()

    def balance(self) -> None:
        """Undo the scales of rows and columns; share that of every rank-one term, and the unit, between the factors.

        Shared scales are powers of two, which change no digit.
        """
        self.values = [
            value if weight is None else value / weight for value, weight in zip(self.values, self.weights, strict=True)
        ]
        left, right = (np.linalg.norm(value, axis=1) for value in self.values)
        both = (left > 0) & (right > 0)
        ratio = np.exp2(np.rint(np.log2(np.where(both, right, 1) / np.where(both, left, 1)) / 2)).astype(left.dtype)
        unit = left.dtype.type(math.sqrt(self.unit))
        self.values[0] *= ratio[:, None] * unit
        self.values[1] *= unit / ratio[:, None]

    def explain(self) -> str:
        """Say what the search did."""
        text = f"Alternated {self.iteration} times between the two factors."
        for gram, rank, name, what in (
            (self.problem.gram, self.ranks[1], "gram", "inputs"),
            (self.problem.left_gram, self.ranks[0], "left_gram", "outputs"),
        ):
            if gram is None:
                continue
            dead = int((gram.diagonal().real == 0).sum())
            if dead:
                text += f" {dead} of {len(gram)} {what} are dead (a zero row of the {name})."
            if rank is not None and rank < len(gram):
                text += f" The {name} has rank {rank} of {len(gram)} to working precision."
        if self.deficient:
            text += " The gram is rank deficient to working precision."
        joint = self.problem.constraints
        if isinstance(joint, DoubleSparse):
            how = "as asked" if joint.left_nnz is not None else "by marginal gain"
            left = int(self.masks[0].sum()) if self.masks else self.left_nnz
            text += (
                f" The budget of {joint.budget} nonzeros was split {how}: {left} to the left factor, "
                f"{joint.budget - left} to the right one."
            )
        return text


def _spread(rows: NDArray[Any], k: int, seed: int, backend: Backend) -> NDArray[Any]:
    """Return k rows from the given ones: the largest of them, or all and random mixtures of them."""
    count = rows.shape[0]
    if k == count:
        return rows
    if k < count:
        norms = (abs(rows) ** 2).sum(axis=1)
        largest = np.sort(np.argsort(-norms, kind="stable")[:k])
        chosen: NDArray[Any] = rows[largest]
        return chosen
    mixing = np.random.default_rng(seed).standard_normal((k - count, count)) / math.sqrt(count)
    mixed = backend.asarray(mixing.astype(rows.real.dtype)) @ rows
    spread: NDArray[Any] = backend.xp.concatenate([rows, mixed])
    return spread


def _floor(values: NDArray[Any], size: int) -> Any:
    """Return what an eigenvalue of a matrix of this size must exceed to be told from zero; the host does not wait."""
    return values.max() * (size * float(np.finfo(values.dtype).eps))
