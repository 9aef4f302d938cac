"""Chains of Kronecker supports beside the other libraries: time, error, memory, growth; and the exact transforms.

    python -m benchmarks.butterfly [--sizes 1024 --sizes 2048 ...] [--no-peers] [--rounds 7] [-o results.json]

The square dyadic chain of N = 1024 to 8192, float32 and complex64, on targets that are exactly of the chain (a random
product; the DFT with bit-reversed columns), the same with 1 % of noise, and Gaussian; then Monarch, deformable, mixed
radix and rank-two chains. Every order of ours, every way of the peers (`benchmarks.peers_butterfly`) up to N = 4096 and
a copy of the matrix are run in rounds, each shuffled, in warm processes, one for each library (`benchmarks.worker`);
times are medians, at least five unless a run takes seconds. Every library keeps the threads that it takes by itself, so
the machine must be idle: threads that wait for each other by spinning (PyTorch's) become many times slower beside other
work, and the load average before the run is in the result file.
Errors come from one routine: the factors, whoever made them, become float64 CSR arrays and are multiplied out.

A peer's way that took more than three times as long as the fastest one is not measured again on that type.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import Any

import click
import numpy as np
import scipy.fft
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks import peers_butterfly
from benchmarks.record import versions, write
from benchmarks.worker import PANEL, Path, Pattern, Worker, relative_error, sparse_factor

SIZES = (1024, 2048, 4096, 8192)
LARGEST_OF_PEERS = 4096
TARGETS = ("exact", "noisy", "Gaussian")
NOISE = 0.01
# All runs of one path may take this many seconds beside the first one, which alone counts where it takes more. A way of
# the peers that is this many times slower than their fastest is run twice, and left out of larger sizes.
BUDGET = 2.5
TOO_SLOW = 3.0
OTHER_CHAINS: dict[str, Sequence[Pattern]] = {
    "Monarch 4096 x 4096, blocks of 64 x 64": [(1, 64, 64, 64), (64, 64, 64, 1)],
    "Monarch 768 x 3072": [(1, 32, 64, 24), (64, 24, 48, 1)],
    "deformable 384 x 1536": [(1, 4, 8, 96), (8, 8, 8, 12), (64, 12, 24, 1)],
    "mixed radix 1000 = 10 * 10 * 10": [(1, 10, 10, 100), (10, 10, 10, 10), (100, 10, 10, 1)],
    "rank two, 1024 x 1024": [
        (1, 4, 8, 256),
        *((2**level, 4, 4, 2 ** (9 - level)) for level in range(2, 8)),
        (256, 8, 4, 1),
    ],
}


def dyadic(n: int) -> list[Pattern]:
    """Return the square dyadic chain of n = 2^L, (2^l, 2, 2, n / 2^(l+1)) for l < L."""
    return [(2**level, 2, 2, n >> level + 1) for level in range(n.bit_length() - 1)]


def gaussian(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return standard normal numbers of this type."""
    real = np.dtype(dtype).type(0).real.dtype
    made = rng.standard_normal(shape, dtype=real)
    if np.dtype(dtype).kind != "c":
        return made
    whole = np.empty(shape, dtype=dtype)
    whole.real, whole.imag = made, rng.standard_normal(shape, dtype=real)
    return whole


def bit_reversed_dft(n: int) -> NDArray[np.complex128]:
    """Return the DFT matrix of scipy.fft with its columns in bit-reversed order, (n, n)."""
    reverse = np.zeros(1, dtype=np.intp)
    while len(reverse) < n:
        reverse = np.concatenate([2 * reverse, 2 * reverse + 1])
    made = np.empty((n, n), dtype=np.complex128)
    for start in range(0, n, PANEL):
        panel = np.zeros((n, min(PANEL, n - start)), dtype=np.complex128)
        panel[reverse[start : start + PANEL], np.arange(panel.shape[1])] = 1
        made[:, start : start + PANEL] = scipy.fft.fft(panel, axis=0)
    return made


