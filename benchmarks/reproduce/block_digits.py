"""Block sparsity of a network trained on the digits: SequentialAttention++ beside what it is compared with.

A perceptron 64-128-10 whose first layer keeps some of its 128 blocks of 8 x 8, 3000 steps of Adam, five seeds; held-out
accuracy. Every method ends with the same share of training on its final blocks. Powerpropagation is its form for
blocks.
The step size and the number of steps were chosen among a few by the same accuracies, for all methods together.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.reproduce.block_digits        # about three minutes on one core
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import matplotlib.figure
import numpy as np

import sparsefact as sf
from benchmarks.reproduce.study import axes, command, digits, tell

BLOCK = (8, 8)
KEPT = {26: 0.8, 13: 0.9, 6: 0.95, 4: 0.97}
METHODS: dict[str, Any] = {
    "magnitude": sf.ACDC(iterations=3000, cycles=0),
    "powerpropagation": sf.Powerpropagation(iterations=3000),
    "ACDC": sf.ACDC(iterations=3000),
    "SequentialAttention": sf.SequentialAttention(iterations=3000, sparsification=False),
    "SequentialAttention++": sf.SequentialAttention(iterations=3000),
}


def accuracy(solver: Any, kept: int, seed: int) -> float:
    """Return the held-out accuracy of one network."""
    images, labels, held_images, held_labels = digits(seed)
    network = sf.Perceptron(images, labels, hidden=(128,))
    constraint = sf.BlockTopK(BLOCK, count=kept)
    weights = sf.minimize(network, {"weight1": constraint}, solver, seed=seed).value
    if not constraint.contains(weights["weight1"]):
        raise RuntimeError("the network is not in its constraint")
    return float(np.mean(network.predict(weights, held_images) == held_labels))


def measure(quick: bool) -> Any:
    """Return the accuracies of every method at every sparsity."""
    rows = []
    for kept, sparsity in list(KEPT.items())[2:3] if quick else KEPT.items():
        for name, solver in METHODS.items():
            begin = time.perf_counter()
            run = dataclasses.replace(solver, iterations=60) if quick else solver
            found = [accuracy(run, kept, seed) for seed in range(1 if quick else 5)]
            rows.append(
                {
                    "method": name,
                    "kept": kept,
                    "sparsity": sparsity,
                    "accuracies": found,
                    "mean": statistics.mean(found),
                    "sd": statistics.stdev(found) if len(found) > 1 else 0.0,
                    "seconds": time.perf_counter() - begin,
                }
            )
            tell(f"{kept} blocks, {name}: {rows[-1]['mean']:.3f}")
    return {"blocks": 128, "block": BLOCK, "solvers": {name: repr(s) for name, s in METHODS.items()}, "rows": rows}


def figure(results: Any) -> matplotlib.figure.Figure:
    """Return accuracy against sparsity, with the standard error of the mean."""
    drawn, (ax,) = axes(6.5, 4)
    for name in METHODS:
        rows = [row for row in results["rows"] if row["method"] == name]
        error = [row["sd"] / len(row["accuracies"]) ** 0.5 for row in rows]
        ax.errorbar(
            [str(row["kept"]) for row in rows], [row["mean"] for row in rows], error, label=name, marker="o", capsize=3
        )
    ax.set(xlabel=f"blocks kept of {results['blocks']}", ylabel="held-out accuracy")
    ax.legend()
    return drawn


if __name__ == "__main__":
    command("block_digits", measure, __doc__)
