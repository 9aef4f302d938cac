"""Sums of a sparse matrix and one of low rank: the constraint, the solver, the product they are stored as."""

from __future__ import annotations

import itertools
import pickle

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import draw

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, BudgetError, DtypeError, NonFiniteError, ShapeError
from sparsefact.factorizers.alternating_sum import _ladder, _next_place
from sparsefact.factorizers.sum_terms import Projected, SumLoss, Terms, polished, turned

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def drawn_gram(rng, n, dtype=np.float64):
    inputs = draw(rng, (4 * n, n), dtype) @ draw(rng, (n, n), dtype)
    return inputs.conj().T @ inputs


def planted(rng, m, n, nnz, rank, dtype=np.float64):
    """A sum, and the density that is just enough for it."""
    sparse = sf.TopK(nnz=nnz).project(3 * draw(rng, (m, n), dtype))
    low = draw(rng, (m, rank), dtype) @ draw(rng, (rank, n), dtype)
    stored = nnz + rank * (m + n) + min(m, n)
    return sparse + low, (stored + 0.5) / (m * n)


def squared(residual, gram=None):
    weighted = residual if gram is None else residual @ gram
    return float(np.vdot(residual, weighted).real)


def weighted_tail(matrix, gram, rank):
    """The relative error of the best matrix of a rank, by a singular value decomposition in whitened variables."""
    values, vectors = np.linalg.eigh(gram)
    singular = np.linalg.svd(matrix @ (vectors * np.sqrt(np.maximum(values, 0))), compute_uv=False)
    return np.sqrt((singular[rank:] ** 2).sum() / (singular**2).sum())


