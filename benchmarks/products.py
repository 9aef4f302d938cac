"""How fast a product of sparse factors multiplies, beside every other way that is installed.

    python -m benchmarks.products [--rounds 9] [--sizes 256,1024,4096] [-o results.json]

Random radix-2 chains (log2 n Kronecker-sparse factors), the factors of the DFT beside scipy.fft, and pairs of random
CSR matrices. All ways run in turn, after a pause in which the threads of the one before come to rest, and times are
medians of wall seconds. Peers: the product factor by factor with scipy CSR arrays, one dense GEMM (NumPy, and torch
where installed), lazylinop and pyfaust where installed (optional: `pip install lazylinop pandas einops torch pyfaust`),
lazylinop also on a chain that was fused by hand to blocks of 16. The bytes floor is the time of copying the operand
into the result.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from operator import matmul
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import sparse

import sparsefact as sf
from benchmarks.record import write
from sparsefact.products.merge import merged_values

BATCHES = (1, 32, 512)
# Seconds before a way is timed: threads of BLAS and OpenMP spin for some milliseconds after their work, and would take
# a core from whoever comes next.
PAUSE = 0.05
Run = Callable[[], Any]


def chain(n: int, dtype: str, seed: int = 0) -> list[NDArray[Any]]:
    """Return the values of a random butterfly of size n, left to right."""
    rng = np.random.default_rng(seed)
    values = []
    for k in range(n.bit_length() - 1):
        v = rng.standard_normal((2**k, 2, 2, n >> (k + 1)))
        if np.dtype(dtype).kind == "c":
            v = v + 1j * rng.standard_normal(v.shape)
        values.append((v / np.sqrt(2)).astype(dtype))
    return values


def fourier(n: int) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Return the factors of the DFT (decimation in time) and the order of rows that it starts with."""
    values = []
    for k in range(n.bit_length() - 1):
        d = n >> (k + 1)
        twiddle = np.exp(-1j * np.pi * np.arange(d) / d)
        block = np.array([[np.ones(d), twiddle], [np.ones(d), -twiddle]])
        values.append(np.broadcast_to(block, (2**k, 2, 2, d)).astype(np.complex64))
    bits = n.bit_length() - 1
    order = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)])
    return values, order


