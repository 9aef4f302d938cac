"""Kernels for chains of Kronecker-sparse factors, on a tile of columns or on single vectors.

Layout of a tile: ``[row][chunk][plane][lane]``, where a chunk is a cache line of columns; of the values of a block:
``[r][p][plane]``, followed by ``[lane]`` where they differ from lane to lane. Every column is computed alike, so the
width of a tile changes no bit of a result.
"""

from __future__ import annotations

from typing import Any

from sparsefact.backends.cpu.jit import jit
from sparsefact.backends.cpu.lane_code import (
    COLUMNS,
    LANES,
    LINE,
    OUTPUTS,
    block_rows,
    factor,
    move_line,
    pointer,
    prefetch,
)

__all__ = ["kron_in_tile", "kron_tiles", "kron_vectors", "load_tile", "store_tile"]

_factor_2x2, _factor_2x4, _factor_2x8 = (factor(2, c) for c in (2, 4, 8))
_factor_4x2, _factor_4x4, _factor_4x8 = (factor(4, c) for c in (2, 4, 8))
_factor_8x2, _factor_8x4, _factor_8x8 = (factor(8, c) for c in (2, 4, 8))
_columns_4, _columns_2 = (block_rows(p, 0, 0, COLUMNS) for p in (4, 2))
_columns_1, _scalar_1 = block_rows(1, 0, 0, COLUMNS), block_rows(1, 0, 1, COLUMNS)
_lanes_4x4, _lanes_2x2, _lanes_1 = (block_rows(p, c, 0, LANES) for p, c in ((4, 4), (2, 2), (1, 0)))
_short_4x4, _short_2x2, _short_1 = (block_rows(p, c, 4, LANES) for p, c in ((4, 4), (2, 2), (1, 0)))
_outputs_line, _outputs_4 = (block_rows(1, 0, lanes, OUTPUTS) for lanes in (0, 4))
# rows that are asked for before they are copied
_AHEAD = 8
_copy, _split, _join = move_line(1, True), move_line(2, True), move_line(2, False)


