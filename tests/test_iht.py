"""Iterative hard thresholding: recovery, exact formulas against brute force, and certificates that can fail."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iris_oracle import STORED, data, optima, supports
from problems import least_squares

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, BudgetError
from sparsefact.minimizers.adapted import Adapted
from sparsefact.minimizers.exchange_groups import exchange_groups
from sparsefact.minimizers.protocol import MinimizeProblem
from sparsefact.minimizers.restricted import fit_on
from sparsefact.minimizers.swap import polish_of

VARIANTS = ["normalized", "plain", "htp", "accelerated"]
IRIS = sf.LogisticRegression(*data(), l2=0.01)
BEST = {int(size): best for size, best in json.loads(STORED.read_text()).items()}


def on_support(f, mask):
    """The best values on a support, column by column, by numpy's solver."""
    value = np.zeros(f.shape, dtype=f.dtype)
    for j in range(f.shape[1]):
        on = np.flatnonzero(mask[:, j])
        value[on, j] = np.linalg.solve(f.gram[np.ix_(on, on)], f.cross[on, j])
    return value


@pytest.mark.parametrize("variant", ["normalized", "htp"])
def test_gaussian_recovery(variant):
    for trial in range(10):
        rng = np.random.default_rng(trial)
        A, truth = rng.standard_normal((80, 256)), np.zeros((256, 1))
        truth[rng.choice(256, 10, replace=False), 0] = rng.standard_normal(10)
        solution = sf.minimize(sf.LeastSquares(A, A @ truth), sf.TopK(nnz=10), sf.IHT(variant=variant))
        np.testing.assert_allclose(solution.value, truth, atol=1e-8)
        assert solution.status is sf.Status.STATIONARY and solution.certificate.stable


@given(st.integers(0, 2**32 - 1), st.integers(1, 23), st.sampled_from(VARIANTS), st.booleans())
@settings(max_examples=40)
def test_a_diagonal_quadratic_is_solved_exactly(seed, k, variant, two_sided):
    rng = np.random.default_rng(seed)
    d, e, C = rng.uniform(0.1, 9, 8), rng.uniform(0.1, 9, 3), rng.standard_normal((8, 3))
    f = sf.Quadratic(np.diag(d), C, np.diag(e) if two_sided else None)
    gains = C**2 / (d[:, None] * (e[None, :] if two_sided else 1.0))
    solution = sf.minimize(f, sf.TopK(nnz=k), sf.IHT(variant=variant))
    assert solution.objective == pytest.approx(-np.sort(gains.ravel())[::-1][:k].sum() / 2, rel=1e-9)


@pytest.mark.parametrize("kind", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "constraint",
    [
        sf.TopK(density=0.3),
        sf.TopK(nnz=2, per="column"),
        sf.TopK(nnz=1, per="row"),
        sf.NOfM(1, 2, axis=0),
        sf.BlockTopK((2, 3), count=2),
        sf.Support(np.eye(8, 3, dtype=bool)),
        sf.Dense(),
    ],
    ids=repr,
)
def test_every_constraint_and_type(variant, constraint, kind):
    _, _, f = least_squares(1, kind="c" if kind[0] == "c" else "r")
    f = sf.Quadratic(f.gram.astype(kind), f.cross.astype(kind), constant=f.constant)
    before = f.gram.copy(), f.cross.copy()
    projected = constraint.project(np.linalg.solve(f.gram, f.cross))
    solution = sf.minimize(f, constraint, sf.IHT(variant=variant, steps=300), init=projected)
    assert constraint.contains(solution.value) and solution.value.dtype == kind
    assert np.array_equal(f.gram, before[0]) and np.array_equal(f.cross, before[1])
    assert solution.objective <= float(f.value(projected)) * (1 + 1e-5)
    assert solution.certificate.stable and solution.certificate.verify(f)
    exact = on_support(f, np.asarray(solution.certificate.support))
    np.testing.assert_allclose(solution.value, exact, atol=2e-3 if kind != "float64" else 1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_objective_never_rises(variant):
    _, _, f = least_squares(5, m=12, p=20, n=4)
    solver = sf.IHT(variant=variant, report_every=1, steps=60)
    values = [each.objective for each in sf.minimize(f, sf.TopK(density=0.2), solver).history]
    assert all(b <= a + 1e-9 * abs(a) for a, b in itertools.pairwise(values))
    runs = sf.minimize(IRIS, sf.TopK(nnz=5), dataclasses.replace(solver, lipschitz="montecarlo"))
    values = [each.objective for each in runs.history]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))


