"""Orders of indices: digit reversal of mixed-radix numbers, and the input order of the cosine transform.

An order is an integer array; ``x[order]`` takes the entries of x in that order, and ``A[:, order]`` the columns of A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import check_int
from sparsefact.constraints.chain_builders import prime_factors
from sparsefact.errors import ArgumentError

__all__ = ["bit_reversal", "digit_reversal", "makhoul_order"]


def prime_radices(n: int) -> tuple[int, ...]:
    """Return the prime factors of `n` in ascending order, with multiplicity; (1,) for 1."""
    return tuple(prime_factors(n)) or (1,)


def check_radices(n: int, radices: Any) -> tuple[int, ...]:
    """Return `radices` as integers whose product is `n` (the prime factors when None), or refuse them."""
    if radices is None:
        return prime_radices(n)
    try:
        given = list(radices)
    except TypeError:
        raise ArgumentError(f"radices={radices!r} is not a sequence; pass integers whose product is n={n}") from None
    found = tuple(check_int(f"radices[{j}]", p, min(n, 2)) for j, p in enumerate(given))
    if not found or math.prod(found) != n:
        raise ArgumentError(
            f"radices={found} have the product {math.prod(found)}; pass at least one integer, with the product n={n}"
        )
    return found


def digit_reversal(n: int, radices: Sequence[int] | None = None) -> NDArray[np.intp]:
    """Return the order in which a butterfly chain takes its input.

    With ``n = p_1 p_2 ... p_L``, position ``(...(s_1 p_2 + s_2) p_3 + ...) + s_L`` of the result holds the index
    ``s_1 + p_1 (s_2 + p_2 (s_3 + ...))``: the digits are read backwards.

    Parameters
    ----------
    n : int
        At least 1.
    radices : sequence of int, optional
        p_1, ..., p_L, at least 2 each; the prime factors of n in ascending order unless given.

    Returns
    -------
    (n,) int array
        A permutation of 0, ..., n - 1.

    Raises
    ------
    ArgumentError
        `n` is not a positive integer, or the product of `radices` is not `n`.

    See Also
    --------
    bit_reversal : the same for powers of two.

    Examples
    --------
    >>> from sparsefact.transforms import digit_reversal
    >>> digit_reversal(6, (2, 3))
    array([0, 2, 4, 1, 3, 5])
    >>> digit_reversal(6, (3, 2))
    array([0, 3, 1, 4, 2, 5])
    """
    n = check_int("n", n)
    shape = check_radices(n, radices)
    return np.arange(n).reshape(shape[::-1]).transpose().ravel()


def bit_reversal(n: int) -> NDArray[np.intp]:
    """Return the order that reads the binary digits of 0, ..., n - 1 backwards; it is its own inverse.

    ``scipy.fft.fft(numpy.eye(n))[:, bit_reversal(n)]`` is exactly a butterfly: see `dft` with ``permuted=True``.

    Parameters
    ----------
    n : int
        A power of two.

    Returns
    -------
    (n,) int array
        A permutation of 0, ..., n - 1.

    Raises
    ------
    ArgumentError
        `n` is not a power of two; `digit_reversal` takes any size.

    Examples
    --------
    >>> from sparsefact.transforms import bit_reversal
    >>> bit_reversal(8)
    array([0, 4, 2, 6, 1, 5, 3, 7])
    """
    n = check_int("n", n)
    if n & (n - 1):
        raise ArgumentError(f"n={n} is not a power of two, so it has no bits to reverse; use digit_reversal({n})")
    return digit_reversal(n)


def makhoul_order(n: int) -> NDArray[np.intp]:
    """Return 0, 2, 4, ..., 5, 3, 1: the even indices upwards, then the odd ones downwards.

    In this order of its input a cosine transform is the real part of a Fourier transform of the same size
    [1]_. The order before the butterflies of `dct` and `dst` is ``makhoul_order(n)[digit_reversal(n)]``.

    Parameters
    ----------
    n : int
        At least 1.

    Returns
    -------
    (n,) int array
        A permutation of 0, ..., n - 1.

    Raises
    ------
    ArgumentError
        `n` is not a positive integer.

    References
    ----------
    .. [1] J. Makhoul, "A fast cosine transform in one and two dimensions", IEEE Transactions on Acoustics, Speech,
       and Signal Processing 28(1), 1980.

    Examples
    --------
    >>> from sparsefact.transforms import makhoul_order
    >>> makhoul_order(8)
    array([0, 2, 4, 6, 7, 5, 3, 1])
    """
    n = check_int("n", n)
    return np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)[::-1]])
