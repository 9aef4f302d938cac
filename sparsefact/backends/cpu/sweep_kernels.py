"""The kernels of the sweep of blockwise truncated SVDs: panels that stay in the second-level cache.

A block keeps the places of its rows: what remains of the rows l, l + d, ..., l + (b - 1) d after a level are the rows
l, l + d, ..., l + (r - 1) d of the next stack, in the same columns. So a panel, made of all rows of one residue modulo
the d of the last level and of one column interval of the first level, runs through all its levels in place.

Blocks are decomposed from their Gram lane, up to sixteen at a time with one block per lane of a vector register.
Complex numbers lie in two planes, since compilers do not vectorise interleaved ones well. Rows are sliced before they
are indexed: an index that is the sum of two might be negative as far as the compiler knows, and is not vectorised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import REASSOCIATE, jit

__all__ = ["LANES", "SIDE", "sweep_low", "sweep_pairs"]

SIDE = 16
"""The most rows a block may have here."""

LANES = 16
"""How many blocks are decomposed at a time, at most."""
_TILE = 128
_TURNS = 12
# Rows of one block that fit the first-level cache beside what else is needed, in bytes.
_NEAR = 1 << 14


def _sweeper(pairs: bool) -> Callable[..., None]:
    """Return the kernel for blocks of two rows and one vector, or for all; each is compiled when it is needed."""

    @jit(fastmath=REASSOCIATE)
    def sweep_panels(
        memory: NDArray[Any],
        place: NDArray[np.int64],
        levels: NDArray[np.int64],
        twin: Any,
        chunk: int,
        limits: NDArray[Any],
        units: NDArray[Any],
        lefts: NDArray[Any],
        left_starts: NDArray[np.int64],
        rest: NDArray[Any],
        missed: NDArray[np.float64],
        energy: NDArray[np.float64],
        start: int,
        stop: int,
    ) -> None:
        # known when the kernel is compiled, so that each knows only its kind of numbers
        planes = 1 if twin is None else 2
        last = levels.shape[0] - 1
        across, apart = levels[0, 1], levels[last, 3]
        rows, cols = levels[0, 0] * levels[0, 3] // apart, place[5] // across
        # rows a power of two apart would fall on the same few lines of the cache
        stride = cols + 16 if cols % 256 == 0 else cols
        plane = rows * chunk * stride
        panel = np.empty(planes * plane, memory.dtype)
        lane = np.zeros((2 * planes * (4 if pairs else SIDE * SIDE), LANES), memory.dtype)
        wave = np.empty((4, SIDE * LANES), memory.dtype)
        tile = np.empty(planes * SIDE * _TILE, memory.dtype)
        corners, homes = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
        exact, transposed = units.shape[0] > 0, place[6] != 0
        parts = (apart + chunk - 1) // chunk
        for task in range(start, stop):
            entry, residue = task // parts, task % parts * chunk
            count = min(chunk, apart - residue)
            origin = place[0] + entry // across * place[1] + entry % across * cols * place[4] + residue * place[3]
            if transposed:
                _load_transposed(memory, origin, place, panel, tile, count, rows, cols, stride, plane, twin)
            elif exact:
                for row in range(rows * count):
                    source = origin + row // count * place[2] + row % count * place[3]
                    _load(memory, source, place[4], panel, row * stride, cols, plane, planes, twin)
            if not pairs:
                for one in range(count if exact else 0):
                    block = (one * stride, count * stride, cols, rows, plane, planes)
                    units[entry * apart + residue + one, 0] = _scale(panel, block)
            intervals, width = 1, cols
            for level in range(last + 1):
                b, p, r, d = levels[level, 0], levels[level, 1], levels[level, 2], levels[level, 3]
                if level > 0:
                    intervals *= p
                    width //= p
                step, square = d // apart * count, b * b
                drop = step * stride
                lanes = LANES
                if pairs:
                    lanes = min(LANES, max(1, _NEAR // (2 * planes * width * panel.itemsize)))
                lost = 0.0
                # where the next block lies: row and interval in the panel, residue and interval in its entry
                row, interval, above, q = 0, 0, entry * intervals // p, entry * intervals % p
                at, next_apart = residue, residue + count
                for first in range(0, step * intervals, lanes):
                    blocks = min(lanes, step * intervals - first)
                    for t in range(blocks):
                        corners[t] = row * stride + interval * width
                        homes[t] = left_starts[level] + (above * b * p + q) * r * d + at
                        interval, q = interval + 1, q + 1
                        if q == p:
                            above, q = above + 1, 0
                        if interval == intervals:
                            row, interval, above, q = row + 1, 0, entry * intervals // p, entry * intervals % p
                            at += 1
                            if at == next_apart:
                                at, next_apart = at + apart - count, next_apart + apart
                    if level == 0 and not transposed and not exact:
                        for top in range(first, first + blocks):
                            for m in range(b):
                                where = top + m * step
                                source = origin + where // count * place[2] + where % count * place[3]
                                _load(memory, source, place[4], panel, where * stride, cols, plane, planes, twin)
                    if pairs:
                        for t in range(blocks):
                            x = corners[t]
                            _gram_pair(panel, x, x + drop, width, lane, t, plane, planes, twin)
                            if level == 0:
                                energy[task] += lane[0, t] + lane[1, t]
                        _pairs(lane, blocks, planes, limits[0], twin)
                        for t in range(blocks):
                            x = corners[t]
                            lost += _apply_pair(panel, x, x + drop, width, lane, t, plane, planes, twin)
                    elif r == b and not exact:
                        _identity(lane, square, b, planes, twin)
                        for t in range(blocks if level == 0 else 0):
                            for m in range(b):
                                energy[task] += _norm2(panel, corners[t] + m * drop, width, plane, planes)
                    else:
                        for t in range(blocks):
                            block = (corners[t], drop, width, b, plane, planes)
                            _gram(panel, block, lane, t, twin)
                            for m in range(b if level == 0 else 0):
                                energy[task] += lane[m * b + m, t]
                        _eigenvectors(lane, wave, b, r, blocks, planes, limits, twin)
                        for t in range(blocks):
                            block = (corners[t], drop, width, b, plane, planes)
                            if r == 1:
                                lost += _apply_one(panel, block, lane, tile, t, twin)
                            else:
                                _rotate(panel, block, lane, tile, t, twin)
                                if exact or not lane[(r - 1) * (b + 1), t] > limits[2] * lane[0, t]:
                                    _orthogonalise(panel, block, r, lane, t, limits, twin)
                                for m in range(r, b):
                                    lost += _norm2(panel, corners[t] + m * drop, width, plane, planes)
                    for t in range(blocks):
                        for m in range(b):
                            for kappa in range(r):
                                e, where = square + kappa * b + m, planes * (homes[t] + (m * p * r + kappa) * d)
                                lefts[where] = lane[e, t]
                                if twin is not None:
                                    lefts[where + 1] = lane[2 * square + e, t]
                missed[task, level] = lost
            r = levels[last, 2]
            if not pairs:
                for one in range(count if exact else 0):
                    for kappa in range(r):
                        where = (kappa * count + one) * stride
                        units[entry * apart + residue + one, 1 + kappa] = _normalise(panel, where, cols, plane, planes)
            for kappa in range(r):
                for interval in range(intervals):
                    for one in range(count):
                        to = (((entry * intervals + interval) * r + kappa) * apart + residue + one) * width
                        source = (kappa * count + one) * stride + interval * width
                        _store(panel, source, rest, to, width, plane, planes, twin)

    sweep_panels.__doc__ = _TASK
    return sweep_panels


_TASK = """Run the panels `start` to `stop` through all `levels`.

