"""Every solver on the emulated GPU: nothing slips to the host, the CPU's results, and few waits per iteration."""

from __future__ import annotations

from itertools import pairwise

import fake_cupy as cp
import numpy as np
import pytest
from emulated import install

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.loop import run

RNG = np.random.default_rng(0)
X, TRUTH = RNG.standard_normal((60, 20)), RNG.standard_normal((20, 12))
A = RNG.standard_normal((24, 36))
INPUTS = RNG.standard_normal((50, 36))
GRAM = INPUTS.T @ INPUTS
SUPPORT = sf.Support(RNG.random((20, 12)) < 0.4)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    return install(monkeypatch)


def problems(constraints, shapes, *, matrix=A, gram=None, start=None):
    """One problem on the CPU and the same on the emulated GPU."""
    for put in (np.asarray, cp.asarray):
        moved = [None if x is None else put(x) for x in (matrix, gram)]
        first = None if start is None else tuple(map(put, start))
        yield FactorizationProblem(moved[0], constraints, shapes, moved[1], get_backend(moved[0]), first)


def both(solver, *args, **kwargs):
    """Run on the CPU and on the emulated GPU; return the two runs, the second one's waits are counted."""
    host, device = problems(*args, **kwargs)
    expected = run(solver, host)
    cp.reset()
    found = run(solver, device)
    assert all(type(value) is cp.ndarray for value in found.outcome.value)
    assert found.outcome.status is expected.outcome.status
    return expected, found


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize(
    "constraint",
    [
        sf.TopK(density=0.3),
        sf.TopK(density=0.5, per="row"),
        sf.TopK(density=0.5, per="column"),
        sf.NOfM(2, 4),
        sf.NOfM(1, 2, axis=0),
        sf.BlockTopK((4, 4), density=0.5),
        SUPPORT,
        sf.KroneckerSupport(2, 5, 3, 2),
        sf.Dense(),
    ],
    ids=repr,
)
def test_minimize(constraint, dtype):
    gram, cross = (X.T @ X).astype(dtype), (X.T @ X @ TRUTH).astype(dtype)
    expected = sf.minimize(sf.Quadratic(gram, cross), constraint)
    found = sf.minimize(sf.Quadratic(cp.asarray(gram), cp.asarray(cross)), constraint)
    assert type(found.value) is cp.ndarray
    assert found.status is expected.status
    assert found.objective == pytest.approx(expected.objective, rel=1e-5 if dtype == "float32" else 1e-10)
    np.testing.assert_array_equal(found.value.get() != 0, expected.value != 0)


def test_minimize_moves_numpy_arrays_there_and_back():
    f = sf.Quadratic(X.T @ X, X.T @ X @ TRUTH)
    found = sf.minimize(f, sf.TopK(density=0.3), init=TRUTH, device="cuda")
    assert type(found.value) is np.ndarray
    np.testing.assert_allclose(found.value, sf.minimize(f, sf.TopK(density=0.3), init=TRUTH).value, atol=1e-10)
    with pytest.raises(sf.errors.DeviceError, match="device='cuda:3' does not exist"):
        sf.minimize(f, sf.TopK(density=0.3), device="cuda:3")


def test_minimize_between_two_grams_from_a_start():
    arrays = X.T @ X, X.T @ X @ TRUTH, TRUTH.T @ TRUTH + np.eye(12)
    expected = sf.minimize(sf.Quadratic(*arrays), sf.TopK(density=0.3), init=TRUTH)
    found = sf.minimize(sf.Quadratic(*map(cp.asarray, arrays)), sf.TopK(density=0.3), init=cp.asarray(TRUTH))
    assert found.objective == pytest.approx(expected.objective, rel=1e-8)


def test_minimize_waits_for_reports_and_inversions_only():
    f = sf.Quadratic(cp.asarray(X.T @ X), cp.asarray(X.T @ X @ TRUTH))

    def waits(iterations):
        cp.reset()
        sf.minimize(f, sf.TopK(density=0.3), sf.ADMM(iterations=iterations, rho=1.0, rho_start=1.0, report_every=10))
        return cp.syncs

    assert waits(60) - waits(40) == 2  # a report every ten iterations


