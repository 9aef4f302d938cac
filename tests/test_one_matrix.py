"""One sparse matrix in a weighted norm: the solvers of `minimize` behind `factorize`."""

from __future__ import annotations

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, BudgetError, ShapeError
from sparsefact.minimizers.admm_systems import RightGram
from sparsefact.minimizers.refit import near_refit

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


@pytest.mark.parametrize(("count", "rank"), [(6, 4), (8, 8)])
def test_the_leading_part_of_a_gram_and_the_rest(count, rank):
    # a spectrum with a gap: the leading part is found to rounding, and the rest is half of what lies below
    vectors = np.linalg.qr(RNG.standard_normal((30, 30)))[0]
    values = np.r_[np.linspace(90, 50, rank), np.full(30 - rank, 2e-3)]
    gram = (vectors * values) @ vectors.T
    right = RightGram.leading(gram, count, 0, get_backend(gram))
    assert right.rest == pytest.approx(1e-3, rel=0.02)
    B = RNG.standard_normal((3, 30))
    model = (vectors[:, :rank] * values[:rank]) @ vectors[:, :rank].T
    np.testing.assert_allclose(right.product(B), B @ model, atol=2e-2)


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_a_near_refit_is_exact_where_supports_are_small(density):
    inputs = RNG.standard_normal((900, 60))
    f = sf.Quadratic(inputs.T @ inputs, inputs.T @ RNG.standard_normal((900, 8)))
    mask = sf.TopK(density=density).mask(RNG.standard_normal(f.shape))
    value, exact = near_refit(f, mask, np.zeros(f.shape), get_backend(f.cross), kept=int(mask.sum()), iterations=15)
    assert exact == (density == 0.1)
    sizes = np.sqrt(f.gram.diagonal())
    for j in np.flatnonzero(mask.any(axis=0)):
        on = mask[:, j]
        best = np.linalg.solve(f.gram[np.ix_(on, on)], f.cross[on, j])
        # conjugate gradients end at 1e-6 of the first residual, in the scale of the diagonal; the error is at most as
        # many times larger as the condition number of the scaled system says
        condition = np.linalg.cond(f.gram[np.ix_(on, on)] / np.outer(sizes[on], sizes[on]))
        far = np.linalg.norm(sizes[on] * (value[on, j] - best)) / np.linalg.norm(sizes[on] * best)
        assert far <= (1e-12 if exact else 1e-6) * condition
    assert not value[~mask].any()


@pytest.mark.parametrize("shape", [(10, 48), (48, 10)])
@pytest.mark.parametrize("with_gram", [False, True])
def test_much_longer_sides_on_the_emulated_gpu(monkeypatch, shape, with_gram):
    matrix, inputs = RNG.standard_normal(shape), RNG.standard_normal((2 * shape[1], shape[1]))
    gram = inputs.T @ inputs if with_gram else None
    constraint = sf.double_sparse(shape, 0.4)
    expected = sf.factorize(matrix, constraint, gram=gram)
    assert expected.nnz <= constraint.budget
    install(monkeypatch)
    found = sf.factorize(cp.asarray(matrix), constraint, gram=None if gram is None else cp.asarray(gram))
    assert found.error == pytest.approx(expected.error, rel=0.02)
