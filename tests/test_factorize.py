"""`factorize` and `Alternating`: budgets, exact cases, quality against independent bounds, and bad input."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

import sparsefact as sf
from sparsefact.errors import ArgumentError, BudgetError, DeviceError, DtypeError, NonFiniteError, ShapeError
from sparsefact.minimizers.protocol import Outcome

FAST = sf.Alternating(effort="fast")


def _gaussian(m, n, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal((m, n))
    return A.astype(dtype)


def _magnitude_error(A, count):
    squares = np.sort(abs(A).ravel() ** 2)
    return np.sqrt(squares[: A.size - count].sum() / squares.sum())


@given(
    st.integers(1, 14),
    st.integers(1, 14),
    st.floats(0.3, 1.0),
    st.sampled_from(["float32", "float64", "complex64", "complex128"]),
    st.integers(0, 2**32 - 1),
)
@example(7, 6, 1 / 3, "float32", 0)
@settings(max_examples=60, deadline=None)
def test_budget_shapes_and_error_hold_for_any_matrix(m, n, density, dtype, seed):
    A = _gaussian(m, n, seed, dtype)
    try:
        constraint = sf.double_sparse((m, n), density)
    except BudgetError:
        assert density * m * n < m + min(m, n) + 1
        return
    before = A.copy()
    F = sf.factorize(A, constraint, FAST)
    assert np.array_equal(A, before)
    assert F.nnz == sum(f.nnz for f in F.factors) <= density * m * n
    assert [f.shape for f in F.factors] == [(m, min(m, n)), (min(m, n), n)]
    assert F.dtype == A.dtype and constraint.contains(F.factors)
    product = F.factors[0].toarray().astype("complex128") @ F.factors[1].toarray()
    assert F.error == pytest.approx(np.linalg.norm(A - product) / np.linalg.norm(A), rel=1e-5, abs=1e-12)
    assert F.error <= 1 + 1e-6


@pytest.mark.parametrize("density, bound", [(0.5, 0.12), (0.3, 0.29), (0.2, 0.45)])
def test_quality_on_gaussian_matrices(density, bound):
    # The published algorithm reaches .137 at density .5 on this size; magnitude pruning .27, .47, .59.
    A = _gaussian(128, 128)
    F = sf.factorize(A, sf.double_sparse(A.shape, density))
    assert F.error < bound < _magnitude_error(A, F.nnz)


def test_more_effort_is_better_and_density_is_monotone():
    A = _gaussian(64, 64)
    errors = [
        sf.factorize(A, sf.double_sparse(A.shape, 0.3), sf.Alternating(effort=effort)).error
        for effort in ("fast", "balanced", "high")
    ]
    assert errors == sorted(errors, reverse=True)
    errors = [sf.factorize(A, sf.double_sparse(A.shape, d), FAST).error for d in (0.2, 0.3, 0.4, 0.5, 0.8)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_special_matrices(shape):
    m, n = shape
    constraint = sf.double_sparse(shape, 0.4)
    rng = np.random.default_rng(0)
    zero = sf.factorize(np.zeros(shape), constraint)
    assert zero.error == 0.0 and zero.nnz == 0
    rank_one = np.outer(rng.standard_normal(m), rng.standard_normal(n))
    for name, A, bound in [
        ("constant", np.full(shape, 3.0), 1e-6),
        ("identity", np.eye(m, n), 1e-6),
        ("rank one", rank_one, 1e-6),
        ("signs", np.sign(rng.standard_normal(shape)), 0.6),
        ("one entry", np.eye(1, m * n).reshape(shape), 1e-6),
        ("zero row", np.where(np.arange(m)[:, None] == 1, 0.0, rng.standard_normal(shape)), 0.6),
    ]:
        F = sf.factorize(A, constraint)
        assert F.error < bound, name
        assert F.nnz <= constraint.budget


def test_an_exact_product_of_sparse_factors_is_found():
    rng = np.random.default_rng(1)
    left = sf.TopK(nnz=3, per="row").project(rng.standard_normal((48, 48)))
    right = sf.TopK(nnz=3, per="row").project(rng.standard_normal((48, 48)))
    A = left @ right
    # 345 entries, of which 288 would do; A has more than that.
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.15), sf.Alternating(effort="high"))
    assert F.error < 0.25 * _magnitude_error(A, F.nnz)


@pytest.mark.parametrize("name", ["constant", "identity", "rank one", "signs"])
def test_special_matrices_in_float32(name):
    rng = np.random.default_rng(0)
    A = {
        "constant": np.ones((384, 384)),
        "identity": np.eye(384),
        "rank one": np.outer(rng.standard_normal(384), rng.standard_normal(384)),
        "signs": np.sign(rng.standard_normal((384, 384))),
    }[name].astype(np.float32)
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.3), FAST)
    assert F.error < (0.5 if name == "signs" else 5e-6)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("left_density", [None, 0.35])
def test_a_matrix_that_is_sparse_or_of_low_rank_already_comes_out_exactly(transpose, left_density):
    rng = np.random.default_rng(5)
    pruned = sf.TopK(density=0.2).project(rng.standard_normal((30, 50)))
    low_rank = rng.standard_normal((30, 3)) @ rng.standard_normal((3, 50))
    for A, words in ((pruned, "pruned"), (low_rank, "low rank")):
        A = A.T.copy() if transpose else A
        F = sf.factorize(A, sf.double_sparse(A.shape, 0.5, left_density=None if transpose else left_density))
        assert F.error < 1e-13 and words in F.explain() and F.nnz <= 0.5 * A.size


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_never_worse_than_an_identity_beside_the_pruned_matrix(m, n, seed):
    # Heavy tails are what pruning is best at.
    A = np.random.default_rng(seed).standard_cauchy((m, n)) ** 3
    F = sf.factorize(A, sf.double_sparse((m, n), 1.0), FAST)
    assert F.error <= _magnitude_error(A, m * n - min(m, n)) * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_matrix_does_not_matter(scale):
    A = _gaussian(20, 30)
    constraint = sf.double_sparse(A.shape, 0.4)
    plain, scaled = sf.factorize(A, constraint, FAST), sf.factorize(A * scale, constraint, FAST)
    assert scaled.error == pytest.approx(plain.error, rel=1e-3)
    assert sf.factorize((A * scale).astype(np.float32), constraint, FAST).error == pytest.approx(plain.error, rel=0.1)


def test_transposed_problems_are_as_good():
    A = _gaussian(24, 60)
    wide = sf.factorize(A, sf.double_sparse(A.shape, 0.3))
    tall = sf.factorize(A.T, sf.double_sparse(A.T.shape, 0.3))
    assert tall.factors[1].shape == (24, 24)
    assert tall.error == pytest.approx(wide.error, rel=0.02)


def test_same_seed_same_bits():
    A = _gaussian(30, 20, dtype=np.float32)
    first, second = (sf.factorize(A, sf.double_sparse(A.shape, 0.4, inner=26), seed=3) for _ in range(2))
    for one, other in zip(first.factors, second.factors, strict=True):
        assert (one != other).nnz == 0 and np.array_equal(one.data, other.data)


@pytest.mark.parametrize("inner", [6, 20, 33])
def test_any_inner_dimension(inner):
    A = _gaussian(20, 26)
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5, inner=inner))
    assert F.factors[0].shape == (20, inner) and F.factors[1].shape == (inner, 26) and F.error < 0.8
    G = sf.factorize(A, (sf.TopK(density=0.5), sf.TopK(density=0.5)), inner=inner)
    assert G.factors[1].shape == (inner, 26)


def test_a_fixed_split_is_kept():
    A = _gaussian(30, 40)
    constraint = sf.double_sparse(A.shape, 0.4, left_density=0.2)
    F = sf.factorize(A, constraint)
    assert F.factors[0].nnz <= constraint.left_nnz == 180
    assert F.factors[1].nnz <= 480 - 180
    assert "as asked: 180" in F.explain()


def test_the_split_beats_the_published_rule_at_low_density():
    A = _gaussian(96, 96)
    ours = sf.factorize(A, sf.double_sparse(A.shape, 0.2))
    published = sf.factorize(A, sf.double_sparse(A.shape, 0.2, left_density=0.16))
    assert ours.error < 0.97 * published.error


def test_pairs_of_fixed_supports_give_the_blockwise_optimum():
    # Block-diagonal times block-permuted supports (a Monarch pair): the optimum is a rank-one fit of every block.
    A = _gaussian(12, 12)
    left, right = sf.KroneckerSupport(1, 4, 4, 3), sf.KroneckerSupport(4, 3, 3, 1)
    F = sf.factorize(A, (left, right), sf.Alternating(refits=500))
    exact = sf.factorize(A, (left, right))
    assert all(isinstance(factor, sf.KroneckerFactor) for factor in F.factors)
    blocks = A.reshape(4, 3, 4, 3).transpose(1, 2, 0, 3)
    best = sum(np.linalg.svd(blocks[i, j], compute_uv=False)[0] ** 2 for i in range(3) for j in range(4))
    assert exact.error == pytest.approx(np.sqrt(1 - best / np.linalg.norm(A) ** 2), rel=1e-9)
    assert exact.error <= F.error + 1e-9
    same = sf.factorize(A, (sf.Support(left.mask()), sf.Support(right.mask())), sf.Alternating(refits=500))
    assert same.error == pytest.approx(F.error, rel=1e-6)
    assert not same.factors[0].toarray()[~left.mask()].any()


def test_the_solver_is_chosen_by_the_constraints():
    A = _gaussian(12, 12)
    monarch = sf.KroneckerSupport(1, 4, 4, 3), sf.KroneckerSupport(4, 3, 3, 1)
    lower = sf.Support(np.tri(12, dtype=bool))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 12))
    for constraints, options, solver, words in [
        (monarch, {}, sf.SubmatrixSVD, "tractable"),
        (monarch, {"gram": np.diag(rng.random(12) + 0.1)}, sf.SubmatrixSVD, "tractable"),
        (monarch, {"gram": X.T @ X}, sf.AlternatingLeastSquares, "gram is not diagonal"),
        ((lower, lower.T), {}, sf.AlternatingLeastSquares, "not known to be tractable"),
        ((sf.TopK(density=0.4), sf.Dense()), {}, sf.Alternating, "Alternated"),
        (tuple(sf.TopK(density=0.5) for _ in range(3)), {}, sf.PALM, "3 factors"),
    ]:
        F = sf.factorize(A, constraints, **options)
        assert isinstance(F.solver, solver) and words in F.explain(), words
        assert len(F.factors) == len(constraints) and F.error < 1
    with pytest.raises(ArgumentError, match=r"takes two factors, and there are 3; use sparsefact\.PALM"):
        sf.factorize(A, (sf.Dense(),) * 3, sf.Alternating())


def test_dense_and_patterned_factors():
    A = _gaussian(24, 32)
    F = sf.factorize(A, (sf.Dense(), sf.NOfM(1, 2)), inner=16)
    assert isinstance(F.factors[0], np.ndarray) and sparse.issparse(F.factors[1])
    assert sf.NOfM(1, 2).contains(F.factors[1])
    G = sf.factorize(A, (sf.BlockTopK((4, 4), density=0.5), sf.TopK(nnz=8, per="row")))
    assert sf.BlockTopK((4, 4), density=0.5).contains(G.factors[0])
    assert np.diff(G.factors[1].indptr).max() <= 8


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    A = _gaussian(16, 24).astype(dtype)
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), FAST)
    same = sf.factorize(A.astype(np.float32), sf.double_sparse(A.shape, 0.5), FAST)
    assert F.dtype == np.float32 and F.error == same.error


def test_a_gram_weights_the_loss():
    rng = np.random.default_rng(2)
    A = rng.standard_normal((24, 32))
    X = rng.standard_normal((100, 32)) * np.geomspace(0.1, 3, 32) @ (np.eye(32) + 0.2 * rng.standard_normal((32, 32)))
    constraint, gram = sf.double_sparse(A.shape, 0.4), X.T @ X
    F, plain = sf.factorize(A, constraint, gram=gram), sf.factorize(A, constraint)
    P = F.todense()
    assert F.error == pytest.approx(np.linalg.norm((A - P) @ X.T) / np.linalg.norm(A @ X.T), rel=1e-6)
    assert F.frobenius_error == pytest.approx(np.linalg.norm(A - P) / np.linalg.norm(A), rel=1e-6)
    assert F.error < 0.8 * plain.error_against(A, gram)
    assert sf.factorize(A, constraint, gram=np.eye(32)).error == pytest.approx(plain.error, rel=0.02)


def test_a_gram_with_dead_inputs_and_low_rank():
    rng = np.random.default_rng(3)
    A, X = rng.standard_normal((16, 24)), rng.standard_normal((9, 24))
    X[:, 5] = 0
    for solver in (None, FAST):
        F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), solver, gram=X.T @ X)
        assert 0 <= F.error < 0.3 and np.isfinite(F.todense()).all()


def test_complex_gram():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((40, 12)) + 1j * rng.standard_normal((40, 12))
    A = _gaussian(10, 12, dtype=complex)
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.6), gram=X.conj().T @ X)
    R = A - F.todense()
    # tr(R gram R^H) = ||X conj(R)^T...||: written out with the gram's square root.
    root = np.linalg.cholesky(X.conj().T @ X)
    assert F.error == pytest.approx(np.linalg.norm(R @ root) / np.linalg.norm(A @ root), rel=1e-6)
    assert F.error < 0.6


def test_refits_never_raise_the_error():
    A = _gaussian(32, 48)
    constraint = sf.double_sparse(A.shape, 0.3)
    errors = [sf.factorize(A, constraint, sf.Alternating(refits=r, fits=0, exchanges=0)).error for r in range(5)]
    assert errors == sorted(errors, reverse=True)


def test_warm_start_from_an_earlier_result():
    A = _gaussian(24, 24)
    constraint = sf.double_sparse(A.shape, 0.4)
    first = sf.factorize(A, constraint)
    again = sf.factorize(A, constraint, sf.Alternating(outer=2), init=first)
    assert again.error < sf.factorize(A, constraint, sf.Alternating(outer=2)).error


def test_callback_history_status_and_limits():
    A = _gaussian(32, 32)
    constraint = sf.double_sparse(A.shape, 0.4)
    seen = []
    F = sf.factorize(A, constraint, sf.Alternating(outer=12, report_every=5), callback=seen.append)
    assert [p.iteration for p in F.history] == [5, 10, 12] and tuple(seen) == F.history
    assert F.history[-1].error == pytest.approx(F.error, rel=0.3)
    assert F.history[-1].objective == pytest.approx(0.5 * (F.history[-1].error * np.linalg.norm(A)) ** 2, rel=1e-6)
    stopped = sf.factorize(A, constraint, callback=lambda progress: True)
    assert stopped.status is sf.Status.STOPPED and len(stopped.history) == 1
    limited = sf.factorize(A, constraint, time_limit=1e-6)
    assert limited.status is sf.Status.LIMIT
    for ended_early in (stopped, limited):
        assert ended_early.nnz <= constraint.budget and ended_early.error < 0.9
    assert "marginal gain" in F.explain() and "Alternating(" in F.explain() and F.seconds > 0


def test_other_inner_solvers_can_take_the_half_steps():
    @dataclasses.dataclass(frozen=True)
    class Projected:
        """Exact least squares, then projection: no dual, no memory."""

        iterations: int = 1

        def init(self, problem, warm=None):
            return problem

        def step(self, problem, state):
            pass

        def finish(self, problem, state):
            gram = state.objective.gram + 1e-3 * np.eye(state.objective.shape[0])
            value = state.constraint.project(np.linalg.solve(gram, state.objective.cross))
            return Outcome(value, sf.Status.LIMIT)

    A = _gaussian(24, 24)
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), sf.Alternating(inner=Projected(), outer=10))
    assert F.nnz <= 288 and F.error < 0.6


BAD = [
    (lambda A: (A.astype(int), sf.double_sparse(A.shape, 0.5)), DtypeError, r"A has dtype int64.*astype\('float64'\)"),
    (lambda A: (A > 0, sf.double_sparse(A.shape, 0.5)), DtypeError, "bool"),
    (lambda A: (np.where(A > 2, np.nan, A), sf.double_sparse(A.shape, 0.5)), NonFiniteError, "A holds .* NaN"),
    (lambda A: (A[0], sf.double_sparse(A.shape, 0.5)), ShapeError, "2-D"),
    (lambda A: (A[:0], sf.double_sparse(A.shape, 0.5)), ShapeError, "at least one row"),
    (lambda A: (sparse.csr_array(A), sf.double_sparse(A.shape, 0.5)), DtypeError, "toarray"),
    (lambda A: (A.T, sf.double_sparse(A.shape, 0.5)), ShapeError, r"A has shape \(14, 10\)"),
    (lambda A: (A, 0.3), ArgumentError, "not a constraint"),
    (lambda A: (A, (sf.TopK, sf.TopK)), ArgumentError, "not a constraint"),
    (lambda A: (A, ()), ArgumentError, "constraints is empty"),
    (lambda A: (A, sf.TopK(density=0.1), sf.PALM()), ArgumentError, "finds a product, and there is one factor"),
    (lambda A: (A, (sf.TopK(nnz=1000), sf.Dense())), BudgetError, "1000"),
    (
        lambda A: (A, (sf.Support(np.ones((10, 4), bool)), sf.Support(np.ones((5, 14), bool)))),
        ShapeError,
        "its neighbour: 5 is not 4",
    ),
    (lambda A: (A, (sf.Support(np.ones((9, 4), bool)), sf.Dense())), ShapeError, r"A of shape \(10, 14\): 9 is not 10"),
]


@pytest.mark.parametrize("make, error, words", BAD)
def test_bad_input_gets_a_sentence(make, error, words):
    with pytest.raises(error, match=words):
        sf.factorize(*make(_gaussian(10, 14)))


def test_bad_options_get_a_sentence():
    A = _gaussian(10, 14)
    constraint = sf.double_sparse(A.shape, 0.5)
    for options, error, words in [
        ({"gram": np.eye(10)}, ShapeError, r"it must be \(14, 14\)"),
        ({"gram": np.triu(np.ones((14, 14)))}, ArgumentError, "conjugate transpose"),
        ({"gram": -np.eye(14)}, ArgumentError, "positive semi-definite"),
        ({"gram": np.zeros((14, 14))}, ArgumentError, "gram is zero"),
        ({"gram": np.full((14, 14), np.nan)}, NonFiniteError, "gram"),
        ({"gram": np.eye(14) * (1 + 0j)}, DtypeError, "complex128"),
        ({"inner": 3}, ShapeError, "inner=3 contradicts"),
        ({"inner": 0}, ArgumentError, "inner=0"),
        ({"init": A}, ArgumentError, "tuple of 2 factors"),
        ({"init": (A, A)}, ShapeError, r"init\[0\] has shape"),
        ({"device": "cuda"}, DeviceError, "cuda1[23]|cupy|GPU"),
        ({"device": "tpu"}, DeviceError, "'tpu' is not known"),
        ({"seed": -1}, ArgumentError, "seed=-1"),
        ({"callback": 3}, ArgumentError, "callback=3 cannot be called"),
        ({"time_limit": "1 s"}, ArgumentError, "time_limit='1 s'"),
        ({"solver": sf.Alternating}, ArgumentError, r"Alternating\(\)"),
        ({"solver": sf.ADMM()}, ArgumentError, "finds one matrix"),
    ]:
        with pytest.raises(error, match=words):
            sf.factorize(A, constraint, **options)
    for changes in (
        *({"effort": "max"}, {"outer": 0}, {"refits": -1}, {"fits": 1.5}, {"exchanges": True}, {"gram_from": 2}),
        *({"inner": 3}, {"inner": sf.ADMM}),
    ):
        with pytest.raises(ArgumentError, match=next(iter(changes))):
            sf.Alternating(**changes)
    with pytest.raises(BudgetError, match="density"):
        sf.double_sparse((100, 100), 0.01)


def test_one_constraint_gives_one_sparse_matrix():
    rng = np.random.default_rng(6)
    A, X = rng.standard_normal((8, 10)), rng.standard_normal((40, 10))
    support = rng.random((8, 10)) < 0.4
    F = sf.factorize(A, (sf.Support(support),), gram=X.T @ X)
    for row, on, found in zip(A, support, F.todense(), strict=True):
        expected = np.linalg.lstsq(X[:, on], X @ row, rcond=None)[0]
        np.testing.assert_allclose(found[on], expected, rtol=1e-6, atol=1e-9)
    assert len(F.factors) == 1 and "one factor" in F.explain() and not F.todense()[~support].any()
    # without a gram the best matrix keeps the largest entries
    plain = sf.factorize(A, sf.TopK(nnz=23))
    np.testing.assert_allclose(plain.todense(), sf.TopK(nnz=23).project(A), rtol=1e-12)
    assert plain.error == pytest.approx(_magnitude_error(A, 23))
    pruned = sf.factorize(A, sf.TopK(nnz=23, per="matrix"), gram=X.T @ X)
    assert pruned.error < plain.error_against(A, X.T @ X) and pruned.nnz == 23
    assert pruned.history[-1].error == pytest.approx(pruned.error, rel=0.05)


def _correlated(seed, m, n, samples=400):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples, n)) * np.geomspace(0.1, 3, n) @ (np.eye(n) + rng.standard_normal((n, n)) / n**0.5)
    return rng.standard_normal((m, n)), X.T @ X


def test_the_full_gram_in_the_search_beats_its_diagonal():
    A, gram = _correlated(7, 48, 48)
    constraint = sf.double_sparse(A.shape, 0.25)
    full = sf.factorize(A, constraint, gram=gram)
    diagonal = sf.factorize(A, constraint, sf.Alternating(gram_from=1), gram=gram)
    assert full.error < 0.95 * diagonal.error


def test_every_stage_of_the_polish_lowers_the_error():
    A, gram = _correlated(8, 40, 56)
    for constraints in (sf.double_sparse(A.shape, 0.3), (sf.NOfM(1, 4), sf.TopK(nnz=12, per="row"))):
        for weight in (None, gram):
            errors = [
                sf.factorize(A, constraints, sf.Alternating(refits=r, fits=f, exchanges=e), gram=weight).error
                for r, f, e in ((0, 0, 0), (1, 0, 0), (1, 8, 0), (1, 8, 8))
            ]
            assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


@pytest.mark.parametrize("kind", ["dead", "rank", "damped"])
def test_poor_grams_are_said(kind):
    rng = np.random.default_rng(9)
    A, X = rng.standard_normal((16, 24)), rng.standard_normal((9 if kind == "rank" else 100, 24))
    if kind == "dead":
        X[:, [3, 7]] = 0
    solver = sf.Alternating(damping=0.01 if kind == "damped" else 0.0)
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), solver, gram=X.T @ X)
    words = {"dead": "2 of 24 inputs are dead", "rank": "rank 9 of 24", "damped": "to the left factor"}[kind]
    assert words in F.explain() and F.error < 0.3


@pytest.mark.parametrize("samples", [20, 200])
def test_a_poor_gram_of_many_inputs_is_said_without_all_its_eigenvalues(samples):
    rng = np.random.default_rng(10)
    A, X = rng.standard_normal((8, 40)), rng.standard_normal((samples, 40))
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), gram=X.T @ X)
    assert ("rank deficient" in F.explain()) == (samples < 40) and F.error < 0.5


def test_a_gram_with_a_negative_eigenvalue_gets_a_sentence():
    gram = np.eye(14)
    gram[0, 1] = gram[1, 0] = 1.1
    with pytest.raises(ArgumentError, match=r"an eigenvalue of -0\.1; it must be positive semi-definite"):
        sf.factorize(_gaussian(10, 14), sf.double_sparse((10, 14), 0.5), gram=gram)
    for dtype in ("float32", "float64"):
        X = np.random.default_rng(0).standard_normal((3, 14)).astype(dtype)
        assert (
            sf.factorize(_gaussian(10, 14, dtype=dtype), sf.double_sparse((10, 14), 0.5), FAST, gram=X.T @ X).error
            < 0.1
        )


def test_a_wider_inner_dimension_pays_for_a_tall_matrix():
    """The same nonzeros and, at 1 / 1.25^2 of the iterations, about the same time."""
    A = _gaussian(160, 40)
    plain = sf.factorize(A, sf.double_sparse(A.shape, 0.3), sf.Alternating(outer=45))
    wide = sf.factorize(A, sf.double_sparse(A.shape, 0.3, inner="auto"), sf.Alternating(outer=29))
    assert wide.factors[0].shape == (160, 50) and wide.nnz <= plain.constraint.budget
    assert wide.error < 0.95 * plain.error
