"""Deep weight factorization: closed forms, an independent group lasso, and what a run says about itself."""

import itertools
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

import sparsefact as sf
from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.minimizers.factor_starts import truncated_factors
from sparsefact.minimizers.thresholds import global_threshold, jump, local_threshold, shrink


def scalar(a, weight, depth):
    """The global minimiser of 1/2 (w - a)^2 + weight w^p by a bracketed root and a comparison with zero."""
    p = 2 / depth

    def slope(w):
        return w - a + weight * p * w ** (p - 1)

    lowest = (weight * p * (1 - p)) ** (1 / (2 - p)) if p < 1 else 1e-300
    if slope(lowest) >= 0:
        return 0.0
    root = brentq(slope, lowest, a, xtol=1e-15)
    return root if 0.5 * (root - a) ** 2 + weight * root**p < 0.5 * a**2 else 0.0


@given(st.floats(0.01, 4), st.floats(0.02, 1.5), st.integers(2, 6))
@settings(max_examples=200)
def test_closed_threshold_against_a_root_finder(a, weight, depth):
    tau = global_threshold(weight, depth)
    if abs(a - tau) > 1e-6:
        assert shrink(np.array([a]), weight, depth, np)[0] == pytest.approx(scalar(a, weight, depth), abs=1e-11)
    if depth > 2:
        assert shrink(np.array([tau * (1 + 1e-9)]), weight, depth, np)[0] == pytest.approx(
            jump(weight, depth), rel=1e-6
        )
        assert local_threshold(weight, depth) < tau


def test_published_thresholds():
    for weight, depth, tau, local in ((0.5, 3, 0.87738, 0.76980), (0.5, 4, 0.94494, 0.75), (0.1, 3, 0.26240, 0.23022)):
        assert global_threshold(weight, depth) == pytest.approx(tau, abs=5e-6)
        assert local_threshold(weight, depth) == pytest.approx(local, abs=5e-6)
    assert global_threshold(0.1, 2) == local_threshold(0.1, 2) == 0.1 and jump(0.1, 2) == 0


# no entry at a threshold, where the decay is slower than any power
DESIGN = np.linspace(-2.53, 2.49, 61)[:, None]


@pytest.mark.parametrize("penalty", [0.1, 0.5])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_an_orthogonal_design_equals_the_closed_form(depth, penalty):
    f = sf.Quadratic(np.eye(61), DESIGN)
    solution = sf.minimize(f, sf.Dense(), sf.DeepWeightFactorization(depth=depth, penalty=penalty))
    size = abs(DESIGN)
    expected = np.array([[np.sign(a[0]) * scalar(abs(a[0]), penalty, depth)] if a[0] else [0.0] for a in DESIGN])
    above, below = size > global_threshold(penalty, depth), size < local_threshold(penalty, depth) * 0.99
    np.testing.assert_allclose(solution.value[above], expected[above], atol=1e-8)
    assert (solution.value[below] == 0).all() and above.sum() > 10 and below.sum() > 1
    assert solution.status is sf.Status.STATIONARY


@pytest.mark.parametrize("depth", [2, 3])
def test_blocks_of_an_orthogonal_design(depth):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((12, 4)) * np.repeat(np.linspace(0.05, 1, 6), 2)[:, None]
    solver = sf.DeepWeightFactorization(depth=depth, penalty=0.4, blocks=(2, 4))
    value = sf.minimize(sf.Quadratic(np.eye(12), a), sf.Dense(), solver).value
    for block in range(6):
        part, found = a[2 * block : 2 * block + 2], value[2 * block : 2 * block + 2]
        size = np.linalg.norm(part)
        if not local_threshold(0.4, depth) * 0.99 < size < global_threshold(0.4, depth):
            np.testing.assert_allclose(found, part / size * scalar(size, 0.4, depth), atol=1e-8)


def group_lasso(X, y, penalty, size, steps=20000):
    """FISTA for 1/2 ||X w - y||^2 + penalty sum of norms of consecutive groups."""
    largest = np.linalg.norm(X, 2) ** 2
    w = ahead = np.zeros(X.shape[1])
    momentum = 1.0
    for _ in range(steps):
        t = (ahead - X.T @ (X @ ahead - y) / largest).reshape(-1, size)
        norms = np.linalg.norm(t, axis=1, keepdims=True)
        new = (t * np.maximum(0, 1 - penalty / largest / np.maximum(norms, 1e-300))).ravel()
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        if (ahead - new) @ (new - w) > 0:
            momentum, following, ahead = 1.0, 1.0, new
        else:
            ahead = new + (momentum - 1) / following * (new - w)
        if np.abs(new - w).max() < 1e-14:
            return new
        w, momentum = new, following
    return w


