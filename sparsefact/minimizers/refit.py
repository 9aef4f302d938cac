"""The best values on a given support: the exact polish that ends every search for one.

For one Gram matrix the columns are independent and each is a small Hermitian system (`masked_lsq`), solved exactly.
With a Gram matrix on both sides the entries of the support are coupled, and preconditioned conjugate gradients with the
residual projected on the support solve

    P(G B H) = P(C),   B = P(B),   P the projection on the support.

Symbols: G gram (p, p), H right_gram (n, n), C cross (p, n), B the unknown (p, n), M the mask of the support.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.protocol import MinimizeProblem
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["conjugate_gradients", "quadratic_of", "refit"]


def quadratic_of(problem: MinimizeProblem, solver: str) -> Quadratic:
    """Return the objective of a problem that only a solver of quadratics was asked to solve, or refuse it."""
    if isinstance(problem.objective, Quadratic):
        return problem.objective
    user = getattr(problem.objective, "user", problem.objective)
    raise ArgumentError(
        f"objective is a {type(user).__name__}, but {solver} minimises quadratics only; pass sparsefact.IHT() or "
        "another solver of smooth objectives, or a sparsefact.Quadratic"
    )


def refit(
    objective: Quadratic,
    mask: NDArray[np.bool_],
    start: NDArray[Any],
    backend: Backend,
    *,
    iterations: int = 30,
    tolerance: float = 1e-6,
) -> NDArray[Any]:
    """Return the minimiser of `objective` over matrices supported on `mask`.

    Parameters
    ----------
    objective : Quadratic
    mask : (p, n) bool array
    start : (p, n) array
        Where conjugate gradients start (with a `right_gram` only); zero off the mask.
    backend : Backend
    iterations, tolerance
        Conjugate gradients stop when the preconditioned residual has shrunk by `tolerance`, or after `iterations`.

    Returns
    -------
    (p, n) array
        Zero off the mask.
    """
    if objective.right_gram is None:
        return backend.masked_lsq(objective.gram, objective.cross, mask)
    return conjugate_gradients(objective, mask, start, iterations=iterations, tolerance=tolerance)


def conjugate_gradients(
    objective: Quadratic, mask: NDArray[np.bool_], start: NDArray[Any], *, iterations: int, tolerance: float
) -> NDArray[Any]:
    """Return `start` improved by preconditioned conjugate gradients on `mask`; the parameters are those of `refit`."""
    gram, right = objective.gram, objective.right_gram
    curvature = gram.diagonal().real[:, None] * np.ones_like(objective.cross.real[:1])
    if right is not None:
        curvature = curvature * right.diagonal().real[None, :]
    # Entries without curvature do not change the objective: they keep their start.
    weight = np.where(mask & (curvature > 0), 1.0 / np.where(curvature > 0, curvature, 1.0), 0.0)
    weight = weight.astype(curvature.dtype, copy=False)
    b = start.copy()
    residual = -objective.gradient(b) * mask
    direction = weight * residual
    size = first = float(np.vdot(residual, direction).real)
    for _ in range(iterations):
        if not size > tolerance**2 * first:
            break
        image = gram @ direction
        image = (image if right is None else image @ right) * mask
        curved = float(np.vdot(direction, image).real)
        if not curved > 0:
            break
        length = size / curved
        b += length * direction
        residual -= length * image
        scaled = weight * residual
        size, previous = float(np.vdot(residual, scaled).real), size
        direction = scaled + (size / previous) * direction
    return b
