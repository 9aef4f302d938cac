"""The sweep that peels factors off a stack of matrices, level by level: one batch of truncated SVDs each, no host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsefact.backends.cuda.launcher import Launcher, contiguous, zeros
from sparsefact.backends.cuda.low_rank import rank_r

__all__ = ["sweep"]


def sweep(launcher: Launcher, x: Any, levels: Sequence[tuple[int, int, int, int]]) -> tuple[list[Any], Any, Any, Any]:
    """Peel factors off a stack of matrices from the left, by truncated SVDs of interleaved blocks."""
    xp = launcher.xp
    stack = contiguous(launcher, x)
    stack = stack.copy() if stack is x else stack
    energy = _squares(xp, stack)
    lefts, missed = [], zeros(launcher, len(levels), np.float64)
    for level, (b, p, r, d) in enumerate(levels):
        k, _, w = stack.shape
        blocks = stack.reshape(k, b, d, p, w // p).transpose(0, 3, 2, 1, 4)
        u, s, v = rank_r(launcher, blocks, r)
        kept = s[..., None] * v
        if r < min(b, w // p):
            missed[level] = _squares(xp, blocks - u @ kept)
        lefts.append(contiguous(launcher, u.transpose(0, 3, 1, 4, 2)).reshape(k, b, p * r, d))
        stack = contiguous(launcher, kept.transpose(0, 1, 3, 2, 4)).reshape(k * p, r * d, w // p)
    return lefts, stack, missed, energy


def _squares(xp: Any, x: Any) -> Any:
    """Return the sum of squared magnitudes, accumulated in float64."""
    return (xp.abs(x).astype(np.float64) ** 2).sum()
