"""What a sequence of Kronecker supports that fit is: chainable or not, redundant or not, and which matrices it makes.

The rules of `sparsefact.constraints.chain`, where they are stated with their source, on plain tuples of supports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.kronecker_pair import broken_condition, is_redundant, merge, pattern
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.kronecker_values import blocks_at, clear, values_on

__all__ = ["Merge", "is_product", "obstacle", "reduction"]

Supports: TypeAlias = tuple[KroneckerSupport, ...]
Merge: TypeAlias = tuple[int, KroneckerSupport, KroneckerSupport]
"""A redundant pair that became one factor: its 0-based place among the factors at that time, left and right."""


def obstacle(factors: Supports, first: int, last: int) -> str | None:
    """Say why the factors `first` to `last`, 1-based and both included, are not chainable; None if they are."""
    for s in range(first, last):
        left, right = factors[s - 1], factors[s]
        reason = broken_condition(left, right, s)
        if reason is not None:
            way_out = "sparsefact.PALM() takes any chain"
            if all(broken_condition(after.T, before.T, 1) is None for before, after in pairwise(factors)):
                way_out = "its transpose is, so sparsefact.Hierarchical() takes it, and sparsefact.PALM() any chain"
            return (
                f"factors {s} and {s + 1} of the chain, {pattern(left)} and {pattern(right)}, are not chainable: "
                f"{reason}; {way_out}"
            )
    return None


def reduction(factors: Supports) -> tuple[list[Merge], Supports]:
    """Merge redundant neighbours of chainable supports, the leftmost first; return the merges and what is left."""
    merges: list[Merge] = []
    while True:
        position = next((i for i, pair in enumerate(pairwise(factors)) if is_redundant(*pair)), None)
        if position is None:
            return merges, factors
        left, right = factors[position : position + 2]
        merges.append((position, left, right))
        factors = (*factors[:position], merge(left, right), *factors[position + 2 :])


def is_product(array: NDArray[Any], reduced: Supports, ranks: Sequence[int], tolerance: float) -> bool:
    """Return whether a matrix is a product of reduced chainable supports, by the rule of `Chain.contains`.

    Off the support of the products, and in the blocks of each split beyond its rank, the Frobenius norm is at most
    `tolerance` times that of the matrix.
    """
    largest = max(float(abs(part).max()) for part in (array.real, array.imag))
    if largest == 0:
        return True
    limit = int(np.finfo(array.dtype).maxexp) - 8
    array = array * 2.0 ** -max(-limit, min(limit, math.frexp(largest)[1]))  # squares neither overflow nor vanish
    allowed = tolerance * float(np.linalg.norm(array))
    support = merge(reduced[0], reduced[-1])
    on = values_on(array, support).copy()
    clear(array, support)  # a copy by now, the scaling made it
    if float(np.linalg.norm(array)) > allowed:
        return False
    for (left, right), bound in zip(pairwise(reduced), ranks, strict=True):
        singular_values = np.linalg.svd(blocks_at(on, right.a, left.d), compute_uv=False)
        if float(np.linalg.norm(singular_values[..., bound:])) > allowed:
            return False
    return True
