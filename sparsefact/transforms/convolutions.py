"""Circulant and Toeplitz matrices, and the chirp transform, as stages: two butterflies with a diagonal between them.

Since the Fourier matrix is symmetric, F = K P = P^T K^T with the butterflies K and the digit reversal P, and

    C = F^-1 diag(F c) F = 1/n conj(K) P diag(F c) P^T K^T

needs no permutation: its diagonal in digit-reversed order joins the last butterfly of conj(K). The supports are those
of a Kaleidoscope, a chain followed by its mirror image (Dao et al., "Kaleidoscope", ICLR 2020).
"""

from __future__ import annotations

from itertools import accumulate, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.transforms.orders import digit_reversal, prime_radices
from sparsefact.transforms.roots import roots_of_unity
from sparsefact.transforms.stages import Stage, butterflies, diagonal, fourier_exponents

__all__: list[str] = []


def circulant_stages(column: NDArray[Any]) -> list[Stage]:
    """Return complex stages of the circulant matrix with this first column (double precision)."""
    n = column.size
    radices = prime_radices(n)
    right = butterflies(fourier_exponents(radices, n, plain_first=True), n)
    left = [values.conj() for values in right]
    eigenvalues = np.fft.fft(column)[digit_reversal(n, radices)] / n
    left[-1] = left[-1] * eigenvalues.reshape(n // radices[-1], 1, radices[-1], 1)
    return [*left, *(values.transpose(0, 2, 1, 3) for values in reversed(right))]


def toeplitz_stages(column: NDArray[Any], row: NDArray[Any]) -> list[Stage]:
    """Return complex stages of the Toeplitz matrix with this first column and row (``row[0]`` is not used).

    It is the upper left corner of a circulant matrix of size at least m + n - 1; two selections cut it out.
    """
    m, n = column.size, row.size
    size = convolution_size(m + n - 1)
    wrapped = np.zeros(size, dtype=np.result_type(column, row))
    wrapped[:m] = column
    if n > 1:
        wrapped[1 - n :] = row[:0:-1]
    return [
        sparse.eye_array(m, size, format="csr"),
        *circulant_stages(wrapped),
        sparse.eye_array(size, n, format="csr"),
    ]


def chirp_stages(rows: NDArray[np.int64], columns: NDArray[np.int64], order: int) -> list[Stage]:
    """Return complex stages of ``exp(-2 pi i rows[k] columns[n] / order)``, for progressions of one common step.

    By ``2 x y = x^2 + y^2 - (x - y)^2`` it is a Toeplitz matrix between two diagonal ones (Bluestein, 1970); squares
    are reduced modulo 2 `order` as integers.
    """
    return [
        diagonal(roots_of_unity(rows**2, 2 * order)),
        *toeplitz_stages(
            roots_of_unity(-((rows - columns[0]) ** 2), 2 * order),
            roots_of_unity(-((rows[0] - columns) ** 2), 2 * order),
        ),
        diagonal(roots_of_unity(columns**2, 2 * order)),
    ]


def convolution_size(least: int) -> int:
    """Return the size >= `least` with prime factors 2, 3 and 5 whose butterflies store the fewest entries."""
    candidates = [_power_above(least, three * five) for five in _powers(5, least) for three in _powers(3, least)]
    return min(candidates, key=lambda size: (size * sum(prime_radices(size)), size))


def _powers(base: int, bound: int) -> list[int]:
    found = accumulate(repeat(base), lambda x, y: x * y, initial=1)
    return [next(found) for _ in range(1 + int(np.ceil(np.log(bound) / np.log(base))))]


def _power_above(least: int, odd: int) -> int:
    """Return the smallest ``odd * 2**j >= least``."""
    return int(odd) << max(0, (-(-least // odd) - 1).bit_length())
