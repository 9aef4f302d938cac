"""Where alternating least squares stands: the factors, half-steps, and the measurements that keep it honest.

Both half-steps are one: with X the unknown and Y the fixed factor as matrices of `inner` rows,

    minimise 1/2 || V - Y^T X ||^2 over X on its support:   gram = conj(Y) Y^T,   cross = conj(Y) V       V = A^T or A

Symbols: A matrix (m, n), k inner, X = L^T (k, m), Y = R (k, n), E = A - X^T Y, H gram (n, n), lambda penalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError
from sparsefact.factorizers import starts
from sparsefact.factorizers.blocks import Blocks
from sparsefact.factorizers.divergence import is_diverging
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.refit import refit
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["Point", "Search"]

# Tikhonov's lambda ends when it has shrunk by this.
_LAST = 1e-9
# How heavily a sweep that rose is held back, relative to the mean curvature.
_PROXIMAL = (1e-10, 1e-6)
# A fall of the objective that is larger than this, relatively, may be read from the normal equations.
_CLEAR = 1e-9


@dataclass(frozen=True, eq=False)
class Point:
    """A balanced pair (k, m), (k, n), its sum of squares, the sum of its terms' norms, and conj(Y) Y^T if at hand."""

    pair: starts.Pair
    squares: float
    size: float
    right_gram: NDArray[Any] | None


