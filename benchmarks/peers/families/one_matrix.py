"""One sparse matrix near a layer's weights, in the loss that the Gram matrix of its inputs weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sparsefact as sf
from benchmarks import published_admm, published_alps, published_obs
from benchmarks.peers.case import Attempt, Case, Way, ours, plain
from benchmarks.peers.families.two_factors import MATRICES, Weighted, judge, magnitude, problem

DENSITY = 0.3


def solve(given: Weighted) -> Attempt:
    """Prepare ours."""
    constraint = sf.TopK(density=given.density)
    return Attempt(lambda: sf.factorize(given.matrix, constraint, gram=given.gram), ours, lambda F: float(F.error))


def pruner(prune: Callable[..., Any]) -> Callable[[Weighted], Attempt]:
    """Return what prepares a transcription."""

    def prepare(given: Weighted) -> Attempt:
        return Attempt(lambda: prune(given.matrix, given.gram, given.density), lambda found: [plain(found)])

    return prepare


def cases() -> list[Case]:
    """Return the cases."""
    ways = (
        Way("sparsefact", "", solve),
        Way("published", "ALPS, transcribed", pruner(published_alps.prune)),
        Way("published", "ADMM, transcribed", pruner(published_admm.prune)),
        Way("published", "SparseGPT, transcribed", pruner(published_obs.prune)),
        Way("numpy", "largest entries times norms of inputs", magnitude),
    )
    return [
        Case(
            "one-matrix-gram",
            size,
            f"{title}, density {DENSITY}",
            "relative error of the layer's outputs",
            problem(size, DENSITY, weighted=True),
            judge,
            ways,
        )
        for size, (title, _) in MATRICES.items()
    ]
