"""Any pattern on either factor: inside the constraints, exact counts, no worse than what needs no search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.constraints.low_rank import LowRank
from sparsefact.constraints.presets import block_diagonal, blocks_around_n_of_m, random_support
from sparsefact.errors import ArgumentError, BudgetError, ShapeError
from sparsefact.factorizers.block_coordinate import BlockCoordinateDescent


def patterns(shape, seed=0):
    """A constraint of every kind for a factor of this shape, whose sides are multiples of four."""
    m, n = shape
    return {
        "matrix": sf.TopK(density=0.45),
        "row": sf.TopK(nnz=2, per="row"),
        "column": sf.TopK(nnz=2, per="column"),
        "n of m": sf.NOfM(2, 4),
        "n of m down": sf.NOfM(1, 2, axis=0),
        "blocks": sf.BlockTopK((2, 2), density=0.5),
        "random": random_support(shape, 0.6, seed=seed),
        "block-diagonal": block_diagonal(shape, 2),
        "kronecker": sf.KroneckerSupport(1, m // 2, n // 2, 2),
        "dense": sf.Dense(),
    }


KINDS = tuple(patterns((4, 4)))


def array(factor):
    return factor.toarray() if hasattr(factor, "toarray") else factor


def norm(x, gram=None):
    return math.sqrt(max(np.vdot(x, x if gram is None else x @ gram).real, 0))


@pytest.mark.parametrize("left", KINDS)
@pytest.mark.parametrize("right", KINDS)
def test_every_pair_obeys_with_exact_counts(left, right):
    A = np.random.default_rng(0).standard_normal((8, 12))
    pair = patterns((8, 8))[left], patterns((8, 12))[right]
    F = sf.factorize(A, pair, sf.Alternating(outer=6))
    for factor, constraint in zip(F.factors, pair, strict=True):
        value = array(factor)
        assert constraint.contains(value)
        assert np.count_nonzero(value) <= constraint.count(value.shape)
    assert F.error == pytest.approx(norm(A - F.todense()) / norm(A), rel=1e-6, abs=1e-12)
    assert F.error < 1
    if "dense" in (left, right) and {left, right} <= {"dense", "matrix", "row", "column", "n of m"}:
        assert F.error < 0.3  # one free factor of full size leaves little


cases = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.sampled_from([(4, 4, 8), (8, 4, 4), (4, 8, 8), (8, 8, 4)]),
    st.sampled_from([np.float32, np.float64, np.complex128]),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_block_coordinate_descent_is_never_worse_than_its_start_or_an_identity_beside_a_projection(case):
    seed, left, right, (m, k, n), dtype, weighted = case
    rng = np.random.default_rng(seed)

    def draw(*shape):
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)

    A, X = draw(m, n), draw(2 * n, n)
    gram = (X.conj().T @ X).astype(dtype) if weighted else None
    pair = patterns((m, k), seed)[left], patterns((k, n), seed)[right]
    start = pair[0].project(draw(m, k)), pair[1].project(draw(k, n))
    kept = A.copy()
    F = sf.factorize(A, pair, BlockCoordinateDescent(iterations=4), inner=k, gram=gram)
    G = sf.factorize(A, pair, BlockCoordinateDescent(iterations=4), inner=k, gram=gram, init=start)
    for each in (F, G):
        assert all(c.contains(array(f)) for c, f in zip(pair, each.factors, strict=True))
        assert each.error <= 1 + 1e-6
    assert (A == kept).all()
    slack = 1 + 2e3 * float(np.finfo(dtype).eps)
    assert G.error <= slack * norm(A - start[0] @ start[1], gram) / norm(A, gram) + 1e-6
    if gram is None and k == m and pair[0].contains(np.eye(m)):
        floor = norm(A - pair[1].project(A)) / norm(A)
        assert F.error <= slack * floor + 1e-6
    if gram is None and k == n and pair[1].contains(np.eye(n)):
        floor = norm(A - pair[0].project(A)) / norm(A)
        assert F.error <= slack * floor + 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(0, 3))
def test_alternating_ended_at_any_time_obeys_and_is_no_worse_than_a_projection(seed, left, right, iteration):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((8, 12)) * (rng.random((8, 12)) < rng.choice([0.2, 1.0]))
    pair = patterns((8, 8), seed)[left], patterns((8, 12), seed)[right]
    solver = sf.Alternating(outer=max(1, iteration), report_every=1)
    F = sf.factorize(A, pair, solver, callback=lambda progress: progress.iteration >= max(1, iteration - 1))
    assert all(c.contains(array(f)) for c, f in zip(pair, F.factors, strict=True))
    if A.any() and pair[0].contains(np.eye(8)):
        assert F.error <= norm(A - pair[1].project(A)) / norm(A) + 1e-9


@pytest.mark.parametrize(
    "pair",
    [
        (sf.TopK(density=0.16), sf.TopK(density=0.34)),
        (sf.TopK(nnz=10, per="row"), sf.TopK(nnz=22, per="row")),
        (sf.TopK(nnz=10, per="column"), sf.TopK(nnz=22, per="column")),
        (sf.TopK(nnz=10, per="column"), sf.TopK(nnz=22, per="row")),
    ],
    ids=["plain", "rows", "columns", "mixed"],
)
def test_two_factors_of_any_budget_beat_one_sparse_matrix(pair):
    A = np.random.default_rng(0).standard_normal((64, 64))
    magnitudes = np.sort(abs(A).ravel())[: A.size // 2]
    F = sf.factorize(A, pair)
    assert [f.nnz for f in F.factors] == [c.count((64, 64)) for c in pair]
    assert F.error < 0.75 * np.linalg.norm(magnitudes) / np.linalg.norm(A)


def test_one_mask_can_be_shared_by_layers():
    mask = random_support((16, 16), 0.3, seed=7)
    rng = np.random.default_rng(0)
    found = [sf.factorize(rng.standard_normal((16, 16)), (mask, sf.TopK(density=0.4))) for _ in range(2)]
    assert all(mask.contains(array(F.factors[0])) for F in found)
    assert all(F.error < 0.6 for F in found)


# presets


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 1), st.integers(0, 99))
def test_random_support_has_its_diagonal_and_its_count(m, n, density, seed):
    count = math.floor(density * m * n)
    if count < min(m, n):
        with pytest.raises(BudgetError, match="fewer than the"):
            random_support((m, n), density, seed=seed)
        return
    support = random_support((m, n), density, seed=seed)
    assert support.nnz == count == np.count_nonzero(support.mask())
    assert support.mask().diagonal().all()
    assert support == random_support((m, n), density, seed=seed)


def test_random_support_reaches_every_position_about_equally_often():
    total = sum(random_support((5, 7), 0.5, seed=seed).mask().astype(int) for seed in range(400))
    off = total[~np.eye(5, 7, dtype=bool)]
    # 12 of the 30 places each time: mean 160, standard deviation 9.8
    assert off.min() > 120 and off.max() < 200
    assert random_support((5, 7), 0.5, seed=0) != random_support((5, 7), 0.5, seed=1)


def test_block_diagonal_is_a_kronecker_product():
    expected = np.kron(np.eye(3, dtype=bool), np.ones((2, 4), bool))
    np.testing.assert_array_equal(block_diagonal((6, 12), 3).mask(), expected)
    with pytest.raises(ShapeError, match="4 diagonal blocks"):
        block_diagonal((6, 12), 4)


# three factors


@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("solver", [BlockCoordinateDescent(iterations=10), sf.PALM(iterations=50)], ids=repr)
def test_blocks_around_n_of_m_is_below_its_pruned_matrix(solver, gram):
    rng = np.random.default_rng(0)
    A, X = rng.standard_normal((16, 24)), rng.standard_normal((60, 24))
    weight = X.T @ X if gram else None
    sets = blocks_around_n_of_m(A.shape, 4, 2, 4)
    pruned = sf.NOfM(2, 4).project(A)
    init = (np.eye(16), pruned, np.eye(24)) if isinstance(solver, sf.PALM) else None
    F = sf.factorize(A, sets, solver, gram=weight, init=init)
    assert F.error < 0.9 * norm(A - pruned, weight) / norm(A, weight)
    assert all(c.contains(array(f)) for c, f in zip(sets, F.factors, strict=True))


def test_blocks_around_n_of_m_recovers_a_matrix_that_is_already_pruned():
    pruned = sf.NOfM(2, 4).project(np.random.default_rng(0).standard_normal((8, 8)))
    F = sf.factorize(pruned, blocks_around_n_of_m((8, 8), 4, 2, 4), BlockCoordinateDescent(iterations=2))
    assert F.error < 1e-12


def test_the_blocks_are_the_exact_minimisers_at_the_end():
    """No small change of an outer factor on its support lowers the loss: the normal equations hold."""
    A = np.random.default_rng(1).standard_normal((8, 8))
    sets = blocks_around_n_of_m((8, 8), 4, 2, 4)
    F = sf.factorize(A, sets, BlockCoordinateDescent(iterations=15, refits=200))
    left, core, right = (array(f) for f in F.factors)
    residual = A - left @ core @ right
    for mask, gradient in ((sets[0].mask(), residual @ (core @ right).T), (sets[2].mask(), (left @ core).T @ residual)):
        assert abs(gradient[mask]).max() < 1e-2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: blocks_around_n_of_m((8, 8), 3, 2, 4), "cannot be cut into blocks of 3"),
        (lambda: blocks_around_n_of_m((8, 6), 2, 2, 4), "not a multiple of m=4"),
        (lambda: block_diagonal((0, 4), 1), "is empty"),
    ],
)
def test_presets_that_do_not_fit(call, sentence):
    with pytest.raises(ShapeError, match=sentence):
        call()


# what cannot be met


@pytest.mark.parametrize(
    ("constraint", "error", "sentence"),
    [
        (sf.TopK(nnz=9, per="row"), BudgetError, "nnz=9 is more than the 8 entries of a row"),
        (sf.TopK(density=0.01), BudgetError, "allows no nonzero; pass at least"),
        (sf.TopK(density=0.1, per="column"), BudgetError, "allows no nonzero; pass at least"),
        (sf.NOfM(2, 5), ShapeError, "not a multiple of m=5"),
        (sf.BlockTopK((3, 3), density=0.5), ShapeError, "whole number of blocks"),
        (sf.BlockTopK((4, 4), density=0.1), BudgetError, "allows no block"),
        (sf.BlockTopK((4, 4), count=5), BudgetError, "count=5 is more than the 4 blocks"),
        (random_support((7, 8), 0.5), ShapeError, r"has shape \(7, 8\), which does not fit A of shape \(8, 12\)"),
        (LowRank(9), BudgetError, "r=9 is more than the rank"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("solver", [sf.Alternating(), sf.PALM(), BlockCoordinateDescent()], ids=["A", "P", "B"])
def test_a_pattern_that_cannot_be_met_is_one_sentence(constraint, error, sentence, solver):
    A = np.ones((8, 12))
    with pytest.raises(error, match=sentence) as raised:
        sf.factorize(A, (constraint, sf.Dense()), solver)
    assert "\n" not in str(raised.value)


def test_a_mask_of_another_shape_beside_another_mask():
    with pytest.raises(ShapeError, match="does not fit its neighbour"):
        sf.factorize(np.ones((8, 8)), (random_support((8, 8), 0.5), random_support((7, 8), 0.5)))


@pytest.mark.parametrize(("field", "value"), [("iterations", 0), ("refits", -1), ("report_every", True), ("inner", 3)])
def test_parameters_of_block_coordinate_descent(field, value):
    with pytest.raises(ArgumentError, match=field):
        BlockCoordinateDescent(**{field: value})


def test_block_coordinate_descent_refuses_a_joint_budget():
    with pytest.raises(ArgumentError, match="Alternating"):
        sf.factorize(np.eye(4), sf.double_sparse((4, 4), 0.6), BlockCoordinateDescent())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale_and_zero(scale):
    A = (np.random.default_rng(0).standard_normal((8, 8)) * scale).astype(np.float32)
    sets = (sf.TopK(density=0.5), sf.TopK(density=0.5))
    assert sf.factorize(A, sets, BlockCoordinateDescent(iterations=5)).error < 0.5
    Z = sf.factorize(0 * A, sets, BlockCoordinateDescent(iterations=5))
    assert Z.error == 0
