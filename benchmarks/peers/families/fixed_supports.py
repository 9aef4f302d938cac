"""Two factors on given supports: where the optimum is known in closed form, and where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.als import plain_sweep
from benchmarks.fixed_support import plain_loop
from benchmarks.peers.case import Attempt, Case, Verdict, Way, Wrong, factors_error, ours, plain
from benchmarks.peers.layers import Layers
from benchmarks.peers.libraries import LAZYLINOP, of_path, palm
from benchmarks.peers_butterfly import lazylinop_numpy, lazylinop_torch
from benchmarks.worker import Pattern

BLOCKS = {"small": 16, "medium": 24, "large": 32}
ORDERS = {"small": 128, "medium": 256, "large": 512}
DENSITY, NOISE = 0.1, 0.01
# pyfaust's time for an iteration grows with the cube of the order
PALM_ITERATIONS = {256: 100, 576: 20, 1024: 8, 128: 300, 512: 30}
SWEEPS, STEPS = 20, 100


@dataclass(frozen=True)
class Supported:
    """A matrix and the two supports; the first rows and columns of the blocks where the optimum is known."""

    matrix: NDArray[Any]
    supports: tuple[Any, Any]
    blocks: list[tuple[Any, Any, int]]
    patterns: tuple[Pattern, ...] = ()

    @property
    def masks(self) -> list[Any]:
        """Where each factor may be nonzero, as CSR arrays."""
        return [scipy.sparse.csr_array(support.mask()) for support in self.supports]


def monarch(size: str) -> Any:
    """Return what makes a Gaussian matrix and a Monarch pair, given as two plain supports."""
    p = BLOCKS[size]

    def make(layers: Layers) -> Supported:
        kronecker = sf.KroneckerSupport(1, p, p, p), sf.KroneckerSupport(p, p, p, 1)
        A = np.random.default_rng(0).standard_normal((p * p, p * p)).astype(np.float32)
        grid = np.arange(p * p).reshape(p, p)
        # the entries of the matrix at rows i p + q and columns r p + j, for one (q, r), form a block of rank one
        blocks = [(grid[:, q], grid[r], r * p + q) for q in range(p) for r in range(p)]
        supports = tuple(sf.Support(scipy.sparse.csr_array(each.mask())) for each in kronecker)
        return Supported(A, (supports[0], supports[1]), blocks, ((1, p, p, p), (p, p, p, 1)))

    return make


def random_supports(size: str) -> Any:
    """Return what makes a product on two random supports with 1 % of noise."""
    n = ORDERS[size]

    def make(layers: Layers) -> Supported:
        rng = np.random.default_rng(0)
        masks = [rng.random((n, n)) < DENSITY for _ in range(2)]
        A = (rng.standard_normal((n, n)) * masks[0]) @ (rng.standard_normal((n, n)) * masks[1])
        noise = rng.standard_normal((n, n))
        A += noise * (NOISE * np.linalg.norm(A) / np.linalg.norm(noise))
        return Supported(A, (sf.Support(masks[0]), sf.Support(masks[1])), [])

    return make


def judge(problem: Supported, factors: list[Any]) -> Verdict:
    """Return the error; below the closed formula of the optimum, something is wrong."""
    verdict = factors_error(problem.matrix, factors, masks=problem.masks)
    if problem.blocks:
        A = problem.matrix.astype(np.float64)
        kept = sum(np.linalg.norm(A[np.ix_(rows, cols)], 2) ** 2 for rows, cols, _ in problem.blocks)
        optimum = np.sqrt(1 - kept / np.linalg.norm(A) ** 2)
        if verdict.error < optimum * (1 - 1e-6):
            raise Wrong(f"the error {verdict.error:.9f} is below the optimum {optimum:.9f}")
    return verdict


def solve(problem: Supported) -> Attempt:
    """Prepare ours."""
    return Attempt(lambda: sf.factorize(problem.matrix, problem.supports), ours, lambda F: float(F.error))


def loop(problem: Supported) -> Attempt:
    """Prepare one SVD after the other; which blocks is known beforehand."""
    return Attempt(lambda: plain_loop(problem.matrix, problem.blocks), lambda found: [plain(each) for each in found])


def pyfaust(problem: Supported) -> Attempt:
    """Prepare palm4msa with projections on the supports."""
    masks = [np.asarray(mask.todense(), dtype=problem.matrix.dtype) for mask in problem.masks]
    iterations = PALM_ITERATIONS[len(problem.matrix)]
    A = np.asfortranarray(problem.matrix)
    return palm(A, lambda proj: [proj.supp(mask, normalized=False) for mask in masks], iterations)


def least_squares(problem: Supported) -> Attempt:
    """Prepare the plain loop of alternating least squares over the rows and columns."""
    rows, cols = (np.asarray(mask.todense(), dtype=bool) for mask in problem.masks)

    def run() -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        left, right = (rng.standard_normal(mask.shape) * mask for mask in (rows, cols))
        for _ in range(SWEEPS):
            plain_sweep(problem.matrix, left, right, rows, cols)
        return left, right

    return Attempt(run, lambda found: [plain(each) for each in found])


def projected_gradient(problem: Supported) -> Attempt:
    """Prepare PALM in plain NumPy: gradient steps of the factors in turn, as long as the Lipschitz constants allow."""
    A = problem.matrix
    rows, cols = (np.asarray(mask.todense(), dtype=bool) for mask in problem.masks)

    def run() -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        left, right = (rng.standard_normal(mask.shape) * mask / np.sqrt(len(A) * DENSITY) for mask in (rows, cols))
        for _ in range(STEPS):
            gram = right @ right.T
            left = left - ((left @ gram - A @ right.T) / np.linalg.eigvalsh(gram)[-1]) * rows
            gram = left.T @ left
            right = right - ((gram @ right - left.T @ A) / np.linalg.eigvalsh(gram)[-1]) * cols
        return left, right

    return Attempt(run, lambda found: [plain(each) for each in found])


def cases() -> list[Case]:
    """Return the cases."""
    exact = (
        Way("sparsefact", "", solve),
        Way("numpy", "a loop of SVDs over the blocks", loop),
        Way("lazylinop", "ksd, numpy_svd", of_path(lazylinop_numpy, "lazylinop numpy_svd l2r"), LAZYLINOP),
        Way(
            "lazylinop", "ksd, torch", of_path(lazylinop_torch, "lazylinop pytorch_svd_cpu l2r"), (*LAZYLINOP, "torch")
        ),
        Way("pyfaust", "palm4msa", pyfaust, ("pyfaust",)),
    )
    iterated = (
        Way("sparsefact", "", solve),
        Way("numpy", f"alternating least squares, {SWEEPS} sweeps", least_squares),
        Way("numpy", f"PALM, {STEPS} steps", projected_gradient),
        Way("pyfaust", "palm4msa", pyfaust, ("pyfaust",)),
    )
    error = "relative Frobenius error"
    return [
        Case(
            "fixed-support-exact",
            size,
            f"Gaussian {p * p} x {p * p}, float32, Monarch pair",
            error,
            monarch(size),
            judge,
            exact,
        )
        for size, p in BLOCKS.items()
    ] + [
        Case(
            "fixed-support-hard",
            size,
            f"{n} x {n}, float64, a product on two random supports of 10 % and 1 % of noise",
            error,
            random_supports(size),
            judge,
            iterated,
        )
        for size, n in ORDERS.items()
    ]
