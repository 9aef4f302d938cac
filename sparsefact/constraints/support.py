"""A fixed support: the positions that may be nonzero, given once and for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.constraints.base import Shape, is_sparse, nonzero_indices
from sparsefact.constraints.fixed import FixedPositions
from sparsefact.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["Support"]


class Support(FixedPositions):
    """The matrices that are zero outside a given set of positions.

    The positions are kept as a sorted CSR pattern, so that a large support with few entries stays small.

    Parameters
    ----------
    mask : (m, n) bool array or scipy.sparse matrix
        True where an entry may be nonzero; of a sparse matrix the nonzero entries count.

    Raises
    ------
    DtypeError
        If a dense mask is not boolean.
    ShapeError
        If it is not 2-D.
    ArgumentError
        If no entry is True.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> E = sf.Support(np.eye(3, dtype=bool))
    >>> E
    Support(<3 x 3, 3 nonzeros>)
    >>> E.project(np.ones((3, 3)))
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """

    __slots__ = ("_hash", "_indices", "_indptr", "_shape")
    _shape: Shape
    _indptr: NDArray[Any]
    _indices: NDArray[Any]
    _hash: int | None

    def __init__(self, mask: Any) -> None:
        if np.ndim(mask) != 2:
            raise ShapeError(f"mask has shape {np.shape(mask)}; a 2-D array (rows, columns) is expected, reshape it")
        if is_sparse(mask):
            rows, cols = nonzero_indices(mask)
            pattern = scipy.sparse.csr_array((np.ones(rows.size, dtype=bool), (rows, cols)), shape=mask.shape)
        else:
            array = np.asarray(mask)
            if array.dtype != np.bool_:
                raise DtypeError(
                    f"mask has dtype {array.dtype}; a dense mask is boolean, pass mask.astype(bool) or, for the "
                    "nonzero positions, mask != 0"
                )
            pattern = scipy.sparse.csr_array(array)
        if pattern.nnz == 0:
            raise ArgumentError(f"mask of shape {tuple(pattern.shape)} has no True entry; a support needs at least one")
        pattern.sort_indices()
        self._set((int(pattern.shape[0]), int(pattern.shape[1])), pattern.indptr, pattern.indices)

    def _set(self, shape: Shape, indptr: NDArray[Any], indices: NDArray[Any]) -> None:
        for array in (indptr, indices):
            array.flags.writeable = False
        for name, value in (("_shape", shape), ("_indptr", indptr), ("_indices", indices), ("_hash", None)):
            object.__setattr__(self, name, value)

    @classmethod
    def _from_csr(cls, shape: Shape, indptr: NDArray[Any], indices: NDArray[Any]) -> Support:
        self = cls.__new__(cls)
        self._set(shape, indptr, indices)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Support is immutable; make a new one instead of setting {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Support._from_csr, (self._shape, self._indptr, self._indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Support):
            return NotImplemented
        return (
            self._shape == other._shape
            and np.array_equal(self._indptr, other._indptr)
            and np.array_equal(self._indices, other._indices)
        )

    def __hash__(self) -> int:
        if self._hash is None:
            contents = (self._indptr.astype(np.int64).tobytes(), self._indices.astype(np.int64).tobytes())
            object.__setattr__(self, "_hash", hash((self._shape, *contents)))
        return self._hash  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"Support(<{self._shape[0]} x {self._shape[1]}, {self.nnz} nonzeros>)"

    @property
    def shape(self) -> Shape:
        """Rows and columns, (m, n)."""
        return self._shape

    @property
    def nnz(self) -> int:
        """How many entries may be nonzero."""
        return int(self._indices.size)

    @property
    def indptr(self) -> NDArray[Any]:
        """Where each row begins in `indices`, (m + 1,), read-only."""
        return self._indptr

    @property
    def indices(self) -> NDArray[Any]:
        """The columns, row by row and increasing in each, (nnz,), read-only."""
        return self._indices

    @property
    def T(self) -> Support:
        """The support of the transposed matrices."""
        pattern = scipy.sparse.csr_array(self.tocsr().T)
        pattern.sort_indices()
        return Support._from_csr((self._shape[1], self._shape[0]), pattern.indptr, pattern.indices)

    def tocsr(self) -> scipy.sparse.csr_array[Any]:
        """Return the pattern as a new boolean scipy.sparse CSR array."""
        data = np.ones(self.nnz, dtype=bool)
        return scipy.sparse.csr_array((data, self._indices.copy(), self._indptr.copy()), shape=self._shape)

    def _mask(self) -> NDArray[np.bool_]:
        mask = np.zeros(self._shape, dtype=bool)
        mask[self._rows(), self._indices] = True
        return mask

    def _rows(self) -> NDArray[np.intp]:
        return np.repeat(np.arange(self._shape[0]), np.diff(self._indptr))

    def contains(self, x: Any) -> bool:
        """Return whether the matrix `x`, dense or scipy.sparse, is zero off the support."""
        self._check(np.shape(x), "x")
        if not is_sparse(x):
            array = np.asarray(x)
            return bool(np.count_nonzero(array) == np.count_nonzero(array[self._rows(), self._indices]))
        rows, cols = nonzero_indices(x)
        inside = self.tocsr()[rows, cols] if rows.size else np.ones(0, dtype=bool)
        return bool(np.all(inside))
