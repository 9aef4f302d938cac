"""Products with a chain of sparse factors on the GPU: laid out once, then applied.

Kronecker-sparse factors run through `kernels/chain.cu`, as many in one pass over memory as fit in shared memory with 32
bytes of columns; where a chain is too long for one pass, the rows fall into sets that a pass takes one by one, as in a
four-step FFT. Factors of large blocks have a pass of their own through `kernels/kronecker.cu`, CSR factors through
`kernels/csr.cu`. Between passes matrices lie row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsefact.backends.cuda import kronecker, sampled
from sparsefact.backends.cuda.launcher import Launcher, contiguous, empty, zeros

__all__ = ["CudaChain", "prepare_chain"]

# Both sides from which a factor's blocks are better multiplied tile by tile than in a chain.
_LARGE = 32
# Bytes of columns that a row of a tile has at least where it can, and at most; what a load takes.
_NARROW, _WIDEST, _LOAD = 32, 128, 16
# Blocks that keep a large GPU busy, and bytes of shared memory of which several blocks fit on a processor.
_BUSY, _MODEST = 528, 32 << 10
_STATIC = 1024


@dataclass(frozen=True, eq=False)
class _Pass:
    """Factors that share a pass: values and stages as the kernel reads them."""

    values: Any
    stages: Any
    sets: int
    gap: int
    wide: int
    high: int
    tall: int  # rows of the tallest intermediate of a set
    halves: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.sets * self.high, self.sets * self.wide

    def run(
        self, launcher: Launcher, x: Any, strides: tuple[int, int], y: Any, back: tuple[int, int], batch: int, rows: Any
    ) -> None:
        """Multiply a matrix whose entries lie `strides` apart into one whose entries lie `back` apart."""
        number = int(self.values.dtype.itemsize)
        bits = (min(_WIDEST, _rounded(batch * number)) // _LOAD).bit_length() - 1
        half = launcher.shared_limit - _STATIC
        while bits and self._bytes(1, bits) > half:
            bits -= 1
        # narrower tiles where two do not fit on a processor, or there are fewer than processors
        while bits > 1 and (
            self._bytes(1, bits) > half // 2 or self.sets * batch * number < _BUSY // 4 * _LOAD << bits
        ):
            bits -= 1
        pitch = (_LOAD << bits) // number
        tiles = -(-batch // pitch)
        group = max(1, min(self.sets, min(_MODEST, half) // self._bytes(1, bits), self.sets * tiles // _BUSY))
        shared = self._bytes(group, bits)
        work = self.tall * group << bits
        threads = 64 if work <= 256 else 128 if work <= 1024 else 256 if shared <= half // 2 else 512
        arguments = (
            x, y, self.values, self.stages, int(self.stages.shape[0]), rows, self.sets, self.gap, self.wide, self.high,
            batch, *strides, *back, group, pitch, bits, self.tall * group * pitch,
        )  # fmt: skip
        grid = tiles * -(-self.sets // group)
        launcher.launch("chain", "run", self.values.dtype, grid, threads, arguments, shared=shared)

    def _bytes(self, group: int, bits: int) -> int:
        return self.tall * group * self.halves * _LOAD << bits


@dataclass(frozen=True, eq=False)
class _Blocks:
    """One factor of large blocks."""

    values: Any  # (a, d, c, b)

    @property
    def shape(self) -> tuple[int, int]:
        a, d, c, b = self.values.shape
        return a * b * d, a * c * d


@dataclass(frozen=True, eq=False)
class _Sparse:
    """A CSR matrix."""

    data: Any
    indices: Any
    indptr: Any
    shape: tuple[int, int]


class CudaChain:
    """A chain of factors laid out on a GPU for products with matrices of one type.

    Made by `prepare_chain`; immutable. Products are queued on CuPy's current stream.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
        Of the values. Operands have it, or are complex of the same precision.
    passes : int
        How often a product goes through memory.
    """

    def __init__(self, launcher: Launcher, steps: tuple[Any, ...], rows: Any, dtype: np.dtype[Any]) -> None:
        self.shape = steps[-1].shape[0], steps[0].shape[1]
        self.dtype, self.passes = dtype, len(steps)
        self._launcher, self._steps, self._rows = launcher, steps, rows

    def apply(self, x: Any, *, rows_first: bool = False) -> Any:
        """Return the product with a matrix of columns; see `sparsefact.backends.protocol.PreparedChain`."""
        with self._launcher.active():
            return self._apply(x, rows_first)

    def _apply(self, x: Any, rows_first: bool) -> Any:
        launcher, high, batch = self._launcher, self.shape[0], x.shape[1]
        if batch == 0 or x.size == 0 or any(0 in step.shape for step in self._steps):
            found = zeros(launcher, (batch, high) if rows_first else (high, batch), x.dtype)
            return found.T if rows_first else found
        if x.dtype != self.dtype:
            # a real chain takes the real and the imaginary part of a column as two columns
            pairs = self._apply(contiguous(launcher, x).view(self.dtype), False).view(x.dtype)
            return contiguous(launcher, pairs.T).T if rows_first else pairs
        rows = self._rows
        if rows is not None and not isinstance(self._steps[0], _Pass):
            x, rows = x[rows], None
        by_columns = x.flags.f_contiguous and not x.flags.c_contiguous and isinstance(self._steps[0], _Pass)
        x = x.T if by_columns else contiguous(launcher, x)
        for number, step in enumerate(self._steps):
            last = number == len(self._steps) - 1
            if isinstance(step, _Pass):
                strides = (1, x.shape[1]) if by_columns else (batch, 1)
                tall = step.shape[0]
                back = (1, tall) if last and rows_first else (batch, 1)
                y = empty(launcher, (batch, tall) if last and rows_first else (tall, batch), x.dtype)
                step.run(launcher, x, strides, y, back, batch, rows)
                if last and rows_first:
                    return y.T
                by_columns, rows, x = False, None, y
            elif isinstance(step, _Blocks):
                x = kronecker.multiply(launcher, step.values, x)
            else:
                x = sampled.multiply(launcher, step.data, step.indices, step.indptr, x)
        return contiguous(launcher, x.T).T if rows_first else x


def prepare_chain(launcher: Launcher, parts: Sequence[Any], dtype: Any, rows: Any = None) -> CudaChain:
    """Lay out a chain of factors for many products; see `sparsefact.backends.protocol.Backend.prepare_chain`."""
    xp, dtype = launcher.xp, np.dtype(dtype)
    steps: list[Any] = []
    waiting: list[Any] = []

    def settle() -> None:
        if waiting:
            steps.append(_pass(launcher, waiting, dtype))
            waiting.clear()

    # in the order in which they meet the operand
    for part in reversed(list(parts)):
        if hasattr(part, "indptr"):
            settle()
            arrays = sampled.indices_of(launcher, part.indices, part.indptr, part.shape)
            steps.append(_Sparse(xp.asarray(part.data).astype(dtype, copy=False), *arrays, part.shape))
            continue
        values = xp.asarray(part)
        if min(values.shape[1:3]) >= _LARGE or not _fits(launcher, [values], dtype):
            settle()
            steps.append(_Blocks(kronecker.packed(launcher, values, dtype)))
            continue
        if waiting and not _fits(launcher, [*waiting, values], dtype):
            settle()
        waiting.append(values)
    settle()
    return CudaChain(launcher, tuple(steps), None if rows is None else xp.asarray(rows).astype(np.int32), dtype)


def _rounded(size: int) -> int:
    """Return the least power of two that is at least `size` and what a load takes."""
    return max(_LOAD, 1 << (size - 1).bit_length())


def _in_place(values: Any) -> bool:
    _, b, c, _ = values.shape
    return bool(b == c and b in (2, 4, 8))


def _heights(factors: Sequence[Any]) -> list[int]:
    """Return the rows of the operand and of what each factor makes of it, in the order of application."""
    a, _, c, d = factors[0].shape
    return [a * c * d, *(v.shape[0] * v.shape[1] * v.shape[3] for v in factors)]


def _sets(factors: Sequence[Any]) -> tuple[int, int]:
    return math.gcd(*(v.shape[0] for v in factors)), math.gcd(*(v.shape[3] for v in factors))


def _fits(launcher: Launcher, factors: Sequence[Any], dtype: np.dtype[Any]) -> bool:
    count, gap = _sets(factors)
    tall = max(_heights(factors)) // max(count * gap, 1)
    halves = 1 if all(map(_in_place, factors)) else 2
    return tall * halves * max(_NARROW, dtype.itemsize) <= launcher.shared_limit - _STATIC


def _pass(launcher: Launcher, factors: Sequence[Any], dtype: np.dtype[Any]) -> _Pass:
    """Lay out the values of factors (in the order of application) set by set, blocks as they are read."""
    xp = launcher.xp
    count, gap = _sets(factors)
    sets = count * gap
    stages, blocks, at = [], [], 0
    for values in factors:
        a, b, c, d = values.shape
        inner, step, side = a // max(count, 1), d // max(gap, 1), b if _in_place(values) else 0
        local = values.reshape(count, inner, b, c, step, gap).transpose(0, 5, 1, 4, 3, 2)
        filled = b if side else -(-b // 4) * 4
        laid = zeros(launcher, (*local.shape[:-1], filled), dtype)
        laid[..., :b] = local
        shift = step.bit_length() - 1 if step & (step - 1) == 0 else -1
        stages.append((inner, b, c, step, shift, side, at))
        blocks.append(laid.reshape(-1))
        at += laid.size
    heights = [height // max(sets, 1) for height in _heights(factors)]
    halves = 1 if all(map(_in_place, factors)) else 2
    return _Pass(
        xp.concatenate(blocks), xp.asarray(np.array(stages, dtype=np.int64)), sets, gap, heights[0], heights[-1],
        max(heights), halves,
    )  # fmt: skip
