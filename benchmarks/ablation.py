"""Two sparse factors, ablated: every inner solver on every pattern, on a real layer and on random matrices.

    python -m benchmarks.ablation [--checkpoint model.safetensors] [--quick] [-o results.json]

The question is what makes the method work. Every cell is one `factorize` by `Alternating` with the same start, outer
iterations and exact refits at the end; only the inner solver and the patterns of the factors change, at the same number
of nonzeros. A solver that this version does not have is reported as absent, and a pattern that a solver refuses with
what it says.
`--quick` runs tiny matrices, to try the benchmark itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

import sparsefact as sf
from benchmarks.double_sparse import real_layers, tail_error
from benchmarks.record import write
from sparsefact.constraints.presets import block_diagonal, blocks_around_n_of_m, random_support
from sparsefact.errors import SparsefactError
from sparsefact.factorizers.block_coordinate import BlockCoordinateDescent

SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ADMM": ("ADMM", {}),
    "normalized IHT": ("IHT", {"variant": "normalized"}),
    "HTP": ("IHT", {"variant": "htp"}),
    "projected gradient": ("Gradient", {"rule": "sgd"}),
    "Adam": ("Gradient", {"rule": "adam"}),
    "RMSProp": ("Gradient", {"rule": "rmsprop"}),
    "deep weights": ("DeepWeightFactorization", {}),
    "ADMM, polished": ("ADMM", {}),
}
"""Inner solvers: the public name and the arguments. How many steps a half-step has is the solver's own choice."""
POLISHED = ("ADMM, polished",)
"""With the joint fit and the exchange of entries at the end, which choose supports again and are left out elsewhere."""

DENSITIES = (0.5, 0.25)
# The share of the budget that the left of two square factors gets, where a pattern does not say it.
LEFT = 0.32
BATCH = 64


@dataclass(frozen=True)
class Pattern:
    """What the factors look like: the constraints for a square matrix at a total density, or None if there are none."""

    name: str
    make: Callable[[int, float], Any]


def _counts(n: int, density: float) -> tuple[int, int]:
    budget = math.floor(density * n * n)
    left = math.floor(LEFT * budget)
    return left, budget - left


def _per(left: str, right: str) -> Callable[[int, float], Any]:
    """Return what makes a pair of `TopK`, both anywhere or both with equal counts per row or column."""

    def make(n: int, density: float) -> Any:
        if left == right == "matrix":
            return tuple(sf.TopK(nnz=count) for count in _counts(n, density))
        each = math.floor(density * n)
        first = round(LEFT * each)
        return sf.TopK(nnz=first, per=left), sf.TopK(nnz=each - first, per=right)

    return make


def _groups(shares: dict[float, tuple[int, int]]) -> Callable[[int, float], Any]:
    """Return what makes n of every 16 in the left and the right factor, by density."""
    return lambda n, density: tuple(sf.NOfM(count, 16) for count in shares[density]) if density in shares else None


