"""Chains: supports against brute-force products, ranks against counting, membership against dense SVDs."""

from __future__ import annotations

import dataclasses
import functools
import math
import pickle
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from chain_strategies import chains, random_values, to_dense
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefact.constraints.chain import Chain
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError

NOT_CHAINABLE = [
    (Chain([(2, 1, 2, 1), (1, 4, 1, 1)]), "a_1=2 does not divide a_2=1"),
    (Chain([(1, 2, 2, 1), (1, 1, 2, 2)]), "d_2=2 does not divide d_1=1"),
    (Chain([(1, 1, 3, 2), (2, 3, 1, 1)]), "the rank a_1*c_1/a_2 = 3/2"),
]
every_seed = st.integers(0, 2**32 - 1)


def ones(support):
    """The support as a matrix of ones, from Kronecker products."""
    eye_a, eye_d = np.eye(support.a, dtype=int), np.eye(support.d, dtype=int)
    return np.kron(np.kron(eye_a, np.ones((support.b, support.c), dtype=int)), eye_d)


def multiply(matrices):
    return functools.reduce(np.matmul, matrices)


def product(chain, seed=0, dtype=np.float64):
    return multiply([to_dense(values) for values in random_values(chain, seed, dtype)])


def truncation_error(x, row_class, col_class, rank):
    """What blockwise truncated SVDs leave out of `x`, the blocks given by a label for each row and column."""
    total = 0.0
    for i in np.unique(row_class):
        for j in np.unique(col_class):
            block = x[np.ix_(row_class == i, col_class == j)]
            total += np.sum(np.linalg.svd(block, compute_uv=False)[rank:] ** 2)
    return math.sqrt(total)


# a value


def test_chain_is_an_immutable_sequence():
    chain = Chain.butterfly(8)
    assert len(chain) == 3
    assert list(chain) == [KroneckerSupport(1, 2, 2, 4), KroneckerSupport(2, 2, 2, 2), KroneckerSupport(4, 2, 2, 1)]
    assert chain[-1] == chain.factors[2] == next(reversed(chain))
    assert chain[1:] == Chain([(2, 2, 2, 2), (4, 2, 2, 1)])
    assert KroneckerSupport(2, 2, 2, 2) in chain
    assert chain == Chain(iter(chain)) != Chain.butterfly(16)
    assert hash(chain) == hash(Chain(list(chain)))
    assert pickle.loads(pickle.dumps(chain)) == chain
    assert chain.count() == chain.count((8, 8)) == chain.nnz == 48
    with pytest.raises(dataclasses.FrozenInstanceError):
        chain.factors = ()


def test_repr_is_short():
    assert repr(Chain.monarch((6, 4))) == "Chain(<6 x 4: (1, 3, 2, 2) (2, 2, 2, 1)>)"
    assert repr(Chain.butterfly(4096)) == (
        "Chain(<4096 x 4096: (1, 2, 2, 2048) (2, 2, 2, 1024) ... 12 factors ... (1024, 2, 2, 2) (2048, 2, 2, 1)>)"
    )


@pytest.mark.parametrize(
    ("factors", "error", "words"),
    [
        ([], ArgumentError, "factors is empty"),
        (None, ArgumentError, "factors=None is no sequence"),
        (KroneckerSupport(1, 2, 2, 1), ArgumentError, "no sequence"),
        ("ab", ArgumentError, "no sequence"),
        ([(1, 2, 2)], ArgumentError, "factor 1 is (1, 2, 2)"),
        ([(1, 2, 2, 1), 5], ArgumentError, "factor 2 is 5"),
        ([(1, 2, 2.5, 1)], ArgumentError, "c of factor 1=2.5 is not an integer"),
        ([(1, 2, 2, 0)], ArgumentError, "d of factor 1=0 is too small"),
        ([(1, 2, 2, 2), (2, 2, 2, 1), (3, 1, 1, 1)], ShapeError, "factors 2 and 3, (2, 2, 2, 1) and (3, 1, 1, 1)"),
    ],
)
def test_bad_factors_are_refused(factors, error, words):
    with pytest.raises(error) as caught:
        Chain(factors)
    assert words in str(caught.value)


