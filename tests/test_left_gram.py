"""A loss that is weighted on both sides: against explicit square roots, closed forms, brute force and the transpose."""

from __future__ import annotations

from itertools import combinations

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from sparsefact.factorizers import joint_polish
from sparsefact.factorizers.joint_polish import JointFit
from sparsefact.products.storage import pack

M, N = 14, 18
FAST = sf.Alternating(effort="fast")
PALM_SHORT = sf.PALM(iterations=20)


def draw(rng, shape, kind="r"):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if kind == "c" else x


def problem(seed, m=M, n=N, kind="r"):
    """A matrix, and Gram matrices of correlated inputs and output gradients."""
    rng = np.random.default_rng(seed)
    X, Y = (
        draw(rng, (3 * size, size), kind) @ (np.eye(size) + draw(rng, (size, size), kind) / size**0.5)
        for size in (n, m)
    )
    return draw(rng, (m, n), kind), X.conj().T @ X, Y.conj().T @ Y


def root(gram):
    values, vectors = np.linalg.eigh(gram)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.conj().T


def weigh(x, gram=None, left_gram=None):
    x = x if left_gram is None else root(left_gram) @ x
    return x if gram is None else x @ root(gram)


def error(A, P, gram=None, left_gram=None):
    """The relative error by explicit square roots of the weights."""
    return np.linalg.norm(weigh(A - P, gram, left_gram)) / np.linalg.norm(weigh(A, gram, left_gram))