def parts(F, m, n):
    """S and U V of a stored sum of two factors, and the identity beside S."""
    left, right = (factor.toarray() for factor in F.factors)
    short = min(m, n)
    if m <= n:
        return left[:, :short], right[:short], left[:, short:] @ right[short:]
    return right[:short], left[:, :short], left[:, short:] @ right[short:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_a_planted_sum_is_recovered(shape, dtype):
    rng = np.random.default_rng(1)
    A, density = planted(rng, *shape, 150, 2, dtype)
    before = A.copy()
    F = sf.factorize(A, sf.sparse_plus_low_rank(shape, density, rank=2))
    assert F.error < 200 * np.finfo(dtype).eps and F.dtype == dtype and F.status.success
    np.testing.assert_array_equal(A, before)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_planted_sum_is_recovered_under_a_gram(dtype):
    rng = np.random.default_rng(2)
    A, density = planted(rng, 40, 30, 100, 2, dtype)
    F = sf.factorize(A, sf.sparse_plus_low_rank(A.shape, density, rank=2), gram=drawn_gram(rng, 30, dtype))
    assert F.error < 1e-4


def test_the_rank_of_a_planted_sum_is_found():
    rng = np.random.default_rng(3)
    A, density = planted(rng, 60, 80, 400, 4)
    E = sf.sparse_plus_low_rank(A.shape, density)
    F = sf.factorize(A, E)
    assert F.error < 1e-10
    assert np.linalg.matrix_rank(parts(F, *A.shape)[2], tol=1e-8) <= E.largest_rank


@pytest.mark.parametrize("weighted", [False, True])
def test_rank_zero_is_one_sparse_matrix(weighted):
    rng = np.random.default_rng(4)
    A, gram = draw(rng, (30, 24)), drawn_gram(rng, 24) if weighted else None
    E = sf.sparse_plus_low_rank(A.shape, 0.3, rank=0)
    F = sf.factorize(A, E, gram=gram)
    alone = sf.factorize(A, sf.TopK(nnz=E.budget), gram=gram)
    assert len(F.factors) == 1 and F.nnz == E.budget
    np.testing.assert_allclose(F.todense(), alone.todense(), atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_budget_for_the_rank_alone_is_the_truncated_svd(weighted):
    rng = np.random.default_rng(5)
    A = draw(rng, (20, 30))
    gram = drawn_gram(rng, 30) if weighted else np.eye(30)
    E = sf.sparse_plus_low_rank(A.shape, 4.1 * 50 / 600, rank=4)
    assert E.sparse_nnz(4) == 0
    F = sf.factorize(A, E, gram=gram if weighted else None)
    assert F.error == pytest.approx(weighted_tail(A, gram, 4), rel=1e-8)
    assert F.nnz == 200


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(2, 9), st.integers(2, 9), st.floats(0.2, 1), st.booleans())
def test_never_worse_than_either_term_alone(seed, m, n, density, weighted):
    rng = np.random.default_rng(seed)
    if int(density * m * n) < 1:
        return
    A = draw(rng, (m, n)) + 2 * np.outer(draw(rng, (m,)), draw(rng, (n,)))
    gram = drawn_gram(rng, n) if weighted else np.eye(n)
    E = sf.sparse_plus_low_rank((m, n), density)
    F = sf.factorize(A, E, sf.AlternatingSum(steps=20), gram=gram if weighted else None)
    assert F.nnz <= E.budget
    alone = sf.factorize(A, sf.TopK(nnz=E.budget), gram=gram if weighted else None).error
    assert F.error <= min(alone, weighted_tail(A, gram, E.largest_rank)) * (1 + 1e-7) + 1e-7


def best_sum(A, nnz):
    """The smallest loss of nnz entries plus rank one: every support, and rank one fitted off it from many starts."""
    m, n = A.shape
    rng, lowest = np.random.default_rng(0), np.inf
    for support in itertools.combinations(range(m * n), nnz):
        off = np.ones(m * n, dtype=bool)
        off[list(support)] = False
        off = off.reshape(m, n)
        v = np.concatenate([np.linalg.svd(A)[2][:1], rng.standard_normal((5, n))])
        for _ in range(60):  # least squares for both vectors in turn, all starts at once
            u = ((off * A) @ v.T) / np.maximum(off @ (v * v).T, 1e-12)
            v = (((off * A).T @ u) / np.maximum(off.T @ (u * u), 1e-12)).T
        missed = (off * (A[None] - u.T[:, :, None] * v[:, None, :])).reshape(len(v), -1)
        lowest = min(lowest, (missed**2).sum(axis=1).min())
    return lowest


@pytest.mark.parametrize("seed", range(3))
def test_against_all_supports(seed):
    rng = np.random.default_rng(seed)
    E = sf.sparse_plus_low_rank((4, 5), 15 / 20, rank=1)
    assert E.sparse_nnz(1) == 2
    A = draw(rng, (4, 5))
    found = squared(A - sf.factorize(A, E).todense())
    assert found >= best_sum(A, 2) * (1 - 1e-4)
    # two large entries, of no common row or column, are told from a matrix of rank one and some noise
    near = np.outer(rng.uniform(1, 2, 4), rng.uniform(1, 2, 5)) + 0.05 * A
    near[rng.choice(4, 2, replace=False), rng.choice(5, 2, replace=False)] += 8
    found = squared(near - sf.factorize(near, E).todense())
    assert found == pytest.approx(best_sum(near, 2), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.sampled_from([np.float64, np.complex128]))
def test_a_subspace_step_never_raises_the_loss(seed, dtype):
    rng = np.random.default_rng(seed)
    rest, gram, rows = draw(rng, (6, 8), dtype), drawn_gram(rng, 8, dtype), draw(rng, (2, 8), dtype)
    basis = np.linalg.qr(draw(rng, (6, 2), dtype))[0]
    rows = basis.conj().T @ rest
    before = squared(rest - basis @ rows, gram)
    fresh, fitted = turned(rest, rest @ (gram @ rows.conj().T), np)
    np.testing.assert_allclose(fresh.conj().T @ fresh, np.eye(2), atol=1e-12)
    assert squared(rest - fresh @ fitted, gram) <= before * (1 + 1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.booleans(), st.sampled_from([np.float64, np.complex128]))
def test_the_polish_never_raises_the_loss(seed, weighted, dtype):
    rng = np.random.default_rng(seed)
    A, gram = draw(rng, (8, 7), dtype), drawn_gram(rng, 7, dtype) if weighted else None
    loss = SumLoss(A, gram, get_backend(A))
    sparse, basis = sf.TopK(nnz=12).project(A), np.linalg.qr(draw(rng, (8, 2), dtype))[0]
    rows = basis.conj().T @ (A - sparse)
    start = Terms(sparse, basis, rows, squared(A - sparse - basis @ rows, gram))
    terms, _, _ = polished(start, loss, 12, 3, 2)
    assert terms.loss <= start.loss
    assert terms.loss == pytest.approx(squared(A - terms.sparse - terms.basis @ terms.rows, gram), rel=1e-9)
    assert np.count_nonzero(terms.sparse) <= 12


def test_extrapolation_is_faster_than_plain_turns():
    rng = np.random.default_rng(6)
    A = draw(rng, (60, 80)) @ np.diag(np.arange(1, 81) ** -0.3)
    loss = SumLoss(A, None, get_backend(A))
    basis = loss.leading(A, 8)
    run = Projected(loss, basis, 8, 1500, 24)
    while not run.done:
        run.advance()
    low = basis @ (basis.T @ A)
    for _ in range(24):
        sparse = sf.TopK(nnz=1500).project(A - low)
        low = sf.LowRank(8).project(A - sparse)
    assert run.loss() < squared(A - low - sf.TopK(nnz=1500).project(A - low))


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
def test_the_product_is_the_sum(shape, tmp_path):
    m, n = shape
    rng = np.random.default_rng(7)
    A = draw(rng, shape) + 3 * draw(rng, (m, 2)) @ draw(rng, (2, n))
    E = sf.sparse_plus_low_rank(shape, 0.6, rank=2)
    F = sf.factorize(A, E)
    eye, sparse, low = parts(F, m, n)
    np.testing.assert_array_equal(eye, np.eye(min(m, n)))
    assert np.count_nonzero(sparse) + 2 * (m + n) + min(m, n) == F.nnz <= E.budget
    assert E.contains((sparse, low))
    np.testing.assert_allclose(F.todense(), sparse + low, atol=1e-12)
    x = draw(rng, (n, 3))
    np.testing.assert_allclose(F @ x, (sparse + low) @ x, atol=1e-12)
    np.testing.assert_allclose(F.T @ (A @ x), (sparse + low).T @ (A @ x), atol=1e-11)
    assert F.error == pytest.approx(np.linalg.norm(A - sparse - low) / np.linalg.norm(A))
    F.save(tmp_path / "sum.safetensors")
    loaded = sf.load(tmp_path / "sum.safetensors")
    np.testing.assert_array_equal(loaded.todense(), F.todense())
    assert loaded.nnz == F.nnz


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_any_scale_and_the_same_bits(scale):
    A = (draw(np.random.default_rng(8), (16, 20)) * scale).astype(np.float32)
    E, solver = sf.sparse_plus_low_rank(A.shape, 0.5), sf.AlternatingSum(steps=24)
    F, again = (sf.factorize(A, E, solver) for _ in range(2))
    assert F.error < 0.45
    np.testing.assert_array_equal(F.todense(), again.todense())


@pytest.mark.parametrize("A", [np.zeros((6, 8)), np.ones((6, 8)), np.eye(6, 8)], ids=["zero", "ones", "eye"])
@pytest.mark.parametrize("gram", [None, np.diag([1.0, 2, 3, 4, 5, 6, 7, 0])], ids=["plain", "weighted"])
def test_simple_matrices_come_out_exactly(A, gram):
    F = sf.factorize(A, sf.sparse_plus_low_rank(A.shape, 0.5), gram=gram)
    assert F.error < 1e-7


def test_stopping_early_keeps_the_budget():
    rng = np.random.default_rng(9)
    A, gram = draw(rng, (20, 24)), drawn_gram(rng, 24)
    E = sf.sparse_plus_low_rank(A.shape, 0.5)
    for weight in (None, gram):
        F = sf.factorize(A, E, gram=weight, callback=lambda progress: True)
        assert F.status is sf.Status.STOPPED and F.nnz <= E.budget and F.error < 1
        F = sf.factorize(A, E, gram=weight, time_limit=1e-9)
        assert F.status is sf.Status.LIMIT and F.nnz <= E.budget and F.error < 1


def test_it_says_what_it_did():
    rng = np.random.default_rng(10)
    A, density = planted(rng, 30, 40, 100, 2)
    text = sf.factorize(A, sf.sparse_plus_low_rank(A.shape, density)).explain()
    for said in ("best of", "A sparse matrix alone", "alone", "The sum was taken", "sparse_plus_low_rank"[:6]):
        assert said in text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 12))
