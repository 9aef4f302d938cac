"""Alternating least squares on fixed supports, against lstsq, blockwise SVDs, BFGS and known limits."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import draw

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError
from sparsefact.factorizers import starts
from sparsefact.factorizers.als import AlternatingLeastSquares
from sparsefact.factorizers.blocks import Blocks
from sparsefact.factorizers.divergence import is_diverging
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.loop import run
from sparsefact.products.status import Status

LOWER = np.tri(2, dtype=bool)
ANTI = np.array([[0.0, 1.0], [1.0, 0.0]])


def problem_of(matrix, left, right, *, gram=None, start=None, seed=0):
    left, right = (each if hasattr(each, "T") and hasattr(each, "nnz") else sf.Support(each) for each in (left, right))
    return FactorizationProblem(
        matrix, (left, right), (left.shape, right.shape), gram, get_backend(matrix), start, seed
    )


def random_masks(rng, m, n, k, density):
    left, right = rng.random((m, k)) < density, rng.random((k, n)) < density
    left[0, 0] = right[0, 0] = True
    return left, right


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("density", [0.4, 0.95])
def test_a_sweep_is_least_squares_row_by_row(dtype, density):
    rng = np.random.default_rng(3)
    left, right = random_masks(rng, 14, 17, 5, density)
    # repeated patterns, not side by side, share a factorization
    left[9:] = left[:5]
    right[:, 10:] = right[:, :7]
    matrix, x, y = draw(rng, (14, 17), dtype), left * draw(rng, (14, 5), dtype), right * draw(rng, (5, 17), dtype)
    state = AlternatingLeastSquares().init(problem_of(matrix, left, right, start=(x, y)))
    assert state.orders[0] is not None
    assert state.sweep()
    for i in range(14):
        support = np.flatnonzero(left[i])
        x[i, support] = np.linalg.lstsq(y[support].T, matrix[i], rcond=None)[0]
    for j in range(17):
        support = np.flatnonzero(right[:, j])
        y[support, j] = np.linalg.lstsq(x[:, support], matrix[:, j], rcond=None)[0]
    found = state.factors()
    np.testing.assert_allclose(found[0] @ found[1], x @ y, atol=1e-9)
    np.testing.assert_allclose(state.value, 0.5 * np.linalg.norm(matrix - x @ y) ** 2, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_blocks_give_the_right_hand_sides(dtype):
    rng = np.random.default_rng(0)
    left, right = random_masks(rng, 9, 8, 4, 0.6)
    left[:, 2], right[2] = left[:, 0], right[0]
    left[:, 3] = False
    masks = np.ascontiguousarray(left.T), right & left.any(axis=0)[:, None]
    matrix, x, y = draw(rng, (9, 8), dtype), masks[0] * draw(rng, (4, 9), dtype), masks[1] * draw(rng, (4, 8), dtype)
    groups = starts.classes(*masks)
    assert sorted(len(group.members) for group in groups) == [1, 2]
    blocks = Blocks(matrix, groups, masks)
    np.testing.assert_allclose(blocks.cross(0, y), masks[0] * (y.conj() @ matrix.T), atol=1e-12)
    np.testing.assert_allclose(blocks.cross(1, x), masks[1] * (x.conj() @ matrix), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
def test_monarch_pair_reaches_the_blockwise_optimum(dtype):
    matrix = draw(np.random.default_rng(1), (16, 16), dtype)
    left, right = sf.KroneckerSupport(1, 4, 4, 4), sf.KroneckerSupport(4, 4, 4, 1)
    # term (i, j): rows = i mod 4, columns 4 j .. 4 j + 3
    tails = [np.linalg.svd(matrix[i::4, 4 * j : 4 * j + 4], compute_uv=False)[1:] for i in range(4) for j in range(4)]
    optimum = np.sqrt(sum((tail.astype(float) ** 2).sum() for tail in tails))
    outcome = run(AlternatingLeastSquares(), problem_of(matrix, left, right)).outcome
    x, y = outcome.value
    assert left.contains(x) and right.contains(y)
    assert outcome.status is Status.STATIONARY
    assert np.linalg.norm(matrix - x @ y) == pytest.approx(optimum, rel=1e-5 if dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_as_good_as_bfgs_from_many_starts(seed):
    rng = np.random.default_rng(seed)
    left, right = random_masks(rng, 4, 4, 3, 0.6)
    matrix = rng.standard_normal((4, 4))
    p = int(left.sum())

    def loss(t):
        x, y = np.zeros((4, 3)), np.zeros((3, 4))
        x[left], y[right] = t[:p], t[p:]
        residual = x @ y - matrix
        return 0.5 * np.sum(residual**2), np.concatenate([(residual @ y.T)[left], (x.T @ residual)[right]])

    best = min(
        scipy.optimize.minimize(loss, rng.standard_normal(p + int(right.sum())), jac=True, method="L-BFGS-B").fun
        for _ in range(20)
    )
    finished = run(AlternatingLeastSquares(iterations=1000, restarts=6), problem_of(matrix, left, right))
    assert finished.history[-1].objective <= best + 1e-3 * 0.5 * np.sum(matrix**2)


def test_lu_supports_diverge_at_the_known_rate():
    start = np.array([[0.5, 0.0], [0.3, 0.8]]), np.array([[0.4, 0.7], [0.0, 0.6]])
    constants = []
    for sweeps, rate in ((100, 0.0488), (1000, 0.01577), (4000, 0.5 / 4000**0.5)):
        solver = AlternatingLeastSquares(iterations=sweeps, tolerance=0.0)
        outcome = run(solver, problem_of(ANTI, LOWER, LOWER.T, start=start)).outcome
        x, y = outcome.value
        error = np.linalg.norm(ANTI - x @ y)
        assert error == pytest.approx(rate, rel=0.1)
        assert outcome.status is Status.INFIMUM_NOT_ATTAINED and not outcome.status.success
        assert "not attained" in outcome.explanation
        assert outcome.certificate.verdict == "not closed" and outcome.certificate.verify()
        constants.append(error * np.linalg.norm(x) * np.linalg.norm(y))
    assert max(constants) < 1.1 * min(constants)


def test_supports_that_have_optima_are_not_called_diverging():
    rng = np.random.default_rng(5)
    for _ in range(10):
        matrix = rng.standard_normal((7, 6))
        outcome = run(
            AlternatingLeastSquares(iterations=120, tolerance=0.0),
            problem_of(matrix, np.ones((7, 3), dtype=bool), np.ones((3, 6), dtype=bool)),
        ).outcome
        assert outcome.status is not Status.INFIMUM_NOT_ATTAINED
    # nearly equal singular values: as slow as it gets with an optimum
    sweeps = np.arange(500)
    assert not is_diverging(1 + 0.99**sweeps, 5 - 0.995**sweeps, 1.0)
    assert not is_diverging(1 / (1 + sweeps), np.full(500, 3.0), 1.0)
    assert not is_diverging([1.0, 0.5], [1.0, 2.0], 1.0)


cases = st.tuples(
    st.integers(0, 10**6),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 6),
    st.sampled_from([0.3, 0.6, 1.0]),
    st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]),
    st.sampled_from([None, "diagonal", "full"]),
    st.sampled_from([0.0, 0.1]),
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_the_objective_never_rises(case):
    seed, m, n, k, density, dtype, weight, tikhonov = case
    rng = np.random.default_rng(seed)
    left, right = random_masks(rng, m, n, k, density)
    matrix = draw(rng, (m, n), dtype)
    gram = None
    if weight == "full":
        factor = draw(rng, (n, n), dtype)
        gram = factor.conj().T @ factor
    elif weight == "diagonal":
        gram = np.diag(rng.random(n) * (rng.random(n) < 0.8)).astype(dtype)
        gram[0, 0] = 1
    kept = matrix.copy()
    solver = AlternatingLeastSquares(iterations=40, tikhonov=tikhonov, continuation=0.5, report_every=1)
    finished = run(solver, problem_of(matrix, left, right, gram=gram, seed=seed))
    objectives = [progress.objective for progress in finished.history]
    assert all(later <= earlier for earlier, later in itertools.pairwise(objectives))
    x, y = finished.outcome.value
    assert x.dtype == y.dtype == dtype
    assert not x[~left].any() and not y[~right].any()
    assert (matrix == kept).all()
    wide = np.complex128 if np.dtype(dtype).kind == "c" else np.float64
    weight = np.eye(n) if gram is None else gram.astype(wide)
    residual = matrix.astype(wide) - x.astype(wide) @ y.astype(wide)
    error, whole = (float(np.sqrt(abs(np.vdot(each, each @ weight)))) for each in (residual, matrix.astype(wide)))
    assert abs(error - finished.history[-1].error * whole) <= 30 * float(np.finfo(dtype).eps) ** 0.5 * whole


@pytest.mark.parametrize("seed", range(4))
def test_complex_is_real_in_other_words(seed):
    rng = np.random.default_rng(seed)
    left, right = random_masks(rng, 6, 7, 4, 0.6)
    matrix, x, y = rng.standard_normal((6, 7)), left * rng.standard_normal((6, 4)), right * rng.standard_normal((4, 7))
    solver = AlternatingLeastSquares(iterations=30)
    real = run(solver, problem_of(matrix, left, right, start=(x, y)))
    rows, cols, inner = (np.exp(2j * np.pi * rng.random(size)) for size in (6, 7, 4))
    turned = rows[:, None] * matrix * cols
    start = rows[:, None] * x * inner, y * cols / inner[:, None]
    turn = run(solver, problem_of(turned, left, right, start=start))
    same = run(solver, problem_of(matrix.astype(complex), left, right, start=(x + 0j, y + 0j)))
    for other in (turn, same):
        errors = [[progress.error for progress in each.history] for each in (real, other)]
        length = min(map(len, errors))
        np.testing.assert_allclose(errors[0][:length], errors[1][:length], atol=1e-6)
    np.testing.assert_array_equal(same.outcome.value[0].imag, 0)


def test_gram_of_the_identity_and_of_a_diagonal():
    rng = np.random.default_rng(2)
    left, right = random_masks(rng, 8, 9, 4, 0.6)
    matrix = rng.standard_normal((8, 9))
    weights = rng.random(9) + 0.1
    x, y = left * rng.standard_normal((8, 4)), right * rng.standard_normal((4, 9))
    solver = AlternatingLeastSquares(iterations=25)
    plain = run(solver, problem_of(matrix, left, right, start=(x, y)))
    identity = run(solver, problem_of(matrix, left, right, start=(x, y), gram=np.eye(9)))
    np.testing.assert_allclose(identity.outcome.value[0] @ identity.outcome.value[1], np.matmul(*plain.outcome.value))
    root = np.sqrt(weights)
    diagonal = run(solver, problem_of(matrix, left, right, start=(x, y), gram=np.diag(weights)))
    scaled = run(solver, problem_of(matrix * root, left, right, start=(x, y * root)))
    np.testing.assert_allclose(np.matmul(*diagonal.outcome.value) * root, np.matmul(*scaled.outcome.value), atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_full_gram_ends_where_no_entry_can_improve(dtype):
    rng = np.random.default_rng(4)
    left, right = random_masks(rng, 8, 6, 3, 0.5)
    matrix, factor = draw(rng, (8, 6), dtype), draw(rng, (6, 6), dtype)
    gram = factor.conj().T @ factor
    finished = run(
        AlternatingLeastSquares(iterations=2000, tolerance=1e-13), problem_of(matrix, left, right, gram=gram)
    )
    x, y = finished.outcome.value
    weighted = (matrix - x @ y) @ gram
    scale = np.linalg.norm(matrix @ gram)
    assert np.linalg.norm((weighted @ y.conj().T)[left]) < 1e-4 * scale
    assert np.linalg.norm((x.conj().T @ weighted)[right]) < 1e-4 * scale


def test_tikhonov_keeps_factors_bounded():
    solver = AlternatingLeastSquares(tikhonov=1e-2, continuation=1.0, iterations=5000, tolerance=1e-13)
    finished = run(solver, problem_of(ANTI, LOWER, LOWER.T))
    x, y = finished.outcome.value
    penalty = 1e-2 * np.sqrt(2) / np.sqrt(2)
    residual = ANTI - x @ y
    assert finished.outcome.status is Status.STATIONARY
    np.testing.assert_allclose((residual @ y.T - penalty * x)[LOWER], 0, atol=1e-5)
    np.testing.assert_allclose((x.T @ residual - penalty * y)[LOWER.T], 0, atol=1e-5)
    value = 0.5 * np.sum(residual**2) + 0.5 * penalty * (np.sum(x**2) + np.sum(y**2))
    assert finished.history[-1].objective == pytest.approx(value, rel=1e-6)
    assert "regularised" in finished.outcome.explanation


def test_continuation_ends_without_a_penalty():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((6, 6))
    problem = problem_of(matrix, np.ones((6, 2), dtype=bool), np.ones((2, 6), dtype=bool))
    finished = run(AlternatingLeastSquares(tikhonov=0.1, continuation=0.7), problem)
    tail = np.linalg.svd(matrix, compute_uv=False)[2:]
    assert finished.history[-1].objective == pytest.approx(0.5 * np.sum(tail**2), rel=1e-5)
    assert "lambda" in finished.outcome.explanation


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_known_saddle_is_left(dtype):
    matrix = draw(np.random.default_rng(0), (6, 7), dtype)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    wrong = [1, 3]  # the largest triplet and the third are left out
    root = np.sqrt(s[wrong])
    start = u[:, wrong] * root, root[:, None] * vh[wrong]
    problem = problem_of(matrix, np.ones((6, 2), dtype=bool), np.ones((2, 7), dtype=bool), start=start)
    stuck = run(AlternatingLeastSquares(iterations=1, escapes=0), problem)
    assert stuck.history[-1].objective == pytest.approx(0.5 * (np.sum(s**2) - np.sum(s[wrong] ** 2)))
    finished = run(AlternatingLeastSquares(), problem)
    assert finished.history[-1].objective == pytest.approx(0.5 * np.sum(s[2:] ** 2), rel=1e-6)
    assert "saddle was left" in finished.outcome.explanation


def test_zero_factors_are_a_start_like_any_other():
    matrix = np.random.default_rng(0).standard_normal((5, 5))
    start = np.zeros((5, 2)), np.zeros((2, 5))
    problem = problem_of(matrix, np.ones((5, 2), dtype=bool), np.ones((2, 5), dtype=bool), start=start)
    finished = run(AlternatingLeastSquares(), problem)
    tail = np.linalg.svd(matrix, compute_uv=False)[2:]
    assert finished.history[-1].objective == pytest.approx(0.5 * np.sum(tail**2), rel=1e-5)


def test_surrogate_and_deflation_are_exact_on_disjoint_blocks():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((60, 60))
    left = np.zeros((60, 3), dtype=bool)
    left[:30, :2] = left[30:, 2] = True
    right = left.T.copy()
    groups = starts.classes(np.ascontiguousarray(left.T), right)
    expected = np.zeros((60, 60))
    for cells, rank in ((slice(0, 30), 2), (slice(30, 60), 1)):
        u, s, vh = np.linalg.svd(matrix[cells, cells])
        expected[cells, cells] = (u[:, :rank] * s[:rank]) @ vh[:rank]
    for make in (starts.surrogate, starts.deflation):
        x, y = make(matrix, groups, 3)
        # 30 x 30 blocks are decomposed by subspace iteration: near enough for a start
        assert np.linalg.norm(matrix - x.T @ y) == pytest.approx(np.linalg.norm(matrix - expected), rel=1e-2)


def test_degenerate_inputs():
    left = np.array([[1, 0, 1], [1, 0, 1]], dtype=bool)
    right = np.array([[1, 1], [1, 0], [0, 0]], dtype=bool)
    outcome = run(AlternatingLeastSquares(), problem_of(np.ones((2, 2)), left, right)).outcome
    x, y = outcome.value
    np.testing.assert_allclose(x @ y, np.ones((2, 2)))
    assert not x[:, 1:].any() and not y[1:].any()
    start = np.ones((2, 3)), np.ones((3, 2))
    zero = run(AlternatingLeastSquares(), problem_of(np.zeros((2, 2)), left, right, start=start))
    assert zero.history[-1].error == 0 and not zero.outcome.value[0].any() and not zero.outcome.value[1].any()
    never = run(AlternatingLeastSquares(), problem_of(np.ones((2, 2)), left[:, 1:2] | ~left[:, 1:2], right[2:] | True))
    assert never.outcome.status is Status.STATIONARY


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    rng = np.random.default_rng(0)
    left, right = random_masks(rng, 8, 8, 4, 0.6)
    matrix = rng.standard_normal((8, 8)).astype(np.float32)
    errors = [
        run(AlternatingLeastSquares(iterations=50), problem_of(each, left, right)).history[-1].error
        for each in (matrix, matrix * np.float32(scale))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_same_seed_same_bits_and_warm_start():
    rng = np.random.default_rng(0)
    left, right = random_masks(rng, 12, 12, 6, 0.5)
    problem = problem_of(rng.standard_normal((12, 12)), left, right, seed=7)
    first, second = (run(AlternatingLeastSquares(iterations=20), problem) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.outcome.value, second.outcome.value, strict=True))
    solver = AlternatingLeastSquares()
    state = solver.init(problem)
    solver.step(problem, state)
    again = solver.init(dataclasses.replace(problem, seed=1), state)
    assert again.error == pytest.approx(state.error, rel=1e-9)


def test_balanced_factors():
    rng = np.random.default_rng(1)
    left, right = random_masks(rng, 10, 9, 4, 0.7)
    x, y = run(
        AlternatingLeastSquares(iterations=30), problem_of(rng.standard_normal((10, 9)), left, right)
    ).outcome.value
    np.testing.assert_allclose(np.linalg.norm(x, axis=0), np.linalg.norm(y, axis=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0),
        ("restarts", -1),
        ("trial_sweeps", 0),
        ("escapes", -1),
        ("report_every", 0),
        ("iterations", True),
        ("tolerance", -1.0),
        ("tikhonov", float("nan")),
        ("continuation", 0.0),
        ("continuation", 1.5),
    ],
)
def test_parameters_are_checked(field, value):
    with pytest.raises(ArgumentError, match=field):
        AlternatingLeastSquares(**{field: value})


def test_only_fixed_supports():
    problem = FactorizationProblem(
        ANTI, (sf.TopK(nnz=2), sf.Dense()), ((2, 2), (2, 2)), None, get_backend(ANTI), None, 0
    )
    with pytest.raises(ArgumentError, match="pair of fixed supports"):
        AlternatingLeastSquares().init(problem)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("terms", [1, 3])
def test_the_singular_form_of_a_class_is_that_of_its_product(terms, dtype):
    rng = np.random.default_rng(terms)
    x, y = (rng.standard_normal((terms, size)).astype(dtype) for size in (5, 8))
    if dtype == "complex128":
        x, y = x * (1 + 2j), y * (3 - 1j)
    weakest, left, right = starts._singular_form(x, y)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert weakest == pytest.approx(np.linalg.svd(x.T @ y, compute_uv=False)[terms - 1], rel=tolerance)
    np.testing.assert_allclose(left.T @ right, x.T @ y, atol=100 * tolerance)
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1), rtol=10 * tolerance)
    zero = starts._singular_form(0 * x, y)
    assert zero[0] == 0 and not (zero[1].T @ zero[2]).any()


def test_blocks_are_kept_where_they_cost_less_than_the_whole_product():
    def worth_it(n, terms):
        groups = [starts.TermClass(np.arange(8), np.arange(8), np.array([k])) for k in range(terms)]
        return Blocks.worth_it((n, n), groups)

    assert worth_it(1024, 1024) and not worth_it(64, 64)
    # far more than the matrix holds
    assert not worth_it(512, 100 * 512)
