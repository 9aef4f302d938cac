"""What descent meets on the landscape of a pair of fixed supports: many starts, and what kind of point each ends in.

From each random start alternating least squares runs until it settles, Newton steps take the gradient to zero, and the
Hessian says what was found. In real coordinates t of the free entries, with E = A - X^T Y and J the derivative of the
product,

    Hessian = J^T J - (the second derivative of the product, weighed by E)

The loss does not change along its gauge: within a class of equal rectangles along a change of basis, and for two terms
with R_k in R_l and C_k containing C_l along X_l += g X_k, Y_k -= g Y_l. A point whose Hessian is zero on exactly these
directions and positive on all others is a strict minimum up to the gauge, hence a local minimum; where its loss is
above the optimum, it is a spurious one, and the landscape is not benign. What no start meets is not excluded: apart
from such points, a probe is evidence.

Reference: Q.-T. Le, E. Riccietti, R. Gribonval, "Spurious valleys, NP-hardness, and tractability of sparse matrix
factorization with fixed support", arXiv 2112.00386 (for which supports there are none).

Symbols: A matrix (m, n), X = L^T (k, m), Y = R (k, n), E residual (m, n), t the free entries of X and Y, re then im.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.support_pairs import as_pair
from sparsefact.analysis.tractability import tractability_of
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import as_matrix, check_int
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.factorizers import starts as initial
from sparsefact.factorizers.als import AlternatingLeastSquares
from sparsefact.factorizers.divergence import is_diverging
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.submatrix_svd import SubmatrixSVD
from sparsefact.minimizers.loop import run

__all__ = ["Endpoint", "LandscapeProbe", "probe_landscape"]

Kind = Literal["global", "saddle", "spurious", "degenerate", "diverging", "unsettled"]

_MOST_UNKNOWNS = 800
_MOST_DERIVATIVES = 20_000_000
_SWEEPS = 400
_NEWTON = 40
# An eigenvalue this small, relative to the largest, counts as zero.
_ZERO = 1e-6
# A point is critical when its gradient is this small, relative to ||A|| times the norm of the factors.
_CRITICAL = 1e-9


@dataclass(frozen=True, eq=False)
class Endpoint:
    """Where one start ended.

    Attributes
    ----------
    kind : str
        "global", "saddle", "spurious", "degenerate", "diverging" or "unsettled"; `LandscapeProbe` says what they mean.
    error : float
        ||A - L R||.
    gradient : float
        The norm of the gradient on the supports, relative to ||A|| times the norm of the factors.
    lowest : float
        The lowest eigenvalue of the Hessian, relative to the largest; NaN where it was not looked at.
    zeros, gauge : int
        How many eigenvalues are zero, and how many the gauge explains; -1 where they were not looked at.
    left, right : (m, k) and (k, n) arrays
        The factors.
    """

    kind: Kind
    error: float
    gradient: float
    lowest: float
    zeros: int
    gauge: int
    left: NDArray[Any]
    right: NDArray[Any]


@dataclass(frozen=True, eq=False)
class LandscapeProbe:
    """What `probe_landscape` found: numerical evidence about one matrix, not a theorem about the supports.

    Attributes
    ----------
    endpoints : tuple of Endpoint
        In the order of the starts.
    optimum : float
        The smallest ||A - L R||: the proven one where the supports are tractable, else the best of all starts.
    proven : bool
        Whether `optimum` is proven.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> column, row = np.ones((3, 1), dtype=bool), np.ones((1, 3), dtype=bool)
    >>> found = sf.probe_landscape(np.diag([3.0, 2.0, 1.0]), column, row, starts=4)
    >>> found.counts["global"], found.proven, len(found.spurious)
    (4, True, 0)
    """

    endpoints: tuple[Endpoint, ...]
    optimum: float
    proven: bool

    @property
    def counts(self) -> dict[str, int]:
        """How many starts ended in each kind of point, in a fixed order; the counts add up to the starts."""
        kinds = ("global", "saddle", "spurious", "degenerate", "diverging", "unsettled")
        return {kind: sum(end.kind == kind for end in self.endpoints) for kind in kinds}

    @property
    def spurious(self) -> tuple[Endpoint, ...]:
        """The certified spurious local minima, the lowest first."""
        return tuple(sorted((end for end in self.endpoints if end.kind == "spurious"), key=lambda end: end.error))

    def explain(self) -> str:
        """Return a few sentences: what each count means, and what follows."""
        counts = self.counts
        best = "the proven optimum" if self.proven else "the best that any start found"
        lines = [
            f"Numerical evidence from {len(self.endpoints)} random starts of alternating least squares and Newton "
            f"steps; {best} is ||A - L R|| = {self.optimum:.6g}."
        ]
        meaning = {
            "global": "reached it",
            "saddle": "stopped at a saddle, with a direction along which the loss was seen to fall",
            "spurious": "ended in a local minimum above it, certified by a Hessian that is positive off its gauge",
            "degenerate": "ended above it where the Hessian has more zeros than the gauge explains: undecided",
            "diverging": "followed factors that grow without limit: an infimum looks not attained",
            "unsettled": "had not settled",
        }
        lines += [f"{count} {meaning[kind]}." for kind, count in counts.items() if count]
        if self.spurious:
            lines.append(
                "So the landscape of this matrix has spurious local minima, and one start is not enough"
                + ("." if self.proven else " (their loss lies above one that is reached, so this needs no optimum).")
            )
        elif counts["global"] == len(self.endpoints):
            lines.append("No start was trapped; that does not prove the landscape benign (sparsefact.landscape may).")
        return "\n".join(lines)


def probe_landscape(A: Any, left: Any, right: Any, *, starts: int = 50, seed: int = 0) -> LandscapeProbe:
    """Run many starts on one matrix and a pair of supports, and tell minima, saddles and divergence apart.

    Parameters
    ----------
    A : (m, n) array
        Computed in double precision; not modified.
    left : (m, k) Support, KroneckerSupport, boolean array or scipy.sparse matrix
    right : (k, n) Support, KroneckerSupport, boolean array or scipy.sparse matrix
    starts : int
        Random starts.
    seed : int

    Returns
    -------
    LandscapeProbe

    Raises
    ------
    ShapeError
        If the shapes do not fit together.
    ArgumentError
        If there are too many free entries for a Hessian, or a support is empty.
    DtypeError, NonFiniteError
        If `A` is not a finite floating matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.factorizers.probe_landscape import probe_landscape
    >>> left, right = np.ones((3, 1), dtype=bool), np.ones((1, 3), dtype=bool)
    >>> probe = probe_landscape(np.diag([3.0, 2.0, 1.0]), left, right, starts=5)
    >>> probe.counts["global"], round(probe.optimum, 6) == round(5**0.5, 6)
    (5, True)
    """
    matrix = as_matrix("A", A)
    matrix = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    starts = check_int("starts", starts)
    supports = tuple(each if isinstance(each, (Support, KroneckerSupport)) else Support(each) for each in (left, right))
    (m, k), (inner, n) = supports[0].shape, supports[1].shape
    if k != inner or (m, n) != matrix.shape:
        raise ShapeError(
            f"left has shape {(m, k)} and right {(inner, n)}, but A has shape {matrix.shape}; they must be (m, k) and "
            "(k, n) for A (m, n)"
        )
    unknowns = (supports[0].nnz + supports[1].nnz) * (2 if matrix.dtype.kind == "c" else 1)
    if unknowns > _MOST_UNKNOWNS or unknowns * matrix.size > _MOST_DERIVATIVES:
        raise ArgumentError(
            f"the supports have {unknowns} real unknowns for {matrix.size} cells; a probe forms Hessians and takes at "
            f"most {_MOST_UNKNOWNS} unknowns and {_MOST_DERIVATIVES} derivatives, so pass a smaller sub-problem"
        )
    scale = float(np.linalg.norm(matrix)) or 1.0
    problem = FactorizationProblem(
        matrix / scale, supports, (supports[0].shape, supports[1].shape), None, get_backend(matrix), None, seed
    )
    ends = [_descend(problem, [seed, i]) for i in range(starts)]
    proven = _proven_optimum(problem)
    best = min(end.loss for end in ends) if proven is None else proven
    endpoints = tuple(_classified(end, best, scale) for end in ends)
    return LandscapeProbe(endpoints, math.sqrt(2 * best) * scale, proven is not None)


@dataclass(eq=False)
class _End:
    """One start's end in the scale of ||A|| = 1."""

    landscape: _Landscape
    point: NDArray[np.float64]
    loss: float
    gradient: float
    diverging: bool