def test_plain_steps_are_projected_gradient_steps():
    _, _, f = least_squares(2)
    solver = sf.IHT(variant="plain", scaling="none", refit=False, steps=7, tolerance=0)
    start = np.random.default_rng(0).standard_normal(f.shape)
    found = sf.minimize(f, sf.TopK(nnz=9), solver, init=start).value
    w = sf.TopK(nnz=9).project(start)
    for _ in range(7):
        w = sf.TopK(nnz=9).project(w - f.gradient(w) / np.linalg.eigvalsh(f.gram)[-1])
    np.testing.assert_allclose(found, w, rtol=1e-9, atol=1e-12)


def test_scaling_decides_what_is_largest():
    f = sf.Quadratic(np.diag([100.0, 1.0]), np.array([[100.0], [2.0]]))
    # entry 0 alone gives -50, entry 1 alone -2, but entry 1 is twice as large
    assert sf.minimize(f, sf.TopK(nnz=1), sf.IHT()).value[0, 0] == pytest.approx(1)
    start = np.array([[0.0], [2.0]])
    for scaling, expected in (("diagonal", [[1.0], [0.0]]), ("none", start)):
        solver = sf.IHT(variant="plain", scaling=scaling)
        np.testing.assert_allclose(sf.minimize(f, sf.TopK(nnz=1), solver, init=start).value, expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["matrix", "column", "row"]), st.sampled_from("rc"))
@settings(max_examples=25)
def test_no_exchange_of_two_entries_is_left(seed, per, kind):
    _, _, f = least_squares(seed, m=9, p=6, n=2, kind=kind)
    constraint = sf.TopK(nnz=4 if per == "matrix" else 1 if per == "row" else 3, per=per)
    solution = sf.minimize(f, constraint, sf.IHT(polish="swap"))
    mask = np.asarray(solution.certificate.support)
    groups = exchange_groups(constraint, f.shape)
    best = solution.objective
    for j, i in itertools.product(np.argwhere(mask), np.argwhere(~mask)):
        if groups[tuple(j)] == groups[tuple(i)]:
            trial = mask.copy()
            trial[tuple(j)], trial[tuple(i)] = False, True
            assert f.value(on_support(f, trial)) >= best - 1e-8 * abs(best)
    assert solution.objective == pytest.approx(float(f.value(on_support(f, mask))), rel=1e-9)
    assert constraint.contains(solution.value)


def test_exact_formulas_of_an_exchange():
    """The costs, the gains and each net change against refits."""
    _, _, f = least_squares(3, p=7, n=2)
    groups = exchange_groups(sf.TopK(nnz=6), f.shape)
    mask = np.zeros(f.shape, dtype=bool)
    mask[:3] = True
    polish = polish_of(f, sf.TopK(nnz=6), get_backend(f.cross))
    support = mask[:, 0].copy()
    polish._within(0, support, np.inf)  # a threshold that no exchange reaches: only costs and gains are formed
    here = f.value(on_support(f, mask))
    assert np.array_equal(support, mask[:, 0]) and (groups == 0).all()
    for i in range(7):
        other = mask.copy()
        other[i, 0] = not mask[i, 0]
        change = f.value(on_support(f, other)) - here
        expected = polish.costs[i, 0] if mask[i, 0] else -polish.gains[i, 0]
        assert change == pytest.approx(expected, rel=1e-9)
    best = min(
        (f.value(on_support(f, mask ^ flip)), i, j)
        for i, j in itertools.product(range(3, 7), range(3))
        for flip in [np.isin(np.arange(14).reshape(7, 2), [2 * i, 2 * j])]
    )
    polish._within(0, support, 0.0)
    if best[0] < here - 1e-9:
        assert not np.array_equal(support, mask[:, 0])


