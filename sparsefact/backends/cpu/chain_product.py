"""Products with a chain of sparse factors: laid out once, then applied to tiles of columns that stay in cache.

A tile of columns goes through all factors before the next one is read, so the intermediate products never leave the
cache. Consecutive Kronecker-sparse factors ``I_a (x) ... (x) I_d`` act on disjoint sets of rows: with A and D the
greatest common divisors of their a and of their d, the rows ``(i Q + j) D + q`` of one (i, q) mix only with each other
(the two passes of a four-step FFT are the classical case: D. H. Bailey, 1990). Such a set runs through its factors in
the first-level cache, and a whole chain needs one pass over the tile per group of factors instead of one per factor.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu import chain_kernels as kernels
from sparsefact.backends.cpu import csr_kernels
from sparsefact.backends.cpu.lane_code import LINE
from sparsefact.backends.cpu.threads import over_ranges, thread_count

__all__ = ["PreparedChain", "prepare_chain"]

# Bytes of the rows of one set, input and output, that stay in the first-level cache beside their values.
_FIRST_LEVEL = 24 << 10
# Bytes of one half of a tile. CSR factors jump about in it and need the second-level cache; passes of Kronecker-sparse
# factors read it in order, and gain more from longer rows in memory than they lose to the third level.
_TILE, _WIDE_TILE = 256 << 10, 4 << 20
# Bytes of a tile's rows at most: streams of this length are read and written at the speed of memory.
_LONGEST_ROW = 512
# Bytes of an operand whose rows are read where they lie. Beyond, rows that lie a power of two apart evict each other
# from the second-level cache before they are used, and copying them in order is cheaper.
_STRAIGHT = 4 << 20
# Multiply-adds, one by one, that are worth a thread: about 0.1 ms.
_GRAIN = 1 << 18
# Bytes of scratch that a thread keeps.
_KEPT = 32 << 20

_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _KroneckerRun:
    """Consecutive Kronecker-sparse factors; arrays as the kernels read them."""

    tile_values: NDArray[Any]
    tile_stages: NDArray[np.int64]
    passes: NDArray[np.int64]
    tallest: int  # rows of the largest intermediate
    deepest: int  # rows of the largest set
    work: int


@dataclass(frozen=True, eq=False)
class _VectorRun:
    """The same factors with neighbouring rows as lanes."""

    values: NDArray[Any]
    stages: NDArray[np.int64]
    tallest: int
    work: int


@dataclass(frozen=True, eq=False)
class _Sparse:
    """A CSR matrix, and the whole numbers that address it."""

    data: NDArray[Any]
    indices: NDArray[Any]
    indptr: NDArray[Any]


class PreparedChain:
    """A chain of factors laid out for products with matrices of one type.

    Made by `prepare_chain`; immutable, and safe to use from several threads at once.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
        Of the values. Operands have it, or are complex of the same precision.
    nbytes : int
        Of what was laid out anew; values and indices of CSR factors that are used where they lie do not count.
    """

    def __init__(
        self,
        parts: tuple[Any, ...],
        rows: NDArray[np.int64],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        vectors: bool,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._parts, self._rows, self._vectors = parts, rows, vectors
        self._planes, self._real = _planes(dtype), np.empty(0, dtype).real.dtype
        alone = len(parts) == 1 and isinstance(parts[0], _VectorRun) and 0 not in shape
        self._single: _VectorRun | None = parts[0] if alone else None
        self._source = rows.size or shape[1], self._planes, self._planes, 0
        self._sink = shape[0], self._planes, self._planes, 0
        self._work = sum(part.data.size if isinstance(part, _Sparse) else part.work for part in parts)
        self.nbytes = rows.nbytes + sum(
            part.values.nbytes if isinstance(part, _VectorRun) else part.tile_values.nbytes
            for part in parts
            if not isinstance(part, _Sparse)
        )

    def apply(self, x: NDArray[Any], *, rows_first: bool = False) -> NDArray[Any]:
        """Return the product with a matrix of columns, a new array.

        Parameters
        ----------
        x : (n, B) array
            Of type `dtype`, or complex of its precision; in any memory layout, read where it lies when either axis is
            contiguous.
        rows_first : bool
            Whether the memory of the result runs along its rows' index first (Fortran order), as suits ``x @ F``.
        """
        high, batch = self.shape[0], x.shape[1]
        if batch == 1 and self._single is not None and x.dtype == self.dtype and x.flags.c_contiguous:
            return self._one_vector(x, self._single)
        out = np.empty((batch, high), x.dtype).T if rows_first else np.empty((high, batch), x.dtype)
        if out.size == 0:
            return out
        if x.size == 0:
            out[...] = 0
            return out
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            x = np.ascontiguousarray(x)
        if self._vectors:
            self._by_vectors(x, out)
        else:
            self._by_tiles(x, out)
        return out

    def _one_vector(self, x: NDArray[Any], run: _VectorRun) -> NDArray[Any]:
        """Return the product with one contiguous column: where calls cost as much as the arithmetic."""
        out = np.empty((self.shape[0], 1), x.dtype)
        planes, real = self._planes, self._real
        t, _ = _scratch.take(real, 2 * planes * run.tallest)
        flat_x, flat_y = x.reshape(-1), out.reshape(-1)
        if planes == 2:
            flat_x, flat_y = flat_x.view(real), flat_y.view(real)
        ends = self._source, self._sink
        kernels.kron_vectors(flat_x, flat_y, run.values, run.stages, self._rows, *ends, 0, 1, planes, t)
        return out

    def _by_vectors(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        if len(self._parts) == 1 and isinstance(self._parts[0], _VectorRun):
            run, planes = self._parts[0], _planes(self.dtype)
            columns, source, sink = self._columns(x, out)
            real, flat_x, flat_y = run.values.real.dtype, _flat(x), _flat(out)
            size = 2 * planes * run.tallest

            def work(start: int, stop: int) -> None:
                t, _ = _scratch.take(real, size)
                kernels.kron_vectors(
                    flat_x, flat_y, run.values, run.stages, self._rows, source, sink, start, stop, planes, t
                )

            _share(work, columns, self._work * planes**2)
            return
        if x.dtype != self.dtype:
            both = np.empty((2, *out.shape), out.real.dtype)
            for k, part in enumerate((x.real, x.imag)):
                self._by_vectors(np.ascontiguousarray(part), both[k])
            out.real, out.imag = both
            return
        for n in range(x.shape[1]):
            column = np.ascontiguousarray(x[:, n])
            if self._rows.size:
                column = column[self._rows]
            for part in self._parts:
                column = _one(part, column)
            out[:, n] = column

    def _by_tiles(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        planes, real = _planes(self.dtype), out.real.dtype
        columns, source, sink = self._columns(x, out)
        flat_x, flat_y = _flat(x), _flat(out)
        lanes = LINE // real.itemsize
        runs = [part for part in self._parts if isinstance(part, _KroneckerRun)]
        tallest = max(*self.shape, self._rows.size, *(_height(part) for part in self._parts))
        line = tallest * planes * LINE
        tile = _WIDE_TILE if len(runs) == len(self._parts) else _TILE
        each = self._work * planes**2 // 8
        threads = thread_count() if columns * each >= 2 * _GRAIN else 1
        lines = max(1, min(_LONGEST_ROW // (planes * LINE), tile // line, -(-columns // (lanes * threads))))
        deepest = max((run.deepest for run in runs), default=0)
        only = runs[0] if len(runs) == len(self._parts) else None
        straight = x.nbytes <= _STRAIGHT

        chunk = planes * lanes
        if only is None:  # a row of a CSR factor's product is made line after line
            t_row, t_line, half = chunk * lines, chunk, tallest * chunk * lines
        else:  # rows of a set lie one line apart, the same rows of the next line not at the same place of a page
            t_row, t_line = chunk, (tallest + 1) * chunk
            half = t_line * lines

        def work(start: int, stop: int) -> None:
            t, inner = _scratch.take(real, 2 * half, 2 * deepest * planes * lanes)
            layouts = self._rows, source, sink
            if only is not None:
                kernels.kron_tiles(
                    flat_x, flat_y, only.tile_values, only.tile_stages, only.passes, *layouts,
                    start, stop, lines, planes, t, half, t_row, t_line, inner, 0, True, True, straight,
                )  # fmt: skip
                return
            for first in range(start, stop, lines * lanes):
                end = min(first + lines * lanes, stop)
                kernels.load_tile(t, flat_x, self._rows, source, first, end - first, t_row, t_line, planes)
                current = 0
                for part in self._parts:
                    if isinstance(part, _Sparse):
                        csr_kernels.csr_tile(t, current, half, part.data, part.indices, part.indptr, lines, planes)
                        current = 1 - current
                    else:
                        current = kernels.kron_tiles(
                            flat_x, flat_y, part.tile_values, part.tile_stages, part.passes, *layouts,
                            first, end, lines, planes, t, half, t_row, t_line, inner, current, False, False, False,
                        )  # fmt: skip
                kernels.store_tile(flat_y, t, current * half, sink, first, end - first, t_row, t_line, planes)

        _share(work, columns, each, align=lanes * lines)

    def _columns(self, x: NDArray[Any], out: NDArray[Any]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Return how many columns the kernels see, and where they lie in the memory of `x` and of `out`."""
        batch = x.shape[1]
        count = self._rows.size or x.shape[0]
        if self.dtype.kind == "c":
            return batch, _complex_layout(count, x), _complex_layout(out.shape[0], out)
        if x.dtype.kind == "c":
            # a real chain takes the real and the imaginary part of a column as two columns
            return 2 * batch, _paired_layout(count, x), _paired_layout(out.shape[0], out)
        return batch, _real_layout(count, x), _real_layout(out.shape[0], out)