A panel has `chunk` neighbouring residues. `memory` holds the stack as real numbers, and `place` says where: the offset,
the strides of entries, of rows a residue apart, of residues and of columns, the number of columns, and whether rows are
closer than columns. `twin` is None for real numbers and an integer for complex ones. `units` has no rows, or, with one
level of one interval, one per block for an SVD: it takes the power of two that the block was divided by and the
singular values, and what is left has norm one. `limits` are the smallest normal number, the size that off-diagonal
entries must have for one more turn, the share below which an eigenvalue is not resolved, and the rounding error.
"""


@jit(fastmath=REASSOCIATE, within=True)
def _load(
    memory: NDArray[Any],
    source: int,
    step: int,
    panel: NDArray[Any],
    to: int,
    width: int,
    plane: int,
    planes: int,
    twin: Any,
) -> None:
    """Copy one row into a panel."""
    x = panel[to : to + width]
    if twin is None:
        if step == 1:
            row = memory[source : source + width]
            for j in range(width):
                x[j] = row[j]
        else:
            for j in range(width):
                x[j] = memory[source + j * step]
    else:
        y = panel[to + plane : to + plane + width]
        if step == 2:
            row = memory[source : source + 2 * width]
            for j in range(width):
                x[j] = row[2 * j]
                y[j] = row[2 * j + 1]
        else:
            for j in range(width):
                x[j] = memory[source + j * step]
                y[j] = memory[source + j * step + 1]


@jit(fastmath=REASSOCIATE, within=True)
def _load_transposed(
    memory: NDArray[Any],
    origin: int,
    place: NDArray[np.int64],
    panel: NDArray[Any],
    tile: NDArray[Any],
    count: int,
    rows: int,
    cols: int,
    stride: int,
    plane: int,
    twin: Any,
) -> None:
    """Copy rows that are neighbours in memory, a tile at a time: columns may all share one set of the cache."""
    planes = 1 if twin is None else 2
    runs, length, near, along = rows, count, place[3], place[4]
    if count == 1 or place[2] == count * near:
        runs, length, near = 1, rows * count, place[2] // count
    for left in range(0, cols, 32):
        width = min(32, cols - left)
        for run in range(runs):
            for first in range(0, length, 64):
                high = min(64, length - first)
                pitch, top = planes * high, run * length + first
                for j in range(width):
                    source = origin + run * place[2] + first * near + (left + j) * along
                    line = tile[j * pitch : (j + 1) * pitch]
                    if near == planes:
                        given = memory[source : source + pitch]
                        for one in range(pitch):
                            line[one] = given[one]
                    else:
                        for one in range(high):
                            line[planes * one] = memory[source + one * near]
                            if twin is not None:
                                line[planes * one + 1] = memory[source + one * near + 1]
                for one in range(high):
                    at = (top + one) * stride + left
                    for part in range(planes):
                        x, y = panel[at + part * plane : at + part * plane + width], tile[planes * one + part :: pitch]
                        for j in range(width):
                            x[j] = y[j]


@jit(fastmath=REASSOCIATE, within=True)
def _store(
    panel: NDArray[Any], source: int, out: NDArray[Any], to: int, width: int, plane: int, planes: int, twin: Any
) -> None:
    """Copy part of a row out of a panel."""
    x = panel[source : source + width]
    row = out[planes * to : planes * (to + width)]
    if twin is None:
        for j in range(width):
            row[j] = x[j]
    else:
        y = panel[source + plane : source + plane + width]
        for j in range(width):
            row[2 * j] = x[j]
            row[2 * j + 1] = y[j]


@jit(fastmath=REASSOCIATE, within=True)
def _scale(panel: NDArray[Any], block: tuple[int, int, int, int, int, int]) -> Any:
    """Divide a block whose squares might leave the range of its type by a power of two, which is returned."""
    corner, drop, width, b, plane, planes = block
    total = 0.0
    for part in range(planes):
        for m in range(b):
            at = corner + m * drop + part * plane
            x = panel[at : at + width]
            for j in range(width):
                total += abs(x[j])
    if 1e-8 < total < 1e8 or not 0 < total < math.inf:
        return 1.0
    unit = math.ldexp(1.0, max(math.frexp(total)[1] - 1, -148 if panel.itemsize == 4 else -1022))
    for part in range(planes):
        for m in range(b):
            at = corner + m * drop + part * plane
            x = panel[at : at + width]
            for j in range(width):
                x[j] /= unit
    return unit


@jit(fastmath=REASSOCIATE, within=True)
def _norm2(s: NDArray[Any], at: int, width: int, plane: int, planes: int) -> Any:
    """Return the squared norm of part of a row."""
    total = s[0] - s[0]
    for part in range(planes):
        x = s[at + part * plane : at + part * plane + width]
        for j in range(width):
            total += x[j] * x[j]
    return total


@jit(fastmath=REASSOCIATE, within=True)
def _normalise(s: NDArray[Any], at: int, width: int, plane: int, planes: int) -> Any:
    """Divide a row by its norm, which is returned; a zero row stays."""
    norm = math.sqrt(_norm2(s, at, width, plane, planes))
    if norm > 0:
        for part in range(planes):
            x = s[at + part * plane : at + part * plane + width]
            for j in range(width):
                x[j] /= norm
    return norm


@jit(fastmath=REASSOCIATE, within=True)
def _gram_pair(
    s: NDArray[Any], x: int, y: int, width: int, out: NDArray[Any], t: int, plane: int, planes: int, twin: Any
) -> None:
    """Write the energies of two rows and their product (first times conjugate of second) to lane `t`."""
    zero = out.dtype.type(0)
    top, low, cross, twist = zero, zero, zero, zero
    v, w = s[x : x + width], s[y : y + width]
    if twin is None:
        for j in range(width):
            a, c = v[j], w[j]
            top += a * a
            low += c * c
            cross += a * c
    else:
        vi, wi = s[x + plane : x + plane + width], s[y + plane : y + plane + width]
        for j in range(width):
            a, c, ai, ci = v[j], w[j], vi[j], wi[j]
            top += a * a + ai * ai
            low += c * c + ci * ci
            cross += a * c + ai * ci
            twist += ai * c - a * ci
    out[0, t], out[1, t], out[2, t], out[3, t] = top, low, cross, twist


@jit(fastmath=REASSOCIATE, within=True)
def _pairs(x: NDArray[Any], blocks: int, planes: int, tiny: Any, twin: Any) -> None:
    """Write the dominant eigenvectors of 2 x 2 Gram lane; the first entry is real.

    Of the two forms of an eigenvector the one without cancellation is taken.
    """
    zero = x.dtype.type(0)
    one = x.dtype.type(1)
    for t in range(blocks):
        top, low, cross, twist = x[0, t], x[1, t], x[2, t], x[3, t]
        trace = top + low
        scale = one / trace if trace > tiny else zero
        half = (top - low) * scale / 2
        cross *= scale
        twist *= scale
        size = math.sqrt(cross * cross + twist * twist)
        root = math.sqrt(half * half + size * size)
        # the second entry has the phase of the conjugate of the cross term
        phase = cross / size if size > 0 else one
        turn = -twist / size if size > 0 else zero
        first = half + root if half >= 0 else size
        second = size if half >= 0 else root - half
        first = first if root > 0 else one
        norm = one / math.sqrt(first * first + second * second)
        x[4, t] = first * norm
        x[5, t] = second * norm * phase
        if twin is not None:
            x[12, t] = zero
            x[13, t] = second * norm * turn


@jit(fastmath=REASSOCIATE, within=True)
def _apply_pair(
    s: NDArray[Any], x: int, y: int, width: int, basis: NDArray[Any], t: int, plane: int, planes: int, twin: Any
) -> Any:
    """Replace the first of two rows by u^H B; return the squared norm of the other combination, which is dropped."""
    lost = s[0] - s[0]
    u, v = basis[4, t], basis[5, t]
    p, q = s[x : x + width], s[y : y + width]
    if twin is None:
        for j in range(width):
            a, c = p[j], q[j]
            p[j] = u * a + v * c
            e = u * c - v * a
            lost += e * e
    else:
        w = basis[13, t]
        pi, qi = s[x + plane : x + plane + width], s[y + plane : y + plane + width]
        for j in range(width):
            a, c, ai, ci = p[j], q[j], pi[j], qi[j]
            p[j] = u * a + v * c + w * ci
            pi[j] = u * ai + v * ci - w * c
            e = u * c - v * a + w * ai
            f = u * ci - v * ai - w * a
            lost += e * e + f * f
    return lost


@jit(fastmath=REASSOCIATE, within=True)
def _gram(s: NDArray[Any], block: tuple[int, int, int, int, int, int], out: NDArray[Any], t: int, twin: Any) -> None:
    """Write B B^H of one block to lane `t`."""
    corner, drop, width, b, plane, _planes = block
    zero = out.dtype.type(0)
    for m in range(0, b, 2):
        x = corner + m * drop
        # an odd last row goes with itself
        y = x + drop if m + 1 < b else x
        for n in range(0, m + 1, 2):
            v = corner + n * drop
            w = v + drop if n + 1 < b else v
            s0, s1, s2, s3 = zero, zero, zero, zero
            t0, t1, t2, t3 = zero, zero, zero, zero
            x0, x1, y0, y1 = s[x : x + width], s[y : y + width], s[v : v + width], s[w : w + width]
            for j in range(width):
                s0 += x0[j] * y0[j]
                s1 += x0[j] * y1[j]
                s2 += x1[j] * y0[j]
                s3 += x1[j] * y1[j]
            if twin is not None:
                x, y, v, w = x + plane, y + plane, v + plane, w + plane
                z0, z1, w0, w1 = s[x : x + width], s[y : y + width], s[v : v + width], s[w : w + width]
                x, y = x - plane, y - plane
                for j in range(width):
                    s0 += z0[j] * w0[j]
                    s1 += z0[j] * w1[j]
                    s2 += z1[j] * w0[j]
                    s3 += z1[j] * w1[j]
                for j in range(width):
                    t0 += z0[j] * y0[j] - x0[j] * w0[j]
                    t1 += z0[j] * y1[j] - x0[j] * w1[j]
                    t2 += z1[j] * y0[j] - x1[j] * w0[j]
                    t3 += z1[j] * y1[j] - x1[j] * w1[j]
            for k in range(4):
                row, col = m + k // 2, n + k % 2
                if row < b and col <= row:
                    value = s0 if k == 0 else s1 if k == 1 else s2 if k == 2 else s3
                    out[row * b + col, t] = out[col * b + row, t] = value
                    if twin is not None:
                        value = t0 if k == 0 else t1 if k == 1 else t2 if k == 2 else t3
                        out[2 * b * b + row * b + col, t] = -value
                        out[2 * b * b + col * b + row, t] = value


@jit(fastmath=REASSOCIATE, within=True)
def _identity(x: NDArray[Any], square: int, b: int, planes: int, twin: Any) -> None:
    """Write unit lane to the place of the bases."""
    for e in range(square):
        for t in range(LANES):
            x[square + e, t] = 1 if e % (b + 1) == 0 else 0
            if twin is not None:
                x[3 * square + e, t] = 0


@jit(fastmath=REASSOCIATE, within=True)
def _eigenvectors(
    x: NDArray[Any], wave: NDArray[Any], b: int, r: int, blocks: int, planes: int, limits: NDArray[Any], twin: Any
) -> None:
    """Write unitary matrices whose first `r` columns are the leading eigenvectors, from large to small.

    Jacobi's method on all lanes at once. The rows of `x` are the entries of the Hermitian matrices and of the bases,
    both column by column: first the real parts of both, then the imaginary parts. The matrices are divided by their
    traces and overwritten; in the end their diagonals hold the eigenvalues.
    """
    square, deep = b * b, 2 * b * b
    zero = x.dtype.type(0)
    one = x.dtype.type(1)
    flat = x.reshape(-1)
    noise = limits[3] * limits[3] / 256
    _identity(x, square, b, planes, twin)
    for t in range(LANES):
        trace = zero
        for m in range(b):
            trace += x[m * b + m, t]
        scale = one / trace if t < blocks and trace > limits[0] else zero
        for part in range(planes):
            for e in range(square):
                # an unused lane may hold anything, even what no factor makes zero
                x[part * deep + e, t] = x[part * deep + e, t] * scale if scale > 0 else zero
    cos, sin, twist, most = wave[0], wave[1], wave[2], wave[3]
    for _ in range(_TURNS):
        for t in range(LANES):
            most[t] = zero
        for q in range(1, b):
            for p in range(q):
                top, low, g, h = x[p * b + p], x[q * b + q], x[q * b + p], x[(planes - 1) * deep + q * b + p]
                # the entry (p, q) is g + i h; the angles are cos, and sin with its phase
                for t in range(LANES):
                    re, im = g[t], h[t] if twin is not None else zero
                    size2 = re * re + im * im
                    # rounding errors are no reason to turn, and their squares may have no digits
                    re, im, size2 = (re, im, size2) if size2 > noise else (zero, zero, zero)
                    half = (low[t] - top[t]) / 2
                    bottom = abs(half) + math.sqrt(half * half + size2) + limits[0]
                    bottom = bottom if half >= 0 else -bottom
                    c = one / math.sqrt(one + size2 / bottom / bottom)
                    cos[t] = c
                    sin[t] = c * re / bottom
                    twist[t] = c * im / bottom
                    most[t] = size2 if size2 > most[t] else most[t]
                    # the diagonal as it will be, kept behind the angles
                    most[LANES + t] = top[t] - size2 / bottom
                    most[2 * LANES + t] = low[t] + size2 / bottom
                for k in range(1, b):
                    for t in range(LANES):
                        cos[k * LANES + t] = cos[t]
                        sin[k * LANES + t] = sin[t]
                        twist[k * LANES + t] = twist[t]
                for kind in range(2):
                    at = kind * square
                    _turn(flat, at + p * b, at + q * b, b, wave, deep, planes, twin)
                for k in range(b):
                    if k != p and k != q:
                        for t in range(LANES):
                            x[k * b + p, t] = x[p * b + k, t]
                            x[k * b + q, t] = x[q * b + k, t]
                        if twin is not None:
                            for t in range(LANES):
                                x[deep + k * b + p, t] = -x[deep + p * b + k, t]
                                x[deep + k * b + q, t] = -x[deep + q * b + k, t]
                for t in range(LANES):
                    x[p * b + p, t], x[q * b + q, t] = most[LANES + t], most[2 * LANES + t]
                    x[p * b + q, t] = x[q * b + p, t] = zero
                    if twin is not None:
                        x[deep + p * b + p, t] = x[deep + q * b + q, t] = zero
                        x[deep + p * b + q, t] = x[deep + q * b + p, t] = zero
        met = zero
        for t in range(LANES):
            met = max(met, most[t])
        if not met > limits[1] * limits[1]:
            break
    for t in range(blocks):
        for kappa in range(r):
            best = kappa
            for m in range(kappa + 1, b):
                if x[m * b + m, t] > x[best * b + best, t]:
                    best = m
            if best != kappa:
                x[kappa * b + kappa, t], x[best * b + best, t] = x[best * b + best, t], x[kappa * b + kappa, t]
                for part in range(planes):
                    for m in range(b):
                        e, f = square + part * deep + kappa * b + m, square + part * deep + best * b + m
                        x[e, t], x[f, t] = x[f, t], x[e, t]


@jit(fastmath=REASSOCIATE, within=True)
def _turn(flat: NDArray[Any], p: int, q: int, b: int, wave: NDArray[Any], deep: int, planes: int, twin: Any) -> None:
    """Rotate two columns: ``c x_p - conj(s) x_q`` and ``s x_p + c x_q``."""
    length = b * LANES
    v, w = flat[p * LANES : p * LANES + length], flat[q * LANES : q * LANES + length]
    cos, sin, twist = wave[0], wave[1], wave[2]
    if twin is None:
        for t in range(length):
            a, d = v[t], w[t]
            v[t] = cos[t] * a - sin[t] * d
            w[t] = sin[t] * a + cos[t] * d
        return
    p, q = p + deep, q + deep
    vi, wi = flat[p * LANES : p * LANES + length], flat[q * LANES : q * LANES + length]
    for t in range(length):
        c, s, z = cos[t], sin[t], twist[t]
        a, d, ai, di = v[t], w[t], vi[t], wi[t]
        v[t] = c * a - s * d - z * di
        vi[t] = c * ai - s * di + z * d
        w[t] = s * a - z * ai + c * d
        wi[t] = s * ai + z * a + c * di


@jit(fastmath=REASSOCIATE, within=True)
def _combine(
    s: NDArray[Any],
    block: tuple[int, int, int, int, int, int],
    left: int,
    width: int,
    basis: NDArray[Any],
    column: int,
    t: int,
    out: NDArray[Any],
    twin: Any,
) -> None:
    """Write the row u^H B of up to `_TILE` columns, for one column u of the basis."""
    corner, drop, _, b, plane, _planes = block
    zero = basis.dtype.type(0)
    o, oi = out[:width], out[_TILE : _TILE + width] if twin is not None else out[:width]
    for m in range(0, b, 2):
        at, e = corner + left + m * drop, b * b + column * b + m
        # an odd last row goes with itself, times zero
        both = m + 1 < b
        to = at + drop if both else at
        u, v = basis[e, t], basis[e + 1, t] if both else zero
        x, y = s[at : at + width], s[to : to + width]
        if m == 0:
            for j in range(width):
                o[j] = zero
                oi[j] = zero
        if twin is None:
            for j in range(width):
                o[j] += u * x[j] + v * y[j]
        else:
            deep = 2 * b * b + e
            w, z = basis[deep, t], basis[deep + 1, t] if both else zero
            xi, yi = s[at + plane : at + plane + width], s[to + plane : to + plane + width]
            for j in range(width):
                o[j] += u * x[j] + v * y[j] + w * xi[j] + z * yi[j]
            for j in range(width):
                oi[j] += u * xi[j] + v * yi[j] - w * x[j] - z * y[j]


@jit(fastmath=REASSOCIATE, within=True)
def _rotate(
    s: NDArray[Any],
    block: tuple[int, int, int, int, int, int],
    basis: NDArray[Any],
    tile: NDArray[Any],
    t: int,
    twin: Any,
) -> None:
    """Replace a block by U^H B with the whole basis U."""
    corner, drop, width, b, plane, planes = block
    for left in range(0, width, _TILE):
        wide = min(_TILE, width - left)
        for column in range(b):
            _combine(s, block, left, wide, basis, column, t, tile[planes * column * _TILE :], twin)
        for column in range(b):
            for part in range(planes):
                at = corner + left + column * drop + part * plane
                x, y = s[at : at + wide], tile[(planes * column + part) * _TILE :]
                for j in range(wide):
                    x[j] = y[j]


@jit(fastmath=REASSOCIATE, within=True)
def _apply_one(
    s: NDArray[Any],
    block: tuple[int, int, int, int, int, int],
    basis: NDArray[Any],
    tile: NDArray[Any],
    t: int,
    twin: Any,
) -> Any:
    """Replace the first row of a block by u^H B with the first vector u; return the squared norm of B - u u^H B."""
    corner, drop, width, b, plane, planes = block
    zero = basis.dtype.type(0)
    norm = zero
    for part in range(planes):
        for m in range(b):
            entry = basis[(1 + 2 * part) * b * b + m, t]
            norm += entry * entry
    norm = math.sqrt(norm)
    for part in range(planes):
        for m in range(b):
            basis[(1 + 2 * part) * b * b + m, t] /= norm
    lost = 0.0
    for left in range(0, width, _TILE):
        wide = min(_TILE, width - left)
        _combine(s, block, left, wide, basis, left - left, t, tile, twin)
        y, yi = tile[:wide], tile[_TILE : _TILE + wide]
        total = zero
        for m in range(b):
            u, at = basis[b * b + m, t], corner + left + m * drop
            x = s[at : at + wide]
            if twin is None:
                for j in range(wide):
                    e = x[j] - u * y[j]
                    total += e * e
            else:
                w, xi = basis[3 * b * b + m, t], s[at + plane : at + plane + wide]
                for j in range(wide):
                    e = x[j] - u * y[j] + w * yi[j]
                    f = xi[j] - u * yi[j] - w * y[j]
                    total += e * e + f * f
        lost += total
        for part in range(planes):
            at = corner + left + part * plane
            x, v = s[at : at + wide], tile[part * _TILE : part * _TILE + wide]
            for j in range(wide):
                x[j] = v[j]
    return lost


@jit(fastmath=REASSOCIATE, within=True)
def _orthogonalise(
    s: NDArray[Any],
    block: tuple[int, int, int, int, int, int],
    r: int,
    basis: NDArray[Any],
    t: int,
    limits: NDArray[Any],
    twin: Any,
) -> None:
    """Make the rows of a block orthogonal by rotations that the basis follows: one-sided Jacobi (Hestenes).

    The Gram matrix knows singular values down to the root of the rounding error; rows keep all of them.
    """
    corner, drop, width, b, plane, planes = block
    zero = basis.dtype.type(0)
    one = basis.dtype.type(1)
    total = zero
    for m in range(b):
        total += _norm2(s, corner + m * drop, width, plane, planes)
    negligible = total * limits[3] * limits[3]
    for _ in range(_TURNS):
        turned = False
        for p in range(b - 1):
            for q in range(p + 1, b):
                x, y = corner + p * drop, corner + q * drop
                v, w = s[x : x + width], s[y : y + width]
                # the second plane, or the first again
                x, y = x + (planes - 1) * plane, y + (planes - 1) * plane
                vi, wi = s[x : x + width], s[y : y + width]
                top, low, cross, twist = zero, zero, zero, zero
                for j in range(width):
                    a, c = v[j], w[j]
                    top += a * a
                    low += c * c
                    cross += a * c
                if twin is not None:
                    for j in range(width):
                        a, c, ai, ci = v[j], w[j], vi[j], wi[j]
                        top += ai * ai
                        low += ci * ci
                        cross += ai * ci
                        twist += ai * c - a * ci
                size = math.sqrt(cross * cross + twist * twist)
                small = math.sqrt(top) * math.sqrt(low)
                if not (size > 4 * limits[3] * small and min(top, low) > negligible):
                    continue
                turned = True
                half = (low - top) / 2
                bottom = abs(half) + math.sqrt(half * half + size * size)
                bottom = bottom if half >= 0 else -bottom
                tangent = size / bottom
                cosine = one / math.sqrt(one + tangent * tangent)
                f, g = cosine * cross / bottom, cosine * twist / bottom
                if twin is None:
                    for j in range(width):
                        a, c = v[j], w[j]
                        v[j] = cosine * a - f * c
                        w[j] = f * a + cosine * c
                else:
                    for j in range(width):
                        a, c, ai, ci = v[j], w[j], vi[j], wi[j]
                        v[j] = cosine * a - f * c + g * ci
                        vi[j] = cosine * ai - f * ci - g * c
                        w[j] = f * a + g * ai + cosine * c
                        wi[j] = f * ai - g * a + cosine * ci
                for m in range(b):
                    e, k = b * b + p * b + m, b * b + q * b + m
                    a, c = basis[e, t], basis[k, t]
                    if twin is None:
                        basis[e, t] = cosine * a - f * c
                        basis[k, t] = f * a + cosine * c
                    else:
                        deep = 2 * b * b
                        ai, ci = basis[deep + e, t], basis[deep + k, t]
                        basis[e, t] = cosine * a - f * c - g * ci
                        basis[deep + e, t] = cosine * ai - f * ci + g * c
                        basis[k, t] = f * a - g * ai + cosine * c
                        basis[deep + k, t] = f * ai + g * a + cosine * ci
        if not turned:
            break
    for kappa in range(r):
        best, most = kappa, _norm2(s, corner + kappa * drop, width, plane, planes)
        for m in range(kappa + 1, b):
            norm2 = _norm2(s, corner + m * drop, width, plane, planes)
            if norm2 > most:
                best, most = m, norm2
        if best != kappa:
            for part in range(planes):
                x, y = corner + kappa * drop + part * plane, corner + best * drop + part * plane
                v, w = s[x : x + width], s[y : y + width]
                for j in range(width):
                    v[j], w[j] = w[j], v[j]
                for m in range(b):
                    e = (1 + 2 * part) * b * b + m
                    f, g = e + kappa * b, e + best * b
                    basis[f, t], basis[g, t] = basis[g, t], basis[f, t]


sweep_pairs = _sweeper(pairs=True)
sweep_low = _sweeper(pairs=False)
