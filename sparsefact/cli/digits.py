"""The demo's arithmetic: a small network on handwritten digits, and what three ways of shrinking it cost.

The network is a perceptron 64-256-256-10 with ReLU that reads raw pixels; `benchmarks/train_digits.py` made it. Every
way keeps the same number of parameters in the same matrices: two sparse factors, the largest entries, or an SVD.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.checkpoints.factor_file import load
from sparsefact.constraints.double_sparse import joint_budget
from sparsefact.constraints.top_k import TopK
from sparsefact.io.tensor_file import TensorFile

__all__ = [
    "LAYERS",
    "SHRUNK",
    "Trial",
    "accuracy",
    "compare",
    "held_out",
    "largest_entries",
    "network_file",
    "read_factor_file",
    "read_network",
    "relative_error",
    "truncated_svd",
]

LAYERS = 3
SHRUNK = ("layers.0.weight", "layers.1.weight")  # the last, 10 x 256, holds 3 % of the weights and stays dense


@dataclass(frozen=True)
class Trial:
    """What one way of shrinking did to the network.

    Attributes
    ----------
    method : str
        "two sparse factors", "magnitude pruning" or "SVD".
    density : float
        The share of parameters that was allowed in the shrunk matrices.
    parameters : int
        Numbers kept in the shrunk matrices.
    error : float
        Relative Frobenius error over the shrunk matrices together.
    accuracy : float
        On the held-out images.
    """

    method: str
    density: float
    parameters: int
    error: float
    accuracy: float


@contextlib.contextmanager
def network_file() -> Iterator[Path]:
    """Give the path of the shipped network, a safetensors checkpoint.

    Yields
    ------
    Path
        Valid inside the ``with`` block only, for the package may be installed as an archive.
    """
    with resources.as_file(resources.files("sparsefact") / "data" / "digits_perceptron.safetensors") as path:
        yield path


def read_network(path: Path) -> dict[str, NDArray[Any]]:
    """Read every tensor of a checkpoint into memory.

    Parameters
    ----------
    path : Path
        A safetensors file.

    Returns
    -------
    dict of str to ndarray
        ``layers.<i>.weight`` (out, in) and ``layers.<i>.bias`` (out,) for the shipped network.
    """
    with TensorFile(path) as file:
        return {name: np.array(file.read(name)) for name in file.names}


def held_out() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the images the network never saw in training.

    Returns
    -------
    images : ndarray of uint8, shape (449, 64)
        Pixels from 0 to 16, row by row.
    labels : ndarray of int64, shape (449,)
    """
    source = resources.files("sparsefact") / "data" / "digits_heldout.safetensors"
    with resources.as_file(source) as path:
        tensors = read_network(path)
    return tensors["images"], tensors["labels"]


def read_factor_file(path: Path) -> dict[str, Any]:
    """Read the network back from a factor file: factorizations where there are some, plain tensors elsewhere.

    Parameters
    ----------
    path : Path
        A factor file written from the shipped network.

    Returns
    -------
    dict of str to Factorization or ndarray
        The same names as `read_network` gives.
    """
    network: dict[str, Any] = {name: load(path, name) for name in SHRUNK}
    with TensorFile(path) as file:
        for layer in range(LAYERS):
            for name in (f"layers.{layer}.weight", f"layers.{layer}.bias"):
                if name not in network:
                    network[name] = np.array(file.read(name))
    return network


def accuracy(network: Mapping[str, Any], images: NDArray[Any], labels: NDArray[Any]) -> float:
    """Run the network and count how often its largest output is the label.

    Parameters
    ----------
    network : mapping of str to array or Factorization
        Weights and biases by name; a weight only has to know ``@``.
    images : ndarray, shape (images, 64)
        Raw pixels.
    labels : ndarray of int, shape (images,)

    Returns
    -------
    float
        Between 0 and 1.
    """
    values = images.T.astype(np.float32)
    for layer in range(LAYERS):
        values = network[f"layers.{layer}.weight"] @ values + network[f"layers.{layer}.bias"][:, None]
        if layer < LAYERS - 1:
            values = np.maximum(values, 0)
    return float(np.mean(values.argmax(axis=0) == labels))


def largest_entries(matrix: NDArray[Any], density: float) -> tuple[NDArray[Any], int]:
    """Prune by magnitude: keep the floor(density * m * n) largest entries.

    Parameters
    ----------
    matrix : ndarray, shape (m, n)
    density : float
        In (0, 1].

    Returns
    -------
    pruned : ndarray, shape (m, n)
    parameters : int
        How many numbers it holds.
    """
    m, n = matrix.shape
    kept = TopK(nnz=joint_budget(density, (m, n)))
    return kept.project(matrix), kept.count((m, n))


def truncated_svd(matrix: NDArray[Any], density: float) -> tuple[NDArray[Any], int]:
    """Give the best matrix of the largest rank r whose two dense factors fit: r (m + n) <= density m n.

    Parameters
    ----------
    matrix : ndarray, shape (m, n)
    density : float
        In (0, 1].

    Returns
    -------
    approximation : ndarray, shape (m, n)
    parameters : int
        r (m + n).
    """
    m, n = matrix.shape
    rank = joint_budget(density, (m, n)) // (m + n)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank], rank * (m + n)


def relative_error(matrices: Sequence[NDArray[Any]], approximations: Sequence[NDArray[Any]]) -> float:
    """Return the relative Frobenius error over several matrices together, computed in float64.

    Parameters
    ----------
    matrices, approximations : sequences of ndarray
        Of equal lengths and shapes.

    Returns
    -------
    float
        sqrt(sum ||A - P||_F^2 / sum ||A||_F^2).

    Examples
    --------
    >>> relative_error([np.array([[3.0]]), np.array([[4.0]])], [np.array([[0.0]]), np.array([[4.0]])])
    0.6
    """
    exact = [np.asarray(matrix, dtype=np.float64) for matrix in matrices]
    lost = sum(float(np.sum((a - p) ** 2)) for a, p in zip(exact, approximations, strict=True))
    return math.sqrt(lost / sum(float(np.sum(a**2)) for a in exact))


def compare(
    network: Mapping[str, NDArray[Any]], factor_file: Path, density: float, images: NDArray[Any], labels: NDArray[Any]
) -> list[Trial]:
    """Measure the three ways at one density: the factor file's products, magnitude pruning and SVD.

    Parameters
    ----------
    network : mapping of str to ndarray
        The network as it was.
    factor_file : Path
        What `sparsefact.checkpoints.run` wrote from it at this density.
    density : float
        The share of parameters allowed in the shrunk matrices.
    images, labels : ndarray
        What `held_out` gives.

    Returns
    -------
    list of Trial
        One for each way, in this order.
    """
    weights = [network[name] for name in SHRUNK]
    factorized = read_factor_file(factor_file)
    products = [factorized[name] for name in SHRUNK]
    trials = [
        Trial(
            "two sparse factors",
            density,
            sum(product.nnz for product in products),
            relative_error(weights, [product.todense() for product in products]),
            accuracy(factorized, images, labels),
        )
    ]
    for method, shrink in (("magnitude pruning", largest_entries), ("SVD", truncated_svd)):
        shrunk, counts = zip(*(shrink(weight, density) for weight in weights), strict=True)
        replaced = {**network, **dict(zip(SHRUNK, shrunk, strict=True))}
        error = relative_error(weights, shrunk)
        trials.append(Trial(method, density, sum(counts), error, accuracy(replaced, images, labels)))
    return trials
