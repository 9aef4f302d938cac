"""The hot operations every backend offers, with their shapes: the contract between the algorithms and the machine.

Everything above this room calls these names on the object that `sparsefact.backends.registry.get_backend` returns;
`sparsefact.backends.reference` says in plain float64 NumPy what each of them computes, and one conformance suite
holds every backend to it.

Conventions shared by all operations: ``(m, n)`` arrays of float32, float64, complex64 or complex128 in any memory
layout; the magnitude of an entry is ``|x|``, formed in the precision of ``x``; NaN counts as larger than every number,
so that what is wrong is kept and seen; among equal magnitudes the lowest flat (C-order) index wins. Counts are trusted:
``0 <= k <= length`` is checked by the constraints, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "Per", "PreparedChain"]

Per: TypeAlias = Literal["matrix", "row", "column"]
"""What a count is of: the whole matrix, each of its rows, or each of its columns."""


@runtime_checkable
class Backend(Protocol):
    """Where arrays live and who runs the hot loops.

    Attributes
    ----------
    name : str
        ``"cpu"``, ``"cuda"``, ``"reference"``.
    xp : module
        The array module of the operands (``numpy`` or ``cupy``).
    """

    name: str
    xp: ModuleType

    def active(self) -> AbstractContextManager[Any]:
        """Return the context in which `xp` works on this backend's device, and lack of memory is a `DeviceError`."""
        ...

    def asarray(self, x: Any) -> Any:
        """Return `x` as an array of `xp` on this backend's device, copied only if it is not one."""
        ...

    def to_host(self, x: Any) -> NDArray[Any]:
        """Return `x` as a NumPy array: itself if it is one; else the host waits until it is computed."""
        ...

    def floats(self, *scalars: Any) -> list[float]:
        """Return real scalars of this backend as Python numbers; a host that must wait for them waits once."""
        ...

    def kth_largest_abs(self, x: NDArray[Any], k: int, axis: int | None = None) -> tuple[Any, Any]:
        """Return the k-th largest magnitude and how many entries equal to it belong to the k largest.

        Keeping all ``|x| > threshold`` and the first `ties` entries with ``|x| == threshold`` keeps exactly `k`.
        When the threshold is NaN, nothing is larger and the first `ties` NaN are kept.

        Parameters
        ----------
        x : (m, n) array
        k : int
            How many to keep: of the matrix (`axis` None), of each row (1) or of each column (0).
        axis : None, 0 or 1

        Returns
        -------
        threshold : real scalar, (m,) or (n,) array
            In the precision of `x`; NaN where `k` is zero.
        ties : integer scalar, (m,) or (n,) array
        """
        ...

    def topk_mask(self, x: NDArray[Any], k: int, per: Per = "matrix") -> NDArray[np.bool_]:
        """Return the mask of the largest magnitudes of an ``(m, n)`` array: exactly `k` per matrix, row or column."""
        ...

    def nm_mask(self, x: NDArray[Any], n: int, m: int, axis: int = 1) -> NDArray[np.bool_]:
        """Return the mask of the `n` largest magnitudes in every `m` consecutive entries along `axis`.

        The length of `x` along `axis` is a multiple of `m`.
        """
        ...

    def block_mask(self, x: NDArray[Any], block: tuple[int, int], count: int) -> NDArray[np.bool_]:
        """Return the mask of the `count` whole blocks of largest Frobenius norm.

        The shape of `x` is a multiple of `block`; norms are accumulated in float64; among equal norms the block that
        comes first in C order wins.
        """
        ...

    def spd_inverse(self, g: NDArray[Any], *, overwrite: bool = False) -> NDArray[Any]:
        """Return the inverse of the Hermitian positive definite ``(p, p)`` matrix `g`, full and in its dtype.

        Only the lower triangle of `g` is read, and the result is exactly Hermitian. With `overwrite` the memory of `g`
        may be used, and may hold the result: use what is returned.

        Raises
        ------
        NonFiniteError
            If `g` holds NaN or infinity.
        ArgumentError
            If `g` is not positive definite to working precision.
        """
        ...

    def masked_lsq(self, g: NDArray[Any], r: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """Solve one small Hermitian positive definite system per column, each on its own support.

        Parameters
        ----------
        g : (p, p) array
            Hermitian positive definite; only the lower triangle is read.
        r : (p, n) array
            Right-hand sides, of the dtype of `g`.
        mask : (p, n) bool array

        Returns
        -------
        (p, n) array
            Column j is zero off the support ``S = mask[:, j]`` and solves ``g[S, S] z = r[S, j]`` on it: the least
            squares solution when g is ``F^H F`` and r is ``F^H A``. An unknown whose column depends on the earlier ones
            of the support to working precision (its pivot in the Cholesky factorization is at most ``len(S) * eps``
            times its diagonal entry) gets the value zero; finite input never gives NaN.
        """
        ...

    def rank1(self, blocks: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the dominant singular triple of every block: the best approximation of rank one.

        Parameters
        ----------
        blocks : (..., b, c) array
            Finite, in any memory layout, with b and c at least one.

        Returns
        -------
        u : (..., b) array
            Unit vectors.
        s : (...) real array
            The largest singular values.
        v : (..., c) array
            Unit vectors, rows as in NumPy's ``vh``: a block is near ``s * outer(u, v)``. The captured energy ``s**2``
            is that of the SVD up to rounding, and up to 1e-10 of it (1e-6 in single precision) where both sides are 32
            or more and the two largest singular values are not closer to each other than some 1e-5 of their size; a
            zero block has s = 0. Which of equal directions, and which sign, is not specified.
        """
        ...

    def rank_r(self, blocks: NDArray[Any], r: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the `r` leading singular triples of every block, from large to small.

        Parameters
        ----------
        blocks : (..., b, c) array
            Finite, in any memory layout.
        r : int
            At least one, at most ``min(b, c)``.

        Returns
        -------
        u : (..., b, r) array
            With orthonormal columns.
        s : (..., r) real array
        v : (..., r, c) array
            With orthonormal rows: a block is near ``(u * s[..., None, :]) @ v``, and no matrix of rank r is nearer, up
            to rounding.
        """
        ...

    def sweep(
        self, x: NDArray[Any], levels: Sequence[tuple[int, int, int, int]]
    ) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float64], np.float64]:
        """Peel factors off a stack of matrices from the left, by truncated SVDs of interleaved blocks.

        At a level ``(b, p, r, d)`` the stack has shape ``(k, b * d, w)`` and p divides w. For every entry i, interval
        ``q < p`` of ``w / p`` columns and residue ``l < d`` the block of the rows l, l + d, ... of entry i in that
        interval is ``B`` (b x w / p), and its r leading left singular vectors are ``U`` (b x r). They are kept, and
        ``U^H B`` goes on: ``next[i * p + q, kappa * d + l] = (U^H B)[kappa]``, a stack of shape ``(k p, r d, w / p)``.

        Parameters
        ----------
        x : (k, rows, w) array
            In any memory layout.
        levels : sequence of (b, p, r, d)
            With ``1 <= r <= min(b, w / p)``, which is trusted like the divisibility.

        Returns
        -------
        lefts : list of (k, b, p * r, d) arrays
            One per level: ``lefts[.][i, :, q * r : (q + 1) * r, l]`` is U, with orthonormal columns that span the space
            of the leading left singular vectors; which basis of it is not specified, and for r = b it may be the unit
            vectors.
        rest : array
            The stack after the last level, never the memory of `x`.
        missed : (len(levels),) float64 array
            The squared Frobenius norm of what each level leaves out, summed over the rows that are left out and never
            a difference of large numbers.
        energy : float64 scalar
            The squared Frobenius norm of x.

        Notes
        -----
        Where x holds NaN or infinity, or entries whose squares leave the range of its dtype, `energy` is not finite and
        nothing else is specified: check it first.
        """
        ...

    def mirrored(self, x: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
        """Return the transposes of a stack of matrices, their rows and columns taken in another order first.

        Parameters
        ----------
        x : (k, m, n) array
            In any memory layout.
        rows, columns : (m,) and (n,) integer arrays of NumPy
            Permutations.

        Returns
        -------
        (k, n, m) array
            Entry (i, j, l) is ``x[i, rows[l], columns[j]]``; never the memory of `x`.
        """
        ...

    def admm_update(self, b: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Set ``t = b + where(mask, 0, t)`` in place, all ``(m, n)``.

        The dual step of ADMM for a hard support: with T = B + U the new dual U is T off the mask and zero on it.
        """
        ...

    def admm_rhs(
        self, c: NDArray[Any], t: NDArray[Any], mask: NDArray[np.bool_], rho: float, out: NDArray[Any]
    ) -> None:
        """Set ``out = c + rho * where(mask, t, -t)`` in place, all ``(m, n)``; `out` may be `c` or `t`.

        The right-hand side ``C + rho (Z - U)`` of the next linear step, with Z = T on the mask and U = T off it.
        """
        ...

    def ks_apply(self, values: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Return the product of one Kronecker-sparse factor with a matrix of columns.

        Parameters
        ----------
        values : (a, b, c, d) array
            Entry ``((i*b + p)*d + q, (i*c + r)*d + q)`` of the factor is ``values[i, p, r, q]``, all others are zero.
        x : (a*c*d, B) array
            Of the type of `values`, or complex of its precision.

        Returns
        -------
        (a*b*d, B) array
        """
        ...

    def ks_grad(self, pattern: tuple[int, int, int, int], x: NDArray[Any], gy: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient of a loss in the values of a Kronecker-sparse factor K, from that in ``K @ x``.

        Parameters
        ----------
        pattern : (a, b, c, d)
            The shape of the values, as in `ks_apply`.
        x : (a*c*d, B) array
            What the factor multiplied.
        gy : (a*b*d, B) array
            The gradient in the product, of the type of `x`.

        Returns
        -------
        (a, b, c, d) array
            ``sum_n gy[(i*b + p)*d + q, n] * conj(x[(i*c + r)*d + q, n])`` at ``[i, p, r, q]``: its inner product with a
            change of the values is that of `gy` with the change of the product.
        """
        ...

    def sddmm(self, indptr: NDArray[Any], indices: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """Return the product of two dense matrices at the entries of a CSR support only.

        Parameters
        ----------
        indptr, indices : (m + 1,) and (nnz,) integer arrays
            The support: row i has the columns ``indices[indptr[i] : indptr[i + 1]]``.
        x, y : (m, k) and (k, n) arrays
            Of one type.

        Returns
        -------
        (nnz,) array
            ``x[i] @ y[:, j]`` for each entry (i, j), in the order of `indices`.
        """
        ...

    def prepare_chain(
        self, parts: Sequence[Any], dtype: Any, *, vectors: bool = False, rows: NDArray[Any] | None = None
    ) -> PreparedChain:
        """Lay out a product of sparse factors for many products with dense matrices.

        Parameters
        ----------
        parts : sequence, left to right, at least one
            Arrays (a, b, c, d): the values of Kronecker-sparse factors as in `ks_apply`; or CSR arrays with sorted
            indices (what has `data`, `indices`, `indptr` and `shape`). Neighbours share their inner dimension.
        dtype : dtype
            What the values are converted to.
        vectors : bool
            Whether to lay out for one or two columns rather than for many. Any number is multiplied either way.
        rows : (k,) integer array, optional
            The chain multiplies ``x[rows]`` in place of x.

        Returns
        -------
        PreparedChain
        """
        ...


class PreparedChain(Protocol):
    """A product of sparse factors, laid out by `Backend.prepare_chain`; safe to use from several threads."""

    def apply(self, x: NDArray[Any], *, rows_first: bool = False) -> NDArray[Any]:
        """Return the product with a matrix of columns, as a new array.

        Parameters
        ----------
        x : (n, B) array
            Of the type of the values, or complex of its precision, in any memory layout; it is not written to. Every
            column is multiplied on its own, and the result does not depend on the number of threads.
        rows_first : bool
            Whether the result lies in memory column by column.

        Returns
        -------
        (m, B) array
        """
        ...