@pytest.fixture(scope="module")
def grouped():
    rng = np.random.default_rng(3)
    X, truth = rng.standard_normal((120, 80)), np.zeros(80)
    truth[:15] = rng.standard_normal(15)
    return X / np.sqrt(120), (X @ truth + rng.standard_normal(120)) / np.sqrt(120)


@pytest.mark.parametrize("penalty", [0.15, 0.3, 0.8])
def test_depth_two_with_blocks_is_the_group_lasso(grouped, penalty):
    X, y = grouped
    expected = group_lasso(X, y, penalty, 5)
    f = sf.LeastSquares(X, y[:, None])
    solver = sf.DeepWeightFactorization(penalty=penalty, blocks=(5, 1), momentum=0.97, steps=8000)
    for each in (solver, sf.ProximalGradient(penalty=penalty, blocks=(5, 1))):
        solution = sf.minimize(f, sf.Dense(), each)
        np.testing.assert_allclose(solution.value[:, 0], expected, atol=1e-6)
        assert np.array_equal(solution.value[:, 0] != 0, expected != 0)


def test_a_path_starts_each_run_where_the_last_one_ended(grouped):
    X, y = grouped
    f = sf.LeastSquares(X, y[:, None])
    penalties = [0.8, 0.2, 0.4]
    for solver in (
        sf.ProximalGradient(blocks=(5, 1)),
        sf.DeepWeightFactorization(depth=3, blocks=(5, 1), momentum=0.97),
    ):
        path = sf.regularization_path(f, penalties, solver)
        counts = [int(np.count_nonzero(each.value)) for each in path]
        assert counts[1] >= counts[2] >= counts[0] > 0 and len(path) == 3
    np.testing.assert_allclose(
        sf.regularization_path(f, penalties, sf.ProximalGradient(blocks=(5, 1)))[2].value[:, 0],
        group_lasso(X, y, 0.4, 5),
        atol=1e-6,
    )


@pytest.mark.parametrize("depth", [3, 4])
def test_deeper_products_lie_at_a_stationary_point_of_their_penalty(grouped, depth):
    X, y = grouped
    f = sf.LeastSquares(X, y[:, None])
    solution = sf.minimize(f, sf.Dense(), sf.DeepWeightFactorization(depth=depth, penalty=0.2, blocks=(5, 1)))
    w, g = (each.reshape(-1, 5) for each in (solution.value, f.gradient(solution.value)))
    alive = np.linalg.norm(w, axis=1) > 0
    assert 3 <= alive.sum() < 16
    size = np.linalg.norm(w[alive], axis=1, keepdims=True)
    p = 2 / depth
    np.testing.assert_allclose(g[alive], -0.2 * p * size ** (p - 2) * w[alive], atol=1e-7)
    smallest = (2 * 0.2 / (depth * np.linalg.norm(g[alive], axis=1))) ** (depth / (depth - 2))
    assert (size[:, 0] >= smallest * (1 - 1e-6)).all()


def test_steps_without_momentum_never_raise_the_objective(grouped):
    X, y = grouped
    solver = sf.DeepWeightFactorization(depth=3, penalty=0.1, momentum=0.0, steps=300, report_every=1)
    values = [each.objective for each in sf.minimize(sf.LeastSquares(X, y[:, None]), sf.Dense(), solver).history]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(("depth", "ratio"), [(2, 0.604), (3, 0.467), (4, 0.398)])
def test_the_truncated_start(depth, ratio):
    std, smallest, rng = 0.1, 3e-3, np.random.default_rng(0)
    scale, shape = std ** (1 / depth), (700, 700)
    factors = [truncated_factors(rng, shape, std, depth) for _ in range(depth)]
    low, high = smallest ** (1 / depth), min(1, (2 * std) ** (1 / depth))
    a, b = low / scale, high / scale
    second = scale**2 * (1 - (b * norm.pdf(b) - a * norm.pdf(a)) / (norm.cdf(b) - norm.cdf(a)))
    for factor in factors:
        assert abs(factor).min() >= low * (1 - 1e-12) and abs(factor).max() <= high * (1 + 1e-12)
        assert (factor**2).mean() == pytest.approx(second, rel=0.01)
        assert abs(np.sign(factor).mean()) < 0.01
    assert np.prod(factors, axis=0).std() / std == pytest.approx(ratio, abs=0.01)


