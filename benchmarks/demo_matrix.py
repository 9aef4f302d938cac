"""Error against density on one matrix of the network that comes with the package: the picture of the README.

python -m benchmarks.demo_matrix        writes benchmarks/results/demo_matrix.json; a minute on one core
python -m benchmarks.demo_matrix --output FILE --densities 0.3,0.5
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import sparsefact as sf
from benchmarks.record import write
from sparsefact.cli.digits import largest_entries, network_file, read_network, relative_error, truncated_svd

NAME = "layers.0.weight"
DENSITIES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
SHOWN = 0.3


def matrix() -> np.ndarray:
    """Return the matrix that reads the pixels: 256 neurons, 64 pixels."""
    with network_file() as path:
        return np.array(read_network(path)[NAME])


def factors(density: float) -> sf.Factorization:
    """Return its two sparse factors at a density, found with the defaults."""
    A = matrix()
    return sf.factorize(A, sf.double_sparse(A.shape, density))


def measure(densities: tuple[float, ...]) -> dict[str, Any]:
    """Return the errors of two sparse factors, of the largest entries and of an SVD, each with as many numbers."""
    A = matrix()
    rows = []
    for density in densities:
        F = factors(density)
        pruned, svd = largest_entries(A, density), truncated_svd(A, density)
        rows.append(
            {
                "density": density,
                "two sparse factors": {"numbers": F.nnz, "error": F.error, "seconds": F.seconds},
                "magnitude pruning": {"numbers": pruned[1], "error": relative_error([A], [pruned[0]])},
                "SVD": {"numbers": svd[1], "error": relative_error([A], [svd[0]])},
            }
        )
    return {"matrix": NAME, "shape": A.shape, "rows": rows}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--densities", default=",".join(map(str, DENSITIES)))
    arguments = parser.parse_args()
    results = measure(tuple(float(text) for text in arguments.densities.split(",")))
    print(f"wrote {write('demo_matrix', results, arguments.output)}; draw it with python -m benchmarks.pictures")


if __name__ == "__main__":
    main()
