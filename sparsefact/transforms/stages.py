"""The stages of the fast Fourier transform as Kronecker-sparse factors, and the real part of such a product.

The recursion of Cooley and Tukey (1965) with decimation in time, for n = p M and the input index j = p j' + s:

    F_n[:, order] = K (I_p (x) F_M[:, order']),   K[u M + k', s M + k'] = w_n^(s (u M + k')),   w_n = exp(-2 pi i / n)

so the factor of radix p_l has the support (a, b, c, d) = (p_1 ... p_{l-1}, p_l, p_l, p_{l+1} ... p_L). A factor is held
as integer exponents of one root of unity until all phases are in, so that each entry is rounded once.

Until they are `assembled`, factors are four-way arrays of values (see `sparsefact.KroneckerFactor`), or real CSR arrays
that select and permute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor
from sparsefact.transforms.roots import roots_of_unity

__all__: list[str] = []

CSR: TypeAlias = "sparse.csr_array[Any, Any]"
Stage: TypeAlias = "NDArray[Any] | CSR"

# A prime factor is a dense block of its own size; beyond this one the chirp transform takes over.
LARGEST_BLOCK = 256


def fourier_exponents(
    radices: Sequence[int], order: int, *, half_shifts: int = 0, plain_first: bool = False
) -> list[NDArray[np.int64]]:
    """Return the exponents of the factors of ``w_n^((k + half_shifts/2) j)``, columns in digit-reversed order.

    Parameters
    ----------
    radices : sequence of int
        p_1, ..., p_L with the product n.
    order : int
        Entries are ``exp(-2 pi i e / order)``: a multiple of n, of 2 n when `half_shifts` is odd.
    half_shifts : int
        Twice what is added to the row index k.
    plain_first : bool
        Keep the first factor free of twiddles (for radix 2 it is then real) and put them into the second, which is
        possible from three factors on.

    Returns
    -------
    list of int64 arrays
        Of shapes (p_1 ... p_{l-1}, p_l, p_l, p_{l+1} ... p_L), the first number being 1 where all blocks are equal.
    """
    n = math.prod(radices)
    plain_first = plain_first and len(radices) > 2
    found: list[NDArray[np.int64]] = []
    size = n
    for level, p in enumerate(radices):
        d = size // p
        u, s, k = np.ogrid[:p, :p, :d]
        rows = (u * d + k) * (order // size) + half_shifts * order // (2 * size)
        exponents = s * (u * (order // p) + 0 * k if plain_first and level == 0 else rows)
        found.append(exponents[None])
        size = d
    if plain_first:
        s, u, k = np.ogrid[: radices[0], : radices[1], : found[1].shape[3]]
        twiddles = s * ((u * found[1].shape[3] + k) * (order // n) + half_shifts * order // (2 * n))
        found[1] = found[1] + twiddles[:, :, None, :]
    return found


def butterflies(exponents: Sequence[NDArray[np.int64]], order: int) -> list[NDArray[Any]]:
    """Return the factors with these exponents, equal blocks repeated as views."""
    n = math.prod(e.shape[1] for e in exponents)
    return [
        np.broadcast_to(roots_of_unity(e, order), (n // (e.shape[1] * e.shape[3]), *e.shape[1:])) for e in exponents
    ]


def is_real(stage: Stage) -> bool:
    """Return whether every entry is real, whatever the type that holds it."""
    return not isinstance(stage, np.ndarray) or stage.dtype.kind != "c" or not stage.imag.any()


def rotated(stages: Sequence[Stage], phase: complex) -> list[Stage]:
    """Return the stages with the first one that is not real multiplied by `phase`; nothing is, when all are real.

    What is wanted is the real part of the product, so that 1 + i acts on a real product like 1.
    """
    found = list(stages)
    j = next((j for j, stage in enumerate(found) if not is_real(stage)), None)
    if j is not None:
        found[j] = found[j] * phase
    return found


def real_part(stages: Sequence[Stage]) -> list[Stage]:
    """Return real stages whose product is the real part of the product, exactly the same numbers.

    A complex number x + iy becomes the block [[x, -y], [y, x]], so inner dimensions double: a factor (a, b, c, d)
    becomes (a, 2b, 2c, d), the first (a, b, 2c, d) and the last (a, 2b, c, d). Real factors at either end stay as they
    are, since taking real parts commutes with them. The new index lies between the digits of an inner index, at a
    place that both neighbours have. That real parts of chainable products are Kronecker-sparse with doubled inner
    sizes was formalized by Chaumette, Gribonval and Riccietti.
    """
    complex_ones = [j for j, stage in enumerate(stages) if not is_real(stage)]
    if not complex_ones:
        return [_real(stage) for stage in stages]
    first, last = complex_ones[0], complex_ones[-1]
    places: list[int | None] = [None] * (len(stages) + 1)
    for j, (left, right) in enumerate(pairwise(stages)):
        if first <= j < last:
            places[j + 1] = max(_places(left, 2) & _places(right, 1))
    return [
        _doubled(stage, places[j], places[j + 1]) if first <= j <= last else _real(stage)
        for j, stage in enumerate(stages)
    ]


def _places(stage: Stage, axis: int) -> set[int]:
    """Return where a new digit of the row (axis 1) or column index may go: how many values are left of it."""
    if not isinstance(stage, np.ndarray):
        return {1}
    return {stage.shape[0], stage.shape[0] * stage.shape[axis]}


def _real(stage: Stage) -> Stage:
    return stage.real if isinstance(stage, np.ndarray) else stage


def _doubled(stage: Stage, rows: int | None, columns: int | None) -> Stage:
    if not isinstance(stage, np.ndarray):
        return cast("CSR", sparse.kron(sparse.eye_array(2), stage, format="csr"))
    a, b, c, d = stage.shape
    x, y = stage.real, stage.imag
    blocks = np.array([[x, -y], [y, x]])[: 1 if rows is None else 2, : 1 if columns is None else 2] + 0.0
    e, f = blocks.shape[:2]
    row_axes = (0, 3) if rows in (None, a) else (3, 0)
    column_axes = (1, 4) if columns in (None, a) else (4, 1)
    return cast("NDArray[Any]", blocks.transpose(2, *row_axes, *column_axes, 5).reshape(a, e * b, f * c, d))


def permutation(order: NDArray[np.intp]) -> CSR:
    """Return the sparse matrix P with ``P @ x = x[order]``."""
    n = order.size
    index = sparse.get_index_dtype(maxval=n)
    return sparse.csr_array((np.ones(n), order.astype(index), np.arange(n + 1, dtype=index)), shape=(n, n))


def diagonal(values: NDArray[Any]) -> NDArray[Any]:
    """Return a diagonal matrix as the four-way array of the support (1, 1, 1, n)."""
    return values.reshape(1, 1, 1, -1)


def with_order(stages: Sequence[Stage], order: NDArray[np.intp], permuted: bool) -> list[Stage]:
    """Return the stages with the permutation of their input, unless it is the identity or left out on request."""
    if permuted or (order[:-1] < order[1:]).all():
        return list(stages)
    return [*stages, permutation(order)]


def scaled_rows(stage: Stage, scales: Any) -> NDArray[Any]:
    """Return a four-way array with its rows multiplied, by one number or by one for each row."""
    a, b, _, d = stage.shape
    rows = np.broadcast_to(np.asarray(scales, dtype=np.float64), (a * b * d,)).reshape(a, b, 1, d)
    return cast("NDArray[Any]", stage * rows)


def assembled(stages: Sequence[Stage], dtype: np.dtype[Any], explanation: str) -> Factorization:
    """Return the stages as a Factorization of the given type, rounded from double precision once."""
    factors: list[Any] = [
        KroneckerFactor(np.ascontiguousarray(stage, dtype=dtype))
        if isinstance(stage, np.ndarray)
        else stage.astype(dtype)
        for stage in stages
    ]
    return Factorization(factors, explanation=explanation)
