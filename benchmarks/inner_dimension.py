"""The inner dimension of a double sparse factorization: whether a wider one, with fewer iterations, is better.

    python -m benchmarks.inner_dimension --checkpoint layer.safetensors [--effort high] [--gram] [--quick] [-o FILE]

Every case has the same budget of nonzeros. An outer iteration takes time about in proportion to the square of the inner
dimension, so a factorization r times as wide gets 1 / r^2 of the iterations, which makes the times about equal; they
are recorded. With --checkpoint (see `benchmarks.data_aware`) the layers of all-MiniLM-L6-v2 are measured, and with
--gram once more in the loss that their Gram matrices weigh. On one core "balanced" takes about six minutes, "high" half
an hour, and either as long again, and half as long once more, with --gram.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.data_aware import drawn_gram, layers
from benchmarks.double_sparse import gaussian
from benchmarks.record import write

DENSITIES = (0.5, 0.3, 0.2, 0.1)
WIDTHS = (0.75, 1.0, 1.25, 1.5, 2.0)
"""Inner dimensions, relative to min(m, n)."""


def measure(
    name: str, matrix: NDArray[Any], gram: NDArray[Any] | None, density: float, effort: Any, width: float
) -> dict[str, Any] | None:
    """Return one row, or None where the factors cannot hold the budget."""
    inner = round(width * min(matrix.shape))
    try:
        constraint = sf.double_sparse(matrix.shape, density, inner=inner)
    except ValueError:
        return None
    solver = sf.Alternating(effort=effort, outer=max(1, round(sf.Alternating(effort=effort).iterations / width**2)))
    started = time.perf_counter()
    F = sf.factorize(matrix, constraint, solver, gram=gram)
    row = {
        "matrix": name,
        "shape": list(matrix.shape),
        "density": density,
        "effort": effort,
        "gram": gram is not None,
        "width": width,
        "inner": inner,
        "outer": solver.iterations,
        "nnz": F.nnz,
        "left_share": F.factors[0].nnz / F.nnz,
        "error": F.error,
        "seconds": time.perf_counter() - started,
    }
    print(
        f"{name:14s} {density:.1f} {effort:9s} inner {width:.2f} min(m, n)  error {row['error']:.4f}  "
        f"{row['seconds']:.1f} s",
        flush=True,
    )
    return row


@click.command()
@click.option("--checkpoint", help="The safetensors file with the layers and their Gram matrices.")
@click.option("--effort", "efforts", multiple=True, default=("balanced",), show_default=True, help="Repeatable.")
@click.option("--matrix", "only", multiple=True, help="Only these matrices; repeatable.")
@click.option("--gram", is_flag=True, help="Once more in the loss that the Gram matrices weigh.")
@click.option("--quick", is_flag=True, help="One density, three widths.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(
    checkpoint: str | None,
    efforts: tuple[str, ...],
    only: tuple[str, ...],
    gram: bool,
    quick: bool,
    output: Path | None,
) -> None:
    """Measure, print a table and write the result file."""
    warm = gaussian((64, 64))
    for weight in (None, drawn_gram(64)):
        sf.factorize(warm, sf.double_sparse(warm.shape, 0.5), gram=weight)  # compiles the kernels
    rows = [
        measure(name, np.asarray(matrix), chosen, density, effort, width)
        for name, (matrix, weight) in layers(checkpoint).items()
        if not only or name in only
        for chosen in ((None, weight) if gram else (None,))
        for effort in efforts
        for density in ((0.3,) if quick else DENSITIES)
        for width in ((1.0, 1.25, 1.5) if quick else WIDTHS)
    ]
    print("written to", write("inner_dimension", {"rows": [row for row in rows if row is not None]}, output).name)


if __name__ == "__main__":
    main()
