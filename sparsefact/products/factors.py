"""The three kinds of factor: scipy CSR arrays, `KroneckerFactor`, dense arrays; and what a product asks of each.

The arrays of a product's factors are all NumPy arrays, or all CuPy arrays on one GPU; there `CsrFactor` stands for CSR.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

import numpy as np
from scipy import sparse

from sparsefact.backends.registry import device_of, get_backend, on_gpu
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.errors import DeviceError, DtypeError, NonFiniteError, ShapeError
from sparsefact.products.csr_factor import CsrFactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["KroneckerFactor"]

_COMPUTED = ("float32", "float64", "complex64", "complex128")
_ON_HOST = np.empty(0)


class KroneckerFactor:
    """A matrix with a Kronecker support, held as the four-way array of its values.

    The matrix has shape ``(a*b*d, a*c*d)`` and the support ``I_a (x) 1_{b x c} (x) I_d``:
    entry ``((i*b + p)*d + q, (i*c + r)*d + q)`` is ``values[i, p, r, q]``, all others are zero.

    Parameters
    ----------
    values : array of shape (a, b, c, d)
        Real or complex numbers; float16 and bfloat16 become float32, integers float64. Not copied
        when the type is already right, and not to be changed afterwards. A CuPy array stays on its GPU.

    Raises
    ------
    ShapeError
        `values` is not four-dimensional.
    DtypeError
        `values` does not hold numbers of a type that is computed with.
    NonFiniteError
        `values` holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact import KroneckerFactor
    >>> butterfly = KroneckerFactor(np.array([[1.0, 1.0], [1.0, -1.0]]).reshape(1, 2, 2, 1).repeat(2, axis=3))
    >>> butterfly.toarray()
    array([[ 1.,  0.,  1.,  0.],
           [ 0.,  1.,  0.,  1.],
           [ 1.,  0., -1.,  0.],
           [ 0.,  1.,  0., -1.]])
    >>> butterfly @ np.arange(4.0)
    array([ 2.,  4., -2., -2.])
    """

    __slots__ = ("_values",)
    __array_ufunc__ = None
    __array_priority__ = 11.0

    def __init__(self, values: Any) -> None:
        values = as_array(values)
        if values.ndim != 4:
            raise ShapeError(
                f"values has shape {values.shape}; a Kronecker factor needs four axes (a, b, c, d), so reshape it"
            )
        self._values = _frozen(values.astype(common_dtype([values.dtype]), copy=False))
        _check_finite(self._values, "values")

    @classmethod
    def _of(cls, values: NDArray[Any]) -> KroneckerFactor:
        """Return the factor of values that are known to be right: on a GPU the host would wait for the check."""
        made = cls.__new__(cls)
        made._values = _frozen(values)
        return made

    @property
    def values(self) -> NDArray[Any]:
        """The values, a read-only array of shape (a, b, c, d)."""
        return self._values

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix, ``(a*b*d, a*c*d)``."""
        a, b, c, d = self._values.shape
        return a * b * d, a * c * d

    @property
    def support(self) -> KroneckerSupport:
        """Where the matrix may be nonzero."""
        return KroneckerSupport(*self._values.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        return self._values.dtype

    @property
    def nnz(self) -> int:
        """The size of the support, ``a*b*c*d``."""
        return self._values.size

    @property
    def nbytes(self) -> int:
        """The bytes held: the values, since the support needs none."""
        return self._values.nbytes

    @property
    def T(self) -> KroneckerFactor:
        """The transpose, a view of the same values."""
        return KroneckerFactor._of(self._values.transpose(0, 2, 1, 3))

    @property
    def H(self) -> KroneckerFactor:
        """The conjugate transpose."""
        return self.conj().T

    def conj(self) -> KroneckerFactor:
        """Return the complex conjugate (itself when real)."""
        return KroneckerFactor._of(self._values.conj()) if self._values.dtype.kind == "c" else self

    def astype(self, dtype: Any) -> KroneckerFactor:
        """Return the same matrix with values of another type."""
        return KroneckerFactor(self._values.astype(dtype, copy=False))

    def tocsr(self) -> sparse.csr_array[Any, Any] | CsrFactor:
        """Return a scipy CSR array, or a `CsrFactor` on a GPU; the whole support is stored, zeros included."""
        a, b, c, d = self._values.shape
        indices = (np.arange(a)[:, None, None] * c + np.arange(c)) * d + np.arange(d)[:, None]  # (a, d, c)
        indices = np.broadcast_to(indices[:, None], (a, b, d, c)).ravel()
        data = self._values.transpose(0, 1, 3, 2).reshape(-1).copy()
        indptr = np.arange(self.shape[0] + 1) * c
        if on_gpu(data):
            put = get_backend(data).asarray
            return CsrFactor(data, put(indices), put(indptr), self.shape)
        return sparse.csr_array((data, indices, indptr), shape=self.shape)

    def toarray(self) -> NDArray[Any]:
        """Return a dense array of shape `shape`."""
        a, b, c, d = self._values.shape
        dense: NDArray[Any] = get_backend(self._values).xp.zeros((a, b, d, a, c, d), dtype=self.dtype)
        i, q = np.arange(a)[:, None], np.arange(d)[None, :]
        dense[i, :, q, i, :, q] = self._values.transpose(0, 3, 1, 2)
        return dense.reshape(self.shape)

    def __matmul__(self, x: Any) -> NDArray[Any]:
        x = as_array(x)
        if x.dtype == object:
            return NotImplemented
        if x.ndim not in (1, 2) or x.shape[0] != self.shape[1]:
            raise ShapeError(
                f"x has shape {x.shape}; a {self.shape[0]}x{self.shape[1]} factor multiplies arrays of shape "
                f"({self.shape[1]},) or ({self.shape[1]}, k)"
            )
        if not type(x) is type(self._values) is np.ndarray:
            check_together(self._values, x)
        a, _, c, d = self._values.shape
        columns = x.shape[1] if x.ndim == 2 else 1
        blocks = x.reshape(a, c, d, columns)
        product: NDArray[Any] = self._values.transpose(0, 3, 1, 2) @ blocks.transpose(0, 2, 1, 3)
        return product.transpose(0, 2, 1, 3).reshape((self.shape[0], *x.shape[1:]))

    def __rmatmul__(self, x: Any) -> NDArray[Any]:
        x = as_array(x)
        if x.dtype == object:
            return NotImplemented
        if x.ndim not in (1, 2) or x.shape[-1] != self.shape[0]:
            raise ShapeError(
                f"x has shape {x.shape}; a {self.shape[0]}x{self.shape[1]} factor is multiplied from the left by "
                f"arrays of shape ({self.shape[0]},) or (k, {self.shape[0]})"
            )
        product: NDArray[Any] = self.T @ x.T
        return product.T

    def __repr__(self) -> str:
        return f"KroneckerFactor{self._values.shape}, {self.shape[0]}x{self.shape[1]} {self.dtype}"

    def __reduce__(self) -> tuple[Any, ...]:
        return KroneckerFactor, (self._values,)


Factor: TypeAlias = "sparse.csr_array[Any, Any] | CsrFactor | KroneckerFactor | NDArray[Any]"


def as_array(x: Any) -> Any:
    """Return x as an array, on the GPU if it is there."""
    return x if type(x) is np.ndarray or on_gpu(x) else np.asarray(x)


def is_dense(x: Any) -> TypeGuard[NDArray[Any]]:
    """Return whether a factor is a dense array."""
    return isinstance(x, np.ndarray) or on_gpu(x)


def check_together(values: Any, x: Any) -> None:
    """Refuse an operand that is not where the values of a factor are."""
    if on_gpu(values) or on_gpu(x):
        here, there = device_of(values), device_of(x)
        if here != there:
            move = "cupy.asarray(x)" if there == "cpu" else "x.get()" if here == "cpu" else f"to({there!r})"
            raise DeviceError(
                f"x is on {there!r} and the factors are on {here!r}; move one of them, with F.to({there!r}) or {move}"
            )


def moved(factor: Factor, device: str) -> Factor:
    """Return a factor with its arrays on a device, ``"cpu"`` or a GPU; itself when they are there."""
    if device_of(stored_values(factor)) == device:
        return factor
    backend = get_backend(device=device)

    def put(array: Any) -> Any:
        return backend.asarray(get_backend(array).to_host(array))

    if isinstance(factor, KroneckerFactor):
        return KroneckerFactor._of(put(factor.values))
    if is_dense(factor):
        return _frozen(put(factor))
    csr = cast("Any", factor)
    arrays = put(csr.data), put(csr.indices), put(csr.indptr)
    return _canonical(arrays, csr.shape) if device == "cpu" else CsrFactor(*arrays, csr.shape)


def is_sparse(x: Any) -> bool:
    """Return whether x is a scipy.sparse array or matrix."""
    return bool(sparse.issparse(x))


def common_dtype(dtypes: Iterable[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the one type of float32, float64, complex64, complex128 that holds all of `dtypes`."""
    found = list(dtypes)
    result = np.result_type(*(np.dtype(np.float32) if d.name in ("float16", "bfloat16") else d for d in found))
    if result.kind in "biu":
        result = np.dtype(np.float64)
    if result.name not in _COMPUTED:
        names = ", ".join(sorted({d.name for d in found}))
        raise DtypeError(f"factors have dtype {names}; allowed are {', '.join(_COMPUTED)}, so cast them with astype")
    return result


def as_factors(factors: Iterable[Any]) -> tuple[Factor, ...]:
    """Return what was given as factors of one type whose shapes chain, in canonical form and read-only."""
    found = [f if is_sparse(f) or isinstance(f, KroneckerFactor | CsrFactor) else as_array(f) for f in factors]
    if not found:
        raise ShapeError("factors is empty; a product needs at least one factor")
    for j, factor in enumerate(found):
        if len(factor.shape) != 2:
            raise ShapeError(f"factors[{j}] has shape {factor.shape}; every factor must be a matrix, with two axes")
    for j, (left, right) in enumerate(pairwise(found)):
        if left.shape[1] != right.shape[0]:
            raise ShapeError(
                f"factors[{j}] has shape {left.shape} and factors[{j + 1}] has shape {right.shape}; neighbours must "
                f"share their inner dimension, and {left.shape[1]} is not {right.shape[0]}"
            )
    dtype = common_dtype(f.dtype for f in found)
    device_of(*(_ON_HOST if is_sparse(f) else stored_values(f) for f in found))
    return tuple(_as_factor(f, dtype, f"factors[{j}]") for j, f in enumerate(found))


def _as_factor(factor: Any, dtype: np.dtype[Any], name: str) -> Factor:
    if isinstance(factor, KroneckerFactor | CsrFactor):
        return factor if factor.dtype == dtype else factor.astype(dtype)
    if not is_sparse(factor):
        dense = _frozen(factor.astype(dtype, copy=False))
        _check_finite(dense, name)
        return dense
    csr = factor if isinstance(factor, sparse.csr_array) else sparse.csr_array(factor)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    stored = int(csr.indptr[-1])
    data = _frozen(csr.data[:stored].astype(dtype, copy=False))
    _check_finite(data, name)
    return _canonical((data, csr.indices[:stored], csr.indptr), csr.shape)


def _canonical(arrays: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], shape: Any) -> sparse.csr_array[Any, Any]:
    """Return a read-only CSR array of what is in canonical format."""
    data, indices, indptr = (_frozen(array) for array in arrays)
    result = sparse.csr_array((data, indices, indptr), shape=shape)
    result.has_canonical_format = True
    return result


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    if on_gpu(array):  # CuPy has no read-only arrays
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def _check_finite(values: NDArray[Any], name: str) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"{name} holds NaN or infinity; only finite numbers can be multiplied, so remove them first"
        )


def stored_values(factor: Factor) -> NDArray[Any]:
    """Return the array of the entries that a factor stores."""
    if isinstance(factor, KroneckerFactor):
        return factor.values
    return factor if is_dense(factor) else cast("NDArray[Any]", cast("Any", factor).data)


def with_values(factor: Factor, values: NDArray[Any]) -> Factor:
    """Return a factor of the same support with other stored entries."""
    if isinstance(factor, KroneckerFactor):
        return KroneckerFactor(values)
    if is_dense(factor):
        return values
    if isinstance(factor, CsrFactor):
        return CsrFactor(values, factor.indices, factor.indptr, factor.shape)
    csr = cast("Any", factor)
    return sparse.csr_array((values, csr.indices, csr.indptr), shape=csr.shape)


def factor_nnz(factor: Factor) -> int:
    """Return how many entries a factor stores: its support's size, whatever the values."""
    return stored_values(factor).size


def factor_nbytes(factor: Factor) -> int:
    """Return the bytes of the arrays that hold a factor, indices included."""
    found = cast("Any", factor)
    if not is_sparse(factor):
        return int(found.nbytes)
    return int(found.data.nbytes + found.indices.nbytes + found.indptr.nbytes)


def dense_factor(factor: Factor) -> NDArray[Any]:
    """Return a factor as a dense array (a dense factor itself, not a copy)."""
    return factor if is_dense(factor) else cast("NDArray[Any]", cast("Any", factor).toarray())


def transposed(factor: Factor) -> Factor:
    """Return the transpose in the same layout; a sparse factor is converted back to CSR."""
    if is_dense(factor) or isinstance(factor, KroneckerFactor):
        return factor.T
    return cast("Factor", cast("Any", factor).T.tocsr())


def conjugated(factor: Factor) -> Factor:
    """Return the complex conjugate."""
    return factor.conj() if factor.dtype.kind == "c" else factor


def multiply(factor: Factor, x: NDArray[Any]) -> NDArray[Any]:
    """Return ``factor @ x`` for a vector or a matrix of columns."""
    return cast("NDArray[Any]", factor @ x)


def multiply_transposed(factor: Factor, x: NDArray[Any]) -> NDArray[Any]:
    """Return ``factor.T @ x``; no transpose is built."""
    return cast("NDArray[Any]", factor.T @ x)
