"""Chains of Kronecker supports: square dyadic butterflies, and Monarch chains for real layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.butterfly import dyadic, gaussian, target
from benchmarks.peers.case import Attempt, Case, Verdict, Way, factors_error, ours
from benchmarks.peers.layers import Layers
from benchmarks.peers.libraries import LAZYLINOP, of_path
from benchmarks.peers_butterfly import lazylinop_numpy, lazylinop_torch, pyfaust
from benchmarks.worker import Pattern, sparse_factor

ORDERS = {"small": 256, "medium": 1024, "large": 2048}


@dataclass(frozen=True)
class Chained:
    """A matrix, float32, and the (a, b, c, d) of every factor."""

    matrix: NDArray[Any]
    patterns: tuple[Pattern, ...]


def butterfly(n: int) -> Callable[[Layers], Chained]:
    """Return what makes a random product of the chain with 1 % of noise."""
    return lambda layers: Chained(target("noisy", dyadic(n), "float32"), tuple(dyadic(n)))


def monarch(read: Callable[[Layers], NDArray[Any]]) -> Callable[[Layers], Chained]:
    """Return what makes a matrix and its Monarch chain."""

    def make(layers: Layers) -> Chained:
        A = read(layers)
        return Chained(A, tuple((each.a, each.b, each.c, each.d) for each in sf.Chain.monarch(A.shape)))

    return make


def judge(problem: Chained, factors: list[Any]) -> Verdict:
    """Return the error of factors on the supports."""
    masks = [sparse_factor(np.ones(pattern)) for pattern in problem.patterns]
    masks = [scipy.sparse.csr_array(mask.astype(bool)) for mask in masks]
    return factors_error(problem.matrix, factors, masks=masks)


def solve(problem: Chained) -> Attempt:
    """Prepare ours."""
    chain = sf.Chain([sf.KroneckerSupport(*pattern) for pattern in problem.patterns])
    return Attempt(lambda: sf.factorize(problem.matrix, chain), ours, lambda F: float(F.error))


def lazy(name: str, path: str, *modules: str) -> Way:
    """Return one of lazylinop's ways."""
    make = lazylinop_torch if "torch" in modules else lazylinop_numpy
    return Way("lazylinop", name, of_path(make, f"lazylinop {path}"), (*LAZYLINOP, *modules))


def cases() -> list[Case]:
    """Return the cases."""
    two = (
        Way("sparsefact", "", solve),
        lazy("ksd, numpy_svd", "numpy_svd l2r"),
        lazy("ksd, torch", "pytorch_svd_cpu l2r", "torch"),
    )
    many = (
        *two,
        lazy("ksd, torch, balanced", "pytorch_svd_cpu balanced", "torch"),
        lazy("ksd, torch, not orthonormalised", "pytorch_svd_cpu l2r without orthonormalisation", "torch"),
        Way("pyfaust", "butterfly, bbtree", of_path(pyfaust, "pyfaust butterfly bbtree"), ("pyfaust",)),
        Way("pyfaust", "fdb, balanced", of_path(pyfaust, "pyfaust fdb balanced"), ("pyfaust",)),
    )
    error = "relative Frobenius error"
    layers: dict[str, tuple[str, Callable[[Layers], NDArray[Any]]]] = {
        "small": ("attention query, 384 x 384", lambda layers: layers["q384"]),
        "medium": ("intermediate, 1536 x 384", lambda layers: layers["fc1_1536x384"]),
        "large": (
            "Gaussian 4096 x 4096",
            lambda layers: gaussian(np.random.default_rng(0), (4096, 4096), np.float32),
        ),
    }
    return [
        Case(
            "butterfly", size, f"{n} x {n}, float32, exact butterfly and 1 % of noise", error, butterfly(n), judge, many
        )
        for size, n in ORDERS.items()
    ] + [
        Case("monarch", size, f"{title}, float32", error, monarch(read), judge, two)
        for size, (title, read) in layers.items()
    ]
