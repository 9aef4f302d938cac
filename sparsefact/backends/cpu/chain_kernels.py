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

__all__ = ["kron_tiles", "kron_vectors", "load_tile", "store_tile"]

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


@jit(within=True)
def load_tile(
    t: Any, x: Any, rows: Any, layout: Any, start: int, width: int, t_row: int, t_line: int, planes: int
) -> None:
    """Copy columns ``start .. start + width`` of a matrix to a tile, through ``rows`` (where to take each from) if any.

    `layout` is (count of rows, row, column, split): number n of plane k in row r of the matrix is
    ``x[r * row + (n >> split) * column + (n & split) + k]``. In the tile rows lie `t_row` apart, lines `t_line`.
    """
    count, row, column, split = layout
    lanes = LINE // t.itemsize
    if column == planes and split == 0:
        full, chunk = width // lanes, planes * lanes
        source, tile = pointer(x), pointer(t)
        for r in range(count):
            if r + _AHEAD < count:
                after = (rows[r + _AHEAD] if rows.size else r + _AHEAD) * row + start * planes
                for n in range(0, width * planes, lanes):
                    prefetch(source, after + n, False)
            at, to = (rows[r] if rows.size else r) * row + start * planes, r * t_row
            for line in range(full):
                if planes == 1:
                    _copy(tile, to + line * t_line, source, at + line * chunk, lanes)
                else:
                    _split(tile, to + line * t_line, source, at + line * chunk, lanes)
            for lane in range(width - full * lanes):
                for k in range(planes):
                    t[to + full * t_line + k * lanes + lane] = x[at + full * chunk + planes * lane + k]
        return
    # neighbouring rows lie together: a block of them fills whole cache lines on both sides
    for r0 in range(0, count, 16):
        r1 = min(r0 + 16, count)
        for n in range(width):
            base = ((start + n) >> split) * column + ((start + n) & split)
            to = (n // lanes) * t_line + n % lanes
            for r in range(r0, r1):
                at = base + (rows[r] if rows.size else r) * row
                for k in range(planes):
                    t[to + r * t_row + k * lanes] = x[at + k]


@jit(within=True)
def store_tile(
    y: Any, t: Any, t_at: int, layout: Any, start: int, width: int, t_row: int, t_line: int, planes: int
) -> None:
    """Copy a tile that begins at `t_at` to columns of a matrix; numbers lie there as in `load_tile`."""
    count, row, column, split = layout
    lanes = LINE // t.itemsize
    if column == planes and split == 0:
        full, chunk = width // lanes, planes * lanes
        sink, tile = pointer(y), pointer(t)
        for r in range(count):
            if r + _AHEAD < count:
                for n in range(0, width * planes, lanes):
                    prefetch(sink, (r + _AHEAD) * row + start * planes + n, True)
            at, to = t_at + r * t_row, r * row + start * planes
            for line in range(full):
                if planes == 1:
                    _copy(sink, to + line * chunk, tile, at + line * t_line, lanes)
                else:
                    _join(sink, to + line * chunk, tile, at + line * t_line, lanes)
            for lane in range(width - full * lanes):
                for k in range(planes):
                    y[to + full * chunk + planes * lane + k] = t[at + full * t_line + k * lanes + lane]
        return
    for r0 in range(0, count, 16):
        r1 = min(r0 + 16, count)
        for n in range(width):
            base = ((start + n) >> split) * column + ((start + n) & split)
            at = t_at + (n // lanes) * t_line + n % lanes
            for r in range(r0, r1):
                for k in range(planes):
                    y[base + r * row + k] = t[at + r * t_row + k * lanes]


@jit()
def kron_tiles(
    x: Any, y: Any, w: Any, stages: Any, passes: Any, rows: Any, x_layout: Any, y_layout: Any,
    start: int, stop: int, lines: int, planes: int,
    t: Any, half: int, t_row: int, t_line: int, inner: Any, current: int, load: bool, store: bool, straight: bool,
) -> int:  # fmt: skip
    """Apply a chain of Kronecker-sparse factors to columns ``start .. stop`` of a matrix, tile by tile.

    Layouts are those of `load_tile`. Without `load` the columns, one tile of them, are in half `current` of `t`
    already; without `store` they are left there. The half that has the result is returned. With `straight` whole lines
    of real numbers are read and written where they lie.

    A pass applies some factors to every independent set of rows, in the first-level cache. Its header holds the range
    of its stages, where their values begin and how many a set has, and (A, P, Q, D): set (i, q) takes the rows
    ``(i Q + j) D + q`` to the rows ``(i P + j) D + q``. What is read and written where it lies is asked for ahead:
    rows lie pages apart there, and no hardware foresees them.
    """
    lanes = LINE // t.itemsize
    source, sink, tile, flat, values = pointer(x), pointer(y), pointer(t), pointer(inner), pointer(w)
    room, x_row, y_row = inner.size // 2, x_layout[1], y_layout[1]
    last = passes.shape[0] - 1
    for n in range(start, stop, lines * lanes):
        width = min(lines * lanes, stop - n)
        filled = (width + lanes - 1) // lanes
        whole = straight and planes == 1 and width % lanes == 0
        from_x = load and whole and x_layout[2] == 1 and rows.size == 0
        to_y = store and whole and y_layout[2] == 1
        if load:
            current = 0
            if not from_x:
                load_tile(t, x, rows, x_layout, n, width, t_row, t_line, planes)
        for p in range(last + 1):
            first, end, w_at, size = passes[p, 0], passes[p, 1], passes[p, 2], passes[p, 3]
            count, high, wide, gap = passes[p, 4], passes[p, 5], passes[p, 6], passes[p, 7]
            far_in, far_out = p == 0 and from_x, p == last and to_y
            # sets of one stage, or of another size on the other side, would overwrite what they still need
            target = 1 - current if high != wide or end - first < 2 else current
            for i in range(count):
                for q in range(gap):
                    take, put = i * wide * gap + q, i * high * gap + q
                    for line in range(filled):
                        if far_in:
                            where, where_at, where_row = source, take * x_row + n + line * lanes, gap * x_row
                            after = where_at + lanes
                            if line + 1 == filled:
                                after = (take + 1 if q + 1 < gap else (i + 1) * wide * gap) * x_row + n
                            if line + 1 < filled or q + 1 < gap or i + 1 < count:
                                for j in range(wide):
                                    prefetch(source, after + j * where_row, False)
                        else:
                            where, where_at = tile, current * half + take * t_row + line * t_line
                            where_row = gap * t_row
                        if far_out:
                            sink_at, sink_row = put * y_row + n + line * lanes, gap * y_row
                            for j in range(high):
                                prefetch(sink, sink_at + j * sink_row, True)
                        else:
                            sink_at, sink_row = target * half + put * t_row + line * t_line, gap * t_row
                        k = w_at
                        for s in range(first, end):
                            a, b, c, d = stages[s, 0], stages[s, 1], stages[s, 2], stages[s, 3]
                            if s + 1 < end:
                                out, out_at, out_row = flat, ((s - first) % 2) * room, planes * lanes
                            else:
                                out, out_at, out_row = sink if far_out else tile, sink_at, sink_row
                            _stage(
                                out, out_at, out_row, lanes, where, where_at, where_row, lanes,
                                values, k, planes, a, b, c, d,
                            )  # fmt: skip
                            k += a * b * c * d * planes
                            where, where_at, where_row = out, out_at, out_row
                    w_at += size
            current = target
        if store and not to_y:
            store_tile(y, t, current * half, y_layout, n, width, t_row, t_line, planes)
    return current


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
    tile, values, source, sink, order = pointer(t), pointer(w), pointer(x), pointer(y), pointer(rows)
    for n in range(start, stop):
        base = (n >> x_split) * x_column + (n & x_split)
        if rows.size:
            for r in range(height):
                at = base + order[r] * x_row
                for k in range(planes):
                    tile[k * plane + r] = source[at + k]
        else:
            done = height // line if x_row == planes else 0
            for r in range(0, done * line, line):
                if planes == 1:
                    _copy(tile, r, source, base + r, plane)
                else:
                    _split(tile, r, source, base + r * planes, plane)
            for r in range(done * line, height):
                for k in range(planes):
                    tile[k * plane + r] = source[base + r * x_row + k]
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
        done = high // line if y_row == planes else 0
        for r in range(0, done * line, line):
            if planes == 1:
                _copy(sink, base + r, tile, at + r, plane)
            else:
                _join(sink, base + r * planes, tile, at + r, plane)
        for r in range(done * line, high):
            for k in range(planes):
                sink[base + r * y_row + k] = tile[at + k * plane + r]
