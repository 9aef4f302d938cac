"""Low rank as a constraint: the projection, its solver for one matrix, and products that hold such a factor."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import draw

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import Constraint
from sparsefact.constraints.low_rank import LowRank
from sparsefact.errors import ArgumentError, BudgetError, DtypeError, NonFiniteError
from sparsefact.factorizers.block_coordinate import BlockCoordinateDescent
from sparsefact.minimizers.reduced_rank import ReducedRank, reduced_rank

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.sampled_from(DTYPES))
def test_projection_is_the_truncated_svd(seed, m, n, r, dtype):
    x, E = draw(np.random.default_rng(seed), (m, n), dtype), LowRank(r)
    if r > min(m, n):
        for refused in (E.project, E.contains):
            with pytest.raises(BudgetError, match=f"pass at most {min(m, n)}"):
                refused(x)
        return
    found = E.project(x)
    assert found.dtype == dtype and E.contains(found) and E.T.contains(found.T)
    tail = np.linalg.svd(x.astype(np.complex128), compute_uv=False)[r:]
    tolerance = 100 * np.finfo(dtype).eps * np.linalg.norm(x)
    assert abs(np.linalg.norm(x - found) - np.linalg.norm(tail)) <= tolerance
    assert E.contains(x) == (r == min(m, n))


def test_it_is_a_value_and_a_constraint():
    E = LowRank(2)
    assert isinstance(E, Constraint) and E == E.T == pickle.loads(pickle.dumps(E)) and hash(E) == hash(LowRank(2))
    assert E.count((3, 4)) == 12
    assert E.contains(scipy.sparse.csr_array(np.diag([1.0, 2.0, 0.0])))
    assert E.contains(np.zeros((3, 3))) and not E.contains(np.eye(3)) and not E.contains(np.full((3, 3), np.nan))
    half = E.project(np.diag([4.0, 2.0, 1.0]).astype(np.float16))
    assert half.dtype == np.float16 and half[2, 2] == 0
    assert E.contains(np.outer([1, 2, 3], [1, 1, 4]))  # integers


@pytest.mark.parametrize("r", [0, -1, 1.5, True])
def test_rank_is_a_positive_integer(r):
    with pytest.raises(ArgumentError, match="r="):
        LowRank(r)


def test_what_is_refused():
    with pytest.raises(NonFiniteError):
        LowRank(1).project(np.full((2, 2), np.nan))
    with pytest.raises(DtypeError):
        LowRank(1).project(np.ones((2, 2), int))
    with pytest.raises(ArgumentError, match="leave them out"):
        LowRank(1).project(np.eye(2), np.eye(2))
    with pytest.raises(ArgumentError, match=r"no choice of entries.*PALM"):
        sf.minimize(sf.Quadratic(np.eye(3), np.eye(3)), LowRank(1), sf.ADMM())
    with pytest.raises(ArgumentError, match=r"LowRank\(r\)"):
        sf.minimize(sf.Quadratic(np.eye(3), np.eye(3)), sf.TopK(nnz=1), ReducedRank())


# one matrix


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 4), st.booleans(), st.sampled_from([np.float64, np.complex128]))
def test_reduced_rank_is_the_truncated_svd_in_the_metric_of_the_grams(seed, r, two_sided, dtype):
    """For square F and K with G = F^H F and H = K K^H, F B K takes every value of its rank: Eckart-Young."""
    rng = np.random.default_rng(seed)
    F, K, A = draw(rng, (6, 6), dtype), draw(rng, (5, 5), dtype), draw(rng, (6, 5), dtype)
    if not two_sided:
        K = np.eye(5).astype(dtype)
    cross = F.conj().T @ A @ K.conj().T
    f = sf.Quadratic(F.conj().T @ F, cross, K @ K.conj().T if two_sided else None, 0.5 * np.linalg.norm(A) ** 2)
    solution = sf.minimize(f, LowRank(r), ReducedRank())
    tail = np.linalg.svd(A, compute_uv=False)[r:]
    assert solution.objective == pytest.approx(0.5 * (tail**2).sum(), rel=1e-6, abs=1e-7 * np.linalg.norm(A) ** 2)
    assert np.linalg.matrix_rank(solution.value, tol=1e-8 * np.linalg.norm(solution.value)) <= r
    assert solution.status is sf.Status.OPTIMAL


def test_reduced_rank_beats_the_projected_minimiser_and_random_points():
    rng = np.random.default_rng(0)
    F, A = rng.standard_normal((30, 6)) * [1, 1, 1, 1, 9, 9], rng.standard_normal((30, 5))
    f = sf.Quadratic(F.T @ F, F.T @ A, constant=0.5 * np.linalg.norm(A) ** 2)
    best = sf.minimize(f, LowRank(2), ReducedRank()).objective
    assert best < f.value(LowRank(2).project(np.linalg.lstsq(F, A, rcond=None)[0]))
    assert all(best <= f.value(rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5)) / 9) for _ in range(50))


def test_it_is_what_minimize_and_factorize_choose():
    f = sf.Quadratic(np.diag([1.0, 4.0]), np.diag([3.0, 8.0]))
    assert sf.minimize(f, LowRank(1)).objective == pytest.approx(-8)
    F = sf.factorize(np.diag([3.0, 2.0, 1.0]), (LowRank(1), sf.Dense()))
    assert isinstance(F.solver, BlockCoordinateDescent) and "low rank" in F.explain()
    assert F.error == pytest.approx(math.sqrt(5 / 14))
    with pytest.raises(ArgumentError, match="one matrix, not a product"):
        sf.factorize(np.eye(3), (LowRank(1), sf.Dense()), ReducedRank())


def test_null_spaces():
    F = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    A = np.array([[3.0, 0.0], [0.0, 1.0]])
    value = reduced_rank(sf.Quadratic(F.T @ F, F.T @ A), 2, get_backend(A))
    np.testing.assert_allclose(F @ value, A, atol=1e-12)
    with pytest.raises(ArgumentError, match="falls without bound"):
        reduced_rank(sf.Quadratic(np.diag([1.0, 0.0]), np.ones((2, 2))), 1, get_backend(A))
    assert not reduced_rank(sf.Quadratic(np.zeros((2, 2)), np.zeros((2, 2))), 1, get_backend(A)).any()


# products


@pytest.mark.parametrize("solver", [sf.PALM(iterations=3000), BlockCoordinateDescent()], ids=["PALM", "BCD"])
def test_a_low_rank_factor_bounds_the_rank_of_the_product(solver):
    A = np.random.default_rng(0).standard_normal((10, 12))
    F = sf.factorize(A, (LowRank(3), sf.Dense()), solver)
    tail = np.linalg.svd(A, compute_uv=False)[3:]
    assert F.error == pytest.approx(np.linalg.norm(tail) / np.linalg.norm(A), rel=1e-3)
    assert LowRank(3).contains(F.factors[0].toarray() if hasattr(F.factors[0], "toarray") else F.factors[0])


@pytest.mark.parametrize("solver", [sf.PALM(iterations=300), BlockCoordinateDescent()], ids=["PALM", "BCD"])
def test_low_rank_beside_sparse(solver):
    rng = np.random.default_rng(1)
    A = LowRank(4).project(rng.standard_normal((12, 12))) @ sf.TopK(nnz=2, per="row").project(
        rng.standard_normal((12, 16))
    )
    sets = LowRank(4), sf.TopK(nnz=6, per="row")
    F = sf.factorize(A, sets, solver)
    assert F.error < 0.2
    for factor, each in zip(F.factors, sets, strict=True):
        assert each.contains(factor.toarray() if hasattr(factor, "toarray") else factor)
