"""What factorizing a matrix takes of memory, as an upper bound: a model that was measured (benchmarks/plan_memory.py).

It is that of a process that has loaded the solver and compiled its kernels, which the first run of all on a machine
does, and of what a factorization adds to it. Arrays are counted where solvers hold most of them together.
"""

from __future__ import annotations

from typing import NamedTuple

from sparsefact.checkpoints.plan import Target
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.double_sparse import DoubleSparse
from sparsefact.constraints.sparse_plus_low_rank import SparsePlusLowRank

__all__ = ["PROCESS", "memory_of"]

PROCESS = 198 << 20  # bytes of a process with everything loaded, and for what compiling takes beyond a job's own
_FIXED = 26 << 20  # bytes that any factorization adds: buffers of the BLAS, vectors of the timed products
_PROJECTED = 3.6  # arrays of the size of the matrix that its projection takes, and
_PROJECTION_KEPT = 5.0  # so many of the share of it that is kept
# With a gram: arrays of the size of the matrix that a solver of one matrix holds, and of the size of each Gram matrix.
_SINGLE = {"matching-pursuit": 13.5, "sequential-attention": 20.5, "deep-weight-factorization": 11.5}
_OTHER_SINGLE, _SINGLE_GRAMS = 15.5, 5.3
_CHAIN_KERNELS, _MONARCH_KERNELS = 20 << 20, 56 << 20  # bytes that compiling takes besides, for chains
_CHAIN, _CHAIN_VALUES = 2.75, 4.0  # arrays of the size of the matrix, and of all values, that a chain takes, and
_PANELS, _MOST_PANELS = 2.75, 56 << 20  # so many of the matrix for its panels, and their bytes at most
_DEEPER = 3.0  # arrays of the size of the matrix for each further factor of every weight


class _Pair(NamedTuple):
    """Arrays of the size of the matrix, of all dense factors, of each Gram matrix, that a solver of products holds."""

    matrix: float
    factors: float
    grams: float


_PALM, _ALS = _Pair(6.8, 4.65, 2.0), _Pair(0.5, 8.5, 3.2)
_ALS_INNER = (3.6, 1.6)  # arrays of the inner dimension squared, without and with a gram
_WEIGHED, _FIXED_SUPPORTS = _Pair(4.0, 9.5, 5.2), 8.0  # Alternating under a gram, fewer of factors in a chain, and
_EIGENVECTORS = _Pair(6.5, 0.0, 9.2)  # while it takes the largest apart
_PLAIN = _Pair(0.7, 4.45, 0.0)  # without; and, above a density of 0.4, when the factors are measured,
_STORED = 2.0  # so many more of the excess of their size
_SEARCH, _INNER = _Pair(4.0, 0.85, 0.0), 3.6  # its search, and arrays of the inner dimension squared in it
_WIDER = 4.5  # the same under a gram, of what is beyond the shorter side squared
_SUM, _WEIGHED_SUM = _Pair(19.0, 0.0, 0.0), _Pair(0.7, 7.45, 11.0)  # of a sparse matrix and one of low rank


def memory_of(target: Target) -> int:
    """Return an upper bound of the bytes that factorizing a matrix adds to a process.

    Parameters
    ----------
    target : Target
        The matrix and how it is factorized.

    Returns
    -------
    int
    """
    m, n = target.shape
    itemsize = 8 if target.dtype == "F64" else 4
    entries = sum(_gram_sizes(target))
    if target.rule.constraint == "single":
        if not target.rule.grams:
            density = 1.0 if target.budget is None else target.budget / (m * n)
            return int(_FIXED + (_PROJECTED + _PROJECTION_KEPT * density) * m * n * itemsize)
        arrays = _SINGLE.get(target.rule.solver or "", _OTHER_SINGLE)
        arrays += _DEEPER * max(0, target.rule.options.get("depth", 2) - 2)
        return int(_FIXED + (arrays * m * n + _SINGLE_GRAMS * entries) * itemsize)
    if isinstance(target.constraint, Chain):
        solver = target.rule.solver or _usual_for_chains(target)
        if solver == "hierarchical":
            whole, values = m * n * itemsize, target.constraint.nnz * itemsize
            fixed = _FIXED + (_MONARCH_KERNELS if target.rule.constraint == "monarch" else _CHAIN_KERNELS)
            return int(fixed + _CHAIN * whole + min(_PANELS * whole, _MOST_PANELS) + _CHAIN_VALUES * values)
        if solver in ("palm", "als"):
            factors = sum(factor.shape[0] * factor.shape[1] for factor in target.constraint)
            held = _arrays(_PALM if solver == "palm" else _ALS, m * n, factors, entries)
            if solver == "als":
                held += _ALS_INNER[entries > 0] * target.constraint[0].shape[1] ** 2
            return int(_FIXED + held * itemsize)
    return int(_FIXED + _alternating(target) * itemsize)


def _gram_sizes(target: Target) -> list[int]:
    """Return the entries of each Gram matrix, the largest one last."""
    m, n = target.shape
    return sorted({"gram": n * n, "left_gram": m * m}[kind] for kind in target.rule.grams)


def _arrays(pair: _Pair, matrix: int, factors: int, grams: int) -> float:
    return pair.matrix * matrix + pair.factors * factors + pair.grams * grams


def _usual_for_chains(target: Target) -> str:
    """Return the solver that `factorize` chooses for a chain; a gram is taken not to be diagonal."""
    if not target.rule.grams:
        return "hierarchical"
    if len(target.constraint) > 2:
        return "palm"
    return "alternating" if target.rule.left_gram is not None else "als"


def _alternating(target: Target) -> float:
    """Return the entries of all arrays that are held together at the peak of `Alternating`, or of a sum."""
    (m, n), constraint = target.shape, target.constraint
    inner = min(m, n)
    if isinstance(constraint, DoubleSparse):
        inner = constraint.right_shape[0]
    elif isinstance(constraint, Chain):
        inner = constraint[0].shape[1]
    elif target.rule.constraint == "double-sparse":
        inner = target.inner
    factors = inner * (m + n)
    sizes = _gram_sizes(target)
    if isinstance(constraint, SparsePlusLowRank):
        return _arrays(_WEIGHED_SUM if sizes else _SUM, m * n, factors, sum(sizes))
    density = 1.0 if target.budget is None else target.budget / (m * n)
    polish = _arrays(_PLAIN, m * n, factors, 0) + _STORED * max(0.0, density - 0.4) * factors
    if not sizes:
        return max(polish, _arrays(_SEARCH, m * n, factors, 0) + _INNER * inner**2)
    pair = _WEIGHED._replace(factors=_FIXED_SUPPORTS) if isinstance(constraint, Chain) else _WEIGHED
    weighed = _arrays(pair, m * n, factors, sum(sizes)) + _WIDER * max(0, inner**2 - min(m, n) ** 2)
    apart = _arrays(_EIGENVECTORS, m * n, 0, sizes[-1]) + _WEIGHED.grams * sum(sizes[:-1])
    return max(polish, weighed, apart)
