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
from sparsefact.minimizers.admm_systems import OneSided, RightGram, TwoSided, rescale, scales_of
from sparsefact.minimizers.exchange import exchange
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.refit import near_refit, quadratic_of, refit
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["ADMM"]

# The sparse ridge falls by this power of e over a run, and grows no more below this density.
_FALL = -5.0
_SPARSEST = 0.05
# `half_rho_start` and `half_rho` are those of an alternating run of so many iterations. With so many times fewer a
# half-step is shorter; short ones start with a penalty larger by the last factor.
_USUAL, _HURRY, _BRISK = 44, 1.5, 1.4
# Where a Gram matrix weighs the longer side, the penalty grows to less, by the first factor; once that matrix counts in
# full, it is smaller by the second one besides, for what is solved then is the loss itself.
_FAR, _FAR_FULL = 0.65, 0.75
# Alone: every so many iterations the penalty grows by a factor for the share of the support that has changed; from
# some iteration on, a change of less than this share is none.
_LOOK = 4
_GROWTHS = ((0.1, 1.42), (0.005, 1.275), (0.0, 1.135))
_SETTLED = 3e-4
_EARLIEST = 30


@dataclass(frozen=True)
class ADMM:
    """Alternating direction method of multipliers, ending with a least-squares fit on the support it found.

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
        support, every four iterations, and the solver is done when the support has settled; where it is `rho`, the
        penalty is constant. Inside an alternating method it grows over the run of that method.
    first_rho : float, optional
        The penalty of the first linear solve alone: 0 forgets where a warm start stood, `rho` (the default) continues.
    half_iterations, half_selections, half_rho_start, half_rho : int, int, float, float
        `iterations`, `selections`, `rho_start` and `rho` as the inner solver of `Alternating`, in each half-step; there
        the penalty grows over the whole run, `first_rho` grows from 0 to 1, and the refit is left to the end. They are
        those of a run of 44 iterations or more; `paced` says what shorter runs, and short half-steps, take instead.
    ridge, sparse_ridge : float
        Added to the unit diagonal; the second one over the squared density of the constraint.
    half_ridge, half_sparse_ridge : float
        The same in half-steps, where the second one falls to nothing over the run.
    refit : bool
        End with the minimiser on the support, exactly where its systems are small (else the status is ``LIMIT``), by a
        few conjugate gradients where those cost less; or on the first support that was chosen (that of the thresholded
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

    def paced(self, outer: int, *, brisk: bool, far: bool = False) -> ADMM:
        """Return the configuration for an alternating run of so many iterations, `brisk` if with short half-steps.

        A short run does with an iteration less in a half-step, and needs larger penalties to settle. One under a Gram
        matrix of the longer side (`far`), whose iterations cost most, does with two less and smaller penalties.
        """
        hurry = max(1.0, _USUAL / outer)
        iterations, selections, start = self.half_iterations, self.half_selections, self.half_rho_start
        end = self.half_rho * (_FAR if far else 1.0)
        if brisk:
            iterations, selections, start = iterations // 2, selections // 2, start * _BRISK
        elif far:
            iterations, start, end = iterations - 2, start * _FAR_FULL, end * _FAR_FULL
        elif hurry >= _HURRY:
            iterations -= 1
        return dataclasses.replace(
            self,
            half_iterations=max(1, iterations),
            half_selections=max(1, selections),
            half_rho_start=start * hurry,
            half_rho=end * hurry**0.4,
        )

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
            rescale(state.t, state.scale / warm.scale, state.right_scale / warm.right_scale)
        elif problem.start is not None:
            state.t = problem.start.astype(objective.dtype, copy=not problem.expendable)
            rescale(state.t, state.scale, state.right_scale)
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
        if not self.refit:
            return Outcome(value, Status.LIMIT)
        objective, backend = problem.objective, problem.backend
        kept = problem.constraint.count(value.shape)
        value, exact = near_refit(objective, state.mask, value, backend, kept=kept)
        settled = state.done or bool(state.settled)
        if state.first_mask is not None and not settled:
            other, _ = near_refit(objective, state.first_mask, value * state.first_mask, backend, kept=kept)
            if objective.value(other) < objective.value(value):
                value, state.mask = other, state.first_mask
        if self.exchanges:
            value, state.mask, count = exchange(
                objective, problem.constraint, value, state.mask, backend, rounds=self.exchanges
            )
            if count and exact:
                value = refit(objective, state.mask, value, backend)
        return Outcome(value, Status.STATIONARY if settled and exact else Status.LIMIT)


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
        right: RightGram | None = None,
    ) -> None:
        self.backend, self.iteration, self.rho = backend, 0, 0.0
        # a scalar of the backend: nobody waits for it before the end
        self.settled: Any = False
        self.first_mask: NDArray[np.bool_] | None = None
        self.compared: NDArray[np.bool_] | None = None
        self.growth, self.done = 1.0, False
        self.scale = scales_of(objective.gram)[:, None]
        gram = objective.gram if overwrite else objective.gram.copy()
        rescale(gram, 1 / self.scale, 1 / self.scale.T)
        self.cross = objective.cross if overwrite else objective.cross.copy()
        if objective.right_gram is None:
            self.right: RightGram | None = None
            self.right_scale = self.scale[:1] / self.scale[:1]
            self.system: OneSided | TwoSided = OneSided(gram, ridge, backend)
        else:
            # Half-steps come back with the same array: its eigenvectors are kept.
            again = right is not None and right.gram is objective.right_gram
            self.right = right if again else RightGram(objective.right_gram, backend)
            assert self.right is not None
            self.right_scale = self.right.scale
            self.system = TwoSided(gram, self.right, ridge, backend)
        rescale(self.cross, 1 / self.scale, 1 / self.right_scale)

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
        rescale(z, 1 / self.scale, 1 / self.right_scale)
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
