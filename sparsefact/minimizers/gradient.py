"""Projected gradient descent, plain or with a step of its own for every entry.

    w <- P(w - c direction),     P the projection on the constraint

    sgd        direction = m,                 m <- momentum m + g
    rmsprop    direction = g / sqrt(v),       v <- b2 v + (1 - b2) g^2
    adam       direction = m / sqrt(v),       m <- b1 m + (1 - b1) g,   both divided by what they lack at the start

References: T. Tieleman, G. Hinton, lecture 6.5, 2012 (RMSProp); D. Kingma, J. Ba, "Adam", ICLR 2015.

Symbols: w unknown, g gradient (of a batch of samples, where asked for), c step, m first and v second moment.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.errors import ArgumentError
from sparsefact.minimizers.adapted import dot, evaluate
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.restricted import fit_on
from sparsefact.minimizers.scaling import scale_of, scaled
from sparsefact.minimizers.smoothness import estimate
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["Gradient"]

# The learning rate of "adam" and "rmsprop" where the curvature is bounded, and where it is not.
_BOUNDED, _UNBOUNDED = 0.3, 0.03


@dataclass(frozen=True)
class Gradient:
    """Gradient descent, projected on the constraint after every step.

    Parameters
    ----------
    rule : {"sgd", "adam", "rmsprop"}
    learning_rate : float, optional
        For "sgd" relative to 1/L, L the Lipschitz constant of the gradient as the objective guarantees it, or as a
        power iteration at the start estimates it; 1 unless given. For the others relative to the size of the unknown,
        the root mean square of what the start keeps (a start at zero is replaced by a projected step 1/L); .3 unless
        given, so that dropped entries can come back, and .03 where no L is guaranteed, as for a network.
    steps : int
    schedule : {"constant", "cosine"}
        How the learning rate falls over the run: not at all, or to zero.
    momentum : float
        Of "sgd", in [0, 1).
    betas : (float, float)
        Decay of the two moments of "adam", the second one of "rmsprop".
    batch : int, optional
        Samples in the gradient of a step, for an objective that is a mean of samples; all unless given. They are drawn
        without replacement in each pass, from the seed of the call.
    scaling : {"diagonal", "none"}
        For a quadratic, whether its Gram matrix is scaled to a unit diagonal.
    refit : bool
        End with the best values on the support.
    tolerance : float
        Without batches, ends the run when a step moves by less than this, relatively, on an unchanged support.
    half_steps : int
        `steps` as the inner solver of `Alternating`, in each half-step.
    report_every : int
        Steps between two reports of the objective, each of which evaluates it.

    Raises
    ------
    ArgumentError
        If a parameter is not known or outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X, truth = rng.standard_normal((60, 20)), sf.TopK(nnz=12).project(rng.standard_normal((20, 5)))
    >>> f = sf.LeastSquares(X, X @ truth)
    >>> bool(np.allclose(sf.minimize(f, sf.TopK(nnz=12), sf.Gradient(rule="sgd")).value, truth))
    True
    """

    rule: Literal["sgd", "adam", "rmsprop"] = "sgd"
    learning_rate: float | None = None
    steps: int = 500
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    batch: int | None = None
    scaling: Literal["diagonal", "none"] = "diagonal"
    refit: bool = False
    tolerance: float = 1e-12
    half_steps: int = 10
    report_every: int = 10

    def __post_init__(self) -> None:
        for name, allowed in (
            ("rule", ("sgd", "adam", "rmsprop")),
            ("schedule", ("constant", "cosine")),
            ("scaling", ("diagonal", "none")),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(repr(each) for each in allowed)
                raise ArgumentError(f"{name}={getattr(self, name)!r} is not known; pass one of {choices}")
        for name in ("steps", "half_steps", "report_every"):
            check_count(name, getattr(self, name))
        if self.batch is not None:
            check_count("batch", self.batch)
        rate = self.learning_rate
        if rate is not None and not (rate > 0 and math.isfinite(rate)):
            raise ArgumentError(
                f"learning_rate={rate!r} is not allowed; pass a positive number, or None for the default"
            )
        for name, value in (("momentum", self.momentum), *((f"betas[{i}]", b) for i, b in enumerate(self.betas))):
            if not 0 <= value < 1:
                raise ArgumentError(f"{name}={value!r} is outside [0, 1); pass a number in it")
        check_non_negative("tolerance", self.tolerance)

    @property
    def iterations(self) -> int:
        """Steps at most."""
        return self.steps

    def at(self, fraction: float) -> Gradient:
        """Return the configuration for a half-step of an alternating run: few steps, without an end of its own."""
        return dataclasses.replace(self, steps=self.half_steps, schedule="constant", refit=False, batch=None)

    def init(self, problem: MinimizeProblem, warm: _State | None = None) -> _State:
        """Take the first point, and the length of the steps."""
        return _State(self, problem, warm)

    def step(self, problem: MinimizeProblem, state: _State) -> None:
        """Move along the direction of the rule, and project."""
        if not state.converged:
            state.advance()

    def report(self, problem: MinimizeProblem, state: _State) -> Report:
        """Measure the objective."""
        return Report(float(state.objective.value(state.w)), None, state.converged)

    def finish(self, problem: MinimizeProblem, state: _State) -> Outcome:
        """Return the point, or the best one on its support."""
        if self.refit:
            where = f"in the refit after iteration {state.iteration}"
            found = fit_on(state.objective, state.mask, state.w, problem.backend, where=where)
            if found.value <= float(state.objective.value(state.w)):
                state.w = found.w
        explanation = f"{state.iteration} steps of {self.rule}, projected on the constraint."
        return Outcome(state.value(), Status.STATIONARY if state.converged else Status.LIMIT, None, explanation)


class _State:
    """The point in scaled variables, its support, and the moments."""

    def __init__(self, solver: Gradient, problem: MinimizeProblem, warm: _State | None) -> None:
        self.solver, self.backend, self.constraint = solver, problem.backend, problem.constraint
        xp = self.backend.xp
        self.objective, self.scale = problem.objective, None
        if isinstance(problem.objective, Quadratic) and solver.scaling == "diagonal":
            self.scale, self.objective = scale_of(problem.objective), scaled(problem.objective)
        start = problem.start if warm is None else warm.value()
        if start is None and hasattr(self.objective, "initial"):
            start = self.objective.initial(problem.seed)
        if start is None:
            self.w = xp.zeros(self.objective.shape, dtype=self.objective.dtype)
        else:
            self.w = start.astype(self.objective.dtype)
            self.w = self.w if self.scale is None else self.w * self.scale
        self.mask = self.backend.asarray(self.constraint.mask(self.w))
        self.w = self.w * self.mask
        self.iteration, self.converged = 0, False
        self.rng = np.random.default_rng(problem.seed)
        self.order: NDArray[np.intp] | None = None
        self.samples = getattr(self.objective, "samples", None)
        if solver.batch is not None and self.samples is None:
            raise ArgumentError(
                f"batch={solver.batch} was asked for, but the objective is not a mean of samples with a method batch; "
                "pass batch=None"
            )
        self.first: Any = xp.zeros_like(self.w) if solver.rule != "rmsprop" else None
        self.second: Any = xp.zeros(self.w.shape, dtype=self.w.real.dtype) if solver.rule != "sgd" else None
        self.unit = self._unit(problem.seed)

    def _unit(self, seed: int) -> float:
        """Return what a learning rate of 1 stands for: 1/L, or the size of the unknown."""
        largest = self.objective.lipschitz()
        rate = 1.0 if self.solver.rule == "sgd" else _UNBOUNDED if largest is None else _BOUNDED
        self.rate = rate if self.solver.learning_rate is None else self.solver.learning_rate
        if largest is None:
            largest, _ = estimate(self.objective, "power", self.constraint, self.w, self.backend, seed)
        inverse = 1.0 / largest if largest else 1.0
        if self.solver.rule == "sgd":
            return inverse
        _, gradient = evaluate(self.objective, self.w, self.backend, "at the start")
        (size,) = self.backend.floats(dot(self.w, self.w))
        if not size > 0:
            # from zero the first step would move all entries by the same, and choose the support blindly
            self.w = gradient * gradient.real.dtype.type(-inverse)
            self.mask = self.backend.asarray(self.constraint.mask(self.w))
            self.w = self.w * self.mask
            (size,) = self.backend.floats(dot(self.w, self.w))
        return math.sqrt(size / max(1, int(self.mask.sum()))) or 1.0

    def _part(self) -> Any:
        """Return the objective of the next batch of samples, or of all."""
        size = self.solver.batch
        if size is None or self.samples is None or size >= self.samples:
            return self.objective
        if self.order is None or self.order.size < size:
            self.order = self.rng.permutation(self.samples)
        rows, self.order = self.order[:size], self.order[size:]
        return self.objective.batch(self.backend.asarray(rows))

    def advance(self) -> None:
        """Do one step."""
        solver, xp = self.solver, self.backend.xp
        kind = self.w.real.dtype.type
        where = f"at iteration {self.iteration}, which begins where a step of {solver.rule} led"
        where = where if self.iteration else "at the start"
        _, gradient = evaluate(self._part(), self.w, self.backend, where)
        rate = self.rate
        if solver.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * self.iteration / solver.steps))
        self.iteration += 1
        first, second = solver.betas
        if solver.rule == "sgd":
            self.first = kind(solver.momentum) * self.first + gradient
            direction = self.first
        else:
            self.second = kind(second) * self.second + kind(1 - second) * abs(gradient) ** 2
            lacking = 1 - second**self.iteration
            size = (self.second / kind(lacking)) ** 0.5
            direction = gradient
            if solver.rule == "adam":
                self.first = kind(first) * self.first + kind(1 - first) * gradient
                direction = self.first / kind(1 - first**self.iteration)
            direction = xp.where(size > 0, direction / xp.where(size > 0, size, 1), 0)
        moved = self.w - kind(rate * self.unit) * direction
        mask = self.backend.asarray(self.constraint.mask(moved))
        moved = moved * mask
        if solver.batch is None and solver.rule == "sgd":
            change = moved - self.w
            squared, size, same = self.backend.floats(dot(change, change), dot(moved, moved), (mask == self.mask).all())
            still = max(solver.tolerance, 4 * float(np.finfo(moved.dtype).eps))
            self.converged = bool(same) and squared <= still**2 * size
        self.w, self.mask = moved, mask

    def value(self) -> NDArray[Any]:
        """Return the point in the variables of the problem, a new array."""
        value: NDArray[Any] = self.w + 0 if self.scale is None else self.w / self.scale + 0
        return value
