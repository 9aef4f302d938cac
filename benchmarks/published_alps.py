"""A plain NumPy transcription of ALPS, the best published pruning of one matrix with calibration data.

X. Meng, K. Behdin, H. Wang, R. Mazumder, "ALPS: Improved optimization for highly sparse one-shot pruning for large
language models", NeurIPS 2024: ADMM on the layer-wise quadratic with one eigendecomposition for every penalty, which
grows with the change of the support, then conjugate gradients on the support. Nothing is tuned: `np.linalg.eigh`,
`np.argpartition` for the threshold, float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.published_double_sparse import top_mask

Array = NDArray[Any]


def prune(matrix: Array, gram: Array, density: float, iterations: int = 300) -> Array:
    """Return the (m, n) matrix with floor(density m n) nonzeros near `matrix` in the loss weighted by `gram`."""
    k = int(density * matrix.size)
    damped = gram + 0.01 * gram.diagonal().mean() * np.eye(len(gram), dtype=gram.dtype)
    scale = np.sqrt(damped.diagonal())
    scaled, target = damped / scale / scale[:, None], (matrix * scale).T
    values, vectors = np.linalg.eigh(scaled)
    cross = scaled @ target
    sparse, multiplier, rho = target.copy(), np.zeros_like(target), 0.1
    mask = compared = np.zeros(target.shape, bool)
    for iteration in range(iterations):
        solution = vectors @ ((vectors.T @ (cross - multiplier + rho * sparse)) / (values + rho)[:, None])
        sparse = solution + multiplier / rho
        mask = top_mask(sparse, k)
        sparse = sparse * mask
        multiplier = multiplier + rho * (solution - sparse)
        if iteration % 3 == 2:
            change = np.count_nonzero(mask != compared)
            compared = mask
            if change >= 0.1 * k:
                rho *= 1.3
            elif change >= 0.005 * k:
                rho *= 1.2
            elif change >= 1:
                rho *= 1.1
            if change == 0 or (iteration >= 30 and change < 3e-4 * k):
                break
    # conjugate gradients with the residual kept on the support
    residual = (cross - scaled @ sparse) * mask
    direction, size = residual, (residual**2).sum(0)
    for _ in range(10):
        image = (scaled @ direction) * mask
        length = size / np.maximum((direction * image).sum(0), 1e-30)
        sparse = sparse + length * direction
        residual = residual - length * image
        size, previous = (residual**2).sum(0), size
        direction = residual + size / np.maximum(previous, 1e-30) * direction
    result: Array = (sparse / scale[:, None]).T
    return result
