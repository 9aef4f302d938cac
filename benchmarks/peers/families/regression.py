"""Least squares with few nonzeros: single entries, and whole blocks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.peers.case import Attempt, Case, Verdict, Way, Wrong, within
from benchmarks.peers.layers import Layers

# samples, features, nonzeros
VECTORS = {"small": (200, 512, 20), "medium": (500, 2048, 50), "large": (800, 4096, 80)}
# inputs, outputs, samples, blocks kept of 8 x 8
GRIDS = {"small": (64, 32, 48, 8), "medium": (128, 128, 96, 40), "large": (256, 256, 192, 128)}
BLOCK = 8
CORRELATION, NOISE = 0.7, 0.1
GRADIENT_STEPS, STRENGTHS = 300, 20


@dataclass(frozen=True)
class Regression:
    """Inputs, outputs, how many entries (or blocks) may be nonzero, and the side of a block."""

    X: NDArray[Any]
    Y: NDArray[Any]
    count: int
    block: int = 1


def vector(samples: int, features: int, count: int) -> Callable[[Layers], Regression]:
    """Return what makes inputs of which neighbours are correlated, and one output."""

    def make(layers: Layers) -> Regression:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((samples, features))
        for j in range(1, features):
            X[:, j] = CORRELATION * X[:, j - 1] + np.sqrt(1 - CORRELATION**2) * X[:, j]
        w = np.zeros((features, 1))
        w[rng.choice(features, count, replace=False), 0] = rng.standard_normal(count)
        y = X @ w
        y += NOISE * np.linalg.norm(y) / np.sqrt(samples) * rng.standard_normal(y.shape)
        return Regression(X, y, count)

    return make


def blocks(inputs: int, outputs: int, samples: int, count: int) -> Callable[[Layers], Regression]:
    """Return what makes inputs that all share a part, and outputs of a few blocks."""

    def make(layers: Layers) -> Regression:
        rng = np.random.default_rng(0)
        X = np.sqrt(1 - CORRELATION) * rng.standard_normal((samples, inputs))
        X += np.sqrt(CORRELATION) * rng.standard_normal((samples, 1))
        grid = np.zeros((inputs // BLOCK, outputs // BLOCK), dtype=bool)
        grid.flat[rng.choice(grid.size, count, replace=False)] = True
        Y = X @ (rng.standard_normal((inputs, outputs)) * np.kron(grid, np.ones((BLOCK, BLOCK))))
        Y += NOISE * np.linalg.norm(Y) / np.sqrt(Y.size) * rng.standard_normal(Y.shape)
        return Regression(X, Y, count, BLOCK)

    return make


def norms(W: NDArray[Any], block: int) -> NDArray[Any]:
    """Return the Frobenius norms of all blocks, (rows / block, columns / block)."""
    rows, cols = (size // block for size in W.shape)
    sizes: NDArray[Any] = np.sqrt((W.reshape(rows, block, cols, block) ** 2).sum(axis=(1, 3)))
    return sizes


def judge(given: Regression, W: Any) -> Verdict:
    """Return the relative residual."""
    W = np.asarray(W, dtype=np.float64)
    if W.shape != (given.X.shape[1], given.Y.shape[1]):
        raise Wrong(f"coefficients of shape {W.shape} for {given.X.shape[1]} inputs and {given.Y.shape[1]} outputs")
    kept = within(int(np.count_nonzero(norms(W, given.block))), given.count)
    error = float(np.linalg.norm(given.Y - given.X @ W) / np.linalg.norm(given.Y))
    return Verdict(error, kept * given.block**2)


def refit(given: Regression, W: NDArray[Any]) -> NDArray[Any]:
    """Return the least squares solution on the support of W, made of whole blocks."""
    kept = np.kron(norms(W, given.block) > 0, np.ones((given.block, given.block), dtype=bool))
    found = np.zeros(kept.shape)
    for j in range(0, kept.shape[1], given.block):
        rows = np.flatnonzero(kept[:, j])
        found[rows, j : j + given.block] = np.linalg.lstsq(
            given.X[:, rows], given.Y[:, j : j + given.block], rcond=None
        )[0]
    return found


def largest(W: NDArray[Any], count: int, block: int) -> NDArray[Any]:
    """Return W with only its largest blocks."""
    sizes = norms(W, block)
    keep = np.zeros(sizes.size, dtype=bool)
    keep[np.argpartition(sizes.ravel(), sizes.size - count)[sizes.size - count :]] = True
    found: NDArray[Any] = W * np.kron(keep.reshape(sizes.shape), np.ones((block, block)))
    return found


def solve(given: Regression) -> Attempt:
    """Prepare ours."""
    f = sf.LeastSquares(given.X, given.Y)
    constraint = sf.TopK(nnz=given.count) if given.block == 1 else sf.BlockTopK((BLOCK, BLOCK), count=given.count)
    energy = float(np.linalg.norm(given.Y))
    return Attempt(
        lambda: sf.minimize(f, constraint),
        lambda solution: solution.value,
        lambda solution: float(np.sqrt(max(0.0, 2 * solution.objective))) / energy,
    )


def pursuit(given: Regression) -> Attempt:
    """Prepare scikit-learn's orthogonal matching pursuit."""
    linear = importlib.import_module("sklearn.linear_model")
    y = given.Y[:, 0]
    return Attempt(lambda: linear.orthogonal_mp(given.X, y, n_nonzero_coefs=given.count), lambda w: w[:, None])