@jit(inline=True)
def _stage(
    dst: Any,
    dst_at: int,
    dst_row: int,
    dst_plane: int,
    src: Any,
    src_at: int,
    src_row: int,
    src_plane: int,
    w: Any,
    w_at: int,
    planes: int,
    a: int,
    b: int,
    c: int,
    d: int,
) -> None:
    """Apply one Kronecker-sparse factor to the rows of one chunk."""
    if b == 4 and (c == 2 or c == 4 or c == 8):
        if c == 4:
            _factor_4x4(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
        elif c == 8:
            _factor_4x8(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
        else:
            _factor_4x2(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
    elif b == 8 and (c == 2 or c == 4 or c == 8):
        if c == 4:
            _factor_8x4(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
        elif c == 8:
            _factor_8x8(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
        else:
            _factor_8x2(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
    elif b == 2 and (c == 2 or c == 4 or c == 8):
        if c == 4:
            _factor_2x4(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
        elif c == 8:
            _factor_2x8(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
        else:
            _factor_2x2(dst, dst_at, dst_row, dst_plane, src, src_at, src_row, src_plane, w, w_at, a, d)
    else:
        row = b * planes
        ds, ss = d * dst_row, d * src_row
        for i in range(a):
            for q in range(d):
                to, at = dst_at + (i * b * d + q) * dst_row, src_at + (i * c * d + q) * src_row
                p = 0
                while p < b:
                    k, o = w_at + p * planes, to + p * ds
                    if p + 4 <= b:
                        _columns_4(dst, o, ds, dst_plane, src, at, ss, src_plane, w, k, row, c)
                        p += 4
                    elif p + 2 <= b:
                        _columns_2(dst, o, ds, dst_plane, src, at, ss, src_plane, w, k, row, c)
                        p += 2
                    else:
                        _columns_1(dst, o, ds, dst_plane, src, at, ss, src_plane, w, k, row, c)
                        p += 1
                w_at += c * row


@jit(inline=True)
def _pass(
    dst: Any,
    dst_at: int,
    dst_row: int,
    dst_chunk: int,
    dst_plane: int,
    src: Any,
    src_at: int,
    src_row: int,
    src_chunk: int,
    src_plane: int,
    w: Any,
    planes: int,
    stages: Any,
    header: Any,
    lines: int,
    lanes: int,
    inner: Any,
    half: int,
    far_in: bool,
    far_out: bool,
) -> None:
    """Apply some factors to every independent set of rows of a tile, in the first-level cache.

    `header` holds the range of the stages, where their values begin and how many a set has, and (A, P, Q, D): set
    (i, q) takes the rows ``(i Q + j) D + q`` to the rows ``(i P + j) D + q``. What is far, in memory rather than in the
    tile, is asked for one set ahead: rows lie pages apart there, and no hardware foresees them.
    """
    first, last, w_at, size = header[0], header[1], header[2], header[3]
    count, high, wide, gap = header[4], header[5], header[6], header[7]
    chunk = planes * lanes
    for i in range(count):
        for q in range(gap):
            for line in range(lines):
                at = src_at + (i * wide * gap + q) * src_row + line * src_chunk
                to = dst_at + (i * high * gap + q) * dst_row + line * dst_chunk
                if far_in:
                    after = at + src_chunk if line + 1 < lines else src_at + (i * wide * gap + q + 1) * src_row
                    if line + 1 == lines and q + 1 == gap:
                        after = src_at + (i + 1) * wide * gap * src_row
                    if line + 1 < lines or q + 1 < gap or i + 1 < count:
                        for j in range(wide):
                            prefetch(src, after + j * gap * src_row, False)
                if far_out:
                    for j in range(high):
                        prefetch(dst, to + j * gap * dst_row, True)
                k = w_at
                where, where_at, where_row, where_plane = src, at, gap * src_row, src_plane
                for s in range(first, last):
                    a, b, c, d = stages[s, 0], stages[s, 1], stages[s, 2], stages[s, 3]
                    if s + 1 < last:
                        out, out_at, out_row, out_plane = inner, ((s - first) % 2) * half, chunk, lanes
                    else:
                        out, out_at, out_row, out_plane = dst, to, gap * dst_row, dst_plane
                    _stage(
                        out,
                        out_at,
                        out_row,
                        out_plane,
                        where,
                        where_at,
                        where_row,
                        where_plane,
                        w,
                        k,
                        planes,
                        a,
                        b,
                        c,
                        d,
                    )
                    k += a * b * c * d * planes
                    where, where_at, where_row, where_plane = out, out_at, out_row, out_plane
            w_at += size


@jit()
def load_tile(
    t: Any,
    x: Any,
    rows: Any,
    layout: Any,
    start: int,
    width: int,
    lines: int,
    planes: int,
) -> None:
    """Copy columns ``start .. start + width`` of a matrix to a tile, through ``rows`` (where to take each from) if any.

    `layout` is (count of rows, row, column, split): number n of plane k in row r of the matrix is
    ``x[r * row + (n >> split) * column + (n & split) + k]``.
    """
    count, row, column, split = layout
    lanes = LINE // t.itemsize
    pitch = lines * planes * lanes
    source, tile = pointer(x), pointer(t)
    if column == planes and split == 0:
        for r in range(count):
            at = (rows[r] if rows.size else r) * row
            if r + _AHEAD < count:
                after = (rows[r + _AHEAD] if rows.size else r + _AHEAD) * row + start * planes
                for n in range(0, width * planes, lanes):
                    prefetch(source, after + n, False)
            for line in range((width + lanes - 1) // lanes):
                n = start + line * lanes
                size = min(lanes, start + width - n)
                to = r * pitch + line * planes * lanes
                base = at + n * planes
                if size < lanes:
                    for lane in range(size):
                        for k in range(planes):
                            t[to + k * lanes + lane] = x[base + planes * lane + k]
                elif planes == 1:
                    _copy(tile, to, source, base)
                else:
                    _split(tile, to, source, base)
        return
    # neighbouring rows lie together: a block of them fills whole cache lines on both sides
    for r0 in range(0, count, 16):
        r1 = min(r0 + 16, count)
        for n in range(width):
            base = ((start + n) >> split) * column + ((start + n) & split)
            to = (n // lanes) * planes * lanes + n % lanes
            for r in range(r0, r1):
                at = base + (rows[r] if rows.size else r) * row
                for k in range(planes):
                    t[to + r * pitch + k * lanes] = x[at + k]


@jit()
def store_tile(y: Any, t: Any, layout: Any, start: int, width: int, lines: int, planes: int) -> None:
    """Copy a tile to columns of a matrix; numbers lie there as in `load_tile`."""
    count, row, column, split = layout
    lanes = LINE // t.itemsize
    pitch = lines * planes * lanes
    sink, tile = pointer(y), pointer(t)
    if column == planes and split == 0:
        for r in range(count):
            if r + _AHEAD < count:
                for n in range(0, width * planes, lanes):
                    prefetch(sink, (r + _AHEAD) * row + start * planes + n, True)
            for line in range((width + lanes - 1) // lanes):
                n = start + line * lanes
                size = min(lanes, start + width - n)
                at = r * pitch + line * planes * lanes
                base = r * row + n * planes
                if size < lanes:
                    for lane in range(size):
                        for k in range(planes):
                            y[base + planes * lane + k] = t[at + k * lanes + lane]
                elif planes == 1:
                    _copy(sink, base, tile, at)
                else:
                    _join(sink, base, tile, at)
        return
    for r0 in range(0, count, 16):
        r1 = min(r0 + 16, count)
        for n in range(width):
            base = ((start + n) >> split) * column + ((start + n) & split)
            at = (n // lanes) * planes * lanes + n % lanes
            for r in range(r0, r1):
                for k in range(planes):
                    y[base + r * row + k] = t[at + r * pitch + k * lanes]


@jit()
def kron_in_tile(
    t: Any, current: int, half: int, w: Any, stages: Any, passes: Any, lines: int, planes: int, inner: Any
) -> int:
    """Apply a chain of Kronecker-sparse factors to the tile in one half of `t`; return the half that has the result."""
    lanes = LINE // t.itemsize
    chunk = planes * lanes
    pitch = lines * chunk
    tile, flat, values = pointer(t), pointer(inner), pointer(w)
    for p in range(passes.shape[0]):
        target = current
        if passes[p, 5] != passes[p, 6] or passes[p, 1] - passes[p, 0] < 2:
            target = 1 - current
        _pass(
            tile, target * half, pitch, chunk, lanes, tile, current * half, pitch, chunk, lanes,
            values, planes, stages, passes[p], lines, lanes, flat, inner.size // 2, False, False,
        )  # fmt: skip
        current = target
    return current


@jit()
def kron_tiles(
    x: Any, y: Any, w: Any, stages: Any, passes: Any, rows: Any, x_layout: Any, y_layout: Any,
    start: int, stop: int, lines: int, planes: int, t: Any, inner: Any,
) -> None:  # fmt: skip
    """Apply a chain of Kronecker-sparse factors to columns ``start .. stop`` of a matrix, tile by tile.

    Layouts are those of `load_tile`.
    """
    lanes = LINE // t.itemsize
    chunk, half = planes * lanes, t.size // 2
    source, sink, tile, flat, values = pointer(x), pointer(y), pointer(t), pointer(inner), pointer(w)
    x_row, x_column, y_row, y_column = x_layout[1], x_layout[2], y_layout[1], y_layout[2]
    last = passes.shape[0] - 1
    for n in range(start, stop, lines * lanes):
        width = min(lines * lanes, stop - n)
        filled = (width + lanes - 1) // lanes
        # whole lines of real numbers need no copy
        straight = planes == 1 and width % lanes == 0
        direct_in, direct_out = straight and x_column == 1 and rows.size == 0, straight and y_column == 1
        if not direct_in:
            load_tile(t, x, rows, x_layout, n, width, lines, planes)
        current = 0
        for p in range(last + 1):
            if p == 0 and direct_in:
                src, src_at, src_row, src_chunk = source, n, x_row, lanes
            else:
                src, src_at, src_row, src_chunk = tile, current * half, lines * chunk, chunk
            moved = passes[p, 5] != passes[p, 6] or passes[p, 1] - passes[p, 0] < 2
            if p == last and direct_out:
                dst, dst_at, dst_row, dst_chunk = sink, n, y_row, lanes
            else:
                current = 1 - current if moved else current
                dst, dst_at, dst_row, dst_chunk = tile, current * half, lines * chunk, chunk
            _pass(
                dst, dst_at, dst_row, dst_chunk, lanes, src, src_at, src_row, src_chunk, lanes,
                values, planes, stages, passes[p], filled, lanes, flat, inner.size // 2,
                p == 0 and direct_in, p == last and direct_out,
            )  # fmt: skip
        if not direct_out:
            at = current * half
            store_tile(y, t[at : at + half], y_layout, n, width, lines, planes)


@jit()
def kron_vectors(
    x: Any, y: Any, w: Any, stages: Any, rows: Any, x_layout: Any, y_layout: Any,
    start: int, stop: int, planes: int, t: Any,
) -> None:  # fmt: skip
    """Apply a chain of Kronecker-sparse factors to columns ``start .. stop`` of a matrix, one by one.

    Lanes are neighbouring rows; a stage is (a, b, c, d, lanes, whether lanes are outputs of one block, values).
    """
    line = LINE // t.itemsize
    height, x_row, x_column, x_split = x_layout
    high, y_row, y_column, y_split = y_layout
    plane = t.size // (2 * planes)
    half = planes * plane
    tile, values = pointer(t), pointer(w)
    for n in range(start, stop):
        base = (n >> x_split) * x_column + (n & x_split)
        for k in range(planes):
            if rows.size:
                for r in range(height):
                    t[k * plane + r] = x[base + rows[r] * x_row + k]
            elif x_row == 1:
                for r in range(height):
                    t[k * plane + r] = x[base + r + k]
            else:
                for r in range(height):
                    t[k * plane + r] = x[base + r * x_row + k]
        current = 0
        for s in range(stages.shape[0]):
            a, b, c, d = stages[s, 0], stages[s, 1], stages[s, 2], stages[s, 3]
            lanes, outputs, k = stages[s, 4], stages[s, 5], stages[s, 6]
            src, dst = current * half, (1 - current) * half
            if outputs:
                size = c * lanes * planes
                for _ in range(a):
                    for p in range(0, b, lanes):
                        if lanes == line:
                            _outputs_line(tile, dst + p, 0, plane, tile, src, 1, plane, values, k, lanes * planes, c)
                        else:
                            _outputs_4(tile, dst + p, 0, plane, tile, src, 1, plane, values, k, lanes * planes, c)
                        k += size
                    src += c
                    dst += b
            else:
                unit = lanes * planes
                row, size = b * unit, b * c * unit
                for _ in range(a):
                    for q in range(0, d, lanes):
                        at, to = src + q, dst + q
                        if lanes == line and b == 4 and c == 4:
                            _lanes_4x4(tile, to, d, plane, tile, at, d, plane, values, k, row, c)
                        elif lanes == line and b == 2 and c == 2:
                            _lanes_2x2(tile, to, d, plane, tile, at, d, plane, values, k, row, c)
                        elif lanes == line:
                            for p in range(b):
                                _lanes_1(tile, to + p * d, d, plane, tile, at, d, plane, values, k + p * unit, row, c)
                        elif lanes == 4 and b == 4 and c == 4:
                            _short_4x4(tile, to, d, plane, tile, at, d, plane, values, k, row, c)
                        elif lanes == 4 and b == 2 and c == 2:
                            _short_2x2(tile, to, d, plane, tile, at, d, plane, values, k, row, c)
                        elif lanes == 4:
                            for p in range(b):
                                _short_1(tile, to + p * d, d, plane, tile, at, d, plane, values, k + p * unit, row, c)
                        else:
                            for p in range(b):
                                _scalar_1(tile, to + p * d, d, plane, tile, at, d, plane, values, k + p * unit, row, c)
                        k += size
                    src += c * d
                    dst += b * d
            current = 1 - current
        base = (n >> y_split) * y_column + (n & y_split)
        at = current * half
        for k in range(planes):
            if y_row == 1:
                for r in range(high):
                    y[base + r + k] = t[at + k * plane + r]
            else:
                for r in range(high):
                    y[base + r * y_row + k] = t[at + k * plane + r]
