"""Factors that multiply like the matrix they stand for, through the same methods as scipy's ``LinearOperator``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sparsefact.backends.registry import device_of, get_backend
from sparsefact.errors import ArgumentError, DtypeError, ShapeError
from sparsefact.products import factors as _factors
from sparsefact.products.plan import Direction
from sparsefact.products.plan_choice import Plans

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from sparsefact.products.factors import Factor
    from sparsefact.products.plan import Plan

__all__ = ["ProductOperator"]


class ProductOperator:
    """What `sparsefact.Factorization` is as an operator: its factors, their sizes and every kind of product.

    Parameters
    ----------
    factors : sequence of scipy.sparse arrays, KroneckerFactor or 2-D arrays
        Left to right, neighbours sharing their inner dimension; see `sparsefact.Factorization`.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        As for `sparsefact.Factorization`.
    """

    __slots__ = ("__weakref__", "_direction", "_dtype", "_factors", "_plans", "_shape")
    __array_ufunc__ = None
    __array_priority__ = 12.0

    def __init__(self, factors: Iterable[Any]) -> None:
        found = _factors.as_factors(factors)
        self._factors = found
        # asked for by every product, and small products are many
        self._shape = int(found[0].shape[0]), int(found[-1].shape[1])
        self._dtype = found[0].dtype
        # what multiplies is `_direction` of the factors that the plans are for
        self._plans, self._direction = Plans(found), Direction()

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors, left to right: CSR arrays, `KroneckerFactor` or dense arrays; their arrays are read-only.

        On a GPU a CSR factor is a `sparsefact.products.csr_factor.CsrFactor`.
        """
        return self._factors

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (m, n) of the product."""
        return self._shape

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of every factor."""
        return self._dtype

    @property
    def device(self) -> str:
        """Where the factors are: ``"cpu"``, or ``"cuda:0"`` and so on when their arrays are CuPy arrays."""
        return device_of(_factors.stored_values(self._factors[0]))

    @property
    def nnz(self) -> int:
        """How many entries the factors store in all, explicit zeros included."""
        return sum(_factors.factor_nnz(f) for f in self._factors)

    @property
    def density(self) -> float:
        """``nnz / (m * n)``: what is stored, relative to the dense matrix (0 when that is empty)."""
        m, n = self.shape
        return self.nnz / (m * n) if m and n else 0.0

    @property
    def nbytes(self) -> int:
        """The bytes of the factors as they are held in memory: values and indices."""
        return sum(_factors.factor_nbytes(f) for f in self._factors)

    def __matmul__(self, x: Any) -> Any:
        if isinstance(x, ProductOperator):
            return type(self)((*self._factors, *x._factors))
        array = _as_operand(x, self._dtype)
        if array is None:
            return NotImplemented
        m, n = self._shape
        if array.ndim not in (1, 2) or array.shape[0] != n:
            raise ShapeError(f"x has shape {array.shape}; F @ x with F {m}x{n} needs shape ({n},) or ({n}, k)")
        return self._apply(array)

    def __rmatmul__(self, x: Any) -> Any:
        array = _as_operand(x, self.dtype)
        if array is None:
            return NotImplemented
        m, n = self.shape
        if array.ndim not in (1, 2) or array.shape[-1] != m:
            raise ShapeError(f"x has shape {array.shape}; x @ F with F {m}x{n} needs shape ({m},) or (k, {m})")
        return self._apply(array.T, transposed=True, rows_first=True).T

    def plan(self, *, batch: int = 1, dtype: Any = None, adjoint: bool = False, transposed: bool = False) -> Plan:
        """Return how a product is computed; ``print(F.plan(batch=64).explain())`` shows it.

        Every product asks for its plan itself, so there is no need to call this, except to see or to keep it.

        Parameters
        ----------
        batch : int, optional
            Columns of the operand; sizes within a factor of two share a plan.
        dtype : dtype, optional
            Of the operand, by default that of the factors.
        adjoint : bool, optional
            Of ``F.H @ X``, which `rmatvec` and `rmatmat` compute, instead of ``F @ X``.
        transposed : bool, optional
            Of ``F.T @ X``, which is also how ``X.T @ F`` is computed.

        Returns
        -------
        Plan
            With `explain`, `kernel`, `groups`, `flops`, `bytes`, `stored_bytes`. Nothing is merged before it is used.

        Raises
        ------
        DtypeError
            `dtype` is no type of numbers.
        ArgumentError
            `batch` is negative, or both `adjoint` and `transposed` are asked for.

        Examples
        --------
        >>> import numpy as np
        >>> import sparsefact as sf
        >>> F = sf.Factorization([sf.KroneckerFactor(np.ones((2**k, 2, 2, 2 ** (9 - k)))) for k in range(10)])
        >>> plan = F.plan(batch=128, dtype=np.float32)
        >>> plan.kernel, plan.flops < 2 * 1024 * 1024 * 128
        ('tile', True)
        """
        if adjoint and transposed:
            raise ArgumentError(
                "adjoint and transposed are both True; a plan has one direction, so ask for one of them"
            )
        asked = _factors.common_dtype([self.dtype if dtype is None else np.result_type(self.dtype, dtype)])
        return self._plan(int(batch), asked, adjoint or transposed, adjoint)

    def _plan(self, batch: int, dtype: np.dtype[Any], transposed: bool, conjugated: bool) -> Plan:
        direction = self._direction
        if transposed or conjugated:
            direction = direction.then(transposed, conjugated and self.dtype.kind == "c")
        return self._plans.get(batch, dtype, direction)

    def _apply(
        self, x: NDArray[Any], transposed: bool = False, conjugated: bool = False, rows_first: bool = False
    ) -> NDArray[Any]:
        columns = x if x.ndim == 2 else x[:, None]
        found = self._plan(columns.shape[1], x.dtype, transposed, conjugated).apply(columns, rows_first=rows_first)
        return found if x.ndim == 2 else found[:, 0]

    def __mul__(self, scalar: Any) -> Self:
        if not isinstance(scalar, int | float | complex | np.number):
            return NotImplemented
        first = self._factors[0]
        scaled = _factors.with_values(first, _factors.stored_values(first) * scalar)
        return type(self)((scaled, *self._factors[1:]))

    __rmul__ = __mul__

    def matvec(self, x: Any) -> NDArray[Any]:
        """Return ``F @ x`` for a vector.

        Parameters
        ----------
        x : array of shape (n,) or (n, 1)

        Returns
        -------
        array of shape (m,) or (m, 1)
            Of the common type of the factors and `x`.

        Raises
        ------
        ShapeError
            `x` has another shape.
        """
        return self._apply(self._vector(x, self.shape[1], "matvec"))

    def rmatvec(self, x: Any) -> NDArray[Any]:
        """Return ``F.H @ x`` for a vector: the adjoint, so complex factors are conjugated.

        Parameters
        ----------
        x : array of shape (m,) or (m, 1)

        Returns
        -------
        array of shape (n,) or (n, 1)

        Raises
        ------
        ShapeError
            `x` has another shape.
        """
        return self._adjoint(self._vector(x, self.shape[0], "rmatvec"))

    def matmat(self, x: Any) -> NDArray[Any]:
        """Return ``F @ x`` for a matrix of columns.

        Parameters
        ----------
        x : array or scipy.sparse array of shape (n, k)

        Returns
        -------
        array of shape (m, k)
            Dense in either case.

        Raises
        ------
        ShapeError
            `x` has another shape.
        """
        return self._apply(self._matrix(x, self.shape[1], "matmat"))

    def rmatmat(self, x: Any) -> NDArray[Any]:
        """Return ``F.H @ x`` for a matrix of columns.

        Parameters
        ----------
        x : array or scipy.sparse array of shape (m, k)

        Returns
        -------
        array of shape (n, k)
            Dense in either case.

        Raises
        ------
        ShapeError
            `x` has another shape.
        """
        return self._adjoint(self._matrix(x, self.shape[0], "rmatmat"))

    def _adjoint(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._apply(x, transposed=True, conjugated=True)

    def _vector(self, x: Any, length: int, verb: str) -> NDArray[Any]:
        array = self._operand(x, verb)
        if array.shape not in ((length,), (length, 1)):
            raise ShapeError(
                f"x has shape {array.shape}; {verb} of a {self.shape[0]}x{self.shape[1]} product needs shape "
                f"({length},) or ({length}, 1)"
            )
        return array

    def _matrix(self, x: Any, length: int, verb: str) -> NDArray[Any]:
        array = self._operand(x, verb)
        if array.ndim != 2 or array.shape[0] != length:
            raise ShapeError(
                f"x has shape {array.shape}; {verb} of a {self.shape[0]}x{self.shape[1]} product needs shape "
                f"({length}, k)"
            )
        return array

    def _operand(self, x: Any, verb: str) -> NDArray[Any]:
        array = _as_operand(x, self.dtype)
        if array is None:
            raise DtypeError(f"x is of type {type(x).__name__}; {verb} needs an array of numbers")
        return array

    def todense(self) -> NDArray[Any]:
        """Return the product as a new dense array of shape (m, n), multiplied in the factors' own type."""
        first, last = self._factors[0], self._factors[-1]
        m, n = self.shape
        counts = [_factors.factor_nnz(f) for f in self._factors]
        if len(counts) == 1:
            return _factors.dense_factor(first).copy()
        if sum(counts[:-1]) * n <= sum(counts[1:]) * m:
            x = _factors.dense_factor(last)
            for factor in reversed(self._factors[:-1]):
                x = _factors.multiply(factor, x)
            return x
        x = _factors.dense_factor(first).T
        for factor in self._factors[1:]:
            x = _factors.multiply_transposed(factor, x)
        found: NDArray[Any] = get_backend(x).xp.ascontiguousarray(x.T)
        return found

    def toarray(self) -> NDArray[Any]:
        """Return the product as a new dense array, as `todense`."""
        return self.todense()


def _as_operand(x: Any, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return x as a dense array of the common type, or None when it is no array at all."""
    if type(x) is np.ndarray and x.dtype == dtype:
        return x
    array = x.toarray() if _factors.is_sparse(x) else _factors.as_array(x)
    if array.dtype == object:
        return None
    if array.dtype.kind not in "biufc":
        if array.dtype.name != "bfloat16":
            raise DtypeError(f"x has dtype {array.dtype}; a product multiplies numbers, so cast x with astype")
        array = array.astype(np.float32)
    cast: NDArray[Any] = array.astype(np.result_type(dtype, array.dtype), copy=False)
    return cast