def test_exchanges_between_columns():
    """All entries start in the column that needs them least."""
    _, _, f = least_squares(4, p=6, n=3)
    start = np.zeros(f.shape)
    start[:, 0] = 1e-3
    solution = sf.minimize(f, sf.TopK(nnz=6), sf.IHT(variant="plain", steps=1, polish="swap"), init=start)
    others = [on_support(f, mask) for mask in _masks(f.shape, 6, 300)]
    assert solution.objective <= min(float(f.value(each)) for each in others) * (1 + 1e-9)
    assert "exchanges" in solution.explain()


def _masks(shape, k, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        mask = np.zeros(shape[0] * shape[1], dtype=bool)
        mask[rng.choice(mask.size, k, replace=False)] = True
        yield mask.reshape(shape)


def test_stored_optima_of_the_iris_data():
    assert sorted(BEST) == list(range(1, 16))
    for size in (1, 2, 13, 14, 15):
        assert optima(supports(size)).min() == pytest.approx(BEST[size], abs=1e-12)
    assert all(BEST[size + 1] < BEST[size] for size in range(1, 15))


@pytest.mark.parametrize("size", range(1, 15))
def test_exchanges_reach_the_global_optimum_of_the_iris_data(size):
    solution = sf.minimize(IRIS, sf.TopK(nnz=size))
    assert solution.objective == pytest.approx(BEST[size], abs=1e-9)
    assert solution.status is sf.Status.STATIONARY and solution.certificate.stable
    assert solution.certificate.verify(IRIS)


@pytest.mark.parametrize("seed", range(14))
def test_runs_from_random_starts_end_stable(seed):
    constraint = sf.TopK(nnz=seed + 1)
    start = constraint.project(np.random.default_rng(seed).standard_normal((5, 3)))
    solution = sf.minimize(IRIS, constraint, sf.IHT(steps=3000), init=start)
    assert solution.certificate.stable and solution.certificate.verify(IRIS)
    assert solution.objective >= BEST[seed + 1] - 1e-12


def test_a_certificate_says_no_for_another_problem_and_when_changed():
    _, _, f = least_squares(1)
    certificate = sf.minimize(f, sf.TopK(nnz=7), sf.IHT(variant="htp")).certificate
    assert certificate.verify(f)
    assert not certificate.verify(least_squares(2)[2])
    assert not certificate.verify(least_squares(1, p=9)[2])
    assert not dataclasses.replace(certificate, residual=1.0).verify(f)
    assert not dataclasses.replace(certificate, largest_step=2 * certificate.largest_step).verify(f)
    assert not dataclasses.replace(certificate, value=np.ones(f.shape)).verify(f)
    early = sf.minimize(f, sf.TopK(nnz=7), sf.IHT(steps=1, refit=False)).certificate
    assert not early.stable

    class Liar(sf.Quadratic):
        def gradient(self, b):
            return 0 * b

    lying = Liar(f.gram, f.cross)
    forged = dataclasses.replace(certificate, residual=0.0, largest_step=np.inf)
    assert not forged.verify(lying)


def test_the_largest_stable_step_is_where_a_step_begins_to_change_the_support():
    _, _, f = least_squares(6)
    solver = sf.IHT(variant="htp", scaling="none")
    solution = sf.minimize(f, sf.TopK(nnz=7), solver)
    certificate = solution.certificate
    for factor, same in ((0.999, True), (1.001, False)):
        moved = solution.value - factor * certificate.largest_step * f.gradient(solution.value)
        assert np.array_equal(sf.TopK(nnz=7).mask(moved), certificate.support) is same


@pytest.mark.parametrize("rule", ["bound", "power", "backtracking", "montecarlo"])
def test_rules_for_the_step(rule):
    solution = sf.minimize(IRIS, sf.TopK(nnz=6), sf.IHT(variant="plain", lipschitz=rule, steps=3000))
    certificate = solution.certificate
    assert certificate.lipschitz_bound == pytest.approx(IRIS.lipschitz())
    assert certificate.stable
    if rule == "montecarlo":
        assert certificate.lipschitz < certificate.lipschitz_bound and "lower bound" in solution.explain()
    if rule == "power":
        w = np.zeros((5, 3))
        rows, columns = (each.ravel() for each in np.indices(w.shape))
        assert certificate.lipschitz == pytest.approx(
            1.01 * np.linalg.norm(IRIS.hessian(w, rows, columns), 2), rel=1e-2
        )


def test_a_large_pursuit_is_no_worse_than_one_column_after_the_other():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((800, 200)) @ (np.eye(200) + 0.5 * rng.standard_normal((200, 200)) / 14)
    W = rng.standard_normal((200, 24))
    f = sf.Quadratic(X.T @ X, X.T @ X @ W)
    solution = sf.minimize(f, sf.TopK(nnz=60, per="column"), sf.IHT(variant="htp"))
    expected = np.stack([_pursuit(f.gram, f.cross[:, j], 60) for j in range(24)], axis=1)
    assert solution.objective <= float(f.value(expected))
    assert solution.status is sf.Status.STATIONARY and solution.certificate.verify(f)
    np.testing.assert_allclose(solution.value, on_support(f, solution.certificate.support), rtol=1e-7, atol=1e-9)


def _pursuit(G, c, k):
    w, on = np.zeros(len(c)), None
    first = np.argsort(-abs(c))[:k]
    length = c[first] @ c[first] / (c[first] @ G[np.ix_(first, first)] @ c[first])
    while True:
        chosen = np.sort(np.argsort(-abs(w + length * (c - G @ w)))[:k])
        if on is not None and np.array_equal(chosen, on):
            return w
        on, w = chosen, np.zeros(len(c))
        w[on] = np.linalg.solve(G[np.ix_(on, on)], c[on])


def test_a_stopped_pursuit_obeys_the_constraint():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 200))
    f = sf.Quadratic(X.T @ X, rng.standard_normal((200, 10)))
    solution = sf.minimize(
        f, sf.TopK(density=0.3), sf.IHT(variant="htp", report_every=1), callback=lambda progress: True
    )
    assert solution.status is sf.Status.STOPPED and np.count_nonzero(solution.value) == 600
    assert solution.value.dtype == np.float64
    np.testing.assert_allclose(solution.value, on_support(f, solution.certificate.support), atol=1e-9)