def test_the_ladder_is_searched_to_its_lowest_place(seed, length):
    rng = np.random.default_rng(seed)
    lowest = int(rng.integers(length))
    curve = abs(np.arange(length) - lowest) * rng.uniform(0.5, 2)
    losses, place = {}, int(rng.integers(length))
    while place is not None:
        losses[place] = curve[place]
        place = _next_place(losses, length)
    assert min(losses, key=losses.__getitem__) == lowest


def test_the_ladder_leaves_something_for_the_sparse_term():
    for shape, density in (((30, 40), 0.3), ((40, 30), 0.9), ((3, 50), 0.4), ((2, 2), 0.25)):
        E = sf.sparse_plus_low_rank(shape, density)
        ladder = _ladder(E)
        assert ladder == sorted(set(ladder)) and all(rank >= 1 and E.sparse_nnz(rank) >= 1 for rank in ladder)
        if ladder and ladder[-1] < min(shape):
            assert ladder[-1] == E.largest_rank or E.sparse_nnz(ladder[-1] + 1) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 1), st.booleans())
def test_projection_is_nearest_over_all_ranks(seed, m, n, density, fixed):
    rng = np.random.default_rng(seed)
    if int(density * m * n) < 1:
        return
    E = sf.sparse_plus_low_rank((m, n), density)
    if fixed:
        E = sf.sparse_plus_low_rank((m, n), density, rank=int(rng.integers(E.largest_rank + 1)))
    x = draw(rng, (m, n)), draw(rng, (m, n))
    distances = []
    for rank in range(E.largest_rank + 1) if E.rank is None else [E.rank]:
        squares = np.sort(x[0].ravel() ** 2)[::-1][E.sparse_nnz(rank) :].sum()
        distances.append(squares + (np.linalg.svd(x[1], compute_uv=False)[rank:] ** 2).sum())
    near = E.project(x)
    assert squared(x[0] - near[0]) + squared(x[1] - near[1]) == pytest.approx(min(distances), abs=1e-12)
    assert E.contains(near) and E.T.contains((near[0].T, near[1].T))
    assert E.T.T == E and pickle.loads(pickle.dumps(E)) == E and hash(E) == hash(E.T.T)


