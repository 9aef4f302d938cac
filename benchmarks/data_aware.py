"""Double and single sparse factorization with calibration data, beside the published algorithms.

    python -m benchmarks.data_aware --checkpoint layer.safetensors [--rounds 3] [--effort high] [-o results.json]

The checkpoint holds the four layers of all-MiniLM-L6-v2 (see `benchmarks.double_sparse`) and, beside each NAME.weight,
the Gram matrix X^T X of the layer's inputs X as NAME.gram. A Gaussian matrix with a Gram matrix of drawn inputs is
measured in any case. Errors are relative, in the loss that the Gram matrix weights; times are medians of runs in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks import published_alps
from benchmarks import published_double_sparse as published
from benchmarks.double_sparse import DENSITIES, gaussian
from benchmarks.record import write
from sparsefact.io.checkpoint import open_checkpoint

Case = tuple[NDArray[Any], NDArray[Any]]


def drawn_gram(size: int, samples: int = 8192) -> NDArray[Any]:
    """Return the Gram matrix of Gaussian inputs, power-law spectrum, one feature in a hundred ten times larger."""
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.standard_normal((size, size)))[0]
    inputs = (rng.standard_normal((samples, size)) * np.arange(1, size + 1) ** -0.5) @ rotation
    inputs[:, rng.choice(size, size // 100, replace=False)] *= 10
    gram: NDArray[Any] = (inputs.T @ inputs / samples).astype(np.float32)
    return gram


def layers(checkpoint: str | None) -> dict[str, Case]:
    """Return the matrices with their Gram matrices."""
    cases = {"gauss512": (gaussian((512, 512)), drawn_gram(512))}
    if checkpoint is not None:
        with open_checkpoint(checkpoint) as source:
            for short, name in published.LAYERS.items():
                gram = name.removesuffix("weight") + "gram"
                if gram in source:
                    cases[short] = np.array(source.read(name)), np.array(source.read(gram))
    return cases


def error(case: Case, product: NDArray[Any]) -> float:
    """Return the relative error in the loss, in float64."""
    matrix, gram = (each.astype(np.float64) for each in case)
    residual = matrix - product
    return float(np.sqrt(((residual @ gram) * residual).sum() / ((matrix @ gram) * matrix).sum()))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the function returns, and its time in seconds."""
    started = time.perf_counter()
    found = function()
    return found, time.perf_counter() - started


def compare(name: str, case: Case, density: float, effort: Any, rounds: int) -> dict[str, Any]:
    """Run all four in turn and return one row."""
    matrix, gram = case
    constraint = sf.double_sparse(matrix.shape, density)
    runs: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for key, function in (
            ("published", lambda: published.factorize_data_aware(matrix, gram, density)),
            ("double", lambda: sf.factorize(matrix, constraint, sf.Alternating(effort=effort), gram=gram)),
            ("alps", lambda: published_alps.prune(matrix, gram, density)),
            ("single", lambda: sf.factorize(matrix, sf.TopK(density=density), gram=gram)),
        ):
            found[key], seconds = timed(function)
            runs.setdefault(key, []).append(seconds)
    left, right = found["published"]
    double, single = found["double"], found["single"]
    assert double.nnz <= constraint.budget and single.nnz <= constraint.budget
    median = {key: statistics.median(times) for key, times in runs.items()}
    row = {
        "matrix": name,
        "shape": list(matrix.shape),
        "density": density,
        "effort": effort,
        "nnz": double.nnz,
        "error": double.error,
        "published_error": error(case, left.astype(np.float64) @ right),
        "alps_error": error(case, found["alps"]),
        "single_error": single.error,
        "seconds": runs,
        "time_ratio": median["double"] / median["published"],
        "single_time_ratio": median["single"] / median["alps"],
        "explanation": double.explain(),
    }
    best = min(row["published_error"], row["alps_error"])
    print(
        f"{name:14s} {density:.1f} {effort:9s} error {row['error']:.4f} ({100 * (row['error'] / best - 1):+.0f} %)  "
        f"published {row['published_error']:.4f}  ALPS {row['alps_error']:.4f}  single {row['single_error']:.4f}  "
        f"time {row['time_ratio']:.2f} of the published one's, single {row['single_time_ratio']:.2f} of ALPS's",
        flush=True,
    )
    return row


@click.command()
@click.option("--checkpoint", help="The safetensors file with the layers and their Gram matrices.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each algorithm per case.")
@click.option("--effort", "efforts", multiple=True, default=("balanced",), show_default=True, help="Repeatable.")
@click.option("--matrix", "only", multiple=True, help="Only these matrices; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(
    checkpoint: str | None, rounds: int, efforts: tuple[str, ...], only: tuple[str, ...], output: Path | None
) -> None:
    """Measure, print a table and write the result file."""
    warm = gaussian((64, 64))
    for constraints in (sf.double_sparse(warm.shape, 0.5), sf.TopK(density=0.5)):
        sf.factorize(warm, constraints, gram=drawn_gram(64))  # compiles the kernels
    rows = [
        compare(name, case, density, effort, rounds)
        for name, case in layers(checkpoint).items()
        if not only or name in only
        for effort in efforts
        for density in DENSITIES
    ]
    print("written to", write("data_aware", {"comparison": rows}, output).name)


if __name__ == "__main__":
    main()
