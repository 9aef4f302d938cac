"""Hierarchical factorization into many factors: known products, and never worse than PALM alone."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise
from operator import matmul

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.constraints.low_rank import LowRank
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.hierarchical_palm import HierarchicalPALM, residual_constraints

HADAMARD = np.array([[(-1.0) ** (i & j).bit_count() for j in range(32)] for i in range(32)])
ROWS = sf.TopK(nnz=2, per="row")


def sparse_product(seed, n, count, constraint=ROWS):
    rng = np.random.default_rng(seed)
    return reduce(matmul, (constraint.project(rng.standard_normal((n, n))) for _ in range(count)))


def array(factor):
    return factor.toarray() if hasattr(factor, "toarray") else factor


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("split", [None, sf.PALM(iterations=300)], ids=["least squares", "PALM"])
def test_hadamard_is_exact_with_two_entries_in_every_row_and_column(side, split):
    """PALM alone gets no chance: the splits must do it."""
    chain = tuple(sf.Chain.butterfly(32))
    F = sf.factorize(HADAMARD, chain, HierarchicalPALM(palm=sf.PALM(iterations=1), side=side, split=split))
    assert F.error < (1e-12 if split is None else 1e-4)
    for factor in F.factors:
        nonzero = array(factor) != 0
        assert set(nonzero.sum(axis=0)) == set(nonzero.sum(axis=1)) == {2}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", range(3))
def test_free_supports_of_a_known_product(seed, side):
    """The supports are not given: far nearer than PALM alone, which is at 0.3 to 0.4 here."""
    A = sparse_product(seed, 16, 3)
    alone = sf.factorize(A, (ROWS,) * 3, sf.PALM())
    F = sf.factorize(A, (ROWS,) * 3, HierarchicalPALM(side=side))
    assert F.error < 0.75 * alone.error
    assert all(ROWS.contains(factor) for factor in F.factors)
    assert "PALM alone" in F.explain()


cases = st.tuples(
    st.integers(0, 10**6),
    st.integers(2, 4),
    st.sampled_from([np.float64, np.complex128]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["left", "right"]),
)


@settings(max_examples=10, deadline=None)
@given(cases)
def test_never_worse_than_palm_alone_from_the_same_start(case):
    seed, count, dtype, weighted, started, side = case
    rng = np.random.default_rng(seed)

    def draw(*shape):
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)

    A = draw(6, 8)
    gram = None
    if weighted:
        X = draw(20, 8)
        gram = X.conj().T @ X
    choices = [sf.TopK(density=0.5), sf.Dense(), ROWS, sf.NOfM(1, 2), LowRank(5), sf.TopK(nnz=3, per="column")]
    sets = tuple(choices[i] for i in rng.integers(len(choices), size=count))
    lengths = [6] * count + [8]
    init = tuple(draw(*shape) for shape in pairwise(lengths)) if started else None
    palm = sf.PALM(iterations=15)
    alone = sf.factorize(A, sets, palm, gram=gram, init=init, seed=seed)
    F = sf.factorize(A, sets, HierarchicalPALM(palm=palm, refine=palm, side=side), gram=gram, init=init, seed=seed)
    assert F.error <= alone.error * (1 + 1e-9)
    assert all(each.contains(array(factor)) for each, factor in zip(sets, F.factors, strict=True))
    errors = [progress.error for progress in F.history]
    assert errors == sorted(errors, reverse=True) and errors[0] == pytest.approx(alone.history[-1].error)


def test_an_early_end_returns_the_factors_of_palm_alone():
    A = sparse_product(0, 12, 3)
    palm = sf.PALM(iterations=5)
    alone = sf.factorize(A, (ROWS,) * 3, palm)
    stopped = sf.factorize(A, (ROWS,) * 3, HierarchicalPALM(palm=palm), callback=lambda progress: True)
    assert stopped.status is sf.Status.STOPPED and stopped.error == alone.error


def test_zero_matrix_and_an_exact_start():
    assert sf.factorize(np.zeros((6, 6)), (ROWS,) * 3, HierarchicalPALM()).error == 0
    rng = np.random.default_rng(0)
    factors = [ROWS.project(rng.standard_normal((8, 8))) for _ in range(3)]
    F = sf.factorize(reduce(matmul, factors), (ROWS,) * 3, HierarchicalPALM(), init=factors)
    assert F.error < 1e-12 and len(F.history) == 1


def test_residuals_of_supports_hold_the_products():
    chain = tuple(sf.Chain.butterfly(16))
    shapes = ((16, 16),) * 4
    left, right = (residual_constraints(chain, shapes, side) for side in ("left", "right"))
    for level, residual in enumerate(left):
        expected = reduce(matmul, (c.mask().astype(int) for c in chain[level + 1 :])) > 0
        np.testing.assert_array_equal(residual.mask(), expected)
    for level, residual in enumerate(right):
        expected = reduce(matmul, (c.mask().astype(int) for c in chain[: 3 - level])) > 0
        np.testing.assert_array_equal(residual.mask(), expected)


@pytest.mark.parametrize(
    ("sets", "n", "expected"),
    [
        ((ROWS,) * 5, 32, [sf.TopK(nnz=16, per="row"), sf.TopK(nnz=8, per="row"), sf.TopK(nnz=4, per="row")]),
        ((ROWS,) * 4, 6, [sf.Dense(), sf.TopK(nnz=4, per="row")]),
        ((sf.TopK(nnz=3, per="column"),) * 3, 16, [sf.TopK(nnz=9, per="column")]),
        ((sf.TopK(nnz=32),) * 3, 16, [sf.TopK(nnz=64)]),
        ((sf.TopK(density=0.5), sf.TopK(density=0.5), sf.TopK(density=0.25)), 16, [sf.TopK(nnz=128)]),
        ((sf.Dense(),) * 3, 16, [sf.Dense()]),
    ],
)
def test_residuals_of_counts(sets, n, expected):
    found = residual_constraints(sets, ((n, n),) * len(sets))
    assert list(found) == expected
    if all(each == ROWS for each in sets):
        for level, residual in enumerate(found):
            assert residual.contains(sparse_product(0, n, len(sets) - 1 - level))


def test_given_residuals_are_used_and_counted():
    A = sparse_product(0, 12, 3)
    solver = HierarchicalPALM(residuals=[sf.TopK(nnz=6, per="row")])
    assert solver.residuals == (sf.TopK(nnz=6, per="row"),)
    assert sf.factorize(A, (ROWS,) * 3, solver).error < 1
    with pytest.raises(ArgumentError, match="holds 1 constraints, but 4 factors have 2"):
        sf.factorize(A, (ROWS,) * 4, solver)


@pytest.mark.parametrize(
    ("field", "value"), [("palm", sf.ADMM()), ("refine", 3), ("split", sf.PALM), ("side", "up"), ("residuals", (3,))]
)
def test_parameters(field, value):
    with pytest.raises(ArgumentError, match=field):
        HierarchicalPALM(**{field: value})


def test_a_joint_budget_is_refused():
    with pytest.raises(ArgumentError, match="Alternating"):
        sf.factorize(np.eye(4), sf.double_sparse((4, 4), 0.6), HierarchicalPALM())


def test_same_seed_same_bits():
    A = np.random.default_rng(0).standard_normal((10, 10))
    first, second = (
        sf.factorize(A, (ROWS,) * 3, HierarchicalPALM(palm=sf.PALM(iterations=20)), seed=3) for _ in range(2)
    )
    assert all((array(a) == array(b)).all() for a, b in zip(first.factors, second.factors, strict=True))
    assert math.isfinite(first.error)
