"""The linear systems of `admm`: with one Gram matrix by its shifted inverse, with two in their eigenvectors.

Symbols: G gram (p, p), H right_gram (n, n), B unknown and R right-hand side (p, n).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend

__all__ = ["OneSided", "RightGram", "TwoSided", "rescale", "scales_of"]

# Products with a Gram matrix by which its leading eigenvectors are approached, and with what they leave.
_PASSES, _POWERS = 2, 20


class OneSided:
    """``(G + ridge I + rho I) B = R``: one product with the inverse per solve."""

    def __init__(self, gram: NDArray[Any], ridge: float, backend: Backend) -> None:
        self.gram: NDArray[Any] | None = gram
        self.backend, self.diagonal = backend, gram.diagonal() + ridge
        self.inverse: NDArray[Any] | None = None

    def _shifted(self, rho: float) -> NDArray[Any]:
        assert self.gram is not None
        self.gram.reshape(-1)[:: self.gram.shape[0] + 1] = self.diagonal + rho
        return self.gram

    def prepare(self, rho: float, *, keep_gram: bool) -> None:
        """Get ready for solves with the penalty `rho`; others follow if the gram is to be kept."""
        self.inverse = None
        self.inverse = self.backend.spd_inverse(self._shifted(rho), overwrite=not keep_gram)
        if not keep_gram:
            self.gram = None

    def solve(self, rhs: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        """Return the solution; `out` may hold it."""
        solved: NDArray[Any] = self.backend.xp.matmul(self.inverse, rhs, out=out)
        return solved


class RightGram:
    """A right Gram matrix, what scales it to a unit diagonal, and the eigenvectors of the scaled one.

    With `rest`, only the leading eigenvectors are known, and `rest` stands for all other eigenvalues.
    """

    def __init__(self, gram: NDArray[Any], backend: Backend) -> None:
        self.gram, self.scale = gram, scales_of(gram)[None, :]
        scaled = gram.copy()
        rescale(scaled, 1 / self.scale.T, 1 / self.scale)
        self.values, self.vectors = backend.xp.linalg.eigh(scaled)
        self.values *= self.values > 0
        self.rest: Any = None

    @classmethod
    def leading(cls, gram: NDArray[Any], count: int, seed: int, backend: Backend) -> RightGram:
        """Return the leading part of a Gram matrix with a unit diagonal, by subspace iteration.

        The rest is half of the largest eigenvalue that is left (by power iterations): what is solved with it goes at
        most twice too far where the eigenvalue is larger, which is stable, and not far enough where it is smaller.
        """
        xp, found = backend.xp, object.__new__(cls)
        start = np.random.default_rng(seed).standard_normal((len(gram), count)).astype(gram.real.dtype)
        basis = backend.asarray(start)
        for _ in range(_PASSES):
            basis = xp.linalg.qr(gram @ basis)[0]
        values, vectors = xp.linalg.eigh(basis.conj().T @ (gram @ basis))
        found.gram, found.scale = gram, xp.ones_like(gram.real[:1])
        found.values, found.vectors, found.rest = values, basis @ vectors, values[0] * 0
        vector = backend.asarray(start[:, :1].T)
        for _ in range(_POWERS):
            vector = vector / xp.linalg.norm(vector)
            vector = vector @ gram - found.product(vector)
        found.rest = xp.linalg.norm(vector) / 2
        return found

    def product(self, b: NDArray[Any]) -> NDArray[Any]:
        """Return b times the matrix that is known by its leading part."""
        part = b @ self.vectors
        part *= self.values - self.rest
        image: NDArray[Any] = part @ self.vectors.conj().T
        image += self.rest * b
        return image


class TwoSided:
    """``(G + ridge I) B (H + ridge I) + rho B = R``: in the eigenvectors of both the system is diagonal."""

    def __init__(self, gram: NDArray[Any], right: RightGram, ridge: float, backend: Backend) -> None:
        self.values, self.vectors = backend.xp.linalg.eigh(gram)
        self.values[...] = self.values * (self.values > 0) + ridge
        self.right_values, self.right_vectors = right.values + ridge, right.vectors
        self.rest = None if right.rest is None else right.rest + ridge

    def prepare(self, rho: float, *, keep_gram: bool) -> None:
        """Get ready for solves with the penalty `rho`; others follow if the gram is to be kept."""
        left, shift = self.values[:, None], self.values.dtype.type(rho)
        self.weights = 1 / (left * self.right_values[None, :] + shift)
        if self.rest is not None:
            rest = 1 / (left * self.rest + shift)
            self.weights -= rest
            self.inverse = (self.vectors * rest.T) @ self.vectors.conj().T

    def solve(self, rhs: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
        """Return the solution; `out` may hold it."""
        q, r = self.vectors, self.right_vectors
        solved: NDArray[Any]
        if self.rest is None:
            inner = q.conj().T @ rhs @ r
            inner *= self.weights
            solved = q @ inner @ r.conj().T
        else:
            inner = q.conj().T @ (rhs @ r)
            inner *= self.weights
            solved = (q @ inner) @ r.conj().T
            solved += self.inverse @ rhs
        return solved


def scales_of(gram: NDArray[Any]) -> NDArray[Any]:
    """Return the square roots of the diagonal; 1 where it is zero, for an unknown that does not matter."""
    diagonal = gram.diagonal().real
    scales: NDArray[Any] = (diagonal + (diagonal <= 0)) ** 0.5
    return scales


def rescale(x: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> None:
    """Multiply row i by left[i, 0] and column j by right[0, j], in place; one number for many columns is a 1."""
    x *= left
    if right.size == x.shape[1]:
        x *= right
