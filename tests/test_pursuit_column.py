"""Matching pursuit of one column, against least squares on every support that it could have chosen."""

from __future__ import annotations

import itertools
import pickle

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.minimizers import gram_columns, pursuit_column

DTYPES = ["float32", "float64", "complex64", "complex128"]


def regression(seed, samples, features, count, *, dtype="float64", shared=1.0, noise=0.3):
    """Correlated columns of different sizes, and a target from a few of them."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples, features)) + shared * rng.standard_normal((samples, 1))
    y = X[:, :count] @ rng.standard_normal((count, 1)) + noise * rng.standard_normal((samples, 1))
    if np.dtype(dtype).kind == "c":
        X = X + 1j * rng.standard_normal(X.shape)
        y = y + 1j * rng.standard_normal(y.shape)
    X = X * rng.uniform(0.2, 5, features)
    order = rng.permutation(features)
    return X[:, order].astype(dtype), y.astype(dtype)


def fitted(X, y, support):
    """Half the squared residual of least squares on some columns, in double precision."""
    wide = np.result_type(X, np.float64)
    X, y = X.astype(wide), y.astype(wide)
    w = np.linalg.lstsq(X[:, list(support)], y)[0]
    return 0.5 * np.linalg.norm(X[:, list(support)] @ w - y) ** 2


def support_of(solution):
    return set(np.flatnonzero(solution.value).tolist())


def objectives(X, y):
    """The same function from samples and from its Gram matrix."""
    constant = 0.5 * float(np.linalg.norm(y)) ** 2
    return sf.LeastSquares(X, y), sf.Quadratic(X.conj().T @ X, X.conj().T @ y, constant=constant)


def plain(X, y, count):
    """Orthogonal matching pursuit on paper, in columns of unit norm."""
    unit, support = X / np.linalg.norm(X, axis=0), []
    residual = y
    for _ in range(count):
        score = np.abs(unit.conj().T @ residual)[:, 0]
        score[support] = -1
        support.append(int(score.argmax()))
        residual = y - X[:, support] @ np.linalg.lstsq(X[:, support], y)[0]
    return set(support)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_additions_are_the_pursuit_on_paper(seed, dtype):
    X, y = regression(seed, 40, 64, 5, dtype=dtype)
    for f in objectives(X, y):
        found = sf.minimize(f, sf.TopK(nnz=5), sf.MatchingPursuit(replacement=False))
        assert support_of(found) == plain(X, y, 5)
        assert found.value.dtype == dtype
        tolerance = 1e-4 if found.value.dtype.itemsize in (4,) or dtype == "complex64" else 1e-10
        assert found.objective == pytest.approx(fitted(X, y, support_of(found)), rel=tolerance)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["float64", "complex128"]), st.integers(1, 5), st.integers(0, 1))
@settings(max_examples=60)
def test_a_replacement_is_the_best_of_all_exchanges(seed, dtype, count, which):
    """One step after the additions, by brute force: least squares on every support that is one exchange away."""
    X, y = regression(seed, 12, 16, count, dtype=dtype, shared=2.0)
    f = objectives(X, y)[which]
    before = plain(X, y, count)
    # one iteration adds, or exchanges: `count` of them add
    solver = sf.MatchingPursuit(iterations=count + 1, blocks_per_step=1)
    after = support_of(sf.minimize(f, sf.TopK(nnz=count), solver))
    others = [before - {old} | {new} for old in before for new in set(range(16)) - before]
    best = min(others, key=lambda other: fitted(X, y, other))
    expected = min(fitted(X, y, best), fitted(X, y, before))
    assert fitted(X, y, after) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from(DTYPES), st.integers(1, 6), st.booleans())
@settings(max_examples=40)
def test_at_the_end_no_exchange_helps(seed, dtype, count, scaled):
    X, y = regression(seed, 14, 20, count, dtype=dtype, shared=2.0)
    found = sf.minimize(sf.LeastSquares(X, y), sf.TopK(nnz=count), sf.MatchingPursuit(scaled=scaled))
    support, reached = support_of(found), fitted(X, y, support_of(found))
    assert found.status is sf.Status.STATIONARY and found.certificate.swap_stable
    slack = 1e-3 if dtype in ("float32", "complex64") else 1e-9
    for old, new in itertools.product(support, set(range(20)) - support):
        assert fitted(X, y, support - {old} | {new}) >= reached * (1 - slack)
    assert not scaled or reached <= fitted(X, y, plain(X, y, count)) * (1 + slack)


@pytest.mark.parametrize("seed", range(3))
def test_it_does_not_matter_how_columns_are_formed(seed, monkeypatch, tmp_path):
    X, y = regression(seed, 60, 400, 20, noise=1.0)
    samples, quadratic = objectives(X, y)
    solver, constraint = sf.MatchingPursuit(), sf.TopK(nnz=20)
    expected = support_of(sf.minimize(quadratic, constraint, solver))
    assert support_of(sf.minimize(samples, constraint, solver)) == expected
    assert support_of(sf.minimize(sf.LeastSquares(X, y, chunk=7), constraint, solver)) == expected
    monkeypatch.setattr(gram_columns, "_LARGE", 1)
    passes = []
    monkeypatch.setattr(
        gram_columns.SampledColumns,
        "form",
        lambda self, indices, form=gram_columns.SampledColumns.form: (passes.append(len(indices)), form(self, indices)),
    )
    assert support_of(sf.minimize(samples, constraint, solver)) == expected
    assert len([size for size in passes if size > 1]) < 20
    # the basis formed anew before every exchange
    monkeypatch.setattr(pursuit_column, "_EXCHANGES", 1)
    assert support_of(sf.minimize(samples, constraint, solver)) == expected
    on_disk = np.memmap(tmp_path / "X", dtype=X.dtype, mode="w+", shape=X.shape)
    on_disk[:] = X
    assert support_of(sf.minimize(sf.LeastSquares(on_disk, y), constraint, solver)) == expected


def test_half_precision_is_computed_in_single():
    X, y = regression(0, 50, 200, 6, dtype="float16")
    found = sf.minimize(sf.LeastSquares(X, y), sf.TopK(nnz=6))
    assert found.value.dtype == np.float32 and found.explain().startswith("MatchingPursuit")
    assert support_of(found) == support_of(
        sf.minimize(sf.LeastSquares(*(a.astype(float) for a in (X, y))), sf.TopK(nnz=6))
    )


def test_columns_that_say_the_same_are_not_both_taken():
    X, _ = regression(3, 30, 40, 3)
    X[:, 20:] = X[:, :20]
    X[:, 7] = 0
    y = X[:, [2, 3, 12]] @ np.array([[1.0], [-2.0], [0.5]])
    for f in objectives(X, y):
        # more entries than there are directions: what is left is rounding, and nothing is taken for it
        found = sf.minimize(f, sf.TopK(nnz=30), sf.MatchingPursuit())
        kept = np.flatnonzero(found.value)
        assert len(set(kept % 20)) == len(kept) and 7 not in kept
        np.testing.assert_allclose(X @ found.value, y, atol=1e-6)
        # of equal columns the first one joins
        assert kept.max() < 20
    start = np.ones((40, 1))
    trimmed = sf.minimize(f, sf.TopK(nnz=25), sf.MatchingPursuit(), init=start)
    assert (start == 1).all() and np.count_nonzero(trimmed.value) <= 25
    np.testing.assert_allclose(X @ trimmed.value, y, atol=1e-6)


@pytest.mark.parametrize("which", [0, 1])
def test_a_start_is_continued_and_several_join_at_once(which):
    X, y = regression(5, 80, 120, 10)
    f = objectives(X, y)[which]
    whole = sf.minimize(f, sf.TopK(nnz=10), sf.MatchingPursuit())
    again = sf.minimize(f, sf.TopK(nnz=10), sf.MatchingPursuit(iterations=1), init=whole.value)
    assert support_of(again) == support_of(whole)
    few = sf.MatchingPursuit(replacement=False, blocks_per_step=4, report_every=1)
    at_once = sf.minimize(f, sf.TopK(nnz=10), few)
    assert len(at_once.history) == 4 and np.count_nonzero(at_once.value) == 10
    # what is reported on the way is the objective of least squares on so many columns
    assert at_once.history[-1].objective == pytest.approx(fitted(X, y, support_of(at_once)), rel=1e-9)
    assert all(later.objective < earlier.objective for earlier, later in itertools.pairwise(at_once.history[:3]))


def test_the_certificate_is_about_the_data():
    X, y = regression(1, 60, 90, 4, shared=0.0, noise=0.0)
    f = sf.LeastSquares(X, y)
    certificate = sf.minimize(f, sf.TopK(nnz=4), sf.MatchingPursuit()).certificate
    unit = X / np.linalg.norm(X, axis=0)
    kept = np.flatnonzero(certificate.blocks)
    outside = np.setdiff1d(np.arange(90), kept)
    tropp = np.abs(np.linalg.pinv(unit[:, kept]) @ unit[:, outside]).sum(axis=0).max()
    for each in (certificate, pickle.loads(pickle.dumps(certificate))):
        assert each.exact_recovery() == pytest.approx(tropp)
        np.testing.assert_allclose(each.gram, unit.T @ unit, atol=1e-12)
    w = np.linalg.lstsq(unit[:, kept], y)[0]
    assert certificate.smallest_kept == pytest.approx(np.abs(w).min())
    assert certificate.residual_on_support < 1e-9 * np.linalg.norm(y)
    # too many features for a Gram matrix
    wide = sf.minimize(sf.LeastSquares(X[:10].repeat(20, axis=1), y[:10]), sf.TopK(nnz=3)).certificate
    assert wide.gram is None and wide.exact_recovery() is None


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_on_a_gpu(dtype, monkeypatch):
    install(monkeypatch)
    monkeypatch.setattr(gram_columns, "_LARGE", 1)
    X, y = regression(2, 60, 200, 8, dtype=dtype)
    solver = sf.MatchingPursuit()
    expected = sf.minimize(sf.LeastSquares(X, y), sf.TopK(nnz=8), solver)
    found = sf.minimize(sf.LeastSquares(cp.asarray(X), cp.asarray(y)), sf.TopK(nnz=8), solver)
    assert type(found.value) is cp.ndarray
    np.testing.assert_allclose(found.value.get(), expected.value, rtol=1e-3 if dtype == "float32" else 1e-8)
    assert found.certificate.exact_recovery() == pytest.approx(expected.certificate.exact_recovery(), rel=1e-3)
    start = cp.asarray(expected.value)
    moved = sf.minimize(sf.LeastSquares(cp.asarray(X), cp.asarray(y)), sf.TopK(nnz=8), solver, init=start)
    np.testing.assert_allclose(moved.value.get(), expected.value, rtol=1e-3 if dtype == "float32" else 1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_beside_scikit_learn(seed):
    """Additions alone give their support, for columns of one norm; exchanges give no larger a residual."""
    linear = pytest.importorskip("sklearn.linear_model")
    X, y = regression(seed, 100, 300, 12, noise=2.0)
    X = X / np.linalg.norm(X, axis=0)
    theirs = linear.orthogonal_mp(X, y[:, 0], n_nonzero_coefs=12)
    f = sf.LeastSquares(X, y)
    greedy = sf.minimize(f, sf.TopK(nnz=12), sf.MatchingPursuit(replacement=False))
    np.testing.assert_allclose(greedy.value[:, 0], theirs, rtol=1e-8)
    whole = sf.minimize(f, sf.TopK(nnz=12))
    assert whole.objective <= 0.5 * np.linalg.norm(X @ theirs - y[:, 0]) ** 2 * (1 + 1e-12)
