"""The quadratic of layer-wise reconstruction and of every half-step of an alternating method.

    f(B) = 1/2 tr(B^H G B H) - Re tr(B^H C) + constant

Symbols: B (p, n) the unknown, G (p, p) `gram`, H (n, n) `right_gram` (the identity when absent), C (p, n) `cross`.
With G = F^H F, C = F^H A and constant = 1/2 ||A||_F^2 it is 1/2 ||A - F B||_F^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import check_dtype, check_finite
from sparsefact.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["Quadratic"]


@dataclass(frozen=True, eq=False)
class Quadratic:
    """A convex quadratic of a matrix B of shape (p, n), curved by one Gram matrix on either side.

    Parameters
    ----------
    gram : (p, p) array
        Hermitian positive semi-definite.
    cross : (p, n) array
    right_gram : (n, n) array, optional
        Hermitian positive semi-definite; without it the columns of B are independent.
    constant : float
        Added to the value, so that it can be a squared error.

    Raises
    ------
    ShapeError
        If the shapes do not fit together.
    DtypeError
        If the arrays are not floating or complex, or not of one type.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> F, A = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]), np.array([[1.0], [3.0], [2.0]])
    >>> f = sf.Quadratic(F.T @ F, F.T @ A, constant=0.5 * np.sum(A**2))
    >>> float(f.value(np.array([[1.0], [1.0]])))   # 1/2 (0 + 1 + 0)
    0.5
    """

    gram: NDArray[Any]
    cross: NDArray[Any]
    right_gram: NDArray[Any] | None = None
    constant: float = 0.0

    def __post_init__(self) -> None:
        p, n = _matrix_shape("cross", self.cross)
        for name, array, size in (("gram", self.gram, p), ("right_gram", self.right_gram, n)):
            if array is None:
                continue
            if _matrix_shape(name, array) != (size, size):
                raise ShapeError(
                    f"{name} has shape {array.shape}, but cross has shape {(p, n)}; {name} must be ({size}, {size})"
                )
            if array.dtype != self.cross.dtype:
                raise DtypeError(
                    f"{name} has dtype {array.dtype}, but cross has dtype {self.cross.dtype}; cast both to one type"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (p, n) of the unknown."""
        p, n = self.cross.shape
        return int(p), int(n)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the arrays, in which the unknown is computed."""
        return self.cross.dtype

    def value(self, b: NDArray[Any]) -> Any:
        """Return f(b), a real scalar, for `b` of shape (p, n).

        Sums are accumulated in float64.
        """
        curved = self._curved(b)
        wide = np.complex128 if self.dtype.kind == "c" else np.float64
        quadratic = (b.conj() * curved).sum(dtype=wide)
        linear = (b.conj() * self.cross).sum(dtype=wide)
        return 0.5 * quadratic.real - linear.real + self.constant

    def gradient(self, b: NDArray[Any]) -> NDArray[Any]:
        """Return ``G b H - C``, the (p, n) gradient with respect to `b` (to conj(b), times two, when complex)."""
        gradient: NDArray[Any] = self._curved(b) - self.cross
        return gradient

    def value_and_gradient(self, b: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        """Return f(b) and the gradient, from one product with the Gram matrix."""
        curved = self._curved(b)
        wide = np.complex128 if self.dtype.kind == "c" else np.float64
        quadratic = (b.conj() * curved).sum(dtype=wide)
        linear = (b.conj() * self.cross).sum(dtype=wide)
        curved -= self.cross
        return 0.5 * quadratic.real - linear.real + self.constant, curved

    def lipschitz(self) -> float:
        """Return the product of the largest eigenvalues of the Gram matrices, up to rounding above it."""
        largest = 1.0
        for gram in (self.gram, self.right_gram):
            if gram is not None and gram.size:
                values = get_backend(gram).xp.linalg.eigvalsh(gram)
                largest *= float(values[-1]) * (1 + 8 * len(gram) * float(np.finfo(gram.dtype).eps))
        return largest

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays of the data."""
        return tuple(array for array in (self.gram, self.cross, self.right_gram) if array is not None)

    def on(self, backend: Backend) -> Quadratic:
        """Return the objective with its arrays on the device of `backend`."""
        right_gram = None if self.right_gram is None else backend.asarray(self.right_gram)
        return Quadratic(backend.asarray(self.gram), backend.asarray(self.cross), right_gram, self.constant)

    def _curved(self, b: NDArray[Any]) -> NDArray[Any]:
        curved: NDArray[Any] = self.gram @ b
        return curved if self.right_gram is None else curved @ self.right_gram

    def validate(self) -> None:
        """Check what construction leaves unchecked because it costs a pass over the arrays.

        Raises
        ------
        NonFiniteError
            If an array holds NaN or infinity.
        ArgumentError
            If a Gram matrix is not Hermitian to rounding, or has a negative diagonal entry.
        """
        check_finite("cross", self.cross)
        for name, array in (("gram", self.gram), ("right_gram", self.right_gram)):
            if array is None:
                continue
            check_finite(name, array)
            check_gram(name, array)


def check_gram(name: str, gram: NDArray[Any]) -> None:
    """Refuse a Gram matrix that is not Hermitian to rounding or has a negative diagonal entry."""
    scale = float(abs(gram).max()) if gram.size else 0.0
    skew = float(abs(gram - gram.conj().T).max()) if gram.size else 0.0
    if skew > 1e3 * float(np.finfo(gram.dtype).eps) * scale:
        raise ArgumentError(
            f"{name} differs from its conjugate transpose by {skew:.3g} (largest entry {scale:.3g}); it must be "
            f"Hermitian, use ({name} + {name}.conj().T) / 2"
        )
    lowest = float(gram.diagonal().real.min()) if gram.size else 0.0
    if lowest < 0:
        raise ArgumentError(
            f"{name} has a diagonal entry of {lowest:.3g}; it must be positive semi-definite, like X.conj().T @ X"
        )


def _matrix_shape(name: str, array: Any) -> tuple[int, ...]:
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise DtypeError(f"{name} is a {type(array).__name__}; pass an array")
    check_dtype(name, array.dtype)
    if array.ndim != 2:
        raise ShapeError(f"{name} has shape {tuple(array.shape)}; a 2-D array is expected")
    return tuple(array.shape)
