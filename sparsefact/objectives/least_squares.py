"""Least squares over a matrix of coefficients, from samples that need not be in memory.

    f(W) = 1/2 ||X W - Y||_F^2

Symbols: X (m, p) samples, Y (m, n) targets, W (p, n) the unknown, G = X^H X, C = X^H Y.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Shape, check_dtype, check_finite, check_int, is_sparse
from sparsefact.errors import DtypeError, ShapeError
from sparsefact.objectives.protocol import Smooth, module_of
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["LeastSquares"]

# Entries of the largest Gram matrix that is formed without being asked for, and those of one chunk of rows.
_GRAM_ENTRIES = 1 << 26
_CHUNK_ENTRIES = 1 << 22


@dataclass(frozen=True, eq=False)
class LeastSquares(Smooth):
    """Half the squared Frobenius error of a linear model, read in chunks of rows.

    Parameters
    ----------
    X : (m, p) array
        Samples, for instance a memory map; read some rows at a time.
    Y : (m, n) array
        Targets, of the dtype of `X`.
    chunk : int, optional
        Rows that are read together; some 32 MB unless given.

    Raises
    ------
    ShapeError, DtypeError
        If the arrays are not matrices with as many rows, of one floating or complex type.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X, truth = rng.standard_normal((60, 20)), sf.TopK(nnz=12).project(rng.standard_normal((20, 5)))
    >>> bool(np.allclose(sf.minimize(sf.LeastSquares(X, X @ truth), sf.TopK(nnz=12)).value, truth))
    True
    """

    X: NDArray[Any]
    Y: NDArray[Any]
    chunk: int | None = None
    _cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("X", "Y"):
            array = getattr(self, name)
            if is_sparse(array) or not hasattr(array, "dtype") or not hasattr(array, "ndim"):
                raise DtypeError(f"{name} is a {type(array).__name__}; pass a dense array")
            check_dtype(name, array.dtype)
            if array.ndim != 2 or 0 in array.shape:
                raise ShapeError(f"{name} has shape {tuple(array.shape)}; a 2-D array that is not empty is expected")
        if self.X.shape[0] != self.Y.shape[0]:
            raise ShapeError(
                f"Y has {self.Y.shape[0]} rows, but X has {self.X.shape[0]}; both need one row for each sample"
            )
        if self.X.dtype != self.Y.dtype:
            raise DtypeError(f"Y has dtype {self.Y.dtype}, but X has dtype {self.X.dtype}; cast both to one type")
        if self.chunk is not None:
            check_int("chunk", self.chunk)

    @property
    def shape(self) -> Shape:
        """The shape (p, n) of the unknown."""
        return int(self.X.shape[1]), int(self.Y.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type in which the unknown is computed: that of the data, at least float32."""
        return self.X.dtype if self.X.dtype.itemsize >= 4 else np.dtype(np.float32)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the data."""
        return self.X, self.Y

    def on(self, backend: Backend) -> LeastSquares:
        """Return the objective with its data on the device of `backend`."""
        if isinstance(self.X, np.ndarray) and backend.xp is np:
            return self
        return LeastSquares(backend.asarray(self.X), backend.asarray(self.Y), self.chunk)

    def validate(self) -> None:
        """Refuse NaN and infinity in the data, in one pass over it."""
        for x, y in self._chunks():
            check_finite("X", x)
            check_finite("Y", y)

    def _chunks(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        rows = self.chunk or max(1, _CHUNK_ENTRIES // max(self.X.shape[1], self.Y.shape[1]))
        for start in range(0, self.X.shape[0], rows):
            part = slice(start, start + rows)
            yield self.X[part].astype(self.dtype, copy=False), self.Y[part].astype(self.dtype, copy=False)

    def value(self, W: NDArray[Any]) -> Any:
        """Return f(W), a real scalar; sums are accumulated in float64."""
        total: Any = 0.0
        for x, y in self._chunks():
            total = total + _energy(x @ W - y)
        return 0.5 * total

    def value_and_gradient(self, W: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        """Return f(W) and ``X^H (X W - Y)``, the gradient as in `Quadratic`, in one pass over the data."""
        total: Any = 0.0
        gradient: NDArray[Any] | None = None
        for x, y in self._chunks():
            residual = x @ W - y
            total = total + _energy(residual)
            part = x.conj().T @ residual
            gradient = part if gradient is None else gradient + part
        assert gradient is not None  # there is at least one row
        return 0.5 * total, gradient

    def quadratic(self) -> Quadratic:
        """Return the same function as a `Quadratic`, formed in one pass over the data and kept.

        Chunks are multiplied in the type of the data and added in double precision.
        """
        if "quadratic" not in self._cache:
            gram, cross, constant = self._normal_equations(self.shape[0], lambda x: x)
            quadratic = Quadratic(gram.astype(self.dtype), cross.astype(self.dtype), constant=constant)
            self._cache["quadratic"] = quadratic
        found: Quadratic = self._cache["quadratic"]
        return found

    def on_rows(self, rows: NDArray[Any]) -> Quadratic:
        """Return the function of some rows of W, the others zero, as a `Quadratic` in double precision.

        Parameters
        ----------
        rows : (r,) integer array
            Which rows of W are left to choose.
        """
        gram, cross, constant = self._normal_equations(
            len(rows), lambda x: x.take(rows, axis=1).astype(self._wide, copy=False)
        )
        return Quadratic(gram, cross, constant=constant)

    @property
    def _wide(self) -> type[np.float64] | type[np.complex128]:
        return np.complex128 if self.dtype.kind == "c" else np.float64

    def _normal_equations(
        self, p: int, taken: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Return X^H X, X^H Y and ||Y||^2 / 2 of the p columns that are taken of each chunk of X, in one pass."""
        xp = module_of(self.X, self.Y)
        gram, cross = xp.zeros((p, p), dtype=self._wide), xp.zeros((p, self.shape[1]), dtype=self._wide)
        energy: Any = 0.0
        for x, y in self._chunks():
            some = taken(x)
            gram += some.conj().T @ some
            cross += some.conj().T @ y
            energy = energy + _energy(y)
        # Rounding makes the two halves differ; a Gram matrix is Hermitian.
        return (gram + gram.conj().T) / 2, cross, 0.5 * float(energy)

    def correlations(self) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Return ``X^H Y``, the squared norms of the columns of X, and that of Y, in double precision and one pass."""
        total: tuple[Any, Any, Any] = (0.0, 0.0, 0.0)
        for x, y in self._chunks():
            cross = (y.conj().T @ x).conj().T.astype(self._wide, copy=False)
            total = (total[0] + cross, total[1] + _energies(x), total[2] + _energy(y))
        return total[0], total[1], float(total[2])

    def gram_rows(self, rows: NDArray[Any], columns: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return some rows of ``X^H X``, all columns or some, in double precision and one pass over the data.

        Parameters
        ----------
        rows, columns : (r,) and (c,) integer arrays

        Returns
        -------
        (r, p) or (r, c) array
        """
        total: Any = None
        for x, _ in self._chunks():
            left = x.take(rows, axis=1)
            right = x if columns is None else left if columns is rows else x.take(columns, axis=1)
            part = (left.conj().T @ right).astype(self._wide, copy=False)
            total = part if total is None else total + part
        entries: NDArray[Any] = total
        return entries

    @property
    def prefers_quadratic(self) -> bool:
        """Whether the Gram matrix is small, and cheaper to multiply with than the data."""
        samples, p = int(self.X.shape[0]), int(self.X.shape[1])
        return p * p <= _GRAM_ENTRIES and p <= max(4 * samples, 1024)

    def lipschitz(self) -> float | None:
        """Return the largest eigenvalue of X^H X; from X X^H when there are fewer samples than features."""
        samples = int(self.X.shape[0])
        if self.prefers_quadratic:
            return self.quadratic().lipschitz()
        if samples**2 > _GRAM_ENTRIES:
            return None
        if "lipschitz" not in self._cache:
            xp = module_of(self.X)
            whole = self.X.astype(self.dtype, copy=False)
            self._cache["lipschitz"] = float(xp.linalg.eigvalsh(whole @ whole.conj().T)[-1]) * (1 + 1e-6)
        bound: float = self._cache["lipschitz"]
        return bound


def _energy(x: NDArray[Any]) -> Any:
    """Return the squared Frobenius norm, accumulated in float64."""
    if x.dtype.kind == "c":
        return (x.real**2).sum(dtype=np.float64) + (x.imag**2).sum(dtype=np.float64)
    return (x**2).sum(dtype=np.float64)


def _energies(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared norms of the columns, accumulated in float64."""
    xp = module_of(x)
    parts = (x.real, x.imag) if x.dtype.kind == "c" else (x,)
    sums: NDArray[np.float64] = sum(xp.einsum("ij,ij->j", part, part, dtype=np.float64) for part in parts)
    return sums
