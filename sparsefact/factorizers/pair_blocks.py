"""Two rows as points on a sphere, and their best rank-one block in closed form.

The entries (y, z) of two rows in one column span a line through the origin, which is a point of the Bloch sphere (of
a circle for real numbers): ``b = (|y|^2 - |z|^2, 2 Re(conj(y) z), 2 Im(conj(y) z))``, of length ``n = |y|^2 + |z|^2``.
The squared distance of a block of columns to rank one is ``(sum n - |sum b|) / 2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["best_row", "sphere_points"]


def sphere_points(y: NDArray[Any], z: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lengths (..., w) and the points (..., c, w) of the columns of two rows (..., w).

    There are c = 3 coordinates for complex rows and 2 for real ones.
    """
    a, b = (y * y.conj()).real, (z * z.conj()).real
    inner = 2 * y.conj() * z
    parts = [a - b, inner.real, inner.imag] if inner.dtype.kind == "c" else [a - b, inner]
    return a + b, np.stack(parts, axis=-2)


def best_row(y: NDArray[Any], z: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Replace two rows by the one that spans their best rank-one approximation.

    Parameters
    ----------
    y, z : arrays of shape (..., w)
        The two rows of each block.

    Returns
    -------
    row : array of shape (..., w)
        The leading right singular vector of each 2 x w block, times its singular value.
    missed : float
        The squared norm of what the rank-one blocks leave out, computed from the residual rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.factorizers.pair_blocks import best_row
    >>> row, missed = best_row(np.array([3.0, 0.0]), np.array([4.0, 0.0]))
    >>> row.tolist(), missed < 1e-30
    ([5.0, 0.0], True)
    """
    a, b = (y * y.conj()).real.sum(axis=-1), (z * z.conj()).real.sum(axis=-1)
    inner = (y * z.conj()).sum(axis=-1)
    gap = (a - b) / 2
    reach = abs(gap) + np.hypot(gap, abs(inner))
    # The larger of the two ways to write the eigenvector, so that nothing cancels.
    first = np.where(gap >= 0, reach, inner)
    second = np.where(gap >= 0, inner.conj(), reach)
    length = np.hypot(abs(first), abs(second))
    flat = length == 0
    length = np.where(flat, 1.0, length)
    first, second = (np.where(flat, 1.0, first) / length)[..., None], (second / length)[..., None]
    rest = first * z - second * y
    return first.conj() * y + second.conj() * z, float(np.vdot(rest, rest).real)
