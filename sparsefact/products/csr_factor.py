"""A CSR matrix on a GPU: three arrays and a shape. What scipy.sparse is for factors on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefact.backends.registry import get_backend

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CsrFactor"]


class CsrFactor:
    """A sparse factor whose arrays lie on a GPU.

    CuPy's own sparse matrices need cuSPARSE and add up in an order of their own; this one multiplies by the package's
    kernels, with the same bits on every run. It is immutable.

    Parameters
    ----------
    data, indices, indptr : arrays on one device
        As scipy.sparse has them, in canonical format: the indices of a row ascend. They are trusted.
    shape : (int, int)

    Attributes
    ----------
    data, indices, indptr : arrays
        Indices are 32 bits long.
    shape : (int, int)

    Examples
    --------
    Any array module will do; on a machine without a GPU:

    >>> import numpy as np
    >>> from sparsefact.products.csr_factor import CsrFactor
    >>> S = CsrFactor.from_dense(np.array([[0.0, 2.0], [3.0, 4.0]]))
    >>> S.T.toarray()
    array([[0., 3.],
           [2., 4.]])
    >>> S @ np.eye(2)
    array([[0., 2.],
           [3., 4.]])
    """

    __slots__ = ("data", "indices", "indptr", "shape")
    __array_ufunc__ = None
    __array_priority__ = 11.0

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.data = data
        self.indices = indices.astype(np.int32, copy=False)
        self.indptr = indptr.astype(np.int32, copy=False)
        self.shape = int(shape[0]), int(shape[1])

    @classmethod
    def from_dense(cls, matrix: Any) -> CsrFactor:
        """Return the entries of a matrix that are not zero; the host waits to learn how many there are."""
        xp = get_backend(matrix).xp
        rows, columns = xp.nonzero(matrix)
        return cls(matrix[rows, columns], columns, _starts(xp, rows, matrix.shape[0]), matrix.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        found: np.dtype[Any] = self.data.dtype
        return found

    @property
    def nnz(self) -> int:
        """How many entries are stored."""
        return int(self.data.size)

    @property
    def nbytes(self) -> int:
        """The bytes of values and indices."""
        return int(self.data.nbytes + self.indices.nbytes + self.indptr.nbytes)

    @property
    def T(self) -> CsrFactor:
        """The transpose, as CSR again."""
        xp = get_backend(self.data).xp
        # a stable order keeps the rows of a column ascending
        order = xp.argsort(self.indices, kind="stable")
        columns = self.indices[order]
        starts = _starts(xp, columns, self.shape[1])
        return CsrFactor(self.data[order], self._rows(xp)[order], starts, self.shape[::-1])

    def conj(self) -> CsrFactor:
        """Return the complex conjugate."""
        return CsrFactor(self.data.conj(), self.indices, self.indptr, self.shape)

    def astype(self, dtype: Any) -> CsrFactor:
        """Return the same matrix with values of another type."""
        return CsrFactor(self.data.astype(dtype, copy=False), self.indices, self.indptr, self.shape)

    def tocsr(self) -> CsrFactor:
        """Return the factor itself."""
        return self

    def toarray(self) -> NDArray[Any]:
        """Return a dense array on the same device."""
        xp = get_backend(self.data).xp
        dense: NDArray[Any] = xp.zeros(self.shape, dtype=self.dtype)
        dense[self._rows(xp), self.indices] = self.data
        return dense

    def _rows(self, xp: Any) -> Any:
        """Return the row of every entry."""
        return xp.searchsorted(self.indptr, xp.arange(self.nnz, dtype=np.int32), side="right") - 1

    def __matmul__(self, x: Any) -> NDArray[Any]:
        columns = x if x.ndim == 2 else x[:, None]
        dtype = np.result_type(self.dtype, columns.dtype)
        own = dtype if self.dtype.kind == "c" else np.empty(0, dtype).real.dtype
        chain = get_backend(self.data).prepare_chain([self], own)
        product = chain.apply(columns.astype(dtype, copy=False))
        return product if x.ndim == 2 else product[:, 0]

    def __repr__(self) -> str:
        return f"CsrFactor({self.shape[0]}x{self.shape[1]} {self.dtype}, nnz={self.nnz})"


def _starts(xp: Any, sorted_indices: Any, count: int) -> Any:
    """Return where each of `count` values begins among sorted ones, and the end."""
    return xp.searchsorted(sorted_indices, xp.arange(count + 1, dtype=sorted_indices.dtype), side="left")
