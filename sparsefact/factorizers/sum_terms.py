"""The two terms of a sum S + U V, found in turn for one rank; `alternating_sum` says how, and runs them.

Symbols: A matrix (m, n), G gram (n, n), S sparse (m, n), U basis (m, r), V (r, n), R = A - S.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.top_k import TopK
from sparsefact.minimizers.admm import ADMM, ADMMState
from sparsefact.minimizers.exchange import exchange
from sparsefact.minimizers.protocol import MinimizeProblem
from sparsefact.minimizers.refit import refit
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["Alone", "Known", "Projected", "SumLoss", "Terms", "Weighted", "polished", "turned"]

# The penalty of ADMM grows from the first to the second of these, every so many steps.
_PENALTIES = (0.05, 1.5)
_LOOK = 3
# The last steps of a run are without momentum.
_PLAIN = 3
# A round of the polish that gains less than this, relatively, has stalled.
_STALLED = 1e-4


class Terms(NamedTuple):
    """A sum: S, an orthonormal U and V (both None without a term of low rank), and its loss."""

    sparse: NDArray[Any] | None
    basis: NDArray[Any] | None
    rows: NDArray[Any] | None
    loss: float


class SumLoss:
    """tr((A - P) G (A - P)^H), and what both terms need of it."""

    def __init__(self, matrix: NDArray[Any], gram: NDArray[Any] | None, backend: Backend) -> None:
        self.matrix, self.gram, self.backend = matrix, gram, backend
        self.root: NDArray[Any] | None = None
        if gram is not None:
            values, vectors = backend.xp.linalg.eigh(gram)
            self.root = vectors * (values * (values > 0)) ** 0.5
            self.cross = gram @ matrix.conj().T
        self.energy = self.of(matrix)

    def of(self, residual: NDArray[Any]) -> float:
        """Return the loss of a residual."""
        weighted = residual if self.gram is None else residual @ self.gram
        (found,) = self.backend.floats(self.backend.xp.vdot(residual, weighted).real)
        return max(found, 0.0)

    def relative(self, loss: float) -> float:
        """Return the relative error at a loss."""
        return math.sqrt(loss / self.energy) if self.energy > 0 else 0.0

    def leading(self, residual: NDArray[Any], rank: int) -> NDArray[Any]:
        """Return an orthonormal basis (m, rank) of the best columns for a matrix; the first ones are best for less."""
        seen = residual if self.root is None else residual @ self.root
        basis: NDArray[Any] = self.backend.rank_r(seen[None], rank)[0][0]
        return basis

    def low_rank(self, basis: NDArray[Any]) -> Terms:
        """Return the best matrix with these columns, and no sparse term."""
        rows = basis.conj().T @ self.matrix
        return Terms(None, basis, rows, self.of(self.matrix - basis @ rows))

    def quadratic(self, basis: NDArray[Any], rows: NDArray[Any]) -> Quadratic:
        """Return what S minimises, as a function of S^H, where the other term is fixed."""
        assert self.gram is not None
        return Quadratic(self.gram, self.cross - (self.gram @ rows.conj().T) @ basis.conj().T)


class Projected:
    """Both terms without a gram: the largest entries of what the other one leaves, with extrapolation.

    It starts from a matrix of low rank alone, or, without a `basis`, from a sparse matrix and the best one beside it.
    """

    def __init__(self, loss: SumLoss, basis: NDArray[Any] | None, rank: int, nnz: int, steps: int) -> None:
        self.problem, self.nnz, self.steps, self.taken = loss, nnz, steps, 0
        xp, real = loss.backend.xp, loss.matrix.real.dtype
        rest = loss.matrix
        if basis is None:
            rest = rest * ~TopK(nnz=nnz).mask(rest)
            basis = loss.leading(rest, rank)
        self.basis, self.rows = basis, basis.conj().T @ rest
        self.low = self.ahead = self.basis @ self.rows
        # scalars of the backend: nobody waits for them
        self.pace, self.last = xp.ones((), real), xp.full((), np.inf, real)

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.taken >= self.steps

    def advance(self) -> None:
        """Choose the largest entries of A less the extrapolated term, and fit the other term to what is left."""
        loss, xp = self.problem, self.problem.backend.xp
        rest = xp.where(self._mask(self.ahead), self.ahead, loss.matrix)
        self.basis, self.rows = turned(rest, rest @ self.rows.conj().T, xp)
        before, self.low = self.low, self.basis @ self.rows
        self.taken += 1
        missed = rest - self.low
        reached = xp.vdot(missed, missed).real
        pace = xp.where(reached > self.last, 1, self.pace)
        self.pace, self.last = (1 + xp.sqrt(1 + 4 * pace * pace)) / 2, reached
        # The first step of a pace of 1 does not extrapolate, and the last ones of a run do not.
        push = 0 if self.taken >= self.steps - _PLAIN else (pace - 1) / self.pace
        self.ahead = self.low + push * (self.low - before)

    def _mask(self, low: NDArray[Any]) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = TopK(nnz=self.nnz).mask(self.problem.matrix - low)
        return mask

    def loss(self) -> float:
        """Return the loss with the best entries beside the present term of low rank."""
        missed = self.problem.matrix - self.low
        return self.problem.of(missed * ~self._mask(self.low))

    def terms(self) -> Terms:
        """Return both terms."""
        missed, mask = self.problem.matrix - self.low, self._mask(self.low)
        return Terms(missed * mask, self.basis, self.rows, self.problem.of(missed * ~mask))


class Weighted:
    """Both terms under a gram: a step of ADMM for S, a step of subspace iteration for U V."""

    def __init__(self, loss: SumLoss, basis: NDArray[Any], nnz: int, steps: int, inner: ADMM) -> None:
        self.problem, self.constraint, self.steps, self.taken = loss, TopK(nnz=nnz), steps, 0
        self.basis, self.rows = basis, basis.conj().T @ loss.matrix
        backend, objective = loss.backend, loss.quadratic(self.basis, self.rows)
        self.state = ADMMState(objective, inner.ridge, backend, overwrite=False)
        self.state.t = backend.xp.zeros(objective.shape, dtype=objective.dtype)
        self.state.mask = backend.xp.zeros(objective.shape, dtype=bool)
        self.state.rho, last = _PENALTIES
        self.growth = (last / self.state.rho) ** (_LOOK / steps)
        # The first solve has no penalty: it is the whole of what the other term leaves.
        self.state.start(0.0, keep_gram=True)

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.taken >= self.steps

    def advance(self) -> None:
        """Solve the linear system, choose the support, fit the other term, and give ADMM its new target."""
        loss, state, backend = self.problem, self.state, self.problem.backend
        if self.taken:
            state.solve(state.rho * (1 if self.taken % _LOOK else self.growth))
        backend.admm_update(state.primal, state.t, state.mask)
        state.mask = backend.asarray(self.constraint.mask(state.t))
        assert loss.gram is not None
        rest = self.rest()
        self.basis, self.rows = turned(rest, rest @ (loss.gram @ self.rows.conj().T), backend.xp)
        state.cross = loss.quadratic(self.basis, self.rows).cross / state.scale
        self.taken += 1

    def rest(self) -> NDArray[Any]:
        """Return A - S."""
        rest: NDArray[Any] = self.problem.matrix - self.state.value().conj().T
        return rest

    def loss(self) -> float:
        """Return the loss at the present terms."""
        return self.problem.of(self.rest() - self.basis @ self.rows)

    def terms(self) -> Terms:
        """Return both terms."""
        rest = self.rest()
        return Terms(self.state.value().conj().T, self.basis, self.rows, self.problem.of(rest - self.basis @ self.rows))


class Alone:
    """A sparse matrix and nothing beside it, as `factorize` finds it for one `TopK`."""

    def __init__(self, loss: SumLoss, nnz: int, inner: ADMM) -> None:
        self.problem, self.inner, self.taken = loss, inner, 0
        self.constraint = TopK(nnz=min(nnz, loss.matrix.size))
        if loss.gram is None:
            self.steps = 1
            return
        self.steps = inner.iterations
        objective = Quadratic(loss.gram, loss.cross, None, 0.5 * loss.energy)
        self.local = MinimizeProblem(objective, self.constraint, loss.backend)
        self.state = inner.init(self.local)

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the support has settled."""
        return self.taken >= self.steps or (self.problem.gram is not None and self.state.done)

    def advance(self) -> None:
        """Let ADMM do an iteration; without a gram there is nothing to search for."""
        if self.problem.gram is not None:
            self.inner.step(self.local, self.state)
        self.taken += 1

    def loss(self) -> float:
        """Return the loss at the present support."""
        if self.problem.gram is None:
            return self.terms().loss
        return max(2 * float(self.local.objective.value(self.state.value())), 0.0)

    def terms(self) -> Terms:
        """Return the matrix, refitted on its support."""
        matrix = self.problem.matrix
        if self.problem.gram is None:
            found = matrix * self.constraint.mask(matrix)
        else:
            found = self.inner.finish(self.local, self.state).value.conj().T
        return Terms(found, None, None, self.problem.of(matrix - found))


