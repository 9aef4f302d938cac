"""The Gram matrices that weigh a loss: what is refused, and how a residual is weighed.

    || A - P ||^2  =  tr(L R G R^H),   R = A - P

Symbols: A matrix (m, n), P product, G gram (n, n), of the inputs; L left_gram (m, m), of the gradients at the outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import as_matrix
from sparsefact.errors import ArgumentError, DtypeError, ShapeError
from sparsefact.objectives.quadratic import check_gram

__all__ = ["above", "checked_gram", "damped", "diagonal_roots", "is_diagonal", "unit_diagonal", "weighed"]

_MADE = {"gram": "X.conj().T @ X of the inputs", "left_gram": "Y.conj().T @ Y of the gradients at the outputs"}
_SIDES = {"gram": "columns", "left_gram": "rows"}


def checked_gram(name: str, gram: Any, matrix: Any) -> NDArray[Any] | None:
    """Return a Gram matrix in the type of the matrix that it weighs; None for None.

    Parameters
    ----------
    name : {"gram", "left_gram"}
        Which weighs the columns, or the rows.
    gram : array, optional
    matrix : (m, n) array or Source

    Returns
    -------
    (n, n) or (m, m) array, or None

    Raises
    ------
    ShapeError, NonFiniteError
        If it has another shape, or holds NaN or infinity.
    DtypeError
        If it is not floating, or complex for a real matrix.
    ArgumentError
        If it is zero, not Hermitian, or has an eigenvalue that is negative beyond rounding.
    """
    if gram is None:
        return None
    checked, length = as_matrix(name, gram), matrix.shape[1 if name == "gram" else 0]
    if checked.shape != (length, length):
        raise ShapeError(
            f"{name} has shape {checked.shape}, but A has {length} {_SIDES[name]}; it must be ({length}, {length})"
        )
    wide = checked if checked.dtype.itemsize > 2 else checked.astype(np.float32)
    check_gram(name, wide)
    if not checked.any():
        raise ArgumentError(
            f"{name} is zero, so every factorization has the same loss; leave it out or pass {_MADE[name]}"
        )
    if checked.dtype.kind == "c" and matrix.dtype.kind != "c":
        raise DtypeError(
            f"{name} has dtype {checked.dtype}, but A is real ({matrix.dtype}); "
            f"cast A with A.astype({str(checked.dtype)!r})"
        )
    _check_semi_definite(name, wide)
    cast: NDArray[Any] = checked.astype(matrix.dtype, copy=False)
    return cast


def _check_semi_definite(name: str, gram: NDArray[Any]) -> None:
    """Refuse eigenvalues that are negative beyond rounding; a Cholesky factorization with a small shift sees them."""
    shift = 10 * float(np.finfo(gram.dtype).eps) * float(gram.diagonal().real.sum())
    if above(gram, -shift):
        return
    lowest = float(get_backend(gram).xp.linalg.eigvalsh(gram)[0])
    if lowest < -shift:
        raise ArgumentError(
            f"{name} has an eigenvalue of {lowest:.3g}; it must be positive semi-definite, like {_MADE[name]}"
        )


def above(gram: NDArray[Any], floor: Any) -> bool:
    """Return whether all eigenvalues are larger than `floor`, as a Cholesky factorization sees it."""
    xp = get_backend(gram).xp
    shifted = gram.copy()
    shifted.reshape(-1)[:: len(gram) + 1] -= floor
    try:
        return bool(xp.isfinite(xp.linalg.cholesky(shifted).diagonal()).all())
    except np.linalg.LinAlgError:
        return False


def is_diagonal(gram: NDArray[Any] | None) -> bool:
    """Return whether a Gram matrix couples nothing; none at all is the identity."""
    return gram is None or int((gram != 0).sum()) == int((gram.diagonal() != 0).sum())


def weighed(x: NDArray[Any], left_gram: NDArray[Any] | None, gram: NDArray[Any] | None) -> NDArray[Any]:
    """Return L X G, with identities for what is None; `x` itself without either.

    Parameters
    ----------
    x : (m, n) array
    left_gram, gram : arrays, optional

    Returns
    -------
    (m, n) array
    """
    product = x if left_gram is None else left_gram @ x
    return product if gram is None else product @ gram


def damped(gram: NDArray[Any] | None, damping: float, backend: Backend) -> NDArray[Any] | None:
    """Return a Gram matrix with a multiple of its mean diagonal added to the diagonal; itself for no multiple."""
    if gram is None or not damping:
        return gram
    shift = damping * gram.diagonal().real.mean()
    found: NDArray[Any] = gram + backend.xp.eye(len(gram), dtype=gram.dtype) * shift
    return found


def diagonal_roots(gram: NDArray[Any]) -> NDArray[Any]:
    """Return the root of a Gram matrix's diagonal, kept away from zero so that it can be divided by."""
    diagonal = gram.diagonal().real
    floor = 1e-8 * float(diagonal.mean()) if diagonal.size else 0.0
    roots: NDArray[Any] = np.sqrt(np.maximum(diagonal, floor if floor > 0 else 1.0))
    return roots


def unit_diagonal(gram: NDArray[Any], roots: NDArray[Any]) -> NDArray[Any]:
    """Return a Gram matrix divided by the roots of its diagonal on both sides."""
    scaled: NDArray[Any] = gram / roots
    scaled /= roots[:, None]
    return scaled
