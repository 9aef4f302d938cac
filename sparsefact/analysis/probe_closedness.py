"""Numerical evidence, not a proof, on whether an optimum exists for every matrix.

Targets that may be limits of products without being products are made from curves that lose rank, with random numbers.
For each the regularised problem

    min  ||B - L R||^2 + lambda (||L||^2 + ||R||^2)

which always has a solution, is followed from a large lambda to a small one. If the infimum is attained the factors tend
to bounded ones; if it is not, they grow without bound while the error falls. Near a curve of error 1/t and factors of
size sqrt(t) the balance is at t = lambda^(-1/3), so the factors grow by a power of about 1/6 of 1 / lambda.

A run that grows may be a slow descent along a flat direction, and one that does not may have missed the right target.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.closedness_rules import Item, reduce_items
from sparsefact.analysis.curve_search import random_target
from sparsefact.analysis.support_pairs import SupportPair, as_pair
from sparsefact.constraints.base import check_int

__all__ = ["ClosednessEvidence", "ProbeRun", "probe_closedness"]

_LAMBDAS = 10.0 ** -np.arange(2.0, 11.0)
_GROWTH = 0.1
_SIDE = 6

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeRun:
    """One target followed to small regularisation.

    Attributes
    ----------
    rows, cols : tuple of int
        Where in the product the target stands.
    target : (rows, cols) float64 array
    regularisation, errors, norms : tuple of float
        The values of lambda, ``||B - L R||`` and the norm of both factors together.
    growth : float
        Exponent of the factors' growth in 1 / lambda over the last values.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    target: Matrix
    regularisation: tuple[float, ...]
    errors: tuple[float, ...]
    norms: tuple[float, ...]
    growth: float

    @property
    def diverges(self) -> bool:
        """Whether the factors still grow at the end while the error still falls."""
        return self.growth > _GROWTH and self.errors[-1] < 0.5 * self.errors[-4]


@dataclass(frozen=True)
class ClosednessEvidence:
    """What the runs showed: evidence, never a proof.

    Attributes
    ----------
    suspicion : {"not closed", "none"}
        "not closed" when a run diverges; "none" when none did, which proves nothing.
    runs : tuple of ProbeRun
    """

    suspicion: str
    runs: tuple[ProbeRun, ...]

    def explain(self) -> str:
        """Return the evidence in words."""
        worst = max((run.growth for run in self.runs), default=0.0)
        diverging = sum(run.diverges for run in self.runs)
        return (
            f"Numerical evidence only: in {diverging} of {len(self.runs)} runs the factors grew without settling while "
            f"the error fell (largest growth exponent {worst:.2f}; about 0.17 is typical of an infimum that is not "
            "attained, 0 of one that is). sparsefact.closedness gives proofs."
        )


def probe_closedness(left: Any, right: Any, *, targets: int = 6, starts: int = 2, seed: int = 0) -> ClosednessEvidence:
    """Look for numerical signs that some matrix has no best approximation by factors inside two supports.

    Parameters
    ----------
    left, right : supports of shape (m, r) and (r, n)
        As in `sparsefact.closedness`.
    targets : int, optional
        How many matrices to try.
    starts : int, optional
        How many random starts for each.
    seed : int, optional
        Of everything random.

    Returns
    -------
    ClosednessEvidence
        Labelled as evidence: the heuristic can err both ways.

    Raises
    ------
    DtypeError, ShapeError, ArgumentError
        If the supports are not boolean, have different inner dimensions or no entry, or a count is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> lower = np.tri(2, dtype=bool)
    >>> sf.probe_closedness(lower, lower.T).suspicion
    'not closed'
    """
    check_int("targets", targets)
    check_int("starts", starts)
    pair = as_pair(left, right)
    rng = random.Random(seed)
    numbers = np.random.default_rng(seed)
    runs: list[ProbeRun] = []
    for _ in range(20 * targets):
        if len(runs) == targets:
            break
        rows, cols = _block(pair, rng)
        allowed = pair.left.tocsr()[list(rows)].toarray(), pair.right.tocsc()[:, list(cols)].toarray()
        alive = allowed[0].any(axis=0) & allowed[1].any(axis=1)
        allowed = allowed[0][:, alive], allowed[1][alive]
        target = _target(allowed, rng)
        if target is None:
            continue
        tried = [_follow(target, *allowed, numbers) for _ in range(starts)]
        errors, norms = min(tried, key=lambda run: run[0][-1])
        growth = float(np.polyfit(np.log(1 / _LAMBDAS[-4:]), np.log(norms[-4:]), 1)[0])
        runs.append(ProbeRun(rows, cols, target, tuple(_LAMBDAS.tolist()), tuple(errors), tuple(norms), growth))
    suspicion = "not closed" if any(run.diverges for run in runs) else "none"
    return ClosednessEvidence(suspicion, tuple(runs))


