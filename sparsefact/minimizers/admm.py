"""ADMM for a quadratic over matrices with few nonzeros.

    minimise f(B) = 1/2 tr(B^H G B H) - Re tr(B^H C)   subject to   Z = B,  Z in E

In scaled variables with T = B + U the method is

    B <- argmin f(B) + rho/2 ||B - (Z - U)||^2         one linear solve; the matrix of the system is inverted once
    Z <- T on the support, zero elsewhere              the support is what E's projection keeps of |T|
    U <- T off the support, zero on it

so T and the mask of the support are the whole state. The variables are scaled so that G (and H) have a unit diagonal:
magnitudes then compare by what they contribute to f, and `rho` and `ridge` mean the same for every input.

Alone, the penalty grows with the change of the support: fast while much of it moves, slowly near the end.

References: X. Meng, K. Behdin, H. Wang, R. Mazumder, "ALPS", NeurIPS 2024 (the rule by which the penalty grows);
V. Boza, "Fast and effective weight update for pruned large language models", TMLR 2024 (ADMM for a
layer-wise quadratic, support chosen from |B + U|); V. Boza, V. Macko, "Two sparse matrices are better than one", ICLR
2025 (as the half-step of an alternating method, with a penalty of its own for the first solve).

Symbols: G gram (p, p), H right_gram (n, n), C cross (p, n), T t (p, n), s scale (p, 1), w right_scale (1, n).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.exchange import exchange
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.refit import quadratic_of, refit
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["ADMM"]

# The sparse ridge falls by this power of e over a run, and grows no more below this density.
_FALL = -5.0
_SPARSEST = 0.05
# Alone: every so many iterations the penalty grows by a factor for the share of the support that has changed; from
# some iteration on, a change of less than this share is none.
_LOOK = 3
_GROWTHS = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
_SETTLED = 3e-4
_EARLIEST = 30


@dataclass(frozen=True)
class ADMM:
    """Alternating direction method of multipliers, ending with an exact least-squares fit on the support it found.

    Parameters
    ----------
    iterations : int
        Linear solves at most.
    selections : int
        In the first this many iterations the support is chosen anew; after that it is kept.
    rho : float
        The largest penalty, relative to the unit diagonal of the scaled Gram matrix. Small explores, large settles.
    rho_start : float
        The penalty in the first iteration. Where it is smaller than `rho`, the penalty grows with the change of the
        support, every three iterations, and the solver is done when the support has settled; where it is `rho`, the
        penalty is constant. Inside an alternating method it grows over the run of that method.
    first_rho : float, optional
        The penalty of the first linear solve alone: 0 forgets where a warm start stood, `rho` (the default) continues.
    half_iterations, half_selections, half_rho_start, half_rho : int, int, float, float
        `iterations`, `selections`, `rho_start` and `rho` as the inner solver of `Alternating`, in each half-step; there
        the penalty grows over the whole run, `first_rho` grows from 0 to 1, and the refit is left to the end.
    ridge, sparse_ridge : float
        Added to the unit diagonal; the second one over the squared density of the constraint.
    half_ridge, half_sparse_ridge : float
        The same in half-steps, where the second one falls to nothing over the run.
    refit : bool
        End with the exact minimiser on the support; or on the first support that was chosen (that of the thresholded
        unconstrained solution, without an `init`), where that is lower.
    exchanges : int
        After the refit, how often entries are exchanged for better ones, while that lowers the objective.
    report_every : int
        Iterations between two reports of the objective.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> F, truth = rng.standard_normal((60, 20)), sf.TopK(nnz=12).project(rng.standard_normal((20, 5)))
    >>> f = sf.Quadratic(F.T @ F, F.T @ (F @ truth))
    >>> bool(np.allclose(sf.minimize(f, sf.TopK(nnz=12), sf.ADMM()).value, truth))
    True
    """

    iterations: int = 300
    selections: int = 300
    rho: float = 3.0
    rho_start: float = 0.1
    first_rho: float | None = None
    half_iterations: int = 5
    half_selections: int = 2
    half_rho_start: float = 0.3
    half_rho: float = 0.45
    ridge: float = 1e-3
    sparse_ridge: float = 0.0
    half_ridge: float = 2e-3
    half_sparse_ridge: float = 4.5e-3
    refit: bool = True
    exchanges: int = 2
    report_every: int = 30

    def __post_init__(self) -> None:
        for name in ("iterations", "selections", "half_iterations", "half_selections", "report_every"):
            check_count(name, getattr(self, name))
        check_count("exchanges", self.exchanges, 0)
        for name in ("rho", "rho_start", "half_rho_start", "half_rho"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ArgumentError(
                    f"{name}={value!r} is not allowed; pass a positive number, typically between 0.1 and 3"
                )
        for name in ("first_rho", "ridge", "sparse_ridge", "half_ridge", "half_sparse_ridge"):
            value = getattr(self, name)
            if value is not None:
                check_non_negative(name, value)

    def at(self, fraction: float) -> ADMM:
        """Return the configuration for a half-step at this fraction (0 to 1) of an alternating run.

        The penalty has grown to its value there, and the ridge has fallen: a large one keeps the factors from moving
        too far while neither is right, a small one does not bias them. The first solve forgets the previous point
        early on, when the other factor still changes much, and continues from it at the end.
        """
        rho = self.half_rho_start * (self.half_rho / self.half_rho_start) ** fraction
        return dataclasses.replace(
            self,
            iterations=self.half_iterations,
            selections=self.half_selections,
            rho=rho,
            rho_start=rho,
            first_rho=min(1.0, fraction / 0.95) ** 5,
            ridge=self.half_ridge,
            sparse_ridge=self.half_sparse_ridge * math.exp(_FALL * fraction),
            refit=False,
        )

    def init(self, problem: MinimizeProblem, warm: ADMMState | None = None) -> ADMMState:
        """Scale the problem, and take the first point."""
        objective, backend = quadratic_of(problem, "ADMM"), problem.backend
        known = None if warm is None else warm.right
        ridge = self.ridge
        if self.sparse_ridge:
            density = problem.constraint.count(objective.shape) / max(1, objective.cross.size)
            ridge += self.sparse_ridge / max(density, _SPARSEST) ** 2
        state = ADMMState(objective, ridge, backend, overwrite=problem.expendable, right=known)
        first = self.rho_start if self.first_rho is None else self.first_rho
        if warm is not None:
            state.t, state.mask = warm.t, warm.mask
            _rescale(state.t, state.scale / warm.scale, state.right_scale / warm.right_scale)
        elif problem.start is not None:
            state.t = problem.start.astype(objective.dtype, copy=not problem.expendable)
            _rescale(state.t, state.scale, state.right_scale)
            state.mask = backend.xp.ones(objective.shape, dtype=bool)
        else:
            state.t = backend.xp.zeros(objective.shape, dtype=objective.dtype)
            state.mask = backend.xp.zeros(objective.shape, dtype=bool)
            first = 0.0
        state.rho = self.rho_start
        state.start(first, keep_gram=self.rho != self.rho_start)
        return state

    def step(self, problem: MinimizeProblem, state: ADMMState) -> None:
        """Solve the linear system (the first solve is done by `init`), update the dual, choose the support."""
        if state.done:
            return
        if state.iteration:
            state.solve(min(self.rho, state.rho * state.growth))
            state.growth = 1.0
        problem.backend.admm_update(state.primal, state.t, state.mask)
        if state.iteration < self.selections:
            # a fixed support makes its mask on the host
            mask = problem.backend.asarray(problem.constraint.mask(state.t))
            if not problem.expendable:
                state.settled = (mask == state.mask).all()
                state.first_mask = mask if state.first_mask is None else state.first_mask
            state.mask = mask
        state.iteration += 1
        if self.rho_start < self.rho and state.iteration % _LOOK == 0:
            state.look(problem.backend)

    def report(self, problem: MinimizeProblem, state: ADMMState) -> Report:
        """Measure the objective at Z."""
        return Report(float(problem.objective.value(state.value())), converged=state.done)

    def finish(self, problem: MinimizeProblem, state: ADMMState) -> Outcome:
        """Return Z, or the exact minimiser on its support."""
        state.release()
        value = state.value()
        if self.refit:
            value = refit(problem.objective, state.mask, value, problem.backend)
            if state.first_mask is not None and not state.done and not bool(state.settled):
                other = refit(problem.objective, state.first_mask, value * state.first_mask, problem.backend)
                if problem.objective.value(other) < problem.objective.value(value):
                    value, state.mask = other, state.first_mask
            if self.exchanges:
                value, state.mask, count = exchange(
                    problem.objective, problem.constraint, value, state.mask, problem.backend, rounds=self.exchanges
                )
                if count:
                    value = refit(problem.objective, state.mask, value, problem.backend)
        settled = self.refit and (state.done or bool(state.settled))
        return Outcome(value, Status.STATIONARY if settled else Status.LIMIT)


class ADMMState:
    """Where ADMM stands: T and the mask in scaled variables, and the workspace of one problem.

    After `release` only what a warm start needs is left.
    """

    __slots__ = (
        "backend",
        "compared",
        "cross",
        "done",
        "first_mask",
        "growth",
        "iteration",
        "mask",
        "primal",
        "rho",
        "right",
        "right_scale",
        "scale",
        "settled",
        "system",
        "t",
    )

    t: NDArray[Any]
    mask: NDArray[np.bool_]
    primal: NDArray[Any]

    def __init__(
        self,
        objective: Quadratic,
        ridge: float,
        backend: Backend,
        *,
        overwrite: bool,
        right: _RightGram | None = None,
    ) -> None:
        self.backend, self.iteration, self.rho = backend, 0, 0.0
        # a scalar of the backend: nobody waits for it before the end
        self.settled: Any = False
        self.first_mask: NDArray[np.bool_] | None = None
        self.compared: NDArray[np.bool_] | None = None
        self.growth, self.done = 1.0, False
        self.scale = _scales(objective.gram)[:, None]
        gram = objective.gram if overwrite else objective.gram.copy()
        _rescale(gram, 1 / self.scale, 1 / self.scale.T)
        self.cross = objective.cross if overwrite else objective.cross.copy()
        if objective.right_gram is None:
            self.right: _RightGram | None = None
            self.right_scale = self.scale[:1] / self.scale[:1]
            self.system: _OneSided | _TwoSided = _OneSided(gram, ridge, backend)
        else:
            # Half-steps come back with the same array: its eigenvectors are kept.
            again = right is not None and right.gram is objective.right_gram
            self.right = right if again else _RightGram(objective.right_gram, backend)
            assert self.right is not None
            self.right_scale = self.right.scale
            self.system = _TwoSided(gram, self.right, ridge, backend)
        _rescale(self.cross, 1 / self.scale, 1 / self.right_scale)

    def start(self, first: float, *, keep_gram: bool) -> None:
        """Do the first linear solve with the penalty `first`, and prepare those that follow with `rho`."""
        repeats = first == self.rho
        self.system.prepare(first, keep_gram=keep_gram or not repeats)
        self.primal = self.backend.xp.empty_like(self.cross)
        self._solve(first)
        if not repeats:
            self.system.prepare(self.rho, keep_gram=keep_gram)

    def solve(self, rho: float) -> None:
        """Solve for the primal variable with the penalty `rho`."""
        if rho != self.rho:
            # The scaled dual is the multiplier over rho; the multiplier is what continues.
            real = self.t.real.dtype.type
            self.t *= self.backend.xp.where(self.mask, real(1), real(self.rho / rho))
            self.system.prepare(rho, keep_gram=True)
            self.rho = rho
        self._solve(rho)

    def _solve(self, rho: float) -> None:
        # Not kept between solves: the selection in between needs the memory.
        rhs = self.backend.xp.empty_like(self.cross)
        self.backend.admm_rhs(self.cross, self.t, self.mask, rho, rhs)
        self.primal = self.system.solve(rhs, self.primal)

    def look(self, backend: Backend) -> None:
        """Compare the support with that of the last look: how much the penalty grows, and whether it has settled."""
        before, self.compared = self.compared, self.mask
        if before is None:
            self.growth = _GROWTHS[0][1]
            return
        changed, kept = backend.floats((self.mask != before).sum(), self.mask.sum())
        self.growth = next((growth for share, growth in _GROWTHS if changed >= share * kept), 1.0)
        self.done = changed == 0 or (self.iteration >= _EARLIEST and changed < _SETTLED * kept)

    def value(self) -> NDArray[Any]:
        """Return Z in the variables of the problem, a new array."""
        z = self.t * self.mask
        _rescale(z, 1 / self.scale, 1 / self.right_scale)
        return z

    def rescale(self, factor: NDArray[Any]) -> None:
        """Change the variables of a released state: multiply row i by factor[i, 0], emptying it where that is 0."""
        alive = factor > 0
        self.t[~alive[:, 0]] = 0
        self.scale = self.backend.xp.where(alive, self.scale / self.backend.xp.where(alive, factor, 1), 1)

    def restart(self, rows: NDArray[Any], columns: NDArray[Any] | None, values: NDArray[Any]) -> None:
        """Set emptied rows of a released state anew: one entry in each row, or (without `columns`) all of it."""
        self.mask[rows] = columns is None
        if columns is None:
            self.t[rows] = values
        else:
            self.t[rows, columns] = values
            self.mask[rows, columns] = True

    def release(self) -> None:
        """Drop the workspace."""
        for name in ("cross", "primal", "system"):
            delattr(self, name)


class _OneSided:
    """``(G + ridge I + rho I) B = R``: one product with the inverse per solve."""

    def __init__(self, gram: NDArray[Any], ridge: float, backend: Backend) -> None:
        self.gram: NDArray[Any] | None = gram
        self.backend, self.diagonal = backend, gram.diagonal() + ridge
        self.inverse: NDArray[Any] | None = None

    def _shifted(self, rho: float) -> NDArray[Any]:
        assert self.gram is not None
        self.gram.reshape(-1)[:: self.gram.shape[0] + 1] = self.diagonal + rho
        return self.gram

    def prepare(self, rho: float, *, keep_gram: bool) -> None:
        self.inverse = None
        self.inverse = self.backend.spd_inverse(self._shifted(rho), overwrite=not keep_gram)
        if not keep_gram:
            self.gram = None

    def solve(self, rhs: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        solved: NDArray[Any] = self.backend.xp.matmul(self.inverse, rhs, out=out)
        return solved


class _RightGram:
    """A right Gram matrix, what scales it to a unit diagonal, and the eigenvectors of the scaled one."""

    def __init__(self, gram: NDArray[Any], backend: Backend) -> None:
        self.gram, self.scale = gram, _scales(gram)[None, :]
        scaled = gram.copy()
        _rescale(scaled, 1 / self.scale.T, 1 / self.scale)
        self.values, self.vectors = backend.xp.linalg.eigh(scaled)
        self.values *= self.values > 0


class _TwoSided:
    """``(G + ridge I) B (H + ridge I) + rho B = R``: in the eigenvectors of both the system is diagonal."""

    def __init__(self, gram: NDArray[Any], right: _RightGram, ridge: float, backend: Backend) -> None:
        self.values, self.vectors = backend.xp.linalg.eigh(gram)
        self.values[...] = self.values * (self.values > 0) + ridge
        self.right_values, self.right_vectors = right.values + ridge, right.vectors
        self.rho = 0.0

    def prepare(self, rho: float, *, keep_gram: bool) -> None:
        self.rho = rho

    def solve(self, rhs: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        q, r = self.vectors, self.right_vectors
        inner = q.conj().T @ rhs @ r
        inner /= self.values[:, None] * self.right_values[None, :] + self.values.dtype.type(self.rho)
        solved: NDArray[Any] = q @ inner @ r.conj().T
        return solved


def _scales(gram: NDArray[Any]) -> NDArray[Any]:
    """Return the square roots of the diagonal; 1 where it is zero, for an unknown that does not matter."""
    diagonal = gram.diagonal().real
    scales: NDArray[Any] = (diagonal + (diagonal <= 0)) ** 0.5
    return scales


def _rescale(x: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> None:
    """Multiply row i by left[i, 0] and column j by right[0, j], in place; one number for many columns is a 1."""
    x *= left
    if right.size == x.shape[1]:
        x *= right
