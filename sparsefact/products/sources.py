"""Matrices that are read in parts: memory-mapped files, linear operators and functions of the entries.

A `Source` answers two questions, which is all that algorithms for large matrices ask: the rows of some residues, and
the entries in some rows and columns. It counts the entries that it reads.
"""

from __future__ import annotations

import copy
import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Shape, check_dtype
from sparsefact.errors import ArgumentError, DtypeError, ShapeError
from sparsefact.products.entries import Entries, check_block

__all__ = ["Source", "as_source", "from_array"]

Index = NDArray[np.intp]

# Bytes of unit vectors that are given to an operator at once, and of entries when all of them are looked at.
_UNITS, _PANEL = 1 << 26, 1 << 26


class Source:
    """A matrix that is read in parts; `kind` is what it is called in sentences.

    Attributes
    ----------
    shape : (int, int)
    dtype : dtype
        What is computed with: float16 and bfloat16 are read as float32.
    entries_read : int
    """

    kind = "matrix"
    # whether an entry costs as much as its whole row or column
    whole_lines = False

    def __init__(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        self._shape = (int(shape[0]), int(shape[1]))
        self.dtype = (dtype if dtype.itemsize > 2 else np.dtype(np.float32)).newbyteorder("=")
        self._transposed = False
        self.entries_read = 0

    @property
    def shape(self) -> Shape:
        """Rows and columns."""
        return self._shape[::-1] if self._transposed else self._shape

    @property
    def size(self) -> int:
        """How many entries there are."""
        return math.prod(self._shape)

    @property
    def T(self) -> Source:
        """The transpose, with a count of its own."""
        other = copy.copy(self)
        other._transposed, other.entries_read = not self._transposed, 0
        return other

    def block(self, rows: Index, cols: Index | None = None) -> NDArray[Any]:
        """Return the entries in some rows and columns (None: all) as a new array, finite.

        Raises
        ------
        NonFiniteError
            If there is NaN or infinity among them; the sentence names the block.
        """
        found = self._read(cols, rows).T if self._transposed else self._read(rows, cols)
        found = np.ascontiguousarray(found, dtype=self.dtype)
        check_block(f"A, a {self.kind}, holds", found, rows, cols)
        return found

    def residue_rows(self, apart: int, start: int, stop: int) -> NDArray[Any]:
        """Return the rows whose residue mod `apart` is in a range, an array (m / apart, stop - start, n).

        It may be a view, and hold NaN: `check_rows` says so.
        """
        rows = np.arange(self.shape[0]).reshape(-1, apart)[:, start:stop]
        return self.block(rows.reshape(-1)).reshape(*rows.shape, -1)

    def check_rows(self, panel: NDArray[Any], apart: int, start: int, stop: int) -> None:
        """Refuse NaN and infinity in what `residue_rows` returned, and say in which rows."""
        rows = np.arange(self.shape[0]).reshape(-1, apart)[:, start:stop].reshape(-1)
        check_block(f"A, a {self.kind}, holds", panel.reshape(len(rows), -1), rows, None)

    def release(self) -> None:
        """Let go of memory that only repeats what is stored elsewhere."""

    def largest(self) -> float:
        """Return the largest magnitude; reads everything."""
        m, n = self.shape
        step = max(1, _PANEL // (n * self.dtype.itemsize))
        found = 0.0
        for start in range(0, m, step):
            found = max(found, float(abs(self.block(np.arange(start, min(m, start + step)))).max(initial=0)))
            self.release()
        return found

    def _read(self, rows: Index | None, cols: Index | None) -> NDArray[Any]:
        """Return a block of the matrix before it was transposed; one of rows and cols may be None, for all."""
        raise NotImplementedError


class _ArraySource(Source):
    """An array; the pages of a memory-mapped one are given back after use."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__((array.shape[0], array.shape[1]), array.dtype)
        self._array = np.asarray(array)
        self.kind = "memory-mapped array" if isinstance(array, np.memmap) else "matrix"
        self._map = _releasable(array)

    def _read(self, rows: Index | None, cols: Index | None) -> NDArray[Any]:
        found: NDArray[Any]
        if rows is None or cols is None:
            found = self._array[:, cols] if rows is None else self._array[rows]
        else:
            found = self._array[np.ix_(rows, cols)]
        self.entries_read += found.size
        return found

    def residue_rows(self, apart: int, start: int, stop: int) -> NDArray[Any]:
        """Return the rows whose residue mod `apart` is in a range, a view where the type allows."""
        array = self._array.T if self._transposed else self._array
        panel = array.reshape(-1, apart, array.shape[1])[:, start:stop]
        self.entries_read += panel.size
        return panel.astype(self.dtype, copy=False)

    def largest(self) -> float:
        """Return the largest magnitude; reads everything."""
        m, n = self._array.shape
        step = max(1, _PANEL // (n * self._array.itemsize))
        found = 0.0
        for start in range(0, m, step):
            part = self._array[start : start + step]
            ends = (abs(part).max(),) if part.dtype.kind == "c" else (part.max(), -part.min())
            found = max(found, *(float(end) for end in ends))
            self.entries_read += part.size
            self.release()
        return found

    def release(self) -> None:
        """Give the pages of the file back; they are read again when needed."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


class _EntriesSource(Source):
    kind = "sparsefact.Entries"

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries.shape, entries.dtype)
        self._entries = entries

    def _read(self, rows: Index | None, cols: Index | None) -> NDArray[Any]:
        m, n = self._shape
        found = self._entries.block(np.arange(m) if rows is None else rows, np.arange(n) if cols is None else cols)
        self.entries_read += found.size
        return found


class _OperatorSource(Source):
    """A linear operator: row i is the conjugate of ``A^H e_i``, column j is ``A e_j``."""

    whole_lines = True

    def __init__(self, operator: Any) -> None:
        dtype = np.dtype(operator.dtype)
        check_dtype("A", dtype)
        super().__init__(operator.shape, dtype)
        self.kind = type(operator).__name__
        self._operator = operator
        self._require_adjoint()

    def _require_adjoint(self) -> None:
        try:
            self._operator.rmatvec(np.zeros(self._shape[0], dtype=self.dtype))
        except NotImplementedError:
            raise ArgumentError(
                f"A is a {self.kind} without rmatvec, which gives its rows; define rmatvec, x -> A^H x, or pass the "
                "matrix itself, A @ np.eye(n)"
            ) from None

    def _read(self, rows: Index | None, cols: Index | None) -> NDArray[Any]:
        m, n = self._shape
        if rows is not None and (cols is None or len(rows) <= len(cols)):
            self.entries_read += len(rows) * n
            lines = self._lines(self._operator.rmatmat, rows, m).conj().T
            return lines if cols is None else lines[:, cols]
        assert cols is not None
        self.entries_read += len(cols) * m
        lines = self._lines(self._operator.matmat, cols, n)
        return lines if rows is None else lines[rows]

    def _lines(self, apply: Any, numbers: Index, length: int) -> NDArray[Any]:
        """Return what the operator or its adjoint makes of some unit vectors, as columns."""
        step = max(1, _UNITS // (length * self.dtype.itemsize))
        parts = []
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            units = np.zeros((length, len(some)), dtype=self.dtype)
            units[some, np.arange(len(some))] = 1
            part = np.asarray(apply(units))
            if part.dtype.kind == "c" and self.dtype.kind != "c":
                raise DtypeError(
                    f"A is a {self.kind} of dtype {self.dtype}, but multiplies to {part.dtype}; give it a complex dtype"
                )
            parts.append(part.astype(self.dtype, copy=False))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def as_source(A: Any) -> Source | None:
    """Return what reads a matrix in parts, or None for an ordinary array, which need not be.

    Raises
    ------
    DtypeError, ShapeError, ArgumentError
        If it holds no numbers, is not two-dimensional, or is an operator without adjoint.
    """
    if isinstance(A, Entries):
        return _EntriesSource(A)
    if isinstance(A, np.memmap):
        check_dtype("A", A.dtype)
        if A.ndim != 2:
            raise ShapeError(f"A has shape {A.shape}; a 2-D array (rows, columns) is expected, reshape it")
        return _ArraySource(A)
    if all(hasattr(A, name) for name in ("matmat", "rmatmat", "rmatvec", "dtype")) and len(A.shape) == 2:
        return _OperatorSource(A)
    return None


def from_array(array: NDArray[Any]) -> Source:
    """Return what reads an array in memory in parts."""
    return _ArraySource(array)


def _releasable(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the memory map whose pages can be given back: not a private one, whose changes are nowhere else."""
    found = getattr(array, "_mmap", None)
    shared = getattr(array, "mode", None) in ("r", "r+", "w+")
    return found if shared and isinstance(found, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
