"""Each hot operation in plain float64 NumPy, obvious and slow: the specification that every backend is held to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Per
from sparsefact.errors import ArgumentError, NonFiniteError

__all__ = ["REFERENCE", "ReferenceBackend"]


def _wide(x: NDArray[Any]) -> NDArray[Any]:
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _magnitudes(x: NDArray[Any]) -> NDArray[Any]:
    # NumPy's complex magnitude differs in the last bit between contiguous and strided input
    magnitudes: NDArray[Any] = np.abs(np.ascontiguousarray(x))
    return magnitudes


def _largest_first(magnitudes: NDArray[Any]) -> NDArray[np.intp]:
    """Return the indices of a vector: NaN first, then from large to small, equal ones by index."""
    nan = np.isnan(magnitudes)
    return np.lexsort((-np.where(nan, 0, magnitudes), ~nan))


def _kth(magnitudes: NDArray[Any], k: int) -> tuple[Any, int]:
    if k == 0:
        return magnitudes.dtype.type(np.nan), 0
    kept = magnitudes[_largest_first(magnitudes)[:k]]
    threshold = kept[-1]
    ties = np.isnan(kept).sum() if np.isnan(threshold) else (kept == threshold).sum()
    return threshold, int(ties)


def _top(magnitudes: NDArray[Any], k: int) -> NDArray[np.bool_]:
    mask = np.zeros(magnitudes.shape, dtype=bool)
    mask[_largest_first(magnitudes)[:k]] = True
    return mask


class ReferenceBackend:
    """The specification of every hot operation; see `sparsefact.backends.protocol.Backend` for the contract.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.backends.reference import REFERENCE
    >>> REFERENCE.topk_mask(np.array([[3.0, -1.0], [-3.0, 2.0]]), 2)
    array([[ True, False],
           [ True, False]])
    """

    name: str = "reference"
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
        magnitudes = _magnitudes(x)
        if axis is None:
            return _kth(magnitudes.reshape(-1), k)
        units = [_kth(unit, k) for unit in (magnitudes if axis == 1 else magnitudes.T)]
        return (
            np.array([threshold for threshold, _ in units], dtype=magnitudes.dtype),
            np.array([ties for _, ties in units], dtype=np.intp),
        )

    def topk_mask(self, x: NDArray[Any], k: int, per: Per = "matrix") -> NDArray[np.bool_]:
        """Return the mask of the `k` largest magnitudes per matrix, row or column."""
        magnitudes = _magnitudes(x)
        if per == "matrix":
            return _top(magnitudes.reshape(-1), k).reshape(x.shape)
        mask = np.zeros(x.shape, dtype=bool)
        for unit in range(x.shape[0 if per == "row" else 1]):
            where = (unit, slice(None)) if per == "row" else (slice(None), unit)
            mask[where] = _top(magnitudes[where], k)
        return mask

    def nm_mask(self, x: NDArray[Any], n: int, m: int, axis: int = 1) -> NDArray[np.bool_]:
        """Return the mask of the `n` largest magnitudes of every `m` consecutive entries along `axis`."""
        if axis == 0:
            return self.nm_mask(x.T, n, m, 1).T
        magnitudes = _magnitudes(x)
        mask = np.zeros(x.shape, dtype=bool)
        for i in range(x.shape[0]):
            for j in range(0, x.shape[1], m):
                mask[i, j : j + m] = _top(magnitudes[i, j : j + m], n)
        return mask

    def block_mask(self, x: NDArray[Any], block: tuple[int, int], count: int) -> NDArray[np.bool_]:
        """Return the mask of the `count` blocks of largest Frobenius norm."""
        rows, cols = block
        grid = (x.shape[0] // rows, x.shape[1] // cols)
        magnitudes = _magnitudes(_wide(x))
        largest = np.max(magnitudes, initial=0.0, where=np.isfinite(magnitudes))
        # a power of two, so that squares neither overflow nor vanish and no rounding is added
        magnitudes = np.ldexp(magnitudes, -np.frexp(largest)[1])
        norms = np.zeros(grid)
        for i in range(grid[0]):
            for j in range(grid[1]):
                norms[i, j] = np.linalg.norm(magnitudes[i * rows : (i + 1) * rows, j * cols : (j + 1) * cols])
        return np.kron(_top(norms.reshape(-1), count).reshape(grid), np.ones(block, dtype=bool))

    def spd_inverse(self, g: NDArray[Any], *, overwrite: bool = False) -> NDArray[Any]:
        """Return the inverse of a Hermitian positive definite matrix."""
        lower = np.tril(_wide(g))
        if not np.all(np.isfinite(lower)):
            raise NonFiniteError(
                f"g holds {np.count_nonzero(~np.isfinite(lower))} NaN or infinite entries; pass finite"
            )
        full = lower + np.tril(lower, -1).conj().T
        np.fill_diagonal(full, full.diagonal().real)
        values, vectors = np.linalg.eigh(full)
        if np.any(values <= 0):
            raise ArgumentError(f"g must be positive definite, its smallest eigenvalue is {values[0]:.3g}; add a ridge")
        inverse = (vectors / values) @ vectors.conj().T
        return np.asarray((inverse + inverse.conj().T) / 2, dtype=g.dtype)

    def masked_lsq(self, g: NDArray[Any], r: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """Solve a Hermitian positive definite system per column, each on its own support."""
        lower = np.tril(_wide(g))
        full = lower + np.tril(lower, -1).conj().T
        z = np.zeros(r.shape, dtype=full.dtype)
        for j in range(r.shape[1]):
            support = np.flatnonzero(mask[:, j])
            kept: list[int] = []
            for i in support:
                trial = [*kept, int(i)]
                pivot = full[i, i].real
                if kept:
                    against = full[np.ix_(kept, [int(i)])]
                    pivot -= (against.conj().T @ np.linalg.solve(full[np.ix_(kept, kept)], against))[0, 0].real
                if not pivot <= len(support) * np.finfo(g.dtype).eps * full[i, i].real:
                    kept = trial
            if kept:
                z[kept, j] = np.linalg.solve(full[np.ix_(kept, kept)], r[kept, j].astype(full.dtype))
        return z.astype(r.dtype)

    def rank1(self, blocks: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the dominant singular triple of every block."""
        u, s, v = self.rank_r(blocks, 1)
        return u[..., 0], s[..., 0], v[..., 0, :]

    def rank_r(self, blocks: NDArray[Any], r: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the `r` leading singular triples of every block."""
        u, s, v = np.linalg.svd(_wide(blocks), full_matrices=False)
        real = blocks.real.dtype
        return u[..., :r].astype(blocks.dtype), s[..., :r].astype(real), v[..., :r, :].astype(blocks.dtype)

    def sweep(
        self, x: NDArray[Any], levels: Sequence[tuple[int, int, int, int]]
    ) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float64], np.float64]:
        """Peel factors off a stack of matrices from the left, by truncated SVDs of interleaved blocks."""
        stack = _wide(x)
        energy = np.float64(np.sum(np.abs(stack) ** 2))
        lefts, missed = [], np.zeros(len(levels))
        for level, (b, p, r, d) in enumerate(levels):
            k, _, w = stack.shape
            blocks = stack.reshape(k, b, d, p, w // p).transpose(0, 3, 2, 1, 4)
            finite = np.all(np.isfinite(blocks), axis=(3, 4), keepdims=True)
            u, s, v = np.linalg.svd(np.where(finite, blocks, 0), full_matrices=False)
            kept = (s[..., None] * v)[..., :r, :]
            missed[level] = np.sum(s[..., r:] ** 2) if np.all(finite) else np.nan
            lefts.append(u[..., :r].transpose(0, 3, 1, 4, 2).reshape(k, b, p * r, d).astype(x.dtype))
            kept = np.where(finite, kept, np.nan)
            stack = kept.transpose(0, 1, 3, 2, 4).reshape(k * p, r * d, w // p)
        return lefts, stack.astype(x.dtype), missed, energy

    def mirrored(self, x: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
        """Return the transposes of a stack of matrices, their rows and columns taken in another order first."""
        return np.array(x[:, rows[:, None], columns].transpose(0, 2, 1))

    def admm_update(self, b: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Set ``t = b + where(mask, 0, t)`` in place."""
        t[...] = _wide(b) + np.where(mask, 0, _wide(t))

    def admm_rhs(
        self, c: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_], rho: float, out: NDArray[Any]
    ) -> None:
        """Set ``out = c + rho * where(mask, t, -t)`` in place."""
        out[...] = _wide(c) + rho * np.where(mask, _wide(t), -_wide(t))

    def ks_apply(self, values: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Return the product of one Kronecker-sparse factor with a matrix of columns."""
        return self.prepare_chain([values], values.dtype).apply(x)

    def ks_grad(self, pattern: tuple[int, int, int, int], x: NDArray[Any], gy: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient in the values of a Kronecker-sparse factor."""
        a, b, c, d = pattern
        gradient = np.zeros(pattern, _wide(gy).dtype)
        for i, p, r, q in np.ndindex(a, b, c, d):
            gradient[i, p, r, q] = np.vdot(_wide(x)[(i * c + r) * d + q], _wide(gy)[(i * b + p) * d + q])
        return gradient.astype(gy.dtype)

    def sddmm(self, indptr: NDArray[Any], indices: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """Return the entries of ``x @ y`` on a CSR support."""
        rows = np.repeat(np.arange(x.shape[0]), np.diff(indptr))
        found: NDArray[Any] = (_wide(x) @ _wide(y))[rows, indices].astype(x.dtype)
        return found

    def prepare_chain(
        self, parts: Sequence[Any], dtype: Any, *, vectors: bool = False, rows: NDArray[Any] | None = None
    ) -> ReferenceChain:
        """Form every factor as a dense matrix."""
        matrices = [_dense(part.astype(dtype)) for part in parts]
        return ReferenceChain(matrices, rows)


class ReferenceChain:
    """Dense matrices that are multiplied one after the other."""

    def __init__(self, matrices: Sequence[NDArray[Any]], rows: NDArray[Any] | None) -> None:
        self._matrices, self._rows = matrices, rows
        self.shape = matrices[0].shape[0], matrices[-1].shape[1]

    def apply(self, x: NDArray[Any], *, rows_first: bool = False) -> NDArray[Any]:
        """Return the product with a matrix of columns."""
        product = _wide(x if self._rows is None else x[self._rows])
        for matrix in reversed(self._matrices):
            product = matrix @ product
        return np.array(product.astype(x.dtype), order="F" if rows_first else "C")


def _dense(part: Any) -> NDArray[Any]:
    if not isinstance(part, np.ndarray):
        return _wide(part.toarray())
    a, b, c, d = part.shape
    dense = np.zeros((a * b * d, a * c * d), dtype=_wide(part).dtype)
    for i, p, r, q in np.ndindex(a, b, c, d):
        dense[(i * b + p) * d + q, (i * c + r) * d + q] = part[i, p, r, q]
    return dense


REFERENCE = ReferenceBackend()
"""The one instance; it has no state."""