def test_a_single_factor_is_a_chain():
    chain = Chain([(2, 3, 4, 5)])
    assert chain.ranks == chain.kept_splits == ()
    assert chain.is_chainable and not chain.is_redundant
    assert chain.reduced() is chain
    assert chain.product == chain[0]
    assert chain.contains(to_dense(random_values(chain)[0]))
    assert not chain.contains(np.ones(chain.shape))


# products of supports


@given(chain=chains())
def test_products_of_supports_are_supports_with_the_rank_as_multiplicity(chain):
    assert chain.is_chainable and chain.obstacle() is None
    for s, rank in enumerate(chain.ranks, 1):
        left, right = chain[s - 1], chain[s]
        np.testing.assert_array_equal(ones(left) @ ones(right), rank * ones(chain.partial(s, s + 1)))
        assert rank == left.a * left.c / right.a == right.b * right.d / left.d
    for first in range(1, len(chain) + 1):
        for last in range(first, len(chain) + 1):
            brute = multiply([ones(factor) for factor in chain[first - 1 : last]])
            terms = math.prod(chain.ranks[first - 1 : last - 1])
            np.testing.assert_array_equal(brute, terms * ones(chain.partial(first, last)))
    assert chain.product.shape == chain.shape == (ones(chain[0]).shape[0], ones(chain[-1]).shape[1])
    assert chain.nnz == sum(int(ones(factor).sum()) for factor in chain)


@given(chain=chains(min_splits=1, block_diagonal=False))
def test_rank_of_a_split_is_the_rank_of_its_blocks(chain):
    x = product(chain)
    for s, rank in enumerate(chain.ranks, 1):
        m, n = chain.shape
        row_class = np.arange(m) % chain[s - 1].d
        col_class = np.arange(n) // (n // chain[s].a)
        assert truncation_error(x, row_class, col_class, rank) <= 1e-12 * np.linalg.norm(x)


@given(chain=chains(), data=st.data())
def test_merged_chains_have_the_merged_supports(chain, data):
    cuts = data.draw(st.sets(st.integers(1, len(chain) - 1))) if len(chain) > 1 else set()
    ends = [0, *sorted(cuts), len(chain)]
    groups = [end - start for start, end in pairwise(ends)]
    merged = chain.merged(groups)
    assert merged.is_chainable and merged.shape == chain.shape
    assert merged.ranks == tuple(chain.ranks[cut - 1] for cut in sorted(cuts))
    for factor, start, end in zip(merged, ends, ends[1:], strict=False):
        brute = multiply([ones(each) for each in chain[start:end]])
        np.testing.assert_array_equal(brute > 0, ones(factor) > 0)
    assert chain.merged([1] * len(chain)) == chain
    assert list(chain.merged([len(chain)])) == [chain.product]


@given(chain=chains())
def test_transpose(chain):
    assert chain.T.T == chain
    assert chain.T.shape == chain.shape[::-1] and chain.T.nnz == chain.nnz
    for factor, mirrored in zip(chain, reversed(chain.T), strict=True):
        np.testing.assert_array_equal(ones(mirrored), ones(factor).T)


@pytest.mark.parametrize(("chain", "words"), NOT_CHAINABLE)
def test_what_is_not_chainable_says_so(chain, words):
    assert not chain.is_chainable
    sentence = chain.obstacle()
    assert words in sentence and "factors 1 and 2" in sentence and "PALM()" in sentence
    asks = [
        lambda: chain.ranks,
        lambda: chain.product,
        lambda: chain.is_redundant,
        lambda: chain.kept_splits,
        chain.reduced,
        lambda: chain.partial(1, 2),
        lambda: chain.merged([2]),
        lambda: chain.restore([]),
        lambda: chain.contains(np.zeros(chain.shape)),
    ]
    for ask in asks:
        with pytest.raises(ArgumentError) as caught:
            ask()
        assert str(caught.value) == sentence
    assert chain.partial(2, 2) == chain[1]


