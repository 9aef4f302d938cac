"""How fast a gradient can change: the Lipschitz constant that gives a step length, guaranteed or estimated.

* bound: what the objective guarantees.
* power: power iteration on second derivatives, exact for a quadratic in the limit and otherwise local to one point.
* montecarlo: the largest ratio ``||grad f(u) - grad f(v)|| / ||u - v||`` over random pairs on random supports with the
  allowed number of nonzeros. It samples the restricted constant ("Learning a sparse neural network using IHT",
  arXiv 2404.18414) and is a lower bound of it, since a maximum over samples cannot be larger than the maximum.

Symbols: w point, v direction, L constant.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.minimizers.adapted import dot, evaluate
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["Rule", "curvature", "estimate"]

Rule = Literal["bound", "power", "backtracking", "montecarlo"]
_POWER_STEPS = 30
_SAMPLES = 32


def estimate(
    objective: Any, rule: Rule, constraint: Any, w: NDArray[Any], backend: Backend, seed: int
) -> tuple[float | None, float | None]:
    """Return the constant by the rule, None for backtracking, and the guaranteed bound, None where there is none."""
    bound = objective.lipschitz()
    if rule == "bound" or rule == "backtracking":
        return (bound if rule == "bound" else None), bound
    rng = np.random.default_rng(seed)
    return (_power if rule == "power" else _sampled)(objective, constraint, w, backend, rng), bound


def curvature(
    objective: Any, w: NDArray[Any], gradient: NDArray[Any], direction: NDArray[Any], backend: Backend, where: str
) -> NDArray[Any]:
    """Return the second derivatives at `w` times a direction: exact for a quadratic, else by one more gradient."""
    if isinstance(objective, Quadratic):
        image: NDArray[Any] = objective.gram @ direction
        if objective.right_gram is not None:
            image = image @ objective.right_gram
        return image
    (size, length) = backend.floats(abs(w).max(), abs(direction).max())
    if not length > 0:
        flat: NDArray[Any] = backend.xp.zeros_like(w)
        return flat
    step = float(np.finfo(w.real.dtype).eps) ** 0.5 * (1.0 + size) / length
    moved = w + w.real.dtype.type(step) * direction
    _, there = evaluate(objective, moved, backend, f"{where}, beside the point to measure its curvature")
    result: NDArray[Any] = (there - gradient) / w.real.dtype.type(step)
    return result


def _power(objective: Any, constraint: Any, w: NDArray[Any], backend: Backend, rng: np.random.Generator) -> float:
    real = np.dtype(w.real.dtype)
    vector = backend.asarray(rng.standard_normal(w.shape).astype(real))
    _, gradient = evaluate(objective, w, backend, "at the start")
    largest = 0.0
    for _ in range(_POWER_STEPS):
        (norm,) = backend.floats(dot(vector, vector) ** 0.5)
        if not norm > 0:
            break
        vector = vector / real.type(norm)
        vector = curvature(objective, w, gradient, vector, backend, "in a power iteration")
        (largest,) = backend.floats(dot(vector, vector) ** 0.5)
    return 1.01 * largest


def _sampled(objective: Any, constraint: Any, w: NDArray[Any], backend: Backend, rng: np.random.Generator) -> float:
    real = np.dtype(w.real.dtype)
    largest = 0.0
    for sample in range(_SAMPLES):
        point = backend.asarray(rng.standard_normal(w.shape).astype(real))
        mask = backend.asarray(constraint.mask(backend.asarray(rng.random(w.shape).astype(real))))
        point = point * mask
        smallest = abs(backend.xp.where(mask, point, real.type(np.inf))).min()
        change = mask * backend.asarray(rng.standard_normal(w.shape).astype(real)) * smallest
        where = f"at pair {sample + 1} of the Monte-Carlo estimate"
        _, here = evaluate(objective, point, backend, where)
        _, there = evaluate(objective, point + change, backend, where)
        rise, run = backend.floats(dot(there - here, there - here), dot(change, change))
        largest = max(largest, (rise / run) ** 0.5 if run > 0 else 0.0)
    return largest
