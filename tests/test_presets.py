"""The presets against what their names mean."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.constraints import presets
from sparsefact.errors import ArgumentError, ShapeError


def _random_product(pair, rng):
    left, right = (support.mask() * rng.standard_normal(support.shape) for support in pair)
    return left @ right


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_low_rank(m, n, rank, seed):
    product = _random_product(presets.low_rank((m, n), rank), np.random.default_rng(seed))
    assert np.linalg.matrix_rank(product) == min(m, n, rank)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data()
)
@settings(max_examples=30, deadline=None)
def test_block_low_rank(rows, cols, data):
    ranks = [[data.draw(st.integers(0, 4)) for _ in cols] for _ in rows]
    if not np.any(ranks):
        ranks[0][0] = 1
    product = _random_product(presets.block_low_rank(rows, cols, ranks), np.random.default_rng(0))
    for i, strip in enumerate(np.split(product, np.cumsum(rows)[:-1], axis=0)):
        for j, block in enumerate(np.split(strip, np.cumsum(cols)[:-1], axis=1)):
            assert np.linalg.matrix_rank(block) == min(*block.shape, ranks[i][j])


@pytest.mark.parametrize("n, levels, rank", [(8, 0, 1), (8, 3, 1), (9, 2, 2), (16, 2, 3)])
def test_hodlr(n, levels, rank):
    product = _random_product(presets.hodlr(n, levels, rank), np.random.default_rng(0))

    def check(block, level):
        if level == levels:
            assert np.linalg.matrix_rank(block) == len(block)
            return
        h = len(block) // 2
        for part in (block[:h, h:], block[h:, :h]):
            assert np.linalg.matrix_rank(part) == min(*part.shape, rank)
        check(block[:h, :h], level + 1)
        check(block[h:, h:], level + 1)

    check(product, 0)


def test_low_rank_plus_mask():
    rng = np.random.default_rng(0)
    mask = rng.random((6, 7)) < 0.3
    left, right = presets.low_rank_plus_mask(mask, 2)
    free = left.mask()[:, 2:].astype(int) @ right.mask()[2:].astype(int)
    assert np.array_equal(free, mask) and left.mask()[:, :2].all() and right.mask()[:2].all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_lu_supports_hold_the_factors_of_scipy(n):
    rng = np.random.default_rng(0)
    lower, upper = scipy.linalg.lu(rng.standard_normal((n, n)), permute_l=False)[1:]
    left, right = presets.lu(n)
    assert left.contains(lower) and right.contains(upper)
    assert left.nnz == right.nnz == n * (n + 1) // 2


def test_banded_and_arrow_products_have_their_shape():
    rng = np.random.default_rng(0)
    row, col = np.indices((7, 7))
    product = _random_product(presets.banded(7, 2, 1), rng)
    assert np.array_equal(product != 0, (row - col <= 2) & (col - row <= 1))
    product = _random_product(presets.arrow(7), rng)
    assert np.array_equal(product != 0, (row == col) | (row == 6) | (col == 6))


def test_bad_input_gets_a_sentence():
    for call, error, words in [
        (lambda: presets.low_rank((0, 3), 1), ShapeError, "empty"),
        (lambda: presets.low_rank((3, 3), 0), ArgumentError, "rank=0"),
        (lambda: presets.block_low_rank([], [2], 1), ArgumentError, "row_sizes is empty"),
        (lambda: presets.block_low_rank([2], [2], 1.5), ArgumentError, "rank=1.5"),
        (lambda: presets.block_low_rank([2], [2], 0), ArgumentError, "rank=0"),
        (lambda: presets.hodlr(4, 3, 1), ArgumentError, "levels=3"),
        (lambda: presets.banded(4, 4, 0), ArgumentError, "must be below n=4"),
        (lambda: presets.arrow(1), ArgumentError, "n=1"),
    ]:
        with pytest.raises(error, match=words):
            call()


def test_presets_are_supports():
    for pair in (presets.lu(4), presets.arrow(4), presets.hodlr(4, 1, 1)):
        assert all(isinstance(support, sf.Support) for support in pair)
        assert pair[0].shape[1] == pair[1].shape[0]
