r"""Discrete cosine and sine transforms of types I to IV, as real Kronecker-sparse chains.

With kappa = k + delta (delta = 0 for the cosine transform of type II, 1 for the sine transform of type II, 1/2 for
type IV), all kernels are cos or sin of ``theta = pi kappa (2 j + 1) / (2 n)``. In Makhoul's order of the input, j = 2 t
first and j = 2 (n - t) - 1 from the middle on, theta is ``2 pi kappa t / n + pi kappa / (2 n)`` up to a sign and
multiples of 2 pi, or odd multiples of pi when kappa is a half-integer; so

    cos theta = +- Re(exp(-i pi kappa / (2 n)) w_n^(kappa t))
    sin theta = +- Re(i exp(-i pi kappa / (2 n)) w_n^(kappa t))

are real parts of a Fourier transform of size n whose row index is shifted by delta. Type III is the transpose of type
II up to one row; type I is a corner of the real part of a Fourier transform of size 2 (n - 1) or 2 (n + 1).

J. Makhoul, "A fast cosine transform in one and two dimensions", IEEE Trans. ASSP 28(1), 1980.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.constraints.base import check_int
from sparsefact.errors import ArgumentError
from sparsefact.products.factorization import Factorization
from sparsefact.transforms.arguments import ANY, check_dtype, check_norm, norm_scale
from sparsefact.transforms.convolutions import chirp_stages
from sparsefact.transforms.orders import digit_reversal, makhoul_order, prime_radices
from sparsefact.transforms.stages import (
    LARGEST_BLOCK,
    Stage,
    assembled,
    butterflies,
    fourier_exponents,
    real_part,
    rotated,
    scaled_rows,
    with_order,
)

__all__ = ["dct", "dst"]


def dct(
    n: int, type: int = 2, *, norm: str | None = None, permuted: bool = False, dtype: Any = "float64"
) -> Factorization:
    """Return the cosine transform of size n: ``dct(n, t) @ x`` is ``scipy.fft.dct(x, t, axis=0)``.

    The factors are real. With ``n = p_1 ... p_L`` they are ``(1, p, 2p, d)``, ``(a, 2p, 2p, d)`` in the
    middle, and ``(a, 2p, p, d)`` last (one before the last when p_L = 2 in types II and III: the last is then
    ``(n/2, 2, 2, 1)``), then a permutation of the input; type III is the transpose. At most
    ``4 n (p_1 + ... + p_L) + n`` entries are stored, and a product costs as many multiplications. Type I is cut out of
    a transform of size 2 (n - 1) by two selections, at that transform's cost. A prime factor above 256 (of the size
    that is factored) makes it a chirp transform, as for `dft`.

    Parameters
    ----------
    n : int
        The size, at least 1; at least 2 for type I.
    type : {2, 1, 3, 4}, optional
    norm : {None, "backward", "ortho", "forward"}, optional
        As in scipy: no factor (None and "backward"), orthonormal, or ``1/(2 n)`` (``1/(2 (n - 1))`` for type I).
    permuted : bool, optional
        Leave out the permutation, which is ``makhoul_order(n)[digit_reversal(n)]``: what remains is the transform with
        its columns in that order, a chain of Kronecker supports. For type III it is the transpose of one, with the
        rows in that order. Not for type I, which has selections instead.
    dtype : {"float64", "float32", "complex128", "complex64"}, optional

    Returns
    -------
    Factorization
        n x n, real unless `dtype` is complex.

    Raises
    ------
    ArgumentError
        `n`, `type` or `norm` is not allowed, or ``permuted=True`` with type I.
    DtypeError
        `dtype` is none of the four.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import fft
    >>> import sparsefact as sf
    >>> C = sf.transforms.dct(16, norm="ortho")
    >>> bool(np.allclose(C.todense(), fft.dct(np.eye(16), norm="ortho", axis=0)))
    True
    >>> [f.values.shape for f in C.factors[:-1]]
    [(1, 2, 4, 8), (2, 4, 4, 4), (4, 4, 2, 2), (8, 2, 2, 1)]
    """
    return _transform("cosine", n, type, norm, permuted, dtype)


def dst(
    n: int, type: int = 2, *, norm: str | None = None, permuted: bool = False, dtype: Any = "float64"
) -> Factorization:
    """Return the sine transform of size n: ``dst(n, t) @ x`` is ``scipy.fft.dst(x, t, axis=0)``.

    Supports, stored entries and cost are those of `dct`; type I is cut out of a transform of size 2 (n + 1).

    Parameters
    ----------
    n : int
        The size, at least 1.
    type : {2, 1, 3, 4}, optional
    norm : {None, "backward", "ortho", "forward"}, optional
        As in scipy: no factor (None and "backward"), orthonormal, or ``1/(2 n)`` (``1/(2 (n + 1))`` for type I).
    permuted : bool, optional
        Leave out the permutation, which is ``makhoul_order(n)[digit_reversal(n)]``, as for `dct`.
    dtype : {"float64", "float32", "complex128", "complex64"}, optional

    Returns
    -------
    Factorization
        n x n, real unless `dtype` is complex.

    Raises
    ------
    ArgumentError, DtypeError
        As for `dct`.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import fft
    >>> import sparsefact as sf
    >>> x = np.arange(12.0)
    >>> bool(np.allclose(sf.transforms.dst(12, 4) @ x, fft.dst(x, 4)))
    True
    """
    return _transform("sine", n, type, norm, permuted, dtype)


def _transform(name: str, n: int, kind: Any, norm: str | None, permuted: bool, dtype: Any) -> Factorization:
    n = check_int("n", n)
    if isinstance(kind, bool) or not isinstance(kind, int | np.integer) or not 1 <= kind <= 4:
        raise ArgumentError(f"type={kind!r} is unknown; pass 1, 2, 3 or 4")
    norm = check_norm(norm)
    number = check_dtype(dtype, ANY)
    said = f"The {name} transform of type {kind} and size {n}, written down in closed form."
    if kind == 1:
        if permuted:
            raise ArgumentError("permuted=True has no meaning for type=1, which has selections and no permutation")
        return assembled(_type_one(name == "sine", n, norm), number, said)
    # the row of type II that an orthonormal transform shortens, and that type III has at half its length
    scales = np.full(n, 2 * norm_scale(norm, 2 * n))
    if kind != 4 and norm == "ortho":
        scales[-1 if name == "sine" else 0] *= math.sqrt(0.5)
    elif kind == 3:
        scales[-1 if name == "sine" else 0] *= 0.5
    shifts = 1 if kind == 4 else 2 if name == "sine" else 0
    result = assembled(_shifted(name == "sine", n, shifts, scales, permuted), number, said)
    return result.T if kind == 3 else result


def _shifted(sine: bool, n: int, shifts: int, scales: NDArray[Any], permuted: bool) -> list[Stage]:
    """Return real stages of cos or sin of ``pi (k + shifts/2) (2 j + 1) / (2 n)``, rows multiplied by `scales`."""
    radices = prime_radices(n)
    rows = 2 * np.arange(n, dtype=np.int64) + shifts  # twice kappa
    if max(radices) > LARGEST_BLOCK and not permuted:
        chirped = rotated(chirp_stages(rows, 2 * np.arange(n, dtype=np.int64) + 1, 8 * n), 1j if sine else 1)
        chirped[0] = scaled_rows(chirped[0], scales)
        return real_part(chirped)
    circle = 8 * n
    exponents = fourier_exponents(radices, circle, half_shifts=shifts)
    phases = rows - (2 * n if sine else 0)  # i is minus a quarter of the circle
    exponents[0] = exponents[0] + phases.reshape(1, radices[0], 1, -1)
    order = makhoul_order(n)[digit_reversal(n)]
    # the odd half comes in reflected: cosines keep their sign and sines change it, or the reverse at half-integers
    if sine != (shifts == 1):
        exponents[-1] = exponents[-1] + (order % 2 * (circle // 2)).reshape(-1, 1, radices[-1], 1)
    chain = butterflies(exponents, circle)
    chain[0] = scaled_rows(chain[0], scales)
    return with_order(real_part(chain), order, permuted)


def _type_one(sine: bool, n: int, norm: str) -> list[Stage]:
    """Return real stages of the transform of type I, a corner of Re F or Re i F."""
    if n == 1 and not sine:
        raise ArgumentError("n=1 is too small for the cosine transform of type=1; pass an integer that is at least 2")
    size = 2 * (n + 1) if sine else 2 * (n - 1)
    index = np.arange(n, dtype=np.int64) + (1 if sine else 0)
    row_scales, column_scales = np.full(n, norm_scale(norm, size)), np.full(n, 2.0)
    if not sine and norm == "ortho":
        row_scales[[0, -1]] *= math.sqrt(0.5)
        column_scales[[0, -1]] *= math.sqrt(0.5)
    elif not sine:
        column_scales[[0, -1]] = 1.0
    phase = 1j if sine else 1
    radices = prime_radices(size)
    if max(radices) > LARGEST_BLOCK:
        chirped = rotated(chirp_stages(index, index, size), phase)
        chirped[0] = scaled_rows(chirped[0], row_scales)
        chirped[-1] = chirped[-1] * column_scales
        return real_part(chirped)
    chain = butterflies(fourier_exponents(radices, size, plain_first=True), size)
    place = np.empty(size, dtype=np.int64)
    place[digit_reversal(size)] = np.arange(size)
    each = np.arange(n)
    return [
        sparse.csr_array((row_scales, (each, index)), shape=(n, size)),
        *real_part(rotated(chain, phase)),
        sparse.csr_array((column_scales, (place[index], each)), shape=(size, n)),
    ]