class Known:
    """Terms that need no search."""

    done, taken, steps = True, 0, 0

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def advance(self) -> None:
        """Do nothing."""

    def loss(self) -> float:
        """Return their loss."""
        return self._terms.loss

    def terms(self) -> Terms:
        """Return them."""
        return self._terms


def turned(rest: NDArray[Any], image: NDArray[Any], xp: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return an orthonormal basis of the columns of `image`, and the best rows for it beside `rest`."""
    basis = xp.linalg.qr(image)[0]
    return basis, basis.conj().T @ rest


def polished(terms: Terms, loss: SumLoss, nnz: int, rounds: int, exchanges: int) -> tuple[Terms, int, bool]:
    """Take exact steps of both terms in turn while they gain something.

    Returns
    -------
    terms : Terms
        With a loss that is at most that of the given ones.
    count : int
        How many entries were exchanged.
    settled : bool
        Whether the last round gained next to nothing.
    """
    constraint, backend, count = TopK(nnz=nnz), loss.backend, 0
    for turn in range(rounds):
        assert terms.sparse is not None and terms.basis is not None
        before, rest = terms.loss, loss.matrix - terms.sparse
        basis = loss.leading(rest, terms.basis.shape[1])
        rows = basis.conj().T @ rest
        if loss.gram is None:
            missed = loss.matrix - basis @ rows
            sparse = missed * constraint.mask(missed)
        else:
            objective, start = loss.quadratic(basis, rows), terms.sparse.conj().T
            mask = start != 0
            start = refit(objective, mask, start, backend)
            if turn == 0 and exchanges:
                start, mask, count = exchange(objective, constraint, start, mask, backend, rounds=exchanges)
                start = refit(objective, mask, start, backend) if count else start
            sparse = start.conj().T
            missed = loss.matrix - basis @ rows
        reached = loss.of(missed - sparse)
        if not reached <= before:
            return terms, count, True
        terms = Terms(sparse, basis, rows, reached)
        if reached >= before * (1 - _STALLED):
            return terms, count, True
    return terms, count, False
