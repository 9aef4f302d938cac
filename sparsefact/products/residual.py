"""How far a product is from its target, measured in float64 one panel of rows at a time.

A Gram matrix on the left couples all rows, so with one the residual is held as a whole, also in float64.

Symbols: A the target, P the product, R = A - P, G the gram (n x n), L the left_gram (m x m), both Hermitian positive
semi-definite.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefact.backends.registry import get_backend, on_gpu
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from sparsefact.products.factors import KroneckerFactor, as_array, is_sparse, moved
from sparsefact.products.sources import Source, as_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sparsefact.products.factors import Factor

_SMALLEST_PANEL, _LARGEST_PANEL = 1 << 20, 1 << 24  # bytes
# Above this share of stored entries a densified tile and BLAS are quicker than the sparse product.
_DENSE_ENOUGH = 0.1


def relative_errors(
    target: Any, factors: tuple[Factor, ...], gram: Any = None, left_gram: Any = None
) -> tuple[float, float]:
    """Return the relative error in the loss and in the Frobenius norm, measured on the host.

    Parameters
    ----------
    target : array, scipy.sparse array, Source or tuple of factors, shape (m, n)
        What the product stands for.
    factors : tuple of factors
        The product, left to right, of shape (m, n).
    gram, left_gram : arrays of shapes (n, n) and (m, m), optional
        Hermitian positive semi-definite weights of the loss.

    Returns
    -------
    error, frobenius_error : float
        ``sqrt(tr(L R G R^H) / tr(L A G A^H))``, and the same with identities for L and G. 0/0 is 0, and anything else
        over 0 is infinity.

    Raises
    ------
    NonFiniteError
        The target or a Gram matrix holds NaN or infinity.
    """
    target, factors, gram, left_gram = (_on_host(each) for each in (target, factors, gram, left_gram))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        sums = _sums(target, factors, gram, left_gram, 1.0)
        largest = 1.0
        if not all(1e-280 < s < math.inf for s in sums):
            # Squares left the range of float64 (or a norm is zero): the quotients do not depend on the target's scale.
            largest = _largest(target)
            if largest > 0.0 and math.isfinite(largest):
                # The reciprocal of a subnormal number would overflow.
                sums = _sums(target, factors, gram, left_gram, max(largest, 1e-300))
    if not math.isfinite(largest) or any(math.isnan(s) for s in sums):
        raise NonFiniteError(
            "the target, gram or left_gram holds NaN or infinity; the error is defined for finite numbers only"
        )
    residual, norm, weighted_residual, weighted_norm = sums
    return _quotient(weighted_residual, weighted_norm), _quotient(residual, norm)


def _quotient(residual: float, norm: float) -> float:
    if norm > 0.0:
        return math.sqrt(max(residual, 0.0) / norm)
    return 0.0 if residual <= 0.0 else math.inf


def _sums(
    target: Any, factors: tuple[Factor, ...], gram: Any, left_gram: Any, scale: float
) -> tuple[float, float, float, float]:
    """Return ||R||^2, ||A||^2, tr(L R G R^H) and tr(L A G A^H), all over scale^2."""
    totals = np.zeros(4)
    whole: NDArray[Any] | None = None
    for rows in panels(target, factors):
        a, p = rows_of(target, rows), rows_of(factors, rows)
        if scale != 1.0:
            a, p = a / scale, p / scale
        r = a - p
        totals[:2] += _square(r), _square(a)
        if left_gram is not None:
            if whole is None:
                whole = np.empty((2, left_gram.shape[0], r.shape[1]), dtype=r.dtype)
            whole[0, rows], whole[1, rows] = r, a
        elif gram is None:
            totals[2:] = totals[:2]
        else:
            totals[2:] += _square(r, gram), _square(a, gram)
    if whole is not None:
        totals[2:] = [_two_sided_square(x, left_gram, gram) for x in whole]
    return float(totals[0]), float(totals[1]), float(totals[2]), float(totals[3])


def _two_sided_square(x: NDArray[Any], left_gram: Any, gram: Any) -> float:
    """Return tr(L X G X^H), with the identity for G when there is none, one panel of rows of L X at a time."""
    height = max(1, _LARGEST_PANEL // (8 * max(1, *x.shape)))
    total = 0.0
    for start in range(0, x.shape[0], height):
        rows = slice(start, start + height)
        weighted = rows_of(left_gram, rows) @ x
        total += float(np.vdot(x[rows], weighted if gram is None else _times(weighted, gram)).real)
    return total


def _largest(target: Any) -> float:
    if _is_product(target):
        return max(
            (float(np.abs(rows_of(target, rows)).max(initial=0.0)) for rows in panels(target, target)), default=0.0
        )
    if isinstance(target, Source):
        return target.largest()
    values = target.data if is_sparse(target) else target
    return float(np.abs(values).max(initial=0)) if values.size else 0.0


def panels(target: Any, factors: tuple[Factor, ...]) -> list[slice]:
    """Return slices of rows of which several fit in memory, of a target and of a product of factors."""
    rows = factors[0].shape[0]
    chains = (*factors, *target) if _is_product(target) else factors
    widest = max(f.shape[1] for f in chains)
    # About eight panels are alive at once: together at most twice the float32 matrix, or 128 MB.
    allowance = min(max(rows * widest, _SMALLEST_PANEL), _LARGEST_PANEL)
    height = max(1, allowance // (8 * max(1, widest)))
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def _is_product(x: Any) -> bool:
    return isinstance(x, tuple)


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)


def rows_of(x: Any, rows: slice) -> NDArray[Any]:
    """Return some rows of a matrix or of a product, dense and in double precision."""
    if isinstance(x, Source):
        part = _wide(x.block(np.arange(rows.start, rows.stop)))
        x.release()
        return part
    if not _is_product(x):
        part = x[rows]
        return _wide(part.toarray() if is_sparse(part) else np.asarray(part))
    first, *rest = x
    panel = rows_of(first.tocsr() if isinstance(first, KroneckerFactor) else first, rows)
    for factor in rest:
        panel = _times(panel, factor)
    return panel


def _times(panel: NDArray[Any], factor: Any) -> NDArray[Any]:
    """Return ``panel @ factor`` in double precision without ever widening a whole dense factor."""
    if isinstance(factor, KroneckerFactor):
        product: NDArray[Any] = panel @ factor.astype(np.complex128 if factor.dtype.kind == "c" else np.float64)
        return product
    rows, columns = factor.shape
    if is_sparse(factor) and factor.nnz < _DENSE_ENOUGH * rows * columns:
        return np.asarray((factor.T @ panel.T).T)
    # A tile of the factor is as large as the panel, so that both fit the same allowance.
    height = max(1, panel.size // max(1, columns))
    out: NDArray[Any] | None = None
    for start in range(0, rows, height):
        part = panel[:, start : start + height] @ rows_of(factor, slice(start, start + height))
        out = part if out is None else np.add(out, part, out=out)
    return np.zeros((panel.shape[0], columns)) if out is None else out


def _square(x: NDArray[Any], gram: Any = None) -> float:
    """Return tr(X G X^H), with the identity for G when there is none."""
    other = x if gram is None else _times(x, gram)
    return float(np.vdot(x, other).real)


class Errors:
    """The two errors of a product, shared by everything derived from it; computed once, when first asked for."""

    __slots__ = ("error", "frobenius_error", "pending")

    def __init__(self, error: float | None, frobenius_error: float | None) -> None:
        self.error = _checked(error, "error")
        self.frobenius_error = _checked(frobenius_error, "frobenius_error")
        self.pending: tuple[Any, tuple[Factor, ...], Any, Any] | None = None

    def settle(self) -> None:
        """Compute what is pending, and let go of the target."""
        pending = self.pending
        if pending is None:
            return
        if self.error is None or self.frobenius_error is None:
            error, frobenius_error = relative_errors(*pending)
            self.error = error if self.error is None else self.error
            self.frobenius_error = frobenius_error if self.frobenius_error is None else self.frobenius_error
        self.pending = None

    def get(self, which: str) -> float:
        """Return ``error`` or ``frobenius_error``, computed if need be."""
        if getattr(self, which) is None:
            self.settle()
        value: float | None = getattr(self, which)
        if value is None:
            raise ArgumentError(
                f"{which} is not known, because this Factorization was made without a target matrix A; "
                "call error_against(A), with gram=... or left_gram=... for a weighted error"
            )
        return value


def _on_host(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(moved(factor, "cpu") for factor in x)
    return get_backend(x).to_host(x) if on_gpu(x) else x


def as_target(target: Any, shape: tuple[int, int]) -> Any:
    """Return what is measured against, of the given shape: an array, a CSR array, a Source or a tuple of factors."""
    found: tuple[int, ...]
    result: Any
    # A Factorization, whose module imports this one.
    if hasattr(target, "factors"):
        found, result = target.shape, target.factors
    elif not isinstance(target, np.ndarray) and (source := as_source(target)) is not None:
        found, result = source.shape, source
    else:
        result = target.tocsr() if is_sparse(target) else as_array(target)
        if result.dtype.kind not in "biufc" and result.dtype.name != "bfloat16":
            raise DtypeError(f"target has dtype {result.dtype}; it must hold numbers, so cast it with astype")
        found = result.shape
    if found != shape:
        raise ShapeError(f"target has shape {found}, but the product has shape {shape}; the two must agree")
    return result


def as_grams(gram: Any, left_gram: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Return the Gram matrices of the two sides of a product of this shape, or refuse one of another shape."""
    found = []
    for name, given, length, side in (("gram", gram, shape[1], "columns"), ("left_gram", left_gram, shape[0], "rows")):
        result = given
        if given is not None:
            result = given.tocsr() if is_sparse(given) else as_array(given)
            if result.shape != (length, length):
                raise ShapeError(
                    f"{name} has shape {result.shape}; a product with {length} {side} needs shape ({length}, {length})"
                )
        found.append(result)
    return found[0], found[1]


def _checked(value: float | None, name: str) -> float | None:
    if value is None:
        return None
    number = float(value)
    if math.isnan(number) or number < 0.0:
        raise ArgumentError(f"{name} is {number}; a relative error is a number >= 0, or None when it is not known")
    return number