@given(data=st.data())
def test_obstacle_agrees_with_the_definition(data):
    numbers = st.integers(1, 4)
    left = KroneckerSupport(*(data.draw(numbers) for _ in range(4)))
    cols = left.shape[1]
    divisors = [k for k in range(1, cols + 1) if cols % k == 0]
    a = data.draw(st.sampled_from(divisors))
    d = data.draw(st.sampled_from([k for k in divisors if cols // a % k == 0]))
    right = KroneckerSupport(a, cols // (a * d), data.draw(numbers), d)
    rank = left.a * left.c / a
    chainable = rank.is_integer() and a % left.a == 0 and left.d % d == 0
    assert Chain([left, right]).is_chainable == chainable
    if chainable:
        counts = ones(left) @ ones(right)
        assert set(np.unique(counts)) <= {0, rank}


def test_transposed_chain_points_to_the_transposed_matrix():
    sentence = Chain.butterfly(8).T.obstacle()
    assert "its transpose is" in sentence and "PALM()" in sentence


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (1, 4), (1.5, 2), ("a", 2)])
def test_partial_refuses_what_is_no_range(first, last):
    with pytest.raises(ArgumentError):
        Chain.butterfly(8).partial(first, last)


@pytest.mark.parametrize("groups", [[], [1, 1], [2, 2], [0, 3], [1.0, 2], 3, "12"])
def test_merged_refuses_groups_that_do_not_add_up(groups):
    with pytest.raises(ArgumentError):
        Chain.butterfly(8).merged(groups)


def test_count_checks_the_shape():
    with pytest.raises(ShapeError, match=r"shape=\(8, 4\)"):
        Chain.butterfly(8).count((8, 4))


# redundancy


@given(chain=chains())
def test_reduced_chain_is_the_merge_at_the_kept_splits(chain):
    reduced, kept = chain.reduced(), chain.kept_splits
    assert not reduced.is_redundant
    assert chain.is_redundant == (len(reduced) < len(chain))
    ends = [0, *kept, len(chain)]
    assert reduced == chain.merged([end - start for start, end in pairwise(ends)])
    assert reduced.ranks == tuple(chain.ranks[s - 1] for s in kept)
    if not chain.is_redundant:
        assert reduced is chain


@given(chain=chains(min_splits=1, redundant=True), dtype=st.sampled_from([np.float32, np.float64, np.complex128]))
def test_restore_gives_exactly_the_same_product(chain, dtype):
    reduced = chain.reduced()
    values = random_values(reduced, dtype=dtype, integers=True)
    before = [array.copy() for array in values]
    restored = chain.restore(values)
    assert [array.shape for array in restored] == [(f.a, f.b, f.c, f.d) for f in chain]
    assert all(array.dtype == dtype for array in restored)
    # products of small integers are exact, so the comparison is too
    np.testing.assert_array_equal(multiply(map(to_dense, restored)), multiply(map(to_dense, values)))
    for array, copy in zip(values, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@given(chain=chains(min_splits=1, redundant=True), seed=every_seed)
def test_restore_does_not_round(chain, seed):
    values = random_values(chain.reduced(), seed)
    restored = [to_dense(array) for array in chain.restore(values)]
    ends = [0, *chain.kept_splits, len(chain)]
    for array, start, end in zip(values, ends, ends[1:], strict=False):
        np.testing.assert_array_equal(multiply(restored[start:end]), to_dense(array))


@given(chain=chains(min_splits=1), seed=every_seed)
def test_products_of_a_chain_are_products_of_the_reduced_one(chain, seed):
    x, reduced = product(chain, seed), chain.reduced()
    values = []  # factors of the reduced chain: the products of each group
    ends = [0, *chain.kept_splits, len(chain)]
    dense = [to_dense(array) for array in random_values(chain, seed)]
    for factor, start, end in zip(reduced, ends, ends[1:], strict=False):
        merged = multiply(dense[start:end])
        assert not np.any(merged[ones(factor) == 0])
        values.append(merged)
    np.testing.assert_allclose(multiply(values), x, atol=1e-12 * np.linalg.norm(x))


@given(chain=chains(min_splits=1, max_splits=3, max_size=8, max_rank=2))
@settings(max_examples=40)
def test_reduced_chain_has_as_many_dimensions(chain):
    """The tangent space of the products at random factors: the same dimension, and that of the other chain's set."""

    def dimension(chain):
        dense = [to_dense(values) for values in random_values(chain, seed=5)]
        columns = []
        for place, factor in enumerate(chain):
            before = multiply([np.eye(chain.shape[0]), *dense[:place]])
            after = multiply([*dense[place + 1 :], np.eye(chain.shape[1])])
            rows, cols = np.nonzero(ones(factor))
            columns += [np.outer(before[:, i], after[j]).ravel() for i, j in zip(rows, cols, strict=True)]
        return np.linalg.matrix_rank(np.array(columns), rtol=1e-9)

    assert dimension(chain) == dimension(chain.reduced())


def test_three_merges_in_a_row():
    chain = Chain([(1, 2, 2, 3), (1, 2, 2, 3), (1, 2, 2, 3), (1, 6, 4, 1)])
    assert chain.is_redundant and chain.reduced() == Chain([(1, 6, 4, 1)])
    assert chain.kept_splits == ()
    x = np.arange(24.0).reshape(1, 6, 4, 1)
    np.testing.assert_array_equal(multiply(map(to_dense, chain.restore([x]))), x[0, :, :, 0])


def test_restore_refuses_what_does_not_fit():
    chain = Chain.from_ranks((2, 3, 2), (2, 3, 2), ranks=(2, 1))
    values = random_values(chain.reduced())
    with pytest.raises(ArgumentError, match="values has 3 arrays"):
        chain.restore([*values, values[0]])
    with pytest.raises(ShapeError, match="values of factor 2"):
        chain.restore([values[0], values[0]])


def test_restore_of_a_chain_that_is_not_redundant_is_the_identity():
    chain = Chain.butterfly(8)
    values = random_values(chain)
    assert all(one is other for one, other in zip(chain.restore(values), values, strict=True))


# membership


@given(chain=chains(), seed=every_seed, dtype=st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]))
def test_random_products_are_contained(chain, seed, dtype):
    x = product(chain, seed, dtype)
    before = x.copy()
    assert chain.contains(x) and chain.contains(scipy.sparse.csr_array(x))
    assert chain.contains(np.asfortranarray(1e-30 * x)) and chain.contains(np.zeros_like(x))
    assert chain.reduced().contains(x)
    np.testing.assert_array_equal(x, before)


@given(chain=chains(), seed=every_seed)
@settings(max_examples=40)
def test_membership_agrees_with_blockwise_svds(chain, seed):
    """With a generous tolerance between the errors that a dense oracle finds, both answers are tested."""
    m, n = chain.shape
    x = np.random.default_rng(seed).standard_normal((m, n))
    off = ones(chain.product) == 0
    errors = [np.linalg.norm(x[off])]
    x[off] = 0
    rows, cols = np.arange(m), np.arange(n)
    last = chain.factors[-1].d
    for s, rank in enumerate(chain.ranks, 1):
        # a product of the left part touches rows of one block and residue; of the right part, columns likewise
        left, right = chain[s - 1], chain[s]
        first = chain[0].a
        row_class = rows // (m // first) * left.d + rows % left.d
        col_class = cols // (n // right.a) * last + cols % last
        errors.append(truncation_error(x, row_class, col_class, rank))
    norm = np.linalg.norm(x)
    worst = max(errors[1:], default=0.0)
    assert chain.contains(x, rtol=1.01 * worst / norm + 1e-12)
    if worst > 1e-10 * norm:
        assert not chain.contains(x, rtol=0.99 * worst / norm)
    if errors[0] > 0:
        x[np.argwhere(off)[0][0], np.argwhere(off)[0][1]] = 1e-9 * norm
        assert not chain.contains(x, rtol=1e-10) and chain.contains(x, rtol=1.01 * worst / norm + 2e-9)


@given(chain=chains(min_splits=1, redundant=False), seed=every_seed)
def test_perturbed_products_are_not_contained(chain, seed):
    rng = np.random.default_rng(seed)
    x = product(chain, seed)
    noise = rng.standard_normal(x.shape) * ones(chain.product)
    assert chain.contains(x + 1e-6 * np.linalg.norm(x) * noise) == (len(chain) == 1)


def test_known_transforms():
    n = 16
    reverse = [int(f"{i:04b}"[::-1], 2) for i in range(n)]
    fourier = np.fft.fft(np.eye(n))
    assert Chain.butterfly(n).contains(fourier[:, reverse])
    assert not Chain.butterfly(n).contains(fourier)
    assert Chain.butterfly(n).contains(scipy.linalg.hadamard(n).astype(np.float32))
    cosine = scipy.fft.dct(np.eye(n), axis=0)
    makhoul = np.array([*range(0, n, 2), *range(n - 1, 0, -2)])
    ordered = cosine[:, makhoul][:, reverse]
    assert not Chain.butterfly(n).contains(ordered)
    assert Chain.from_ranks([2] * 4, [2] * 4, ranks=2).contains(ordered)


def test_half_precision_is_measured_in_float32():
    assert Chain.butterfly(8).contains(scipy.linalg.hadamard(8).astype(np.float16))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_membership_does_not_depend_on_the_scale(dtype):
    limits = np.finfo(dtype)
    inside = scipy.linalg.hadamard(8).astype(dtype) * (1 + 1j if np.dtype(dtype).kind == "c" else 1)
    outside = np.where(np.eye(8), 0, inside).astype(dtype)
    for scale in (limits.max, limits.tiny, 4 * limits.smallest_subnormal):
        assert Chain.butterfly(8).contains(inside * scale)
        assert not Chain.butterfly(8).contains(outside * scale)


@pytest.mark.parametrize(
    ("x", "rtol", "error", "words"),
    [
        (np.zeros((8, 4)), None, ShapeError, "x has shape (8, 4)"),
        (np.zeros(8), None, ShapeError, "2-D"),
        (np.zeros((8, 8), dtype=int), None, DtypeError, "astype"),
        (np.full((8, 8), np.nan), None, NonFiniteError, "64 NaN"),
        (np.eye(8), -1.0, ArgumentError, "rtol=-1.0"),
        (np.eye(8), np.nan, ArgumentError, "rtol=nan"),
        (np.eye(8), "1", ArgumentError, "rtol='1'"),
    ],
)
def test_contains_refuses_bad_input(x, rtol, error, words):
    with pytest.raises(error) as caught:
        Chain.butterfly(8).contains(x, rtol=rtol)
    assert words in str(caught.value)


def test_contains_factors():
    chain = Chain.kaleidoscope(4)
    factors = [to_dense(values) for values in random_values(chain)]
    assert chain.contains_factors(factors)
    assert chain.contains_factors([scipy.sparse.csr_array(factor) for factor in factors])
    factors[2] = np.ones((4, 4))
    assert not chain.contains_factors(factors)
    with pytest.raises(ArgumentError, match="factors has 3 matrices"):
        chain.contains_factors(factors[:3])
    with pytest.raises(ShapeError):
        chain.contains_factors([np.ones((4, 5))] * 4)


# builders


@pytest.mark.parametrize("levels", range(2, 13))
def test_butterfly_of_a_power_of_two_is_square_dyadic(levels):
    n = 2**levels
    chain = Chain.butterfly(n)
    assert list(chain) == [KroneckerSupport(2**k, 2, 2, n // 2 ** (k + 1)) for k in range(levels)]
    assert chain.ranks == (1,) * (levels - 1)


@given(n=st.integers(4, 300))
def test_butterfly_of_any_composite_size(n):
    divisors = [k for k in range(2, n) if n % k == 0]
    if not divisors:
        with pytest.raises(ValueError, match=r"prime.*Chain\.monarch"):
            Chain.butterfly(n)
        return
    chain = Chain.butterfly(n)
    assert chain.shape == (n, n) and chain.product == KroneckerSupport(1, n, n, 1)
    assert set(chain.ranks) == {1} and not chain.is_redundant
    assert math.prod(factor.b for factor in chain) == n
    assert all(f.b == f.c and all(f.b % k for k in range(2, f.b)) for f in chain)


@pytest.mark.parametrize("n", [-4, 0, 1, 2, 3, 7, 1009, 4.0, "8", None, True])
def test_butterfly_refuses_other_sizes(n):
    with pytest.raises(ArgumentError) as caught:
        Chain.butterfly(n)
    if n in (2, 3, 7, 1009):
        assert "Chain.monarch" in str(caught.value)


@given(m=st.integers(1, 60), n=st.integers(1, 60), rank=st.integers(1, 4), data=st.data())
def test_monarch(m, n, rank, data):
    p = data.draw(st.sampled_from([k for k in range(1, m + 1) if m % k == 0]))
    q = data.draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0]))
    chain = Chain.monarch((m, n), blocks=(p, q), rank=rank)
    assert list(chain) == [KroneckerSupport(1, p, q * rank, m // p), KroneckerSupport(q, rank * m // p, n // q, 1)]
    assert chain.shape == (m, n) and chain.ranks == (rank,)
    assert chain.is_redundant == (rank >= min(p, n // q))


@given(m=st.integers(2, 200), n=st.integers(2, 200))
def test_monarch_chooses_balanced_blocks(m, n):
    first, second = Chain.monarch((m, n))
    p, q = first.b, second.a
    assert p * p >= m and q * q <= n
    assert not any(m % k == 0 and k * k >= m for k in range(1, p))
    assert not any(n % k == 0 and k * k <= n for k in range(q + 1, n + 1))
    # never redundant with rank 1, primes included
    assert not Chain([first, second]).is_redundant


def test_monarch_of_an_integer_is_square():
    assert Chain.monarch(64) == Chain.monarch((64, 64), blocks=(8, 8)) == Chain.monarch(np.int64(64))


@pytest.mark.parametrize(
    ("shape", "blocks", "rank", "words"),
    [
        ((12, 20), (5, 4), 1, "blocks[0]=5 does not divide the 12 rows; its divisors are 1, 2, 3, 4, 6, 12"),
        ((12, 20), (4, 3), 1, "blocks[1]=3 does not divide the 20 columns; its divisors are 1, 2, 4, 5, 10, 20"),
        ((720, 20), (50, 4), 1, "the nearest of its 30 divisors are"),
        ((12, 20), 4, 1, "blocks=4 is no pair"),
        ((12, 20), (4, 4, 4), 1, "no pair"),
        ((12, 20), (4.0, 4), 1, "blocks[0]=4.0 is not an integer"),
        ((12, 20), None, 0, "rank=0 is too small"),
        ((12, 20), None, 1.5, "rank=1.5 is not an integer"),
        ((12, 0), None, 1, "empty"),
        ((12,), None, 1, "shape=(12,)"),
        (12.0, None, 1, "shape=12.0 is not an integer"),
    ],
)
def test_monarch_refuses_bad_arguments(shape, blocks, rank, words):
    with pytest.raises(ValueError) as caught:
        Chain.monarch(shape, blocks, rank)
    assert words in str(caught.value)


@given(chain=chains())
def test_deformable_in_the_notation_of_its_paper(chain):
    factors = [(*f.shape, f.b, f.c, f.d) for f in chain]
    assert Chain.deformable(factors) == chain


@pytest.mark.parametrize(
    ("factors", "error", "words"),
    [
        ([(6, 4, 3, 2)], ArgumentError, "factor 1 is (6, 4, 3, 2)"),
        ([7], ArgumentError, "factor 1 is 7"),
        ([(6, 4, 3, 2, 2.0)], ArgumentError, "u of factor 1=2.0"),
        ([(7, 4, 3, 2, 2)], ShapeError, "P/(s*u) = 7/6 while Q/(t*u) = 1"),
        ([(6, 8, 3, 2, 2)], ShapeError, "P/(s*u) = 1 while Q/(t*u) = 2"),
        ([(6, 4, 3, 2, 2), (6, 4, 3, 2, 2)], ShapeError, "factors 1 and 2"),
        ([], ArgumentError, "empty"),
        (3, ArgumentError, "factors=3"),
    ],
)
def test_deformable_refuses_what_does_not_fit(factors, error, words):
    with pytest.raises(error) as caught:
        Chain.deformable(factors)
    assert words in str(caught.value)


@given(chain=chains(block_diagonal=False))
def test_every_dense_chain_comes_from_its_ranks(chain):
    ends = [*(f.a for f in chain[1:]), chain.shape[1]] if len(chain) > 1 else [chain.shape[1]]
    cols = [end // f.a for f, end in zip(chain, ends, strict=True)]
    starts = [chain.shape[0], *(f.d for f in chain[:-1])] if len(chain) > 1 else [chain.shape[0]]
    rows = [start // f.d for f, start in zip(chain, starts, strict=True)]
    assert Chain.from_ranks(rows, cols, chain.ranks) == chain
    inner = [1, *chain.ranks, 1]
    bounds = [min(rows[i] * inner[i], cols[i + 1] * inner[i + 2]) for i in range(len(chain) - 1)]
    assert chain.is_redundant == any(r >= bound for r, bound in zip(chain.ranks, bounds, strict=True))


@pytest.mark.parametrize(
    ("rows", "cols", "ranks", "words"),
    [
        ((2, 2), (2, 2, 2), 1, "rows has 2 numbers and cols has 3"),
        ((), (), 1, "at least one"),
        ((2, 2), (2, 2), (1, 1), "ranks has 2 numbers for 2 factors"),
        ((2, 2), (2, 0), 1, "cols[1]=0"),
        ((2, 2.5), (2, 2), 1, "rows[1]=2.5"),
        ((2, 2), (2, 2), (0,), "ranks[0]=0"),
        ((2, 2), (2, 2), 0.5, "ranks=0.5"),
        (4, (2, 2), 1, "rows=4 is no sequence"),
    ],
)
def test_from_ranks_refuses_bad_arguments(rows, cols, ranks, words):
    with pytest.raises(ArgumentError) as caught:
        Chain.from_ranks(rows, cols, ranks)
    assert words in str(caught.value)


@given(chain=chains(max_size=8, block_diagonal=False), a=st.integers(1, 3), d=st.integers(1, 3))
def test_block_diagonal(chain, a, d):
    wide = Chain.block_diagonal(chain, a, d)
    for factor, narrow in zip(wide, chain, strict=True):
        np.testing.assert_array_equal(ones(factor), np.kron(np.kron(np.eye(a), ones(narrow)), np.eye(d)))
    assert wide.is_chainable and wide.ranks == chain.ranks and wide.is_redundant == chain.is_redundant
    x = product(chain)
    copies = np.kron(np.kron(np.eye(a), x), np.eye(d))
    assert wide.contains(copies)
    if a * d > 1:
        assert not wide.contains(copies + 1e-3 * np.linalg.norm(x))


def test_block_diagonal_refuses_what_is_no_chain():
    with pytest.raises(ArgumentError, match="is not a Chain"):
        Chain.block_diagonal([(1, 2, 2, 1)])
    with pytest.raises(ArgumentError, match="a=0"):
        Chain.block_diagonal(Chain.butterfly(4), a=0)


def test_kaleidoscope():
    chain, half = Chain.kaleidoscope(12), Chain.butterfly(12)
    assert chain.factors == (*half, *half.T)
    assert chain.shape == (12, 12) and not chain.is_chainable
    assert "factors 4 and 5" in chain.obstacle() and "PALM()" in chain.obstacle()
    with pytest.raises(ArgumentError, match=r"Chain\.monarch"):
        Chain.kaleidoscope(5)


# pictures


@pytest.mark.parametrize(
    "chain", [Chain.butterfly(16), Chain.kaleidoscope(8), Chain.monarch((600, 35)), Chain([(1, 3, 1, 1)])]
)
def test_plot_draws_every_support(chain):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    ax = chain.plot()
    panels = len(chain) + chain.is_chainable
    assert len(ax.images) == panels
    labels = [text.get_text() for text in ax.texts]
    assert str((chain[0].a, chain[0].b, chain[0].c, chain[0].d)) in labels
    if max(max(f.shape) for f in chain) <= 128:
        for image, factor in zip(ax.images[-len(chain) :], chain, strict=True):
            np.testing.assert_array_equal(~np.ma.getmaskarray(image.get_array()), ones(factor) > 0)
    ax.figure.canvas.draw()
    pyplot.close(ax.figure)
    figure, given_axes = pyplot.subplots()
    assert chain.plot(ax=given_axes) is given_axes and given_axes.figure is figure
    pyplot.close(figure)


def test_plot_pools_large_supports_without_losing_entries():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    chain = Chain.from_ranks((5, 8, 7), (3, 10, 4), ranks=2)  # 280 x 120, inner sizes that the cells do not divide
    ax = chain.plot()
    longest = [max(f.shape) for f in chain]
    for image, factor, size in zip(ax.images[1:], chain, longest, strict=True):
        cell = -(-size // 128)
        rows, cols = np.nonzero(ones(factor))
        pooled = np.zeros(image.get_array().shape, dtype=bool)
        pooled[rows // cell, cols // cell] = True
        np.testing.assert_array_equal(~np.ma.getmaskarray(image.get_array()), pooled)
    pyplot.close(ax.figure)


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ArgumentError, match=r"pip install 'sparsefact\[report\]'"):
        Chain.butterfly(4).plot()
