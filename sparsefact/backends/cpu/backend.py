"""The CPU backend: NumPy where it is already fast, numba kernels where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu import (
    admm,
    chain_product,
    inverse,
    kronecker,
    low_rank,
    masked_lsq,
    mirror,
    sampled,
    select,
    sweep,
)
from sparsefact.backends.protocol import Per, PreparedChain

__all__ = ["CPU", "CpuBackend"]


class CpuBackend:
    """The hot operations on NumPy arrays; see `sparsefact.backends.protocol.Backend` for the contract.

    Results do not depend on the number of threads.
    """

    name: str = "cpu"
    xp: ModuleType = np

    def active(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return nullcontext()

    def asarray(self, x: Any) -> NDArray[Any]:
        """Return `x` as a NumPy array."""
        return np.asarray(x)

    def to_host(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return `x`."""
        return x

    def floats(self, *scalars: Any) -> list[float]:
        """Return real scalars as Python numbers."""
        return [float(scalar) for scalar in scalars]

    def kth_largest_abs(self, x: NDArray[Any], k: int, axis: int | None = None) -> tuple[Any, Any]:
        """Return the k-th largest magnitude and the number of entries equal to it that are kept."""
        return select.kth_largest_abs(x, k, axis)

    def topk_mask(self, x: NDArray[Any], k: int, per: Per = "matrix") -> NDArray[np.bool_]:
        """Return the mask of the `k` largest magnitudes per matrix, row or column."""
        return select.topk_mask(x, k, per)

    def nm_mask(self, x: NDArray[Any], n: int, m: int, axis: int = 1) -> NDArray[np.bool_]:
        """Return the mask of the `n` largest magnitudes of every `m` consecutive entries along `axis`."""
        return select.nm_mask(x, n, m, axis)

    def block_mask(self, x: NDArray[Any], block: tuple[int, int], count: int) -> NDArray[np.bool_]:
        """Return the mask of the `count` blocks of largest Frobenius norm."""
        return select.block_mask(x, block, count)

    def spd_inverse(self, g: NDArray[Any], *, overwrite: bool = False) -> NDArray[Any]:
        """Return the inverse of a Hermitian positive definite matrix."""
        return inverse.spd_inverse(g, overwrite=overwrite)

    def masked_lsq(self, g: NDArray[Any], r: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """Solve a Hermitian positive definite system per column, each on its own support."""
        return masked_lsq.masked_lsq(g, r, mask)

    def rank1(self, blocks: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the dominant singular triple of every block."""
        return low_rank.rank1(blocks)

    def rank_r(self, blocks: NDArray[Any], r: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the `r` leading singular triples of every block."""
        return low_rank.rank_r(blocks, r)

    def sweep(
        self, x: NDArray[Any], levels: Sequence[tuple[int, int, int, int]]
    ) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float64], np.float64]:
        """Peel factors off a stack of matrices from the left, by truncated SVDs of interleaved blocks."""
        return sweep.sweep(x, levels)

    def mirrored(self, x: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
        """Return the transposes of a stack of matrices, their rows and columns taken in another order first."""
        return mirror.mirrored(x, rows, columns)

    def admm_update(self, b: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Set ``t = b + where(mask, 0, t)`` in place."""
        admm.admm_update(b, t, mask)

    def admm_rhs(
        self, c: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_], rho: float, out: NDArray[Any]
    ) -> None:
        """Set ``out = c + rho * where(mask, t, -t)`` in place."""
        admm.admm_rhs(c, t, mask, rho, out)

    def ks_apply(self, values: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Return the product of one Kronecker-sparse factor with a matrix of columns."""
        return chain_product.prepare_chain([values], values.dtype, vectors=x.shape[1] == 1).apply(x)

    def ks_grad(self, pattern: tuple[int, int, int, int], x: NDArray[Any], gy: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient in the values of a Kronecker-sparse factor."""
        return kronecker.ks_grad(pattern, x, gy)

    def sddmm(self, indptr: NDArray[Any], indices: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """Return the entries of ``x @ y`` on a CSR support."""
        return sampled.sddmm(indptr, indices, x, y)

    def prepare_chain(
        self, parts: Sequence[Any], dtype: Any, *, vectors: bool = False, rows: NDArray[Any] | None = None
    ) -> PreparedChain:
        """Lay out a product of sparse factors for many products with dense matrices."""
        return chain_product.prepare_chain(parts, dtype, vectors=vectors, rows=rows)


CPU = CpuBackend()
"""The one instance; it has no state."""