def exact_target(patterns: Sequence[Pattern], dtype: Any) -> NDArray[Any]:
    """Return a matrix of the chain: the DFT if dyadic and complex, a product of Gaussian factors otherwise."""
    n = patterns[-1][0] * patterns[-1][2] * patterns[-1][3]
    if np.dtype(dtype).kind == "c" and list(patterns) == dyadic(n):
        return bit_reversed_dft(n).astype(dtype)
    rng = np.random.default_rng(0)
    factors = [sparse_factor(gaussian(rng, pattern, dtype)).astype(dtype) for pattern in patterns]
    product = factors[-1].toarray()
    for factor in reversed(factors[:-1]):
        product = factor @ product
        product /= product.dtype.type(np.abs(product).max())  # in range for any number of factors
    return np.ascontiguousarray(product)


def target(kind: str, patterns: Sequence[Pattern], dtype: Any) -> NDArray[Any]:
    """Return the matrix to factorize: "exact", "noisy" or "Gaussian"."""
    rng = np.random.default_rng(1)
    (a, b, _, d), (e, _, f, g) = patterns[0], patterns[-1]
    noise = gaussian(rng, (a * b * d, e * f * g), dtype)
    if kind == "Gaussian":
        return noise
    exact = exact_target(patterns, dtype)
    if kind == "exact":
        return exact
    noise *= exact.dtype.type(NOISE * np.linalg.norm(exact) / np.linalg.norm(noise))
    noise += exact
    return noise


def our_orders(splits: int) -> dict[str, Any]:
    """Return the orders that are measured, by name; the last is a fixed shuffle of the splits."""
    if splits < 2:
        return {"left-to-right": "left-to-right"}
    shuffled = np.random.default_rng(0).permutation(splits) + 1
    orders: dict[str, Any] = {name: name for name in ("left-to-right", "right-to-left", "balanced")}
    return orders | {"a list of splits": [int(split) for split in shuffled]}


def our_paths(A: NDArray[Any], patterns: Sequence[Pattern]) -> list[Path]:
    """Return every order of ours."""
    chain = sf.Chain([sf.KroneckerSupport(*pattern) for pattern in patterns])

    def path(name: str, order: Any) -> Path:
        return Path(
            name,
            lambda: sf.factorize(A, chain, sf.Hierarchical(order=order)),
            lambda found: [sparse_factor(factor.values) for factor in found.factors],
            lambda found: {
                "claimed_error": found.error,
                "ratio": found.certificate.ratio,
                "status": found.status.value,
            },
        )

    return [path(name, order) for name, order in our_orders(len(patterns) - 1).items()]


def copying(A: NDArray[Any], patterns: Sequence[Pattern]) -> list[Path]:
    """Return the yardstick, a fresh copy of the matrix."""
    return [Path("copy", A.copy, lambda found: [scipy.sparse.csr_array(A.shape, dtype=A.dtype)])]


def with_copy(A: NDArray[Any], patterns: Sequence[Pattern]) -> list[Path]:
    """Return ours and the yardstick."""
    return copying(A, patterns) + our_paths(A, patterns)


