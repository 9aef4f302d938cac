"""The best softmax regression on the iris data for every support of its 15 parameters, by Newton's method.

    f(W) = mean cross-entropy of the 150 standardised samples + .01/2 ||W||^2,   W (5, 3), the last row the intercept

``python tests/iris_oracle.py`` goes through all 32767 supports and rewrites ``tests/data/iris_optima.json``.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

L2 = 0.01
STORED = Path(__file__).parent / "data" / "iris_optima.json"


def data():
    """Return the standardised samples (150, 4) and the labels."""
    from sklearn.datasets import load_iris

    x, labels = load_iris(return_X_y=True)
    return (x - x.mean(axis=0)) / x.std(axis=0), labels


def optima(masks):
    """Return the minimum over each support, given as rows of 15 booleans, by damped Newton on all of them at once."""
    x, labels = data()
    x = np.c_[x, np.ones(len(x))]
    n, pairs = len(x), np.einsum("ij,ik->ijk", x, x).reshape(len(x), 25)
    masks = np.asarray(masks, dtype=bool)
    w = np.zeros((len(masks), 15))
    one_hot = np.eye(3)[labels]

    def value(w):
        scores = np.einsum("ij,bjc->bic", x, w.reshape(-1, 5, 3))
        top = scores.max(axis=2, keepdims=True)
        logs = scores - top - np.log(np.exp(scores - top).sum(axis=2, keepdims=True))
        return -(logs * one_hot).sum(axis=(1, 2)) / n + L2 / 2 * (w**2).sum(axis=1), np.exp(logs)

    here, chances = value(w)
    for _ in range(60):
        slope = np.einsum("ij,bic->bjc", x, chances - one_hot).reshape(-1, 15) / n + L2 * w
        slope *= masks
        if np.abs(slope).max() < 1e-12:
            break
        curved = chances[:, :, :, None] * (np.eye(3) - chances[:, :, None, :])
        hessian = np.einsum("ik,bicd->bkcd", pairs, curved, optimize=True).reshape(-1, 5, 5, 3, 3) / n
        hessian = hessian.transpose(0, 1, 3, 2, 4).reshape(-1, 15, 15) + L2 * np.eye(15)
        hessian = np.where(masks[:, :, None] & masks[:, None, :], hessian, np.eye(15))
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        length = np.ones(len(w))
        for _ in range(30):
            there, probabilities = value(w - length[:, None] * step)
            worse = there > here + 1e-15
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        w = w - length[:, None] * step
        here, chances = there, probabilities
    return here


def supports(size):
    """Return all supports with so many of the 15 parameters, (count, 15)."""
    chosen = list(itertools.combinations(range(15), size))
    masks = np.zeros((len(chosen), 15), dtype=bool)
    masks[np.arange(len(chosen))[:, None], np.array(chosen)] = True
    return masks


def main():
    best = {}
    for size in range(1, 16):
        masks = supports(size)
        found = np.concatenate([optima(part) for part in np.array_split(masks, 1 + len(masks) // 500)])
        best[size] = float(found.min())
        print(size, len(found), best[size])
    STORED.write_text(json.dumps(best, indent=1) + "\n")


if __name__ == "__main__":
    main()
