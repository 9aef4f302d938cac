"""The dominant singular triple, or the leading ones, of many blocks at once.

For one triple of a block B with at least as many columns as rows: the eigenvector of B B^H by squaring that, then two
products with B itself (`low_rank_kernels`); from 32 rows on Lanczos steps are quicker (`lanczos`).

For r triples of blocks of at most 16 rows: the eigenvectors of G = B B^H by Jacobi rotations, then one-sided Jacobi on
the rotated rows, which has the accuracy of an SVD of B (the kernels of the sweep). For larger ones: the leading
eigenvectors U of G, one step with B itself (``Q = orth(B^H U)``), and the small SVD of B Q. The step takes away what
rounding in G mixed in from weaker directions, as long as sigma_r is not lost in G; where it is, and where r is not
small against the block, LAPACK's SVD of the block does it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.lanczos import dominant_by_lanczos
from sparsefact.backends.cpu.low_rank_kernels import dominant, two_by_two
from sparsefact.backends.cpu.panels import run_panels
from sparsefact.backends.cpu.sweep_kernels import SIDE
from sparsefact.backends.cpu.threads import over_ranges

__all__ = ["gather", "rank1", "rank_r"]

# Below this share of the largest eigenvalue of B B^H an eigenvector has lost too many digits.
_RESOLVED = 1e-4
# With r at most this share of the short side, blocks are quicker through B B^H.
_SHARE = 0.25
# From this short side on Lanczos steps are quicker than squarings.
_KRYLOV = 32
# Blocks are copied in parts of so many bytes, which stay in the cache until they are used.
_PART = 1 << 18


def gather(blocks: NDArray[Any]) -> NDArray[Any]:
    """Return blocks of shape (..., b, c) as (n, b, c): a copy in C order, made block by block, if there is more to do.

    NumPy would copy a view of a whole matrix along its longest strides.
    """
    lead, (height, width) = blocks.shape[:-2], blocks.shape[-2:]
    if len(lead) == 1:
        return blocks
    out = np.empty((math.prod(lead), height, width), blocks.dtype)
    step = max(1, _PART // max(1, height * width * blocks.itemsize))

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, step):
            part = np.arange(first, min(first + step, stop))
            out[part[0] : part[-1] + 1] = blocks[np.unravel_index(part, lead)]

    over_ranges(work, out.shape[0], grain=step)
    return out


def rank1(blocks: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the dominant singular triple of every block."""
    dtype = blocks.dtype.newbyteorder("=")
    lead = blocks.shape[:-2]
    given = gather(blocks)
    count, height, width = given.shape
    flat = height > width
    given = given.transpose(0, 2, 1) if flat else given
    short, long = given.shape[1:]
    real = np.empty(0, dtype).real.dtype
    u, s, v = np.zeros((count, short), dtype), np.zeros(count, real), np.zeros((count, long), dtype)
    is_complex = dtype.kind == "c"
    single = real == np.float32
    squarings, still = (24, real.type(1e-6)) if single else (44, real.type(1e-13))
    guess = np.zeros((2 if is_complex else 1, (short + 7) // 8 * 8), dtype=real)
    guess[:, :short] = np.random.default_rng(0).uniform(-1, 1, (guess.shape[0], short))
    # what the imaginary part is multiplied with: nothing for real blocks
    unit, zero, half = dtype.type(1j if is_complex else 0), dtype.type(0), real.type(0.5)
    enough, sections = (real.type(1e-8), 7) if single else (real.type(1e-25), 13)
    step = max(1, _PART // max(1, short * long * dtype.itemsize))

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, step):
            part = slice(first, min(first + step, stop))
            b = np.ascontiguousarray(given[part], dtype=dtype)
            if short == long == 2 and not is_complex:
                two_by_two(b, u[part], s[part], v[part], np.finfo(real).tiny)
            elif short < _KRYLOV:
                dominant(
                    b, u[part], s[part], v[part], guess.reshape(-1), squarings, still, half, is_complex, unit, zero
                )
            else:
                start_at = np.ascontiguousarray(guess[:, :short]).reshape(-1)
                planes = 2 if is_complex else 1
                dominant_by_lanczos(
                    b.view(real), u[part].view(real), s[part], v[part].view(real), start_at, planes, enough, sections
                )

    if given.size:
        over_ranges(work, count, grain=1 + (1 << 16) // (short * long + short**3))
    u, s, v = u.reshape(*lead, short), s.reshape(lead), v.reshape(*lead, long)
    return (v, s, u) if flat else (u, s, v)


def rank_r(blocks: NDArray[Any], r: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the `r` leading singular triples of every block."""
    if r == 1:
        u, s, v = rank1(blocks)
        return u[..., None], s[..., None], v[..., None, :]
    lead = blocks.shape[:-2]
    given = gather(blocks)
    given = np.asarray(given, dtype=given.dtype.newbyteorder("="))
    _, height, width = given.shape
    if height > width:
        v, s, u = _wide(given.transpose(0, 2, 1), r)
        u, v = u.transpose(0, 2, 1), v.transpose(0, 2, 1)
    else:
        u, s, v = _wide(given, r)
    return u.reshape(*lead, height, r), s.reshape(*lead, r), v.reshape(*lead, r, width)


def _wide(blocks: NDArray[Any], r: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the triples of blocks with no more rows than columns, for r > 1."""
    count, height, _ = blocks.shape
    if count and height <= SIDE:
        return _low(blocks, r)
    if count == 0 or r > _SHARE * height:
        u, s, v = np.linalg.svd(blocks, full_matrices=False)
        return u[:, :, :r], s[:, :r], v[:, :r, :]
    largest = abs(blocks).max(axis=(1, 2), keepdims=True)
    scale = np.ldexp(np.ones_like(largest), np.frexp(largest)[1])
    b = blocks / scale
    adjoint = b.conj().transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(b @ adjoint)
    q = np.linalg.qr(adjoint @ vectors[:, :, : -r - 1 : -1])[0]
    u, s, small = np.linalg.svd(b @ q, full_matrices=False)
    v = small @ q.conj().transpose(0, 2, 1)
    _replace(blocks, r, ~(values[:, -r] > _RESOLVED * values[:, -1]), u, s, v, scale[:, 0, 0])
    return u, s * scale[:, :, 0], v


def _low(blocks: NDArray[Any], r: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the triples of blocks of few rows: the sweep's level of one interval, one block per residue."""
    count, height, width = blocks.shape
    dtype = blocks.dtype
    left, rest = np.empty(height * r * count, dtype), np.empty((1, r * count, width), dtype)
    units = np.ones((count, 1 + r), np.empty(0, dtype).real.dtype)
    stack = blocks.transpose(1, 0, 2)[None]
    run_panels(stack, [(height, 1, r, count)], left, np.zeros(1, np.int64), rest, units)
    u = np.ascontiguousarray(left.reshape(height, r, count).transpose(2, 0, 1))
    v = rest.reshape(r, count, width).transpose(1, 0, 2)
    s = units[:, 1:]
    # a row of rounding errors has no direction
    _replace(blocks, r, ~(s[:, -1] > 64 * np.finfo(s.dtype).eps * s[:, 0]), u, s, v, units[:, 0])
    return u, s * units[:, :1], v


def _replace(
    blocks: NDArray[Any],
    r: int,
    which: NDArray[np.bool_],
    u: NDArray[Any],
    s: NDArray[Any],
    v: NDArray[Any],
    units: NDArray[Any],
) -> None:
    """Write the triples of some of the blocks, divided by their units, by LAPACK."""
    lost = np.flatnonzero(which)
    if lost.size:
        whole = np.linalg.svd(blocks[lost] / units[lost, None, None], full_matrices=False)
        u[lost], s[lost], v[lost] = whole[0][:, :, :r], whole[1][:, :r], whole[2][:, :r, :]
