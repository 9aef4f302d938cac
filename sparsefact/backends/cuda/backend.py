"""The CUDA backend: CuPy and CUDA's libraries where they are good, kernels of its own where they are not.

The modules of this room hold the host code of one group of operations each; `launcher` says how kernels are compiled
and run, and how one is added. Operations are queued on CuPy's current stream and return before they are done; the host
waits only in `spd_inverse` (to learn whether it failed), in `masked_lsq` when supports may be too large for shared
memory, and in `rank_r` of blocks with a short side over 64. Every result has the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cuda import (
    admm,
    chain_product,
    inverse,
    kronecker,
    low_rank,
    masked_lsq,
    sampled,
    select,
    sweep,
)
from sparsefact.backends.cuda.launcher import CupyLauncher, Launcher
from sparsefact.backends.protocol import Per, PreparedChain

__all__ = ["CudaBackend"]


class CudaBackend:
    """The hot operations on CuPy arrays of one GPU; see `sparsefact.backends.protocol.Backend` for the contract.

    Parameters
    ----------
    index : int
        The number of the GPU.
    launcher : Launcher, optional
        What runs the kernels; a `CupyLauncher` for that GPU unless given.
    """

    name: str = "cuda"
    xp: ModuleType

    def __init__(self, index: int = 0, launcher: Launcher | None = None) -> None:
        self.launcher: Launcher = CupyLauncher(index) if launcher is None else launcher
        self.index = self.launcher.index
        self.xp = self.launcher.xp

    def active(self) -> AbstractContextManager[Any]:
        """Return the context in which `xp` works on this GPU."""
        return self.launcher.active()

    def asarray(self, x: Any) -> Any:
        """Return a copy of a host array on this GPU, or a device array as it is."""
        with self.active():
            return self.xp.asarray(x)

    def to_host(self, x: Any) -> NDArray[Any]:
        """Return a NumPy copy of a device array; waits until it is computed."""
        with self.active():
            host: NDArray[Any] = x if isinstance(x, np.ndarray) else self.xp.asnumpy(x)
            return host

    def floats(self, *scalars: Any) -> list[float]:
        """Return real scalars as Python numbers, by one transfer."""
        with self.active():
            together = self.xp.stack([self.xp.asarray(scalar, dtype=np.float64) for scalar in scalars])
            found: list[float] = self.xp.asnumpy(together).tolist()
            return found

    def kth_largest_abs(self, x: Any, k: int, axis: int | None = None) -> tuple[Any, Any]:
        """Return the k-th largest magnitude and the number of entries equal to it that are kept."""
        with self.active():
            return select.kth_largest_abs(self.launcher, x, k, axis)

    def topk_mask(self, x: Any, k: int, per: Per = "matrix") -> Any:
        """Return the mask of the `k` largest magnitudes per matrix, row or column."""
        with self.active():
            return select.topk_mask(self.launcher, x, k, per)

    def nm_mask(self, x: Any, n: int, m: int, axis: int = 1) -> Any:
        """Return the mask of the `n` largest magnitudes of every `m` consecutive entries along `axis`."""
        with self.active():
            return select.nm_mask(self.launcher, x, n, m, axis)

    def block_mask(self, x: Any, block: tuple[int, int], count: int) -> Any:
        """Return the mask of the `count` blocks of largest Frobenius norm."""
        with self.active():
            return select.block_mask(self.launcher, x, block, count)

    def spd_inverse(self, g: Any, *, overwrite: bool = False) -> Any:
        """Return the inverse of a Hermitian positive definite matrix."""
        with self.active():
            return inverse.spd_inverse(self.launcher, g)

    def masked_lsq(self, g: Any, r: Any, mask: Any) -> Any:
        """Solve a Hermitian positive definite system per column, each on its own support."""
        with self.active():
            return masked_lsq.masked_lsq(self.launcher, g, r, mask)

    def rank1(self, blocks: Any) -> tuple[Any, Any, Any]:
        """Return the dominant singular triple of every block."""
        with self.active():
            return low_rank.rank1(self.launcher, blocks)

    def rank_r(self, blocks: Any, r: int) -> tuple[Any, Any, Any]:
        """Return the `r` leading singular triples of every block."""
        with self.active():
            return low_rank.rank_r(self.launcher, blocks, r)

    def sweep(
        self, x: Any, levels: Sequence[tuple[int, int, int, int]]
    ) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float64], np.float64]:
        """Peel factors off a stack of matrices from the left, by truncated SVDs of interleaved blocks."""
        with self.active():
            return sweep.sweep(self.launcher, x, levels)

    def mirrored(self, x: Any, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Any:
        """Return the transposes of a stack of matrices, their rows and columns taken in another order first."""
        return x.take(self.asarray(rows), axis=1).take(self.asarray(columns), axis=2).transpose(0, 2, 1)

    def admm_update(self, b: Any, t: Any, mask: Any) -> None:
        """Set ``t = b + where(mask, 0, t)`` in place."""
        with self.active():
            admm.admm_update(self.launcher, b, t, mask)

    def admm_rhs(self, c: Any, t: Any, mask: Any, rho: float, out: Any) -> None:
        """Set ``out = c + rho * where(mask, t, -t)`` in place."""
        with self.active():
            admm.admm_rhs(self.launcher, c, t, mask, rho, out)

    def ks_apply(self, values: Any, x: Any) -> Any:
        """Return the product of one Kronecker-sparse factor with a matrix of columns."""
        return self.prepare_chain([values], values.dtype).apply(x)

    def ks_grad(self, pattern: tuple[int, int, int, int], x: Any, gy: Any) -> Any:
        """Return the gradient in the values of a Kronecker-sparse factor."""
        with self.active():
            return kronecker.ks_grad(self.launcher, pattern, x, gy)

    def sddmm(self, indptr: Any, indices: Any, x: Any, y: Any) -> Any:
        """Return the entries of ``x @ y`` on a CSR support."""
        with self.active():
            return sampled.sddmm(self.launcher, indptr, indices, x, y)

    def prepare_chain(
        self, parts: Sequence[Any], dtype: Any, *, vectors: bool = False, rows: Any = None
    ) -> PreparedChain:
        """Lay out a product of sparse factors for many products with dense matrices."""
        with self.active():
            return chain_product.prepare_chain(self.launcher, parts, dtype, rows)
