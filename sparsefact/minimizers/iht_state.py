"""Where iterative hard thresholding stands, and its steps; `sparsefact.minimizers.iht` says what they are.

Symbols: w unknown, g gradient, c step, t = w - c g, M mask of the support.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.minimizers.adapted import ask, dot, evaluate, measure, not_finite
from sparsefact.minimizers.protocol import MinimizeProblem
from sparsefact.minimizers.restricted import fit_on, improve_on
from sparsefact.minimizers.scaling import scale_of, scaled
from sparsefact.minimizers.smoothness import curvature, estimate
from sparsefact.minimizers.swap import Polish, polish_of
from sparsefact.objectives.quadratic import Quadratic

if TYPE_CHECKING:
    from sparsefact.minimizers.iht import IHT

__all__ = ["IHTState"]

# How often a step is shortened before it is given up, and by how much.
_TRIALS, _SHORTER = 60, 0.5
_PURSUIT_TRIALS = 6
# Rows from which a pursuit fits supports by some steps of conjugate gradients before it fits them exactly.
_LOOSE_FROM, _LOOSE_STEPS = 192, 2
# They have settled when two steps gain less than this of all that was gained.
_LOOSE_GAIN = 3e-3


class IHTState:
    """Where the method stands: the point in scaled variables, its gradient, its support and the step."""

    mask: NDArray[np.bool_]
    w: NDArray[Any]
    gradient: NDArray[Any]
    t: NDArray[Any]

    def __init__(self, solver: IHT, problem: MinimizeProblem) -> None:
        self.solver, self.backend, self.constraint = solver, problem.backend, problem.constraint
        self.seed = problem.seed
        self.objective, self.scale = problem.objective, None
        if isinstance(problem.objective, Quadratic) and solver.scaling == "diagonal":
            self.scale = scale_of(problem.objective)
            self.objective = scaled(problem.objective)
        self.iteration = self.swapped = self.shortened = 0
        self.searched = self.done = self.settled = self.fitted = False
        self.previous: NDArray[Any] | None = None
        self.momentum = 1.0
        # a pursuit of a large quadratic fits its supports loosely until they have settled
        self.loose = solver.variant == "htp" and self.scale is not None and problem.objective.shape[0] >= _LOOSE_FROM
        # the step of the first pursuit, and the one that the last loose fit suggests for the next
        self.opening: float | None = None
        self.fresh: float | None = None
        self.recent: list[float] = []
        self.exact = self.objective
        if self.loose:
            # what only has to find a support can do so in single precision
            self.objective = _single(self.objective)
        self.polish: Polish | None = None
        self.gains = [0.0, 0.0]

    def place(self, problem: MinimizeProblem, warm: IHTState | None) -> None:
        """Take the first point, its support and its gradient, and learn the Lipschitz constant."""
        backend, objective, xp = self.backend, self.objective, self.backend.xp
        if warm is not None:
            self.w = warm.w if warm.scale is None else warm.w / warm.scale
            self.w = self.w if self.scale is None else self.w * self.scale
            self.w = self.w.astype(objective.dtype)
            self.mask = self._select(self.w)
            self.w = self.w * self.mask
        else:
            start = problem.start
            if start is None and hasattr(objective, "initial"):
                start = objective.initial(problem.seed)
            if start is None:
                self.w = xp.zeros(objective.shape, dtype=objective.dtype)
                self.mask = xp.zeros(objective.shape, dtype=bool)
            else:
                self.w = start if self.scale is None else start * self.scale
                self.w = self.w.astype(objective.dtype)
                self.mask = self._select(self.w)
                self.w = self.w * self.mask
        self.value_here, self.gradient = evaluate(objective, self.w, backend, "at the start")
        self.t = self.w
        self.constant: float | None = None
        self.bound: float | None = None
        self.length: float | None = None
        if self.solver.variant in ("plain", "accelerated"):
            self._learn()
        self.first_value = self.value_here

    def _learn(self) -> None:
        rule = self.solver.lipschitz
        self.constant, self.bound = estimate(self.objective, rule, self.constraint, self.w, self.backend, self.seed)
        self.guaranteed = rule == "bound" and self.constant is not None
        self.length = 1.0 / self.constant if self.constant else None

    def _select(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self.backend.asarray(self.constraint.mask(scores))
        return mask

    def _where(self, length: float) -> str:
        return f"at iteration {self.iteration}, after a step of length {length:.3g}"

    def _first_length(self, direction: NDArray[Any]) -> float:
        """Return the best step along the direction, to second order; the last step where there is no curvature."""
        image = curvature(
            self.objective, self.w, self.gradient, direction, self.backend, f"at iteration {self.iteration}"
        )
        squared, curved = self.backend.floats(dot(direction, direction), dot(direction, image))
        if curved > 0 and squared > 0:
            return squared / curved
        return 2.0 * self.length if self.length else 1.0

    def threshold(self) -> None:
        """Do one step of the plain, normalized or accelerated variant."""
        if self.solver.variant == "accelerated" and self.previous is not None and self._leap():
            return
        if self.solver.variant == "normalized":
            on = self.gradient * self.mask
            if self.iteration == 1 and not self.backend.floats(abs(on).max())[0] > 0:
                on = self.gradient * self._select(self.gradient)
            length = self._first_length(on)
        elif self.length is None:
            length = self._first_length(self.gradient)
        else:
            length = self.length if self.constant is not None else 2.0 * self.length
        self._descend(self.w, self.value_here, self.gradient, length)

    def _descend(
        self, w: NDArray[Any], value: float, gradient: NDArray[Any], length: float, *, trials: int = _TRIALS
    ) -> bool:
        """Move to the projection of a gradient step from `w`, shortened until it keeps its promise."""
        if not math.isfinite(length):
            # no curvature is left where the gradient vanishes: the infimum is not attained
            self.searched = self.settled = True
            return False
        eps = float(np.finfo(w.dtype).eps)
        noise = 8 * eps * (abs(value) + abs(self.first_value))
        kind = w.real.dtype.type
        finite = False
        for _ in range(trials):
            t = w - kind(length) * gradient
            mask = self._select(t)
            moved = t * mask
            answer, slope = ask(self.objective, moved, self._where(length))
            change = moved - w
            # all at once: a GPU is waited for in each of these calls
            there, steepest, squared, curved, size, same = self.backend.floats(
                answer,
                abs(slope).max(),
                dot(change, change),
                dot(slope - gradient, change),
                dot(moved, moved),
                (mask == self.mask).all(),
            )
            there = there if math.isfinite(steepest) else math.nan
            finite = finite or math.isfinite(there)
            # rounding in two gradients hides curvature along a move this short
            short = squared <= (32 * eps) ** 2 * size
            if math.isfinite(there) and (
                short
                or (curved <= squared / length * (1 + 1e-6) and there <= value + noise)
                or there <= value - 1e-3 * squared / length
            ):
                self.length, self.t = length, t
                self.previous, self.w, self.mask = self.w, moved, mask
                self.value_here, self.gradient, self.fitted = there, slope, False
                if same and squared <= max(self.solver.tolerance, 4 * eps) ** 2 * size:
                    self.searched = self.settled = True
                return True
            self.shortened += 1
            length *= _SHORTER
        if not finite:
            raise not_finite(self.objective, f"{self._where(length)} and after longer ones")
        if trials == _TRIALS:
            self.searched = self.settled = True
        return False

    def _leap(self) -> bool:
        """Try a step from the extrapolated point; return whether it lowered the objective."""
        assert self.previous is not None
        following = 0.5 * (1 + math.sqrt(1 + 4 * self.momentum**2))
        weight = (self.momentum - 1) / following
        self.momentum = following
        if weight == 0:
            return False
        here = self.w, self.mask, self.value_here, self.gradient, self.previous, self.t, self.length
        ahead = self.w + self.w.real.dtype.type(weight) * (self.w - self.previous)
        value, gradient = measure(self.objective, ahead, self.backend, f"at iteration {self.iteration}, extrapolated")
        length = self.length or 1.0
        previous = self.w
        if math.isfinite(value) and self._descend(ahead, value, gradient, length, trials=3):
            self.previous = previous
            if self.value_here < here[2]:
                return True
        self.w, self.mask, self.value_here, self.gradient, self.previous, self.t, self.length = here
        self.searched = self.settled = False
        self.momentum = 1.0
        return False

    def pursue(self) -> None:
        """Do one step of hard thresholding pursuit: a new support, and the best values on it."""
        if not self.fitted and self.iteration > 1:
            self.fit()
        length = self.fresh
        if length is None:
            outside = self.gradient * ~self.mask if self.fitted else self.gradient
            length = self._first_length(outside * self._select(outside))
            self.opening = length if self.loose else None
        kind = self.w.real.dtype.type
        first = length
        for _ in range(_PURSUIT_TRIALS):
            t = self.w - kind(length) * self.gradient
            mask = self._select(t)
            (same,) = self.backend.floats((mask == self.mask).all())
            if same and self.fitted:
                if self._tighten():
                    return
                # the support repeats: for this step, or only for one shorter than the first
                self.length, self.t, self.searched, self.settled = length, t, True, True
                return
            before = self.value_here
            w, value, gradient = self._fitted(mask, t * mask, length)
            if value < before - 1e-12 * abs(before) or not self.fitted:
                self.length, self.t = length, t
                self.w, self.mask, self.value_here, self.gradient, self.fitted = w, mask, value, gradient, True
                self.recent = [*self.recent[-1:], before]
                if self.loose and self.recent[0] - value < _LOOSE_GAIN * (self.first_value - value):
                    self._tighten()
                return
            self.shortened += 1
            length *= _SHORTER**2
        if not self._tighten():
            self.length, self.searched, self.settled = min(first, length), True, True

    def _tighten(self) -> bool:
        """Go from loose to exact fits, when nothing is left to gain with loose ones; return whether that was news."""
        if not self.loose:
            return False
        self.loose, self.fresh = False, self.opening
        self.objective, self.w = self.exact, self.w.astype(self.exact.dtype)
        self.value_here, self.gradient = evaluate(self.objective, self.w, self.backend, "after the loose fits")
        self.fit()
        return True

    def _fitted(
        self, mask: NDArray[np.bool_], start: NDArray[Any], length: float
    ) -> tuple[NDArray[Any], float, NDArray[Any]]:
        """Return the best values on a support, with the objective and its gradient there."""
        where = self._where(length)
        objective = self.objective
        if self.loose:
            found, self.fresh = improve_on(objective, mask, start, self.backend, _LOOSE_STEPS)
            if not math.isfinite(found.value):
                raise not_finite(objective, where)
            return found.w, found.value, found.gradient
        if isinstance(objective, Quadratic) and objective.right_gram is None and self.fitted:
            # columns are independent, and most supports have settled after a few steps
            changed = self.backend.xp.flatnonzero((mask != self.mask).any(axis=0))
            w = self.w.copy()
            w[:, changed] = self.backend.masked_lsq(objective.gram, objective.cross[:, changed], mask[:, changed])
            value, gradient = evaluate(objective, w, self.backend, where)
            return w, value, gradient
        found = fit_on(objective, mask, start, self.backend, where=where)
        return found.w, found.value, found.gradient

    def fit(self) -> None:
        """Take the best values on the present support, if they are better."""
        found = fit_on(
            self.objective, self.mask, self.w, self.backend, where=f"in the refit after iteration {self.iteration}"
        )
        if found.value <= self.value_here:
            self.gains[0] += self.value_here - found.value
            self.w, self.value_here, self.gradient = found.w, found.value, found.gradient
        self.fitted = True

    def exchange(self, candidates: int) -> None:
        """Do one round of exchanges; when none helps, see whether a thresholding step does."""
        if not self.fitted:
            self.fit()
        if self.polish is None:
            self.polish = polish_of(self.objective, self.constraint, self.backend)
            if self.constant is None and self.bound is None:
                self._learn()
        before = self.value_here
        found = self.polish.round(self.w, self.mask, self.value_here, self.gradient, candidates, self.iteration)
        if found is not None:
            self.w, self.mask, self.value_here, self.gradient, count = found
            self.swapped += count
            self.gains[1] += before - self.value_here
            return
        length = self.claimed_step()
        t = self.w - self.w.real.dtype.type(length) * self.gradient
        mask = self._select(t)
        (same,) = self.backend.floats((mask == self.mask).all())
        if not same:
            w, value, gradient = self._fitted(mask, t * mask, length)
            if value < self.value_here - 1e-12 * abs(self.value_here):
                self.w, self.mask, self.value_here, self.gradient, self.t = w, mask, value, gradient, t
                self.gains[1] += before - value
                return
        self.done = self.settled = True

    def claimed_step(self) -> float:
        """Return the step for which the certificate claims stability."""
        if self.constant:
            return 1.0 / self.constant
        return self.length or 0.0

    def value(self) -> NDArray[Any]:
        """Return the point in the variables of the problem, a new array."""
        return self.w + 0 if self.scale is None else self.w / self.scale + 0

    def leave_loose(self) -> None:
        """Give the point of loose fits, that were ended early, its exact values."""
        if self.loose:
            self._tighten()

    def release(self) -> None:
        """Drop what a warm start does not need."""
        self.w, self.t = (x.astype(self.exact.dtype, copy=False) for x in (self.w, self.t))
        for name in ("objective", "exact", "gradient", "previous", "polish"):
            if hasattr(self, name):
                delattr(self, name)

    def rescale(self, factor: NDArray[Any]) -> None:
        """Change the variables of a released state: multiply row i by factor[i, 0], emptying it where that is 0."""
        alive = factor > 0
        for array in (self.t, self.w):
            array[~alive[:, 0]] = 0
        scale = 1.0 if self.scale is None else self.scale
        self.scale = self.backend.xp.where(alive, scale / self.backend.xp.where(alive, factor, 1), 1)

    def restart(self, rows: NDArray[Any], columns: NDArray[Any] | None, values: NDArray[Any]) -> None:
        """Set emptied rows of a released state anew: one entry in each row, or (without `columns`) all of it."""
        self.mask[rows] = columns is None
        if columns is None:
            self.w[rows] = values
        else:
            self.w[rows, columns] = values
            self.mask[rows, columns] = True
        self.t[rows] = self.w[rows]

    def explain(self, certificate: Any) -> str:
        """Say what the run did, and what its end is worth."""
        name = {"htp": "hard thresholding pursuit"}.get(
            self.solver.variant, f"{self.solver.variant} iterative hard thresholding"
        )
        text = f"{self.iteration} steps of {name}"
        text += f", of which {self.shortened} were shortened." if self.shortened else "."
        if self.solver.polish:
            text += f" {self.swapped} exchanges of entries lowered the objective by {self.gains[1]:.3g}."
            if self.polish is not None and not self.polish.possible:
                text += " The constraint leaves no two entries to exchange."
        if self.solver.lipschitz == "montecarlo" and self.constant is not None:
            text += (
                f" The Monte-Carlo estimate {self.constant:.4g} of the Lipschitz constant is a lower bound of it"
                + (f"; {self.bound:.4g} is an upper one." if self.bound is not None else ".")
            )
        word = "is" if certificate.stable else "is not"
        return text + (
            f" The point {word} HT-stable for a step of {certificate.step:.3g} (residual {certificate.residual:.3g} on "
            f"the support, stable up to {certificate.largest_step:.3g})."
        )


def _single(objective: Any) -> Quadratic:
    """Return a quadratic in single precision."""
    gram, cross, right = objective.gram, objective.cross, objective.right_gram
    kind = np.complex64 if gram.dtype.kind == "c" else np.float32
    return Quadratic(
        gram.astype(kind), cross.astype(kind), None if right is None else right.astype(kind), objective.constant
    )