def _block(pair: SupportPair, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return everything where it is small, and otherwise two or three rows and columns, rather those of few terms."""
    found = []
    for sets, length in ((pair.rows, pair.shape[0]), (pair.cols, pair.shape[1])):
        if max(pair.shape) <= _SIDE:
            found.append(tuple(range(length)))
            continue
        met = np.bincount(sets.idx, minlength=length)
        weights = np.where(met > 0, 1.0 / np.maximum(met, 1), 0.0)
        drawn = set(rng.choices(range(length), weights.tolist(), k=rng.choice((2, 3, 4))))
        found.append(tuple(sorted(drawn)[:3]))
    return found[0], found[1]


def _target(allowed: tuple[Any, Any], rng: random.Random) -> Matrix | None:
    """Return the limit of a random curve that loses rank, or None where there is none."""
    left, right = allowed
    m, n = left.shape[0], right.shape[1]
    if not left.shape[1]:
        return None
    row_sets = [sum(1 << i for i in range(m) if left[i, k]) for k in range(left.shape[1])]
    col_sets = [sum(1 << j for j in range(n) if right[k, j]) for k in range(left.shape[1])]
    classes: dict[tuple[int, int], list[int]] = {}
    for k, key in enumerate(zip(row_sets, col_sets, strict=True)):
        classes.setdefault(key, []).append(k)
    items = [Item(tuple(b if a >> i & 1 else 0 for i in range(m)), tuple(ks)) for (a, b), ks in classes.items()]
    limit = random_target(reduce_items(items), (m, n), rng)
    return None if limit is None else np.array([[float(v) for v in row] for row in limit])


def _follow(target: Matrix, left: Any, right: Any, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Return errors and norms along decreasing regularisation, by Levenberg-Marquardt from one random start."""
    at_left, at_right = np.nonzero(left), np.nonzero(right)
    split = at_left[0].size
    z = rng.standard_normal(split + at_right[0].size)
    errors, norms = [], []

    def factors(z: Matrix) -> tuple[Matrix, Matrix]:
        x, y = np.zeros(left.shape), np.zeros(right.shape)
        x[at_left], y[at_right] = z[:split], z[split:]
        return x, y

    def value(z: Matrix, weight: float) -> float:
        x, y = factors(z)
        return float(np.sum((x @ y - target) ** 2) + weight * (z @ z))

    for weight in _LAMBDAS:
        damping = 1e-3
        now = value(z, weight)
        for _ in range(60):
            x, y = factors(z)
            jacobian = np.zeros((*target.shape, z.size))
            where = np.arange(split)
            jacobian[at_left[0], :, where] = y[at_left[1], :]
            jacobian[:, at_right[1], split + np.arange(z.size - split)] = x[:, at_right[0]]
            flat = jacobian.reshape(-1, z.size)
            gradient = flat.T @ (x @ y - target).ravel() + weight * z
            hessian = flat.T @ flat + weight * np.eye(z.size)
            # the second term keeps the system regular where the damping has become negligible
            shift = damping + 1e-14 * float(np.trace(hessian))
            step = np.linalg.solve(hessian + shift * np.eye(z.size), -gradient)
            later = value(z + step, weight)
            if later < now:
                z, damping = z + step, max(damping / 5, 1e-15)
                if now - later < 1e-10 * now:
                    break
                now = later
            else:
                damping *= 4
                if damping > 1e8:
                    break
        x, y = factors(z)
        errors.append(float(np.linalg.norm(x @ y - target)))
        norms.append(float(np.linalg.norm(z)))
    return errors, norms