A, GRAM, LEFT = problem(0)
THREE = (sf.TopK(density=0.5), sf.TopK(density=0.5), sf.TopK(density=0.4))
MASKS = np.random.default_rng(3).random((M, 9)) < 0.6, np.random.default_rng(4).random((9, N)) < 0.6
SUPPORTS = sf.Support(MASKS[0]), sf.Support(MASKS[1])
CASES = {
    "joint": (sf.double_sparse(A.shape, 0.5), FAST),
    "wide": (sf.double_sparse(A.shape, 0.5, inner=17), FAST),
    "rows": ((sf.TopK(density=0.5, per="row"), sf.TopK(density=0.4)), FAST),
    "supports": (SUPPORTS, FAST),
    "gradient": ((sf.TopK(density=0.5), sf.TopK(density=0.4)), sf.Alternating(sf.Gradient(), outer=6)),
    "thresholding": ((sf.TopK(density=0.5), sf.TopK(density=0.4)), sf.Alternating(sf.IHT(), outer=6)),
    "low rank": ((sf.LowRank(6), sf.TopK(density=0.5)), sf.BlockCoordinateDescent(iterations=6)),
    "blocks": ((sf.BlockTopK((2, 2), density=0.5), sf.TopK(density=0.5)), sf.BlockCoordinateDescent(iterations=8)),
    "three": (THREE, PALM_SHORT),
    "hierarchical": (THREE, sf.HierarchicalPALM(PALM_SHORT, PALM_SHORT, FAST)),
    "from the right": (THREE, sf.HierarchicalPALM(PALM_SHORT, PALM_SHORT, FAST, side="right")),
    "one": (sf.TopK(density=0.4), None),
    "one, thresholded": (sf.TopK(density=0.4), sf.IHT(steps=100)),
    "one, pursued": (sf.TopK(nnz=3, per="row"), sf.MatchingPursuit()),
    "one, of low rank": (sf.LowRank(5), None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_what_explicit_roots_say_and_is_what_falls(name):
    constraints, solver = CASES[name]
    half = sf.factorize(A, constraints, solver, gram=GRAM)
    # many factors have many local minima, so these go on from there
    init = half if constraints is THREE else None
    F = sf.factorize(A, constraints, solver, gram=GRAM, left_gram=LEFT, init=init)
    P = F.todense()
    assert F.error == pytest.approx(error(A, P, GRAM, LEFT), rel=1e-8)
    assert F.frobenius_error == pytest.approx(error(A, P), rel=1e-8)
    assert F.T.error == F.error
    assert F.T.error_against(A.T, gram=LEFT.T, left_gram=GRAM.T) == pytest.approx(F.error, rel=1e-9)
    assert F.error < half.error_against(A, GRAM, LEFT)
    alone = sf.factorize(A, constraints, solver, left_gram=LEFT)
    assert alone.error == pytest.approx(error(A, alone.todense(), None, LEFT), rel=1e-8)
    assert alone.error < F.error_against(A, left_gram=LEFT)


@pytest.mark.parametrize("name", ["joint", "wide", "rows", "supports", "one", "one, of low rank"])
def test_the_transposed_problem_with_the_weights_swapped_reaches_the_same(name):
    constraints, solver = CASES[name]
    turned = tuple(each.T for each in constraints[::-1]) if isinstance(constraints, tuple) else constraints.T
    for gram, left_gram in ((GRAM, LEFT), (None, LEFT)):
        F = sf.factorize(A, constraints, solver, gram=gram, left_gram=left_gram)
        G = sf.factorize(A.T, turned, solver, gram=left_gram, left_gram=gram)
        assert G.error == pytest.approx(F.error, rel=0.02)


@pytest.mark.parametrize("kind", "rc")
@pytest.mark.parametrize(("shape", "rank"), [((14, 18), None), ((18, 14), 2), ((16, 16), 2), ((14, 18), 0)])
def test_a_sum_weighted_on_the_left_is_that_of_the_transpose(shape, rank, kind):
    A, gram, left_gram = problem(5, *shape, kind)
    F = sf.factorize(A, sf.sparse_plus_low_rank(shape, 0.6, rank), left_gram=left_gram)
    G = sf.factorize(A.T.copy(), sf.sparse_plus_low_rank(shape[::-1], 0.6, rank), gram=left_gram.T.copy())
    assert F.error == pytest.approx(error(A, F.todense(), None, left_gram), rel=1e-8)
    assert F.error == pytest.approx(G.error, rel=1e-6)
    assert F.error < sf.factorize(A, sf.sparse_plus_low_rank(shape, 0.6, rank)).error_against(A, left_gram=left_gram)
    with pytest.raises(ArgumentError, match="weighs one side; leave one of them out"):
        sf.factorize(A, sf.sparse_plus_low_rank(shape, 0.6, rank), gram=gram, left_gram=left_gram)


@pytest.mark.parametrize("kind", "rc")
def test_one_matrix_of_low_rank_is_the_truncated_svd_between_the_roots(kind):
    A, gram, left_gram = problem(1, kind=kind)
    s = np.linalg.svd(root(left_gram) @ A @ root(gram), compute_uv=False)
    F = sf.factorize(A, sf.LowRank(4), gram=gram, left_gram=left_gram)
    assert F.error == pytest.approx(np.sqrt((s[4:] ** 2).sum() / (s**2).sum()), rel=1e-6)


@pytest.mark.parametrize("kind", "rc")
def test_one_matrix_beside_every_tiny_support(kind):
    """Least squares on each of all supports: what is found is exact on its own, and nearer to the best than pruning."""
    found, pruned = [], []
    for seed in range(10):
        A, gram, left_gram = problem(seed, 3, 3, kind)
        # rows of a matrix side by side: L X H is (L kron H^T) vec(X)
        system, target = np.kron(root(left_gram), root(gram).T), weigh(A, gram, left_gram).ravel()

        def best(support, system=system, target=target):
            columns = system[:, list(support)]
            return np.linalg.norm(target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0])

        F = sf.factorize(A, sf.TopK(nnz=5), gram=gram, left_gram=left_gram)
        own = best(np.flatnonzero(F.todense()))
        assert F.error == pytest.approx(own / np.linalg.norm(target), rel=1e-5)
        lowest = min(best(support) for support in combinations(range(9), 5))
        scores = abs(A) * np.sqrt(np.outer(left_gram.diagonal().real, gram.diagonal().real))
        found.append(own / lowest)
        pruned.append(best(np.argsort(-scores.ravel())[:5]) / lowest)
    assert min(found) >= 1 - 1e-9 and np.mean(found) < np.mean(pruned)
    assert np.mean(np.array(found) < 1 + 1e-6) >= 0.3


@given(st.integers(0, 2**32 - 1), st.sampled_from("rc"), st.booleans())
@settings(max_examples=8)
def test_the_joint_fit_falls_to_where_neither_factor_can_improve(seed, kind, right):
    rng = np.random.default_rng(seed)
    A, gram, left_gram = problem(seed, 6, 7, kind)
    gram = gram if right else None
    masks = [rng.random((4, size)) < 0.6 for size in (6, 7)]
    fit = JointFit(A, gram, [draw(rng, each.shape, kind) * each for each in masks], masks, get_backend(A), left_gram)
    losses = [fit.loss]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_polish, "_SLOW", 0.0)  # to the end, however slowly
        for _ in range(40):
            fit.fit(4, 30, 0.0)
            losses.append(fit.loss)
    X, Y = fit.values[0].T, fit.values[1]
    assert losses == sorted(losses, reverse=True)
    norm = np.linalg.norm(weigh(A, gram, left_gram))
    assert fit.loss == pytest.approx((error(A, X @ Y, gram, left_gram) * norm) ** 2, rel=1e-7)
    # the oracle: least squares in all entries of one factor, the other one fixed
    for mask, product in ((masks[0].T, lambda unit: unit @ Y), (masks[1], lambda unit: X @ unit)):
        columns = []
        for place in np.argwhere(mask):
            unit = np.zeros(mask.shape)
            unit[tuple(place)] = 1
            columns.append(weigh(product(unit), gram, left_gram).ravel())
        if columns:
            target = weigh(A, gram, left_gram).ravel()
            values = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)[0]
            alone = np.linalg.norm(target - np.stack(columns, axis=1) @ values) ** 2
            assert alone * (1 - 1e-9) <= fit.loss <= alone * (1 + 2e-2) + 1e-9 * norm**2


