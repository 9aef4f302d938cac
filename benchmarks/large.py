"""Matrices that do not fit in memory: time, peak memory, entries read and error, each case in a fresh process.

    python -m benchmarks.large [--order 65536] [--folder DIR] [-o results.json]

1. The Hadamard matrix of this order as a float32 file (16 GiB for 65536), and a sparse file of that size, through
   `Hierarchical` in panels; the file is written first and removed afterwards. The time to read the file alone, by the
   same panels, stands beside. A file that fits the page cache is read from there the second time.
2. The DFT with bit-reversed columns, complex128, given by its entries, through `CrossApproximation`: of this order and
   of smaller ones, with the entries read over N^1.5. The error is measured on random vectors against scipy.fft.
3. A noisy product, and the kernel of a one-dimensional Fourier integral operator with a chain of rank 8.

Peak memory is VmHWM of the process at the end, and before the matrix was touched.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.record import write
from sparsefact.factorizers.panels import plan

CROSS_ORDERS = (1 << 10, 1 << 12, 1 << 14, 1 << 16)


def peak() -> int:
    """Return the peak of the resident memory of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_hadamard(path: Path, order: int) -> None:
    """Write the Hadamard matrix of this order, float32, in slabs of 256 rows."""
    small = scipy.linalg.hadamard(min(order, 256)).astype(np.float32)
    outer = scipy.linalg.hadamard(order // len(small)).astype(np.float32)
    with path.open("wb") as file:
        for row in outer:
            file.write(np.kron(row[None, :], small).tobytes())


def mapped(path: str, order: int) -> Any:
    return np.memmap(path, np.float32, "r", shape=(order, order))


def panels(path: str, order: int) -> dict[str, Any]:
    """Factorize a file."""
    chain = sf.Chain.butterfly(order)
    sf.factorize(np.eye(64, dtype=np.float32), sf.Chain.butterfly(64))
    before = peak()
    started = time.perf_counter()
    F = sf.factorize(mapped(path, order), chain)
    seconds = time.perf_counter() - started
    fused, residues = plan(chain, 4)
    return {
        "seconds": seconds,
        "error_of_the_steps": F.error,
        "status": F.status.name if F.status else "",
        "peak_bytes": peak(),
        "peak_bytes_before": before,
        "splits_fused": fused,
        "residues_per_panel": residues,
    }


def reading(path: str, order: int) -> dict[str, Any]:
    """Sum the file, panel by panel, giving its pages back."""
    from sparsefact.products.sources import as_source

    source = as_source(mapped(path, order))
    assert source is not None
    fused, residues = plan(sf.Chain.butterfly(order), 4)
    apart = order >> fused
    started = time.perf_counter()
    for start in range(0, apart, residues):
        source.residue_rows(apart, start, min(apart, start + residues)).sum()
        source.release()
    return {"seconds": time.perf_counter() - started, "peak_bytes": peak()}


def sampled(A: sf.Entries, chain: sf.Chain, solver: sf.CrossApproximation, apply: Callable[..., Any]) -> dict[str, Any]:
    """Factorize from entries, and measure the error on vectors: ``apply(x)`` is ``A @ x``."""
    warm_shape = sf.Chain.butterfly(64)
    sf.factorize(sf.Entries((64, 64), A.dtype, lambda i, j: np.ones((len(i), len(j)))), warm_shape, solver)
    before = peak()
    started = time.perf_counter()
    F = sf.factorize(A, chain, solver)
    seconds = time.perf_counter() - started
    reached = peak()
    x = np.random.default_rng(1).standard_normal((A.shape[1], 4))
    exact = apply(x)
    evidence = F.evidence
    return {
        "order": A.shape[0],
        "chain": repr(chain),
        "solver": repr(solver),
        "seconds": seconds,
        "entries_read": evidence.entries_read,
        "entries_over_order_to_the_1.5": evidence.entries_read / A.shape[0] ** 1.5,
        "sampled_residual": evidence.relative,
        "unresolved_blocks": evidence.unresolved,
        "error_on_vectors": float(np.linalg.norm(F @ x - exact) / np.linalg.norm(exact)),
        "peak_bytes": reached,
        "peak_bytes_before": before,
    }


def dft(order: int) -> dict[str, Any]:
    reverse = sf.transforms.bit_reversal(order)
    roots = np.exp(-2j * np.pi / order * np.arange(order))
    A = sf.Entries((order, order), np.complex128, lambda i, j: roots[np.outer(i, reverse[j]) & (order - 1)])
    return sampled(A, sf.Chain.butterfly(order), sf.CrossApproximation(), lambda x: scipy.fft.fft(x[reverse], axis=0))


def noisy(order: int) -> dict[str, Any]:
    """Measure the DFT with an error of 1e-6 in every entry, which is a function of its place."""
    reverse = sf.transforms.bit_reversal(order)
    roots = np.exp(-2j * np.pi / order * np.arange(order))

    def f(i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[Any]:
        mixed = np.add.outer(i * 2654435761, j * 40503) * 2246822519 % (1 << 32)
        return roots[np.outer(i, reverse[j]) & (order - 1)] + 1e-6 * np.exp(2j * np.pi / (1 << 32) * mixed)

    solver = sf.CrossApproximation(tolerance=1e-5, oversampling=3)
    A = sf.Entries((order, order), np.complex128, f)
    return sampled(A, sf.Chain.butterfly(order), solver, lambda x: scipy.fft.fft(x[reverse], axis=0))


def fourier_integral(order: int) -> dict[str, Any]:
    """Measure exp(2 pi i (x k + (2 + sin 2 pi x) / 8 |k|)), x in [0, 1), with a chain of rank 8."""
    bits = order.bit_length() - 1
    reverse, k = sf.transforms.bit_reversal(order), np.arange(order) - order / 2

    def kernel(i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[Any]:
        x = reverse[i][:, None] / order
        return np.exp(2j * np.pi * (x * k[j] + (2 + np.sin(2 * np.pi * x)) / 8 * abs(k[j])))

    def apply(x: NDArray[Any]) -> NDArray[Any]:
        every = np.arange(order)
        return np.concatenate([kernel(every[s : s + 256], every) @ x for s in range(0, order, 256)])

    sizes = (8, *([2] * (bits - 6)), 8)
    chain = sf.Chain.from_ranks(sizes, sizes, (8,) * (bits - 5))
    A = sf.Entries((order, order), np.complex128, kernel)
    return sampled(A, chain, sf.CrossApproximation(tolerance=1e-4, oversampling=2), apply)


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "panels": panels,
    "reading": reading,
    "dft": dft,
    "noisy": noisy,
    "fourier_integral": fourier_integral,
}


def fresh(case: str, *arguments: Any) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large", "--case", json.dumps([case, *arguments])]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def files(order: int, folder: Path) -> dict[str, Any]:
    """Measure both files, each twice: as it was written, and again."""
    found: dict[str, Any] = {}
    for name in ("Hadamard", "sparse file"):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            path = Path(place) / "matrix.float32"
            if name == "Hadamard":
                write_hadamard(path, order)
            else:
                with path.open("wb") as file:
                    file.truncate(4 * order * order)
            found[name] = {
                "order": order,
                "bytes": 4 * order * order,
                "first": fresh("panels", str(path), order),
                "reading": fresh("reading", str(path), order),
                "again": fresh("panels", str(path), order),
            }
    return found


@click.command()
@click.option("--order", default=1 << 16, help="Of the matrices in files.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files are written.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
@click.option("--case", hidden=True)
def main(order: int, folder: Path | None, output: Path | None, case: str | None) -> None:
    """Measure, and write the result file."""
    if case is not None:
        name, *arguments = json.loads(case)
        click.echo(json.dumps(CASES[name](*arguments)))
        return
    results = {
        "dft": [fresh("dft", n) for n in CROSS_ORDERS],
        "noisy dft": fresh("noisy", 1 << 14),
        "fourier integral": fresh("fourier_integral", 1 << 12),
        "files": files(order, folder or Path(tempfile.gettempdir())),
    }
    click.echo(str(write("large", results, output)))


if __name__ == "__main__":
    main()