@pytest.mark.parametrize("gram", [None, GRAM], ids=["plain", "gram"])
@pytest.mark.parametrize(
    ("constraints", "inner"),
    [
        (sf.double_sparse(A.shape, 0.4), 24),
        (sf.double_sparse(A.shape, 0.4, inner=40), 40),
        ((sf.TopK(density=0.4), sf.NOfM(2, 4)), 24),
        ((sf.Dense(), sf.TopK(density=0.4, per="column")), 10),
    ],
    ids=["joint", "wide", "pair", "dense"],
)
def test_alternating(constraints, inner, gram):
    expected, found = both(sf.Alternating(effort="fast"), constraints, ((24, inner), (inner, 36)), gram=gram)
    assert found.history[-1].error == pytest.approx(expected.history[-1].error, rel=0.02)


def test_alternating_from_a_start_and_with_a_matrix_out_of_range():
    start = RNG.standard_normal((24, 24)), RNG.standard_normal((24, 36))
    both(sf.Alternating(outer=3), sf.double_sparse(A.shape, 0.4), ((24, 24), (24, 36)), matrix=1e20 * A, start=start)


def test_waits_of_an_outer_iteration():
    def waits(outer):
        _, device = problems(sf.double_sparse(A.shape, 0.4), ((24, 24), (24, 36)))
        solver, state = sf.Alternating(outer=100), None
        state = solver.init(device)
        for _ in range(outer):
            solver.step(device, state)
        return cp.syncs

    first = waits(10)
    cp.reset()
    second = waits(14)
    # two inversions in each half-step, each with two looks at whether it failed; vanished terms; the split
    assert second - first == 4 * (2 * 2 * 2 + 2)


KRONECKER = tuple(sf.KroneckerSupport(a, 2, 2, 8 // a) for a in (1, 2, 4, 8))


@pytest.mark.parametrize(
    ("constraints", "lengths", "matrix", "gram"),
    [
        ((sf.TopK(density=0.4), sf.TopK(density=0.3), sf.NOfM(2, 4)), (24, 24, 24, 36), A, None),
        ((sf.Dense(), sf.TopK(density=0.3)), (24, 24, 36), A, GRAM),
        (KRONECKER, (16,) * 5, A[:16, :16], None),
        (KRONECKER[:2], (16,) * 3, 0 * A[:16, :16], None),
    ],
    ids=["three", "gram", "kronecker", "zero"],
)
def test_palm(constraints, lengths, matrix, gram):
    shapes = tuple(pairwise(lengths))
    expected, found = both(sf.PALM(iterations=30), constraints, shapes, matrix=matrix, gram=gram)
    assert found.history[-1].error == pytest.approx(expected.history[-1].error, rel=1e-6)


ORDERS = ["left-to-right", "right-to-left", "balanced", (3, 1, 2, 4)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"certificate": "full"}, {"sweeps": 2}, {"tolerance": 0.5}],
    ids=["plain", "full", "sweeps", "ranks"],
)
def test_hierarchical(order, options):
    matrix, solver = RNG.standard_normal((32, 32)), sf.Hierarchical(order=order, **options)
    expected = sf.factorize(matrix, sf.Chain.butterfly(32), solver)
    for found in (
        sf.factorize(cp.asarray(matrix), sf.Chain.butterfly(32), solver),
        sf.factorize(matrix, sf.Chain.butterfly(32), solver, device="cuda"),
    ):
        assert found.error == pytest.approx(expected.error, rel=1e-9, abs=1e-14)
        assert found.certificate.lower_bound == pytest.approx(expected.certificate.lower_bound, rel=1e-9, abs=1e-10)
        assert found.certificate.verify(matrix)
        assert [f.shape for f in found.factors] == [f.shape for f in expected.factors]


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_hierarchical_finds_a_product_of_its_kind(order, dtype):
    factors = [RNG.standard_normal((1 << k, 2, 2, 16 >> k)) for k in range(5)]
    product = sf.Factorization([sf.KroneckerFactor(v.astype(dtype)) for v in factors]).todense()
    found = sf.factorize(cp.asarray(product), sf.Chain.butterfly(32), sf.Hierarchical(order=order))
    assert found.error < 1e-5


@pytest.mark.parametrize("order", ["left-to-right", "right-to-left", "balanced"])
def test_waits_of_a_butterfly_do_not_grow_with_its_order(order):
    """Whether all is finite; what the steps left out; the factors."""
    for n in (8, 64):
        cp.reset()
        sf.factorize(cp.asarray(RNG.standard_normal((n, n))), sf.Chain.butterfly(n), sf.Hierarchical(order=order))
        assert cp.syncs == 3, cp.waits