def _descend(problem: FactorizationProblem, seed: list[int]) -> _End:
    """Descend from one random start until the gradient is zero."""
    state = AlternatingLeastSquares().init(
        FactorizationProblem(
            problem.matrix,
            problem.constraints,
            problem.shapes,
            None,
            problem.backend,
            tuple(_factors(problem, seed)),
            problem.seed,
        )
    )
    trace = [(state.value, state.point.size)]
    for _ in range(_SWEEPS):
        before = state.value
        if not state.sweep():
            break
        state.refresh()
        trace.append((state.value, state.point.size))
        if before - state.value <= 1e-10 * before or state.exact:
            break
    losses, sizes = zip(*trace, strict=True)
    product = float(np.linalg.norm(state.pair[0].T @ state.pair[1]))
    landscape = _Landscape(problem.matrix, *state.masks)
    if is_diverging(losses, sizes, product):
        point = landscape.pack(*state.pair)
        return _End(landscape, point, state.loss, landscape.relative_gradient(point), True)
    point = landscape.polish(landscape.pack(*state.pair))
    return _End(landscape, point, landscape.loss(point), landscape.relative_gradient(point), False)


def _factors(problem: FactorizationProblem, seed: list[int]) -> initial.Pair:
    left, right = (constraint.mask() for constraint in problem.constraints)  # type: ignore[union-attr, call-arg]
    x, y = initial.gaussian(problem.matrix, np.ascontiguousarray(left.T), right, seed)
    return x.T, y


