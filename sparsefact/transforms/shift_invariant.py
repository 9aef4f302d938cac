"""Circulant and Toeplitz matrices as products of butterflies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import check_dtype as check_floating
from sparsefact.constraints.base import check_finite
from sparsefact.errors import ShapeError
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import common_dtype
from sparsefact.transforms.arguments import ANY, COMPLEX, check_dtype
from sparsefact.transforms.convolutions import circulant_stages, toeplitz_stages
from sparsefact.transforms.orders import prime_radices
from sparsefact.transforms.stages import LARGEST_BLOCK, Stage, assembled, real_part

__all__ = ["circulant", "toeplitz"]


def circulant(c: Any, *, dtype: Any = None) -> Factorization:
    """Return the circulant matrix with first column `c`: cyclic convolution with c, as `scipy.linalg.circulant`.

    It is ``F^-1 diag(F c) F`` with the Fourier matrix F, in 2 L factors for ``n = p_1 ... p_L``: the butterflies
    ``(p_1...p_{l-1}, p_l, p_l, p_{l+1}...p_L)`` of F^-1, whose last one has taken in the diagonal, then their mirror
    image; the permutations of F^-1 and F cancel. Complex factors have exactly these supports, a Kaleidoscope, and store
    ``2 n (p_1 + ... + p_L)`` entries. A real `c` gets real factors, with inner dimensions doubled (see `hartley`): as
    many multiplications, and real vectors stay real. A size with a prime factor above 256 is embedded as in `toeplitz`.

    Parameters
    ----------
    c : (n,) array
        The first column, at least one entry; real or complex, not modified.
    dtype : {"float32", "float64", "complex64", "complex128"}, optional
        The type of `c` unless given (float32 for half precision); a complex type asks for complex factors also when
        `c` is real.

    Returns
    -------
    Factorization
        n x n.

    Raises
    ------
    ShapeError
        `c` is not a vector, or is empty.
    DtypeError
        `c` does not hold floating numbers, or `dtype` is real and c is complex.
    NonFiniteError
        `c` holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> C = sf.transforms.circulant(np.array([1.0, 2.0, 0.0, 0.0]))
    >>> (C @ np.array([1.0, 0.0, 0.0, 1.0])).round(12) + 0.0
    array([3., 2., 0., 1.])
    >>> C.dtype
    dtype('float64')
    """
    column = _vector("c", c)
    number = _number(dtype, column)
    wide = _wide(column)
    n = wide.size
    if max(prime_radices(n)) > LARGEST_BLOCK:
        # row 0 is c_0, c_{n-1}, ..., c_1
        stages = toeplitz_stages(wide, np.concatenate([wide[:1], wide[:0:-1]]))
    else:
        stages = circulant_stages(wide)
    return _finished(stages, number, f"The circulant matrix of size {n} as F^-1 diag(F c) F.")


def toeplitz(c: Any, r: Any = None, *, dtype: Any = None) -> Factorization:
    """Return the Toeplitz matrix with first column `c` and first row `r`, as `scipy.linalg.toeplitz`.

    The m x n matrix is the upper left corner of a circulant matrix of size N >= m + n - 1 with prime factors 2, 3 and
    5: a selection of rows, the factors of `circulant`, a selection of columns. ``O((m + n) log(m + n))`` entries are
    stored, and a product costs as many multiplications.

    Parameters
    ----------
    c : (m,) array
        The first column, at least one entry; real or complex, not modified.
    r : (n,) array, optional
        The first row; its first entry is not used, the corner is ``c[0]``. Unless given it is the conjugate of `c`.
    dtype : {"float32", "float64", "complex64", "complex128"}, optional
        The common type of `c` and `r` unless given (float32 for half precision); a complex type asks for complex
        factors also when both are real.

    Returns
    -------
    Factorization
        m x n.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        As for `circulant`, for `c` or `r`.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> T = sf.transforms.toeplitz(np.array([1.0, 2.0]), np.array([1.0, 5.0, 6.0]))
    >>> T.todense().round(12) + 0.0
    array([[1., 5., 6.],
           [2., 1., 5.]])
    """
    column = _vector("c", c)
    row = column.conj() if r is None else _vector("r", r)
    number = _number(dtype, column, row)
    stages = toeplitz_stages(_wide(column), _wide(row))
    size = stages[0].shape[1]
    return _finished(
        stages, number, f"The {column.size}x{row.size} Toeplitz matrix, a corner of a circulant matrix of size {size}."
    )


def _vector(name: str, x: Any) -> NDArray[Any]:
    array = np.asarray(x)
    check_floating(name, array.dtype)
    if array.ndim != 1 or array.size == 0:
        raise ShapeError(f"{name} has shape {array.shape}; pass a vector with at least one entry")
    check_finite(name, array)
    return array


def _wide(x: NDArray[Any]) -> NDArray[Any]:
    """Return x in double precision: NumPy's own transform of its eigenvalues must not be the weak link."""
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def _number(dtype: Any, *arrays: NDArray[Any]) -> np.dtype[Any]:
    """Return the type of the factors: the arrays' own, or the one asked for."""
    own = common_dtype(array.dtype for array in arrays)
    if dtype is None:
        return own
    if own.kind == "c":
        return check_dtype(dtype, COMPLEX, ", but the matrix is complex")
    return check_dtype(dtype, ANY)


def _finished(stages: list[Stage], number: np.dtype[Any], said: str) -> Factorization:
    return assembled(real_part(stages) if number.kind == "f" else stages, number, said)