def test_hierarchical_with_weights_on_part_of_a_matrix_and_transposed():
    weights = np.diag(RNG.random(16) + 0.1)
    part = sf.Chain([sf.KroneckerSupport(2, 2, 2, 4), sf.KroneckerSupport(4, 2, 2, 2)])
    uneven = sf.Chain([sf.KroneckerSupport(1, 4, 2, 4), sf.KroneckerSupport(2, 4, 8, 1)])
    for chain in (part, sf.Chain.butterfly(16), uneven, sf.Chain([k.T for k in reversed(uneven)])):
        matrix = RNG.standard_normal(chain.shape)
        gram = weights if chain.shape[1] == 16 else None
        expected = sf.factorize(matrix, chain, sf.Hierarchical(), gram=gram)
        moved = None if gram is None else cp.asarray(gram)
        found = sf.factorize(cp.asarray(matrix), chain, sf.Hierarchical(), gram=moved)
        assert found.error == pytest.approx(expected.error, rel=1e-9)
        assert found.certificate.verify(matrix) and not found.certificate.verify(matrix + 1)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_a_matrix_that_stays_on_the_host_goes_through_the_gpu_panel_by_panel(tmp_path, dtype):
    chain = sf.Chain.butterfly(64)
    matrix = (RNG.standard_normal((64, 64)) * (1 + 1j if dtype[0] == "c" else 1)).astype(dtype)
    mapped = np.memmap(tmp_path / "matrix", dtype=dtype, mode="w+", shape=(64, 64))
    mapped[:] = matrix
    entries = sf.Entries((64, 64), dtype, lambda i, j: matrix[np.ix_(i, j)])
    weights = np.diag(RNG.random(64) + 0.1).astype(dtype)
    for source in (mapped, entries):
        for gram in (None, weights):
            expected = sf.factorize(source, chain, gram=gram)
            found = sf.factorize(source, chain, gram=gram, device="cuda")
            assert found.error == pytest.approx(expected.error, rel=1e-5 if dtype == "float32" else 1e-12)
            assert found.certificate.verify(source) and found.device == "cpu"
    part = sf.Chain([sf.KroneckerSupport(2, 2, 2, 4), sf.KroneckerSupport(4, 2, 2, 2)])
    for chain in (part, sf.Chain(part[:1])):
        small = sf.Entries((16, 16), dtype, lambda i, j: matrix[np.ix_(i, j)])
        found = sf.factorize(small, chain, sf.Hierarchical(), device="cuda")
        assert found.error == pytest.approx(sf.factorize(small, chain, sf.Hierarchical()).error, rel=1e-5)


@pytest.mark.parametrize("put", [cp.asarray, np.asarray])
def test_cross_approximation_is_refused(put):
    with pytest.raises(sf.errors.DeviceError, match="does not run on a GPU; pass a NumPy array"):
        sf.factorize(put(A[:16, :16]), sf.Chain.butterfly(16), sf.CrossApproximation(), device="cuda")


BLOCKS = sf.Support(np.kron(np.eye(4, dtype=bool), np.ones((6, 2), bool)))
ACROSS = sf.Support(np.kron(np.eye(4, dtype=bool), np.ones((2, 9), bool)))
# a class that matches cells freely beside another one
LINES = sf.Support(np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=bool))
SPILLS = sf.Support(np.array([[0, 1, 0, 1, 0], [0, 1, 0, 0, 0], [1, 0, 1, 1, 1]], dtype=bool))


@pytest.mark.parametrize(
    ("constraints", "lengths", "gram"),
    [
        ((BLOCKS, ACROSS), (24, 8, 36), None),
        ((BLOCKS, ACROSS), (24, 8, 36), np.diag(np.diag(GRAM))),
        ((LINES, SPILLS), (4, 3, 5), None),
        ((sf.KroneckerSupport(1, 2, 2, 8), sf.KroneckerSupport(2, 8, 8, 1)), (16, 16, 16), None),
    ],
    ids=["blocks", "weighted", "lines", "kronecker"],
)
def test_submatrix_svd(constraints, lengths, gram):
    m, k, n = lengths
    expected, found = both(sf.SubmatrixSVD(), constraints, ((m, k), (k, n)), matrix=A[:m, :n], gram=gram)
    assert found.history[-1].error == pytest.approx(expected.history[-1].error, rel=1e-10)
    certificate = found.outcome.certificate
    assert certificate.lower_bound == pytest.approx(expected.outcome.certificate.lower_bound)
    assert certificate.verify(A[:m, :n])


