"""PALM over two and more factors, against known factorizations, exact optima and the conditions of a critical point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import draw

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.palm import PALM
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.loop import run
from sparsefact.products.status import Status

LOWER = np.tri(2, dtype=bool)
ANTI = np.array([[0.0, 1.0], [1.0, 0.0]])


def problem_of(matrix, constraints, shapes, *, gram=None, start=None, seed=0):
    return FactorizationProblem(matrix, tuple(constraints), tuple(shapes), gram, get_backend(matrix), start, seed)


def product(factors):
    result = factors[0]
    for factor in factors[1:]:
        result = result @ factor
    return result


@pytest.mark.parametrize("inertia", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_hadamard_butterfly_is_found(inertia, seed):
    matrix = np.array([[(-1.0) ** (i & j).bit_count() for j in range(16)] for i in range(16)])
    factors = [sf.KroneckerSupport(a, 2, 2, 8 // a) for a in (1, 2, 4, 8)]
    finished = run(PALM(inertia=inertia), problem_of(matrix, factors, [(16, 16)] * 4, seed=seed))
    found = finished.outcome.value
    assert all(constraint.contains(factor) for constraint, factor in zip(factors, found, strict=True))
    assert np.linalg.norm(matrix - product(found)) < 1e-3 * np.linalg.norm(matrix)
    assert finished.outcome.status.success


def test_fourier_butterfly_is_found():
    n = 8
    reverse = [int(format(i, "03b")[::-1], 2) for i in range(n)]
    matrix = np.exp(-2j * np.pi * np.outer(range(n), range(n)) / n)[:, reverse]
    factors = [sf.KroneckerSupport(a, 2, 2, 4 // a) for a in (1, 2, 4)]
    finished = run(PALM(), problem_of(matrix, factors, [(n, n)] * 3))
    assert finished.history[-1].error < 1e-6


@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
def test_low_rank_optimum(dtype):
    matrix = draw(np.random.default_rng(0), (12, 9), dtype)
    tail = np.linalg.svd(matrix, compute_uv=False)[3:]
    finished = run(PALM(iterations=3000), problem_of(matrix, [sf.Dense(), sf.Dense()], [(12, 3), (3, 9)]))
    left, right = finished.outcome.value
    assert left.dtype == right.dtype == dtype
    assert np.linalg.norm(matrix - left @ right) == pytest.approx(float(np.linalg.norm(tail)), rel=1e-3)


def test_monarch_pair_reaches_the_blockwise_optimum():
    matrix = np.random.default_rng(1).standard_normal((16, 16))
    tails = [np.linalg.svd(matrix[i::4, 4 * j : 4 * j + 4], compute_uv=False)[1:] for i in range(4) for j in range(4)]
    pair = sf.KroneckerSupport(1, 4, 4, 4), sf.KroneckerSupport(4, 4, 4, 1)
    finished = run(PALM(iterations=5000), problem_of(matrix, pair, [(16, 16)] * 2))
    assert finished.history[-1].objective == pytest.approx(0.5 * sum((tail**2).sum() for tail in tails), rel=1e-3)


cases = st.tuples(
    st.integers(0, 10**6),
    st.integers(2, 4),
    st.sampled_from([np.float32, np.float64, np.complex128]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_the_objective_never_rises_and_factors_obey(case):
    seed, count, dtype, weighted, inertia = case
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, count + 1)
    shapes = list(zip(sizes[:-1].tolist(), sizes[1:].tolist(), strict=True))
    constraints = []
    for shape in shapes:
        mask = rng.random(shape) < 0.7
        mask[0, 0] = True
        choices = [sf.TopK(density=0.5), sf.Dense(), sf.Support(mask), sf.TopK(nnz=1, per="row")]
        constraints.append(choices[rng.integers(len(choices))])
    matrix = draw(rng, (int(sizes[0]), int(sizes[-1])), dtype)
    gram = None
    if weighted:
        factor = draw(rng, (matrix.shape[1],) * 2, dtype)
        gram = factor.conj().T @ factor
    kept = matrix.copy()
    solver = PALM(iterations=40, inertia=inertia, report_every=1)
    finished = run(solver, problem_of(matrix, constraints, shapes, gram=gram, seed=seed))
    objectives = [progress.objective for progress in finished.history]
    assert all(later <= earlier for earlier, later in itertools.pairwise(objectives))
    found = finished.outcome.value
    assert [factor.shape for factor in found] == shapes and all(factor.dtype == dtype for factor in found)
    assert all(constraint.contains(factor) for constraint, factor in zip(constraints, found, strict=True))
    assert (matrix == kept).all()
    residual = (matrix - product(found)).astype(np.complex128)
    value = 0.5 * np.vdot(residual, residual if gram is None else residual @ gram).real
    scale = np.linalg.norm(matrix) ** 2 * (1 if gram is None else np.linalg.norm(gram, 2))
    assert abs(value - objectives[-1]) <= 1e3 * np.finfo(dtype).eps * scale


def test_ends_at_a_critical_point():
    rng = np.random.default_rng(3)
    masks = [rng.random((6, 5)) < 0.7, rng.random((5, 5)) < 0.7, rng.random((5, 7)) < 0.7]
    matrix = rng.standard_normal((6, 7))
    solver = PALM(iterations=3000, tolerance=1e-13)
    outcome = run(solver, problem_of(matrix, map(sf.Support, masks), [mask.shape for mask in masks])).outcome
    a, b, c = outcome.value
    residual = matrix - a @ b @ c
    for mask, gradient in (
        (masks[0], residual @ (b @ c).T),
        (masks[1], a.T @ residual @ c.T),
        (masks[2], (a @ b).T @ residual),
    ):
        assert np.linalg.norm(gradient[mask]) < 1e-3 * np.linalg.norm(matrix)


def test_lu_supports_diverge():
    pair = sf.Support(LOWER), sf.Support(LOWER.T)
    outcome = run(PALM(iterations=2000, tolerance=0.0), problem_of(ANTI, pair, [(2, 2)] * 2)).outcome
    assert outcome.status is Status.INFIMUM_NOT_ATTAINED
    assert "not attained" in outcome.explanation


def test_starts_from_given_factors_and_is_reproducible():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((6, 3)), rng.standard_normal((3, 6))
    constraints, shapes = (sf.TopK(density=0.7), sf.TopK(density=0.7)), [(6, 3), (3, 6)]
    start = constraints[0].project(left), constraints[1].project(right)
    finished = run(PALM(), problem_of(start[0] @ start[1], constraints, shapes, start=start))
    assert finished.history[0].error < 1e-12
    matrix = rng.standard_normal((6, 6))
    first, second = (run(PALM(), problem_of(matrix, constraints, shapes, seed=5)).outcome for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.value, second.value, strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    matrix = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    constraints, shapes = (sf.TopK(density=0.5), sf.TopK(density=0.5)), [(8, 8), (8, 8)]
    errors = [
        run(PALM(iterations=100), problem_of(each, constraints, shapes)).history[-1].error
        for each in (matrix, matrix * np.float32(scale))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


def test_zero_matrix():
    finished = run(PALM(), problem_of(np.zeros((3, 4)), [sf.Dense(), sf.Dense()], [(3, 2), (2, 4)]))
    assert finished.history[-1].error == 0
    assert not any(factor.any() for factor in finished.outcome.value)


@pytest.mark.parametrize(
    ("field", "value"), [("iterations", 0), ("report_every", True), ("tolerance", float("inf")), ("inertia", 1)]
)
def test_parameters_are_checked(field, value):
    with pytest.raises(ArgumentError, match=field):
        PALM(**{field: value})


def test_a_joint_budget_is_refused():
    joint = sf.double_sparse((4, 4), 0.6)
    problem = FactorizationProblem(np.eye(4), joint, ((4, 4), (4, 4)), None, get_backend(np.eye(4)))
    with pytest.raises(ArgumentError, match="Alternating"):
        PALM().init(problem)
