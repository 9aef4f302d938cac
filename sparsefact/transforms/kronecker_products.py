"""Kronecker products of small matrices, one factor for each, and the Hadamard transform as the best known of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from sparsefact.constraints.base import as_matrix, check_int
from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import common_dtype
from sparsefact.transforms.arguments import ANY, check_dtype, check_norm, norm_scale
from sparsefact.transforms.stages import Stage, assembled, scaled_rows

__all__ = ["hadamard", "kronecker"]


def kronecker(matrices: Iterable[Any], *, dtype: Any = None) -> Factorization:
    """Return the Kronecker product ``A_1 (x) A_2 (x) ... (x) A_L`` as one factor for each matrix.

    With A_l of shape m_l x n_l, factor l has the support ``(n_1...n_{l-1}, m_l, n_l, m_{l+1}...m_L)``, and the values
    of A_l in every block. A product with a vector costs as many multiplications as there are stored entries, the sum
    of ``n_1...n_l m_l...m_L``, instead of the product of all sizes.

    Parameters
    ----------
    matrices : sequence of 2-D arrays
        At least one, each with at least one row and one column; not modified.
    dtype : {"float32", "float64", "complex64", "complex128"}, optional
        The common type of the matrices unless given (float32 for half precision).

    Returns
    -------
    Factorization
        Of shape (m_1...m_L, n_1...n_L).

    Raises
    ------
    ArgumentError
        No matrix.
    ShapeError
        One of them is not a matrix, or is empty.
    DtypeError
        One of them does not hold floating numbers, or `dtype` is real and one is complex.
    NonFiniteError
        NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A, B = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.5, 0.0]])
    >>> F = sf.transforms.kronecker([A, B])
    >>> bool(np.array_equal(F.todense(), np.kron(A, B)))
    True
    >>> [f.values.shape for f in F.factors]
    [(1, 2, 2, 1), (2, 1, 3, 1)]
    """
    found = [as_matrix(f"matrices[{j}]", matrix) for j, matrix in enumerate(_listed(matrices))]
    if not found:
        raise ArgumentError("matrices is empty; pass at least one matrix")
    for j, matrix in enumerate(found):
        if 0 in matrix.shape:
            raise ShapeError(f"matrices[{j}] has shape {matrix.shape}; pass matrices with at least one row and column")
    number = common_dtype(matrix.dtype for matrix in found)
    if dtype is not None:
        number = check_dtype(dtype, ANY if number.kind == "f" else ANY[2:], _complex_clause(number, "matrices"))
    stages: list[Stage] = []
    before, after = 1, math.prod(matrix.shape[0] for matrix in found)
    for matrix in found:
        m, n = matrix.shape
        after //= m
        stages.append(np.broadcast_to(matrix[None, :, :, None], (before, m, n, after)))
        before *= n
    sizes = " (x) ".join(f"{matrix.shape[0]}x{matrix.shape[1]}" for matrix in found)
    return assembled(stages, number, f"The Kronecker product {sizes}, one factor for each matrix.")


def hadamard(n: int, *, norm: str | None = None, dtype: Any = "float64") -> Factorization:
    """Return the Hadamard transform of size n in Sylvester's order, as `scipy.linalg.hadamard`.

    For ``n = 2^L`` it is the L-fold Kronecker product of ``[[1, 1], [1, -1]]``: factor l has the support
    ``(2^(l-1), 2, 2, n / 2^l)``, a butterfly without any permutation. Stored are ``2 n log2(n)`` entries, all 1 or -1
    (but for the first factor when there is a `norm`), and a product costs as many additions.

    Parameters
    ----------
    n : int
        A power of two.
    norm : {None, "backward", "ortho", "forward"}, optional
        No factor (None and "backward"), ``1/sqrt(n)`` (the transform is then its own inverse), or ``1/n``.
    dtype : {"float64", "float32", "complex128", "complex64"}, optional

    Returns
    -------
    Factorization
        n x n, symmetric.

    Raises
    ------
    ArgumentError
        `n` is not a power of two, or `norm` is unknown.
    DtypeError
        `dtype` is none of the four.

    Examples
    --------
    >>> import sparsefact as sf
    >>> sf.transforms.hadamard(4).todense()
    array([[ 1.,  1.,  1.,  1.],
           [ 1., -1.,  1., -1.],
           [ 1.,  1., -1., -1.],
           [ 1., -1., -1.,  1.]])
    """
    n = check_int("n", n)
    if n & (n - 1):
        below = 1 << (n.bit_length() - 1)
        raise ArgumentError(
            f"n={n} is not a power of two, the only sizes of this transform; pass for instance {below} or {2 * below}"
        )
    norm = check_norm(norm)
    number = check_dtype(dtype, ANY)
    block = np.array([[1.0, 1.0], [1.0, -1.0]])[None, :, :, None]
    stages: list[Stage] = [
        np.broadcast_to(block, (1 << level, 2, 2, n >> (level + 1))) for level in range(n.bit_length() - 1)
    ] or [np.ones((1, 1, 1, 1))]
    stages[0] = scaled_rows(stages[0], norm_scale(norm, n))
    return assembled(stages, number, f"The Hadamard transform of size {n}, written down in closed form.")


def _listed(matrices: Any) -> list[Any]:
    try:
        return list(matrices)
    except TypeError:
        raise ArgumentError(f"matrices is of type {type(matrices).__name__}; pass a sequence of matrices") from None


def _complex_clause(number: np.dtype[Any], name: str) -> str:
    return f", but {name} has complex entries" if number.kind == "c" else ""
