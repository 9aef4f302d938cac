"""How time and memory of double sparse factorization grow with the size of the matrix, each case in a fresh process.

    python -m benchmarks.growth [--size 1024 --size 2048] [--effort fast] [-o results.json]

Float32 Gaussian matrices at density 0.3. Peak memory is VmHWM of the process after the factorization and its error, and
beside it what was resident before, with the matrix in memory and the kernels compiled. On one core all cases take about
half an hour, most of it the largest one; `--gram` measures with drawn calibration inputs too, up to size 2048.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

import sparsefact as sf
from benchmarks.large import peak
from benchmarks.record import write

DENSITY = 0.3
CASES = {1024: ("fast", "balanced"), 2048: ("fast", "balanced"), 4096: ("fast",)}
# With a gram the joint fit of both factors holds most.
LARGEST_WITH_GRAM = 1024


def resident() -> int:
    """Return the resident memory of this process now, in bytes; its peak where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def measure(size: int, effort: Any, weighted: bool) -> dict[str, Any]:
    """Factorize one matrix, after a small one that compiles the kernels."""
    rng = np.random.default_rng(0)
    small, gram = rng.standard_normal((64, 64), dtype=np.float32), None
    sf.factorize(small, sf.double_sparse(small.shape, 0.5), sf.Alternating(effort="fast"))
    matrix = rng.standard_normal((size, size), dtype=np.float32)
    if weighted:
        inputs = rng.standard_normal((2 * size, size), dtype=np.float32)
        inputs *= np.arange(1, size + 1, dtype=np.float32) ** -0.5
        gram = inputs.T @ inputs
        del inputs
    solver = sf.Alternating(effort=effort)
    before = resident()
    started = time.perf_counter()
    F = sf.factorize(matrix, sf.double_sparse(matrix.shape, DENSITY), solver, gram=gram)
    seconds = time.perf_counter() - started
    found = F.error
    return {
        "size": size,
        "effort": effort,
        "gram": weighted,
        "density": DENSITY,
        "nnz": F.nnz,
        "error": found,
        "seconds": seconds,
        "bytes_before": before,
        "peak_bytes": peak(),
        "matrix_bytes": matrix.nbytes,
    }


@click.command()
@click.option("--size", "sizes", multiple=True, type=int, help="Only these sizes; repeatable.")
@click.option("--effort", "efforts", multiple=True, help="Only these efforts; repeatable.")
@click.option("--gram", "weighted", is_flag=True, help="Measure with a Gram matrix too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
@click.option("--case", hidden=True)
def main(
    sizes: tuple[int, ...], efforts: tuple[str, ...], weighted: bool, output: Path | None, case: str | None
) -> None:
    """Measure every case in a process of its own, print a line for each and write the result file."""
    if case is not None:
        click.echo(json.dumps(measure(*json.loads(case))))
        return
    cases = [
        (size, effort, gram)
        for gram in ((False, True) if weighted else (False,))
        for size in (sizes or CASES)
        for effort in (efforts or CASES.get(size, ("fast",)))
        if not gram or size <= LARGEST_WITH_GRAM
    ]
    rows = []
    for each in cases:
        command = [sys.executable, "-m", "benchmarks.growth", "--case", json.dumps(each)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(run.stdout)
        rows.append(row)
        above = row["peak_bytes"] - row["bytes_before"]
        print(
            f"{row['size']:5d} {row['effort']:9s} {'gram ' if row['gram'] else ''}error {row['error']:.4f}  "
            f"{row['seconds']:.1f} s  {above / 2**20:.0f} MiB above the input = "
            f"{above / row['matrix_bytes']:.1f} matrices",
            flush=True,
        )
    print("written to", write("growth", {"rows": rows}, output).name)


if __name__ == "__main__":
    main()
