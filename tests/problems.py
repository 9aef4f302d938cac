"""Random problems that several test files solve."""

from __future__ import annotations

import numpy as np

import sparsefact as sf

__all__ = ["draw", "least_squares"]


def draw(rng, shape, dtype=np.float64):
    """Normal numbers; complex ones have a normal imaginary part."""
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def least_squares(seed, m=30, p=8, n=3, kind="r"):
    """Samples, targets, and their least squares as a quadratic."""
    rng = np.random.default_rng(seed)
    F, A = rng.standard_normal((m, p)), rng.standard_normal((m, n))
    if kind == "c":
        F, A = F + 1j * rng.standard_normal((m, p)), A + 1j * rng.standard_normal((m, n))
    return F, A, sf.Quadratic(F.conj().T @ F, F.conj().T @ A, constant=0.5 * np.linalg.norm(A) ** 2)
