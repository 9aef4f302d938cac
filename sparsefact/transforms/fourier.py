"""The discrete Fourier transform, its inverse, and the Hartley transform, of any size.

Sizes factor into radices (Cooley and Tukey, 1965); a size with a prime factor above 256 is a chirp transform
(Bluestein, 1970). Hartley: R. N. Bracewell, "Discrete Hartley transform", J. Opt. Soc. Am. 73(12), 1983; as a real
chain, the real part of (1 + i) F.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsefact.constraints.base import check_int
from sparsefact.products.factorization import Factorization
from sparsefact.transforms.arguments import ANY, COMPLEX, check_dtype, check_norm, norm_scale
from sparsefact.transforms.convolutions import chirp_stages
from sparsefact.transforms.orders import check_radices, digit_reversal
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

__all__ = ["dft", "hartley", "idft"]


def dft(
    n: int,
    *,
    norm: str | None = None,
    permuted: bool = False,
    radices: Sequence[int] | None = None,
    dtype: Any = "complex128",
) -> Factorization:
    """Return the discrete Fourier transform of size n: ``dft(n) @ x`` is ``scipy.fft.fft(x, axis=0)``.

    One Kronecker-sparse factor for each radix p of ``n = p_1 ... p_L``, with support
    ``(p_1...p_{l-1}, p_l, p_l, p_{l+1}...p_L)``, then the digit-reversal permutation of the input. Stored are
    ``n (p_1 + ... + p_L) + n`` entries, and a product with a vector costs as many multiplications: O(n log n) when the
    radices are bounded. When n has a prime factor above 256, whose block would be dense, the factors are
    those of a chirp transform instead: two diagonals, two selections and the butterflies of a circulant matrix of
    size 2 n to 3 n, still O(n log n).

    Parameters
    ----------
    n : int
        The size, at least 1.
    norm : {None, "backward", "ortho", "forward"}, optional
        As in scipy: no factor (None and "backward"), ``1/sqrt(n)``, or ``1/n``.
    permuted : bool, optional
        Leave out the permutation: the result is then ``fft(eye(n))[:, order]`` with
        ``order = digit_reversal(n, radices)``, and its factors are exactly a butterfly chain (for every n: large
        primes are dense blocks then).
    radices : sequence of int, optional
        Integers with the product n, for larger blocks or another order; the primes in ascending order unless given.
        ``radices=(64, 64)`` is the transform of size 4096 as a Monarch matrix. They are obeyed whatever their size.
    dtype : {"complex128", "complex64"}, optional

    Returns
    -------
    Factorization
        n x n, complex.

    Raises
    ------
    ArgumentError
        `n` is not a positive integer, `radices` do not have the product n, or `norm` is unknown.
    DtypeError
        `dtype` is not complex.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> F = sf.transforms.dft(12)
    >>> F
    Factorization(12x12 complex128, 4 factors, nnz=96, density=0.667)
    >>> bool(np.allclose(F @ np.arange(12.0), np.fft.fft(np.arange(12.0))))
    True
    >>> [f.values.shape for f in F.factors[:-1]]
    [(1, 2, 2, 6), (2, 2, 2, 3), (4, 3, 3, 1)]
    """
    return _fourier(n, norm, permuted, radices, dtype, inverse=False)


def idft(
    n: int,
    *,
    norm: str | None = None,
    permuted: bool = False,
    radices: Sequence[int] | None = None,
    dtype: Any = "complex128",
) -> Factorization:
    """Return the inverse Fourier transform of size n: ``idft(n) @ x`` is ``scipy.fft.ifft(x, axis=0)``.

    The factors have the supports of `dft` and conjugate entries; the factor 1/n is in the first of them.

    Parameters
    ----------
    n : int
        The size, at least 1.
    norm : {None, "backward", "ortho", "forward"}, optional
        As in scipy: ``1/n`` (None and "backward"), ``1/sqrt(n)``, or no factor.
    permuted, radices, dtype : optional
        As for `dft`.

    Returns
    -------
    Factorization
        n x n, complex.

    Raises
    ------
    ArgumentError, DtypeError
        As for `dft`.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> x = np.arange(8.0)
    >>> bool(np.allclose(sf.transforms.idft(8) @ np.fft.fft(x), x))
    True
    """
    return _fourier(n, norm, permuted, radices, dtype, inverse=True)


def hartley(n: int, *, norm: str | None = None, permuted: bool = False, dtype: Any = "float64") -> Factorization:
    """Return the Hartley transform of size n, ``cos(2 pi j k / n) + sin(2 pi j k / n) = Re F - Im F``.

    The factors are real: the real part of a product of complex butterflies is a product of butterflies with inner
    dimensions doubled, ``(a, 2p, 2p, d)`` in the middle, ``(a, p, 2p, d)`` before and ``(a, 2p, p, d)`` after.
    For a power of two the first and the last one are plain ``(a, 2, 2, d)``. At most ``4 n (p_1 + ... + p_L) + n``
    entries are stored, and a product with a vector costs as many real multiplications.

    Parameters
    ----------
    n : int
        The size, at least 1; a prime factor above 256 makes it a chirp transform, as for `dft`.
    norm : {None, "backward", "ortho", "forward"}, optional
        No factor (None and "backward"), ``1/sqrt(n)`` (the transform is then its own inverse), or ``1/n``.
    permuted : bool, optional
        Leave out the permutation of the input: the columns are then in the order ``digit_reversal(n)``.
    dtype : {"float64", "float32", "complex128", "complex64"}, optional

    Returns
    -------
    Factorization
        n x n.

    Raises
    ------
    ArgumentError
        `n` is not a positive integer, or `norm` is unknown.
    DtypeError
        `dtype` is none of the four.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> H = sf.transforms.hartley(16)
    >>> F = np.fft.fft(np.eye(16))
    >>> bool(np.allclose(H.todense(), F.real - F.imag))
    True
    >>> [f.values.shape for f in H.factors[:-1]]
    [(1, 2, 2, 8), (2, 2, 4, 4), (4, 4, 2, 2), (8, 2, 2, 1)]
    """
    n = check_int("n", n)
    norm = check_norm(norm)
    number = check_dtype(dtype, ANY)
    radices = check_radices(n, None)
    if _is_chirp(radices, permuted):
        stages = real_part(rotated(_chirp(n), 1 + 1j))
    else:
        chain = butterflies(fourier_exponents(radices, n, plain_first=True), n)
        stages = with_order(real_part(rotated(chain, 1 + 1j)), digit_reversal(n), permuted)
    stages[0] = scaled_rows(stages[0], norm_scale(norm, n))
    return assembled(stages, number, _explanation("Hartley transform", n, radices, permuted))


def _fourier(
    n: int, norm: str | None, permuted: bool, radices: Sequence[int] | None, dtype: Any, *, inverse: bool
) -> Factorization:
    n = check_int("n", n)
    found = check_radices(n, radices)
    norm = check_norm(norm)
    number = check_dtype(dtype, COMPLEX, ", but a Fourier transform is complex")
    chirp = _is_chirp(found, permuted or radices is not None)
    stages: list[Stage] = _chirp(n) if chirp else [*butterflies(fourier_exponents(found, n), n)]
    if inverse:
        stages = [stage.conj() for stage in stages]
    if not chirp:
        stages = with_order(stages, digit_reversal(n, found), permuted)
    stages[0] = scaled_rows(stages[0], norm_scale(norm, n, inverse=inverse))
    name = "inverse Fourier transform" if inverse else "Fourier transform"
    return assembled(stages, number, _explanation(name, n, found, permuted or radices is not None))


def _is_chirp(radices: tuple[int, ...], dense_blocks: bool) -> bool:
    return not dense_blocks and max(radices) > LARGEST_BLOCK


def _chirp(n: int) -> list[Stage]:
    index = np.arange(n, dtype=np.int64)
    return chirp_stages(index, index, n)


def _explanation(name: str, n: int, radices: tuple[int, ...], dense_blocks: bool) -> str:
    if _is_chirp(radices, dense_blocks):
        return f"The {name} of size {n}, which has the prime factor {max(radices)}, as a chirp transform."
    return f"The {name} of size {n} = {' * '.join(map(str, radices))}, written down in closed form."