class Search:
    """Two factors as (k, m) and (k, n) arrays in the scale of the search, and what is known about them."""

    def __init__(self, problem: FactorizationProblem, tikhonov: float) -> None:
        left, right = _pair_of_supports(problem.constraints)
        self.problem, self.backend = problem, problem.backend
        self.inner = problem.shapes[0][1]
        masks = np.ascontiguousarray(left.mask().T), right.mask()
        # A term with an empty column or row contributes nothing and stays zero.
        alive = masks[0].any(axis=1) & masks[1].any(axis=1)
        # on the host, where starts are made, and where the half-steps run
        self.supports = masks[0] & alive[:, None], masks[1] & alive[:, None]
        self.masks = tuple(self.backend.asarray(mask) for mask in self.supports)
        orders = _side_by_side(self.supports[0]), _side_by_side(self.supports[1])
        self.orders = tuple(None if order is None else self.backend.asarray(order) for order in orders)
        self.sorted = tuple(
            mask if order is None else mask[:, order] for mask, order in zip(self.masks, self.orders, strict=True)
        )
        self.groups = starts.classes(*self.supports)
        largest = float(abs(problem.matrix).max())
        # Squares of what is larger or smaller than this could leave the range of float32.
        self.unit = 1.0 if 1e-6 < largest < 1e6 or largest == 0 else largest
        matrix = problem.matrix if self.unit == 1 else problem.matrix / problem.matrix.dtype.type(self.unit)
        self.gram, self.weight = problem.gram, None
        if self.gram is not None and not np.any(self.gram - np.diag(self.gram.diagonal())):
            # A diagonal weight is a scaling of the columns.
            self.weight, self.gram = np.sqrt(np.maximum(self.gram.diagonal().real, 0)), None
            matrix = matrix * self.weight
        self.matrix = matrix
        self.blocks = None
        # on a GPU one product is quicker than many small ones
        if self.gram is None and isinstance(matrix, np.ndarray) and Blocks.worth_it(matrix.shape, self.groups):
            self.blocks = Blocks(matrix, self.groups, self.supports)
        self.norm = math.sqrt(2 * self._loss(matrix))
        self.trivial = self.norm == 0 or not alive.any()
        self.start_penalty = self.penalty = tikhonov * self.norm / math.sqrt(min(matrix.shape))
        self.iteration = self.stalled = self.escaped = self.untaken = 0
        self.converged, self.note = False, ""
        self.trace: list[tuple[float, float]] = []
        self.curve: list[tuple[float, float]] = []
        self.point: Point
        self.loss, self.measured = math.inf, True

    @property
    def value(self) -> float:
        """The objective, in the scale of the search."""
        return self.loss + 0.5 * self.penalty * self.point.squares

    @property
    def pair(self) -> starts.Pair:
        """The factors, balanced."""
        return self.point.pair

    @property
    def error(self) -> float:
        """The relative error in the loss."""
        return math.sqrt(2 * self.loss) / self.norm if self.norm else 0.0

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding is left."""
        return self.trivial or (self.penalty == 0 and self.error <= 8 * float(np.finfo(self.matrix.dtype).eps))

    def take(self, pair: starts.Pair) -> None:
        """Continue from this pair, given in the scale of the search."""
        x, y = (self.backend.to_host(each) for each in pair)
        if not self.trivial:
            x, y = starts.without_zeros((x, y), self.supports[1], [self.problem.seed, 1 << 16])
        self._stand(self._balanced(self.backend.asarray(x), self.backend.asarray(y)))

    def take_factors(self, factors: tuple[NDArray[Any], ...]) -> None:
        """Continue from factors as the user gives and gets them."""
        root = self.matrix.dtype.type(math.sqrt(self.unit))
        x, y = (np.where(mask, factor, 0) for mask, factor in zip(self.masks, (factors[0].T, factors[1]), strict=True))
        x, y = x / root, y / root
        self.take((x, y if self.weight is None else y * self.weight))

    def factors(self) -> starts.Pair:
        """Return the factors in the variables of the problem, with evenly shared scales."""
        x, y = self.pair
        if self.weight is not None:
            y = y * np.where(self.weight > 0, 1 / np.where(self.weight > 0, self.weight, 1), 0)
        left, right = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
        both = (left > 0) & (right > 0)
        ratio = np.sqrt(np.where(both, right, 1) / np.where(both, left, 1)).astype(left.dtype)[:, None]
        root = left.dtype.type(math.sqrt(self.unit))
        alive = both[:, None]
        left, right = np.where(alive, x * (ratio * root), 0).T, np.where(alive, y * (root / ratio), 0)
        return self.backend.xp.ascontiguousarray(left), right

    def _stand(self, point: Point, loss: float | None = None, *, measured: bool = True) -> None:
        """Continue from this point; without a `loss` it is measured."""
        self.point, self.measured = point, measured
        self.loss = self._loss(self.residual(point.pair)) if loss is None else loss

    def refresh(self) -> None:
        """Measure the loss from the residual where it was read from the normal equations."""
        if not self.measured:
            self._stand(self.point)

    def sweep(self) -> bool:
        """Improve both factors in turn; return False, and stay, when rounding lets the objective rise."""
        for proximal in (0.0, *_PROXIMAL):
            x, y = self.pair
            x = self._half_step(0, x, y, proximal, self.point.right_gram)[0]
            y, gram, cross = self._half_step(1, y, x, proximal)
            other = y.conj() @ y.T if self.gram is None else None
            point = self._balanced(x, y, other)
            penalty = 0.5 * self.penalty * point.squares
            if other is not None and not proximal:
                loss = self._read_loss(y, gram, cross, other)
                if loss is not None and loss + penalty < self.value * (1 - _CLEAR):
                    self._stand(point, loss, measured=False)
                    return True
            self.refresh()
            loss = self._loss(self.residual(point.pair))
            if loss + penalty <= self.value:
                self._stand(point, loss)
                return True
        self.untaken += 1
        return False

    def _read_loss(self, y: NDArray[Any], gram: NDArray[Any], cross: NDArray[Any], other: NDArray[Any]) -> float | None:
        """Return the loss from what the right half-step formed, or None where rounding would be seen.

        1/2 ||A||^2 - Re <C, Y> + 1/2 <G, conj(Y) Y^T>: a hundredth of the price of a residual, but large numbers that
        cancel.
        """
        curved, scale = self.backend.floats(np.linalg.norm(gram), np.linalg.norm(other))
        largest = self.norm**2 + curved * scale
        if not 16 * float(np.finfo(self.matrix.dtype).eps) * largest <= 0.1 * _CLEAR * self.loss:
            return None
        linear, quadratic = self.backend.floats(np.vdot(cross, y).real, np.vdot(gram, other.conj()).real)
        return 0.5 * self.norm**2 - linear + 0.5 * quadratic

    def _half_step(
        self,
        side: int,
        own: NDArray[Any],
        other: NDArray[Any],
        proximal: float,
        gram: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the best factor of one side on its support, with the other one fixed, and its normal equations."""
        weighted = other.conj()
        if self.gram is not None and side == 0:
            weighted = weighted @ self.gram.T
        if gram is None:
            gram = weighted @ other.T
        target = self.matrix if side == 1 else self.matrix.T
        held = self.penalty
        if proximal:
            # The proximal step solves for the change: it keeps its accuracy where the equations lose theirs.
            target = target - other.T @ own
            held += proximal * float(gram.diagonal().real.mean())
        if self.blocks is not None and not proximal:
            cross = self.blocks.cross(side, other)
        else:
            cross = weighted @ target
        if proximal and self.penalty:
            cross -= self.penalty * own
        system = gram
        if held:
            system = gram.copy()
            system.reshape(-1)[:: gram.shape[0] + 1] += held
        if self.gram is not None and side == 1:
            start = np.zeros_like(own) if proximal else own
            found = refit(Quadratic(system, cross @ self.gram, self.gram), self.masks[1], start, self.backend)
        else:
            found = self._solve(side, system, cross)
        return own + found if proximal else found, gram, cross

    def _solve(self, side: int, gram: NDArray[Any], cross: NDArray[Any]) -> NDArray[Any]:
        order, mask = self.orders[side], self.sorted[side]
        if order is None:
            return self.backend.masked_lsq(gram, cross, mask)
        found = np.empty_like(cross)
        found[:, order] = self.backend.masked_lsq(gram, cross[:, order], mask)
        return found

    def _balanced(self, x: NDArray[Any], y: NDArray[Any], other: NDArray[Any] | None = None) -> Point:
        """Return the pair with the two sides of every term of like norm, the product unchanged to the last bit.

        Powers of two are exact, so balancing cannot raise the objective; and it lowers Tikhonov's term or leaves it.
        `other` is conj(Y) Y^T where it is known.
        """
        left = np.linalg.norm(x, axis=1).astype(np.float64)
        right = self._right_norms(y) if other is None else np.sqrt(other.diagonal().real)
        right = right.astype(np.float64)
        both = (left > 0) & (right > 0)
        power = np.round(0.5 * np.log2(np.where(both, right, 1) / np.where(both, left, 1)))
        scale = np.exp2(power)
        if power.any():
            narrow = scale.astype(x.real.dtype)[:, None]
            x, y = x * narrow, y / narrow
            other = None if other is None else other / narrow / narrow.T
        squares, size = self.backend.floats(
            ((left * scale) ** 2).sum() + ((right / scale) ** 2).sum(), (left * right).sum()
        )
        return Point((x, y), squares, size, other)

    def _right_norms(self, y: NDArray[Any]) -> NDArray[Any]:
        if self.gram is None:
            norms: NDArray[Any] = np.linalg.norm(y, axis=1)
            return norms
        squares: NDArray[Any] = ((y @ self.gram) * y.conj()).sum(axis=1).real
        roots: NDArray[Any] = np.sqrt(np.maximum(squares, 0))
        return roots

    def residual(self, pair: starts.Pair) -> NDArray[Any]:
        """Return A minus the product."""
        residual = pair[0].T @ pair[1]
        np.subtract(self.matrix, residual, out=residual)
        return residual

    def _loss(self, residual: NDArray[Any]) -> float:
        if self.gram is None:
            return 0.5 * float(np.vdot(residual, residual).real)
        return max(0.5 * float(np.vdot(residual, residual @ self.gram).real), 0.0)

    def settle_penalty(self, continuation: float) -> bool:
        """Shrink lambda; return whether it has its last value."""
        if self.penalty == 0 or continuation == 1:
            return True
        if self.iteration % 10 == 1:
            self.curve.append((self.penalty / self.norm * math.sqrt(min(self.matrix.shape)), self.error))
        self.penalty *= continuation
        if self.penalty < _LAST * self.start_penalty:
            self.penalty = 0.0
        return self.penalty == 0

    def escape(self, tolerance: float) -> bool:
        """Leave a saddle whose descent direction is known, if this is one."""
        if self.gram is not None:
            return False
        self.refresh()
        x, y, residual = (self.backend.to_host(each) for each in (*self.pair, self.residual(self.pair)))
        found = starts.exchange((x, y), residual, self.groups)
        if found is None:
            return False
        point = self._balanced(*(self.backend.asarray(each) for each in found))
        loss = self._loss(self.residual(point.pair))
        if not loss + 0.5 * self.penalty * point.squares < self.value * (1 - tolerance):
            return False
        self._stand(point, loss)
        self.escaped += 1
        return True

    def product_norm(self) -> float:
        """Return the norm of the product."""
        return float(np.linalg.norm(self.pair[0].T @ self.pair[1]))

    def diverging(self) -> bool:
        """Return whether the factors seem to grow without limit; Tikhonov's term would bound them."""
        if self.penalty or self.exact:
            return False
        values, sizes = zip(*self.trace, strict=True)
        return is_diverging(values, sizes, self.product_norm())

    def gradient_norm(self) -> float:
        """Return the norm of the gradient on the supports, relative to ||A|| times the norm of both factors."""
        if self.trivial:
            return 0.0
        x, y = self.pair
        residual = self.residual(self.pair)
        if self.gram is not None:
            residual = residual @ self.gram
        squares = 0.0
        for mask, own, other, target in (
            (self.masks[0], x, y, residual.T),
            (self.masks[1], y, x, residual),
        ):
            own_term = own @ self.gram if self.gram is not None and own is y else own
            gradient = np.where(mask, self.penalty * own_term - other.conj() @ target, 0)
            squares += float(np.linalg.norm(gradient)) ** 2
        scale = self.norm * math.sqrt(self.point.squares)
        return math.sqrt(squares) / scale if scale else math.sqrt(squares)

    def explain(self) -> str:
        """Say what the search did and how it ended."""
        if self.trivial:
            return "The matrix or every rank-one support is zero, and so are the factors."
        text = f"{self.note} {self.iteration} sweeps of alternating least squares reached a relative gradient of "
        text += f"{self.gradient_norm():.2g} on the supports."
        if self.escaped:
            times = "once" if self.escaped == 1 else f"{self.escaped} times"
            text += f" A saddle was left {times} along its known descent direction."
        if self.untaken:
            text += " A sweep that rounding let rise was not taken."
        if self.curve:
            text += " Tikhonov's lambda shrank; lambda, relative error: "
            text += ", ".join(f"{penalty:.2g}, {error:.4g}" for penalty, error in self.curve) + "."
        elif self.penalty:
            text += " Tikhonov's term was kept to the end, so the factors minimise a regularised loss."
        return text


def _pair_of_supports(constraints: Any) -> tuple[Any, Any]:
    if (
        isinstance(constraints, tuple)
        and len(constraints) == 2
        and all(isinstance(each, (Support, KroneckerSupport)) for each in constraints)
    ):
        return constraints
    raise ArgumentError(
        f"constraints={constraints!r} is not a pair of fixed supports, which AlternatingLeastSquares needs; pass "
        "(Support, Support), or use sparsefact.PALM or sparsefact.Alternating for other constraints"
    )


def _side_by_side(mask: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    """Return an order that puts equal columns of a mask side by side, or None where that brings nothing."""
    keys = np.ascontiguousarray(np.packbits(mask, axis=0).T)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    runs = 1 + np.count_nonzero(inverse[1:] != inverse[:-1])
    if distinct.shape[0] == runs:
        return None
    return np.argsort(inverse, kind="stable")