def test_a_perceptron_with_a_budget_for_all_matrices():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 5))
    f = sf.Perceptron(X, (X[:, 0] * X[:, 1] > 0).astype(int), hidden=(8,), activation="tanh", l2=1e-3)
    solution = sf.minimize(f, sf.TopK(nnz=30), sf.IHT(steps=200), seed=1)
    assert sum(np.count_nonzero(each) for each in solution.value.values()) <= 30
    assert solution.objective < f.value(f.initial(1))
    again = sf.minimize(f, sf.TopK(nnz=30), sf.IHT(steps=200), seed=1)
    assert all(np.array_equal(solution.value[name], again.value[name]) for name in f.shapes)


def test_same_call_same_bits():
    _, _, f = least_squares(0)
    first, second = (sf.minimize(f, sf.TopK(nnz=9), sf.IHT(polish="swap")).value for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("expendable", [False, True])
def test_a_problem_is_not_changed(expendable):
    _, _, f = least_squares(0)
    start = np.ones(f.shape)
    problem = MinimizeProblem(f, sf.TopK(nnz=9), get_backend(start), start, expendable=expendable)
    state = sf.IHT().init(problem)
    sf.IHT().step(problem, state)
    assert (start == 1).all()


@pytest.mark.parametrize("solver", [sf.IHT(), sf.IHT(variant="htp"), sf.IHT(variant="htp", polish="swap")], ids=repr)
def test_problems_without_curvature_somewhere(solver):
    zero = sf.minimize(sf.Quadratic(np.zeros((4, 4)), np.zeros((4, 2))), sf.TopK(nnz=3), solver)
    assert not zero.value.any() and zero.status is sf.Status.STATIONARY
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((6, 10)), rng.standard_normal((6, 3))
    X[:, 3], X[:, 4] = 0, X[:, 5]  # a dead input, and one that is there twice
    solution = sf.minimize(sf.LeastSquares(X, Y), sf.TopK(nnz=12), solver)
    assert np.isfinite(solution.value).all() and not solution.value[3].any()
    assert solution.objective < 0.05 * np.linalg.norm(Y) ** 2
    separable = sf.LogisticRegression(np.array([[-1.0], [1.0], [2.0], [-2.0]]), np.array([0, 1, 1, 0]))
    assert sf.minimize(separable, sf.TopK(nnz=2), solver).objective < 1e-6


@pytest.mark.parametrize("scale", [1e-150, 1e-20, 1e20, 1e150])
def test_the_scale_of_the_problem_does_not_matter(scale):
    _, _, f = least_squares(1)
    solver = sf.IHT(variant="htp", polish="swap")
    expected = sf.minimize(sf.Quadratic(f.gram, f.cross), sf.TopK(nnz=7), solver)
    found = sf.minimize(sf.Quadratic(f.gram * scale, f.cross * scale), sf.TopK(nnz=7), solver)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-9, atol=1e-12)
    assert found.objective == pytest.approx(expected.objective * scale)


