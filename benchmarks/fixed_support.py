"""Exact factorization on tractable supports beside the alternatives, and how large a support pair can be analysed.

    python -m benchmarks.fixed_support [--rounds 5] [-o results.json]

A Monarch pair (1024 x 1024, blocks of 32 x 32, rank one) is factorized by SubmatrixSVD, by a plain loop of NumPy SVDs
over the same blocks, and where pyfaust is installed by 100 iterations of its palm4msa with projections on the two
supports. All run in turn; times are medians. The analysis is of pairs of 100000 x 100000 with about a million nonzeros;
each runs in a process of its own, whose peak memory is measured beside that of one that only makes the supports.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from benchmarks.record import write
from sparsefact.analysis.tractability import tractability
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.support import Support
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.submatrix_svd import SubmatrixSVD
from sparsefact.minimizers.loop import run

SIZE, BLOCK = 1024, 32
LARGE, ENTRIES = 100_000, 500_000


def monarch() -> tuple[KroneckerSupport, KroneckerSupport]:
    """Return the supports: every 32 x 32 block of the permuted matrix has rank one."""
    return KroneckerSupport(1, BLOCK, BLOCK, BLOCK), KroneckerSupport(BLOCK, BLOCK, BLOCK, 1)


def ours(A: NDArray[Any], pair: tuple[Any, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Solve by SubmatrixSVD: analysis of the supports, factors and certificate included."""
    shapes = tuple(support.shape for support in pair)
    problem = FactorizationProblem(A, pair, shapes, None, get_backend(A))
    factors: tuple[NDArray[Any], NDArray[Any]] = run(SubmatrixSVD(), problem).outcome.value
    return factors


