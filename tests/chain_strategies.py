"""Hypothesis strategies for chains of Kronecker supports and for the values of their factors."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from sparsefact.constraints.chain import Chain

__all__ = ["chains", "random_values", "to_dense"]


@st.composite
def chains(draw, *, min_splits=0, max_splits=4, max_size=24, max_rank=3, block_diagonal=True, redundant=None):
    """Chainable chains of any radices and ranks; shapes at most `max_size` (times the copies of block-diagonal ones).

    `redundant` False gives non-redundant chains (possibly with fewer splits than `min_splits`), True redundant ones,
    None both. Without `block_diagonal` all products are dense (a_1 = d_L = 1).
    """
    length = draw(st.integers(min_splits, max_splits)) + 1
    radices = []
    for _ in range(2):
        numbers = []
        for _ in range(length):
            numbers.append(draw(st.integers(1, min(4, max_size // math.prod(numbers)))))
        radices.append(draw(st.permutations(numbers)))
    ranks = draw(st.lists(st.integers(1, max_rank), min_size=length - 1, max_size=length - 1))
    chain = Chain.from_ranks(*radices, ranks)
    if block_diagonal and draw(st.booleans()):
        chain = Chain.block_diagonal(chain, draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    if redundant is False:
        return chain.reduced()
    if redundant is True and not chain.is_redundant:
        # a square block in front costs nothing: the split behind it is no constraint
        first = chain[0]
        front = (first.a, first.b, first.b, first.d)
        return Chain([front, *chain])
    return chain


def random_values(chain, seed=0, dtype=np.float64, integers=False):
    """Return one (a, b, c, d) array for each factor; small integers make every product exact."""
    rng = np.random.default_rng(seed)
    arrays = []
    for factor in chain:
        shape = (2, factor.a, factor.b, factor.c, factor.d)
        parts = rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)
        values = parts[0] + 1j * parts[1] if np.dtype(dtype).kind == "c" else parts[0]
        arrays.append(values.astype(dtype))
    return arrays


def to_dense(values):
    """Return the dense matrix of one (a, b, c, d) array, entry by entry from the definition."""
    a, b, c, d = values.shape
    dense = np.zeros((a * b * d, a * c * d), dtype=values.dtype)
    for i, p, r, q in np.ndindex(a, b, c, d):
        dense[(i * b + p) * d + q, (i * c + r) * d + q] = values[i, p, r, q]
    return dense
