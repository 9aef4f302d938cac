"""Two sparse factors with one budget of nonzeros, without and with the Gram matrix of a layer's inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks import data_aware
from benchmarks import published_double_sparse as published
from benchmarks.peers.case import Attempt, Case, Verdict, Way, factors_error, ours, plain
from benchmarks.peers.layers import Layers
from benchmarks.peers.libraries import low_rank, palm

DENSITY = 0.3
PALM_ITERATIONS = {256: 100, 384: 60, 1536: 40}


@dataclass(frozen=True)
class Weighted:
    """A matrix, float32, and the Gram matrix that weights its columns, or None; how many numbers are to be kept."""

    matrix: NDArray[Any]
    gram: NDArray[Any] | None
    density: float

    @property
    def budget(self) -> int:
        """How many nonzeros are allowed."""
        return int(self.density * self.matrix.size)

    @property
    def rank(self) -> int:
        """The rank of two dense factors with as many numbers."""
        return self.budget // sum(self.matrix.shape)


def gaussian_256(layers: Layers) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a Gaussian matrix and the Gram matrix of drawn inputs."""
    return np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32), data_aware.drawn_gram(256)


MATRICES: dict[str, tuple[str, Callable[[Layers], tuple[NDArray[Any], NDArray[Any]]]]] = {
    "small": ("Gaussian 256 x 256", gaussian_256),
    "medium": ("attention query, 384 x 384", lambda layers: (layers["q384"], layers.gram("q384"))),
    "large": ("intermediate, 1536 x 384", lambda layers: (layers["fc1_1536x384"], layers.gram("fc1_1536x384"))),
}


def problem(size: str, density: float, *, weighted: bool) -> Callable[[Layers], Weighted]:
    """Return what makes the input."""

    def make(layers: Layers) -> Weighted:
        matrix, gram = MATRICES[size][1](layers)
        return Weighted(matrix, gram if weighted else None, density)

    return make


def judge(given: Weighted, factors: list[Any]) -> Verdict:
    """Return the error in the loss."""
    verdict = factors_error(given.matrix, factors, budget=given.budget)
    if given.gram is None:
        return verdict
    product = factors[-1].toarray()
    for factor in reversed(factors[:-1]):
        product = factor @ product
    return Verdict(data_aware.error((given.matrix, given.gram), product), verdict.nonzeros)


def solve(given: Weighted) -> Attempt:
    """Prepare ours."""
    constraint = sf.double_sparse(given.matrix.shape, given.density)
    return Attempt(lambda: sf.factorize(given.matrix, constraint, gram=given.gram), ours, lambda F: float(F.error))


def as_csr(found: Any) -> list[Any]:
    """Return arrays as CSR arrays."""
    return [plain(each) for each in found]


def transcription(given: Weighted) -> Attempt:
    """Prepare the published algorithm."""
    A, gram, density = given.matrix, given.gram, given.density
    if gram is None:
        return Attempt(lambda: published.factorize(A, density), as_csr)
    return Attempt(lambda: published.factorize_data_aware(A, gram, density), as_csr)


def magnitude(given: Weighted) -> Attempt:
    """Prepare pruning: the largest entries of the matrix, weighted by the norms of the inputs where they are known."""
    scale = 1.0 if given.gram is None else np.sqrt(given.gram.diagonal())

    def run() -> Any:
        return scipy.sparse.csr_array(given.matrix * published.top_mask(given.matrix * scale, given.budget))

    return Attempt(run, lambda found: [plain(found)])


def _svds(matrix: NDArray[Any], rank: int) -> Any:
    return scipy.sparse.linalg.svds(matrix, k=rank, rng=np.random.default_rng(0))


def svds(given: Weighted) -> Attempt:
    """Prepare scipy's truncated SVD; with a Gram matrix, of the matrix times its root, the best of that rank."""
    if given.gram is None:
        return Attempt(lambda: _svds(given.matrix, given.rank), lambda found: low_rank(*found))
    gram = given.gram

    def run() -> Any:
        values, vectors = np.linalg.eigh(gram)
        root = np.sqrt(np.maximum(values, 1e-9 * values[-1]))
        U, s, Vh = _svds((given.matrix @ vectors) * root, given.rank)
        return U, s, (Vh / root) @ vectors.T

    return Attempt(run, lambda found: low_rank(*found))


def truncated_svd(given: Weighted) -> Attempt:
    """Prepare scikit-learn's randomised truncated SVD."""
    decomposition = importlib.import_module("sklearn.decomposition")

    def run() -> Any:
        found = decomposition.TruncatedSVD(given.rank, random_state=0)
        return found.fit_transform(given.matrix), found.components_

    return Attempt(run, as_csr)


def pyfaust(given: Weighted) -> Attempt:
    """Prepare palm4msa on two factors with as many nonzeros each as the published algorithm takes."""
    m, n = given.matrix.shape
    short = min(m, n)
    square = int((0.16 if m == n else 0.25) * short * short)
    inner = [(short, short), (m, n)] if m <= n else [(m, n), (short, short)]
    counts = [
        square if shape == (short, short) and at == (m > n) else given.budget - square for at, shape in enumerate(inner)
    ]
    return palm(
        np.asfortranarray(given.matrix),
        lambda proj: [proj.sp(shape, count) for shape, count in zip(inner, counts, strict=True)],
        PALM_ITERATIONS[max(m, n)],
    )


def cases() -> list[Case]:
    """Return the cases."""
    free = (
        Way("sparsefact", "", solve),
        Way("published", "double sparse, transcribed", transcription),
        Way("pyfaust", "palm4msa, two sparse factors", pyfaust, ("pyfaust",)),
        Way("numpy", "largest entries", magnitude),
        Way("scipy", "svds, as many numbers", svds),
        Way("scikit-learn", "TruncatedSVD, as many numbers", truncated_svd, ("sklearn",)),
    )
    weighted = (
        Way("sparsefact", "", solve),
        Way("published", "double sparse with calibration, transcribed", transcription),
        Way("numpy", "largest entries times norms of inputs", magnitude),
        Way("scipy", "svds of the weighted matrix, as many numbers", svds),
    )
    return [
        Case(
            family,
            size,
            f"{title}, density {DENSITY}",
            measure,
            problem(size, DENSITY, weighted=family != "double-sparse"),
            judge,
            ways,
        )
        for family, measure, ways in (
            ("double-sparse", "relative Frobenius error", free),
            ("double-sparse-gram", "relative error of the layer's outputs", weighted),
        )
        for size, (title, _) in MATRICES.items()
    ]
