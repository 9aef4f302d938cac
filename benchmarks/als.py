"""Alternating least squares on random supports, side by side with the plain loop over rows in NumPy.

python -m benchmarks.als [--sweeps 20] [-o results.json]

Both start from the same factors and do the same sweeps; a sweep solves the normal equations of every row of the left
factor and every column of the right one. The times to the same objective are compared: that of the plain loop at its
last sweep. Set OPENBLAS_NUM_THREADS=1, or the small products of the plain loop wait for each other's threads.
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
from sparsefact.backends.registry import get_backend
from sparsefact.factorizers.als import AlternatingLeastSquares
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.starts import gaussian


def plain_sweep(
    matrix: NDArray[Any], left: NDArray[Any], right: NDArray[Any], rows: NDArray[np.bool_], cols: NDArray[np.bool_]
) -> None:
    """Solve every row of the left factor, then every column of the right one, in place."""
    for i in range(matrix.shape[0]):
        support = np.flatnonzero(rows[i])
        part = right[support]
        left[i, support] = np.linalg.solve(part @ part.T, part @ matrix[i])
    for j in range(matrix.shape[1]):
        support = np.flatnonzero(cols[:, j])
        part = left[:, support]
        right[support, j] = np.linalg.solve(part.T @ part, part.T @ matrix[:, j])


@click.command()
@click.option("--size", default=1024, show_default=True)
@click.option("--inner", default=256, show_default=True)
@click.option("--density", default=0.1, show_default=True)
@click.option("--sweeps", default=20, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(size: int, inner: int, density: float, sweeps: int, output: Path | None) -> None:
    """Measure, print and write the result file."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((size, size))
    rows, cols = rng.random((size, inner)) < density, rng.random((inner, size)) < density
    x, y = gaussian(matrix, np.ascontiguousarray(rows.T), cols, 0)
    shapes = ((size, inner), (inner, size))
    problem = FactorizationProblem(
        matrix, (sf.Support(rows), sf.Support(cols)), shapes, None, get_backend(matrix), (x.T, y)
    )
    solver = AlternatingLeastSquares(tolerance=0.0)
    state = solver.init(problem)
    # The first call compiles.
    solver.step(problem, state)

    plain, left, right = [], np.ascontiguousarray(x.T), y.copy()
    for _ in range(sweeps):
        started = time.perf_counter()
        plain_sweep(matrix, left, right, rows, cols)
        plain.append(time.perf_counter() - started)
    target = float(np.linalg.norm(matrix - left @ right))

    ours = []
    started = time.perf_counter()
    state = solver.init(problem)
    ours.append(time.perf_counter() - started)
    while np.sqrt(2 * state.loss) > target * (1 + 1e-9):
        started = time.perf_counter()
        solver.step(problem, state)
        ours.append(time.perf_counter() - started)
    left, right = solver.finish(problem, state).value
    results = {
        "size": size,
        "inner": inner,
        "density": density,
        "sweeps": [sweeps, len(ours) - 1],
        "relative_error": [
            target / float(np.linalg.norm(matrix)),
            float(np.linalg.norm(matrix - left @ right) / np.linalg.norm(matrix)),
        ],
        "seconds_plain": plain,
        "seconds_ours_with_setup": ours,
        "times_faster": sum(plain) / sum(ours),
        "times_faster_per_sweep_median": float(np.median(plain) / np.median(ours[1:])),
    }
    print(
        f"plain {sum(plain):.2f} s, ours {sum(ours):.2f} s in {len(ours) - 1} sweeps to the same objective: "
        f"{results['times_faster']:.1f} times faster, per sweep {results['times_faster_per_sweep_median']:.1f} (median)"
    )
    write("als", results, output)


if __name__ == "__main__":
    main()
