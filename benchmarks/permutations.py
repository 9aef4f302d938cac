"""How often butterflies with shuffled rows and columns are recovered, by family, size and noise; and how long it takes.

A recovery has a relative error of at most 1.01 times that of the factorization with the known orders (plus 1e-10).
The published rates (arXiv:2307.00820, 20 instances) are 100 % up to n = 64 without noise, and at n = 128 those of
PUBLISHED.

python -m benchmarks.permutations [-o results.json] [--instances 20] [--sizes 4,8,16,32,64,128]
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one instance per core

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np

import sparsefact as sf
from benchmarks.record import write

NOISE = (0.0, 0.01, 0.03, 0.1)
LARGEST = {"random real": 32}  # the hard family: under noise it takes all restarts, and does not always succeed
PUBLISHED = {"DFT": {128: (100, 95, 90, 50)}, "random orthogonal": {128: (100, 100, 100, 100)}}


def bit_reversal(n: int) -> list[int]:
    """Return 0, ..., n - 1 in the order of the reversed binary digits."""
    order = [0]
    while len(order) < n:
        order = [2 * i for i in order] + [2 * i + 1 for i in order]
    return order


def chain(n: int, block: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Return the product of the butterfly factors with blocks ``block(d, q)``: d of them in a group, q among these."""
    matrix = np.eye(n)
    for a in (2**level for level in range(n.bit_length() - 1)):
        d = n // (2 * a)
        values = np.array([[block(d, q) for q in range(d)] for _ in range(a)])
        matrix = matrix @ sf.KroneckerFactor(values.transpose(0, 2, 3, 1)).toarray()
    return matrix


def orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a product of rotations by uniform angles."""

    def block(d: int, q: int) -> np.ndarray:
        c, s = np.cos(angle := rng.uniform(0, 2 * np.pi)), np.sin(angle)
        return np.array([[c, -s], [s, c]])

    return chain(n, block)


def cosine(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the product of the first stages of a fast cosine transform, with its twiddles, without its additions."""

    def block(d: int, q: int) -> np.ndarray:
        c = 2 * np.cos(np.pi * (2 * q + 1) / (4 * d))
        return np.array([[1.0, 1.0], [c, -c]])

    return chain(n, block)


FAMILIES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "DFT": lambda n, rng: np.fft.fft(np.eye(n))[:, bit_reversal(n)],
    "random orthogonal": orthogonal,
    "Hadamard": lambda n, rng: chain(n, lambda d, q: np.array([[1.0, 1.0], [1.0, -1.0]])),
    "cosine stages": cosine,
    "random real": lambda n, rng: chain(n, lambda d, q: rng.standard_normal((2, 2))),
}


def instance(family: str, n: int, noise: float, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy matrix of the family in canonical order, and the same with rows and columns shuffled."""
    rng = np.random.default_rng((number, n))
    exact = FAMILIES[family](n, rng)
    drawn = rng.standard_normal(exact.shape)
    if exact.dtype.kind == "c":
        drawn = drawn + 1j * rng.standard_normal(exact.shape)
    known = exact + drawn * (noise * np.linalg.norm(exact) / np.linalg.norm(drawn))
    return known, known[rng.permutation(n)][:, rng.permutation(n)]


def trial(task: tuple[str, int, float, int]) -> dict[str, Any]:
    """Factorize one instance with its orders unknown, and known."""
    known, shuffled = instance(*task)
    n = len(known)
    started = time.perf_counter()
    F = sf.butterfly_with_permutations(shuffled)
    seconds = time.perf_counter() - started
    best = min(
        sf.factorize(known, sf.Chain.butterfly(n), sf.Hierarchical(order=order)).error
        for order in ("left-to-right", "right-to-left")
    )
    return {"error": F.error, "known": best, "seconds": seconds, "searches": len(F.history)}


def cell(family: str, n: int, noise: float, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the trials of one family, size and noise."""
    worst = max(t["error"] / t["known"] for t in trials) if noise else max(t["error"] for t in trials)
    return {
        "family": family,
        "n": n,
        "noise": noise,
        "instances": len(trials),
        "recovered": sum(t["error"] <= 1.01 * t["known"] + 1e-10 for t in trials),
        "worst": worst,
        "median_seconds": float(np.median([t["seconds"] for t in trials])),
        "median_searches": float(np.median([t["searches"] for t in trials])),
        "published_percent": dict(zip(NOISE, PUBLISHED.get(family, {}).get(n, ()), strict=False)).get(noise),
    }


def times(sizes: tuple[int, ...] = (32, 64, 128, 256)) -> list[dict[str, Any]]:
    """Return the seconds of the shuffled DFT on one core, without and with noise, best of three."""
    rows = []
    for n, noise in product(sizes, (0.0, 0.1)):
        seconds = min(trial(("DFT", n, noise, number))["seconds"] for number in range(3))
        rows.append({"family": "DFT", "n": n, "noise": noise, "seconds": seconds})
        print(f"DFT, n = {n}, noise {noise}: {seconds:.2f} s")
    return rows


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
@click.option("--instances", default=20, show_default=True, help="Per family, size and noise.")
@click.option("--sizes", default="4,8,16,32,64,128", show_default=True, help="Powers of two, comma-separated.")
@click.option("--families", default=",".join(FAMILIES), show_default=True, help="Comma-separated.")
def main(output: Path | None, instances: int, sizes: str, families: str) -> None:
    """Measure, print and write the result file."""
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for family, n in product(families.split(","), map(int, sizes.split(","))):
            if n > LARGEST.get(family, n):
                continue
            tasks = [(family, n, noise, number) for noise in NOISE for number in range(instances)]
            done = list(pool.map(trial, tasks))
            row = [cell(family, n, noise, done[i * instances : (i + 1) * instances]) for i, noise in enumerate(NOISE)]
            rows += row
            print(
                f"{family}, n = {n}: "
                + ", ".join(f"{c['recovered']}/{c['instances']} (worst {c['worst']:.3g})" for c in row)
                + f", {row[-1]['median_seconds']:.2f} s each at the largest noise",
                flush=True,
            )
    write("permutations", {"rates": rows, "times": times()}, output)


if __name__ == "__main__":
    main()
