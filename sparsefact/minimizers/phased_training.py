"""Training in phases, dense and sparse by turns: what sequential attention, ACDC and powerpropagation share.

Adam on the mini-batches of an objective, or on the whole of it, with a cosine step size. What is trained becomes the
matrices by a reparametrisation (attention, a power, nothing) and a mask over blocks:

    dense       every block is there
    sparsify    blocks go one after another, by score: at time t in [0, 1] the share s (1 - e^(-c t)) / (1 - e^(-c)) of
                them is gone, s the sparsity at the end and c the `exponent`
    sparse      the blocks of largest score at its beginning, or those that are left

The moments of Adam start again with every phase: those of a dense phase push a sparse one the wrong way.

Symbols: theta (1, N) the weights that are trained, of all matrices one after the other; W what they stand for.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint, Shape
from sparsefact.constraints.dense import Dense
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.adapted import NamedConstraint
from sparsefact.minimizers.block_grid import BlockGrid, block_grid
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.phases import Kind, phases
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.refit import refit
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["PhasedTraining", "Reparametrisation"]

Array = NDArray[Any]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Reparametrisation(Protocol):
    """How the values of one matrix of blocks come from what is trained; one object for each matrix.

    Arrays are cut into rows of blocks: `theta`, `values` and `gradient` have shape (rows, r, n); masks and scores, with
    a number for each block, have shape (rows, columns).
    """

    def begin(self, values: Array, backend: Backend, *, informed: bool) -> tuple[Array, Array | None]:
        """Return weights that stand for these values, and what is trained beside them, or None.

        `informed` values say which blocks matter; others are random numbers.
        """
        ...

    def forward(self, theta: Array, extra: Array | None, mask: Array) -> tuple[Array, Any]:
        """Return the values, and what `backward` needs of this point."""
        ...

    def backward(self, theta: Array, kept: Any, mask: Array, gradient: Array) -> tuple[Array, Array | None]:
        """Return the gradients of the weights and of the extra parameters from that of the values."""
        ...

    def scores(self, theta: Array, extra: Array | None) -> Array:
        """Return how much each block is worth."""
        ...


@dataclass(frozen=True)
class PhasedTraining:
    """The parameters that these solvers share; each of them says what it changes.

    Parameters
    ----------
    iterations : int
        Steps of Adam.
    learning_rate : float
        Of the first step; it falls to 0 like a cosine. For a `Quadratic`, relative to the typical size of its dense
        solution in variables in which the Gram matrix has a unit diagonal.
    batch : int or None
        Samples in a step, of an objective that is a mean over samples; None for all.
    weight_decay : float
        Times the squared norm of all that is trained, halved, is added to the objective.
    dense, sparse : float
        The shares of the first, dense phase and of the last, sparse one.
    cycles : int
        How often phases take turns in between.
    reset : bool
        Start the moments of Adam again with every phase.
    refit : bool
        End a `Quadratic` with its exact minimiser on the support; or on the largest blocks of the start, where that is
        lower.
    half_iterations : int
        `iterations` as the inner solver of `Alternating`, in each half-step, all in one cycle.
    report_every : int
        Steps between two reports of the objective, which are of the matrices as they are in that phase.
    """

    iterations: int = 2000
    learning_rate: float = 1e-2
    batch: int | None = 64
    weight_decay: float = 1e-4
    dense: float = 0.1
    sparse: float = 0.15
    cycles: int = 5
    reset: bool = True
    refit: bool = True
    half_iterations: int = 40
    report_every: int = 100

    def __post_init__(self) -> None:
        for name in ("iterations", "half_iterations", "report_every"):
            check_count(name, getattr(self, name))
        check_count("cycles", self.cycles, 0)
        if self.batch is not None:
            check_count("batch", self.batch)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ArgumentError(
                f"learning_rate={self.learning_rate!r} is not allowed; pass a positive number, typically 1e-3 to 1e-2"
            )
        check_non_negative("weight_decay", self.weight_decay)
        for name in ("dense", "sparse"):
            check_non_negative(name, getattr(self, name))
        if self.dense + self.sparse > 1:
            raise ArgumentError(
                f"dense={self.dense!r} and sparse={self.sparse!r} are shares of the run, and together more than 1; "
                "pass smaller ones"
            )

    def reparametrisation(self, grid: BlockGrid) -> Reparametrisation:
        """Return how a matrix with this grid of blocks is trained."""
        raise NotImplementedError

    @property
    def cycle(self) -> tuple[Kind, ...]:
        """The phases of one cycle."""
        return ("sparse", "dense")

    @property
    def exponent(self) -> float:
        """How fast blocks go in a sparsification phase."""
        return 4.0

    def at(self, fraction: float) -> PhasedTraining:
        """Return the configuration for a half-step of an alternating run: one cycle from where it stood."""
        return dataclasses.replace(self, iterations=self.half_iterations, cycles=min(1, self.cycles))

    def init(self, problem: MinimizeProblem, warm: _State | None = None) -> _State:
        """Take the start: the warm state's values, the given ones, or the objective's own."""
        state = _State(self, problem)
        if warm is not None:
            state.begin(warm.value())
        elif problem.start is not None:
            state.begin(problem.start)
        else:
            state.begin(_first_values(problem), informed=isinstance(problem.objective, Quadratic))
        return state

    def step(self, problem: MinimizeProblem, state: _State) -> None:
        """Do one step of Adam, and change the mask where the phase says so."""
        state.enter()
        rate = self.learning_rate * 0.5 * (1 + math.cos(math.pi * state.iteration / self.iterations))
        state.train(rate)
        state.iteration += 1

    def report(self, problem: MinimizeProblem, state: _State) -> Report:
        """Measure the objective of the matrices as they are."""
        return Report(float(problem.objective.value(state.values())))

    def finish(self, problem: MinimizeProblem, state: _State) -> Outcome:
        """Return the matrices with the blocks of the last sparse phase, or the exact fit on them."""
        state.settle()
        values, status = state.values(), Status.LIMIT
        if self.refit and isinstance(problem.objective, Quadratic):
            objective, backend = problem.objective, problem.backend
            values = refit(objective, state.mask, values, backend)
            other = refit(objective, state.largest, values * state.largest, backend)
            reached, simpler = backend.floats(objective.value(values), objective.value(other))
            state.fitted = values = other if simpler < reached else values
            status = Status.STATIONARY
        return Outcome(values, status, None, state.explain())


@dataclass
class _Part:
    """One matrix of blocks among the parameters."""

    where: slice
    grid: BlockGrid
    model: Reparametrisation
    extra: Array | None
    mask: Array
    kept: int

    def cut(self, row: Array) -> Array:
        """Return the matrix cut into rows of blocks, a view of the flat row."""
        view: Array = row[self.where].reshape(self.grid.grid[0], self.grid.block[0], -1)
        return view


class _State:
    """The parameters, Adam's moments, and the mask of every matrix of blocks."""

    theta: Array
    parts: list[_Part]

    def __init__(self, solver: PhasedTraining, problem: MinimizeProblem) -> None:
        self.solver, self.backend, self.constraint = solver, problem.backend, problem.constraint
        self.objective, self.scale, self.unit = problem.objective, None, 1.0
        self.shape: Shape = problem.objective.shape
        if isinstance(problem.objective, Quadratic):
            diagonal = problem.objective.gram.diagonal().real
            self.scale = ((diagonal + (diagonal <= 0)) ** 0.5)[:, None]
        self.phases = phases(solver.iterations, solver.dense, solver.sparse, solver.cycle, solver.cycles)
        self.rng = np.random.default_rng(problem.seed)
        self.order: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        samples = getattr(problem.objective, "samples", None)
        self.samples = samples if samples is not None and solver.batch is not None else None
        self.iteration, self.phase, self.count = 0, -1, 0
        self.fitted: Array | None = None

    def begin(self, values: Array, *, informed: bool = True) -> None:
        """Start the parameters at these values, which say which blocks matter if they are `informed`."""
        xp = self.backend.xp
        row = values.astype(self.objective.dtype)
        if self.scale is not None:
            row *= self.scale
            size = float(xp.linalg.norm(row)) / math.sqrt(row.size)
            self.unit = size if size > 0 else 1.0
            row /= row.real.dtype.type(self.unit)
            f = self.objective
            self.objective = Quadratic(
                f.gram / self.scale / self.scale.T, f.cross / self.scale / row.real.dtype.type(self.unit), f.right_gram
            )
        self.theta = row.reshape(-1)
        self.largest: Array = self.backend.xp.ones(self.shape, dtype=bool)
        self.parts = []
        for where, grid in _grids(self.constraint, self.shape, type(self.solver).__name__):
            model = self.solver.reparametrisation(grid)
            part = _Part(where, grid, model, None, self._ones(grid), grid.grid[0] * grid.grid[1])
            theta, part.extra = model.begin(part.cut(self.theta), self.backend, informed=informed)
            cells = part.grid.entries(grid.best(grid.energies(self._matrix(part)), self.backend), self.backend)
            self.largest.reshape(-1)[where] = cells.reshape(-1)
            part.cut(self.theta)[...] = theta
            self.parts.append(part)
        self._forget()

    def _matrix(self, part: _Part) -> Array:
        """Return one matrix of the weights."""
        (r, c), (rows, cols) = part.grid.block, part.grid.grid
        return self.theta[part.where].reshape(rows * r, cols * c)

    def _ones(self, grid: BlockGrid) -> Array:
        ones: Array = self.backend.xp.ones(grid.grid, dtype=bool)
        return ones

    def _trained(self) -> list[Array]:
        return [self.theta, *(part.extra for part in self.parts if part.extra is not None)]

    def _forget(self) -> None:
        """Start Adam's moments again."""
        xp, self.count = self.backend.xp, 0
        self.moments = [(xp.zeros_like(x), xp.zeros_like(x.real)) for x in self._trained()]

    def enter(self) -> None:
        """Set the mask for the step that comes, and start a phase where one begins."""
        while self.phase + 1 < len(self.phases) and self.phases[self.phase + 1].start <= self.iteration:
            self.phase += 1
            if self.solver.reset and self.iteration:
                self._forget()
            kind = self.phases[self.phase].kind
            for part in self.parts:
                if kind == "dense":
                    part.mask, part.kept = self._ones(part.grid), part.mask.size
                elif kind == "sparse" and part.kept != part.grid.count:
                    self._keep(part, part.grid.each)
        now = self.phases[self.phase]
        if now.kind == "sparsify":
            c = self.solver.exponent
            time = (self.iteration + 1 - now.start) / (now.end - now.start)
            gone = math.expm1(-c * time) / math.expm1(-c) if c else time
            for part in self.parts:
                length = part.mask.size // (part.grid.count // part.grid.each)
                self._keep(part, max(part.grid.each, length - math.floor((length - part.grid.each) * gone + 0.5)))

    def _keep(self, part: _Part, each: int) -> None:
        """Keep the blocks of largest score among those that are there, `each` in every unit."""
        scores = part.model.scores(part.cut(self.theta), part.extra)
        # what is gone stays gone: it must lose against a block whose score is 0
        scores = self.backend.xp.where(part.mask, scores + np.finfo(scores.dtype).tiny, 0)
        part.mask = self.backend.topk_mask(scores, each, part.grid.per) & part.mask
        part.kept = each * (part.grid.count // part.grid.each)

    def _forward(self) -> tuple[Array, list[Any]]:
        """Return the values of all matrices, and what the gradient needs."""
        row, memory = self.theta.copy(), []
        for part in self.parts:
            values, kept = part.model.forward(part.cut(self.theta), part.extra, part.mask)
            part.cut(row)[...] = values
            memory.append(kept)
        return row.reshape(self.shape), memory

    def train(self, rate: float) -> None:
        """Do one step of Adam on the next batch."""
        values, memory = self._forward()
        _, gradient = self._batch().value_and_gradient(values)
        # the objective may keep what it returned
        row = gradient.reshape(-1).copy()
        gradients = [row]
        for part, kept in zip(self.parts, memory, strict=True):
            own, extra = part.model.backward(part.cut(self.theta), kept, part.mask, part.cut(row))
            part.cut(row)[...] = own
            if part.extra is not None:
                gradients.append(extra)
        self.count += 1
        decay, step = self.solver.weight_decay, rate / (1 - _BETA1**self.count)
        correction = 1 / (1 - _BETA2**self.count)
        for x, g, (first, second) in zip(self._trained(), gradients, self.moments, strict=True):
            real = second.dtype.type
            g += real(decay) * x
            first *= real(_BETA1)
            first += real(1 - _BETA1) * g
            second *= real(_BETA2)
            second += real(1 - _BETA2) * (g * g.conj()).real
            size = (real(correction) * second) ** 0.5
            size += real(_EPSILON)
            x -= real(step) * first / size

    def _batch(self) -> Any:
        if self.samples is None or self.solver.batch is None or self.solver.batch >= self.samples:
            return self.objective
        if self.order.size < self.solver.batch:
            self.order = self.rng.permutation(self.samples)
        rows, self.order = self.order[: self.solver.batch], self.order[self.solver.batch :]
        return self.objective.batch(self.backend.asarray(rows))

    def settle(self) -> None:
        """Keep as many blocks as are allowed, in a run that was ended early, too."""
        for part in self.parts:
            if part.kept != part.grid.count:
                self._keep(part, part.grid.each)

    @property
    def mask(self) -> Array:
        """The mask of all entries."""
        row: Array = self.backend.xp.ones(self.theta.size, dtype=bool)
        for part in self.parts:
            row[part.where] = part.grid.entries(part.mask, self.backend).reshape(-1)
        return row.reshape(self.shape)

    def value(self) -> Array:
        """Return the matrices that the run ended with."""
        return self.values() if self.fitted is None else self.fitted

    def values(self) -> Array:
        """Return the matrices as they are, in the variables of the problem."""
        values, _ = self._forward()
        if self.scale is not None:
            values *= values.real.dtype.type(self.unit)
            values /= self.scale
        return values

    def explain(self) -> str:
        """Say what was done."""
        kinds: dict[str, int] = {}
        for phase in self.phases:
            kinds[phase.kind] = kinds.get(phase.kind, 0) + 1
        named = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        blocks = "; ".join(f"{part.grid.count} of {part.mask.size} blocks kept" for part in self.parts)
        return f"{self.iteration} steps of Adam in {len(self.phases)} phases ({named}): {blocks or 'no constraint'}."


def _grids(constraint: Constraint, shape: Shape, who: str) -> list[tuple[slice, BlockGrid]]:
    """Return where the matrices of blocks lie in the flat row, with their grids; one without a constraint has none."""
    if not isinstance(constraint, NamedConstraint):
        named = [(shape, constraint)]
    else:
        named = [(constraint.shapes[name], each) for name, each in constraint.constraints.items()]
    start, found = 0, []
    for (m, n), each in named:
        if not isinstance(each, Dense):
            found.append((slice(start, start + m * n), block_grid(each, (m, n), who)))
        start += m * n
    return found


def _first_values(problem: MinimizeProblem) -> Array:
    """Return where to start: a quadratic's minimiser, the objective's own start, or small random numbers."""
    objective, backend = problem.objective, problem.backend
    if isinstance(objective, Quadratic):
        everything = backend.xp.ones(objective.shape, dtype=bool)
        zero: Array = backend.xp.zeros(objective.shape, dtype=objective.dtype)
        return refit(objective, everything, zero, backend)
    start: Array | None = objective.initial(problem.seed) if hasattr(objective, "initial") else None
    if start is None:
        drawn = np.random.default_rng(problem.seed).standard_normal(objective.shape) / math.sqrt(objective.shape[0])
        start = backend.asarray(drawn.astype(objective.dtype))
    return start
