"""What every constraint is: a set of matrices with an exact Euclidean projection; and the checks they share."""

from __future__ import annotations

import math
import operator
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, BudgetError, DtypeError, NonFiniteError, ShapeError

__all__ = ["Constraint", "Shape"]

Shape = tuple[int, int]


@runtime_checkable
class Constraint(Protocol):
    """A set E of m x n matrices that are zero in enough places.

    Constraints are immutable values: equal when they describe the same set in the same way, hashable, picklable.
    """

    @property
    def T(self) -> Constraint:
        """The set of the transposed matrices."""
        ...

    def count(self, shape: Shape) -> int:
        """Return how many entries of a matrix of this shape may be nonzero."""
        ...

    def mask(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which entries are kept, exactly ``count(scores.shape)`` True: those of largest score.

        What solvers call in every iteration: `scores` (m, n) are magnitudes (signs are ignored) and are not checked
        for NaN, which counts as the largest score. Ties go to the lowest flat (C-order) index.
        """
        ...

    def project(self, x: NDArray[Any], scores: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the nearest matrix of the set in the Frobenius norm; or the entries of largest `scores`."""
        ...

    def contains(self, x: Any) -> bool:
        """Return whether `x`, dense or scipy.sparse, lies in the set; NaN counts as nonzero."""
        ...


def is_constraint(x: Any) -> TypeGuard[Constraint]:
    """Return whether something is a constraint; a look at all methods of a protocol takes as long as a small solve."""
    return isinstance(x, Projection) or (not isinstance(x, type) and isinstance(x, Constraint))


def is_sparse(x: Any) -> bool:
    """Tell scipy.sparse (and cupyx.scipy.sparse) containers without importing either."""
    return hasattr(x, "tocsr") and hasattr(x, "nnz")


def as_matrix(name: str, x: Any) -> NDArray[Any]:
    """Return `x` as a finite 2-D floating array, or refuse it with one sentence."""
    if is_sparse(x):
        raise DtypeError(f"{name} is a sparse {type(x).__name__}; pass a dense array, {name}.toarray()")
    array = np.asarray(x) if not hasattr(x, "dtype") or not hasattr(x, "ndim") else x
    check_dtype(name, array.dtype)
    if array.ndim != 2:
        raise ShapeError(f"{name} has shape {tuple(array.shape)}; a 2-D array (rows, columns) is expected, reshape it")
    check_finite(name, array)
    return array


def check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse what is not computed with: integers, booleans, objects, extended precision."""
    if dtype.name in ("float16", "bfloat16", "float32", "float64", "complex64", "complex128"):
        return
    cast = "complex128" if dtype.kind == "c" else "float64" if dtype.itemsize > 4 else "float32"
    raise DtypeError(
        f"{name} has dtype {dtype}; float16, bfloat16, float32, float64, complex64 and complex128 are computed with, "
        f"cast it with {name}.astype('{cast}')"
    )


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Refuse NaN and infinity, and say how many there are."""
    # a finite sum proves finite terms, without an array of booleans
    with np.errstate(over="ignore", invalid="ignore"):
        if array.dtype.itemsize >= 4 and np.isfinite(array.sum()):
            return
    finite = np.isfinite(array)
    if not finite.all():
        bad = int(array.size - np.count_nonzero(finite))
        raise NonFiniteError(
            f"{name} holds {bad} NaN or infinite entries of {array.size}; only finite numbers are allowed, "
            "replace or remove them"
        )


def check_scores(name: str, scores: Any, shape: Shape) -> NDArray[Any]:
    """Return `scores` as an array of non-negative real numbers of the given shape, or refuse them."""
    array = np.asarray(scores) if not hasattr(scores, "dtype") else scores
    if array.dtype.kind not in "buif" and array.dtype.name != "bfloat16":
        raise DtypeError(f"{name} has dtype {array.dtype}; scores are real numbers >= 0, for instance abs({name})")
    if tuple(array.shape) != tuple(shape):
        raise ShapeError(
            f"{name} has shape {tuple(array.shape)}, but the matrix has shape {tuple(shape)}; they must agree"
        )
    if array.dtype.kind in "bui" or array.dtype.itemsize < 4:
        array = array.astype(np.float64 if array.dtype.itemsize > 2 else np.float32)
    bad = int(array.size - np.count_nonzero(array >= 0))
    if bad:
        raise ArgumentError(
            f"{name} holds {bad} negative or NaN entries; scores must be >= 0, for instance abs({name})"
        )
    return array


def check_shape(shape: Any, name: str = "shape") -> Shape:
    """Return `shape` as a pair of non-negative Python integers, or refuse it."""
    try:
        m, n = (operator.index(length) for length in shape)
    except (TypeError, ValueError):
        m = n = -1
    if m < 0 or n < 0:
        raise ShapeError(f"{name}={shape!r} is not the shape of a matrix; pass two integers >= 0, (rows, columns)")
    return m, n


def check_int(name: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as a Python integer of at least `minimum`, or refuse it."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name}={value!r} is not an integer; pass one that is at least {minimum}") from None
    if result < minimum:
        raise ArgumentError(f"{name}={result} is too small; pass an integer that is at least {minimum}")
    return result


def check_density(name: str, value: Any) -> float:
    """Return `value` as a float in (0, 1], or refuse it."""
    try:
        density = float(value)
    except (TypeError, ValueError):
        density = float("nan")
    if isinstance(value, str) or not 0 < density <= 1:
        raise BudgetError(f"{name}={value!r} is outside (0, 1]; pass the fraction of entries that may be nonzero")
    return density


def check_count(name: str, value: Any) -> int:
    """Return `value` as a positive Python integer, or refuse it as an impossible budget."""
    try:
        return check_int(name, value)
    except ArgumentError:
        raise BudgetError(
            f"{name}={value!r} is not a positive integer; pass how many may be nonzero, at least 1"
        ) from None


def density_of(count: int, entries: int) -> float:
    """Return the shortest decimal d with ``floor(d * entries) == count``, where ``0 < count <= entries``."""
    for digits in range(1, 18):
        scale: int = 10**digits
        density = -(-count * scale // entries) / scale
        if math.floor(density * entries) == count:
            return density
    density = count / entries
    while math.floor(density * entries) < count:
        density = math.nextafter(density, 1.0)
    return density


def kept_of(total: int, where: str, one: str, density: float | None, **count: int | None) -> int:
    """Return how many of `total` things a density or a named count keeps, or refuse an impossible budget.

    The sentence of the error says `where` they are, "entries of a row of shape (2, 3)", and what `one` is, "nonzero".
    """
    ((name, given),) = count.items()
    if given is not None:
        if given > total:
            raise BudgetError(f"{name}={given} is more than the {total} {where}; pass at most {total}")
        return given
    density = density or 0.0
    found = math.floor(density * total)
    if found == 0:
        raise BudgetError(
            f"density={density} of the {total} {where} allows no {one}; "
            + (f"pass at least {density_of(1, total)}" if total else "the shape must not be empty")
        )
    return found


def check_same_shape(shape: Any, own: Shape, owner: str) -> None:
    """Refuse a shape that is not the one (`own`) that a constraint, called `owner`, has itself."""
    if check_shape(shape) != own:
        raise ShapeError(f"shape={tuple(shape)} is not the shape {own} of this {owner}; pass that one or none")


def kept(x: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return a new array with the entries of `x` on the mask and zero elsewhere."""
    backend = get_backend(x)
    result: NDArray[Any] = backend.xp.zeros_like(x)
    backend.xp.copyto(result, x, where=backend.asarray(mask))
    return result


class Projection:
    """The exact projection of every constraint that keeps some entries and zeroes the others, by its `mask`."""

    __slots__ = ()

    def project(self: Any, x: NDArray[Any], scores: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the nearest matrix of the set in the Frobenius norm.

        Parameters
        ----------
        x : (m, n) array
            Finite; not modified.
        scores : (m, n) array, optional
            Keep the entries of largest score (>= 0) instead of largest magnitude, where there is a choice.

        Returns
        -------
        (m, n) array
            A new array of the dtype of `x`; ties go to the lowest flat index.

        Raises
        ------
        NonFiniteError, DtypeError, ShapeError
            If `x` is not a finite, floating, 2-D array that fits the constraint, or `scores` do not fit it.
        """
        self._fit(x)
        array = as_matrix("x", x)
        if scores is not None:
            return kept(array, self.mask(check_scores("scores", scores, array.shape)))
        # half precision is compared in float32, exactly
        wide = array if array.dtype.itemsize >= 4 else array.astype(np.float32)
        return kept(array, self.mask(wide))

    def _fit(self, x: Any) -> None:
        """Refuse a matrix of a shape that a fixed support does not have."""


def two_dimensional(x: Any) -> Any:
    """Return `x`, dense or sparse, as something with a 2-D shape, or refuse it; its values are not looked at."""
    matrix = x if hasattr(x, "shape") else np.asarray(x)
    if len(matrix.shape) != 2:
        raise ShapeError(f"x has shape {tuple(matrix.shape)}; a 2-D array (rows, columns) is expected, reshape it")
    return matrix


def nonzeros(x: Any, axis: int | None = None) -> NDArray[np.intp]:
    """Count the nonzero values of a dense or sparse matrix, in all (shape ()) or along an axis."""
    if not is_sparse(x):
        return np.asarray(np.count_nonzero(x, axis=axis))
    rows, cols = nonzero_indices(x)
    if axis is None:
        return np.asarray(rows.size)
    return np.bincount(cols if axis == 0 else rows, minlength=x.shape[1 - axis])


def nonzero_indices(x: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the nonzero values of a dense or sparse matrix; stored zeros do not count."""
    if not is_sparse(x):
        rows, cols = np.asarray(x).nonzero()
        return rows, cols
    csr = x.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    coo = csr.tocoo()
    stored = coo.data != 0
    return coo.row[stored].astype(np.intp), coo.col[stored].astype(np.intp)
