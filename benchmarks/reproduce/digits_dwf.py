"""Deep weight factorization from scratch: accuracy against compression on the digits, for depths 1 to 4.

A perceptron 64-100-10, all of its data in every step, 2000 steps from the published truncated start; depth 1 is the
plain L1 penalty, by proximal gradient. Compression is the number of weights over that of the nonzero ones.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.reproduce.digits_dwf        # about three minutes
"""

from __future__ import annotations

import time
from typing import Any

import matplotlib.figure
import numpy as np

import sparsefact as sf
from benchmarks.reproduce.study import axes, command, digits, tell

DEPTHS = (1, 2, 3, 4)
PENALTIES = (1e-3, 2e-3, 4e-3, 8e-3)
STEPS = 2000


def solver(depth: int, penalty: float, steps: int) -> Any:
    """Return what minimises the loss plus ``penalty * sum |w|^(2 / depth)``; depth 1 stands for depth 2's lasso."""
    if depth == 1:
        return sf.ProximalGradient(depth=2, penalty=penalty, steps=steps)
    return sf.DeepWeightFactorization(depth=depth, penalty=penalty, steps=steps, start="truncated")


def measure(quick: bool) -> Any:
    """Return accuracy and compression for every depth and penalty."""
    images, labels, held_images, held_labels = digits(0)
    network = sf.Perceptron(images, labels, hidden=(16,) if quick else (100,))
    rows = []
    for depth in DEPTHS:
        for penalty in PENALTIES[2:3] if quick else PENALTIES:
            begin = time.perf_counter()
            solution = sf.minimize(network, sf.Dense(), solver(depth, penalty, 60 if quick else STEPS), seed=0)
            weights = [value for name, value in solution.value.items() if name.startswith("weight")]
            left = sum(int(np.count_nonzero(value)) for value in weights)
            rows.append(
                {
                    "depth": depth,
                    "penalty": penalty,
                    "accuracy": float(np.mean(network.predict(solution.value, held_images) == held_labels)),
                    "left": left,
                    "weights": sum(value.size for value in weights),
                    "loss": solution.objective,
                    "explanation": solution.explain(),
                    "seconds": time.perf_counter() - begin,
                }
            )
            tell(f"depth {depth}, penalty {penalty:g}: {left} weights left, accuracy {rows[-1]['accuracy']:.3f}")
    return {"rows": rows}


def figure(results: Any) -> matplotlib.figure.Figure:
    """Return accuracy against compression; a network without weights is left out."""
    drawn, (ax,) = axes(6, 3.8)
    for depth in DEPTHS:
        rows = [row for row in results["rows"] if row["depth"] == depth and row["left"]]
        name = "depth 1 (L1 penalty)" if depth == 1 else f"depth {depth}"
        ax.plot([row["weights"] / row["left"] for row in rows], [row["accuracy"] for row in rows], "o-", label=name)
    ax.set(xscale="log", xlabel="compression: weights / nonzero weights", ylabel="held-out accuracy")
    ax.legend()
    return drawn


if __name__ == "__main__":
    command("digits_dwf", measure, __doc__)