class Contest:
    """The processes of all libraries, ours first, and how a problem is measured on all of them.

    Parameters
    ----------
    who : "all", "ours" or "peers"
    rounds : int
        Runs of each path, fewer for what takes seconds.
    """

    def __init__(self, who: str, rounds: int) -> None:
        self._rounds = rounds
        self._ours = Worker(copying if who == "peers" else with_copy, ours=True)
        libraries = peers_butterfly.LIBRARIES if who != "ours" else ()
        self._peers = [Worker(make, ours=False) for make in libraries]

    def measure(
        self, A: NDArray[Any], patterns: Sequence[Pattern], *, peers: bool = True, skipped: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """Run every path in shuffled rounds and return one row: ours, peers, the copy, and the ratios of the medians.

        Parameters
        ----------
        A : (m, n) array
        patterns : sequence of (a, b, c, d)
        peers : bool
            Whether the other libraries take part.
        skipped : frozenset of str
            Names of paths that do not.
        """
        runs: dict[str, Worker] = {}
        with tempfile.TemporaryDirectory() as folder:
            file = File(folder) / "matrix.npy"
            np.save(file, A)
            for worker in (self._ours, *(self._peers if peers else ())):
                runs |= dict.fromkeys(worker.ask("load", str(file), list(patterns)), worker)
        rows: dict[str, dict[str, Any]] = {}
        first: dict[str, float] = {}
        for name, worker in runs.items():
            if name in skipped:
                continue
            row = rows[name] = {"name": name, "seconds": []} | worker.ask("try", name, BUDGET)
            if "failure" not in row:
                first[name] = row.pop("first")
                row["seconds"] = [first[name]] if first[name] > BUDGET else []
            elif worker is self._ours:
                raise RuntimeError(f"{name}: {row['failure']}")
        limit = TOO_SLOW * min((first[name] for name in first if runs[name] is not self._ours), default=math.inf)
        times = {
            name: max(1, min(self._rounds, int(BUDGET / seconds) if seconds < limit else 2))
            for name, seconds in first.items()
            if not rows[name]["seconds"]
        }
        rng = np.random.default_rng(0)
        for done in range(self._rounds):
            for name in rng.permutation([name for name in times if times[name] > done]):
                rows[name]["seconds"].append(runs[name].ask("time", str(name)))
        copies = rows.pop("copy")["seconds"]
        return summary(rows, [name for name in rows if runs[name] is self._ours], copies)

    def close(self) -> None:
        """End the processes."""
        for worker in (self._ours, *self._peers):
            worker.close()


def summary(rows: dict[str, dict[str, Any]], ours: list[str], copies: list[float]) -> dict[str, Any]:
    """Return the row of one problem, with the medians and ratios that the tables show."""
    for row in rows.values():
        if row["seconds"]:
            row["median"] = statistics.median(row["seconds"])
    finished = sorted((row for row in rows.values() if "median" in row), key=lambda row: float(row["median"]))
    peers = [row for row in finished if row["name"] not in ours]
    fastest = peers[0]["median"] if peers else None
    copy = statistics.median(copies)
    for name in ours:
        rows[name]["copies"] = rows[name]["median"] / copy
        rows[name]["times_faster"] = fastest / rows[name]["median"] if fastest else None
    return {
        "copy_seconds": copies,
        "copy_median": copy,
        "ours": [rows[name] for name in ours],
        "peers": peers,  # the fastest first
        "failures": {name: row["failure"] for name, row in rows.items() if "failure" in row},
    }


def report(title: str, row: dict[str, Any]) -> None:
    """Print one problem."""
    print(f"{title}   copy {1e3 * row['copy_median']:.2f} ms", flush=True)
    for found in (*row["ours"], *row["peers"]):
        line = f"    {found['name']:60s} {1e3 * found['median']:10.2f} ms  error {found['error']:.6g}"
        if "copies" in found:
            line += f"  {found['copies']:.2f} copies  peak {found['peak_over_matrix']:.2f} matrices"
        if found.get("times_faster"):
            line += f"  {found['times_faster']:.1f} times faster"
        print(line, flush=True)
    for name, failure in row["failures"].items():
        print(f"    {name:60s} fails: {failure[:60]}")


def too_slow(row: dict[str, Any]) -> list[str]:
    """Return the names of the peers' ways that are not worth measuring again, or fail."""
    limit = TOO_SLOW * min((peer["median"] for peer in row["peers"]), default=math.inf)
    return [*row["failures"], *(peer["name"] for peer in row["peers"] if peer["median"] > limit)]


def square_dyadic(contest: Contest, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield a row per type, target and size."""
    for dtype in ("float32", "complex64"):
        slow: frozenset[str] = frozenset()
        for kind in TARGETS:
            for n in sizes:
                A = target(kind, dyadic(n), dtype)
                row = contest.measure(A, dyadic(n), peers=n <= LARGEST_OF_PEERS, skipped=slow)
                report(f"{n} {dtype} {kind}", row)
                slow = slow.union(too_slow(row))
                yield {"size": n, "dtype": dtype, "target": kind} | row


def other_chains(contest: Contest) -> Iterator[dict[str, Any]]:
    """Yield a row per chain and target, float32."""
    slow: frozenset[str] = frozenset()
    # the smallest first: what is slow there is not measured on the large ones
    for name, patterns in sorted(OTHER_CHAINS.items(), key=lambda item: math.prod(sf.Chain(item[1]).shape)):
        for kind in ("Gaussian", "noisy"):
            row = contest.measure(target(kind, patterns, "float32"), patterns, skipped=slow)
            report(f"{name}, {kind}", row)
            slow = slow.union(too_slow(row))
            yield {"chain": name, "patterns": patterns, "target": kind} | row


def accuracy(sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the errors on the transforms that are exactly square dyadic."""
    makers: dict[str, tuple[Any, tuple[str, str]]] = {
        "Hadamard": (lambda n: scipy.linalg.hadamard(n, dtype=np.float64), ("float64", "float32")),
        "bit-reversed DFT": (bit_reversed_dft, ("complex128", "complex64")),
    }
    for matrix, (make, dtypes) in makers.items():
        for n in sizes:
            reference = make(n)
            for dtype in dtypes:
                A = reference.astype(dtype)
                for path in our_paths(A, dyadic(n)):
                    error = relative_error(reference, path.factors(path.solve()))
                    print(f"{matrix:18s} {n:5d} {dtype:10s} {path.name:18s} error {error:.2e}", flush=True)
                    yield {"matrix": matrix, "size": n, "dtype": dtype, "order": path.name, "error": error}


def exponents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the slopes of log time over log N, by least squares: every order of ours, and the copy."""
    found = []
    for dtype, kind in sorted({(row["dtype"], row["target"]) for row in rows}):
        here = [row for row in rows if (row["dtype"], row["target"]) == (dtype, kind)]
        if len(here) < 2:
            continue
        times = {"copy": [row["copy_median"] for row in here]}
        for place, ours in enumerate(here[0]["ours"]):
            times[ours["name"]] = [row["ours"][place]["median"] for row in here]
        logs = np.log([row["size"] for row in here])
        for name, medians in times.items():
            slope = float(np.polyfit(logs, np.log(medians), 1)[0])
            found.append({"dtype": dtype, "target": kind, "name": name, "exponent": slope})
            print(f"{dtype:10s} {kind:9s} {name:18s} grows as N^{slope:.2f}")
    return found


@click.command()
@click.option("--sizes", multiple=True, type=int, default=SIZES, show_default=True, help="Powers of two; repeatable.")
@click.option("--who", type=click.Choice(["all", "ours", "peers"]), default="all", show_default=True)
@click.option("--no-peers", is_flag=True, help="The same as --who ours.")
@click.option("--rounds", default=7, show_default=True, help="Runs of each, fewer for what takes seconds.")
@click.option("--part", type=click.Choice(["all", "dyadic", "chains", "accuracy"]), default="all", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=File), help="Result file.")
def main(sizes: tuple[int, ...], who: str, no_peers: bool, rounds: int, part: str, output: File | None) -> None:
    """Measure, print and write the result file; less than everything is only written where -o says."""
    who, sizes = "ours" if no_peers else who, tuple(sorted(sizes))
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    contest = Contest(who, rounds)
    rows = list(square_dyadic(contest, sizes)) if part in ("all", "dyadic") else []
    chains = list(other_chains(contest)) if part in ("all", "chains") else []
    contest.close()
    results = {
        "peers": versions(peers_butterfly.PACKAGES) if who != "ours" else {},
        "load_average": load,
        "threads": {"sparsefact": os.environ.get("SPARSEFACT_NUM_THREADS"), "torch": peers_butterfly.torch_threads()},
        "square dyadic": rows,
        "exponents": exponents(rows),
        "other chains": chains,
        "accuracy": list(accuracy(sizes)) if part in ("all", "accuracy") and who != "peers" else [],
    }
    if (part, who, sizes) == ("all", "all", SIZES) or output is not None:
        print("written to", write("butterfly", results, output).name)


if __name__ == "__main__":
    main()
