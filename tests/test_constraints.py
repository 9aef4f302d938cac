"""Constraints: exact projections against brute force over every support, rules of ties and counts, and bad input."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.constraints.base import Constraint, density_of
from sparsefact.constraints.double_sparse import DoubleSparse
from sparsefact.errors import ArgumentError, BudgetError, DtypeError, NonFiniteError, ShapeError

CORNERS = np.array([[True, False, False, True], [False, True, True, False]])

# a constraint, a shape, and the definition of the set: which supports (boolean matrices) belong to it
CASES = [
    (sf.TopK(nnz=3), (2, 4), lambda s: s.sum() <= 3),
    (sf.TopK(nnz=8), (2, 4), lambda s: True),
    (sf.TopK(density=0.7), (3, 2), lambda s: s.sum() <= 4),
    (sf.TopK(nnz=2, per="row"), (2, 4), lambda s: all(row.sum() <= 2 for row in s)),
    (sf.TopK(density=0.5, per="row"), (2, 3), lambda s: all(row.sum() <= 1 for row in s)),
    (sf.TopK(nnz=1, per="column"), (2, 4), lambda s: all(column.sum() <= 1 for column in s.T)),
    (sf.TopK(density=0.7, per="column"), (3, 2), lambda s: all(column.sum() <= 2 for column in s.T)),
    (sf.NOfM(2, 4), (2, 4), lambda s: all(row.sum() <= 2 for row in s)),
    (sf.NOfM(1, 2), (2, 4), lambda s: all(not (s[i, j] and s[i, j + 1]) for i in range(2) for j in (0, 2))),
    (sf.NOfM(1, 2, axis=0), (4, 2), lambda s: all(not (s[i, j] and s[i + 1, j]) for i in (0, 2) for j in range(2))),
    (sf.BlockTopK((1, 2), count=2), (2, 4), lambda s: sum(s[i, j : j + 2].any() for i in (0, 1) for j in (0, 2)) <= 2),
    (sf.BlockTopK((2, 1), density=0.8), (2, 4), lambda s: s.any(axis=0).sum() <= 3),
    (sf.BlockTopK((2, 2), density=0.5), (2, 4), lambda s: not (s[:, :2].any() and s[:, 2:].any())),
    (sf.Dense(), (2, 3), lambda s: True),
    (sf.Support(CORNERS), (2, 4), lambda s: not np.any(s & ~CORNERS)),
    (sf.KroneckerSupport(2, 1, 2, 1), (2, 4), lambda s: not (s[0, 2:].any() or s[1, :2].any())),
    (sf.KroneckerSupport(1, 2, 1, 2), (4, 2), lambda s: not (s[0::2, 1].any() or s[1::2, 0].any())),
]
every_case = pytest.mark.parametrize(("constraint", "shape", "belongs"), CASES, ids=[repr(case[0]) for case in CASES])
numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-4, 4, allow_subnormal=False))


def matrix(data, shape):
    values = data.draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(values, dtype=float).reshape(shape)


def supports(shape):
    for bits in itertools.product((False, True), repeat=math.prod(shape)):
        yield np.array(bits).reshape(shape)


# projections


@every_case
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_projection_is_the_nearest_point(constraint, shape, belongs, data):
    x = matrix(data, shape)
    before = x.copy()
    nearest = constraint.project(x)
    distance = np.sum((x - nearest) ** 2)
    best = min(np.sum(x[~support] ** 2) for support in supports(shape) if belongs(support))
    assert distance == pytest.approx(best, rel=1e-12, abs=1e-300)
    assert belongs(nearest != 0)
    assert constraint.contains(nearest)
    np.testing.assert_array_equal(nearest[nearest != 0], x[nearest != 0])
    np.testing.assert_array_equal(x, before)
    assert nearest is not x
    np.testing.assert_array_equal(constraint.project(nearest), nearest)


@every_case
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_projection_by_scores_keeps_the_largest(constraint, shape, belongs, data):
    x, scores = matrix(data, shape) + 10.0, np.abs(matrix(data, shape))
    kept = constraint.project(x, scores) != 0
    assert belongs(kept)
    best = max(np.sum(scores[support] ** 2) for support in supports(shape) if belongs(support))
    assert np.sum(scores[kept] ** 2) == pytest.approx(best, rel=1e-12, abs=1e-300)


@every_case
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_masks_have_exactly_the_count_and_contains_is_the_definition(constraint, shape, belongs, data):
    x = matrix(data, shape)
    mask = constraint.mask(np.abs(x))
    assert mask.dtype == bool
    assert np.count_nonzero(mask) == constraint.count(shape)
    assert np.count_nonzero(constraint.mask(np.zeros(shape))) == constraint.count(shape)
    assert constraint.contains(x) == belongs(x != 0)
    for form in (scipy.sparse.csr_array, scipy.sparse.coo_matrix, scipy.sparse.csc_array):
        assert constraint.contains(form(x)) == belongs(x != 0)
    assert not constraint.contains(np.full(shape, np.nan)) or belongs(np.ones(shape, dtype=bool))


@every_case
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_transposition(constraint, shape, belongs, seed):
    x = np.random.default_rng(seed).standard_normal(shape)
    assert constraint.T.T == constraint
    assert constraint.T.count(shape[::-1]) == constraint.count(shape)
    np.testing.assert_array_equal(constraint.T.project(x.T), constraint.project(x).T)
    assert constraint.T.contains(constraint.project(x).T)


@every_case
def test_constraints_are_values(constraint, shape, belongs):
    assert isinstance(constraint, Constraint)
    twin = pickle.loads(pickle.dumps(constraint))
    assert twin == constraint
    assert hash(twin) == hash(constraint)
    assert constraint != sf.TopK(nnz=5)
    assert constraint != "a constraint"
    if not isinstance(constraint, sf.Support):
        assert eval(repr(constraint), vars(sf)) == constraint
    field = "nnz" if isinstance(constraint, sf.Support) else "anything"
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        setattr(constraint, field, 3)


@every_case
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "complex128"])
def test_projection_keeps_the_dtype(constraint, shape, belongs, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(getattr(ml_dtypes, dtype, dtype))
    nearest = constraint.project(x)
    assert nearest.dtype == x.dtype
    wide = x.astype("complex128")
    np.testing.assert_array_equal(nearest.astype("complex128"), constraint.project(wide))


@pytest.mark.parametrize(
    ("constraint", "kept"),
    [
        (sf.TopK(nnz=3), [[1, 1, 1, 0], [0, 0, 0, 0]]),
        (sf.TopK(nnz=1, per="row"), [[1, 0, 0, 0], [1, 0, 0, 0]]),
        (sf.TopK(nnz=1, per="column"), [[1, 1, 1, 1], [0, 0, 0, 0]]),
        (sf.NOfM(1, 2), [[1, 0, 1, 0], [1, 0, 1, 0]]),
        (sf.NOfM(1, 2, axis=0), [[1, 1, 1, 1], [0, 0, 0, 0]]),
        (sf.BlockTopK((2, 2), count=1), [[1, 1, 0, 0], [1, 1, 0, 0]]),
    ],
    ids=repr,
)
def test_ties_go_to_the_lowest_index(constraint, kept):
    for x in (np.ones((2, 4)), -np.ones((2, 4), order="F"), np.zeros((2, 4))):
        np.testing.assert_array_equal(constraint.mask(x), np.array(kept, dtype=bool))


def test_a_small_matrix_of_half_precision_is_compared_exactly():
    x = np.array([[1.0, 1.0009765625, -1.001953125]], dtype="float16")
    np.testing.assert_array_equal(sf.TopK(nnz=1).project(x) != 0, [[False, False, True]])


# what is refused


@every_case
def test_bad_matrices(constraint, shape, belongs):
    good = np.ones(shape)
    bad = good.copy()
    bad[0, :2] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match=r"x holds 2 NaN or infinite entries"):
        constraint.project(bad)
    for dtype, cast in (("int64", "float64"), ("uint8", "float32"), ("bool", "float32"), ("longdouble", "float64")):
        with pytest.raises(DtypeError, match=rf"x has dtype .*astype\('{cast}'\)"):
            constraint.project(good.astype(dtype))
    with pytest.raises(DtypeError, match="x is a sparse csr_array; pass a dense array"):
        constraint.project(scipy.sparse.csr_array(good))
    with pytest.raises(ShapeError, match=r"x has shape \(3,\); a 2-D array"):
        constraint.project(np.ones(3))
    with pytest.raises(ShapeError, match=r"x has shape \(1, 2, 4\)"):
        constraint.project(np.ones((1, 2, 4)))
    with pytest.raises(ShapeError, match=r"x has shape \(3,\)"):
        constraint.contains(np.ones(3))


@every_case
def test_bad_scores(constraint, shape, belongs):
    good = np.ones(shape)
    with pytest.raises(ShapeError, match=r"scores has shape \(1, 1\).*they must agree"):
        constraint.project(good, np.ones((1, 1)))
    with pytest.raises(ArgumentError, match="scores holds 1 negative or NaN entries"):
        constraint.project(good, np.where(np.arange(good.size).reshape(shape) == 0, -1.0, 1.0))
    with pytest.raises(ArgumentError, match=f"scores holds {good.size} negative or NaN entries"):
        constraint.project(good, np.full(shape, np.nan))
    with pytest.raises(DtypeError, match="scores has dtype complex128"):
        constraint.project(good, good * 1j)
    np.testing.assert_array_equal(constraint.project(good, np.ones(shape, dtype=int)), constraint.project(good))


def test_lists_are_taken():
    np.testing.assert_array_equal(sf.TopK(nnz=1).project([[1.0, 2.0]], [[3, 1]]), [[1.0, 0.0]])
    assert sf.TopK(nnz=1).contains([[0, 2]])


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4), 5, (2.5, 3), (-1, 2), "ab"])
def test_bad_shapes(shape):
    for constraint in (sf.TopK(nnz=1), sf.Dense(), sf.NOfM(1, 1), sf.BlockTopK((1, 1), count=1)):
        with pytest.raises(ShapeError, match="two integers >= 0"):
            constraint.count(shape)
    with pytest.raises(ShapeError, match="two integers >= 0"):
        sf.double_sparse(shape, 0.5)


@pytest.mark.parametrize("density", [0, 0.0, -0.1, 1.1, math.nan, math.inf, "0.5", "half", [0.5, 0.5], 1j])
def test_bad_densities(density):
    for make in (
        lambda: sf.TopK(density=density),
        lambda: sf.BlockTopK(density=density),
        lambda: sf.double_sparse((4, 4), density),
        lambda: sf.double_sparse((4, 4), 0.9, left_density=density),
    ):
        with pytest.raises(BudgetError, match=r"density=.* is outside \(0, 1\]"):
            make()


@pytest.mark.parametrize("count", [0, -3, 2.0, 1.5, True, "3"])
def test_bad_counts(count):
    with pytest.raises(BudgetError, match=r"nnz=.* is not a positive integer"):
        sf.TopK(nnz=count)
    with pytest.raises(BudgetError, match=r"count=.* is not a positive integer"):
        sf.BlockTopK(count=count)


def test_top_k_budgets():
    with pytest.raises(BudgetError, match=r"nnz=7 is more than the 6 entries of a matrix of shape \(2, 3\).*at most 6"):
        sf.TopK(nnz=7).count((2, 3))
    with pytest.raises(BudgetError, match=r"nnz=4 is more than the 3 entries of a row of shape \(2, 3\)"):
        sf.TopK(nnz=4, per="row").mask(np.ones((2, 3)))
    with pytest.raises(
        BudgetError, match=r"density=0.3 of the 3 entries of a row .* allows no nonzero; pass at least 0.4"
    ):
        sf.TopK(density=0.3, per="row").project(np.ones((2, 3)))
    with pytest.raises(BudgetError, match="the shape must not be empty"):
        sf.TopK(density=1).count((0, 3))
    for arguments in ({}, {"density": 0.5, "nnz": 3}):
        with pytest.raises(ArgumentError, match="exactly one of density and nnz"):
            sf.TopK(**arguments)
    with pytest.raises(ArgumentError, match="per='both' is not allowed"):
        sf.TopK(nnz=1, per="both")
    assert sf.TopK(nnz=np.int64(3)) == sf.TopK(nnz=3)
    assert sf.TopK(nnz=2, per="row").count((5, 4)) == 10
    assert sf.TopK(density=0.5, per="column").count((5, 4)) == 8


def test_n_of_m_arguments():
    for arguments, message in (
        ((3, 2), "n=3 of every m=2 entries"),
        ((0, 2), "n=0 is too small"),
        ((1, 0), "m=0 is too small"),
        ((1, 2.0), "m=2.0 is not an integer"),
        ((1, 2, 2), "axis=2 is not an axis"),
    ):
        with pytest.raises(ArgumentError, match=message):
            sf.NOfM(*arguments)
    for call in (sf.NOfM(2, 4).count, lambda shape: sf.NOfM(2, 4).project(np.ones(shape))):
        with pytest.raises(ShapeError, match=r"shape \(4, 6\) has length 6 along axis 1, not a multiple of m=4"):
            call((4, 6))
    assert sf.NOfM(2, 4, axis=0).count((4, 6)) == 12
    assert sf.NOfM(1, 4).contains(np.zeros((0, 8)))


def test_block_arguments():
    for block in (3, (1, 2, 3), (0, 2), (1.5, 2), "16"):
        with pytest.raises(ArgumentError, match="block"):
            sf.BlockTopK(block, count=1)
    with pytest.raises(ShapeError, match=r"shape \(20, 32\) is not a whole number of blocks of shape \(16, 16\)"):
        sf.BlockTopK(count=1).project(np.ones((20, 32)))
    with pytest.raises(BudgetError, match=r"count=3 is more than the 2 blocks"):
        sf.BlockTopK(count=3).count((16, 32))
    with pytest.raises(BudgetError, match=r"density=0.4 of the 2 blocks .* allows no block; pass at least 0.5"):
        sf.BlockTopK(density=0.4).count((16, 32))
    with pytest.raises(ArgumentError, match="exactly one of density and count"):
        sf.BlockTopK()
    assert sf.BlockTopK((2, 3), count=2).T == sf.BlockTopK((3, 2), count=2)
    assert sf.BlockTopK((2, 3), count=2).blocks == 2


# fixed supports


def test_bad_supports():
    with pytest.raises(DtypeError, match=r"mask has dtype int64; a dense mask is boolean, pass mask.astype\(bool\)"):
        sf.Support(np.eye(3, dtype="int64"))
    for empty in (np.zeros((2, 3), dtype=bool), scipy.sparse.csr_array((2, 3)), np.zeros((0, 3), dtype=bool)):
        with pytest.raises(ArgumentError, match=r"mask of shape .* has no True entry"):
            sf.Support(empty)
    with pytest.raises(ShapeError, match=r"mask has shape \(3,\)"):
        sf.Support(np.ones(3, dtype=bool))
    support = sf.Support(np.eye(2, dtype=bool))
    for call in (
        support.count,
        lambda shape: support.project(np.ones(shape)),
        lambda shape: support.mask(np.ones(shape)),
    ):
        with pytest.raises(ShapeError, match=r"shape \(2, 3\), but the support has shape \(2, 2\)"):
            call((2, 3))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_support_of_any_container(m, n, seed):
    mask = np.random.default_rng(seed).random((m, n)) < 0.5
    mask[0, 0] = True
    support = sf.Support(mask)
    assert (support.shape, support.nnz) == ((m, n), int(mask.sum()))
    np.testing.assert_array_equal(support.mask(), mask)
    np.testing.assert_array_equal(support.tocsr().toarray(), mask)
    np.testing.assert_array_equal(support.T.mask(), mask.T)
    for form in ("csr", "csc", "coo", "lil", "dok", "bsr"):
        twin = sf.Support(scipy.sparse.coo_array(mask.astype(float)).asformat(form))
        assert twin == support
        assert hash(twin) == hash(support)
    if m > 1 or n > 1:
        assert sf.Support(mask.reshape(n, m)) != support or m == n
    mask[0, 0] = False  # the support is a copy
    assert support.mask()[0, 0]


def test_support_ignores_stored_zeros_and_joins_duplicates():
    stored = scipy.sparse.coo_array(([1.0, 0.0, 2.0, 3.0, -3.0], ([0, 0, 1, 1, 1], [0, 1, 0, 2, 2])), shape=(2, 3))
    np.testing.assert_array_equal(sf.Support(stored).mask(), [[True, False, False], [True, False, False]])
    assert sf.Support(stored).contains(stored)


def test_support_is_read_only():
    support = sf.Support(np.eye(3, dtype=bool))
    for twin in (support, pickle.loads(pickle.dumps(support)), support.T):
        for array in (twin.indices, twin.indptr):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
    support.tocsr().indices[0] = 2
    assert support == sf.Support(np.eye(3, dtype=bool))
    assert repr(support) == "Support(<3 x 3, 3 nonzeros>)"


def test_large_support_stays_sparse():
    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, 100_000, (2, 100_000))
    pattern = scipy.sparse.coo_array((np.ones(rows.size), (rows, cols)), shape=(100_000, 100_000))
    support = sf.Support(pattern)
    assert support.T.T == support
    assert support.contains(pattern)
    assert not support.T.contains(pattern)
    assert support.nnz == support.count((100_000, 100_000)) <= 100_000


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_kronecker_support_is_the_kronecker_product(a, b, c, d):
    support = sf.KroneckerSupport(a, b, c, d)
    expected = np.kron(np.kron(np.eye(a), np.ones((b, c))), np.eye(d)).astype(bool)
    np.testing.assert_array_equal(support.mask(), expected)
    assert support.shape == expected.shape
    assert support.nnz == expected.sum() == support.count()
    assert support.contains(expected)
    if not expected.all():
        assert not support.contains(~expected)
    assert support.T == sf.KroneckerSupport(a, c, b, d)


@pytest.mark.parametrize("bad", [0, -1, 1.0, True, None, "2"])
def test_bad_kronecker_supports(bad):
    with pytest.raises(ArgumentError, match=r"c=.* at least 1"):
        sf.KroneckerSupport(1, 2, bad, 4)


# two sparse factors


def pair(data, constraint):
    return matrix(data, constraint.left_shape), matrix(data, constraint.right_shape)


@pytest.mark.parametrize("left_density", [None, 0.5], ids=["joint", "split"])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_double_sparse_projection_is_the_nearest_pair(left_density, data):
    constraint = DoubleSparse((2, 2), 1.0, left_density)
    x = pair(data, constraint)
    nearest = constraint.project(x)
    distance = sum(np.sum((each - near) ** 2) for each, near in zip(x, nearest, strict=True))
    both = np.concatenate([each.reshape(-1) for each in x])
    best = math.inf
    for support in supports((8,)):
        left = support[:4].sum()
        if support.sum() <= 4 and (left_density is None or (left <= 2 and support.sum() - left <= 2)):
            best = min(best, np.sum(both[~support] ** 2))
    assert distance == pytest.approx(best, rel=1e-12, abs=1e-300)
    assert constraint.contains(nearest)
    assert constraint.contains(tuple(scipy.sparse.csr_array(each) for each in nearest))
    masks = constraint.mask(x)
    assert sum(np.count_nonzero(mask) for mask in masks) == constraint.budget == constraint.count((2, 2)) == 4
    for again, near in zip(constraint.project(nearest), nearest, strict=True):
        np.testing.assert_array_equal(again, near)
    assert not constraint.contains((np.ones((2, 2)), np.eye(2)))


def test_double_sparse_ties_go_to_the_first_factor():
    constraint = sf.double_sparse((3, 4), 0.6)
    left, right = constraint.mask((np.ones((3, 3)), np.ones((3, 4))))
    assert constraint.budget == 7
    assert left.sum() == 7
    assert right.sum() == 0
    by_score = constraint.project((np.ones((3, 3)), np.ones((3, 4))), (np.zeros((3, 3)), np.ones((3, 4))))
    assert np.count_nonzero(by_score[1]) == 7


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.01, 1),
    st.one_of(st.none(), st.floats(0.01, 1)),
    st.one_of(st.none(), st.integers(1, 40)),
)
@settings(max_examples=150, deadline=None)
def test_double_sparse_budgets(m, n, density, left_density, inner):
    try:
        constraint = sf.double_sparse((m, n), density, left_density, inner)
    except BudgetError:
        return
    assert constraint.inner == (min(m, n) if inner is None else inner)
    assert constraint.left_shape == (m, constraint.inner)
    assert constraint.right_shape == (constraint.inner, n)
    assert constraint.budget <= min(density * (m * n), density * m * n, density * n * m) < constraint.budget + 2
    assert constraint.budget >= m + constraint.inner
    if left_density is None:
        assert constraint.left_nnz is None
    else:
        assert constraint.left_nnz == math.floor(left_density * (m * constraint.inner)) >= m
        assert constraint.budget - constraint.left_nnz >= constraint.inner
        assert constraint.T.left_nnz == constraint.budget - constraint.left_nnz
    assert constraint.T.T == constraint
    assert hash(constraint.T.T) == hash(constraint)
    assert constraint.T.shape == (n, m)
    assert eval(repr(constraint), {"DoubleSparse": DoubleSparse}) == constraint
    assert pickle.loads(pickle.dumps(constraint)) == constraint
    for left_nnz in constraint.left_bounds:
        left, right = constraint.split(left_nnz)
        assert left.count(constraint.left_shape) == left_nnz
        assert right.count(constraint.right_shape) == constraint.budget - left_nnz


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1.0))
def test_the_automatic_inner_dimension(m, n, density):
    try:
        plain, turned = sf.double_sparse((m, n), density), sf.double_sparse((n, m), density, inner="auto")
    except BudgetError:
        return
    wide = sf.double_sparse((m, n), density, inner="auto")
    assert plain.inner <= wide.inner <= 1.25 * plain.inner + 0.5
    assert wide.budget == plain.budget and wide.inner == turned.inner
    assert wide == sf.double_sparse((m, n), density, inner=wide.inner)
    if density < 0.15 or max(m, n) < 2 * min(m, n):
        assert wide == plain


@pytest.mark.parametrize("inner", [None, 3])
def test_double_sparse_names_the_smallest_density(inner):
    for shape in ((30, 40), (40, 30), (7, 100)):
        with pytest.raises(BudgetError, match=r"rows of the two factors.*pass a density of at least") as caught:
            sf.double_sparse(shape, 0.003, inner=inner)
        least = float(str(caught.value).split()[-1])
        allowed = sf.double_sparse(shape, least, inner=inner)
        assert allowed.budget == shape[0] + allowed.left_shape[1]
    with pytest.raises(BudgetError, match="no density is enough for this shape"):
        sf.double_sparse((5, 1), 1.0)


def test_double_sparse_refuses():
    with pytest.raises(BudgetError, match=r"left_density=0.9 gives the left factor 14 of 8 nonzeros"):
        sf.double_sparse((4, 4), 0.5, left_density=0.9)
    with pytest.raises(
        BudgetError, match=r"splits the budget of 12 nonzeros into 3 and 9, but the factors have 4 and 4 rows"
    ):
        sf.double_sparse((4, 4), 0.75, left_density=0.2)
    with pytest.raises(BudgetError, match=r"inner size 1 have only 16 entries; pass at most 0.27"):
        sf.double_sparse((6, 10), 0.5, inner=1)
    with pytest.raises(ShapeError, match=r"shape=\(0, 4\) is empty"):
        sf.double_sparse((0, 4), 0.5)
    with pytest.raises(ArgumentError, match="inner=0 is too small"):
        sf.double_sparse((4, 4), 0.5, inner=0)
    with pytest.raises(ArgumentError, match="inner='wide' is not known; pass a number, 'auto'"):
        sf.double_sparse((4, 4), 0.5, inner="wide")
    with pytest.raises(BudgetError, match=r"outside \(0, 1\]"):
        sf.double_sparse((4, 4), 1.5, inner="auto")
    constraint = sf.double_sparse((4, 4), 0.5)
    with pytest.raises(BudgetError, match=r"left_nnz=8 of a budget of 8 .* from 1 to 7"):
        constraint.split(8)
    with pytest.raises(ArgumentError, match="x is no pair of factors"):
        constraint.project(np.ones((2, 4, 4)))
    with pytest.raises(ShapeError, match=r"x\[1\] has shape \(4, 5\); this constraint's factor has shape \(4, 4\)"):
        constraint.contains((np.ones((4, 4)), np.ones((4, 5))))
    with pytest.raises(NonFiniteError, match=r"x\[0\] holds 1 NaN"):
        constraint.project((np.where(np.eye(4) * np.arange(4) == 3, np.nan, 1.0), np.ones((4, 4))))
    with pytest.raises(ShapeError, match=r"scores\[1\] has shape \(1, 4\)"):
        constraint.project((np.ones((4, 4)), np.ones((4, 4))), (np.ones((4, 4)), np.ones((1, 4))))
    with pytest.raises(ShapeError, match=r"shape=\(4, 5\) is not the shape \(4, 4\)"):
        constraint.count((4, 5))


@given(st.integers(1, 10**9), st.integers(1, 10**9))
@settings(max_examples=100, deadline=None)
def test_density_of(count, entries):
    count = min(count, entries)
    density = density_of(count, entries)
    assert 0 < density <= 1
    assert math.floor(density * entries) == count