def _blocks(n: int, density: float) -> Any:
    left, right = (count // 16 for count in _counts(n, density))
    return sf.BlockTopK((4, 4), count=left), sf.BlockTopK((4, 4), count=right)


def _beside(make: Callable[[int, float], Any]) -> Callable[[int, float], Any]:
    """Return what makes a fixed left factor, and what it leaves of the budget anywhere in the right one."""

    def pair(n: int, density: float) -> Any:
        fixed = make(n, density)
        return fixed, sf.TopK(nnz=math.floor(density * n * n) - fixed.nnz)

    return pair


def _both_random(n: int, density: float) -> Any:
    left, right = _counts(n, density)
    return random_support((n, n), left / n**2, seed=1), random_support((n, n), right / n**2, seed=2)


def _monarch(n: int, density: float) -> Any:
    """Return two square Kronecker supports of half the density each, whose product has no zeros."""
    parts = round(2 / density)
    return sf.KroneckerSupport(1, n // parts, n // parts, parts), sf.KroneckerSupport(parts, n // parts, n // parts, 1)


PATTERNS = (
    Pattern("anywhere, split by the data", lambda n, density: sf.double_sparse((n, n), density)),
    Pattern("anywhere", _per("matrix", "matrix")),
    Pattern("equal per row", _per("row", "row")),
    Pattern("equal per column", _per("column", "column")),
    Pattern("per column, then per row", _per("column", "row")),
    Pattern("per row, then per column", _per("row", "column")),
    Pattern("n of 16", _groups({0.5: (2, 6), 0.25: (1, 3)})),
    Pattern("n of 16, halves", _groups({0.5: (4, 4), 0.25: (2, 2)})),
    Pattern("blocks of 4 x 4", _blocks),
    Pattern("left random", _beside(lambda n, density: random_support((n, n), _counts(n, density)[0] / n**2, seed=1))),
    Pattern("left block-diagonal", _beside(lambda n, density: block_diagonal((n, n), round(4 / density)))),
    Pattern("both random", _both_random),
    Pattern("two butterfly factors", _monarch),
)


def matrices(checkpoint: str | None, quick: bool) -> dict[str, NDArray[Any]]:
    """Return the matrices by name: Gaussian, with decaying singular values, and a real layer if there is one."""
    n, rng = 32 if quick else 128, np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    decaying = (left * np.arange(1, n + 1) ** -0.7) @ right
    found = {f"Gaussian {n}": rng.standard_normal((n, n)), f"decaying {n}": decaying}
    found = {name: matrix.astype(np.float32) for name, matrix in found.items()}
    if quick:
        return {name: matrix for name, matrix in found.items() if name.startswith("Gaussian")}
    layers = real_layers(checkpoint)
    return found | {name: layers[name] for name in ("q384",) if name in layers}


def inner_solver(name: str) -> Any | None:
    """Return the solver of this name, or None if this version does not have it."""
    public, arguments = SOLVERS[name]
    return getattr(sf, public)(**arguments) if public in sf.__all__ else None


def steps_of(solver: Any) -> int:
    """Return how many steps a half-step has in the middle of a run."""
    steps: int = (solver.at(0.5) if hasattr(solver, "at") else solver).iterations
    return steps


def storage(factors: tuple[Any, ...], constraints: Any) -> tuple[int, int]:
    """Return the bytes of the factors as CSR, and with one bit for each position (none where the support is fixed)."""
    each = constraints if isinstance(constraints, tuple) else (None,) * len(factors)
    csr = bitmask = 0
    for factor, constraint in zip(factors, each, strict=True):
        matrix = sparse.csr_array(factor.tocsr())
        values = matrix.nnz * matrix.dtype.itemsize
        csr += values + 4 * (matrix.nnz + matrix.shape[0] + 1)
        fixed = isinstance(constraint, (sf.Support, sf.KroneckerSupport))
        bitmask += values + (0 if fixed else -(-math.prod(matrix.shape) // 8))
    return csr, bitmask


def best_time(call: Callable[[], Any], quick: bool) -> float:
    """Return the shortest time of some calls, in seconds."""
    call()
    times = []
    for _ in range(2 if quick else 9):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(matrix: NDArray[Any], constraints: Any, solver: Any, limit: float, quick: bool) -> dict[str, Any]:
    """Factorize once, and return what came out."""
    try:
        F = sf.factorize(matrix, constraints, solver, time_limit=limit)
    except SparsefactError as error:
        return {"refused": str(error)}
    csr, bitmask = storage(F.factors, constraints)
    x = np.random.default_rng(0).standard_normal((matrix.shape[1], BATCH)).astype(matrix.dtype)
    return {
        "error": F.error,
        "seconds": F.seconds,
        "stopped": F.seconds >= limit,
        "nnz": [int(factor.nnz) for factor in F.factors],
        "csr_bytes": csr,
        "bitmask_bytes": bitmask,
        "dense_bytes": matrix.nbytes,
        "product_seconds": best_time(lambda: F @ x, quick),
        "dense_product_seconds": best_time(lambda: matrix @ x, quick),
    }


def rows_of(name: str, matrix: NDArray[Any], outer: int, limit: float, quick: bool) -> Iterator[dict[str, Any]]:
    """Measure every cell for one matrix: what needs no search, all pairs of factors, and three factors."""
    n = matrix.shape[0]
    singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    for density in DENSITIES[: 1 if quick else None]:
        budget = math.floor(density * matrix.size)
        here = {"matrix": name, "density": density, "budget": budget}
        yield here | {"pattern": "one sparse matrix", "solver": "magnitude", "error": tail_error(matrix**2, budget)}
        rank = budget // (2 * n)
        yield here | {"pattern": "two dense factors", "solver": "SVD", "error": tail_error(singular**2, rank)}
        for pattern in PATTERNS:
            constraints = pattern.make(n, density)
            if constraints is None:
                continue
            for title in SOLVERS:
                row = here | {"pattern": pattern.name, "solver": title}
                inner = inner_solver(title)
                if inner is None:
                    yield row | {"absent": True}
                    continue
                row |= {"steps": steps_of(inner)}
                polish = {} if title in POLISHED else {"fits": 0, "exchanges": 0}
                solver = sf.Alternating(inner=inner, outer=outer, **polish)  # type: ignore[arg-type]
                yield row | measure(matrix, constraints, solver, limit, quick)
        # 1 of 4 or 1 of 8 in the core, the rest of the budget in the blocks
        core = round(2 / density)
        three = blocks_around_n_of_m(matrix.shape, round(n * density / 4), 1, core)
        row = here | {"pattern": f"block-diagonal, 1 of {core}, block-diagonal", "solver": "ADMM"}
        yield row | measure(matrix, three, BlockCoordinateDescent(iterations=outer), limit, quick)


@click.command()
@click.option("--checkpoint", help="The safetensors file or directory of all-MiniLM-L6-v2.")
@click.option("--quick", is_flag=True, help="Tiny matrices and few iterations.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(checkpoint: str | None, quick: bool, output: Path | None) -> None:
    """Measure, print every row and write the result file."""
    sf.factorize(np.eye(16, dtype=np.float32), sf.double_sparse((16, 16), 0.5))  # compiles the kernels
    rows = []
    for name, matrix in matrices(checkpoint, quick).items():
        outer = 2 if quick else 30 if matrix.shape[0] <= 128 else 12
        for row in rows_of(name, matrix, outer, 0.1 if quick else 3.0, quick):
            row["outer"] = outer
            rows.append(row)
            told = f"error {row['error']:.4f}" if "error" in row else row.get("refused", "absent")
            took = f"  {row['seconds']:.2f} s" if "seconds" in row else ""
            print(f"{name:13s} {row['density']:<5} {row['pattern']:38s} {row['solver']:19s} {told}{took}", flush=True)
    print("written to", write("ablation", {"batch": BATCH, "rows": rows}, output).name)


if __name__ == "__main__":
    main()
