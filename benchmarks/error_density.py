"""The error of every form of the same size against its density, on real layers, without and with calibration data.

    python -m benchmarks.error_density --checkpoint layer.safetensors [--quick] [--matrix q384] [-o results.json]

The checkpoint is that of `benchmarks.data_aware`. The forms, each with at most density * m * n stored parameters: two
dense factors of low rank (SVD), one sparse matrix, two sparse matrices, a sparse matrix plus one of low rank, chains of
block-diagonal factors (Monarch, and three factors), of which the best of several block sizes counts. Beside the sum
stands the published alternation of thresholds (OATS), with a quarter of the parameters in the term of low rank.

On one idle core the whole takes about a quarter of an hour; `--quick` (three densities, little effort) a few minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.data_aware import Case, error, layers
from benchmarks.record import RESULTS, load, write

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
QUICK = (0.1, 0.3, 0.5)
FORMS = ("SVD", "chain", "one sparse", "sparse + low rank", "two sparse")
# Of all Monarch chains with at most so many blocks to a side, these many that use most of the budget are tried.
_LARGEST_BLOCKS = 24
_TRIED = 16


def divisors(number: int) -> list[int]:
    """Return the divisors that are at least 2 and at most `_LARGEST_BLOCKS`."""
    return [d for d in range(2, _LARGEST_BLOCKS + 1) if number % d == 0]


def monarchs(shape: tuple[int, int], budget: int) -> list[sf.Chain]:
    """Return the Monarch chains, of any block sizes and the largest rank for each, that fill the budget best."""
    m, n = shape
    found = []
    for rows in divisors(m):
        for cols in divisors(n):
            rank = min(budget // (m * cols + n * rows), m // rows - 1, n // cols - 1)
            if rank >= 1:
                found.append(sf.Chain.monarch(shape, blocks=(m // rows, cols), rank=rank))
    return sorted(found, key=lambda chain: -chain.nnz)[:_TRIED]


def triples(shape: tuple[int, int], budget: int) -> Iterator[sf.Chain]:
    """Yield chains of three factors with one radix at both ends, of the largest rank that the budget holds."""
    m, n = shape
    for radix in (2, 4, 8):
        if m % radix**2 or n % radix**2:
            continue
        fitting = None
        for rank in range(1, min(m, n)):
            chain = sf.Chain.from_ranks((radix, m // radix**2, radix), (radix, n // radix**2, radix), rank)
            if chain.nnz > budget or chain.nnz > chain.reduced().nnz:
                break
            fitting = chain
        if fitting is not None:
            yield fitting


def best_chain(matrix: NDArray[Any], budget: int) -> tuple[sf.Factorization, sf.Chain]:
    """Return the chain with the lowest error without calibration data."""
    found = [
        (sf.factorize(matrix, chain, sf.Hierarchical()), chain)
        for make in (monarchs, triples)
        for chain in make(matrix.shape, budget)
    ]
    return min(found, key=lambda pair: pair[0].error)


def thresholds(matrix: NDArray[Any], gram: NDArray[Any] | None, budget: int, rounds: int = 80) -> NDArray[Any]:
    """Return the sum that truncated SVDs and thresholds in turn find, in the columns' weights (OATS, ICLR 2025)."""
    weight = 1 if gram is None else np.sqrt(gram.diagonal() + (gram.diagonal() <= 0))
    rank = max(1, round(0.25 * budget / sum(matrix.shape)))
    scaled, sparse = matrix * weight, np.zeros_like(matrix)
    keep, low = sf.TopK(nnz=budget - rank * sum(matrix.shape)), sf.LowRank(rank)
    for _ in range(rounds):
        smooth = low.project(scaled - sparse)
        sparse = keep.project(scaled - smooth)
    return (sparse + smooth) / weight


def svd(matrix: NDArray[Any], gram: NDArray[Any] | None, budget: int) -> tuple[float, int]:
    """Return error and parameters of the best two dense factors."""
    rank = budget // sum(matrix.shape)
    return sf.factorize(matrix, sf.LowRank(rank), gram=gram).error, rank * sum(matrix.shape)


def measure(name: str, case: Case, density: float, weighted: bool, effort: Any, steps: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each form of one matrix at one density."""
    matrix, gram = case[0], case[1] if weighted else None
    budget = int(density * matrix.size)

    def chain() -> tuple[float, int]:
        found, support = best_chain(matrix, budget)
        if gram is not None:
            # its default goes on for hundreds of sweeps that hardly gain anything here
            found = sf.factorize(matrix, support, sf.AlternatingLeastSquares(iterations=30), gram=gram)
        detail["chain"] = repr(support)
        return found.error, found.nnz

    def of(constraint: Any, solver: Any = None) -> Callable[[], tuple[float, int]]:
        def run() -> tuple[float, int]:
            found = sf.factorize(matrix, constraint, solver, gram=gram)
            detail["explanation"] = found.explanation
            return found.error, found.nnz

        return run

    def published() -> tuple[float, int]:
        product = thresholds(matrix, gram, budget)
        return error((matrix, np.eye(matrix.shape[1]) if gram is None else gram), product), budget

    for form, run in (
        ("SVD", lambda: svd(matrix, gram, budget)),
        ("chain", chain),
        ("one sparse", of(sf.TopK(density=density))),
        ("published sum", published),
        ("sparse + low rank", of(sf.sparse_plus_low_rank(matrix.shape, density), sf.AlternatingSum(steps=steps))),
        ("two sparse", of(sf.double_sparse(matrix.shape, density), sf.Alternating(effort=effort))),
    ):
        detail: dict[str, Any] = {}
        started = time.perf_counter()
        reached, nnz = run()
        assert nnz <= budget, (form, nnz, budget)
        yield {
            "matrix": name,
            "shape": list(matrix.shape),
            "density": density,
            "gram": weighted,
            "form": form,
            "error": reached,
            "nnz": nnz,
            "seconds": time.perf_counter() - started,
            **detail,
        }


@click.command()
@click.option("--checkpoint", required=True, help="The safetensors file with the layers and their Gram matrices.")
@click.option("--matrix", "only", multiple=True, help="Measure only these, and keep the other rows; repeatable.")
@click.option("--quick", is_flag=True, help="Three densities and little effort.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(checkpoint: str, only: tuple[str, ...], quick: bool, output: Path | None) -> None:
    """Measure, print a line for each form and write the result file after every density."""
    rows: list[dict[str, Any]] = []
    if only and (RESULTS / "error_density.json").exists():
        rows = [row for row in load("error_density")["results"]["rows"] if row["matrix"] not in only]
    effort, steps = ("fast", 60) if quick else ("balanced", 120)
    written = None
    for name, case in layers(checkpoint).items():
        if name == "gauss512" or (only and name not in only):
            continue
        for weighted in (False, True):
            for density in QUICK if quick else DENSITIES:
                for row in measure(name, case, density, weighted, effort, steps):
                    rows.append(row)
                    print(
                        f"{name:14s} {density:4.2f} {'gram' if weighted else '    '} {row['form']:18s} "
                        f"error {row['error']:.4f}  {row['seconds']:.1f} s",
                        flush=True,
                    )
                written = write("error_density", {"effort": effort, "steps": steps, "rows": rows}, output)
    print("written to", written)


if __name__ == "__main__":
    main()