def _classified(end: _End, best: float, scale: float) -> Endpoint:
    """Say what kind of point a start ended in."""
    landscape = end.landscape
    x, y = landscape.unpack(end.point)
    lowest, zeros, gauge = math.nan, -1, -1
    kind: Kind
    if end.diverging:
        kind = "diverging"
    elif math.sqrt(2 * end.loss) <= math.sqrt(2 * best) + 1e-6:
        kind = "global"
    elif end.gradient > _CRITICAL:
        kind = "unsettled"
    else:
        values, vectors = np.linalg.eigh(landscape.hessian(end.point))
        top = max(abs(float(values[0])), abs(float(values[-1])), 1e-300)
        lowest, zeros = float(values[0]) / top, int(np.count_nonzero(abs(values) <= _ZERO * top))
        gauge = landscape.gauge_rank(end.point)
        if lowest < -_ZERO:
            kind = "saddle" if landscape.falls(end.point, vectors[:, 0]) else "degenerate"
        else:
            kind = "spurious" if zeros == gauge else "degenerate"
    root = math.sqrt(scale)
    return Endpoint(kind, math.sqrt(2 * end.loss) * scale, end.gradient, lowest, zeros, gauge, root * x.T, root * y)


def _proven_optimum(problem: FactorizationProblem) -> float | None:
    """Return the optimal loss where the supports are tractable, else None."""
    left, right = problem.constraints  # type: ignore[misc]
    if not tractability_of(as_pair(left, right)).tractable:
        return None
    certificate = run(SubmatrixSVD(), problem).outcome.certificate
    return 0.5 * float(certificate.upper_bound) ** 2


