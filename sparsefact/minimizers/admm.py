"""ADMM for a quadratic over matrices with few nonzeros.

    minimise f(B) = 1/2 tr(B^H G B H) - Re tr(B^H C)   subject to   Z = B,  Z in E

In scaled variables with T = B + U the method is

    B <- argmin f(B) + rho/2 ||B - (Z - U)||^2         one linear solve; the matrix of the system is inverted once
    Z <- T on the support, zero elsewhere              the support is what E's projection keeps of |T|
    U <- T off the support, zero on it

so T and the mask of the support are the whole state. The variables are scaled so that G (and H) have a unit diagonal:
magnitudes then compare by what they contribute to f, and `rho` and `ridge` mean the same for every input.

References: V. Boza, "Fast and effective weight update for pruned large language models", TMLR 2024 (ADMM for a
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
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.refit import quadratic_of, refit
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["ADMM"]


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
        The penalty, relative to the unit diagonal of the scaled Gram matrix. Small explores, large settles.
    rho_start : float
        The penalty in the first iteration; it grows geometrically to `rho` over the run (in four stages, each of which
        inverts once), or over the run of the alternating method that drives this solver.
    first_rho : float, optional
        The penalty of the first linear solve alone: 0 forgets where a warm start stood, `rho` (the default) continues.
    half_iterations, half_selections, half_rho : int, int, float
        `iterations`, `selections` and `rho` as the inner solver of `Alternating`, in each half-step; there the penalty
        grows over the whole run, `first_rho` grows from 0 to 1, and `refit` is left to the end.
    ridge : float
        Added to the unit diagonal.
    refit : bool
        End with the exact minimiser on the support; or on the first support that was chosen (that of the thresholded
        unconstrained solution, without an `init`), where that is lower.
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

    iterations: int = 40
    selections: int = 30
    rho: float = 1.0
    rho_start: float = 0.3
    first_rho: float | None = None
    half_iterations: int = 5
    half_selections: int = 2
    half_rho: float = 0.6
    ridge: float = 1e-2
    refit: bool = True
    report_every: int = 5

    def __post_init__(self) -> None:
        for name in ("iterations", "selections", "half_iterations", "half_selections", "report_every"):
            check_count(name, getattr(self, name))
        for name in ("rho", "rho_start", "half_rho"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ArgumentError(
                    f"{name}={value!r} is not allowed; pass a positive number, typically between 0.1 and 3"
                )
        for name in ("first_rho", "ridge"):
            value = getattr(self, name)
            if value is not None:
                check_non_negative(name, value)

    def at(self, fraction: float) -> ADMM:
        """Return the configuration for a half-step at this fraction (0 to 1) of an alternating run.

        The penalty has grown to its value there; the first solve forgets the previous point early on, when the other
        factor still changes much, and continues from it at the end.
        """
        rho = self.rho_start * (self.half_rho / self.rho_start) ** fraction
        return dataclasses.replace(
            self,
            iterations=self.half_iterations,
            selections=self.half_selections,
            rho=rho,
            rho_start=rho,
            first_rho=min(1.0, fraction / 0.95) ** 5,
            refit=False,
        )

    def init(self, problem: MinimizeProblem, warm: ADMMState | None = None) -> ADMMState:
        """Scale the problem, and take the first point."""
        objective, backend = quadratic_of(problem, "ADMM"), problem.backend
        state = ADMMState(objective, self.ridge, backend, overwrite=problem.expendable)
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
        if state.iteration:
            stage = 4 * state.iteration // self.iterations
            state.solve(self.rho_start * (self.rho / self.rho_start) ** (stage / 3))
        problem.backend.admm_update(state.primal, state.t, state.mask)
        if state.iteration < self.selections:
            # a fixed support makes its mask on the host
            mask = problem.backend.asarray(problem.constraint.mask(state.t))
            if not problem.expendable:
                state.settled = (mask == state.mask).all()
                state.first_mask = mask if state.first_mask is None else state.first_mask
            state.mask = mask
        state.iteration += 1

    def report(self, problem: MinimizeProblem, state: ADMMState) -> Report:
        """Measure the objective at Z."""
        return Report(float(problem.objective.value(state.value())))

    def finish(self, problem: MinimizeProblem, state: ADMMState) -> Outcome:
        """Return Z, or the exact minimiser on its support."""
        state.release()
        value = state.value()
        if self.refit:
            value = refit(problem.objective, state.mask, value, problem.backend)
            settled = bool(state.settled)
            if state.first_mask is not None and not settled:
                other = refit(problem.objective, state.first_mask, value * state.first_mask, problem.backend)
                if problem.objective.value(other) < problem.objective.value(value):
                    value = other
        return Outcome(value, Status.STATIONARY if self.refit and bool(state.settled) else Status.LIMIT)


class ADMMState:
    """Where ADMM stands: T and the mask in scaled variables, and the workspace of one problem.

    After `release` only what a warm start needs is left.
    """

    __slots__ = (
        "backend",
        "cross",
        "first_mask",
        "iteration",
        "mask",
        "primal",
        "rho",
        "right_scale",
        "scale",
        "settled",
        "system",
        "t",
    )

    t: NDArray[Any]
    mask: NDArray[np.bool_]
    primal: NDArray[Any]

    def __init__(self, objective: Quadratic, ridge: float, backend: Backend, *, overwrite: bool) -> None:
        self.backend, self.iteration, self.rho = backend, 0, 0.0
        # a scalar of the backend: nobody waits for it before the end
        self.settled: Any = False
        self.first_mask: NDArray[np.bool_] | None = None
        self.scale = _scales(objective.gram)[:, None]
        gram = objective.gram if overwrite else objective.gram.copy()
        _rescale(gram, 1 / self.scale, 1 / self.scale.T)
        self.cross = objective.cross if overwrite else objective.cross.copy()
        if objective.right_gram is None:
            self.right_scale = self.scale[:1] / self.scale[:1]
            self.system: _OneSided | _TwoSided = _OneSided(gram, ridge, backend)
        else:
            self.right_scale = _scales(objective.right_gram)[None, :]
            right = objective.right_gram.copy()
            _rescale(right, 1 / self.right_scale.T, 1 / self.right_scale)
            self.system = _TwoSided(gram, right, ridge, backend)
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


class _TwoSided:
    """``(G + ridge I) B (H + ridge I) + rho B = R``: in the eigenvectors of both the system is diagonal."""

    def __init__(self, gram: NDArray[Any], right: NDArray[Any], ridge: float, backend: Backend) -> None:
        self.values, self.vectors = backend.xp.linalg.eigh(gram)
        self.right_values, self.right_vectors = backend.xp.linalg.eigh(right)
        for values in (self.values, self.right_values):
            values[...] = values * (values > 0) + ridge
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