def lasso(given: Regression) -> Attempt:
    """Prepare scikit-learn's Lasso path to the last point with few enough nonzeros, and least squares on those."""
    linear = importlib.import_module("sklearn.linear_model")
    y = given.Y[:, 0]

    def run() -> NDArray[Any]:
        path = linear.lars_path(given.X, y, method="lasso", max_iter=4 * given.count)[2]
        few = np.flatnonzero(np.count_nonzero(path, axis=0) <= given.count)[-1]
        return refit(given, path[:, few : few + 1])

    return Attempt(run, np.asarray)


def thresholding(given: Regression) -> Attempt:
    """Prepare iterative hard thresholding in plain NumPy, with one step length, and least squares on its support."""

    def run() -> NDArray[Any]:
        step = 1 / np.linalg.norm(given.X, 2) ** 2
        W = np.zeros((given.X.shape[1], given.Y.shape[1]))
        for _ in range(GRADIENT_STEPS):
            W = largest(W - step * (given.X.T @ (given.X @ W - given.Y)), given.count, given.block)
        return refit(given, W)

    return Attempt(run, np.asarray)


def of_dense_fit(given: Regression) -> Attempt:
    """Prepare the largest blocks of the fit without a constraint, and least squares on them."""

    def run() -> NDArray[Any]:
        dense = np.linalg.lstsq(given.X, given.Y, rcond=None)[0]
        return refit(given, largest(dense, given.count, given.block))

    return Attempt(run, np.asarray)


def group_lasso(given: Regression) -> Attempt:
    """Prepare the group lasso by proximal gradient in plain NumPy, along a path that ends with enough blocks."""

    def run() -> NDArray[Any]:
        gram, cross = given.X.T @ given.X, given.X.T @ given.Y
        step = 1 / np.linalg.norm(gram, 2)
        top = float(norms(cross, given.block).max())
        W = best = np.zeros(cross.shape)
        for strength in np.geomspace(top, 1e-3 * top, STRENGTHS):
            for _ in range(GRADIENT_STEPS // 3):
                W = W - step * (gram @ W - cross)
                sizes = np.maximum(norms(W, given.block), 1e-300)
                shrunk = np.maximum(0.0, 1 - step * strength / sizes)
                W = W * np.kron(shrunk, np.ones((given.block, given.block)))
            if np.count_nonzero(norms(W, given.block)) > given.count:
                break
            best = W
        return refit(given, best)

    return Attempt(run, np.asarray)


def group_pursuit(given: Regression) -> Attempt:
    """Prepare orthogonal matching pursuit of blocks in plain NumPy: the most correlated joins, all are refit."""

    def run() -> NDArray[Any]:
        kept = np.zeros((given.X.shape[1], given.Y.shape[1]))
        W = np.zeros(kept.shape)
        for _ in range(given.count):
            sizes = norms(given.X.T @ (given.Y - given.X @ W), given.block)
            sizes[norms(kept, given.block) > 0] = -1.0
            i, j = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
            rows = slice(i * given.block, (i + 1) * given.block)
            cols = slice(j * given.block, (j + 1) * given.block)
            kept[rows, cols] = 1.0
            # only the outputs of this block change
            chosen = np.flatnonzero(kept[:, cols.start])
            W[chosen, cols] = np.linalg.lstsq(given.X[:, chosen], given.Y[:, cols], rcond=None)[0]
        return W

    return Attempt(run, np.asarray)


def cases() -> list[Case]:
    """Return the cases."""
    entries = (
        Way("sparsefact", "", solve),
        Way("scikit-learn", "orthogonal_mp", pursuit, ("sklearn",)),
        Way("scikit-learn", "lars_path and refit", lasso, ("sklearn",)),
        Way("numpy", f"hard thresholding, {GRADIENT_STEPS} steps, and refit", thresholding),
    )
    whole = (
        Way("sparsefact", "", solve),
        Way("numpy", "group matching pursuit", group_pursuit),
        Way("numpy", "group lasso path and refit", group_lasso),
        Way("numpy", "largest blocks of the dense fit, and refit", of_dense_fit),
    )
    error = "relative residual"
    return [
        Case("regression", size, f"{n} samples, {p} features, {k} kept", error, vector(n, p, k), judge, entries)
        for size, (n, p, k) in VECTORS.items()
    ] + [
        Case(
            "block-regression",
            size,
            f"{p} inputs, {q} outputs, {n} samples, {k} blocks of {BLOCK} x {BLOCK} kept",
            error,
            blocks(p, q, n, k),
            judge,
            whole,
        )
        for size, (p, q, n, k) in GRIDS.items()
    ]
