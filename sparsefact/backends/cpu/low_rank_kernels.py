"""The kernels of the dominant singular triple of many small blocks.

With B the block (p x q, p <= q, scaled to largest entry one), G = B B^H is squared (and divided by its trace) until its
Frobenius norm says that one eigenvalue outweighs all others together; products with a vector lead to its eigenvector,
or if they take long, G is squared again. After t squarings another direction has faded as
``(sigma_2 / sigma_1)^(2^(t + 1))``; ties never fade, but then any direction among them captures the same energy. Two
products with B itself follow, so the triple has the accuracy of B, not of G. For p = 2 the eigenvector has a closed
form.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import REASSOCIATE, jit

__all__ = ["dominant", "two_by_two"]

# Sums are made of sums of this many terms: a plain one loses digits with every term.
_RUN = 64


@jit(fastmath=REASSOCIATE)
def two_by_two(blocks: NDArray[Any], u: NDArray[Any], s: NDArray[Any], v: NDArray[Any], tiny: Any) -> None:
    """Write the triples of real 2 x 2 blocks in closed form, without a branch."""
    for n in range(blocks.shape[0]):
        a, b, c, d = blocks[n, 0, 0], blocks[n, 0, 1], blocks[n, 1, 0], blocks[n, 1, 1]
        largest = max(max(abs(a), abs(b)), max(abs(c), abs(d)))
        # a zero block is divided by any number
        scale = largest if largest > 0 else tiny
        a, b, c, d = a / scale, b / scale, c / scale, d / scale
        half = (a * a + b * b - c * c - d * d) / 2
        cross = a * c + b * d
        root = math.sqrt(half * half + cross * cross)
        # the larger of the two forms of the eigenvector has no cancellation
        x = half + root if half >= 0 else cross
        y = cross if half >= 0 else root - half
        x = x if root > 0 else x + largest / scale
        for _ in range(2):
            p, q = x * a + y * c, x * b + y * d
            size = math.sqrt(p * p + q * q)
            size = size if size > 0 else tiny
            p, q = p / size, q / size
            x, y = p * a + q * b, p * c + q * d
            size = math.sqrt(x * x + y * y)
            size = size if size > 0 else tiny
            x, y = x / size, y / size
        zero = largest == 0
        u[n, 0], u[n, 1] = x + zero, y
        v[n, 0], v[n, 1] = p + zero, q
        s[n] = size * largest


@jit(fastmath=REASSOCIATE)
def dominant(
    blocks: NDArray[Any],
    u: NDArray[Any],
    s: NDArray[Any],
    v: NDArray[Any],
    start: NDArray[Any],
    squarings: int,
    still: Any,
    half: Any,
    is_complex: bool,
    unit: Any,
    zero: Any,
) -> None:
    """Write the triples of blocks with no more rows than columns; `u` and `v` are zero.

    A Hermitian matrix R + iM is kept as rows ``[R_i, M_i]``; its square has the real part ``[R_i, M_i] . [R_j, M_j]``
    and the imaginary part ``[M_i, -R_i] . [R_j, M_j]``. Zeros pad rows and columns, so that no loop has a rest.
    """
    p, q = blocks.shape[1], blocks.shape[2]
    one = half + half
    projection = one - still * still
    rows, width, whole = (p + 3) // 4 * 4, (p + 7) // 8 * 8, start.size
    g, h, twisted = np.zeros((rows, whole), s.dtype), np.zeros((rows, whole), s.dtype), np.zeros((rows, whole), s.dtype)
    x, y = np.zeros(whole, s.dtype), np.zeros(whole, s.dtype)
    b = np.empty((p, q), blocks.dtype)
    for block in range(blocks.shape[0]):
        given = blocks[block]
        largest = still - still
        for i in range(p):
            for j in range(q):
                largest = max(largest, max(abs(given[i, j].real), abs(given[i, j].imag)))
        if largest == 0:
            u[block, 0] = one
            v[block, 0] = one
            continue
        # a reciprocal would overflow for the smallest numbers
        for i in range(p):
            for j in range(q):
                b[i, j] = given[i, j] / largest
        direction = u[block]
        if p == 1:
            direction[0] = one
        elif p == 2:
            _pair(b, direction, zero)
        else:
            _gram(b, g, width, is_complex, zero)
            x[:] = start
            _iterate(g, h, twisted, x, y, p, width, squarings, still, half, projection, is_complex)
            for i in range(p):
                direction[i] = x[i] + (x[width + i] * unit if is_complex else x[i] * zero)
        _unit(direction)
        _from_left(b, direction, v[block])
        if p > 1:
            _unit(v[block])
            _from_right(b, v[block], direction, zero)
            _unit(direction)
            _from_left(b, direction, v[block])
        s[block] = _unit(v[block]) * largest


@jit(fastmath=REASSOCIATE, within=True)
def _pair(b: NDArray[Any], u: NDArray[Any], zero: Any) -> None:
    """Write the dominant eigenvector of the 2 x 2 matrix B B^H."""
    top, low, cross = zero.real, zero.real, zero
    for first in range(0, b.shape[1], _RUN):
        part_top, part_low, part_cross = zero.real, zero.real, zero
        for j in range(first, min(first + _RUN, b.shape[1])):
            x, y = b[0, j], b[1, j]
            part_top += (x * np.conj(x)).real
            part_low += (y * np.conj(y)).real
            part_cross += x * np.conj(y)
        top, low, cross = top + part_top, low + part_low, cross + part_cross
    half = (top - low) / 2
    root = math.hypot(half, abs(cross))
    # the larger of the two forms has no cancellation; both are zero only for equal eigenvalues
    if half >= 0:
        u[0], u[1] = half + root, np.conj(cross)
    else:
        u[0], u[1] = cross, root - half
    if root == 0:
        u[0] += 1


@jit(fastmath=REASSOCIATE, within=True)
def _gram(b: NDArray[Any], g: NDArray[Any], width: int, is_complex: bool, zero: Any) -> None:
    """Write the rows of B B^H."""
    for i in range(b.shape[0]):
        row = b[i]
        for k in range(i + 1):
            other = b[k]
            total = zero
            for first in range(0, b.shape[1], _RUN):
                part = zero
                for j in range(first, min(first + _RUN, b.shape[1])):
                    part += row[j] * np.conj(other[j])
                total += part
            g[i, k] = g[k, i] = total.real
            if is_complex:
                g[i, width + k] = total.imag
                g[k, width + i] = -total.imag


@jit(fastmath=REASSOCIATE, within=True)
def _iterate(
    g: NDArray[Any],
    h: NDArray[Any],
    twisted: NDArray[Any],
    x: NDArray[Any],
    y: NDArray[Any],
    p: int,
    width: int,
    squarings: int,
    still: Any,
    half: Any,
    projection: Any,
    is_complex: bool,
) -> None:
    """Write the dominant eigenvector of the rows `g`, of trace one after each turn, to `x`.

    Eigenvalues that add up to one, with squares that add up to `size`, have a largest one of at least `size`. Once it
    is over a half, products with a vector lead to it; that it is over a half proves that no other was found. A
    projection of rank one shows it in any column, and so does what remains of a tie.
    """
    for turn in range(squarings + 1):
        trace = still - still
        for i in range(p):
            trace += g[i, i]
        scale = still / (still * trace)
        size = still - still
        for i in range(p):
            row = g[i]
            for j in range(row.size):
                row[j] *= scale
                size += row[j] * row[j]
        if turn == squarings or size >= projection:
            best = 0
            for i in range(1, p):
                if g[i, i] > g[best, best]:
                    best = i
            # a column of a Hermitian matrix is its row with the other sign of the imaginary part
            for j in range(width):
                x[j] = g[best, j]
                if is_complex:
                    x[width + j] = -g[best, width + j]
            return
        if size > half + half / 10:
            for _ in range(4 + p // 2):
                _apply(g, x, y, width, is_complex)
                value = _unit(y)
                moved = still - still
                for j in range(x.size):
                    moved += (y[j] - x[j]) * (y[j] - x[j])
                    x[j] = y[j]
                if moved <= still * still and value > half:
                    return
        if is_complex:
            for i in range(p):
                for j in range(width):
                    twisted[i, j] = g[i, width + j]
                    twisted[i, width + j] = -g[i, j]
            _row_products(twisted, g, h)
            for i in range(p):
                for j in range(i):
                    twisted[i, j] = h[i, j]
            _row_products(g, g, h)
            for i in range(p):
                g[i, i] = h[i, i]
                g[i, width + i] = 0
                for j in range(i):
                    g[i, j] = g[j, i] = h[i, j]
                    g[i, width + j] = twisted[i, j]
                    g[j, width + i] = -twisted[i, j]
        else:
            _row_products(g, g, h)
            for i in range(p):
                g[i, i] = h[i, i]
                for j in range(i):
                    g[i, j] = g[j, i] = h[i, j]


@jit(fastmath=REASSOCIATE, within=True)
def _row_products(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """Write the lower triangle of ``a b^T``, in tiles of two rows by four columns: no store inside the inner loop."""
    zero = a[0, 0] - a[0, 0]
    for i in range(0, a.shape[0], 2):
        u, v = a[i], a[i + 1]
        for c in range(0, i + 2, 4):
            b0, b1, b2, b3 = b[c], b[c + 1], b[c + 2], b[c + 3]
            s0, s1, s2, s3, t0, t1, t2, t3 = zero, zero, zero, zero, zero, zero, zero, zero
            for t in range(u.size):
                x, y = u[t], v[t]
                w0, w1, w2, w3 = b0[t], b1[t], b2[t], b3[t]
                s0 += x * w0
                s1 += x * w1
                s2 += x * w2
                s3 += x * w3
                t0 += y * w0
                t1 += y * w1
                t2 += y * w2
                t3 += y * w3
            out[i, c], out[i, c + 1], out[i, c + 2], out[i, c + 3] = s0, s1, s2, s3
            out[i + 1, c], out[i + 1, c + 1], out[i + 1, c + 2], out[i + 1, c + 3] = t0, t1, t2, t3


@jit(fastmath=REASSOCIATE, within=True)
def _apply(g: NDArray[Any], x: NDArray[Any], y: NDArray[Any], width: int, is_complex: bool) -> None:
    """Write G x to `y`: both are the real part followed by the imaginary part."""
    zero = x[0] - x[0]
    for i in range(0, g.shape[0], 4):
        r0, r1, r2, r3 = g[i], g[i + 1], g[i + 2], g[i + 3]
        s0, s1, s2, s3 = zero, zero, zero, zero
        for j in range(width):
            w = x[j]
            s0 += r0[j] * w
            s1 += r1[j] * w
            s2 += r2[j] * w
            s3 += r3[j] * w
        if is_complex:
            t0, t1, t2, t3 = zero, zero, zero, zero
            for j in range(width):
                w, z = x[j], x[width + j]
                s0 -= r0[width + j] * z
                s1 -= r1[width + j] * z
                s2 -= r2[width + j] * z
                s3 -= r3[width + j] * z
                t0 += r0[j] * z + r0[width + j] * w
                t1 += r1[j] * z + r1[width + j] * w
                t2 += r2[j] * z + r2[width + j] * w
                t3 += r3[j] * z + r3[width + j] * w
            y[width + i], y[width + i + 1], y[width + i + 2], y[width + i + 3] = t0, t1, t2, t3
        y[i], y[i + 1], y[i + 2], y[i + 3] = s0, s1, s2, s3


@jit(fastmath=REASSOCIATE, within=True)
def _from_left(b: NDArray[Any], u: NDArray[Any], v: NDArray[Any]) -> None:
    """Write u^H B."""
    v[:] = 0
    for i in range(b.shape[0]):
        a, row = np.conj(u[i]), b[i]
        for j in range(b.shape[1]):
            v[j] += a * row[j]


@jit(fastmath=REASSOCIATE, within=True)
def _from_right(b: NDArray[Any], v: NDArray[Any], u: NDArray[Any], zero: Any) -> None:
    """Write B v^H."""
    for i in range(b.shape[0]):
        total, row = zero, b[i]
        for first in range(0, b.shape[1], _RUN):
            part = zero
            for j in range(first, min(first + _RUN, b.shape[1])):
                part += row[j] * np.conj(v[j])
            total += part
        u[i] = total


@jit(fastmath=REASSOCIATE, within=True)
def _unit(x: NDArray[Any]) -> Any:
    """Divide a vector by its norm, which is returned."""
    size = x[0].real - x[0].real
    for first in range(0, x.size, _RUN):
        part = x[0].real - x[0].real
        for j in range(first, min(first + _RUN, x.size)):
            part += x[j].real * x[j].real + x[j].imag * x[j].imag
        size += part
    size = math.sqrt(size)
    for j in range(x.size):
        x[j] /= size
    return size
