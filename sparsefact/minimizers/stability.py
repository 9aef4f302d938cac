"""When hard thresholding stands still: the certificate of a stationary point of a sparse problem.

A point W with support I is HT-stable for the step c when a step of projected gradient descent returns it,

    grad_I f(W) = 0   and   |W_i| >= c |grad_j f(W)|   for every kept i and dropped j that could change places,

the strict form of "L-stationarity" with L = 1/c (A. Beck, Y. Eldar, "Sparsity constrained nonlinear optimization", SIAM
J. Optim. 2013). Every minimiser over at most k nonzeros is such a point for every c <= 1/L, L the Lipschitz constant of
the gradient; the reverse does not hold, so this is a necessary condition and no proof of an optimum. For blocks
magnitudes are Frobenius norms.

Symbols: W value, c step, s scale: with scaled variables s W the step is taken in those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend
from sparsefact.minimizers.adapted import Adapted
from sparsefact.minimizers.exchange_groups import cells
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["StabilityCertificate", "stability"]


@dataclass(frozen=True, eq=False, repr=False)
class StabilityCertificate:
    """What hard thresholding says of a point: the gradient on its support, and the step for which it stands still.

    Attributes
    ----------
    residual : float
        The largest gradient on the support.
    tolerance : float
        Up to which the residual counts as zero: a small multiple of the largest gradient at zero.
    step : float
        The step for which stability is claimed: 1/L where L is known, the last one taken otherwise.
    largest_step : float
        The largest step for which the point is HT-stable: the smallest ratio of a kept magnitude to the largest dropped
        gradient that could take its place. Infinity where nothing can.
    stable : bool
        ``residual <= tolerance and step <= largest_step``.
    lipschitz : float or None
        The Lipschitz constant that gave the step, by the rule that was asked for.
    lipschitz_bound : float or None
        A guaranteed upper bound of it, where the objective has one. A Monte-Carlo or power estimate is a lower bound:
        compare the two.
    value : array
        The point; the flat row of all matrices for an objective of several.
    constraint : Constraint
    """

    residual: float
    tolerance: float
    step: float
    largest_step: float
    lipschitz: float | None
    lipschitz_bound: float | None
    value: NDArray[Any]
    constraint: Any
    support: NDArray[np.bool_]
    scale: NDArray[Any] | None = None

    @property
    def stable(self) -> bool:
        """Whether the point is HT-stable for `step`."""
        return self.residual <= self.tolerance and self.step <= self.largest_step * (1 + 1e-9)

    def __repr__(self) -> str:
        word = "stable" if self.stable else "not stable"
        return (
            f"StabilityCertificate({word} for step {self.step:.3g}: residual {self.residual:.3g} on the support, "
            f"stable up to step {self.largest_step:.3g})"
        )

    def verify(self, objective: Any) -> bool:
        """Check the claim again for this objective, from central differences of its values in float64.

        Parameters
        ----------
        objective : the objective that was minimised
            It is evaluated twice per entry of the gradient, for at most some hundred entries: all of the support's and
            the dropped ones of largest gradient, or a sample.

        Returns
        -------
        bool
            False for another objective, a point off the constraint, and a certificate that was changed.
        """
        backend = get_backend(*getattr(objective, "arrays", ()))
        dtype = np.dtype(self.value.dtype)
        f = Adapted(objective, backend, dtype)
        w = backend.asarray(self.value)
        if tuple(w.shape) != f.shape or not self.constraint.contains(backend.to_host(w)):
            return False
        gradient = f.gradient(w)
        again = stability(
            f, w, gradient, backend.asarray(self.support), self.constraint, backend, self.step, self.scale
        )
        slack = 1e-3 if np.finfo(dtype).eps < 1e-10 else 1e-1
        if self.stable and not (again.residual <= 2 * self.tolerance and self.step <= again.largest_step * (1 + slack)):
            return False
        if abs(again.residual - self.residual) > self.tolerance:
            return False
        if not _close(again.largest_step, self.largest_step, slack):
            return False
        return _gradient_holds(f, w, backend.to_host(gradient), backend)


def _close(a: float, b: float, slack: float) -> bool:
    return a == b or abs(a - b) <= slack * max(abs(a), abs(b))


def _gradient_holds(f: Any, w: NDArray[Any], gradient: NDArray[Any], backend: Backend) -> bool:
    """Compare the gradient with differences of values along a few directions."""
    rng = np.random.default_rng(0)
    real = np.dtype(w.real.dtype)
    size = float(abs(w).max()) + 1.0
    length = size * float(np.finfo(real).eps) ** (1 / 3)
    reach = float(np.abs(gradient).max()) + 1e-300
    for _ in range(4):
        direction = rng.standard_normal(f.shape).astype(real) / math.sqrt(max(1, w.size))
        moved = backend.asarray(direction * real.type(length))
        up, down = float(f.value(w + moved)), float(f.value(w - moved))
        expected = float((gradient.conj() * direction).sum().real)
        noise = 50 * float(np.finfo(real).eps) * (abs(up) + abs(down)) / length
        if abs((up - down) / (2 * length) - expected) > 1e-2 * abs(expected) + 1e-3 * reach + noise:
            return False
    return True


def stability(
    objective: Any,
    w: NDArray[Any],
    gradient: NDArray[Any],
    support: NDArray[np.bool_],
    constraint: Any,
    backend: Backend,
    step: float,
    scale: NDArray[Any] | None,
    *,
    lipschitz: float | None = None,
    bound: float | None = None,
) -> StabilityCertificate:
    """Measure how stable a point is; `w` and `gradient` are in the variables of the problem, `scale` is theirs."""
    xp = backend.xp
    magnitudes, slopes = abs(w), abs(gradient)
    if scale is not None:
        magnitudes, slopes = magnitudes * scale, slopes / scale
    on_support = (slopes * support).max()
    at_zero = objective.cross if isinstance(objective, Quadratic) else objective.gradient(xp.zeros_like(w))
    reach = abs(at_zero if scale is None else at_zero / scale).max()
    residual, reach = backend.floats(on_support, reach)
    eps = float(np.finfo(w.real.dtype).eps)
    tolerance = 4.0 * math.sqrt(eps) * max(reach, residual * math.sqrt(eps))
    return StabilityCertificate(
        residual,
        tolerance,
        step,
        _largest_step(backend.to_host(magnitudes), backend.to_host(slopes), backend.to_host(support), constraint),
        lipschitz,
        bound,
        w,
        constraint,
        support,
        scale,
    )


def _largest_step(magnitudes: NDArray[Any], slopes: NDArray[Any], support: NDArray[np.bool_], constraint: Any) -> float:
    found = cells(constraint, magnitudes.shape)
    if found is None:
        return math.inf
    cell, group = found
    size, slope, kept = magnitudes.reshape(-1), slopes.reshape(-1), support.reshape(-1)
    if cell is not None:
        flat, count = cell.reshape(-1), group.size
        size, slope = (np.sqrt(np.bincount(flat, x.astype(np.float64) ** 2, count)) for x in (size, slope))
        kept = np.bincount(flat, kept, count) > 0
    free = group >= 0
    groups = int(group.max()) + 1
    smallest, steepest = np.full(groups, np.inf), np.zeros(groups)
    np.minimum.at(smallest, group[kept & free], size[kept & free])
    np.maximum.at(steepest, group[~kept & free], slope[~kept & free])
    matters = (steepest > 0) & np.isfinite(smallest)
    with np.errstate(over="ignore"):
        return float((smallest[matters] / steepest[matters]).min(initial=np.inf))
