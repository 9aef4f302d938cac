"""Roots of unity from integer exponents, so that no angle is ever rounded before it is small."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__: list[str] = []


def roots_of_unity(exponents: Any, order: int) -> NDArray[np.complex128]:
    """Return ``exp(-2 pi i e / order)`` for every integer exponent `e`.

    The exponent is reduced modulo `order`, and the rest to an eighth of the circle around the nearest axis, all in
    integers; sine and cosine only see angles of at most pi/4. Errors are a few 1e-16 at most, and the roots 1, -i, -1
    and i are exact.

    Parameters
    ----------
    exponents : array of int, any shape
    order : int
        At least 1; ``8 * order`` must fit 64 bits.

    Returns
    -------
    complex128 array of the shape of `exponents`
    """
    octant, rest = np.divmod(8 * np.mod(np.asarray(exponents, dtype=np.int64), order), order)
    # odd octants are measured back from the axis that ends them
    angle = np.where(octant % 2 == 1, rest - order, rest) / order * (np.pi / 4)
    cosine, sine = np.cos(angle), np.sin(angle)
    # halfway between two axes both are the same number, so that conjugate exponents give conjugate roots, to the bit
    halfway = (octant % 2 == 1) & (rest == 0)
    cosine, sine = np.where(halfway, np.sqrt(0.5), cosine), np.where(halfway, -np.sqrt(0.5), sine)
    axis = (octant + 1) // 2 % 4
    roots = np.empty(angle.shape, dtype=np.complex128)
    roots.real = np.choose(axis, (cosine, -sine, -cosine, sine)) + 0.0  # no negative zeros
    roots.imag = np.choose(axis, (-sine, -cosine, sine, cosine)) + 0.0
    return roots