class _Landscape:
    """The loss of one matrix as a function of the free entries, in real coordinates."""

    def __init__(self, matrix: NDArray[Any], left: NDArray[np.bool_], right: NDArray[np.bool_]) -> None:
        self.matrix, self.masks, self.complex = matrix, (left, right), matrix.dtype.kind == "c"
        (self.kx, self.i), (self.ky, self.j) = np.nonzero(left), np.nonzero(right)
        self.count = self.kx.size + self.ky.size

    def pack(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
        """Return the free entries of both factors as one real vector."""
        entries = np.concatenate([x[self.masks[0]], y[self.masks[1]]])
        return np.concatenate([entries.real, entries.imag]) if self.complex else entries

    def unpack(self, t: NDArray[np.float64]) -> initial.Pair:
        """Return the factors (k, m) and (k, n) of a vector."""
        entries = t[: self.count] + 1j * t[self.count :] if self.complex else t
        x, y = (np.zeros(mask.shape, dtype=self.matrix.dtype) for mask in self.masks)
        x[self.masks[0]], y[self.masks[1]] = entries[: self.kx.size], entries[self.kx.size :]
        return x, y

    def residual(self, t: NDArray[np.float64]) -> NDArray[Any]:
        """Return E."""
        x, y = self.unpack(t)
        residual: NDArray[Any] = self.matrix - x.T @ y
        return residual

    def loss(self, t: NDArray[np.float64]) -> float:
        """Return 1/2 ||E||^2."""
        return 0.5 * float(np.linalg.norm(self.residual(t)) ** 2)

    def gradient(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the gradient in real coordinates."""
        x, y = self.unpack(t)
        residual = self.residual(t)
        return self.pack(-y.conj() @ residual.T, -x.conj() @ residual)

    def relative_gradient(self, t: NDArray[np.float64]) -> float:
        """Return the norm of the gradient over that of A times that of the factors."""
        size = float(np.linalg.norm(self.matrix) * np.linalg.norm(t))
        return float(np.linalg.norm(self.gradient(t))) / size if size else 0.0

    def hessian(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the matrix of second derivatives in real coordinates."""
        x, y = self.unpack(t)
        residual, cells = self.residual(t), self.matrix.shape
        first = np.zeros((self.count, *cells), dtype=self.matrix.dtype)
        p = self.kx.size
        first[np.arange(p), self.i] = y[self.kx]
        first[np.arange(p, self.count), :, self.j] = x[self.ky]
        jacobian = first.reshape(self.count, -1).T
        # d2 P_ij / dX_ki dY_kj = 1
        second = np.where(self.kx[:, None] == self.ky[None, :], residual[self.i[:, None], self.j[None, :]], 0)
        if not self.complex:
            hessian = jacobian.T @ jacobian
            hessian[:p, p:] -= second
            hessian[p:, :p] -= second.T
            return np.asarray(hessian)
        wide = np.block([[jacobian.real, -jacobian.imag], [jacobian.imag, jacobian.real]])
        hessian = wide.T @ wide
        # Re <E, (a + ib)(c + id)> with a, b the parts of an entry of X and c, d of one of Y
        q = self.count
        for row, column, block in (
            (0, p, second.real),
            (q, q + p, -second.real),
            (0, q + p, second.imag),
            (q, p, second.imag),
        ):
            hessian[row : row + p, column : column + q - p] -= block
            hessian[column : column + q - p, row : row + p] -= block.T
        return np.asarray(hessian)

    def polish(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take Newton steps, shifted to descend, until the gradient is zero or no step lowers the loss."""
        loss = self.loss(t)
        for _ in range(_NEWTON):
            gradient = self.gradient(t)
            if self.relative_gradient(t) <= 0.01 * _CRITICAL:
                break
            values, vectors = np.linalg.eigh(self.hessian(t))
            shift = max(0.0, -float(values[0])) + 1e-12 * float(abs(values).max())
            components = vectors.T @ gradient
            for _ in range(12):
                lifted = np.maximum(values + shift, 1e-14)
                # The gradient has no part along the gauge but rounding, which must not be blown up.
                step = np.where(lifted > 1e-9 * lifted[-1], components / lifted, 0)
                there = t - vectors @ step
                lower = self.loss(there)
                if lower < loss or self._closer(there, t, lower, loss):
                    break
                shift = max(10 * shift, 1e-6 * float(abs(values).max()))
            else:
                break
            t, loss = there, lower
        return t

    def _closer(self, there: NDArray[np.float64], t: NDArray[np.float64], lower: float, loss: float) -> bool:
        """Tell a step that only rounding keeps from lowering the loss: the gradient falls, the loss stays."""
        same = lower <= loss * (1 + 1e-12) + 1e-30
        return same and self.relative_gradient(there) < 0.5 * self.relative_gradient(t)

    def falls(self, t: NDArray[np.float64], direction: NDArray[np.float64]) -> bool:
        """Return whether the loss is seen to fall along a direction, forwards or backwards."""
        loss, size = self.loss(t), float(np.linalg.norm(t))
        return any(
            self.loss(t + sign * length * size * direction) < loss * (1 - 1e-12)
            for length in (1e-1, 1e-2, 1e-3)
            for sign in (1, -1)
        )

    def gauge_rank(self, t: NDArray[np.float64]) -> int:
        """Return the dimension of the directions along which the product does not change to first order, by gauge."""
        x, y = self.unpack(t)
        left, right = self.masks
        tangents = []
        for k in range(x.shape[0]):
            for other in range(x.shape[0]):
                if not (left[k] <= left[other]).all() or not (right[other] <= right[k]).all():
                    continue
                if not (left[other].any() and right[k].any()):
                    continue
                for unit in (1, 1j) if self.complex else (1,):
                    dx, dy = np.zeros_like(x), np.zeros_like(y)
                    dx[other] = unit * x[k]
                    dy[k] -= unit * y[other]
                    tangents.append(self.pack(dx, dy))
        if not tangents:
            return 0
        sizes = np.linalg.svd(np.array(tangents), compute_uv=False)
        return int(np.count_nonzero(sizes > 1e-6 * max(float(sizes[0]), 1e-300)))
