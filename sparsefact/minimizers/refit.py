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

__all__ = ["conjugate_gradients", "near_refit", "quadratic_of", "refit"]

# A system of s unknowns costs s^3 / 3 multiplications, an iteration of conjugate gradients p^2 for each column; small
# factorizations run at about a third of the speed of large products.
_CHEAP = 2.0
# Iterations of conjugate gradients between two looks whether all columns are done.
_LOOK = 4


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


def near_refit(
    objective: Quadratic,
    mask: NDArray[np.bool_],
    start: NDArray[Any],
    backend: Backend,
    *,
    kept: int,
    iterations: int = 10,
) -> tuple[NDArray[Any], bool]:
    """Return the minimiser on `mask` where that costs no more than conjugate gradients, else what those reach.

    Parameters
    ----------
    objective, mask, start, backend
        As for `refit`; conjugate gradients start at `start`.
    kept : int
        Entries of the support.
    iterations : int
        Conjugate gradients.

    Returns
    -------
    value : (p, n) array
        Zero off the mask.
    exact : bool
        Whether it is the minimiser.
    """
    p, n = objective.shape
    if objective.right_gram is None and (kept / max(1, n)) ** 3 <= _CHEAP * iterations * p * p:
        return refit(objective, mask, start, backend), True
    return conjugate_gradients(objective, mask, start, iterations=iterations, tolerance=1e-6), False


def conjugate_gradients(
    objective: Quadratic, mask: NDArray[np.bool_], start: NDArray[Any], *, iterations: int, tolerance: float
) -> NDArray[Any]:
    """Return `start` improved by preconditioned conjugate gradients on `mask`; the parameters are those of `refit`.

    Without a `right_gram` the columns are independent: each has step lengths of its own.
    """
    gram, right = objective.gram, objective.right_gram
    axis = 0 if right is None else None
    curvature = gram.diagonal().real[:, None] * np.ones_like(objective.cross.real[:1])
    if right is not None:
        curvature = curvature * right.diagonal().real[None, :]
    # Entries without curvature do not change the objective: they keep their start.
    weight = np.where(mask & (curvature > 0), 1.0 / np.where(curvature > 0, curvature, 1.0), 0.0)
    weight = weight.astype(curvature.dtype, copy=False)
    b = start.copy()
    residual = objective.gradient(b)
    residual *= -mask.astype(weight.dtype)
    direction = weight * residual
    size = first = inner(residual, direction, axis)
    for iteration in range(iterations):
        # A column that is done, or whose gradient is zero, stays where it is.
        moving = size > tolerance**2 * first
        if iteration % _LOOK == 0 and not bool(moving.any()):
            break
        image = gram @ direction
        image = image if right is None else image @ right
        image *= mask
        curved = inner(direction, image, axis)
        moving &= curved > 0
        length = np.where(moving, size / np.where(moving, curved, 1), 0).astype(weight.dtype, copy=False)
        b += length * direction
        image *= length
        residual -= image
        np.multiply(weight, residual, out=image)
        fresh = inner(residual, image, axis)
        direction *= np.where(moving, fresh / np.where(moving, size, 1), 0).astype(weight.dtype, copy=False)
        direction += image
        size = fresh
    return b


def inner(a: NDArray[Any], b: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """Return the real inner product of two matrices, or of their columns or rows, without dropping an axis."""
    product = a * b if a.dtype.kind != "c" else (a.conj() * b).real
    found: NDArray[Any] = product.sum(axis=axis, keepdims=True)
    return found
