"""What truncating the blocks of one split of a chain leaves out of a matrix.

Symbols: u (n, b, r), s (n, r), v (n, r, c) singular triples of n blocks.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.kronecker_values import blocks_at, clear, values_on

__all__ = ["energy_outside", "missed_energy", "split_errors", "squares"]

# Entries of blocks whose residual is formed at once: what stays in a cache, or keeps a GPU busy.
_PANEL, _LARGE_PANEL = 1 << 17, 1 << 24


def squares(xp: Any, x: NDArray[Any]) -> float:
    """Return the sum of squared magnitudes, accumulated in float64."""
    return float(_squares(xp, x))


def _squares(xp: Any, x: NDArray[Any]) -> Any:
    parts = xp.ascontiguousarray(x).reshape(-1)
    parts = parts.view(parts.real.dtype)
    return xp.einsum("i,i->", parts, parts, dtype=np.float64)


def missed_energy(xp: Any, blocks: NDArray[Any], u: NDArray[Any], s: NDArray[Any], v: NDArray[Any]) -> float:
    """Return the sum over blocks (n, b, c) of ``||block - (u * s) @ v||^2``, never as a difference of norms."""
    panel = _PANEL if xp is np else _LARGE_PANEL
    step = max(1, panel // max(1, blocks.shape[1] * blocks.shape[2]))
    total: Any = 0.0
    for start in range(0, blocks.shape[0], step):
        part = slice(start, start + step)
        total = total + _squares(xp, blocks[part] - (u[part] * s[part][:, None, :]) @ v[part])
    return float(total)


def split_errors(matrix: NDArray[Any], chain: Chain, backend: Backend) -> tuple[float, ...]:
    """Return E_s for every split: the distance of the matrix to those of rank r_s in all blocks of split s.

    Parameters
    ----------
    matrix : (m, n) array
    chain : Chain
        Chainable. Entries off the support of its product count in every E_s.
    backend : Backend

    Returns
    -------
    tuple of float
        Each is a lower bound on the error of any product of the chain; one pass over the matrix for each.
    """
    whole = chain.partial(1, len(chain))
    values = values_on(matrix, whole)
    outside = energy_outside(backend.xp, matrix, whole)
    errors = []
    for rank, (left, right) in zip(chain.ranks, pairwise(chain), strict=True):
        blocks = blocks_at(values, right.a, left.d)
        flat = blocks.reshape(-1, *blocks.shape[-2:])
        u, s, v = backend.rank_r(flat, min(rank, *flat.shape[1:]))
        errors.append(math.sqrt(outside + missed_energy(backend.xp, flat, u, s, v)))
    return tuple(errors)


def energy_outside(xp: Any, matrix: NDArray[Any], support: KroneckerSupport) -> float:
    """Return the sum of squares of the entries of a matrix off a Kronecker support."""
    if support.a == support.d == 1:
        return 0.0
    rest = matrix.copy(order="C")
    clear(rest, support)
    return squares(xp, rest)
