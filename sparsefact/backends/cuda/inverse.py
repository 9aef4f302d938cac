"""The inverse of a Hermitian positive definite matrix by CUDA's libraries: ``G = L L^H``, then ``G^-1 = L^-H L^-1``."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsefact.backends.cuda.launcher import Launcher, contiguous
from sparsefact.errors import ArgumentError, NonFiniteError

__all__ = ["spd_inverse"]


def spd_inverse(launcher: Launcher, g: Any) -> Any:
    """Return the inverse of a Hermitian positive definite matrix, full and in its dtype.

    The host waits once or twice, to learn whether the factorization failed.
    """
    xp, p = launcher.xp, g.shape[0]
    if p == 0:
        return xp.zeros((0, 0), dtype=g.dtype)
    factor = _cholesky(launcher, g)
    if factor is None or not bool(xp.isfinite(factor.diagonal()).all()):
        bad = int(xp.count_nonzero(~xp.isfinite(xp.tril(g))))
        if bad:
            raise NonFiniteError(f"g holds {bad} NaN or infinite entries; a matrix to invert must be finite")
        raise ArgumentError(
            f"g must be positive definite to working precision ({g.dtype}), and its Cholesky factorization fails; "
            "add a multiple of the identity"
        )
    solve = launcher.library("cupyx.scipy.linalg").solve_triangular
    root = solve(factor, xp.eye(p, dtype=g.dtype), lower=True, overwrite_b=True)
    del factor
    inverse = contiguous(launcher, root.conj().T @ root)
    across = -(-p // 32)
    launcher.launch("hermitian", "mirror", inverse.dtype, across * across, 256, (inverse, p))
    return inverse


def _cholesky(launcher: Launcher, g: Any) -> Any:
    """Return L, or None where cuSOLVER finds a pivot that is not positive."""
    try:
        with launcher.library("cupyx").errstate(linalg="raise"):
            return launcher.xp.linalg.cholesky(g)
    except np.linalg.LinAlgError:
        return None
