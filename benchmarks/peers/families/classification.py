"""Multinomial logistic regression with few nonzero weights, on scikit-learn's iris, breast cancer and digits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.peers.case import Attempt, Case, Verdict, Way, Wrong, within
from benchmarks.peers.layers import Layers

# the data set and how many weights are kept
DATA = {"small": ("iris", 5), "medium": ("breast_cancer", 12), "large": ("digits", 120)}
RIDGE = 1e-3
SEARCHED = 8


@dataclass(frozen=True)
class Labelled:
    """Standardised features, labels, and how many weights may be nonzero; no intercept."""

    X: NDArray[Any]
    labels: NDArray[Any]
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """Features and classes."""
        return self.X.shape[1], int(self.labels.max()) + 1


def labelled(name: str, count: int) -> Callable[[Layers], Labelled]:
    """Return what makes the input."""

    def make(layers: Layers) -> Labelled:
        X, labels = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(return_X_y=True)
        spread = X.std(axis=0)
        return Labelled((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1), labels, count)

    return make


def loss(given: Labelled, W: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Return mean cross-entropy + RIDGE / 2 ||W||^2 and its gradient."""
    scores = scipy.special.log_softmax(given.X @ W, axis=1)
    every = np.arange(len(given.labels))
    value = -float(scores[every, given.labels].mean()) + RIDGE / 2 * float((W**2).sum())
    wrong = np.exp(scores)
    wrong[every, given.labels] -= 1
    return value, given.X.T @ wrong / len(given.labels) + RIDGE * W


def judge(given: Labelled, W: Any) -> Verdict:
    """Return the objective."""
    W = np.asarray(W, dtype=np.float64)
    if W.shape != given.shape:
        raise Wrong(f"weights of shape {W.shape} instead of {given.shape}")
    return Verdict(loss(given, W)[0], within(int(np.count_nonzero(W)), given.count))


def refit(given: Labelled, mask: NDArray[Any]) -> NDArray[Any]:
    """Return the weights that minimise the objective where the mask allows them, by scipy's L-BFGS."""
    where = np.flatnonzero(mask)

    def on_support(w: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        W = np.zeros(given.shape)
        W.flat[where] = w
        value, gradient = loss(given, W)
        return value, gradient.ravel()[where]

    found = np.zeros(given.shape)
    found.flat[where] = scipy.optimize.minimize(on_support, np.zeros(len(where)), jac=True, method="L-BFGS-B").x
    return found


def solve(given: Labelled) -> Attempt:
    """Prepare ours."""
    f = sf.LogisticRegression(given.X, given.labels, l2=RIDGE, intercept=False)
    constraint = sf.TopK(nnz=given.count)
    return Attempt(lambda: sf.minimize(f, constraint), lambda found: found.value, lambda found: float(found.objective))


def lasso(given: Labelled) -> Attempt:
    """Prepare scikit-learn's L1 penalty (saga), its strength by bisection, and L-BFGS on the support."""
    linear = importlib.import_module("sklearn.linear_model")
    several = given.shape[1] > 2

    def run() -> NDArray[Any]:
        low, high, mask = 1e-4, 1e2, np.zeros(given.shape, dtype=bool)
        for _ in range(SEARCHED):
            strength = float(np.sqrt(low * high))
            model = linear.LogisticRegression(
                C=strength, l1_ratio=1.0, solver="saga", fit_intercept=False, max_iter=100, random_state=0
            )
            weights = model.fit(given.X, given.labels).coef_.T
            # with two classes there is one vector, for their difference
            weights = weights if several else np.hstack([np.zeros_like(weights), weights])
            if np.count_nonzero(weights) <= given.count:
                low, mask = strength, weights != 0
            else:
                high = strength
        return refit(given, mask)

    return Attempt(run, np.asarray)


def of_dense_fit(given: Labelled) -> Attempt:
    """Prepare the largest weights of the fit without a constraint, by scipy's L-BFGS, which then fits them again."""

    def run() -> NDArray[Any]:
        dense = refit(given, np.ones(given.shape, dtype=bool))
        mask = np.zeros(dense.size, dtype=bool)
        mask[np.argpartition(np.abs(dense).ravel(), dense.size - given.count)[dense.size - given.count :]] = True
        return refit(given, mask.reshape(given.shape))

    return Attempt(run, np.asarray)


def cases() -> list[Case]:
    """Return the cases."""
    ways = (
        Way("sparsefact", "", solve, ("sklearn",)),
        Way("scikit-learn", "L1 penalty, and refit", lasso, ("sklearn",)),
        Way("scipy", "largest weights of the dense fit, and refit", of_dense_fit, ("sklearn",)),
    )
    return [
        Case(
            "classification",
            size,
            f"{name.replace('_', ' ')}, {count} weights kept",
            "mean cross-entropy with a small ridge",
            labelled(name, count),
            judge,
            ways,
        )
        for size, (name, count) in DATA.items()
    ]
