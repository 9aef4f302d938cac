"""The solvers of blocks on the emulated GPU: nothing slips to the host, the CPU's results, and few waits per step."""

from __future__ import annotations

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install

import sparsefact as sf

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 16)), RNG.standard_normal((60, 12))
LABELS = (X[:, 2] * X[:, 3] > 0).astype(int)
TRAINERS = [sf.SequentialAttention(iterations=40), sf.ACDC(iterations=40), sf.Powerpropagation(iterations=40)]


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    return install(monkeypatch)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize(
    "constraint", [sf.BlockTopK((4, 4), count=5), sf.TopK(nnz=30), sf.TopK(nnz=4, per="column")], ids=repr
)
@pytest.mark.parametrize(
    "solver", [sf.MatchingPursuit(), sf.MatchingPursuit(replacement=False), *TRAINERS], ids=lambda s: type(s).__name__
)
def test_a_quadratic(solver, constraint, dtype):
    gram, cross = (X.T @ X).astype(dtype), (X.T @ Y).astype(dtype)
    expected = sf.minimize(sf.Quadratic(gram, cross), constraint, solver)
    found = sf.minimize(sf.Quadratic(cp.asarray(gram), cp.asarray(cross)), constraint, solver)
    assert type(found.value) is cp.ndarray
    assert found.status is expected.status
    assert found.objective == pytest.approx(expected.objective, rel=1e-4 if dtype == "float32" else 1e-9)


def test_pursuit_between_two_grams_and_of_another_objective():
    right = np.cov(Y.T) + np.eye(12)
    arrays = X.T @ X, X.T @ Y @ right, right
    constraint = sf.BlockTopK((4, 4), count=5)
    expected = sf.minimize(sf.Quadratic(*arrays), constraint, sf.MatchingPursuit())
    found = sf.minimize(sf.Quadratic(*map(cp.asarray, arrays)), constraint, sf.MatchingPursuit())
    assert found.objective == pytest.approx(expected.objective, rel=1e-9)
    f = sf.LogisticRegression(X, LABELS, l2=0.1, intercept=False)
    expected = sf.minimize(f, sf.BlockTopK((2, 2), count=2), sf.MatchingPursuit())
    found = sf.minimize(f, sf.BlockTopK((2, 2), count=2), sf.MatchingPursuit(), device="cuda")
    assert type(found.value) is np.ndarray
    np.testing.assert_allclose(found.value, expected.value, atol=1e-6)


@pytest.mark.parametrize("solver", TRAINERS, ids=lambda s: type(s).__name__)
def test_a_network(solver):
    f = sf.Perceptron(X, LABELS, hidden=(8,))
    constraint = {"weight1": sf.BlockTopK((2, 4), count=3)}
    expected = sf.minimize(f, constraint, solver)
    found = sf.minimize(f, constraint, solver, device="cuda")
    for name, value in expected.value.items():
        np.testing.assert_allclose(found.value[name], value, atol=1e-8)


def test_waits():
    """None for a step of training without batches; a few for a step of pursuit."""
    f = sf.Quadratic(cp.asarray(X.T @ X), cp.asarray(X.T @ Y))

    def waits(solver, count=20):
        cp.reset()
        sf.minimize(f, sf.BlockTopK((2, 2), count=count), solver)
        return cp.syncs

    for kind in (sf.SequentialAttention, sf.ACDC, sf.Powerpropagation):
        assert waits(kind(iterations=90)) == waits(kind(iterations=50))
    greedy = sf.MatchingPursuit(replacement=False, report_every=1000)
    assert waits(greedy, 30) - waits(greedy, 20) == 10 * 2
