"""One sparse matrix in a weighted norm: the solvers of `minimize` behind `factorize`."""

from __future__ import annotations

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install

import sparsefact as sf
from sparsefact.errors import ArgumentError, BudgetError, ShapeError

RNG = np.random.default_rng(0)
A = RNG.standard_normal((16, 24))
INPUTS = RNG.standard_normal((60, 24)) @ RNG.standard_normal((24, 24))
GRAM = INPUTS.T @ INPUTS
SOLVERS = [
    sf.ADMM(),
    sf.IHT(),
    sf.IHT(variant="htp", polish="swap"),
    sf.MatchingPursuit(),
    sf.SequentialAttention(iterations=200),
    sf.DeepWeightFactorization(penalty=1.0, steps=200),
]
BLOCKS = sf.BlockTopK((4, 6), density=0.5)


def loss(P, matrix=A, gram=GRAM):
    E = matrix - P
    return np.sqrt((np.trace(E @ gram @ E.conj().T) / np.trace(matrix @ gram @ matrix.conj().T)).real)


# exchanges are of single entries, so they do not go with blocks
CASES = [
    (solver, constraint)
    for solver in SOLVERS
    for constraint in (BLOCKS, sf.TopK(density=0.4), sf.TopK(nnz=6, per="row"))
    if constraint is not BLOCKS or getattr(solver, "polish", None) is None
]


@pytest.mark.parametrize(("solver", "constraint"), CASES, ids=repr)
def test_every_solver_by_its_gram(solver, constraint):
    F = sf.factorize(A, (constraint,), solver, gram=GRAM)
    (W,) = F.factors
    assert F.shape == A.shape and constraint.contains(W) and W.nnz <= constraint.count(A.shape)
    assert F.error == pytest.approx(loss(W.toarray()), rel=1e-9)
    # magnitudes know nothing of the gram; a penalty that is projected may be worse than them
    if not isinstance(solver, sf.DeepWeightFactorization):
        assert F.error < loss(constraint.project(A))


def test_a_complex_matrix_and_its_exact_support():
    matrix = A + 1j * RNG.standard_normal(A.shape)
    inputs = INPUTS + 1j * RNG.standard_normal(INPUTS.shape)
    gram = inputs.conj().T @ inputs
    F = sf.factorize(matrix, BLOCKS, sf.MatchingPursuit(), gram=gram)
    W = F.factors[0].toarray()
    assert F.error == pytest.approx(loss(W, matrix, gram), rel=1e-9)
    # the gradient (W - A) G vanishes where W may move
    assert np.abs(((W - matrix) @ gram)[W != 0]).max() < 1e-9 * np.abs(matrix @ gram).max()
    assert F.certificate.swap_stable and "MatchingPursuit chose" in F.explain()


def test_without_a_gram_it_is_the_projection():
    F = sf.factorize(A, BLOCKS)
    np.testing.assert_array_equal(F.factors[0].toarray(), BLOCKS.project(A))
    assert F.status is sf.Status.OPTIMAL and "the projection" in F.explain() and "one factor" in F.explain()


def test_it_saves_and_loads(tmp_path):
    F = sf.factorize(A, BLOCKS, gram=GRAM)
    F.save(tmp_path / "one.safetensors")
    G = sf.load(tmp_path / "one.safetensors")
    np.testing.assert_array_equal(G.todense(), F.todense())
    np.testing.assert_allclose(F @ np.ones(24), F.factors[0].toarray().sum(axis=1))


def test_on_the_emulated_gpu(monkeypatch):
    install(monkeypatch)
    for solver in (sf.ADMM(), sf.MatchingPursuit()):
        expected = sf.factorize(A, BLOCKS, solver, gram=GRAM)
        found = sf.factorize(cp.asarray(A), BLOCKS, solver, gram=cp.asarray(GRAM))
        assert found.error == pytest.approx(expected.error, rel=1e-9)
    assert sf.factorize(cp.asarray(A), BLOCKS).nnz == BLOCKS.count(A.shape)


def test_bad_input_gets_a_sentence():
    with pytest.raises(ArgumentError, match=r"use it inside, as sparsefact\.Alternating\(inner=...\)"):
        sf.factorize(A, (sf.Dense(), BLOCKS), sf.SequentialAttention())
    with pytest.raises(ArgumentError, match=r"there is one factor; use sparsefact\.ADMM\(\)"):
        sf.factorize(A, BLOCKS, sf.PALM())
    with pytest.raises(ArgumentError, match="constraints is empty"):
        sf.factorize(A, ())
    with pytest.raises(ShapeError, match="not a whole number of blocks"):
        sf.factorize(A, sf.BlockTopK((16, 16), density=0.5), gram=GRAM)
    with pytest.raises(BudgetError, match="more than the 16 blocks"):
        sf.factorize(A, sf.BlockTopK((4, 6), count=17), gram=GRAM)