def _real_layout(count: int, x: NDArray[Any]) -> tuple[int, int, int, int]:
    return (count, x.shape[1], 1, 0) if x.flags.c_contiguous else (count, 1, x.shape[0], 0)


def _paired_layout(count: int, x: NDArray[Any]) -> tuple[int, int, int, int]:
    return (count, 2 * x.shape[1], 1, 0) if x.flags.c_contiguous else (count, 2, 2 * x.shape[0], 1)


def _complex_layout(count: int, x: NDArray[Any]) -> tuple[int, int, int, int]:
    return (count, 2 * x.shape[1], 2, 0) if x.flags.c_contiguous else (count, 2, 2 * x.shape[0], 0)


def _flat(x: NDArray[Any]) -> NDArray[Any]:
    """Return the memory of an array as real numbers."""
    flat = (x if x.flags.c_contiguous else x.T).reshape(-1)
    return flat.view(flat.real.dtype)


def _planes(dtype: np.dtype[Any]) -> int:
    return 2 if dtype.kind == "c" else 1


class _Scratch(threading.local):
    """Memory of one thread for tiles, kept between products: new pages cost more than a small product."""

    def __init__(self) -> None:
        self._room = np.zeros(0, dtype=np.uint8)
        self._taken: dict[Any, tuple[NDArray[Any], NDArray[Any]]] = {}

    def take(self, dtype: np.dtype[Any], first: int, second: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return arrays of two sizes that begin at cache lines and hold whatever an earlier use left."""
        key = dtype.char, first, second
        found = self._taken.get(key)
        if found is None:
            begin, end = (-(-size * dtype.itemsize // LINE) * LINE for size in (first, second))
            room = self._room
            if room.size < begin + end + LINE:
                room = np.zeros(begin + end + LINE, dtype=np.uint8)
                self._taken.clear()
            at = -room.ctypes.data % LINE
            whole = room[at : at + begin + end]
            one, other = whole[: first * dtype.itemsize].view(dtype), whole[begin : begin + second * dtype.itemsize]
            found = one, other.view(dtype)
            if room.size <= _KEPT:
                self._room = room
                self._taken = {**self._taken, key: found} if len(self._taken) < 64 else {key: found}
        return found


_scratch = _Scratch()


def _share(work: Callable[[int, int], None], length: int, each: float, align: int = 1) -> None:
    """Run work over a range, in threads where it is worth their start; `each` is the multiply-adds of an item."""
    if length * each < 2 * _GRAIN:
        work(0, length)
    else:
        over_ranges(work, length, grain=max(1, int(_GRAIN / max(each, 1))), align=align)


def _height(part: _KroneckerRun | _Sparse) -> int:
    return part.indptr.size - 1 if isinstance(part, _Sparse) else part.tallest


def _one(part: _VectorRun | _Sparse, x: NDArray[Any]) -> NDArray[Any]:
    """Return the product of a part with one contiguous vector of its type."""
    if isinstance(part, _Sparse):
        out = np.empty(part.indptr.size - 1, x.dtype)

        def work(start: int, stop: int) -> None:
            csr_kernels.csr_vector(out, x, part.data, part.indices, part.indptr, start, stop)

        _share(work, out.size, part.data.size / max(1, out.size))
        return out
    a, b, _, d = (int(n) for n in part.stages[-1, :4])
    out, planes = np.empty(a * b * d, x.dtype), _planes(x.dtype)
    source, sink = (x.size, planes, 2, 0), (out.size, planes, 2, 0)
    t, _ = _scratch.take(x.real.dtype, 2 * planes * part.tallest)
    kernels.kron_vectors(_flat(x), _flat(out), part.values, part.stages, _NO_ROWS, source, sink, 0, 1, planes, t)
    return out


def prepare_chain(
    parts: Sequence[Any], dtype: Any, *, vectors: bool = False, rows: NDArray[Any] | None = None
) -> PreparedChain:
    """Lay out a chain of factors for many products; see `sparsefact.backends.protocol.Backend.prepare_chain`."""
    dtype = np.dtype(dtype)
    found: list[Any] = []
    waiting: list[NDArray[Any]] = []
    shapes = []

    def settle() -> None:
        if waiting:
            found.append(_vector_run(waiting, dtype) if vectors else _tile_run(waiting, dtype))
            waiting.clear()

    # in the order in which they meet the operand
    for part in reversed(list(parts)):
        if isinstance(part, np.ndarray):
            a, b, c, d = part.shape
            shapes.append((a * b * d, a * c * d))
            waiting.append(part)
        else:
            settle()
            shapes.append(part.shape)
            short = max(part.nnz, *part.shape) < 1 << 31
            whole, unsigned = (np.int32, np.uint32) if short else (np.int64, np.uint64)
            # a signed index could count from the end, and asking costs a kernel more than the product
            indices = np.ascontiguousarray(part.indices, dtype=whole).view(unsigned)
            data, indptr = np.ascontiguousarray(part.data, dtype=dtype), np.ascontiguousarray(part.indptr, dtype=whole)
            found.append(_Sparse(*(_frozen(array) for array in (data, indices, indptr))))
    settle()
    taken = _NO_ROWS if rows is None else np.ascontiguousarray(rows, dtype=np.int64)
    return PreparedChain(tuple(found), taken, (shapes[-1][0], shapes[0][1]), dtype, vectors)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view: one type of argument, so that a kernel is compiled once."""
    view = array.view()
    view.flags.writeable = False
    return view


def _rows_of(values: NDArray[Any]) -> tuple[int, int]:
    a, b, c, d = values.shape
    return a * b * d, a * c * d


def _tile_run(factors: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> _KroneckerRun:
    """Group factors (in the order of application) into passes, and lay their values out as they are read."""
    planes = _planes(dtype)
    most = _FIRST_LEVEL // (2 * LINE * planes)
    groups: list[list[NDArray[Any]]] = []
    for values in factors:
        if groups and _set_rows([*groups[-1], values]) <= most:
            groups[-1].append(values)
        else:
            groups.append([values])
    stages: list[tuple[int, ...]] = []
    passes, blocks, at, deepest = [], [], 0, 1
    for group in groups:
        count, gap = math.gcd(*(v.shape[0] for v in group)), math.gcd(*(v.shape[3] for v in group))
        # small sets side by side: what is done once per set is done less often
        gap //= _largest_divisor(gap, most // _set_rows(group))
        first = len(stages)
        local = []
        for values in group:
            a, b, c, d = values.shape
            stages.append((a // count, b, c, d // gap))
            ordered = values.reshape(count, a // count, b, c, d // gap, gap).transpose(0, 5, 1, 4, 3, 2)
            local.append(ordered.reshape(count * gap, -1).astype(dtype, copy=False))
        block = np.concatenate(local, axis=1)
        high, wide = _rows_of(group[-1])[0], _rows_of(group[0])[1]
        size = block.shape[1] * planes
        passes.append((first, len(stages), at, size, count, high // (count * gap), wide // (count * gap), gap))
        blocks.append(block.reshape(-1))
        at += block.size * planes
        deepest = max(deepest, _tallest(group) // (count * gap))
    return _KroneckerRun(
        np.concatenate(blocks),
        np.array(stages, dtype=np.int64),
        np.array(passes, dtype=np.int64),
        _tallest(factors),
        deepest,
        sum(v.size for v in factors),
    )


def _tallest(group: Sequence[NDArray[Any]]) -> int:
    return max(max(_rows_of(v)) for v in group)


def _set_rows(group: Sequence[NDArray[Any]]) -> int:
    sets = math.gcd(*(v.shape[0] for v in group)) * math.gcd(*(v.shape[3] for v in group))
    return _tallest(group) // sets


def _largest_divisor(number: int, limit: int) -> int:
    return next((n for n in range(min(number, limit), 1, -1) if number % n == 0), 1)


def _vector_run(factors: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> _VectorRun:
    """Lay out the values of factors (in the order of application) with neighbouring rows as lanes."""
    line = LINE // dtype.type(0).real.dtype.itemsize
    stages: list[tuple[int, ...]] = []
    blocks, at = [], 0
    for values in factors:
        a, b, c, d = values.shape
        lanes, outputs = 1, 0
        for width in (line, 4):
            if d % width == 0:
                lanes = width
                break
            if d == 1 and b % width == 0:
                lanes, outputs = width, 1
                break
        if outputs:
            by_step = values.reshape(a, b // lanes, lanes, c).transpose(0, 1, 3, 2).reshape(-1, lanes)
        else:
            by_step = values.reshape(a, b, c, d // lanes, lanes).transpose(0, 3, 2, 1, 4).reshape(-1, lanes)
        ordered = np.ascontiguousarray(by_step, dtype=dtype)
        if dtype.kind == "c":
            ordered = np.stack([ordered.real, ordered.imag], axis=1).reshape(-1).view(dtype)
        stages.append((a, b, c, d, lanes, outputs, at))
        blocks.append(ordered.reshape(-1))
        at += values.size * _planes(dtype)
    tallest = max(max(_rows_of(v)) for v in factors)
    return _VectorRun(
        np.concatenate(blocks),
        np.array(stages, dtype=np.int64),
        -(-tallest // line) * line,
        sum(v.size for v in factors),
    )