def test_contains_counts_both_terms():
    E = sf.sparse_plus_low_rank((6, 8), 0.6)  # a budget of 28
    one = np.outer(np.arange(1.0, 7), np.ones(8))
    assert E.count() == E.count((6, 8)) == 28 and E.sparse_nnz(1) == 8
    eight, nine = (sf.TopK(nnz=k).project(np.ones((6, 8))) for k in (8, 9))
    assert E.contains((eight, one)) and not E.contains((nine, one))
    assert E.contains((nine, 0 * one)) and not E.contains((0 * one, one + np.eye(6, 8)))
    assert not E.contains((eight, np.full((6, 8), np.nan)))


def test_what_is_refused():
    A = np.ones((6, 8))
    E = sf.sparse_plus_low_rank(A.shape, 0.5)
    with pytest.raises(BudgetError, match="takes 28 entries of a budget of 24; pass at most 1"):
        sf.sparse_plus_low_rank(A.shape, 0.5, rank=2)
    with pytest.raises(BudgetError, match="outside"):
        sf.sparse_plus_low_rank(A.shape, 1.5)
    with pytest.raises(BudgetError, match="leaves no entry"):
        sf.sparse_plus_low_rank(A.shape, 0.01)
    with pytest.raises(ShapeError, match="empty"):
        sf.sparse_plus_low_rank((0, 3), 0.5)
    with pytest.raises(ArgumentError, match="rank"):
        sf.sparse_plus_low_rank(A.shape, 0.5, rank=-1)
    with pytest.raises(BudgetError, match="pass at most 1"):
        E.sparse_nnz(2)
    with pytest.raises(ShapeError, match="is not the shape"):
        E.count((8, 6))
    with pytest.raises(ShapeError, match=r"x\[1\] has shape"):
        E.project((A, A.T))
    with pytest.raises(ArgumentError, match="no pair"):
        E.contains(A)
    with pytest.raises(NonFiniteError):
        E.project((A, A * np.nan))
    with pytest.raises(DtypeError):
        E.project((A.astype(int), A))
    with pytest.raises(ShapeError, match=r"sparse_plus_low_rank\(A.shape, 0.5\)"):
        sf.factorize(A.T, E)
    with pytest.raises(ShapeError, match="leave it out"):
        sf.factorize(A, E, inner=3)
    with pytest.raises(ArgumentError, match="AlternatingSum"):
        sf.factorize(A, E, sf.Alternating())
    with pytest.raises(ArgumentError, match="is no sum"):
        sf.factorize(A, (sf.TopK(density=0.5), sf.TopK(density=0.5)), sf.AlternatingSum())
    with pytest.raises(ArgumentError, match="leave it out"):
        sf.factorize(A, sf.sparse_plus_low_rank(A.shape, 0.5, 0), init=(np.ones((6, 6)), np.ones((6, 8))))
    for wrong in ({"inner": sf.IHT()}, {"steps": 0}, {"polish": -1}, {"report_every": 0}):
        with pytest.raises(ArgumentError):
            sf.AlternatingSum(**wrong)


@pytest.mark.parametrize("weighted", [False, True])
def test_on_a_gpu(weighted, monkeypatch):
    install(monkeypatch)
    rng = np.random.default_rng(11)
    A, density = planted(rng, 20, 24, 60, 2)
    gram = drawn_gram(rng, 24) if weighted else None
    E, solver = sf.sparse_plus_low_rank(A.shape, density), sf.AlternatingSum(steps=40)
    expected = sf.factorize(A, E, solver, gram=gram)
    cp.reset()
    found = sf.factorize(cp.asarray(A), E, solver, gram=None if gram is None else cp.asarray(gram))
    assert found.device == "cuda:0"
    np.testing.assert_allclose(found.todense().get(), expected.todense(), atol=1e-6)
