"""A linear layer of Kronecker factors in PyTorch: `FactorizedLinear` beside its factors as CSR tensors and the matrix.

    python -m benchmarks.torch_layer [--quick] [--output FILE]

Needs the extra torch. One thread. About a minute and a half; `--quick` takes a few seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sparsefact as sf
from benchmarks.record import versions, write
from sparsefact.torch import FactorizedLinear, to_torch

CHAINS: dict[str, Callable[[int], sf.Chain]] = {
    "butterfly": sf.Chain.butterfly,
    "Monarch": lambda n: sf.Chain.monarch((n, n)),
}
SIZES, BATCHES = (1024, 4096), (1, 16, 128, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes, batches, rounds = ((256,), (1, 64), 3) if options.quick else (SIZES, BATCHES, 15)
    results = [
        row for name in CHAINS for n in sizes for row in measure(name, n, batches, rounds, backward=n == sizes[0])
    ]
    document = {"packages": versions(["torch"]), "threads": torch.get_num_threads(), "rows": results}
    if not options.quick or options.output:
        print(write("torch_layer", document, options.output))


def measure(name: str, n: int, batches: tuple[int, ...], rounds: int, *, backward: bool) -> list[dict[str, Any]]:
    """Time one chain: forward, and for the inputs' gradients backward too, all ways in turn."""
    rng = np.random.default_rng(0)
    chain = CHAINS[name](n)
    shapes = [(k.a, k.b, k.c, k.d) for k in chain]
    factors = [sf.KroneckerFactor(rng.standard_normal(s).astype("float32") / s[2] ** 0.5) for s in shapes]
    F = sf.Factorization(factors)
    layer, csr, weight = FactorizedLinear(F), to_torch(F), torch.from_numpy(F.todense())

    def one_by_one(x: Any) -> Any:
        y = x.t()
        for factor in reversed(csr):
            y = factor @ y
        return y.t()

    ways: dict[str, Callable[[Any], Any]] = {
        "layer": layer,
        "CSR": one_by_one,
        "dense": lambda x: torch.nn.functional.linear(x, weight),
    }
    rows = []
    for batch in batches:
        for kind in ("forward", "backward") if backward else ("forward",):
            x = torch.from_numpy(rng.standard_normal((batch, n)).astype("float32"))
            x.requires_grad_(kind == "backward")
            found = {way: run(multiply, x) for way, multiply in ways.items()}
            errors = {way: float((y - found["dense"]).norm() / found["dense"].norm()) for way, y in found.items()}
            assert max(errors.values()) < 1e-4, errors
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, multiply in ways.items():
                    seconds[way].append(timed(multiply, x))
            row: dict[str, Any] = {
                "chain": name,
                "n": n,
                "batch": batch,
                "kind": kind,
                "ms": {way: 1e3 * statistics.median(times) for way, times in seconds.items()},
                "spread": {way: max(times) / min(times) for way, times in seconds.items()},
            }
            rows.append(row)
            shown = "  ".join(f"{way} {ms:8.3f} ms" for way, ms in row["ms"].items())
            print(f"{name:>9} {n:5} x {batch:<4} {kind:>8}  {shown}", flush=True)
    return rows


def run(multiply: Callable[[Any], Any], x: Any) -> Any:
    """Return the product, or the gradient of the inputs where they ask for one."""
    if not x.requires_grad:
        with torch.no_grad():
            return multiply(x)
    (gradient,) = torch.autograd.grad(multiply(x).sum(), x)
    return gradient


def timed(multiply: Callable[[Any], Any], x: Any) -> float:
    """Return the seconds of one run, out of enough for ten milliseconds."""
    count, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < 0.01 or not count:
        run(multiply, x)
        count += 1
    return passed / count


if __name__ == "__main__":
    main()
