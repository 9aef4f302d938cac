"""The best values on a given support, for any smooth objective.

* A quadratic is solved exactly (`refit`); so are least squares, over the rows that the support touches, where these are
  few enough for their Gram matrix to cost less than iterations.
* Where the objective offers second derivatives and the support is small: damped Newton steps with Armijo's rule.
* Otherwise L-BFGS restricted to the support (J. Nocedal, S. Wright, "Numerical optimization", algorithm 7.4).

Symbols: w the unknown, M the mask of the support, g gradient on it, p direction, c step length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.minimizers.adapted import dot, evaluate, measure, not_finite
from sparsefact.minimizers.refit import inner, refit
from sparsefact.objectives.least_squares import LeastSquares
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["HOPE", "Fit", "fit_on", "improve_on"]

# Unknowns up to which a Newton system is formed.
_NEWTON = 512
_ARMIJO = 1e-4
_MEMORY = 10
HOPE = 4.0
"""A fit that has a goal ends where so many times the decrease of its quadratic model would not reach that."""


@dataclass(frozen=True, eq=False)
class Fit:
    """The values on a support, the objective and its full gradient there, and whether the fit has converged."""

    w: NDArray[Any]
    value: float
    gradient: NDArray[Any]
    converged: bool


def fit_on(
    objective: Any,
    mask: NDArray[np.bool_],
    start: NDArray[Any],
    backend: Backend,
    *,
    where: str,
    iterations: int = 100,
    tolerance: float = 1e-9,
    goal: float = math.inf,
) -> Fit:
    """Return the minimiser of `objective` over arrays supported on `mask`, a local one where it is not convex.

    Parameters
    ----------
    objective : Quadratic or Adapted
    mask : bool array
    start : array
        Zero off the mask.
    backend : Backend
    where : str
        Which step asks, for the sentence about an answer that is not finite.
    iterations, tolerance
        Newton or L-BFGS stop when the gradient on the support has fallen to `tolerance` times its first size (Newton:
        times 1e-3 of that), when rounding hides any further decrease, or after so many iterations.
    goal : float
        Newton's method gives up where several times the decrease that its model promises would still end above.
    """
    if isinstance(objective, Quadratic):
        w = refit(objective, mask, start, backend)
        value, gradient = evaluate(objective, w, backend, where)
        return Fit(w, value, gradient, True)
    value, gradient = evaluate(objective, start, backend, where)
    first = Fit(start, value, gradient, False)
    if isinstance(objective.user, LeastSquares):
        exact = _over_rows(objective, mask, first, backend, where)
        if exact is not None:
            return exact
    if objective.shapes is None and hasattr(objective.user, "hessian"):
        rows, columns = backend.xp.nonzero(mask)
        if 0 < rows.size <= _NEWTON:
            return _newton(objective, rows, columns, mask, first, backend, where, iterations, tolerance * 1e-3, goal)
    return _lbfgs(objective, mask, first, backend, where, iterations, tolerance)


def improve_on(
    objective: Quadratic, mask: NDArray[np.bool_], start: NDArray[Any], backend: Backend, steps: int
) -> tuple[Fit, float]:
    """Return a few conjugate-gradient steps of a fit on a support, and the best step along the first gradient.

    Without a `right_gram` every column has lengths of its own. The gradient is updated on the way, so that the work is
    one product with the Gram matrix per step and one for the start. Variables should have about one scale; the host
    waits once, at the end.
    """
    xp = backend.xp
    axis = 0 if objective.right_gram is None else None
    w = start
    gradient = objective.gradient(w)
    residual = -gradient * mask
    direction = residual
    size = inner(residual, residual, axis)
    first: list[Any] = []
    for _ in range(steps):
        image = objective.gram @ direction
        if objective.right_gram is not None:
            image = image @ objective.right_gram
        curved = inner(direction, image, axis)
        moving = (curved > 0) & (size > 0)
        length = xp.where(moving, size / xp.where(moving, curved, 1), 0)
        if not first:
            first = [size.sum(), curved.sum()]
        w = w + length * direction
        image *= length
        gradient += image
        image *= mask
        residual = residual - image
        shrunk, size = size, inner(residual, residual, axis)
        direction = residual + xp.where(moving, size / xp.where(moving, shrunk, 1), 0) * direction
    # f = 1/2 <w, gradient - cross> with <w, cross> taken off again
    value = 0.5 * (dot(w, gradient) - dot(w, objective.cross)) + objective.constant
    reached, squared, bent = backend.floats(value, *first)
    return Fit(w, reached, gradient, False), squared / bent if bent > 0 else 1.0


def _over_rows(objective: Any, mask: NDArray[np.bool_], fit: Fit, backend: Backend, where: str) -> Fit | None:
    """Return the least squares fit, or None where iterations are cheaper or rounding has spoilt it."""
    (rows,) = backend.xp.nonzero(mask.any(axis=1))
    (p, n), samples = objective.shape, int(objective.user.X.shape[0])
    # against a hundred values and gradients: the Gram matrix, and one factorization for each column
    if not (0 < rows.size**2 <= 200 * p * n and rows.size**3 <= 1200 * samples * p):
        return None
    w = backend.xp.zeros_like(fit.w)
    few = objective.user.on_rows(rows)
    w[rows] = backend.masked_lsq(few.gram, few.cross, mask[rows]).astype(w.dtype, copy=False)
    value, gradient = measure(objective, w, backend, where)
    return Fit(w, value, gradient, True) if value <= fit.value else None


def _newton(
    objective: Any,
    rows: NDArray[Any],
    columns: NDArray[Any],
    mask: NDArray[np.bool_],
    fit: Fit,
    backend: Backend,
    where: str,
    iterations: int,
    tolerance: float,
    goal: float,
) -> Fit:
    xp = backend.xp
    eps = float(np.finfo(fit.w.dtype).eps)
    first, scale = None, abs(fit.value)
    for _ in range(iterations):
        slope = fit.gradient[rows, columns]
        hessian = objective.hessian(fit.w, rows, columns)
        # Without a ridge a softmax does not see a common shift of the classes: its Hessian is singular there.
        diagonal = hessian.diagonal()
        damping = 100 * eps * abs(diagonal).max() + np.finfo(fit.w.dtype).tiny
        hessian.reshape(-1)[:: rows.size + 1] += damping
        direction = xp.zeros_like(fit.w)
        direction[rows, columns] = -xp.linalg.solve(hessian, slope[:, None])[:, 0]
        descent, size = backend.floats(dot(fit.gradient, direction), abs(slope).max())
        first = size if first is None else first
        if size <= tolerance * first or size == 0:
            return Fit(fit.w, fit.value, fit.gradient, True)
        if not descent < 0:
            return _lbfgs(objective, mask, fit, backend, where, iterations, tolerance)
        if fit.value + HOPE * descent / 2 > goal:
            return fit
        moved = _search(objective, fit, direction, descent, 1.0, backend, where)
        # a last step from where values no longer tell; without a minimiser the values fall to their infimum
        last = -descent <= eps * scale
        if moved is None or last:
            fit = fit if moved is None else moved
            return Fit(fit.w, fit.value, fit.gradient, True)
        fit = moved
    return fit


def _lbfgs(
    objective: Any, mask: NDArray[np.bool_], fit: Fit, backend: Backend, where: str, iterations: int, tolerance: float
) -> Fit:
    pairs: list[tuple[NDArray[Any], NDArray[Any], float]] = []
    slope = fit.gradient * mask
    (first,) = backend.floats(abs(slope).max())
    for _ in range(iterations):
        direction = _two_loops(-slope, pairs)
        descent, size, length = backend.floats(dot(slope, direction), abs(slope).max(), dot(slope, slope) ** 0.5)
        if size <= tolerance * first or size == 0:
            return Fit(fit.w, fit.value, fit.gradient, True)
        if not descent < 0:
            pairs, direction, descent = [], -slope, -(length**2)
        moved = _search(objective, fit, direction, descent, 1.0 if pairs else min(1.0, 1.0 / length), backend, where)
        if moved is None:
            if not pairs:
                return Fit(fit.w, fit.value, fit.gradient, True)
            pairs = []
            continue
        previous, slope = slope, moved.gradient * mask
        step, change = moved.w - fit.w, slope - previous
        curved, squared = backend.floats(dot(step, change), dot(change, change))
        if curved > 1e-10 * squared:
            pairs = [*pairs[-_MEMORY + 1 :], (step, change, 1.0 / curved)]
        fit = moved
    return fit


def _two_loops(direction: NDArray[Any], pairs: list[tuple[NDArray[Any], NDArray[Any], float]]) -> NDArray[Any]:
    """Multiply by the inverse Hessian that the pairs of steps and changes of the gradient stand for."""
    shares = []
    kind = direction.real.dtype.type
    for step, change, inverse in reversed(pairs):
        share = dot(step, direction) * inverse
        shares.append(share)
        direction = direction - share.astype(kind) * change
    if pairs:
        step, change, inverse = pairs[-1]
        direction = direction * (1.0 / inverse / dot(change, change)).astype(kind)
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - dot(change, direction) * inverse).astype(kind) * step
    return direction


def _search(
    objective: Any, fit: Fit, direction: NDArray[Any], descent: float, length: float, backend: Backend, where: str
) -> Fit | None:
    """Return the first point along the direction that decreases enough; None where rounding hides the decrease."""
    kind = fit.w.real.dtype.type
    noise = 4 * float(np.finfo(fit.w.dtype).eps) * abs(fit.value)
    finite = False
    for _ in range(40):
        w = fit.w + kind(length) * direction
        value, gradient = measure(objective, w, backend, f"{where}, at a trial step of length {length:.3g}")
        finite = finite or math.isfinite(value)
        if value <= fit.value + _ARMIJO * length * descent:
            return Fit(w, value, gradient, False)
        if -length * descent <= noise:
            # values no longer tell; the slope along the direction does
            (slope,) = backend.floats(dot(gradient, direction))
            shorter = abs(slope) < abs(descent) and value <= fit.value + noise
            return Fit(w, min(value, fit.value), gradient, False) if shorter and slope else None
        length *= 0.5
    if not finite:
        raise not_finite(objective, f"{where}, at every trial step down to length {length:.3g}")
    return None