def test_training_from_scratch_leaves_the_biases_alone():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 6))
    f = sf.Perceptron(X, (X[:, 0] > 0.3).astype(int), hidden=(12,))
    solver = sf.DeepWeightFactorization(depth=3, penalty=1e-2, steps=600)
    solution = sf.minimize(f, {}, solver, seed=2)
    weights = np.concatenate([solution.value["weight1"].ravel(), solution.value["weight2"].ravel()])
    assert 0 < np.count_nonzero(weights) < weights.size / 2 and np.count_nonzero(solution.value["bias2"]) == 2
    assert (f.predict(solution.value) == f.Y).mean() > 0.9
    again = sf.minimize(f, {}, solver, seed=2)
    assert np.array_equal(solution.value["weight1"], again.value["weight1"])


def test_a_support_and_a_budget_are_obeyed():
    f = sf.Quadratic(np.eye(61), DESIGN)
    mask = np.arange(61)[:, None] % 2 == 0
    solver = sf.DeepWeightFactorization(penalty=0.1)
    expected = np.sign(DESIGN) * np.maximum(abs(DESIGN) - 0.1, 0)
    np.testing.assert_allclose(sf.minimize(f, sf.Support(mask), solver).value, expected * mask, atol=1e-8)
    few = sf.minimize(f, sf.TopK(nnz=3), sf.DeepWeightFactorization(penalty=0.1, refit=True)).value
    assert np.count_nonzero(few) == 3
    np.testing.assert_allclose(few[few != 0], DESIGN[few != 0], atol=1e-8)


def test_a_run_says_what_it_must(caplog):
    f = sf.Quadratic(np.eye(61), DESIGN)
    with caplog.at_level(logging.WARNING):
        short = sf.minimize(f, sf.Dense(), sf.DeepWeightFactorization(depth=3, penalty=1e-3, steps=20)).explain()
    assert "cannot have reached it yet" in short and "cannot have reached it yet" in caplog.text
    collapsed = sf.minimize(f, sf.Dense(), sf.DeepWeightFactorization(depth=3, penalty=50.0))
    assert not collapsed.value.any() and "All weights have died" in collapsed.explain()
    full = sf.minimize(f, sf.Dense(), sf.DeepWeightFactorization(penalty=0.5)).explain()
    assert "cannot" not in full and "died" not in full and "misalignment" in full


def test_zeros_of_the_start_find_their_sign():
    f = sf.Quadratic(np.eye(61), DESIGN)
    start = np.where(DESIGN > 0, DESIGN, 0)
    found = sf.minimize(f, sf.Dense(), sf.DeepWeightFactorization(penalty=0.1), init=start).value
    np.testing.assert_allclose(found, np.sign(DESIGN) * np.maximum(abs(DESIGN) - 0.1, 0), atol=1e-7)
    assert (start[DESIGN <= 0] == 0).all()


@pytest.mark.parametrize("solver", [sf.DeepWeightFactorization, sf.ProximalGradient])
def test_bad_input_gets_a_sentence(solver):
    for depth in (1, 0, 2.0, True):
        with pytest.raises(ArgumentError, match=rf"depth={depth!r} is not allowed; pass an integer that is at least 2"):
            solver(depth=depth)
    for penalty in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ArgumentError, match=r"penalty=.* is not allowed; pass a positive number"):
            solver(penalty=penalty)
    with pytest.raises(ArgumentError, match="blocks=3 is not a block shape"):
        solver(blocks=3)
    f = sf.Quadratic(np.eye(4), np.ones((4, 2)))
    with pytest.raises(ShapeError, match=r"blocks=\(3, 1\) do not divide the shape \(4, 2\)"):
        sf.minimize(f, sf.Dense(), solver(blocks=(3, 1)))
    p = sf.Perceptron(np.ones((4, 2)) * np.arange(4)[:, None], np.arange(4) % 2, hidden=(3,))
    with pytest.raises(ArgumentError, match="are of one matrix, but the objective has several"):
        sf.minimize(p, {}, solver(blocks=(1, 1)))
    with pytest.raises(ArgumentError, match="which has no penalty"):
        sf.regularization_path(f, [1.0], sf.IHT())
    with pytest.raises(ArgumentError, match="penalties is empty"):
        sf.regularization_path(f, [], solver())
    with pytest.raises(ArgumentError, match="learning_rate=0"):
        sf.DeepWeightFactorization(learning_rate=0)
    with pytest.raises(ArgumentError, match="momentum=1"):
        sf.DeepWeightFactorization(momentum=1)
    with pytest.raises(ArgumentError, match="schedule='step' is not known"):
        sf.DeepWeightFactorization(schedule="step")