@pytest.mark.parametrize("gram", [None, GRAM, np.diag(np.diag(GRAM))], ids=["plain", "gram", "diagonal"])
@pytest.mark.parametrize("started", [False, True])
def test_alternating_least_squares(gram, started):
    rng = np.random.default_rng(1)
    left, right = rng.random((24, 10)) < 0.5, rng.random((10, 36)) < 0.5
    start = (rng.standard_normal((24, 10)), rng.standard_normal((10, 36))) if started else None
    solver = sf.AlternatingLeastSquares(iterations=15, tikhonov=1e-3)
    constraints = sf.Support(left), sf.Support(right)
    expected, found = both(solver, constraints, ((24, 10), (10, 36)), gram=gram, start=start)
    assert found.history[-1].error == pytest.approx(expected.history[-1].error, rel=1e-4)


def test_constraints_project_on_the_device():
    x = RNG.standard_normal((20, 12))
    for constraint in (sf.TopK(nnz=7), sf.NOfM(1, 3), sf.BlockTopK((5, 3), count=2), SUPPORT, sf.Dense()):
        found = constraint.project(cp.asarray(x))
        assert type(found) is cp.ndarray
        np.testing.assert_array_equal(found.get(), constraint.project(x))


def test_mixed_arguments_are_refused():
    gram, cross = X.T @ X, X.T @ X @ TRUTH
    with pytest.raises(sf.errors.DeviceError, match="NumPy arrays and CuPy arrays on 'cuda:0' are mixed"):
        sf.minimize(sf.Quadratic(cp.asarray(gram), cross), SUPPORT)


@pytest.mark.parametrize("gram", [None, GRAM], ids=["plain", "gram"])
def test_factorize_moves_numpy_arrays_there_and_back(gram):
    """Double sparse, two fixed supports of either kind, three factors."""
    rng = np.random.default_rng(1)
    supports = sf.Support(rng.random((24, 10)) < 0.5), sf.Support(rng.random((10, 36)) < 0.5)
    for constraints, solver in (
        (sf.double_sparse(A.shape, 0.4), sf.Alternating(outer=8)),
        ((BLOCKS, ACROSS), None if gram is None else sf.AlternatingLeastSquares(iterations=20)),
        (supports, sf.AlternatingLeastSquares(iterations=20, escapes=1)),
        ((sf.TopK(density=0.4), sf.TopK(density=0.4), sf.Dense()), sf.PALM(iterations=20)),
    ):
        expected = sf.factorize(A, constraints, solver, gram=gram)
        found = sf.factorize(A, constraints, solver, gram=gram, device="cuda")
        assert found.error == pytest.approx(expected.error, rel=0.02)
        assert found.status is expected.status
        again = sf.factorize(cp.asarray(A), constraints, solver, gram=None if gram is None else cp.asarray(gram))
        assert again.error == pytest.approx(found.error, rel=1e-9)


def test_factorize_refuses_arrays_in_two_places():
    with pytest.raises(sf.errors.DeviceError, match="are mixed"):
        sf.factorize(A, sf.double_sparse(A.shape, 0.4), gram=cp.asarray(GRAM))
    with pytest.raises(sf.errors.DeviceError, match="are mixed"):
        start = np.ones((24, 24)), np.ones((24, 36))
        sf.factorize(cp.asarray(A), sf.double_sparse(A.shape, 0.4), init=start)
    with pytest.raises(sf.errors.DeviceError, match="'cuda:2' does not exist"):
        sf.factorize(A, sf.double_sparse(A.shape, 0.4), device="cuda:2")


def test_a_result_says_that_products_were_rounded(monkeypatch):
    f = sf.Quadratic(cp.asarray(np.eye(4, dtype="float32")), cp.asarray(np.ones((4, 3), dtype="float32")))
    small = cp.asarray(np.ones((6, 6), dtype="float32"))
    solve = sf.minimize, (f, sf.TopK(nnz=5)), sf.factorize, (small, sf.double_sparse((6, 6), 0.6))
    for asked in ("0", "1"):
        monkeypatch.setenv("CUPY_TF32", asked)
        for verb, arguments in (solve[:2], solve[2:]):
            assert ("TF32" in verb(*arguments).explain()) == (asked == "1")
    host = sf.Quadratic(np.eye(4, dtype="float32"), np.ones((4, 3), dtype="float32"))
    assert "TF32" not in sf.minimize(host, sf.TopK(nnz=5)).explain()
