"""Hard thresholding: recovery of sparse vectors, and the pursuit of many columns against a plain loop over them.

python -m benchmarks.hard_thresholding [--size 1024] [--trials 100] [-o results.json]

Recovery: Gaussian matrices with 80 rows and 256 columns, 10 nonzeros, no noise; a vector is recovered when its relative
error is below 1e-4. Pursuit: a quadratic over `size` columns, 30 % of each kept, against hard thresholding pursuit in
NumPy, one column after the other until its support repeats, with the step of its first support. Set
OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.record import write

VARIANTS = ("normalized", "htp", "plain", "accelerated")


def pursue(gram: NDArray[Any], target: NDArray[Any], kept: int, limit: int = 50) -> NDArray[Any]:
    """Hard thresholding pursuit of one column in plain NumPy."""
    w, support = np.zeros(len(target)), None
    first = np.argpartition(-abs(target), kept)[:kept]
    image = gram[np.ix_(first, first)] @ target[first]
    step = target[first] @ target[first] / (target[first] @ image)
    for _ in range(limit):
        chosen = np.sort(np.argpartition(-abs(w + step * (target - gram @ w)), kept)[:kept])
        if support is not None and np.array_equal(chosen, support):
            break
        support, w = chosen, np.zeros(len(target))
        w[support] = np.linalg.solve(gram[np.ix_(support, support)], target[support])
    return w


def recovery(trials: int) -> dict[str, float]:
    """Return the share of vectors that each variant recovers."""
    found = dict.fromkeys(VARIANTS, 0)
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        design, truth = rng.standard_normal((80, 256)), np.zeros((256, 1))
        truth[rng.choice(256, 10, replace=False), 0] = rng.standard_normal(10)
        f = sf.LeastSquares(design, design @ truth)
        for variant in VARIANTS:
            value = sf.minimize(f, sf.TopK(nnz=10), sf.IHT(variant=variant)).value
            found[variant] += bool(np.linalg.norm(value - truth) < 1e-4 * np.linalg.norm(truth))
    return {variant: count / trials for variant, count in found.items()}


def pursuit(size: int) -> dict[str, Any]:
    """Return times and objectives of the pursuit of all columns, and of the loop over them."""
    rng = np.random.default_rng(0)
    mixing = np.eye(size) + 0.5 * rng.standard_normal((size, size)) / np.sqrt(size)
    inputs, weights = rng.standard_normal((4 * size, size)) @ mixing, rng.standard_normal((size, size))
    gram = inputs.T @ inputs
    f = sf.Quadratic(gram, gram @ weights, constant=0.5 * float(np.sum(weights * (gram @ weights))))
    kept = int(0.3 * size)
    constraint, solver = sf.TopK(nnz=kept, per="column"), sf.IHT(variant="htp")
    # The first call compiles.
    sf.minimize(sf.Quadratic(gram[:256, :256].copy(), f.cross[:256, :8].copy()), sf.TopK(density=0.3), solver)
    started = time.perf_counter()
    solution = sf.minimize(f, constraint, solver)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    plain = np.stack([pursue(gram, f.cross[:, j], kept) for j in range(size)], axis=1)
    loop = time.perf_counter() - started
    return {
        "size": size,
        "seconds": ours,
        "loop_seconds": loop,
        "speedup": loop / ours,
        "objective": solution.objective,
        "loop_objective": float(f.value(plain)),
        "stable": solution.certificate.stable,
    }


@click.command()
@click.option("--size", default=1024, show_default=True)
@click.option("--trials", default=100, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(size: int, trials: int, output: Path | None) -> None:
    """Measure, print and write the result file."""
    results = {"recovery": recovery(trials), "pursuit": pursuit(size)}
    click.echo(results)
    click.echo(write("hard_thresholding", results, output))


if __name__ == "__main__":
    main()
