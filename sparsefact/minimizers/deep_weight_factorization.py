"""Deep weight factorization: sparsity by gradient descent on the factors of an elementwise product.

    W_j = omega_j gamma_j1 ... gamma_j(D-1)            j an entry, or a block with one gamma for all of it
    minimise  f(W) + lambda/D sum_j (||omega_j||^2 + gamma_j1^2 + ...)       over the factors

By the inequality of arithmetic and geometric means this has the minima of ``f(W) + lambda sum_j ||W_j||^(2/D)``: the
lasso for D = 2, and ever sharper, non-convex penalties for more. With weight decay written ``(wd / 2) sum
||factor||^2`` it is lambda = wd D / 2.

    omega_j <- omega_j - c (gamma_j g_j + 2 lambda/D omega_j),           gamma_j the product of all gamma_jd
    gamma_jd <- gamma_jd - c (prod over e != d of gamma_je <omega_j, g_j> + 2 lambda/D gamma_jd)

What a run must watch:

* Balance. At a stationary point all factors of a W_j have one size; the misalignment, the factors' penalty minus that
  of W, is zero there and falls by exp(-4 lambda/D) per unit of summed steps.
* Time. A weight that the data do not hold decays by exp(-2 lambda) per unit of summed steps, whatever D. Below
  lambda sum(c) of about 7 no weight of ordinary size has had the time to fall under the threshold.
* Signs. A product of factors cannot cross zero while they are balanced, so the signs of the start are kept: from given
  weights all factors start balanced with the right sign.
* Collapse. For D > 2 zero is a local minimum for every lambda.

References: C. Kolb, T. Weber, B. Bischl, D. Rugamer, "Deep weight factorization: sparse learning through the lens of
artificial symmetries", ICLR 2025 (entries; the truncated start); C. Kolb and others, "Differentiable sparsity via
D-gating", NeurIPS 2025 (blocks). Ours: the start from given weights, the safe step.

Symbols: W unknown, g gradient of f in it, D depth, c step, L Lipschitz constant of g.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.dense import Dense
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.adapted import evaluate, measure, not_finite, pieces
from sparsefact.minimizers.block_norms import block_sums, check_blocks, fit_blocks, spread
from sparsefact.minimizers.factor_starts import factored_entries, first_weights, truncated_factors
from sparsefact.minimizers.parameters import check_count, check_depth, check_non_negative, check_penalty
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.restricted import fit_on
from sparsefact.minimizers.smoothness import estimate
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["DeepWeightFactorization"]

_LOG = logging.getLogger(__name__)
# Machine epsilon of float32: collapsed weights below it are zero, in any precision.
_THRESHOLD = 2.0**-23
# exp(-2 * 7) takes a weight of .1 to about the threshold
_ENOUGH = 7.0
# A guessed Lipschitz constant shrinks by this after each step that was taken, and doubles when one is undone.
_RELAXED = 0.97
# The smallest size of a factor at the start, relative to the largest: a factor of zero could not leave it.
_FLOOR = 1e-3


@dataclass(frozen=True)
class DeepWeightFactorization:
    """Minimise ``f(W) + penalty * sum ||W_j||^(2 / depth)`` by gradient descent on the factors of W.

    Parameters
    ----------
    depth : int
        Number of factors D, at least 2; 3 or 4 are sharper, more is unstable.
    penalty : float
        lambda, positive: the weight of ``sum |W|^(2/depth)``, not of a weight decay of the factors.
    blocks : (int, int), optional
        Rows and columns of the blocks W_j; single entries unless given.
    steps : int
    learning_rate : float
        Relative to the safe step ``1 / (D L max ||factor||^(2D - 2) + ...)``, which is formed anew in every step; up to
        1 no step raises the objective when L is guaranteed. Without a bound of L the first one is estimated and steps
        that raise the objective are undone.
    momentum : float
        In [0, 1): this share of the last step is taken again. The decay counts the steps as 1 / (1 - momentum) longer.
    schedule : {"cosine", "constant"}
        How the learning rate falls over the run.
    start : {"auto", "weights", "truncated"}
        "weights": balanced factors of the weights of `init`, of the objective, or of a quadratic's dense minimiser.
        "truncated": random factors as published for training from scratch, of the standard deviation of the objective's
        own start. "auto" is "weights" with an `init` and for a quadratic.
    threshold : float
        Smaller norms of W_j are exactly zero at the end.
    refit : bool
        End with the best values on the support, without the penalty.
    tolerance : float
        Ends the run when the gradient in the factors of all living weights is this small, relatively to the first one.
    half_steps : int
        `steps` as the inner solver of `Alternating`, in each half-step.
    report_every : int
        Steps between two reports of the penalised objective.

    Raises
    ------
    ArgumentError, ShapeError
        If a parameter is outside its range, or the blocks do not divide the matrix.

    Notes
    -----
    An objective of several matrices is factorized in those of more than one row: biases are neither factorized nor
    penalised. With a constraint that chooses entries the result is projected on it at the end; a fixed support is kept
    throughout.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> f = sf.Quadratic(np.eye(2), np.array([[3.0, 0.5], [0.25, -2.0]]))
    >>> sf.minimize(f, sf.Dense(), sf.DeepWeightFactorization(depth=2, penalty=1.0)).value.round(6)
    array([[ 2.,  0.],
           [ 0., -1.]])
    """

    depth: int = 2
    penalty: float = 1e-3
    blocks: tuple[int, int] | None = None
    steps: int = 5000
    learning_rate: float = 0.9
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    start: Literal["auto", "weights", "truncated"] = "auto"
    threshold: float = _THRESHOLD
    refit: bool = False
    tolerance: float = 1e-12
    half_steps: int = 50
    report_every: int = 20

    def __post_init__(self) -> None:
        check_depth(self.depth)
        check_penalty(self.penalty)
        object.__setattr__(self, "blocks", check_blocks(self.blocks))
        for name in ("steps", "half_steps", "report_every"):
            check_count(name, getattr(self, name))
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ArgumentError(f"learning_rate={self.learning_rate!r} is not allowed; pass a number in (0, 1]")
        for name, allowed in (("schedule", ("cosine", "constant")), ("start", ("auto", "weights", "truncated"))):
            if getattr(self, name) not in allowed:
                choices = ", ".join(repr(each) for each in allowed)
                raise ArgumentError(f"{name}={getattr(self, name)!r} is not known; pass one of {choices}")
        if not 0 <= self.momentum < 1:
            raise ArgumentError(f"momentum={self.momentum!r} is outside [0, 1); pass a number in it")
        check_non_negative("threshold", self.threshold)
        check_non_negative("tolerance", self.tolerance)

    @property
    def iterations(self) -> int:
        """Steps at most."""
        return self.steps

    def at(self, fraction: float) -> DeepWeightFactorization:
        """Return the configuration for a half-step of an alternating run."""
        return dataclasses.replace(self, steps=self.half_steps, schedule="constant", start="weights", refit=False)

    def init(self, problem: MinimizeProblem, warm: _State | None = None) -> _State:
        """Factorize the first point."""
        return _State(self, problem, warm)

    def step(self, problem: MinimizeProblem, state: _State) -> None:
        """Take a gradient step on all factors."""
        if not state.converged:
            state.advance()

    def report(self, problem: MinimizeProblem, state: _State) -> Report:
        """Return the penalised objective of the factors, and whether their gradient has vanished."""
        return Report(state.total(), None, state.stationary(self.tolerance))

    def finish(self, problem: MinimizeProblem, state: _State) -> Outcome:
        """Multiply the factors, set what is below the threshold to zero, project, and refit on request."""
        backend = problem.backend
        value = state.collapsed()
        if not isinstance(problem.constraint, Dense):
            value = value * backend.asarray(problem.constraint.mask(value))
        text = state.explain(value)
        if self.refit:
            value = fit_on(problem.objective, value != 0, value, backend, where="in the refit at the end").w
            text += " The values were refitted on the support, without the penalty."
        return Outcome(value, Status.STATIONARY if state.converged else Status.LIMIT, None, text)


class _State:
    """The factors: omega of the shape of W, and the gammas with one number for each block."""

    def __init__(self, solver: DeepWeightFactorization, problem: MinimizeProblem, warm: _State | None) -> None:
        self.solver, self.objective, self.backend = solver, problem.objective, problem.backend
        self.block = fit_blocks(solver.blocks, problem.objective)
        xp, objective = self.backend.xp, self.objective
        self.iteration, self.converged, self.summed, self.undone = 0, False, 0.0, 0
        self.half_step = problem.expendable
        self.velocity: list[NDArray[Any]] | None = None
        # a fixed support holds throughout; what a constraint chooses is chosen at the end
        fixed = hasattr(problem.constraint, "tocsr") or hasattr(problem.constraint, "a")
        dense = xp.zeros(objective.shape, dtype=objective.dtype)
        self.allowed = self.backend.asarray(problem.constraint.mask(dense)) if fixed else None
        self.factored = factored_entries(objective, self.backend)
        start = problem.start if warm is None else warm.value()
        if solver.start == "truncated" or (
            solver.start == "auto" and start is None and not isinstance(objective, Quadratic)
        ):
            self._start_at_random(problem.seed)
        else:
            self._start_from(first_weights(objective, self.backend, problem.seed) if start is None else start)
        largest = objective.lipschitz()
        self.guaranteed = largest is not None
        if largest is None:
            largest, _ = estimate(objective, "power", Dense(), self.value(), self.backend, problem.seed)
        self.largest = float(largest or 1.0)
        self.here, self.gradient = evaluate(objective, self.value(), self.backend, "at the start")
        self.first = max(self._slope(), float(np.finfo(np.float64).tiny))

    def _norms(self, x: NDArray[Any]) -> NDArray[Any]:
        return abs(x) if self.block == (1, 1) else block_sums(abs(x) ** 2, self.block) ** 0.5

    def _start_from(self, w: NDArray[Any]) -> None:
        """Factorize given weights into balanced factors with their signs on omega; zeros start small, downhill."""
        xp, depth = self.backend.xp, self.solver.depth
        w = w.astype(self.objective.dtype)
        norms = self._norms(w)
        kind = norms.dtype.type
        sizes = norms ** kind(1 / depth)
        floor = _FLOOR * sizes.max()
        floor = xp.where(floor > 0, floor, kind(_FLOOR))
        lifted = xp.maximum(sizes, floor)
        _, slope = evaluate(self.objective, w, self.backend, "at the start")
        steep = self._norms(slope)
        downhill = -slope / spread(xp.where(steep > 0, steep, 1), self.block, xp)
        unit = xp.where(
            spread(norms > 0, self.block, xp),
            w / spread(xp.where(norms > 0, norms, 1), self.block, xp),
            downhill,
        )
        self.omega = unit * spread(lifted, self.block, xp)
        self.gammas = [lifted.copy() for _ in range(depth - 1)]
        self._leave_the_rest(w)

    def _start_at_random(self, seed: int) -> None:
        objective, depth = self.objective, self.solver.depth
        rng = np.random.default_rng(seed)
        given = objective.initial(seed) if hasattr(objective, "initial") else None
        named = getattr(objective, "shapes", None) or {"": objective.shape}
        grid = (objective.shape[0] // self.block[0], objective.shape[1] // self.block[1])
        omega, gammas = np.zeros(objective.shape), [np.ones(grid) for _ in range(depth - 1)]
        first = None if given is None else self.backend.to_host(given)
        for name, each in pieces(omega, named).items():
            own = None if first is None else pieces(first, named)[name]
            spread_of = 0.0 if own is None else float(own.std())
            std = spread_of or 1 / math.sqrt(each.shape[0])
            if self.block != (1, 1):
                # one gate for a whole block starts open, as a plain layer
                each[...] = rng.standard_normal(each.shape) * std
                continue
            for target in (each, *(pieces(gamma, named)[name] for gamma in gammas)):
                target[...] = truncated_factors(rng, each.shape, std, depth)
        kind = objective.dtype
        self.omega = self.backend.asarray(omega.astype(kind))
        self.gammas = [self.backend.asarray(gamma.astype(self.omega.real.dtype)) for gamma in gammas]
        self._leave_the_rest(self.value() if given is None else given)

    def _leave_the_rest(self, w: NDArray[Any]) -> None:
        """Let what is not factorized be omega alone, and empty what the support does not allow."""
        xp = self.backend.xp
        if self.factored is not None:
            self.omega = xp.where(self.factored, self.omega, w)
            self.gammas = [xp.where(self.factored, gamma, 1) for gamma in self.gammas]
        if self.allowed is not None:
            self.omega = self.omega * self.allowed

    def _gate(self) -> NDArray[Any]:
        product: NDArray[Any] = self.gammas[0]
        for gamma in self.gammas[1:]:
            product = product * gamma
        return product

    def value(self) -> NDArray[Any]:
        """Return the product of the factors, a new array."""
        product: NDArray[Any] = self.omega * spread(self._gate(), self.block, self.backend.xp)
        return product

    def _others(self) -> list[NDArray[Any]]:
        """Return for each gamma the product of the others, without a division: some of them may be zero."""
        before = [self.backend.xp.ones_like(self.gammas[0])]
        for gamma in self.gammas[:-1]:
            before.append(before[-1] * gamma)
        after = before[0]
        products: list[NDArray[Any]] = []
        for prefix, gamma in zip(reversed(before), reversed(self.gammas), strict=True):
            products.append(prefix * after)
            after = after * gamma
        return products[::-1]

    def _directions(self) -> list[NDArray[Any]]:
        """Return the gradient in omega and in each gamma."""
        xp, decay = self.backend.xp, 2 * self.solver.penalty / self.solver.depth
        kind = self.gammas[0].dtype.type
        inner = block_sums((self.omega.conj() * self.gradient).real, self.block)
        decays: Any = kind(decay)
        if self.factored is not None:
            decays = self.factored * kind(decay)
            inner = inner * self.factored
        first = spread(self._gate(), self.block, xp) * self.gradient + decays * self.omega
        if self.allowed is not None:
            first = first * self.allowed
        others = [other * inner + decays * gamma for other, gamma in zip(self._others(), self.gammas, strict=True)]
        return [first, *others]

    def _safe_step(self) -> float:
        """Return 1 over a bound of the curvature in the factors: through the product, of the product, of the decay."""
        depth, penalty = self.solver.depth, self.solver.penalty
        size = self._norms(self.omega)
        for gamma in self.gammas:
            size = self.backend.xp.maximum(size, abs(gamma))
        steep = self._norms(self.gradient)
        through, bent = self.backend.floats(
            (size ** size.dtype.type(2 * depth - 2)).max(), (steep * size ** size.dtype.type(depth - 2)).max()
        )
        bound = depth * self.largest * through + (depth - 1) * bent + 2 * penalty / depth
        return 1.0 / bound

    def advance(self) -> None:
        """Take one step; undo it where it raised the objective and L was a guess."""
        solver = self.solver
        rate = solver.learning_rate
        if solver.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * self.iteration / solver.steps))
        self.iteration += 1
        directions = self._directions()
        if solver.momentum and self.velocity is not None:
            kind = self.gammas[0].dtype.type
            directions = [
                each + kind(solver.momentum) * last for each, last in zip(directions, self.velocity, strict=True)
            ]
        before = self.omega, self.gammas, self.total()
        finite = False
        for _ in range(40):
            length = rate * self._safe_step()
            kind = self.gammas[0].dtype.type
            self.omega = before[0] - kind(length) * directions[0]
            self.gammas = [gamma - kind(length) * each for gamma, each in zip(before[1], directions[1:], strict=True)]
            where = f"at iteration {self.iteration}, after a step of length {length:.3g}"
            if self.guaranteed:
                self.here, self.gradient = evaluate(self.objective, self.value(), self.backend, where)
                self._count(length, directions)
                return
            here, gradient = measure(self.objective, self.value(), self.backend, where)
            finite = finite or math.isfinite(here)
            if math.isfinite(here) and here + self._decay() <= before[2] + 1e-12 * abs(before[2]):
                self.here, self.gradient = here, gradient
                self._count(length, directions)
                # a guess that was too large costs speed for the rest of the run
                self.largest *= _RELAXED
                return
            self.omega, self.gammas = before[0], before[1]
            self.undone += 1
            if self.velocity is not None:
                self.velocity, directions = None, self._directions()
            else:
                self.largest *= 2
        if not finite:
            raise not_finite(self.objective, f"{where} and after longer ones")
        self.converged = True

    def _count(self, length: float, directions: list[NDArray[Any]]) -> None:
        momentum = self.solver.momentum
        self.summed += length / (1 - momentum)
        self.velocity = directions if momentum else None

    def _decay(self) -> float:
        """Return the penalty of the factors."""
        parts = [(abs(self.omega) ** 2), *(gamma**2 for gamma in self.gammas)]
        if self.factored is not None:
            parts = [part * self.factored for part in parts]
        total = sum(self.backend.floats(*(part.sum(dtype=np.float64) for part in parts)))
        return self.solver.penalty / self.solver.depth * total

    def total(self) -> float:
        """Return the penalised objective of the factors."""
        return self.here + self._decay()

    def misalignment(self) -> float:
        """Return how much larger the factors' penalty is than that of their product, divided by lambda."""
        norms = self._norms(self.value())
        powers = norms ** norms.dtype.type(2 / self.solver.depth)
        if self.factored is not None:
            powers = powers * self.factored
        (total,) = self.backend.floats(powers.sum(dtype=np.float64))
        return self._decay() / self.solver.penalty - total

    def _slope(self) -> float:
        """Return the largest gradient in a factor of a weight that is above the threshold."""
        living = self._norms(self.value()) >= self.solver.threshold
        first, *others = self._directions()
        sizes = [self._norms(first) * living, *(abs(other) * living for other in others)]
        return max(self.backend.floats(*(size.max() for size in sizes)))

    def stationary(self, tolerance: float) -> bool:
        """Tell whether the gradient in the factors of the living weights has vanished."""
        # the gradient is a difference of terms of about this size, so rounding leaves some of it
        largest, size = self.backend.floats(abs(self.value()).max(), abs(self.gammas[0]).max())
        rounding = 4 * float(np.finfo(self.omega.dtype).eps) * self.largest * largest * size
        self.converged = self.converged or self._slope() <= max(tolerance * self.first, rounding)
        return self.converged

    def collapsed(self) -> NDArray[Any]:
        """Return the product, exactly zero where it is below the threshold."""
        w = self.value()
        kept = self._norms(w) >= self.solver.threshold
        if self.factored is not None:
            kept = kept | ~self.factored
        result: NDArray[Any] = w * spread(kept, self.block, self.backend.xp)
        return result

    def explain(self, value: NDArray[Any]) -> str:
        """Say how the run went, and whether it was long enough."""
        solver = self.solver
        exponent = solver.penalty * self.summed
        counted = value != 0 if self.factored is None else (value != 0) & self.factored
        kept = int(counted.sum())
        total = value.size if self.factored is None else int(self.factored.sum())
        text = (
            f"{self.iteration} gradient steps on {solver.depth} factors for the penalty {solver.penalty:.4g} "
            f"sum |W|^(2/{solver.depth}); {kept} of {total} weights are left. Penalty times summed steps is "
            f"{exponent:.3g}: what the data do not hold has shrunk by exp(-{2 * exponent:.3g}). The misalignment of "
            f"the factors is {self.misalignment():.2g}."
        )
        if self.undone:
            text += f" {self.undone} steps were too long and undone."
        if kept == 0:
            text += " All weights have died: the penalty is too large for this start, pass a smaller one."
        elif exponent < _ENOUGH and not self.converged:
            warning = (
                f" Weights that should be zero cannot have reached it yet: that takes an exponent of about "
                f"{_ENOUGH:g}; take more steps, or a larger learning_rate or penalty."
            )
            if not self.half_step:
                _LOG.warning("DeepWeightFactorization:%s", warning)
            text += warning
        return text
