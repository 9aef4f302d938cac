"""The energies of blocks and of what a truncation leaves of them, in one pass and accumulated in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import REASSOCIATE, jit
from sparsefact.backends.cpu.threads import over_ranges

__all__ = ["leftover"]


def leftover(blocks: NDArray[Any], u: NDArray[Any], kept: NDArray[Any]) -> tuple[np.float64, np.float64]:
    """Return the sums of ``||B||^2`` and of ``||B - U K||^2`` over blocks.

    Parameters
    ----------
    blocks : (n, b, c) array
    u : (n, b, r) array
    kept : (n, r, c) array
    """
    count = blocks.shape[0]
    energies = np.zeros((count, 2))
    blocks, u, kept = (np.ascontiguousarray(array) for array in (blocks, u, kept))

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        _leftover(blocks[part], u[part], kept[part], energies[part])

    over_ranges(work, count, grain=1 + (1 << 16) // max(1, blocks[:1].size))
    total, missed = energies.sum(axis=0)
    return total, missed


@jit(fastmath=REASSOCIATE)
def _leftover(blocks: NDArray[Any], u: NDArray[Any], kept: NDArray[Any], energies: NDArray[np.float64]) -> None:
    rank = u.shape[2]
    for n in range(blocks.shape[0]):
        total, missed = 0.0, 0.0
        rest = np.empty(blocks.shape[2], blocks.dtype)
        for i in range(blocks.shape[1]):
            row = blocks[n, i]
            for j in range(row.size):
                rest[j] = row[j]
            for kappa in range(rank):
                weight, other = u[n, i, kappa], kept[n, kappa]
                for j in range(row.size):
                    rest[j] -= weight * other[j]
            for j in range(row.size):
                total += np.float64(row[j].real) ** 2 + np.float64(row[j].imag) ** 2
                missed += np.float64(rest[j].real) ** 2 + np.float64(rest[j].imag) ** 2
        energies[n, 0], energies[n, 1] = total, missed
