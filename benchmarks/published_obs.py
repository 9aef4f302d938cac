"""A plain NumPy transcription of one-shot pruning by optimal brain surgeon steps, column after column.

E. Frantar, D. Alistarh, "SparseGPT: Massive language models can be accurately pruned in one-shot", ICML 2023: the mask
of 128 columns is chosen when they are reached, and what is dropped is made up for in the columns that follow. Nothing
is tuned: damping of one per cent, `np.linalg.cholesky`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.published_double_sparse import top_mask

Array = NDArray[Any]


def prune(matrix: Array, gram: Array, density: float, width: int = 128) -> Array:
    """Return the (m, n) matrix with floor(density m n) nonzeros or fewer near `matrix` in the loss of `gram`."""
    m, n = matrix.shape
    damped = gram + 0.01 * gram.diagonal().mean() * np.eye(n, dtype=gram.dtype)
    # the upper factor of the inverse has the inverses of all trailing parts in it
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = matrix.copy()
    found = np.zeros_like(matrix)
    for start in range(0, n, width):
        stop = min(start + width, n)
        block, diagonal = left[:, start:stop], upper.diagonal()[start:stop]
        mask = top_mask(block / diagonal, int(density * m * (stop - start)))
        missed = np.zeros_like(block)
        for j in range(stop - start):
            column = block[:, j] * mask[:, j]
            found[:, start + j] = column
            missed[:, j] = (block[:, j] - column) / diagonal[j]
            block[:, j:] -= np.outer(missed[:, j], upper[start + j, start + j : stop])
        left[:, stop:] -= missed @ upper[start:stop, stop:]
    return found