def by_sixteen(values: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Fuse radix-2 factors to blocks of at most 16."""
    return [merged_values(values[k : k + 4], values[0].dtype) for k in range(0, len(values), 4)]


def one_by_one(factors: list[Any], x: NDArray[Any]) -> Run:
    """Multiply by scipy CSR arrays, right to left."""

    def run() -> Any:
        y = x
        for factor in reversed(factors):
            y = factor @ y
        return y

    return run


def as_csr(values: NDArray[Any]) -> Any:
    """Return a factor as scipy stores it, with indices of 32 bits."""
    csr = sf.KroneckerFactor(values).tocsr()
    indices, indptr = csr.indices.astype(np.int32), csr.indptr.astype(np.int32)
    return sparse.csr_array((csr.data, indices, indptr), shape=csr.shape)


def lazylinop(values: list[NDArray[Any]], x: NDArray[Any], label: str) -> dict[str, Run]:
    """Return lazylinop's ways, where it is installed."""
    if importlib.util.find_spec("lazylinop") is None:
        return {}
    ksm = importlib.import_module("lazylinop.butterfly").ksm
    runs: dict[str, Run] = {}
    # lazylinop's four axes are (a, b, c, d) as ours; backends differ in what they need
    for name, backend in (("numpy", "xp"), ("scipy", "scipy")):
        try:
            operator = ksm([np.ascontiguousarray(v) for v in values], ksm_args={"backend": backend, "params": None})
            operator @ x
        except Exception as error:  # a peer that does not run is left out, and the table says so
            print(f"lazylinop {name}{label}: left out, {type(error).__name__}: {str(error)[:100]}")
            continue
        runs[f"lazylinop {name}{label}"] = partial(matmul, operator, x)
    if importlib.util.find_spec("torch") is not None:
        torch = importlib.import_module("torch")
        try:
            operator = ksm([torch.from_numpy(np.ascontiguousarray(v)) for v in values])
            operand = torch.from_numpy(x)
            operator @ operand
            runs[f"lazylinop torch{label}"] = partial(matmul, operator, operand)
        except Exception as error:
            print(f"lazylinop torch{label}: left out, {type(error).__name__}: {str(error)[:100]}")
    return runs


def pyfaust(values: list[NDArray[Any]], x: NDArray[Any]) -> dict[str, Run]:
    """Return pyfaust's product, where it is installed and knows the type (it has no complex64)."""
    if importlib.util.find_spec("pyfaust") is None or x.dtype == np.complex64:
        return {}
    module = importlib.import_module("pyfaust")
    try:
        product = module.Faust([sparse.csr_matrix(as_csr(v)) for v in values])
        operand = np.asfortranarray(x)
        product @ operand
    except Exception as error:
        print(f"pyfaust: left out, {type(error).__name__}: {str(error)[:100]}")
        return {}
    return {"pyfaust": partial(matmul, product, operand)}


def in_turn(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return the median seconds of every run; short ones are repeated within a round."""
    repeats = {}
    for name, run in runs.items():
        run()
        started = time.perf_counter()
        run()
        repeats[name] = max(1, min(200, int(2e-3 / max(time.perf_counter() - started, 1e-7))))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            if repeats[name] > 1:
                run()
            started = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    return {name: statistics.median(times) for name, times in seconds.items()}


def report(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row: the times, and how many times ours each is."""
    ours = row["seconds"]["ours"]
    title = " ".join(str(row[key]) for key in ("case", "size", "dtype", "batch"))
    print(f"{title}: ours {1e3 * ours:.4f} ms ({row['kernel']})")
    for name, seconds in row["seconds"].items():
        if name != "ours":
            print(f"    {name:32s} {1e3 * seconds:10.4f} ms  {seconds / ours:7.2f} x ours")
    return row


def checked(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest error of ours relative to the largest entry; what is wrong is not timed."""
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error < 1e-4:
        raise ValueError(f"our product is wrong by {error}")
    return error


def butterflies(sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Time random radix-2 chains."""
    rows = []
    for n in sizes:
        for dtype in ("float32", "complex64"):
            values = chain(n, dtype)
            F = sf.Factorization([sf.KroneckerFactor(v) for v in values])
            dense = F.todense() if n <= 8192 else None
            factors = [as_csr(v) for v in values]
            for batch in BATCHES:
                x = np.random.default_rng(1).standard_normal((n, batch)).astype(dtype)
                y = np.empty_like(x)
                runs: dict[str, Run] = {"ours": partial(matmul, F, x), "scipy CSR": one_by_one(factors, x)}
                if dense is not None:
                    runs["dense NumPy"] = partial(matmul, dense, x)
                    if importlib.util.find_spec("torch") is not None:
                        torch = importlib.import_module("torch")
                        pair = torch.from_numpy(dense), torch.from_numpy(x)
                        runs["dense torch"] = partial(matmul, *pair)
                runs |= lazylinop(values, x, "")
                runs |= lazylinop(by_sixteen(values), x, ", fused by hand to 16")
                runs |= pyfaust(values, x)
                runs["copy"] = partial(np.copyto, y, x)
                error = checked(F @ x, one_by_one(factors, x)())
                plan = F.plan(batch=batch)
                rows.append(
                    report(
                        {
                            "case": "butterfly",
                            "size": n,
                            "dtype": dtype,
                            "batch": batch,
                            "kernel": plan.kernel,
                            "flops": plan.flops,
                            "bytes": plan.bytes,
                            "error": error,
                            "seconds": in_turn(runs, rounds),
                        }
                    )
                )
    return rows


def transforms(sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Time the factors of the DFT beside scipy.fft."""
    rows = []
    for n in sizes:
        values, order = fourier(n)
        permutation = sparse.csr_array((np.ones(n, np.complex64), (np.arange(n), order)), shape=(n, n))
        F = sf.Factorization([*(sf.KroneckerFactor(v) for v in values), permutation])
        for batch in BATCHES:
            rng = np.random.default_rng(1)
            x = (rng.standard_normal((n, batch)) + 1j * rng.standard_normal((n, batch))).astype(np.complex64)
            runs: dict[str, Run] = {
                "ours": partial(matmul, F, x),
                "scipy.fft": partial(scipy.fft.fft, x, axis=0),
                "scipy.fft, all cores": partial(scipy.fft.fft, x, axis=0, workers=os.cpu_count()),
            }
            row = {"case": "DFT", "size": n, "dtype": "complex64", "batch": batch, "kernel": F.plan(batch=batch).kernel}
            row |= {"error": checked(F @ x, scipy.fft.fft(x, axis=0)), "seconds": in_turn(runs, rounds)}
            rows.append(report(row))
    return rows


def pairs(rounds: int) -> list[dict[str, Any]]:
    """Time pairs of random CSR matrices of one total density beside two scipy products and the dense one."""
    rows = []
    for n in (512, 1024, 2048):
        for density in (
            (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5) if n != 1024 else (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
        ):
            rng = np.random.default_rng(0)
            factors = [
                sparse.random_array((n, n), density=density / 2, rng=rng, dtype=np.float32).tocsr() for _ in range(2)
            ]
            F = sf.Factorization(factors)
            dense = F.todense()
            for batch in (1, 128):
                x = np.random.default_rng(1).standard_normal((n, batch)).astype(np.float32)
                x = x[:, 0] if batch == 1 else x
                runs: dict[str, Run] = {
                    "ours": partial(matmul, F, x),
                    "scipy CSR": one_by_one(factors, x),
                    "dense NumPy": partial(matmul, dense, x),
                }
                plan = F.plan(batch=batch)
                row = {"case": "CSR pair", "size": n, "dtype": "float32", "batch": batch, "kernel": plan.kernel}
                row |= {"density": density, "error": checked(F @ x, one_by_one(factors, x)())}
                row |= {"seconds": in_turn(runs, rounds)}
                rows.append(report(row))
    return rows


@click.command()
@click.option("--rounds", default=9, show_default=True, help="Of every product.")
@click.option("--sizes", default="256,1024,4096", show_default=True, help="Of the chains, powers of two.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(rounds: int, sizes: str, output: Path | None) -> None:
    """Measure, print and write the result file."""
    chosen = [int(size) for size in sizes.split(",")]
    results = {
        "butterfly": butterflies(chosen, rounds),
        "dft": transforms(chosen, rounds),
        "pairs": pairs(rounds),
    }
    print("written to", write("products", results, output).name)


if __name__ == "__main__":
    main()
