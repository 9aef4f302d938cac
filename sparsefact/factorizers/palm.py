"""PALM: proximal alternating linearised minimisation, for any number of factors and any constraints.

One sweep takes a projected gradient step for each factor in turn, with the others fixed. With P = L F R the product
seen from one factor, E = A - P and the Lipschitz constant c of the gradient,

    F <- projection of F + L^H G E H R^H / c on its set,    c = ||L^H G L|| ||R H R^H||    (G, H identities when absent)

which minimises over the set a quadratic that lies above the loss. The constant comes from power iteration, from below,
so every step is checked against that quadratic and repeated with a larger c where it fails: the loss never rises.

Between neighbouring factors the scales of every column and its row are levelled by powers of two, which changes no bit
of the product. With inertia a sweep starts from a point beyond the last one; a sweep that ends higher is dropped, and
the momentum starts again from zero.

References: J. Bolte, S. Sabach, M. Teboulle, "Proximal alternating linearized minimization for nonconvex and nonsmooth
problems", Math. Program. 146 (2014); L. Le Magoarou, R. Gribonval, "Flexible multilayer sparse approximations of
matrices and applications", IEEE J. Sel. Top. Signal Process. 10 (2016) (for products of several sparse factors);
T. Pock, S. Sabach, "Inertial proximal alternating linearized minimization", SIAM J. Imaging Sci. 9 (2016).

Symbols: A matrix (m, n), F_j factors, L = F_1 .. F_{j-1}, R = F_{j+1} .. F_L, E = A - product, H gram (n, n),
G left_gram (m, m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.dense import Dense
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.low_rank import LowRank
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.divergence import describe, existence, is_diverging
from sparsefact.factorizers.grams import weighed
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import Outcome, Report
from sparsefact.products.status import Status

__all__ = ["PALM"]

# Power iterations for a spectral norm; the check of every step makes up for what they miss.
_POWER = 8
# A step that has been shortened this often has nothing to gain but rounding.
_SHORTENED = 30


@dataclass(frozen=True)
class PALM:
    """Proximal alternating linearised minimisation.

    Parameters
    ----------
    iterations : int
        Sweeps (one step for each factor) at most.
    tolerance : float
        It ends when five sweeps in turn lower the objective by less than this, relatively.
    inertia : bool
        Extrapolate between sweeps, with restart.
    report_every : int
        Sweeps between two reports.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.factorizers.palm import PALM
    >>> from sparsefact.factorizers.problem import FactorizationProblem
    >>> from sparsefact.backends.registry import get_backend
    >>> from sparsefact.minimizers.loop import run
    >>> butterfly = tuple(sf.KroneckerSupport(a, 2, 2, 4 // a) for a in (1, 2, 4))
    >>> A = np.array([[(-1.0) ** bin(i & j).count("1") for j in range(8)] for i in range(8)])   # Hadamard
    >>> problem = FactorizationProblem(A, butterfly, ((8, 8),) * 3, None, get_backend(A))
    >>> run(PALM(), problem).history[-1].error < 1e-6
    True
    """

    iterations: int = 1000
    tolerance: float = 1e-9
    inertia: bool = True
    report_every: int = 10

    def __post_init__(self) -> None:
        for name in ("iterations", "report_every"):
            check_count(name, getattr(self, name))
        check_non_negative("tolerance", self.tolerance)
        if not isinstance(self.inertia, bool):
            raise ArgumentError(f"inertia={self.inertia!r} is not allowed; pass True or False")

    def init(self, problem: FactorizationProblem, warm: _State | None = None) -> _State:
        """Check the constraints, and choose the first factors: given ones, or seeded random ones."""
        return _State(problem, None if warm is None else warm.result())

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Take a step for each factor."""
        if state.converged:
            return
        before = state.loss
        taken = state.inertial_sweep() if self.inertia else False
        if not taken:
            state.plain_sweep()
        state.iteration += 1
        state.balance()
        state.trace.append((state.loss, state.size()))
        tolerance = max(self.tolerance, 4 * float(np.finfo(state.matrix.dtype).eps))
        state.stalled = state.stalled + 1 if before - state.loss <= tolerance * before else 0
        state.converged = state.exact or state.stalled >= 5

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Give the objective and the relative error in the loss."""
        return Report(state.loss * state.unit**2, state.error, state.converged)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Return the factors, and say how the run ended."""
        status = Status.STATIONARY if state.converged else Status.LIMIT
        explanation = state.explain()
        values, sizes = zip(*state.trace, strict=True)
        product = float(np.linalg.norm(state.product()))
        suspected = state.pair_of_supports and not state.exact and is_diverging(values, sizes, product)
        certificate = None
        if suspected and (answer := existence(problem.constraints)).verdict != "closed":
            status = Status.INFIMUM_NOT_ATTAINED
            certificate = answer if answer.verdict == "not closed" else None
            explanation += describe(answer, sizes[-1], product, state.error)
        return Outcome(state.result(), status, certificate, explanation)


class _Set:
    """One constraint as PALM uses it: the mask of a fixed support is made once."""

    def __init__(self, constraint: Any, backend: Backend) -> None:
        self.constraint = constraint
        self.fixed: NDArray[np.bool_] | None = None
        if isinstance(constraint, (Support, KroneckerSupport)):
            self.fixed = backend.asarray(constraint.mask())

    def project(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the nearest matrix of the set."""
        if isinstance(self.constraint, Dense):
            return x
        if isinstance(self.constraint, LowRank):
            # the step before was checked to be finite by its loss, so this one may as well be
            return self.constraint.project(x)
        mask = self.constraint.mask(x) if self.fixed is None else self.fixed
        kept: NDArray[Any] = np.where(mask, x, 0)
        return kept


class _State:
    """The factors in the scale of the search, the residual of their product, and the point before them."""

    def __init__(self, problem: FactorizationProblem, given: tuple[NDArray[Any], ...] | None) -> None:
        constraints = problem.constraints
        if not isinstance(constraints, tuple) or len(constraints) < 2:
            raise ArgumentError(
                f"constraints={constraints!r} is not a tuple of at least two constraints, which PALM needs; pass one "
                "for each factor, or use sparsefact.Alternating for a joint budget"
            )
        self.problem = problem
        self.backend = problem.backend
        self.sets = [_Set(constraint, self.backend) for constraint in constraints]
        self.pair_of_supports = len(self.sets) == 2 and all(each.fixed is not None for each in self.sets)
        largest = float(abs(problem.matrix).max())
        # Squares of what is larger or smaller than this could leave the range of float32.
        self.unit = 1.0 if 1e-6 < largest < 1e6 or largest == 0 else largest
        self.root = problem.matrix.dtype.type(self.unit ** (1 / len(self.sets)))
        self.matrix = problem.matrix if self.unit == 1 else problem.matrix / problem.matrix.dtype.type(self.unit)
        self.gram, self.left_gram = problem.gram, problem.left_gram
        self.norm = math.sqrt(2 * self._loss(self.matrix))
        given = problem.start if given is None else given
        self.note = "It started from the given factors." if given is not None else "It started from random factors."
        if given is not None:
            self.factors = [each.project(f / self.root) for each, f in zip(self.sets, given, strict=True)]
        else:
            self.factors = self._random()
        self.residual = self.matrix - self.product()
        self.loss = self._loss(self.residual)
        self.iteration = self.stalled = self.restarts = self.age = 0
        self.previous: list[NDArray[Any]] | None = None
        self.constants = [0.0] * len(self.sets)
        self.converged = self.norm == 0
        if self.converged:
            self.factors = [np.zeros_like(f) for f in self.factors]
            self.residual, self.loss = self.matrix, 0.0
        self.balance()
        self.trace = [(self.loss, self.size())]

    @property
    def error(self) -> float:
        """The relative error in the loss."""
        return math.sqrt(2 * self.loss) / self.norm if self.norm else 0.0

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding is left."""
        return self.error <= 8 * float(np.finfo(self.matrix.dtype).eps)

    def _random(self) -> list[NDArray[Any]]:
        """Return random factors in their sets, scaled to the multiple of their product that is nearest to A.

        A free choice of the support starts near the identity, where the product's own terms do not drown each other.
        """
        rng, dtype = np.random.default_rng(self.problem.seed), self.matrix.dtype
        factors = []
        for each, shape in zip(self.sets, self.problem.shapes, strict=True):
            draw = rng.standard_normal(shape)
            if dtype.kind == "c":
                draw = draw + 1j * rng.standard_normal(shape)
            if each.fixed is None:
                draw = np.eye(*shape) + draw / (2 * math.sqrt(max(shape)))
            factors.append(each.project(self.backend.asarray(draw.astype(dtype))))
        product = _chain(factors)
        weighted = self._weighted(product)
        size = float(np.vdot(product, weighted).real)
        inner = complex(np.vdot(weighted, self.matrix))
        if size > 0 and abs(inner) > 1e-3 * math.sqrt(size) * self.norm:
            factor, turn = abs(inner) / size, inner / abs(inner)
        else:
            # Almost orthogonal to A: the multiple would be a start at zero, which is a critical point.
            factor, turn = self.norm / math.sqrt(size) if size > 0 else 1.0, complex(1)
        root = dtype.type(factor ** (1 / len(factors)))
        factors = [f * root for f in factors]
        factors[0] = factors[0] * dtype.type(turn if dtype.kind == "c" else turn.real)
        return factors

    def product(self) -> NDArray[Any]:
        """Return the product of the factors."""
        return _chain(self.factors)

    def _weighted(self, x: NDArray[Any]) -> NDArray[Any]:
        return weighed(x, self.left_gram, self.gram)

    def _loss(self, residual: NDArray[Any]) -> float:
        return max(0.5 * float(np.vdot(residual, self._weighted(residual)).real), 0.0)

    def inertial_sweep(self) -> bool:
        """Sweep from beyond the last point; return False, and stay, where that ends higher than it began."""
        here, residual, loss = self.factors, self.residual, self.loss
        if self.previous is None:
            return False
        momentum = here[0].real.dtype.type(self.age / (self.age + 3))
        self.factors = [
            each.project(f + momentum * (f - before))
            for each, f, before in zip(self.sets, here, self.previous, strict=True)
        ]
        self.residual = self.matrix - self.product()
        self.loss = self._loss(self.residual)
        self.sweep()
        if self.loss <= loss:
            self.previous, self.age = here, self.age + 1
            return True
        self.factors, self.residual, self.loss = here, residual, loss
        self.previous, self.age, self.restarts = None, 0, self.restarts + 1
        return False

    def plain_sweep(self) -> None:
        """Sweep from the last point."""
        before = self.factors
        self.factors = list(before)
        self.sweep()
        self.previous, self.age = before, self.age + 1

    def sweep(self) -> None:
        """Take a step for each factor, left to right."""
        count = len(self.factors)
        after: list[NDArray[Any] | None] = [None] * count
        for j in range(count - 2, -1, -1):
            later = after[j + 1]
            after[j] = self.factors[j + 1] if later is None else self.factors[j + 1] @ later
        before: NDArray[Any] | None = None
        for j in range(count):
            self._step(j, before, after[j])
            before = self.factors[j] if before is None else before @ self.factors[j]

    def _step(self, j: int, before: NDArray[Any] | None, after: NDArray[Any] | None) -> None:
        """Move one factor, by the longest step that is known to descend."""
        descent = self._weighted(self.residual)
        if before is not None:
            descent = before.conj().T @ descent
        if after is not None:
            descent = descent @ after.conj().T
        curved = self.gram if after is None else weighed(after, None, self.gram) @ after.conj().T
        bent = self.left_gram if before is None else before.conj().T @ weighed(before, self.left_gram, None)
        outer, inner = self.backend.floats(_largest_eigenvalue(bent), _largest_eigenvalue(curved))
        constant = 1.01 * outer * inner
        # What an earlier sweep had to learn about the constant is remembered, and slowly forgotten.
        constant = max(constant, 0.9 * self.constants[j])
        if not constant > 0:
            return
        here, real = self.factors[j], descent.real.dtype.type
        for _ in range(_SHORTENED):
            there = self.sets[j].project(here + descent * real(1 / constant))
            change = there - here
            moved = change if before is None else before @ change
            residual = self.residual - (moved if after is None else moved @ after)
            loss, squares, gain = self.backend.floats(
                np.vdot(residual, self._weighted(residual)).real,
                np.vdot(change, change).real,
                np.vdot(descent, change).real,
            )
            loss = max(0.5 * loss, 0.0)
            model = self.loss - gain + 0.5 * constant * squares
            if loss <= self.loss and loss <= model + 1e-12 * self.loss:
                break
            constant *= 2
        else:
            return
        self.factors[j], self.constants[j] = there, constant
        self.residual, self.loss = residual, loss

    def balance(self) -> None:
        """Level the scale of every column and the row it meets, by powers of two, which leave the product as it is.

        The previous point is scaled alike, so that the momentum means the same.
        """
        scaled = False
        for j in range(len(self.factors) - 1):
            left, right = np.linalg.norm(self.factors[j], axis=0), np.linalg.norm(self.factors[j + 1], axis=1)
            both = (left > 0) & (right > 0)
            power = np.round(0.5 * np.log2(np.where(both, right, 1) / np.where(both, left, 1)))
            # Columns of like scale are left alone: momentum and Lipschitz constants stay what they were.
            power[abs(power) < 2] = 0
            if not power.any():
                continue
            scale = np.exp2(power).astype(left.dtype)
            for factors in (self.factors, self.previous):
                if factors is not None:
                    factors[j], factors[j + 1] = factors[j] * scale, factors[j + 1] / scale[:, None]
            scaled = True
        if scaled:
            self.constants = [0.0] * len(self.sets)

    def size(self) -> float:
        """Return the sum of the norms of the rank-one terms of two factors; of more, the product of their norms."""
        norms = [np.linalg.norm(f, axis=0 if j == 0 else 1) for j, f in enumerate(self.factors)]
        if len(norms) == 2:
            return float((norms[0] * norms[1]).sum())
        return math.prod(self.backend.floats(*(np.linalg.norm(each) for each in norms)))

    def gradient_norm(self) -> float:
        """Return the norm of the steps that unit constants would take, relative to the norms of A and the factors.

        On fixed supports this is the gradient there; for other sets, the projected one.
        """
        squares, size = 0.0, 0.0
        descent = self._weighted(self.residual)
        for j, f in enumerate(self.factors):
            step = descent
            if j > 0:
                step = _chain(self.factors[:j]).conj().T @ step
            if j + 1 < len(self.factors):
                step = step @ _chain(self.factors[j + 1 :]).conj().T
            constant = self.constants[j] or 1.0
            there = self.sets[j].project(f + step * f.real.dtype.type(1 / constant))
            squares += (constant * float(np.linalg.norm(there - f))) ** 2
            size += float(np.linalg.norm(f)) ** 2
        scale = self.norm * math.sqrt(size)
        return math.sqrt(squares) / scale if scale else 0.0

    def result(self) -> tuple[NDArray[Any], ...]:
        """Return the factors in the scale of the problem."""
        return tuple(f * self.root for f in self.factors)

    def explain(self) -> str:
        """Say what the search did."""
        if self.norm == 0:
            return "The matrix is zero in the loss, and so are the factors."
        text = f"{self.note} {self.iteration} sweeps over {len(self.factors)} factors reached a relative projected "
        text += f"gradient of {self.gradient_norm():.2g}."
        if self.restarts:
            text += f" The momentum was restarted {self.restarts} times."
        return text


def _chain(factors: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the product of factors, left to right."""
    product = factors[0]
    for factor in factors[1:]:
        product = product @ factor
    return product


def _largest_eigenvalue(matrix: NDArray[Any] | None) -> Any:
    """Return about the largest eigenvalue of a positive semi-definite matrix, by power iteration; 1 for None.

    A real scalar of the matrix's backend, for which the host need not wait.
    """
    if matrix is None:
        return 1.0
    # The column of the largest diagonal entry meets the leading eigenvector in almost every case.
    vector = np.take(matrix, np.argmax(matrix.diagonal().real), axis=1)
    length = np.linalg.norm(vector)
    for _ in range(_POWER):
        # a zero vector is divided by one; a branch would have the host wait for the length
        vector = matrix @ (vector / (length + (length == 0)))
        length = np.linalg.norm(vector)
    return length
