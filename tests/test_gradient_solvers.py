"""Gradient descent, conjugate gradients, and every minimizer as the inner solver of an alternating one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.errors import ArgumentError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 12))
TRUTH = sf.TopK(nnz=15).project(RNG.standard_normal((12, 4)))
EXACT = sf.Quadratic(X.T @ X, X.T @ X @ TRUTH, constant=0.5 * np.linalg.norm(X @ TRUTH) ** 2)
RULES = ["sgd", "adam", "rmsprop"]


@pytest.mark.parametrize("rule", RULES)
def test_a_sparse_truth_is_found(rule):
    solver = sf.Gradient(rule=rule, refit=True)
    solution = sf.minimize(EXACT, sf.TopK(nnz=15), solver)
    np.testing.assert_allclose(solution.value, TRUTH, atol=1e-8)
    assert rule in solution.explain()


def test_steps_of_each_rule_are_the_published_ones():
    f = sf.Quadratic(EXACT.gram, EXACT.cross)
    # on a fixed support: entries that adam moves from zero all move by the same, and rounding would break the ties
    start, constraint = RNG.standard_normal((12, 4)), sf.Support(sf.TopK(nnz=20).mask(RNG.standard_normal((12, 4))))
    length = 1 / np.linalg.eigvalsh(f.gram)[-1]
    for rule in RULES:
        solver = sf.Gradient(rule=rule, learning_rate=0.3, steps=5, momentum=0.5, scaling="none", betas=(0.8, 0.95))
        w = constraint.project(start)
        unit = length if rule == "sgd" else np.sqrt((w**2).sum() / 20)
        m, v = np.zeros(w.shape), np.zeros(w.shape)
        for t in range(1, 6):
            g = f.gradient(w)
            if rule == "sgd":
                m = 0.5 * m + g
                move = m
            else:
                v = 0.95 * v + 0.05 * g**2
                m = 0.8 * m + 0.2 * g
                move = (m / (1 - 0.8**t) if rule == "adam" else g) / np.sqrt(v / (1 - 0.95**t))
            w = constraint.project(w - 0.3 * unit * move)
        np.testing.assert_allclose(sf.minimize(f, constraint, solver, init=start).value, w, rtol=1e-9, atol=1e-12)


def test_batches_come_from_the_seed_and_train_a_network():
    labels = (X[:, 0] > 0).astype(int)
    f = sf.Perceptron(X, labels, hidden=(16,))
    solver = sf.Gradient(rule="adam", batch=20, steps=300, schedule="cosine", learning_rate=0.05)
    constraint = {"weight1": sf.TopK(density=0.2)}
    first, again, other = (sf.minimize(f, constraint, solver, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first.value[name], again.value[name]) for name in f.shapes)
    assert not np.array_equal(first.value["weight1"], other.value["weight1"])
    assert np.count_nonzero(first.value["weight1"]) <= 0.2 * 12 * 16
    assert (f.predict(first.value) == labels).mean() > 0.95


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from("rc"))
@settings(max_examples=25)
def test_conjugate_gradients_solve_a_fixed_support(seed, two_sided, kind):
    rng = np.random.default_rng(seed)
    F, H, C = (rng.standard_normal(s) + (kind == "c") * 1j * rng.standard_normal(s) for s in ((20, 7), (12, 5), (7, 5)))
    if kind == "r":
        F, H, C = F.real, H.real, C.real
    f = sf.Quadratic(F.conj().T @ F, C, H.conj().T @ H if two_sided else None)
    mask = rng.random((7, 5)) < 0.5
    mask[0, 0] = True
    solution = sf.minimize(f, sf.Support(mask), sf.ConjugateGradient())
    right = np.eye(5) if f.right_gram is None else f.right_gram
    system = np.kron(f.gram, right.T)[np.ix_(mask.ravel(), mask.ravel())]
    np.testing.assert_allclose(solution.value[mask], np.linalg.solve(system, C[mask]), rtol=1e-6, atol=1e-9)
    assert not solution.value[~mask].any() and solution.status is sf.Status.STATIONARY
    assert solution.certificate.stable and solution.certificate.verify(f)


def test_conjugate_gradients_do_not_leave_their_limit_unsaid():
    rng = np.random.default_rng(1)
    F = rng.standard_normal((200, 100)) * np.geomspace(1, 1e-3, 100)
    F = F @ np.linalg.qr(rng.standard_normal((100, 100)))[0]
    f = sf.Quadratic(F.T @ F, rng.standard_normal((100, 3)))
    solution = sf.minimize(f, sf.Dense(), sf.ConjugateGradient(steps=5))
    assert solution.status is sf.Status.LIMIT and not solution.certificate.stable


INNER = [
    sf.IHT(),
    sf.IHT(variant="htp"),
    sf.Gradient(rule="sgd"),
    sf.Gradient(rule="adam"),
    sf.Gradient(rule="rmsprop"),
    sf.DeepWeightFactorization(penalty=1e-3),
    sf.ProximalGradient(penalty=1e-3, steps=20),
]


@pytest.mark.parametrize(
    "inner", INNER, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'variant', getattr(s, 'rule', ''))}"
)
@pytest.mark.parametrize("weighted", [False, True])
def test_inner_solvers_of_a_double_sparse_factorization(inner, weighted):
    rng = np.random.default_rng(2)
    A = rng.standard_normal((20, 30))
    samples = rng.standard_normal((60, 30))
    constraint = sf.double_sparse(A.shape, 0.5)
    gram = samples.T @ samples if weighted else None
    F = sf.factorize(A, constraint, sf.Alternating(inner=inner, outer=15), gram=gram)
    assert F.nnz <= constraint.budget and np.isfinite(F.error)
    # no worse than the simple products, and than one sparse matrix of this budget
    kept = sf.TopK(nnz=constraint.budget - 20).project(A)
    if not weighted:
        assert F.error <= np.linalg.norm(A - kept) / np.linalg.norm(A) + 1e-9
        assert F.error < 0.45


def test_the_split_moves_with_an_inner_solver_that_shows_its_entries():
    rng = np.random.default_rng(3)
    A = rng.standard_normal((16, 40))
    constraint = sf.double_sparse(A.shape, 0.4)
    F = sf.factorize(A, constraint, sf.Alternating(inner=sf.IHT(), outer=20))
    even = round(constraint.budget * 16 * 16 / (16 * 16 + 16 * 40))
    assert F.factors[0].nnz != even and "by marginal gain" in F.explain()


def test_conjugate_gradients_in_an_alternating_run_on_fixed_supports():
    rng = np.random.default_rng(4)
    A = rng.standard_normal((10, 14))
    supports = sf.Support(rng.random((10, 6)) < 0.7), sf.Support(rng.random((6, 14)) < 0.7)
    inner = sf.Alternating(inner=sf.ConjugateGradient(steps=30), outer=40)
    start = rng.standard_normal((10, 6)), rng.standard_normal((6, 14))
    found = sf.factorize(A, supports, inner, init=start)
    expected = sf.factorize(A, supports, sf.AlternatingLeastSquares())
    assert found.error <= expected.error * 1.1


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(
    "solver",
    [
        sf.Gradient(),
        sf.IHT(variant="plain"),
        sf.IHT(),
        sf.IHT(variant="accelerated"),
        sf.ConjugateGradient(),
        sf.ProximalGradient(penalty=1.0),
        sf.DeepWeightFactorization(penalty=1.0),
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'variant', '')}",
)
def test_every_solver_ends_by_itself_in_either_precision(solver, kind):
    f = sf.Quadratic(EXACT.gram.astype(kind), EXACT.cross.astype(kind))
    solution = sf.minimize(f, sf.Support(TRUTH != 0), solver)
    assert solution.status is sf.Status.STATIONARY and solution.value.dtype == kind
    assert not solution.value[TRUTH == 0].any()
    if not hasattr(solver, "penalty"):
        np.testing.assert_allclose(solution.value, TRUTH, atol=1e-8 if kind == "float64" else 1e-3)


def test_bad_input_gets_a_sentence():
    with pytest.raises(ArgumentError, match="rule='newton' is not known"):
        sf.Gradient(rule="newton")
    for changes in ({"learning_rate": 0}, {"learning_rate": np.inf}, {"steps": 0}, {"batch": 0}):
        with pytest.raises(ArgumentError, match=f"{next(iter(changes))}=.* is not allowed"):
            sf.Gradient(**changes)
    with pytest.raises(ArgumentError, match=r"momentum=1\.0 is outside"):
        sf.Gradient(momentum=1.0)
    with pytest.raises(ArgumentError, match=r"betas\[1\]=2 is outside"):
        sf.Gradient(betas=(0.9, 2))
    with pytest.raises(ArgumentError, match="batch=4 was asked for"):
        sf.minimize(EXACT, sf.Dense(), sf.Gradient(batch=4))
    with pytest.raises(ArgumentError, match="ConjugateGradient keeps a fixed support"):
        sf.minimize(EXACT, sf.TopK(nnz=3), sf.ConjugateGradient())
    with pytest.raises(ArgumentError, match="ConjugateGradient minimises quadratics only"):
        sf.minimize(sf.LogisticRegression(X, (X[:, 0] > 0).astype(int)), sf.Dense(), sf.ConjugateGradient())