def test_bad_input_gets_a_sentence():
    for name, value in (("variant", "best"), ("lipschitz", "guess"), ("scaling", 2), ("polish", "wax")):
        with pytest.raises(ArgumentError, match=f"{name}={value!r} is not known"):
            sf.IHT(**{name: value})
    for changes in ({"steps": 0}, {"swaps": 1.5}, {"tolerance": -1.0}, {"candidates": 0}):
        with pytest.raises(ArgumentError, match="is not allowed"):
            sf.IHT(**changes)
    with pytest.raises(BudgetError, match="nnz=16 is more than the 15 entries"):
        sf.minimize(IRIS, sf.TopK(nnz=16))
    text = sf.minimize(least_squares(0)[2], sf.Dense(), sf.IHT(polish="swap")).explain()
    assert "leaves no two entries to exchange" in text


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=15)
def test_no_exchange_is_left_in_a_logistic_regression(seed, count):
    """By brute force: the best values on every support that is one exchange away."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 4)) * rng.uniform(0.3, 3, 4)
    f = sf.LogisticRegression(X, np.r_[0, 1, 2, rng.integers(0, 3, 37)], l2=0.01, intercept=False)
    solution = sf.minimize(f, sf.TopK(nnz=count))
    kept = np.flatnonzero(solution.value)
    assert solution.explain().startswith("IHT")
    for old, new in itertools.product(kept, np.setdiff1d(np.arange(12), kept)):
        mask = solution.value != 0
        mask.flat[[old, new]] = False, True
        assert sf.minimize(f, sf.Support(mask)).objective >= solution.objective * (1 - 1e-7)


@given(st.integers(0, 2**32 - 1), st.sampled_from([-0.3, -1e-2, -1e-6, 1e-6, 1e-2, 0.3]))
@settings(max_examples=40)
def test_a_fit_gives_up_only_where_its_goal_is_out_of_reach(seed, gap):
    rng = np.random.default_rng(seed)
    f = sf.LogisticRegression(rng.standard_normal((40, 4)), rng.integers(0, 3, 40), l2=0.01, classes=3, intercept=False)
    backend = get_backend(f.X)
    objective, mask = Adapted(f, backend, f.dtype), rng.random((4, 3)) < 0.6
    mask[0, 0] = True
    start = 3 * rng.standard_normal(mask.shape) * mask
    least = fit_on(objective, mask, start, backend, where="here").value
    goal = least + gap
    found = fit_on(objective, mask, start, backend, where="here", goal=goal)
    assert (found.value < goal) == (gap > 0)
