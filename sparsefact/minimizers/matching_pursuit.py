"""Group orthogonal matching pursuit, with replacement: which blocks of a matrix to keep, one after another.

    minimise f(W)   subject to   at most k blocks of W are nonzero

    add        the block of largest gradient ||G_b|| joins the support S, and f is minimised over S again; k times
    replace    the kept block of smallest ||W_b|| gives way to the block outside S of largest ||G_b||, if the minimum of
               f over the new support is lower; until none of the best pairs is

Additions alone (`replacement=False`) are greedy: where columns of the design are correlated, a wrong block that was
added early is never given back. Replacement gives it back.

What is known. For f = 1/2 ||X W - Y||^2 with Y = X W* and W* supported on S, additions choose blocks of S only, and so
find S, when

    max over blocks j outside S of  sum over blocks i of S of ||(X_S^+ X_j)_i||_2  <  1

(Tropp's exact recovery condition; with blocks the spectral norm stands for the absolute value). It is computed from
the Gram matrix alone: `PursuitCertificate.exact_recovery`. With replacement the loss reaches that of the best k* blocks
when k >= k* (L^2 / mu^2 + 1), where mu is the strong convexity on k + k* blocks and L the smoothness on two:
`PursuitCertificate.comparable_blocks` is the largest k* that bounds from the Gram matrix prove.

References: J. Tropp, "Greed is good", IEEE Trans. Inf. Theory 2004; P. Jain, A. Tewari, I. Dhillon, "Orthogonal
matching pursuit with replacement", NIPS 2011; "SequentialAttention++ for block sparsification", arXiv 2402.17902
(Theorem B.3: the group form). Ours: replacement tries several pairs, with exact minimisation for each, so the loss
never rises.

Symbols: G gradient (p, n), W value (p, n), S support, b a block.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.pursuit_certificate import PursuitCertificate
from sparsefact.backends.protocol import Backend
from sparsefact.minimizers.adapted import evaluate
from sparsefact.minimizers.block_grid import BlockGrid, block_grid
from sparsefact.minimizers.parameters import check_count
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.pursuit_column import ColumnPursuit, is_column
from sparsefact.minimizers.ranked import largest_first
from sparsefact.minimizers.restricted import fit_on
from sparsefact.minimizers.scaling import scale_of, scaled
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["MatchingPursuit"]

# Additions take at most half of the iterations: then several blocks are added at once.
_ADDING = 0.5


@dataclass(frozen=True)
class MatchingPursuit:
    """Greedy choice of blocks, or of entries, with replacement and exact fits.

    For `BlockTopK`, and for `TopK` as blocks of one entry.

    Parameters
    ----------
    replacement : bool
        After the additions, replace kept blocks as long as that lowers the objective; False is plain group orthogonal
        matching pursuit.
    candidates : int
        Replacements look at this many of the smallest kept blocks and of the largest gradients, in pairs. Between the
        entries of one column, in least squares, they look at all pairs.
    scaled : bool
        Choose in variables in which the Gram matrix has a unit diagonal, so that a block's size is what it contributes;
        for a `Quadratic`. The theory then speaks about the scaled Gram matrix.
    blocks_per_step : int, optional
        How many blocks join at once. One, unless that would take more than half of `iterations`.
    iterations : int
        Additions and replacements at most.
    half_iterations : int
        `iterations` as the inner solver of `Alternating`, in each half-step.
    report_every : int
        Iterations between two reports of the objective.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range; by `minimize`, if the constraint is not one of blocks or entries.

    Notes
    -----
    Of blocks with equal gradient the first one joins, of equal kept ones the first one is replaced. It ends
    `Status.STATIONARY` when none of the pairs lowers the objective, or nothing is left to gain. The certificate is a
    `PursuitCertificate`.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((50, 12)), np.zeros((12, 6))
    >>> W[3:6, 2:4], W[9:, 4:] = 1.0, -1.0
    >>> solution = sf.minimize(sf.LeastSquares(X, X @ W), sf.BlockTopK((3, 2), count=2), sf.MatchingPursuit())
    >>> bool(np.allclose(solution.value, W)), solution.status.name
    (True, 'STATIONARY')
    """

    replacement: bool = True
    candidates: int = 5
    scaled: bool = True
    blocks_per_step: int | None = None
    iterations: int = 2000
    half_iterations: int = 8
    report_every: int = 10

    def __post_init__(self) -> None:
        for name in ("candidates", "iterations", "half_iterations", "report_every"):
            check_count(name, getattr(self, name))
        if self.blocks_per_step is not None:
            check_count("blocks_per_step", self.blocks_per_step)

    def at(self, fraction: float) -> MatchingPursuit:
        """Return the configuration for a half-step of an alternating run: a few iterations from where it stood."""
        return dataclasses.replace(self, iterations=self.half_iterations)

    def init(self, problem: MinimizeProblem, warm: _State | ColumnPursuit | None = None) -> _State | ColumnPursuit:
        """Take the support of the warm state or of the start, at most as many blocks as allowed, and fit on it."""
        state: _State | ColumnPursuit
        if is_column(problem.objective, problem.constraint):
            state = ColumnPursuit(problem, rescale=self.scaled)
        else:
            state = _State(self, problem)
        if warm is not None:
            state.adopt(warm.value())
        elif problem.start is not None:
            state.adopt(problem.start)
        limit = max(1, int(_ADDING * self.iterations)) * state.units
        state.per_step = self.blocks_per_step or max(1, -(-state.missing // limit))
        return state

    def step(self, problem: MinimizeProblem, state: _State | ColumnPursuit) -> None:
        """Add blocks where there is room, else replace one."""
        if state.settled:
            return
        state.settled = not (state.add() or (self.replacement and state.replace(self.candidates)))

    def report(self, problem: MinimizeProblem, state: _State | ColumnPursuit) -> Report:
        """Measure the objective."""
        return Report(state.loss(), converged=state.settled)

    def finish(self, problem: MinimizeProblem, state: _State | ColumnPursuit) -> Outcome:
        """Return the minimiser on the support, with what is known about it."""
        value, certificate = state.finished()
        return Outcome(value, Status.STATIONARY if state.settled else Status.LIMIT, certificate)


class _State:
    """The support (on the host, where it is decided), the minimiser on it, and the gradient there."""

    def __init__(self, solver: MatchingPursuit, problem: MinimizeProblem) -> None:
        self.backend, self.objective = problem.backend, problem.objective
        objective = problem.objective
        self.grid: BlockGrid = block_grid(problem.constraint, objective.shape, "MatchingPursuit")
        self.fits = _fits_of(objective, self.grid, self.backend, rescale=solver.scaled)
        self.chosen: NDArray[np.bool_] = np.zeros(self.grid.grid, dtype=bool)
        self.w, self.gradient, self.losses = self.fits.start()
        self.per_step, self.trials, self.settled = 1, 0, False
        eps = float(np.finfo(self.gradient.dtype).eps)
        self.tolerance = max(1e-12, 4 * eps)
        # What is left of a gradient of this size is rounding.
        self.floor = (eps * float(self.backend.xp.linalg.norm(self.gradient))) ** 2

    @property
    def units(self) -> int:
        """How many parts of the matrix have a count of their own."""
        return self.grid.count // self.grid.each

    @property
    def missing(self) -> int:
        """How many blocks may still join."""
        return self.grid.count - int(self.chosen.sum())

    def loss(self) -> float:
        """Return the objective at the present support."""
        return float(self.objective.value(self.value()))

    def adopt(self, start: NDArray[Any]) -> None:
        """Take the blocks in which `start` is nonzero, the largest ones as far as they are allowed."""
        start = self.fits.inward(start.astype(self.w.dtype, copy=False))
        energies = self.grid.energies(start)
        keep = self.grid.best(energies, self.backend) & (energies > 0)
        self.chosen = np.array(self.backend.to_host(keep))
        self.w = start * self.grid.entries(keep, self.backend)
        self._accept(self.fits.solve(self.chosen, np.arange(self.grid.grid[1]), self.w))

    def add(self) -> bool:
        """Add the blocks of largest gradient where there is room; return whether there was any to add."""
        room = self._room()
        if not room.any():
            return False
        allowed = ~self.chosen & room
        scores = self.grid.energies(self.gradient) * self.backend.asarray(allowed)
        count = min(self.per_step, self._least_room())
        best = self.backend.topk_mask(scores, count, self.grid.per) & (scores > self.floor)
        new = self.backend.to_host(best)
        if not new.any():
            return False
        self.chosen |= new
        self._accept(self.fits.solve(self.chosen, np.flatnonzero(new.any(axis=0)), self.w))
        return True

    def _used(self) -> NDArray[np.intp]:
        """Return how many blocks are kept, in each unit, in a shape that broadcasts over the grid."""
        axis = {"matrix": None, "row": 1, "column": 0}[self.grid.per]
        used: NDArray[np.intp] = np.sum(self.chosen, axis=axis, keepdims=True)
        return used

    def _room(self) -> NDArray[np.bool_]:
        room: NDArray[np.bool_] = self._used() < self.grid.each
        return room

    def _least_room(self) -> int:
        room = self.grid.each - self._used()
        return int(room[room > 0].min())

    def replace(self, candidates: int) -> bool:
        """Do the first replacement that lowers the objective, promising pairs first; return whether one did."""
        both = self.backend.xp.stack([self.grid.energies(self.gradient), self.grid.energies(self.w)])
        gains, sizes = self.backend.to_host(both)
        cols = self.grid.grid[1]
        outside = largest_first(np.where(self.chosen, -np.inf, gains), candidates)
        pairs = []
        for rank, new in enumerate(outside):
            unit: Any = {"matrix": np.s_[:, :], "row": np.s_[new // cols, :], "column": np.s_[:, new % cols]}
            unit = unit[self.grid.per]
            inside = np.full(self.chosen.shape, -np.inf)
            inside[unit] = np.where(self.chosen, -sizes, -np.inf)[unit]
            pairs += [(rank + other, rank, new, old) for other, old in enumerate(largest_first(inside, candidates))]
        for *_, new, old in sorted(pairs):
            if gains.flat[new] > self.floor and self._try(new, old):
                return True
        return False

    def _try(self, new: int, old: int) -> bool:
        """Exchange two blocks if that lowers the objective."""
        self.trials += 1
        chosen = self.chosen.copy()
        chosen.flat[[new, old]] = True, False
        found = self.fits.solve(chosen, np.unique([new % chosen.shape[1], old % chosen.shape[1]]), self.w)
        _, parts, _, _, losses = found
        before = float(self.losses[parts].sum())
        if not float(losses.sum()) < before - self.tolerance * abs(before):
            return False
        self.chosen = chosen
        self._accept(found)
        return True

    def _accept(self, found: _Found) -> None:
        columns, parts, value, gradient, losses = found
        self.w[:, columns] = value
        self.gradient[:, columns] = gradient
        self.losses[parts] = losses

    def value(self) -> NDArray[Any]:
        """Return the minimiser on the support in the variables of the problem, a new array."""
        return self.fits.outward(self.w)

    def release(self) -> None:
        """Drop what a warm start does not need."""
        del self.gradient, self.fits.objective, self.objective

    def finished(self) -> tuple[NDArray[Any], PursuitCertificate]:
        """Return the minimiser on the support, and what is known about the support."""
        gains, sizes = self.backend.to_host(
            self.backend.xp.stack([self.grid.energies(self.gradient), self.grid.energies(self.w)])
        )
        on, off = gains[self.chosen], gains[~self.chosen]
        return self.value(), PursuitCertificate(
            self.chosen,
            self.grid.block,
            float(on.max(initial=0.0)) ** 0.5,
            float(off.max(initial=0.0)) ** 0.5,
            float(sizes[self.chosen].min(initial=np.inf)) ** 0.5,
            self.trials,
            self.settled,
            None if self.fits.gram is None else self.backend.to_host(self.fits.gram),
        )


_Found = tuple[Any, Any, NDArray[Any], NDArray[Any], NDArray[np.float64]]
"""Which columns and which entries of `losses` a fit is about; and the values, gradients and losses there."""


class _Fits:
    """Minima on a support, in variables in which a Gram matrix has a unit diagonal where that was asked for."""

    def __init__(self, objective: Any, grid: BlockGrid, backend: Backend, *, rescale: bool) -> None:
        self.grid, self.backend = grid, backend
        self.objective, self.scale = objective, None
        if rescale and isinstance(objective, Quadratic):
            self.objective, self.scale = scaled(objective), scale_of(objective)

    @property
    def gram(self) -> NDArray[Any] | None:
        """The Gram matrix that decides which blocks are chosen, where there is one."""
        return None

    def inward(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return a value of the problem in the variables of the fits."""
        return value if self.scale is None else value * self.scale

    def outward(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return a value of the fits, as a new array in the variables of the problem."""
        return value.copy() if self.scale is None else value / self.scale

    def start(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
        """Return zero, the gradient there, and its losses."""
        zero = self.backend.xp.zeros(self.objective.shape, dtype=self.objective.dtype)
        value, gradient = evaluate(self.objective, zero, self.backend, "at zero")
        return zero, gradient, np.array([value])

    def solve(self, chosen: NDArray[np.bool_], parts: NDArray[np.intp], value: NDArray[Any]) -> _Found:
        """Minimise over the support, starting at `value`; `parts` are the columns of blocks that have changed."""
        mask = self.backend.asarray(np.repeat(np.repeat(chosen, self.grid.block[0], 0), self.grid.block[1], 1))
        fit = fit_on(self.objective, mask, value * mask, self.backend, where="in a fit on the chosen blocks")
        return np.s_[:], np.array([0]), fit.w, fit.gradient, np.array([fit.value])


class _Separable(_Fits):
    """A quadratic with one Gram matrix: columns of blocks are independent of each other."""

    @property
    def gram(self) -> NDArray[Any]:
        gram: NDArray[Any] = self.objective.gram
        return gram

    def start(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
        cross = self.objective.cross
        return self.backend.xp.zeros_like(cross), -cross, np.zeros(self.grid.grid[1])

    def solve(self, chosen: NDArray[np.bool_], parts: NDArray[np.intp], value: NDArray[Any]) -> _Found:
        r, c = self.grid.block
        columns = (parts[:, None] * c + np.arange(c)).reshape(-1)
        where: Any = np.s_[:] if columns.size == value.shape[1] else self.backend.asarray(columns)
        cross = self.objective.cross[:, where]
        mask = np.repeat(np.repeat(chosen[:, parts], r, axis=0), c, axis=1)
        solved = self.backend.masked_lsq(self.gram, cross, self.backend.asarray(mask))
        gradient = self.gram @ solved - cross
        # f = 1/2 Re <W, G - C>, up to second order in the rounding of W
        each = (solved.conj() * (gradient - cross)).real.sum(axis=0, dtype=np.float64) / 2
        return where, parts, solved, gradient, self.backend.to_host(each).reshape(parts.size, c).sum(axis=1)


def _fits_of(objective: Any, grid: BlockGrid, backend: Backend, *, rescale: bool) -> _Fits:
    """Return how minima on a support of this objective are found."""
    separable = isinstance(objective, Quadratic) and objective.right_gram is None
    return (_Separable if separable else _Fits)(objective, grid, backend, rescale=rescale)
