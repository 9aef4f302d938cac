"""Group matching pursuit with and without replacement, where inputs are correlated.

64 inputs that all share a part, 32 outputs, 8 of 32 blocks of 8 x 8 in the true matrix, noise 0.1: how often the exact
blocks are found, over 30 draws.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.reproduce.matching_pursuit        # half a minute
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.reproduce.study import axes, command, tell

INPUTS, OUTPUTS, BLOCK, COUNT, NOISE = 64, 32, (8, 8), 8, 0.1
DESIGNS = [(0.0, 48), (0.0, 64), (0.7, 64), (0.7, 96), (0.95, 64), (0.95, 96), (0.95, 160)]

Array = NDArray[Any]


def draw(correlation: float, samples: int, seed: int) -> tuple[Array, Array, Array]:
    """Return equicorrelated inputs, outputs, and which blocks are not zero."""
    rng = np.random.default_rng(seed)
    X = np.sqrt(1 - correlation) * rng.standard_normal((samples, INPUTS))
    X += np.sqrt(correlation) * rng.standard_normal((samples, 1))
    grid = (INPUTS // BLOCK[0], OUTPUTS // BLOCK[1])
    blocks = np.zeros(grid, dtype=bool)
    blocks.flat[rng.choice(blocks.size, COUNT, replace=False)] = True
    truth = rng.standard_normal((INPUTS, OUTPUTS)) * np.kron(blocks, np.ones(BLOCK))
    return X, X @ truth + NOISE * rng.standard_normal((samples, OUTPUTS)), truth != 0


def by(solver: Any) -> Callable[[Array, Array], Array]:
    """Return the function that gives the support that a solver finds."""

    def support(X: Array, Y: Array) -> Array:
        constraint = sf.BlockTopK(BLOCK, count=COUNT)
        found: Array = sf.minimize(sf.LeastSquares(X, Y), constraint, solver).value != 0
        return found

    return support


def of_dense_fit(X: Array, Y: Array) -> Array:
    """Return the largest blocks of the solution without a constraint."""
    found: Array = sf.BlockTopK(BLOCK, count=COUNT).project(np.linalg.lstsq(X, Y, rcond=None)[0]) != 0
    return found


METHODS: dict[str, Callable[[Array, Array], Array]] = {
    "largest blocks of the dense fit": of_dense_fit,
    "additions, columns as they are": by(sf.MatchingPursuit(replacement=False, scaled=False)),
    "additions": by(sf.MatchingPursuit(replacement=False)),
    "additions and replacements": by(sf.MatchingPursuit()),
    "ADMM": by(sf.ADMM()),
}


def measure(quick: bool) -> Any:
    """Return how often each method finds the support, for every design."""
    trials = 3 if quick else 30
    rows = []
    for correlation, samples in DESIGNS[4:5] if quick else DESIGNS:
        hits = dict.fromkeys(METHODS, 0)
        for seed in range(trials):
            X, Y, support = draw(correlation, samples, seed)
            for name, find in METHODS.items():
                hits[name] += bool(np.array_equal(find(X, Y), support))
        rates = {name: hit / trials for name, hit in hits.items()}
        rows.append({"correlation": correlation, "samples": samples, "rates": rates})
        tell(f"correlation {correlation}, {samples} samples: {rates}")
    return {"trials": trials, "rows": rows}


def figure(results: Any) -> matplotlib.figure.Figure:
    """Return the rates, one group of bars for each design."""
    drawn, (ax,) = axes(8, 3.6)
    places = np.arange(len(results["rows"]))
    width = 0.8 / len(METHODS)
    for index, name in enumerate(METHODS):
        rates = [row["rates"][name] for row in results["rows"]]
        ax.bar(places + (index - (len(METHODS) - 1) / 2) * width, rates, width, label=name)
    ax.set_xticks(places, [f"{row['correlation']:g}\nn = {row['samples']}" for row in results["rows"]])
    ax.set(xlabel="correlation of the inputs, samples", ylabel="exact support found", ylim=(0, 1.35))
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.legend(ncols=2, fontsize="small", loc="upper center")
    return drawn


if __name__ == "__main__":
    command("matching_pursuit", measure, __doc__)
