"""Every minimizer and objective on the emulated GPU: nothing slips to the host, the CPU's results, few waits."""

from __future__ import annotations

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install

import sparsefact as sf

RNG = np.random.default_rng(0)
X, TRUTH = RNG.standard_normal((60, 20)), RNG.standard_normal((20, 12))
GRAM, CROSS = X.T @ X, X.T @ X @ TRUTH
LABELS = RNG.integers(0, 3, 60)
SUPPORT = sf.Support(RNG.random((20, 12)) < 0.4)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    return install(monkeypatch)


def both(make, constraint, solver, **kwargs):
    """Minimise on the CPU and on the emulated GPU; the values agree, and the second one's is a device array."""
    expected = sf.minimize(make(np.asarray), constraint, solver, **kwargs)
    cp.reset()
    found = sf.minimize(make(cp.asarray), constraint, solver, **kwargs)
    host, device = (
        [each] if not isinstance(each, dict) else list(each.values()) for each in (expected.value, found.value)
    )
    for a, b in zip(host, device, strict=True):
        assert type(b) is cp.ndarray
        np.testing.assert_allclose(b.get(), a, rtol=1e-5, atol=1e-7)
    assert found.objective == pytest.approx(expected.objective, rel=1e-8, abs=1e-9)
    assert found.status is expected.status
    return found


def quadratic(put, two_sided=False):
    return sf.Quadratic(put(GRAM), put(CROSS), put(TRUTH.T @ TRUTH + np.eye(12)) if two_sided else None)


SOLVERS = [
    sf.IHT(),
    sf.IHT(variant="plain", steps=50),
    sf.IHT(variant="accelerated", lipschitz="power", steps=50),
    sf.IHT(variant="htp"),
    sf.IHT(variant="plain", lipschitz="montecarlo", steps=50),
    sf.Gradient(rule="sgd", steps=50),
    sf.Gradient(rule="adam", steps=20),
    sf.Gradient(rule="rmsprop", steps=20, schedule="cosine"),
    sf.ProximalGradient(penalty=1.0, steps=50, blocks=(4, 3)),
    sf.ProximalGradient(penalty=1.0, depth=3, steps=50),
    sf.DeepWeightFactorization(penalty=1.0, steps=50, blocks=(4, 3)),
    sf.DeepWeightFactorization(penalty=1.0, depth=4, steps=50, refit=True),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_solvers_of_a_quadratic(solver):
    both(quadratic, sf.TopK(density=0.3), solver)


@pytest.mark.parametrize("constraint", [sf.NOfM(2, 4), sf.BlockTopK((4, 3), count=7), SUPPORT, sf.Dense()], ids=repr)
@pytest.mark.parametrize("variant", ["normalized", "htp"])
def test_constraints(constraint, variant):
    both(quadratic, constraint, sf.IHT(variant=variant))


def test_between_two_grams():
    for solver in (sf.IHT(), sf.IHT(variant="htp", steps=10), sf.DeepWeightFactorization(penalty=1.0, steps=30)):
        both(lambda put: quadratic(put, True), sf.TopK(density=0.3), solver)
    for two_sided in (False, True):
        both(lambda put, t=two_sided: quadratic(put, t), SUPPORT, sf.ConjugateGradient())


@pytest.mark.parametrize("per", ["matrix", "column"])
def test_exchanges(per):
    found = both(quadratic, sf.TopK(density=0.3, per=per), sf.IHT(variant="plain", steps=3, polish="swap"))
    assert type(found.certificate.value) is cp.ndarray and found.certificate.stable
    assert found.certificate.verify(quadratic(cp.asarray))


def test_a_large_pursuit_is_loose_first():
    inputs = np.random.default_rng(1).standard_normal((300, 200))
    cross = inputs.T @ inputs @ np.random.default_rng(2).standard_normal((200, 6))
    both(lambda put: sf.Quadratic(put(inputs.T @ inputs), put(cross)), sf.TopK(density=0.3), sf.IHT(variant="htp"))


OBJECTIVES = {
    "least squares": lambda put: sf.LeastSquares(put(X), put(X @ TRUTH), chunk=25),
    "wide": lambda put: sf.LeastSquares(put(np.tile(X, 60)[:5]), put(TRUTH[:5])),
    "logistic": lambda put: sf.LogisticRegression(put(X), put(LABELS), l2=0.1),
    "perceptron": lambda put: sf.Perceptron(put(X), put(LABELS), hidden=(6,), activation="tanh", l2=0.01),
    "squared": lambda put: sf.Perceptron(put(X), put(X @ TRUTH), hidden=(6,), loss="squared"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    "solver",
    [
        sf.IHT(steps=8),
        sf.IHT(variant="htp", steps=2),
        sf.Gradient(rule="adam", steps=6),
        sf.DeepWeightFactorization(penalty=1e-2, steps=8, depth=3),
    ],
    ids=lambda s: f"{type(s).__name__}",
)
def test_objectives(name, solver):
    both(OBJECTIVES[name], sf.TopK(nnz=30), solver)


def test_named_matrices_and_batches():
    constraint = {"weight1": sf.TopK(density=0.3), "weight2": sf.NOfM(1, 3)}
    both(OBJECTIVES["perceptron"], constraint, sf.Gradient(rule="adam", steps=10, batch=16))
    found = sf.minimize(OBJECTIVES["perceptron"](np.asarray), constraint, sf.IHT(steps=3), device="cuda")
    assert all(type(each) is np.ndarray for each in found.value.values())


def test_exchanges_of_a_logistic_regression():
    both(OBJECTIVES["logistic"], sf.TopK(nnz=5), sf.IHT(variant="htp", polish="swap", candidates=10, swaps=5))


@pytest.mark.parametrize("inner", [sf.IHT(), sf.Gradient(), sf.DeepWeightFactorization(half_steps=5)], ids=repr)
def test_inner_solvers(inner):
    A = np.random.default_rng(3).standard_normal((16, 24))
    solver = sf.Alternating(inner=inner, outer=3)
    expected = sf.factorize(A, sf.double_sparse(A.shape, 0.5), solver)
    found = sf.factorize(A, sf.double_sparse(A.shape, 0.5), solver, device="cuda")
    assert found.error == pytest.approx(expected.error, rel=1e-4)


def waits_of(solver, objective, constraint, first, second):
    """How often the host waits in a step, from two runs of different lengths."""
    counts = []
    for steps in (first, second):
        cp.reset()
        sf.minimize(objective, constraint, solver(steps))
        counts.append(cp.syncs)
    return (counts[1] - counts[0]) / (second - first)


def test_waits_per_step():
    f = quadratic(cp.asarray)
    hard = sf.TopK(density=0.3)
    assert waits_of(lambda n: sf.ConjugateGradient(steps=n, report_every=100, tolerance=0), f, SUPPORT, 10, 20) == 0
    assert waits_of(lambda n: sf.Gradient(rule="adam", steps=n, report_every=100), f, hard, 10, 20) == 1
    plain = waits_of(lambda n: sf.IHT(variant="plain", steps=n, tolerance=0, report_every=100), f, hard, 5, 10)
    assert plain <= 2
    normalized = waits_of(lambda n: sf.IHT(steps=n, tolerance=0, report_every=100), f, hard, 5, 10)
    assert normalized <= 4  # two, and one for each trial that was too long
