"""A matrix that is known by a function of its entries, for what is too large to be written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Shape, check_dtype, check_shape
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError

__all__ = ["Entries", "check_block", "described"]

Function = Callable[[NDArray[np.intp], NDArray[np.intp]], Any]


@dataclass(frozen=True, eq=False)
class Entries:
    """A matrix given by a function of row and column numbers.

    `sparsefact.factorize` reads it block by block: panels of rows with `Hierarchical`, few rows and columns with
    `CrossApproximation`. It is never formed as a whole.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    dtype : dtype
        float32, float64, complex64 or complex128; what `f` returns is converted to it. float16 and bfloat16 are
        computed in float32.
    f : callable
        ``f(rows, cols)``, of two integer vectors, returns the array of shape ``(len(rows), len(cols))`` with the
        entries in these rows and columns.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        If the shape is not that of a matrix, the type is not computed with, or `f` cannot be called.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> n = 1 << 10
    >>> reverse = sf.transforms.bit_reversal(n)
    >>> A = sf.Entries((n, n), np.complex128, lambda i, j: np.exp(-2j * np.pi / n * (np.outer(i, reverse[j]) % n)))
    >>> F = sf.factorize(A, sf.Chain.butterfly(n))
    >>> len(F.factors), F.error < 1e-14
    (10, True)
    """

    shape: Shape
    dtype: np.dtype[Any]
    f: Function

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", check_shape(self.shape))
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            raise DtypeError(f"dtype={self.dtype!r} is not a type of numbers; pass for instance np.float32") from None
        check_dtype("Entries", dtype)
        object.__setattr__(self, "dtype", dtype)
        if not callable(self.f):
            raise ArgumentError(f"f={self.f!r} cannot be called; pass a function of two index vectors, f(rows, cols)")

    def block(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[Any]:
        """Return the entries in some rows and columns, checked.

        Parameters
        ----------
        rows, cols : integer vectors

        Returns
        -------
        (len(rows), len(cols)) array
            Of the type of this matrix.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            If the function returns another shape, what is not a number of this type, or NaN or infinity; the sentence
            names the block.
        """
        found = np.asarray(self.f(rows, cols))
        expected = (len(rows), len(cols))
        where = f"{described('row', rows)} and {described('column', cols)}"
        if found.shape != expected:
            raise ShapeError(
                f"f of Entries returned an array of shape {found.shape} for {where}; it must return the block of shape "
                f"{expected}, one row for each of rows and one column for each of cols"
            )
        if found.dtype.kind not in "biufc" and found.dtype.name != "bfloat16":
            raise DtypeError(f"f of Entries returned dtype {found.dtype} for {where}; it must return numbers")
        if found.dtype.kind == "c" and self.dtype.kind != "c":
            raise DtypeError(
                f"f of Entries returned dtype {found.dtype} for {where}, but the matrix was declared {self.dtype}; "
                "declare a complex dtype, or return the real part"
            )
        found = found.astype(self.dtype, copy=False)
        check_block("f of Entries returned", found, rows, cols)
        return found


def check_block(what: str, block: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp] | None) -> None:
    """Refuse NaN and infinity in the entries of some rows and columns (None for all), and say where."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(block.sum()):
            return
    bad = np.argwhere(~np.isfinite(block))
    if len(bad):
        at = int(rows[bad[0, 0]]), int(bad[0, 1] if cols is None else cols[bad[0, 1]])
        where = described("row", rows) + ("" if cols is None else f" and {described('column', cols)}")
        raise NonFiniteError(
            f"{what} {len(bad)} NaN or infinite entries in {where}, first at row {at[0]}, column {at[1]}; only finite "
            "numbers are allowed, replace or remove them"
        )


def described(noun: str, index: NDArray[np.intp]) -> str:
    """Return some row or column numbers in few words: all of them, a range, or how many between which."""
    if len(index) == 1:
        return f"{noun} {index[0]}"
    if len(index) <= 4:
        return f"{noun}s {', '.join(map(str, index.tolist()))}"
    low, high = int(index.min()), int(index.max())
    steps = np.unique(np.diff(index))
    if len(steps) == 1:
        step = int(steps[0])
        return f"{noun}s {low} to {high}" if abs(step) == 1 else f"{noun}s {low} to {high} in steps of {abs(step)}"
    return f"{len(index)} {noun}s between {low} and {high}"