def plain_loop(A: NDArray[Any], blocks: list[tuple[Any, Any, int]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Solve by one numpy.linalg.svd per block; which blocks is known beforehand."""
    left, right = np.zeros_like(A), np.zeros_like(A)
    for rows, cols, k in blocks:
        u, s, v = np.linalg.svd(A[rows[:, None], cols], full_matrices=False)
        left[rows, k] = u[:, 0] * np.sqrt(s[0])
        right[k, cols] = v[0] * np.sqrt(s[0])
    return left, right


def palm(A: NDArray[Any], pair: tuple[Any, Any], iterations: int) -> Callable[[], tuple[Any, Any]] | None:
    """Return the run of pyfaust's palm4msa, or None where pyfaust is not installed."""
    if importlib.util.find_spec("pyfaust") is None:
        return None
    fact = importlib.import_module("pyfaust.fact")
    factparams = importlib.import_module("pyfaust.factparams")
    proj = importlib.import_module("pyfaust.proj")
    supports = [proj.supp(support.mask().astype(np.float64), normalized=False) for support in pair]
    stop = factparams.StoppingCriterion(num_its=iterations)
    parameters = factparams.ParamsPalm4MSA(supports, stop)
    wide = A.astype(np.float64)

    def solve() -> tuple[Any, Any]:
        product = fact.palm4msa(wide, parameters)
        return product.factors(0).toarray(), product.factors(1).toarray()

    return solve


def relative_error(A: NDArray[Any], factors: tuple[Any, Any]) -> float:
    """Return ||A - L R|| / ||A|| in float64."""
    wide = A.astype(np.float64)
    left, right = (np.asarray(factor, dtype=np.float64) for factor in factors)
    return float(np.linalg.norm(wide - left @ right) / np.linalg.norm(wide))


def compare(rounds: int, palm_iterations: int) -> list[dict[str, Any]]:
    """Run the three in turn on a Gaussian matrix."""
    A = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32)
    pair = monarch()
    rectangles = tractability(*pair).plan.rectangles  # type: ignore[union-attr]
    blocks = [
        (rows, cols, int(members[0]))
        for rows, cols, members in zip(rectangles.rows, rectangles.cols, rectangles.members, strict=True)
    ]
    runs: dict[str, Any] = {"ours": lambda: ours(A, pair), "numpy loop": lambda: plain_loop(A, blocks)}
    peer = palm(A, pair, palm_iterations)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    errors: dict[str, float] = {}
    ours(A, pair)  # compiles the kernels
    for _ in range(rounds):
        for name, solve in runs.items():
            started = time.perf_counter()
            factors = solve()
            seconds[name].append(time.perf_counter() - started)
            errors[name] = relative_error(A, factors)
    if peer is not None:
        started = time.perf_counter()
        factors = peer()
        name = f"pyfaust palm4msa, {palm_iterations} iterations"
        seconds[name] = [time.perf_counter() - started]
        errors[name] = relative_error(A, factors)
    else:
        print("pyfaust is not installed: its row is left out (pip install pyfaust)")
    first = statistics.median(seconds["ours"])
    rows = []
    for name, times in seconds.items():
        middle = statistics.median(times)
        rows.append({"solver": name, "seconds": times, "times_ours": middle / first, "error": errors[name]})
        print(f"{name:34s} {1e3 * middle:10.2f} ms   {middle / first:8.1f} x ours   error {errors[name]:.9f}")
    return rows


def random_pattern(rows: int, cols: int, seed: int) -> Any:
    """Return a random boolean pattern of about half a million entries."""
    rng = np.random.default_rng(seed)
    where = rng.integers(0, rows, ENTRIES), rng.integers(0, cols, ENTRIES)
    return scipy.sparse.csr_array((np.ones(ENTRIES, dtype=bool), where), shape=(rows, cols))


def large_pair(name: str) -> tuple[Support, Support]:
    """Make a pair of 100000 x 100000 by name."""
    if name == "blocks of rank 2":
        blocks = scipy.sparse.kron(scipy.sparse.eye_array(10_000), np.ones((10, 5), dtype=bool))
        return Support(blocks), Support(blocks.T)
    if name == "grid of blocks":
        return (
            Support(scipy.sparse.kron(np.ones((5, 5), dtype=bool), scipy.sparse.eye_array(LARGE // 5))),
            Support(scipy.sparse.kron(scipy.sparse.eye_array(LARGE // 5), np.ones((5, 5), dtype=bool))),
        )
    if name == "rank 2 and free cells":
        low = np.ones((LARGE, 2), dtype=bool)
        left = scipy.sparse.hstack([low, scipy.sparse.eye_array(LARGE, dtype=bool)])
        return Support(left), Support(scipy.sparse.vstack([low.T, random_pattern(LARGE, LARGE, 0)]))
    inner = int(name.removeprefix("random, inner "))
    return Support(random_pattern(LARGE, inner, 1)), Support(random_pattern(inner, LARGE, 2))


def analyse(name: str, ask: bool, results: Any) -> None:
    """Run one analysis (or only make its supports) and report the seconds and the peak of this process."""
    pair = large_pair(name)
    verdict, started = None, time.perf_counter()
    if ask:
        verdict = tractability(*pair).rule
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put((pair[0].nnz + pair[1].nnz, verdict, seconds, peak))


def large() -> list[dict[str, Any]]:
    """Analyse the large pairs, each in a fresh process."""
    rows = []
    fresh = multiprocessing.get_context("spawn")
    names = (
        "blocks of rank 2",
        "grid of blocks",
        "rank 2 and free cells",
        f"random, inner {LARGE}",
        "random, inner 1000",
    )
    for name in names:
        measured = []
        for ask in (False, True):
            results: Any = fresh.Queue()
            child = fresh.Process(target=analyse, args=(name, ask, results))
            child.start()
            measured.append(results.get())
            child.join()
        nnz, verdict, seconds, peak = measured[1]
        rows.append(
            {
                "pair": name,
                "size": LARGE,
                "nonzeros": nnz,
                "rule": verdict,
                "seconds": seconds,
                "peak_mb": peak,
                "peak_mb_of_supports": measured[0][3],
            }
        )
        print(f"{name:24s} {nnz:8d} nonzeros  {verdict:28s} {seconds:6.2f} s  peak {peak:5.0f} MB", flush=True)
    return rows


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Runs of each solver.")
@click.option("--palm-iterations", default=100, show_default=True, help="Of pyfaust's palm4msa; minutes at 100.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(rounds: int, palm_iterations: int, output: Path | None) -> None:
    """Measure, print and write the result file."""
    # the analysis first: a new process starts with the peak memory of the one that makes it
    analysis = large()
    results = {"analysis": analysis, "monarch 1024 x 1024, float32": compare(rounds, palm_iterations)}
    print("written to", write("fixed_support", results, output).name)


if __name__ == "__main__":
    main()
