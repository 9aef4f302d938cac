"""A plain NumPy transcription of the ADMM pruning of one matrix with calibration data.

V. Boza, "Fast and effective weight update for pruned large language models", TMLR 2024: inputs scaled to a Gram matrix
of unit diagonal, penalty one, twenty iterations, of which the first fifteen move the mask while the sparsity grows as a
cubic. Nothing is tuned: `np.linalg.inv`, `np.argpartition` for the threshold, the types of the input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.published_double_sparse import top_mask

Array = NDArray[Any]


def prune(matrix: Array, gram: Array, density: float, iterations: int = 20, moving: int = 15) -> Array:
    """Return the (m, n) matrix with floor(density m n) nonzeros near `matrix` in the loss weighted by `gram`."""
    kept = int(density * matrix.size)
    damped = gram + 0.01 * gram.diagonal().mean() * np.eye(len(gram), dtype=gram.dtype)
    scale = np.sqrt(damped.diagonal())
    scaled, target = damped / scale / scale[:, None], (matrix * scale).T
    cross = scaled @ target
    inverse = np.linalg.inv(scaled + np.eye(len(gram), dtype=gram.dtype))
    solution, sparse, dual = target, target, np.zeros_like(target)
    mask = np.ones(target.shape, bool)
    for iteration in range(iterations):
        if iteration < moving:
            pruned = (1 - density) * (1 - (1 - (iteration + 1) / moving) ** 3)
            mask = top_mask(solution + dual, max(kept, int((1 - pruned) * matrix.size)))
        sparse = (solution + dual) * mask
        dual = dual + solution - sparse
        solution = inverse @ (cross + sparse - dual)
    result: Array = ((solution + dual) * mask / scale[:, None]).T
    return result
