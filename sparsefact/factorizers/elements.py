"""Elements of a chain under construction: their values at an interface, and where the centre of the product is.

An element stands for consecutive factors of a chain and is held as the values (a, b, c, d) of their product. At an
interface its values fall into blocks, on each of which the interface is an ordinary matrix product of inner size r.

A list of elements has a centre: everything left of it has orthonormal columns in each block of its right interface,
everything right of it orthonormal rows in each block of its left one. The Frobenius norm of the product is then that of
the centre, and truncating blocks of the centre is truncating the blocks of the whole product.

Symbols: left (a, b, p r, d) and right (a p, r t, c, d / t) values of two neighbours; r inner size, p intervals and
t residues of their interface.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.kronecker_values import blocks_at

__all__ = [
    "contract_left",
    "contract_right",
    "join_left",
    "join_right",
    "lean_left",
    "lean_right",
    "levelled",
    "multiply",
]

Values = NDArray[Any]


def join_left(u: Values) -> Values:
    """Return the values of the left factor of a split from its blocks (a, p, t, d, b, r)."""
    a, p, t, d, b, r = u.shape
    return u.transpose(0, 4, 1, 5, 2, 3).reshape(a, b, p * r, t * d)


def join_right(v: Values) -> Values:
    """Return the values of the right factor of a split from its blocks (a, p, t, d, r, c)."""
    a, p, t, d, r, c = v.shape
    return v.transpose(0, 1, 4, 2, 5, 3).reshape(a * p, r * t, c, d)


def lean_right(backend: Backend, left: Values, right: Values) -> tuple[Values, Values]:
    """Return the same product with orthonormal columns in the left factor's blocks: the centre moves right."""
    (a, b, _, d), (intervals, _, c, inner) = left.shape, right.shape
    q, triangle = _orthonormal(backend, _left_blocks(left, intervals))
    r = q.shape[-1]
    pushed = triangle.reshape(intervals, d // inner, inner, r, -1) @ _right_blocks(right, d)
    return (
        q.transpose(0, 3, 1, 4, 2).reshape(a, b, intervals // a * r, d),
        pushed.transpose(0, 3, 1, 4, 2).reshape(intervals, r * (d // inner), c, inner),
    )


def lean_left(backend: Backend, left: Values, right: Values) -> tuple[Values, Values]:
    """Return the same product with orthonormal rows in the right factor's blocks: the centre moves left."""
    (a, b, _, d), (intervals, _, c, inner) = left.shape, right.shape
    # a block is R^T Q^T, and Q^T has orthonormal rows: nothing needs to be conjugated
    q, triangle = _orthonormal(backend, _right_blocks(right, d).swapaxes(-1, -2))
    r = q.shape[-1]
    pushed = _left_blocks(left, intervals) @ triangle.swapaxes(-1, -2).reshape(a, intervals // a, d, -1, r)
    return (
        pushed.transpose(0, 3, 1, 4, 2).reshape(a, b, intervals // a * r, d),
        q.transpose(0, 4, 1, 3, 2).reshape(intervals, r * (d // inner), c, inner),
    )


def multiply(left: Values, right: Values) -> Values:
    """Return the values of the product of two neighbours."""
    (a, b, _, d), (intervals, _, c, inner) = left.shape, right.shape
    p, t = intervals // a, d // inner
    blocks = _left_blocks(left, intervals).reshape(a, p, t, inner, b, -1) @ _right_blocks(right, d).reshape(
        a, p, t, inner, -1, c
    )
    return blocks.transpose(0, 4, 2, 1, 5, 3).reshape(a, b * t, p * c, inner)


def contract_left(left: Values, values: Values, intervals: int) -> Values:
    """Return the values of ``left^H @ element`` where the element without its first factor has its support."""
    residues = left.shape[3]
    blocks = blocks_at(values, intervals, residues)
    adjoint = _left_blocks(left, intervals).conj().swapaxes(-1, -2)
    return join_right(adjoint.reshape(*blocks.shape[:4], *adjoint.shape[-2:]) @ blocks)


def contract_right(right: Values, values: Values, residues: int) -> Values:
    """Return the values of ``element @ right^H`` where the element without its last factor has its support."""
    blocks = blocks_at(values, right.shape[0], residues)
    adjoint = _right_blocks(right, residues).conj().swapaxes(-1, -2)
    return join_left(blocks @ adjoint.reshape(*blocks.shape[:4], *adjoint.shape[-2:]))


def levelled(values: list[NDArray[Any]], unit: float) -> list[NDArray[Any]]:
    """Return factors whose product is `unit` times as large, with largest entries of one size up to powers of two."""
    sizes = [float(abs(v).max()) for v in values]
    if not all(sizes):
        return [np.zeros_like(v) for v in values]
    logs = [math.log2(size) for size in sizes]
    target = (sum(logs) + math.log2(unit)) / len(logs)
    ends = [round(sum(target - log for log in logs[:j])) for j in range(len(logs) + 1)]
    ends[-1] = round(math.log2(unit))
    return [np.ldexp(1.0, ends[j + 1] - ends[j]).astype(v.real.dtype) * v for j, v in enumerate(values)]


def _left_blocks(left: Values, intervals: int) -> Values:
    """Return the view (a, p, d, b, r) of the blocks of a factor at its right interface."""
    a, b, c, d = left.shape
    p = intervals // a
    return left.reshape(a, b, p, c // p, d).transpose(0, 2, 4, 1, 3)


def _right_blocks(right: Values, residues: int) -> Values:
    """Return the view (a p, t, d / t, r, c) of the blocks of a factor at its left interface."""
    a, b, c, d = right.shape
    t = residues // d
    return right.reshape(a, b // t, t, c, d).transpose(0, 2, 4, 1, 3)


def _orthonormal(backend: Backend, blocks: Values) -> tuple[Values, Values]:
    """Return orthonormal columns and a triangle for every block; of one column, without LAPACK's overhead."""
    if blocks.shape[-1] > 1:
        q, triangle = backend.xp.linalg.qr(blocks)
        return q, triangle
    xp, flat = backend.xp, blocks[..., 0]
    energies = xp.einsum("...i,...i->...", flat.real, flat.real, dtype=np.float64)
    if flat.dtype.kind == "c":
        energies += xp.einsum("...i,...i->...", flat.imag, flat.imag, dtype=np.float64)
    sizes = xp.sqrt(energies).astype(blocks.dtype)[..., None, None]
    zero = sizes == 0
    q = blocks / xp.where(zero, 1, sizes)
    q[..., :1, :] += zero
    return q, sizes