def test_the_joint_fit_leaves_where_a_term_almost_vanished():
    """A joint step fails there at any damping, yet least squares in one factor alone halves the loss."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((2, 8)), rng.standard_normal((2, 9))
    A = X.T @ Y
    start = [X * [[1], [1e-7]], np.vstack([Y[:1], rng.standard_normal((1, 9)) * 1e-7])]
    masks = [np.ones(each.shape, bool) for each in start]
    fit = JointFit(A, None, start, masks, get_backend(A))
    for _ in range(10):
        fit.fit(4, 30, 0.0)
    assert fit.loss < 1e-12 * np.linalg.norm(A) ** 2


@given(st.integers(0, 2**32 - 1), st.sampled_from("rc"), st.booleans())
@settings(max_examples=8)
def test_the_joint_fit_scores_entries_as_that_of_the_transpose(seed, kind, right):
    rng = np.random.default_rng(seed)
    A, gram, left_gram = problem(seed, 7, 9, kind)
    gram = gram if right else None
    masks = [rng.random((5, size)) < 0.6 for size in (7, 9)]
    values = [draw(rng, mask.shape, kind) * mask for mask in masks]
    turned_gram = None if gram is None else gram.T
    scores = []
    for fit in (
        JointFit(A, gram, values, masks, get_backend(A), left_gram),
        JointFit(A.T, left_gram.T, values[::-1], masks[::-1], get_backend(A), turned_gram),
    ):
        fit.better(lambda together, parts: scores.append([part.copy() for part in parts]) or [p > 0 for p in parts], 1)
    np.testing.assert_allclose(scores[0][0], scores[1][1], rtol=1e-7)
    np.testing.assert_allclose(scores[0][1], scores[1][0], rtol=1e-7)
    # dropping a kept entry costs, the others fixed, the square of what it contributes
    for i, j in np.argwhere(masks[0])[:3]:
        term = weigh(np.outer(np.eye(7)[j] * values[0][i, j], values[1][i]), gram, left_gram)
        assert scores[0][0][i, j] == pytest.approx(np.linalg.norm(term), rel=1e-7)


def test_every_stage_of_the_polish_lowers_the_loss():
    A, gram, left_gram = problem(6, 30, 36)
    errors = [
        sf.factorize(
            A,
            sf.double_sparse(A.shape, 0.35),
            sf.Alternating(outer=12, refits=refits, fits=fits, exchanges=exchanges),
            gram=gram,
            left_gram=left_gram,
        ).error
        for refits, fits, exchanges in ((0, 0, 0), (2, 0, 0), (2, 4, 0), (2, 4, 4))
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


@pytest.mark.parametrize("solver", [sf.PALM(iterations=40, report_every=1), sf.PALM(iterations=40, inertia=False)])
def test_palm_never_rises(solver):
    F = sf.factorize(A, THREE, solver, gram=GRAM, left_gram=LEFT)
    objectives = [step.objective for step in F.history]
    assert objectives == sorted(objectives, reverse=True)


def test_a_diagonal_left_gram_is_a_scaling_of_the_rows():
    weights = np.random.default_rng(7).random(M) + 0.1
    scaled = np.sqrt(weights)[:, None] * A
    for constraints, solver in (CASES["joint"], (SUPPORTS, FAST), CASES["one"]):
        F = sf.factorize(A, constraints, solver, left_gram=np.diag(weights))
        G = sf.factorize(scaled, constraints, solver)
        assert F.error == pytest.approx(G.error, rel=0.02)
    assert sf.factorize(A, CASES["joint"][0], FAST, left_gram=np.eye(M)).error == pytest.approx(
        sf.factorize(A, CASES["joint"][0], FAST).error, rel=0.05
    )


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 300), (300, 5), (130, 140)])
@pytest.mark.parametrize("kind", "rc")
def test_errors_are_measured_in_panels(m, n, kind):
    rng = np.random.default_rng(m * n)
    X, Y = draw(rng, (m, 3), kind), draw(rng, (3, n), kind)
    A, gram, left_gram = problem(m + n, m, n, kind)
    F = sf.Factorization([X, Y], target=A, gram=gram, left_gram=left_gram)
    assert F.error == pytest.approx(error(A, X @ Y, gram, left_gram), rel=1e-7)
    assert F.error_against(A, left_gram=left_gram) == pytest.approx(error(A, X @ Y, None, left_gram), rel=1e-7)
    assert F.frobenius_error == pytest.approx(error(A, X @ Y), rel=1e-9)
    # beyond the squares of float64
    assert (F * 1e200).error_against(1e200 * A, gram, left_gram) == pytest.approx(F.error, rel=1e-9)


def test_errors_survive_a_file(tmp_path):
    F = sf.factorize(A, CASES["joint"][0], FAST, gram=GRAM, left_gram=LEFT)
    F.save(tmp_path / "f.safetensors")
    loaded = sf.load(tmp_path / "f.safetensors")
    assert (loaded.error, loaded.frobenius_error) == (F.error, F.frobenius_error) and F.error != F.frobenius_error
    _, record = pack(F, "f", dtype="F16", target=A, gram=GRAM, left_gram=LEFT)
    rounded = [factor.toarray().astype(np.float16).astype(float) for factor in F.factors]
    assert record["error"] == pytest.approx(error(A, rounded[0] @ rounded[1], GRAM, LEFT), rel=1e-9)


@pytest.mark.parametrize("solver", [FAST, sf.Alternating(effort="fast", damping=1e-3)])
def test_dead_outputs_and_few_gradients_are_said(solver):
    rng = np.random.default_rng(8)
    Y = rng.standard_normal((6, M))
    Y[:, 4] = 0
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), solver, gram=GRAM, left_gram=Y.T @ Y)
    assert "1 of 14 outputs are dead (a zero row of the left_gram)." in F.explain()
    assert ("The left_gram has rank 6 of 14 to working precision." in F.explain()) == (not solver.damping)
    assert all(np.isfinite(factor.toarray()).all() for factor in F.factors)
    assert F.error == pytest.approx(error(A, F.todense(), GRAM, Y.T @ Y), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
def test_every_dtype(dtype):
    A, gram, left_gram = problem(9, kind="c" if dtype.startswith("c") else "r")
    A = A.astype(dtype)
    before = A.copy(), gram.copy(), left_gram.copy()
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), FAST, gram=gram, left_gram=left_gram)
    assert F.dtype == A.dtype
    assert F.error == pytest.approx(error(A, F.todense(), gram, left_gram), rel=1e-3)
    for now, then in zip((A, gram, left_gram), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_it_starts_where_it_is_told():
    F = sf.factorize(A, SUPPORTS, left_gram=LEFT, gram=GRAM)
    again = sf.factorize(A, SUPPORTS, sf.PALM(iterations=3), init=F, left_gram=LEFT, gram=GRAM)
    assert again.error <= F.error * (1 + 1e-9)
    for weights in ({"left_gram": LEFT}, {"left_gram": LEFT, "gram": GRAM}):
        exact = sf.factorize(A, sf.Dense(), sf.ConjugateGradient(), init=(A,), **weights)
        assert exact.error < 1e-12


@pytest.mark.parametrize("name", ["joint", "low rank", "three", "one"])
def test_on_the_emulated_gpu(monkeypatch, name):
    install(monkeypatch)
    constraints, solver = CASES[name]
    for kwargs in ({"gram": GRAM, "left_gram": LEFT}, {"left_gram": LEFT}):
        expected = sf.factorize(A, constraints, solver, **kwargs)
        moved = {key: cp.asarray(value) for key, value in kwargs.items()}
        found = sf.factorize(cp.asarray(A), constraints, solver, **moved)
        assert found.device == "cuda:0"
        assert found.error == pytest.approx(expected.error, rel=0.02)


@pytest.mark.parametrize(
    ("constraints", "solver", "other"),
    [
        (SUPPORTS, sf.AlternatingLeastSquares(), "Alternating"),
        (SUPPORTS, sf.SubmatrixSVD(), "Alternating"),
        (sf.Chain.monarch((M, N), blocks=(2, 3)), sf.Hierarchical(), "PALM"),
        (sf.Chain.monarch((M, N), blocks=(2, 3)), sf.CrossApproximation(), "PALM"),
    ],
)
def test_solvers_that_take_rows_apart_say_so(constraints, solver, other):
    with pytest.raises(ArgumentError, match=rf"does not weigh rows; pass solver=sparsefact\.{other}\(\)"):
        sf.factorize(A, constraints, solver, left_gram=LEFT)
    F = sf.factorize(A, constraints, getattr(sf, other)(), left_gram=LEFT)
    assert F.error < 1


def test_the_choice_of_a_solver_says_why():
    F = sf.factorize(A, SUPPORTS, left_gram=LEFT)
    assert type(F.solver) is sf.Alternating and "Alternating was chosen, since there is a left_gram." in F.explain()
    chain = sf.Chain.butterfly(8)
    F = sf.factorize(A[:8, :8], chain, left_gram=np.eye(8))
    assert type(F.solver) is sf.PALM and "PALM was chosen, since there is a left_gram." in F.explain()


@pytest.mark.parametrize(
    ("left_gram", "kind", "words"),
    [
        (np.eye(N), ShapeError, r"left_gram has shape \(18, 18\), but A has 14 rows; it must be \(14, 14\)"),
        (np.triu(np.ones((M, M))), ArgumentError, "left_gram differs from its conjugate transpose"),
        (-np.eye(M), ArgumentError, "left_gram has a diagonal entry of -1; it must be positive semi-definite"),
        (np.eye(M) + np.eye(M, k=1) + np.eye(M, k=-1), ArgumentError, "left_gram has an eigenvalue of -0"),
        (np.zeros((M, M)), ArgumentError, "left_gram is zero, .* of the gradients at the outputs"),
        (np.full((M, M), np.inf), NonFiniteError, "left_gram"),
        (np.eye(M) * (1 + 0j), DtypeError, "left_gram has dtype complex128, but A is real"),
        (np.eye(M, dtype=int), DtypeError, "left_gram"),
        (np.ones(M), ShapeError, "left_gram"),
    ],
)
def test_bad_input_gets_a_sentence(left_gram, kind, words):
    with pytest.raises(kind, match=words):
        sf.factorize(A, sf.double_sparse(A.shape, 0.5), left_gram=left_gram)


def test_bad_weights_of_an_error_get_a_sentence():
    F = sf.Factorization([A])
    with pytest.raises(ShapeError, match=r"left_gram has shape \(18, 18\); a product with 14 rows needs"):
        F.error_against(A, left_gram=np.eye(N))
    with pytest.raises(NonFiniteError, match="target, gram or left_gram"):
        F.error_against(A, left_gram=np.full((M, M), np.nan))
