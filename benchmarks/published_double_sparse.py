"""A plain NumPy transcription of the published double sparse factorization, to measure beside.

V. Boza, V. Macko, "Two sparse matrices are better than one: sparsifying neural networks with double sparse
factorization", ICLR 2025: 40 outer iterations of two ADMM half-steps with 5 inner iterations each, without calibration
data. Nothing is tuned: `np.linalg.inv`, `np.argpartition` for the threshold, float32.

Also what the authors' own code reached (its errors, after its final step) on the matrices of the benchmark.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LAYERS = {
    "q384": "encoder.layer.2.attention.self.query.weight",
    "o384": "encoder.layer.2.attention.output.dense.weight",
    "fc1_1536x384": "encoder.layer.2.intermediate.dense.weight",
    "fc2_384x1536": "encoder.layer.2.output.dense.weight",
}
"""Layers of the sentence-embedding transformer all-MiniLM-L6-v2 (Apache-2.0), by the benchmark's short names."""

AUTHORS = {
    "q384": {0.5: 0.1156, 0.4: 0.1713, 0.3: 0.2568, 0.2: 0.4243},
    "o384": {0.5: 0.1115, 0.4: 0.1638, 0.3: 0.2439, 0.2: 0.3948},
    "fc1_1536x384": {0.5: 0.1438, 0.4: 0.2022, 0.3: 0.2797, 0.2: 0.3867},
    "fc2_384x1536": {0.5: 0.1382, 0.4: 0.1940, 0.3: 0.2680, 0.2: 0.3701},
    "gauss512": {0.5: 0.1290, 0.4: 0.1928, 0.3: 0.2886, 0.2: 0.4684},
    "gauss1024": {0.5: 0.1284, 0.3: 0.2868},
    "gauss768x3072": {0.5: 0.1783, 0.4: 0.2542, 0.3: 0.3521, 0.2: 0.4838},
}
"""Relative Frobenius errors of the authors' code (the usamec repository), measured once on the same layers, and on
Gaussian matrices of the same sizes, at the same number of nonzeros."""


def top_mask(x: Array, k: int) -> Array:
    """Return the mask of the k largest magnitudes."""
    flat = np.abs(x).ravel()
    mask = np.zeros(flat.size, bool)
    mask[np.argpartition(flat, flat.size - k)[flat.size - k :]] = True
    return mask.reshape(x.shape)


def half_step(fixed: Array, target: Array, k: int, z: Array, u: Array, first_rho: float) -> tuple[Array, Array]:
    """Improve B in ||target - fixed B|| with k nonzeros: 5 rounds of ADMM, the mask chosen in the first two."""
    norms = np.sqrt((fixed * fixed).sum(0)) + 1e-8
    scaled = fixed / norms
    gram = scaled.T @ scaled
    gram[np.diag_indices_from(gram)] += 0.01 * gram.diagonal().mean()
    cross = scaled.T @ target
    eye = np.eye(len(gram), dtype=gram.dtype)
    inverse, first = np.linalg.inv(gram + eye), np.linalg.inv(gram + first_rho * eye)
    u, z = u * norms[:, None], z * norms[:, None]
    b = first @ (cross + first_rho * (z - u))
    for iteration in range(5):
        if iteration < 2:
            mask = top_mask(b + u, k)
        z = (b + u) * mask
        u = u + (b - z)
        if iteration < 4:
            b = inverse @ (cross + (z - u))
    return z / norms[:, None], u / norms[:, None]


def factorize(matrix: Array, density: float, outer: int = 40) -> tuple[Array, Array]:
    """Return F1, F2 with floor(density m n) nonzeros together; the square one has 16 % (25 %) of its entries."""
    transposed = matrix.shape[0] >= matrix.shape[1]
    target = matrix.T if transposed else matrix
    m, n = target.shape
    left_nnz = int((0.16 if m == n else 0.25) * m * m)
    right_nnz = int(density * target.size) - left_nnz
    left, left_dual = np.eye(m, dtype=target.dtype), np.zeros((m, m), target.dtype)
    right = target * top_mask(target, max(1, right_nnz // 2))
    right_dual = np.zeros_like(right)
    for iteration in range(outer):
        first_rho = min(1.0, iteration / (outer - 3)) ** 3
        z, u = half_step(right.T, target.T, left_nnz, left.T, left_dual.T, first_rho)
        left, left_dual = z.T, u.T
        right, right_dual = half_step(left, target, right_nnz, right, right_dual, first_rho)
    return (right.T, left.T) if transposed else (left, right)


def factorize_data_aware(matrix: Array, gram: Array, density: float, outer: int = 40) -> tuple[Array, Array]:
    """Return F1, F2 as published with calibration data: the search sees the diagonal, the final fit the full Gram.

    The final fit, of the left factor on its support, is exact here.
    """
    scale = np.sqrt(gram.diagonal())
    left, right = factorize(matrix * scale, density, outer)
    right = right / scale
    inner, cross = right @ gram @ right.T, right @ gram @ matrix.T
    inner[np.diag_indices_from(inner)] += 1e-6 * inner.diagonal().mean()
    fitted = np.zeros_like(left)
    for i, row in enumerate(left):
        on = np.flatnonzero(row)
        fitted[i, on] = np.linalg.solve(inner[np.ix_(on, on)], cross[on, i])
    return fitted, right
