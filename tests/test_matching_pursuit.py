"""Matching pursuit over blocks and entries: against plain NumPy loops, planted supports, and the theory's constants."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.analysis.pursuit_certificate import exact_recovery_constant
from sparsefact.errors import ArgumentError, BudgetError, ShapeError


def planted(seed, *, samples=64, rho=0.95, noise=0.1, grid=(8, 4), block=(8, 8), count=8):
    """Equicorrelated inputs, a target on `count` random blocks, and the mask of those."""
    rng = np.random.default_rng(seed)
    features = grid[0] * block[0]
    X = np.sqrt(1 - rho) * rng.standard_normal((samples, features))
    X += np.sqrt(rho) * rng.standard_normal((samples, 1))
    blocks = np.zeros(grid[0] * grid[1], bool)
    blocks[rng.choice(blocks.size, count, replace=False)] = True
    blocks = blocks.reshape(grid)
    truth = rng.standard_normal((features, grid[1] * block[1])) * np.kron(blocks, np.ones(block))
    return X, X @ truth + noise * rng.standard_normal((samples, truth.shape[1])), truth, blocks


def quadratic(X, Y):
    return sf.Quadratic(X.conj().T @ X, X.conj().T @ Y, constant=0.5 * np.linalg.norm(Y) ** 2)


def kept_blocks(value, block):
    r, c = block
    return value.reshape(value.shape[0] // r, r, value.shape[1] // c, c).any(axis=(1, 3))


def plain_pursuit(X, Y, block, count, replace):
    """Group OMP and OMPR as on paper: a full least-squares problem for every support, in unit-norm columns."""
    norms = np.linalg.norm(X, axis=0)
    X = X / norms
    r, c = block
    grid = (X.shape[1] // r, Y.shape[1] // c)

    def fit(support):
        W = np.zeros((X.shape[1], Y.shape[1]))
        for j in range(grid[1]):
            rows = [i * r + k for i in range(grid[0]) if (i, j) in support for k in range(r)]
            if rows:
                W[rows, j * c : (j + 1) * c] = np.linalg.lstsq(X[:, rows], Y[:, j * c : (j + 1) * c], rcond=None)[0]
        return W, 0.5 * np.sum((X @ W - Y) ** 2)

    def size(A, b):
        return np.linalg.norm(A[b[0] * r : (b[0] + 1) * r, b[1] * c : (b[1] + 1) * c])

    every, support = list(itertools.product(range(grid[0]), range(grid[1]))), set()
    W, value = fit(support)
    for _ in range(count):
        G = X.T @ (X @ W - Y)
        support.add(max((b for b in every if b not in support), key=lambda b: size(G, b)))
        W, value = fit(support)
    while replace:
        G = X.T @ (X @ W - Y)
        outside = sorted((b for b in every if b not in support), key=lambda b: -size(G, b))[:5]
        inside = sorted(support, key=lambda b: size(W, b))[:5]
        pairs = sorted(itertools.product(range(len(outside)), range(len(inside))), key=lambda p: (sum(p), p))
        for i, j in pairs:
            other = support - {inside[j]} | {outside[i]}
            moved, lower = fit(other)
            if lower < value * (1 - 1e-12):
                support, W, value = other, moved, lower
                break
        else:
            break
    return W / norms[:, None], value


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_pursuit_on_paper(seed, replace):
    X, Y, _, _ = planted(seed, samples=60, rho=0.7, noise=0.5, grid=(6, 3), block=(3, 4), count=5)
    expected, value = plain_pursuit(X, Y, (3, 4), 5, replace)
    found = sf.minimize(quadratic(X, Y), sf.BlockTopK((3, 4), count=5), sf.MatchingPursuit(replacement=replace))
    assert found.objective == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(found.value, expected, atol=1e-7)


def test_replacement_finds_what_addition_misses():
    """Equicorrelated groups, 64 samples of 64 features: the exact support in 95 % of the trials, and without it not."""
    hits = {False: 0, True: 0, "unscaled": 0}
    for seed in range(20):
        X, Y, _, blocks = planted(seed)
        for name, solver in (
            (False, sf.MatchingPursuit(replacement=False)),
            (True, sf.MatchingPursuit()),
            ("unscaled", sf.MatchingPursuit(replacement=False, scaled=False)),
        ):
            found = sf.minimize(quadratic(X, Y), sf.BlockTopK((8, 8), count=8), solver).value
            hits[name] += np.array_equal(kept_blocks(found, (8, 8)), blocks)
    assert hits[True] >= 19
    assert hits[False] < 19
    assert hits["unscaled"] <= 5


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_the_exact_recovery_condition_is_sufficient(seed):
    X, _, truth, blocks = planted(seed, samples=300, rho=0.0, grid=(7, 2), block=(2, 2), count=4)
    X = X / np.linalg.norm(X, axis=0)
    assume(exact_recovery_constant(X.T @ X, blocks, (2, 2)) < 1)
    solver = sf.MatchingPursuit(replacement=False)
    solution = sf.minimize(quadratic(X, X @ truth), sf.BlockTopK((2, 2), count=4), solver)
    np.testing.assert_allclose(solution.value, truth, atol=1e-9)
    assert solution.certificate.exact_recovery() < 1
    assert np.array_equal(solution.certificate.blocks, blocks)


def test_the_exact_recovery_constant_of_single_entries_is_tropps():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 9))
    support = np.array([0, 3, 4])
    others = np.setdiff1d(np.arange(9), support)
    expected = np.abs(np.linalg.pinv(X[:, support]) @ X[:, others]).sum(axis=0).max()
    blocks = np.isin(np.arange(9), support)[:, None]
    assert exact_recovery_constant(X.T @ X, blocks, (1, 1)) == pytest.approx(expected)
    # a second column of blocks with nothing in it, or everything, changes nothing
    more = np.hstack([blocks, np.zeros((9, 1), bool), np.ones((9, 1), bool)])
    assert exact_recovery_constant(X.T @ X, more, (1, 1)) == pytest.approx(expected)
    assert exact_recovery_constant(np.ones((3, 3)), np.array([[True], [True], [False]]), (1, 1)) == np.inf


def test_comparable_blocks_is_the_bound_of_the_theorem():
    X, Y, _, _ = planted(0, samples=400, rho=0.0, grid=(8, 4), block=(2, 2), count=12)
    certificate = sf.minimize(quadratic(X, Y), sf.BlockTopK((2, 2), count=12), sf.MatchingPursuit()).certificate
    gram = X.T @ X
    gram /= np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    # L of two blocks: by brute force it is at most the bound that is used
    L = max(
        np.linalg.eigvalsh(gram[np.ix_(rows, rows)])[-1]
        for i, j in itertools.combinations(range(8), 2)
        for rows in [[2 * i, 2 * i + 1, 2 * j, 2 * j + 1]]
    )
    mu = np.linalg.eigvalsh(gram)[0]
    k = certificate.comparable_blocks()
    assert 1 <= k <= 12 / ((L / mu) ** 2 + 1)
    # and what it proves holds: the best k blocks (found greedily, which bounds them from above) are not better
    other = sf.minimize(quadratic(X, Y), sf.BlockTopK((2, 2), count=k), sf.MatchingPursuit())
    assert sf.minimize(quadratic(X, Y), sf.BlockTopK((2, 2), count=12)).objective <= other.objective


@pytest.mark.parametrize(
    "constraint",
    [
        sf.TopK(nnz=7),
        sf.TopK(nnz=2, per="row"),
        sf.TopK(nnz=3, per="column"),
        sf.TopK(density=1.0),
        sf.BlockTopK((4, 1), count=3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_constraints_types_and_the_certificate(constraint, dtype):
    rng = np.random.default_rng(0)
    X, Y = (rng.standard_normal((30, n)).astype(dtype) for n in (8, 5))
    if dtype.startswith("complex"):
        X = X + 1j * rng.standard_normal(X.shape).astype(X.real.dtype)
    f = quadratic(X, Y)
    solution = sf.minimize(f, constraint, sf.MatchingPursuit())
    assert solution.value.dtype == dtype and constraint.contains(solution.value)
    assert solution.status is sf.Status.STATIONARY and solution.certificate.swap_stable
    # exact on the support
    slack = 1e-3 if dtype in ("float32", "complex64") else 1e-9
    assert np.abs(f.gradient(solution.value)[solution.value != 0]).max() < slack
    assert solution.certificate.residual_on_support < slack
    # no single addition or exchange of a pair that was looked at is better: certified by brute force over one exchange
    if constraint == sf.TopK(nnz=7) and dtype == "float64":
        largest = np.argsort(-np.abs(f.gradient(solution.value)) / np.sqrt(np.diag(f.gram))[:, None], axis=None)[:5]
        kept = np.flatnonzero(solution.value)
        sizes = np.abs(solution.value * np.sqrt(np.diag(f.gram))[:, None]).ravel()[kept]
        for new, old in itertools.product(largest, kept[np.argsort(sizes)[:5]]):
            mask = solution.value != 0
            mask.flat[[new, old]] = True, False
            other = sf.minimize(f, sf.Support(mask)).objective
            assert other >= solution.objective * (1 - 1e-9)


def test_a_coupled_quadratic_and_other_objectives():
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((40, 6)), rng.standard_normal((40, 4))
    right = rng.standard_normal((9, 4))
    coupled = sf.Quadratic(X.T @ X, X.T @ Y @ (right.T @ right), right.T @ right)
    solution = sf.minimize(coupled, sf.BlockTopK((2, 2), count=3), sf.MatchingPursuit())
    on = solution.value != 0
    assert np.abs(coupled.gradient(solution.value)[on]).max() < 1e-4 * np.abs(coupled.cross).max()
    best = min(
        sf.minimize(coupled, sf.Support(np.kron(mask, np.ones((2, 2))) > 0)).objective
        for chosen in itertools.combinations(range(6), 3)
        for mask in [np.isin(np.arange(6), chosen).reshape(3, 2)]
    )
    assert solution.objective == pytest.approx(best, rel=1e-6)
    assert solution.certificate.exact_recovery() is None and solution.certificate.comparable_blocks() is None

    logistic = sf.LogisticRegression(X, (X[:, 2] - X[:, 5] > 0).astype(int), l2=0.01, intercept=False)
    found = sf.minimize(logistic, sf.BlockTopK((1, 2), count=2), sf.MatchingPursuit())
    assert np.flatnonzero(found.value.any(axis=1)).tolist() == [2, 5]
    assert np.abs(logistic.gradient(found.value)[[2, 5]]).max() < 1e-6


def test_a_start_is_continued_and_trimmed():
    X, Y, truth, blocks = planted(3, samples=100, rho=0.5)
    f = quadratic(X, Y)
    constraint = sf.BlockTopK((8, 8), count=8)
    assert sf.minimize(f, constraint, sf.MatchingPursuit(iterations=1), init=truth).objective == pytest.approx(
        sf.minimize(f, constraint, sf.MatchingPursuit()).objective
    )
    start = np.ones(truth.shape)
    solution = sf.minimize(f, constraint, sf.MatchingPursuit(), init=start)
    assert (start == 1).all() and constraint.contains(solution.value)
    assert np.array_equal(kept_blocks(solution.value, (8, 8)), blocks)


def test_nothing_to_gain_adds_nothing():
    f = sf.Quadratic(np.eye(4), np.zeros((4, 2)))
    solution = sf.minimize(f, sf.TopK(nnz=3), sf.MatchingPursuit())
    assert not solution.value.any() and solution.status is sf.Status.STATIONARY
    # a column of the design that is zero is never chosen, and breaks nothing
    gram = np.diag([1.0, 0.0, 2.0])
    value = sf.minimize(sf.Quadratic(gram, gram @ np.ones((3, 1))), sf.TopK(nnz=3), sf.MatchingPursuit()).value
    np.testing.assert_allclose(value, [[1.0], [0.0], [1.0]])


def test_many_blocks_are_added_several_at_once():
    X, Y, _, _ = planted(0, samples=100, rho=0.2, grid=(16, 8), block=(4, 4), count=40)
    solution = sf.minimize(quadratic(X, Y), sf.TopK(density=0.3), sf.MatchingPursuit(iterations=20))
    assert np.count_nonzero(solution.value) == sf.TopK(density=0.3).count((64, 32))
    # at most half of the iterations add
    assert solution.certificate.trials > 0
    one = sf.minimize(
        quadratic(X, Y), sf.TopK(nnz=5), sf.MatchingPursuit(replacement=False, blocks_per_step=2, report_every=1)
    )
    assert len(one.history) == 4 and np.count_nonzero(one.value) == 5


@pytest.mark.parametrize("replacement", [False, True])
def test_as_the_inner_solver_of_alternating(replacement):
    A = np.random.default_rng(0).standard_normal((20, 30))
    solver = sf.Alternating(inner=sf.MatchingPursuit(replacement=replacement), outer=6)
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), solver)
    assert F.nnz <= 300
    if replacement:
        pruned = sf.TopK(nnz=300).project(A)
        assert F.error < np.linalg.norm(A - pruned) / np.linalg.norm(A)


def test_bad_input_gets_a_sentence():
    f = sf.Quadratic(np.eye(6), np.ones((6, 4)))
    with pytest.raises(ShapeError, match="not a whole number of blocks of shape"):
        sf.minimize(f, sf.BlockTopK((4, 2), count=1), sf.MatchingPursuit())
    with pytest.raises(BudgetError, match="count=7 is more than the 6 blocks"):
        sf.minimize(f, sf.BlockTopK((2, 2), count=7), sf.MatchingPursuit())
    with pytest.raises(ArgumentError, match="MatchingPursuit chooses blocks or entries, and the constraint is NOfM"):
        sf.minimize(f, sf.NOfM(1, 2), sf.MatchingPursuit())
    for changes in ({"candidates": 0}, {"iterations": 1.5}, {"blocks_per_step": 0}):
        with pytest.raises(ArgumentError, match=f"{next(iter(changes))}=.*is not allowed"):
            sf.MatchingPursuit(**changes)


@pytest.mark.parametrize(("samples", "features", "count"), [(60, 40, 6), (60, 300, 12), (30, 1200, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_sparse_regression_is_fitted_exactly_and_not_worse_than_orthogonal_matching_pursuit(
    samples, features, count, seed
):
    from sklearn.linear_model import orthogonal_mp

    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples, features)) + rng.standard_normal((samples, 1))
    X /= np.linalg.norm(X, axis=0)
    w = np.zeros((features, 1))
    w[rng.choice(features, count, replace=False), 0] = rng.standard_normal(count)
    y = X @ w + 0.05 * rng.standard_normal((samples, 1))
    found = sf.minimize(sf.LeastSquares(X, y), sf.TopK(nnz=count))
    assert found.explain().startswith("MatchingPursuit")
    kept = np.flatnonzero(found.value)
    best = np.linalg.lstsq(X[:, kept], y)[0]
    np.testing.assert_allclose(found.value[kept], best, rtol=1e-8)
    theirs = orthogonal_mp(X, y, n_nonzero_coefs=count)
    assert np.linalg.norm(X @ found.value - y) <= np.linalg.norm(X @ theirs[:, None] - y) * (1 + 1e-9)


def test_a_regression_of_many_entries_or_columns_is_left_to_the_other_solvers():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((30, 12)), rng.standard_normal((30, 2))
    for f, count in ((sf.LeastSquares(X, Y), 3), (sf.LeastSquares(X, Y[:, :1]), 6)):
        assert sf.minimize(f, sf.TopK(nnz=count)).explain().startswith("ADMM")
