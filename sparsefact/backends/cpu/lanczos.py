"""The dominant singular triple of blocks that are large enough for Krylov spaces: Lanczos steps with B B^H.

Every step costs two products with the block B (p x q, p <= q) and keeps the new vector orthogonal to all earlier ones;
the largest eigenvalue theta of the small tridiagonal matrix grows to sigma_1^2. The residual rho of its vector bounds
the loss of captured energy by rho^2 over the gap to the next eigenvalue, and by that gap; the steps end when rho^2 is
below a multiple of theta^2 that stands for a loss within rounding at a relative gap of a hundredth. Two products with B
follow. After p steps the space is everything, and when the basis is full earlier, the steps begin again from the best
vector. A block without a gap so costs a few dozen products, where a Gram matrix alone would cost p / 2.

References: Lanczos (1950); Paige (1972) on orthogonality; Parlett and Dhillon (2000) for the eigenvector of a
tridiagonal matrix by a twisted factorization. Complex numbers lie in two planes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import REASSOCIATE, jit

__all__ = ["dominant_by_lanczos"]

_MOST = 96
_ROUNDS = 6
_LANES = 16


@jit(fastmath=REASSOCIATE)
def dominant_by_lanczos(
    blocks: NDArray[Any],
    u: NDArray[Any],
    s: NDArray[Any],
    v: NDArray[Any],
    start: NDArray[Any],
    planes: int,
    enough: Any,
    sections: int,
) -> None:
    """Write the triples of blocks with no more rows than columns, all given as real numbers.

    `blocks` is (n, p, planes * q), `u` (n, planes * p) and `v` (n, planes * q), all interleaved; `start` holds 2 p
    numbers. The steps end when the squared residual is at most `enough` times theta^2; theta is found by `sections`
    cuts of an interval into seventeen.
    """
    count, p = blocks.shape[0], blocks.shape[1]
    q = blocks.shape[2] // planes
    high, wide = (p + 7) // 8 * 8, (q + 7) // 8 * 8
    zero = s[0] - s[0] if s[0] == s[0] else start[0] - start[0]
    b = np.zeros((p, planes * wide), s.dtype)
    most = min(p, _MOST)
    basis = np.zeros((most + 1, planes * high), s.dtype)
    row, column = np.zeros(planes * wide, s.dtype), np.zeros(planes * high, s.dtype)
    alpha, beta = np.zeros(most + 1, s.dtype), np.zeros(most + 1, s.dtype)
    work = np.zeros((4, max(_LANES, most + 1)), s.dtype)
    for block in range(count):
        given = blocks[block]
        largest = _size(given, zero)
        u[block] = zero
        v[block] = zero
        if largest == 0:
            s[block] = zero
            u[block, 0] = 1
            v[block, 0] = 1
            continue
        for i in range(p):
            x, y = given[i], b[i]
            if planes == 1:
                for j in range(q):
                    y[j] = x[j] / largest
            else:
                for j in range(q):
                    y[j] = x[2 * j] / largest
                    y[wide + j] = x[2 * j + 1] / largest
        for part in range(planes):
            for i in range(p):
                column[part * high + i] = start[part * p + i]
        for _ in range(_ROUNDS):
            _unit(column)
            basis[0] = column
            top, steps, done = zero, 0, False
            while not done and steps < most:
                old = basis[steps]
                _from_left(b, old, row, wide, high, planes)
                _from_right(b, row, column, wide, high, planes)
                energy = zero
                for j in range(row.size):
                    energy += row[j] * row[j]
                alpha[steps] = energy
                top = max(top, energy)
                for m in range(steps, -1, -1):
                    _remove(column, basis[m], high, planes)
                rest = _unit(column)
                beta[steps] = rest
                steps += 1
                # NaN ends it, too
                closed = not rest > enough * top
                if closed or steps == most or (steps >= 8 and steps % 4 == 0):
                    last = _ritz(alpha, beta, steps, work, sections)
                    done = closed or (rest * last) * (rest * last) <= enough * work[0, 0] * work[0, 0]
                if not done and steps < most:
                    basis[steps] = column
            column[:] = zero
            for m in range(steps):
                weight, x = work[1, m], basis[m]
                for i in range(column.size):
                    column[i] += weight * x[i]
            if done or most == p:
                break
        _unit(column)
        _from_left(b, column, row, wide, high, planes)
        _unit(row)
        _from_right(b, row, column, wide, high, planes)
        _unit(column)
        _from_left(b, column, row, wide, high, planes)
        s[block] = _unit(row) * largest
        for i in range(p):
            for part in range(planes):
                u[block, planes * i + part] = column[part * high + i]
        for j in range(q):
            for part in range(planes):
                v[block, planes * j + part] = row[part * wide + j]


@jit(fastmath=REASSOCIATE, within=True)
def _size(x: NDArray[Any], zero: Any) -> Any:
    """Return the sum of all magnitudes where it is in range, else the largest: a maximum is not vectorised."""
    total = 0.0
    for i in range(x.shape[0]):
        row = x[i]
        for j in range(row.size):
            total += abs(row[j])
    largest = zero
    if total < (1e38 if x.itemsize == 4 else 1e300):
        return largest + x.dtype.type(total)
    for i in range(x.shape[0]):
        row = x[i]
        for j in range(row.size):
            largest = max(largest, abs(row[j]))
    return largest


@jit(fastmath=REASSOCIATE, within=True)
def _from_left(b: NDArray[Any], u: NDArray[Any], out: NDArray[Any], wide: int, high: int, planes: int) -> None:
    """Write u^H B, two rows at a time."""
    out[:] = 0
    p = b.shape[0]
    o, oi = out[:wide], out[out.size - wide :]
    for i in range(0, p, 2):
        # an odd last row goes with itself, times zero
        k = i + 1 if i + 1 < p else i
        c, d = u[i], u[k] if k > i else u[i] - u[i]
        x, y = b[i, :wide], b[k, :wide]
        if planes == 1:
            for j in range(wide):
                o[j] += c * x[j] + d * y[j]
        else:
            e, f = u[high + i], u[high + k] if k > i else u[i] - u[i]
            xi, yi = b[i, wide:], b[k, wide:]
            for j in range(wide):
                o[j] += c * x[j] + d * y[j] + e * xi[j] + f * yi[j]
                oi[j] += c * xi[j] + d * yi[j] - e * x[j] - f * y[j]


@jit(fastmath=REASSOCIATE, within=True)
def _from_right(b: NDArray[Any], v: NDArray[Any], out: NDArray[Any], wide: int, high: int, planes: int) -> None:
    """Write B v^H, two rows at a time."""
    zero = v[0] - v[0]
    p = b.shape[0]
    w, wi = v[:wide], v[v.size - wide :]
    for i in range(0, p, 2):
        k = i + 1 if i + 1 < p else i
        x, y = b[i, :wide], b[k, :wide]
        c, d, e, f = zero, zero, zero, zero
        for j in range(wide):
            c += x[j] * w[j]
            d += y[j] * w[j]
        if planes == 2:
            xi, yi = b[i, wide:], b[k, wide:]
            for j in range(wide):
                c += xi[j] * wi[j]
                d += yi[j] * wi[j]
                e += xi[j] * w[j] - x[j] * wi[j]
                f += yi[j] * w[j] - y[j] * wi[j]
            out[high + k] = f
            out[high + i] = e
        out[k] = d
        out[i] = c


@jit(fastmath=REASSOCIATE, within=True)
def _remove(x: NDArray[Any], unit: NDArray[Any], high: int, planes: int) -> None:
    """Make `x` orthogonal to a unit vector."""
    re, im = x[0] - x[0], x[0] - x[0]
    a, c = x[:high], unit[:high]
    for i in range(high):
        re += c[i] * a[i]
    if planes == 1:
        for i in range(high):
            a[i] -= re * c[i]
        return
    ai, ci = x[high:], unit[high:]
    for i in range(high):
        re += ci[i] * ai[i]
        im += c[i] * ai[i] - ci[i] * a[i]
    for i in range(high):
        a[i] -= re * c[i] - im * ci[i]
        ai[i] -= re * ci[i] + im * c[i]


@jit(fastmath=REASSOCIATE, within=True)
def _unit(x: NDArray[Any]) -> Any:
    """Divide a vector by its norm, which is returned; the zero vector stays."""
    size = x[0] - x[0]
    for i in range(x.size):
        size += x[i] * x[i]
    size = math.sqrt(size)
    if size != 0:
        for i in range(x.size):
            x[i] /= size
    return size


@jit(fastmath=REASSOCIATE, within=True)
def _ritz(alpha: NDArray[Any], beta: NDArray[Any], n: int, work: NDArray[Any], sections: int) -> Any:
    """Write the largest eigenvalue of a tridiagonal matrix to ``work[0, 0]`` and its unit vector to ``work[1]``.

    Return the magnitude of the last entry of the vector.
    """
    zero = alpha[0] - alpha[0]
    low, high = alpha[0], alpha[0]
    for i in range(n):
        reach = (beta[i - 1] if i > 0 else zero) + (beta[i] if i < n - 1 else zero)
        low, high = max(low, alpha[i]), max(high, alpha[i] + reach)
    # above the largest eigenvalue, and only there, all pivots of x - T are positive
    above = work[2]
    for _ in range(sections):
        step = (high - low) / (_LANES + 1)
        pivots = work[3]
        for t in range(_LANES):
            pivots[t] = low + (t + 1) * step - alpha[0]
            above[t] = pivots[t]
        for i in range(1, n):
            square = beta[i - 1] * beta[i - 1]
            for t in range(_LANES):
                pivots[t] = low + (t + 1) * step - alpha[i] - square / pivots[t]
                above[t] = min(above[t], pivots[t])
        first = _LANES
        for t in range(_LANES - 1, -1, -1):
            if above[t] > 0:
                first = t
            else:
                break
        low, high = low + first * step, (low + (first + 1) * step if first < _LANES else high)
    theta = high
    down, up, z = work[2], work[3], work[1]
    tiny = theta * 1e-30 if theta > 0 else zero
    down[0] = theta - alpha[0]
    for i in range(1, n):
        down[i] = theta - alpha[i] - beta[i - 1] * beta[i - 1] / (down[i - 1] if down[i - 1] != 0 else tiny)
    up[n - 1] = theta - alpha[n - 1]
    for i in range(n - 2, -1, -1):
        up[i] = theta - alpha[i] - beta[i] * beta[i] / (up[i + 1] if up[i + 1] != 0 else tiny)
    twist, least = 0, abs(up[0])
    for i in range(1, n):
        gamma = abs(down[i] + up[i] - (theta - alpha[i]))
        if gamma < least:
            twist, least = i, gamma
    z[twist] = 1
    for i in range(twist - 1, -1, -1):
        z[i] = z[i + 1] * beta[i] / (down[i] if down[i] != 0 else tiny)
    for i in range(twist + 1, n):
        z[i] = z[i - 1] * beta[i - 1] / (up[i] if up[i] != 0 else tiny)
    size = _unit(z[:n])
    work[0, 0] = theta
    return abs(z[n - 1]) if size > 0 else zero
