"""Products against dense NumPy: every verb of a Factorization is the same verb of the matrix it stands for."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from functools import reduce
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator, lsqr, svds

import sparsefact as sf
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from sparsefact.products import residual

DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.complex64, np.complex128)]


# Small integers: every product below is exact in float32, so comparisons are equalities.
def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    values = rng.integers(-3, 4, shape).astype(dtype)
    if dtype.kind == "c":
        values = values + (1j * rng.integers(-3, 4, shape)).astype(dtype)
    return values


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def random_csr(rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[Any]) -> sparse.csr_array:
    mask = rng.random(shape) < rng.random()
    if shape[1] and rng.random() < 0.3:
        mask[:, rng.integers(shape[1])] = False
    rows, columns = np.nonzero(mask)
    return sparse.csr_array((integers(rng, (len(rows),), dtype), (rows, columns)), shape=shape)


@st.composite
def factor_lists(draw: st.DrawFn, dtype: np.dtype[Any] | None = None) -> list[Any]:
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    sizes = draw(st.lists(st.integers(0, 6), min_size=2, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    factors: list[Any] = []
    for rows, columns in pairwise(sizes):
        kind = draw(st.sampled_from(["csr", "dense", "kronecker"]))
        if kind == "kronecker" and rows and columns:
            shared = draw(st.sampled_from(divisors(int(np.gcd(rows, columns)))))
            a = draw(st.sampled_from(divisors(shared)))
            shape = (a, rows // shared, columns // shared, shared // a)
            factors.append(sf.KroneckerFactor(integers(rng, shape, dtype)))
        elif kind == "dense":
            factors.append(integers(rng, (rows, columns), dtype))
        else:
            factors.append(random_csr(rng, (rows, columns), dtype))
    return factors


def dense(factors: list[Any]) -> np.ndarray:
    arrays = [f if isinstance(f, np.ndarray) else f.toarray() for f in factors]
    return arrays[0] if len(arrays) == 1 else np.linalg.multi_dot(arrays)


@st.composite
def operands(draw: st.DrawFn, length: int, side: str) -> np.ndarray:
    """Vectors and matrices of any type and layout: strided, reversed, Fortran-ordered, read-only, empty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([*DTYPES, np.dtype(np.float16), np.dtype(np.int64), np.dtype(bool)]))
    batch = draw(st.sampled_from([None, 0, 1, 3]))
    shape = (length,) if batch is None else (length, batch) if side == "right" else (batch, length)
    x = (
        integers(rng, tuple(2 * n for n in shape), dtype)
        if dtype.kind != "b"
        else rng.random([2 * n for n in shape]) < 0.5
    )
    step = draw(st.sampled_from([2, -2]))
    x = x[(slice(None, None, step),) * x.ndim]
    layout = draw(st.sampled_from(["strided", "C", "F"]))
    if layout != "strided":
        x = np.array(x, order=layout)
    x.flags.writeable = draw(st.booleans())
    return x


def result_type(dtype: np.dtype[Any], x: np.ndarray) -> np.dtype[Any]:
    return np.result_type(dtype, x.dtype)


def kron_support(a: int, b: int, c: int, d: int) -> np.ndarray:
    return reduce(np.kron, [np.eye(a), np.ones((b, c)), np.eye(d)])


@given(st.tuples(*[st.integers(1, 4)] * 4), st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_kronecker_factor_is_its_definition(abcd: tuple[int, int, int, int], dtype: np.dtype[Any], seed: int) -> None:
    a, b, c, d = abcd
    values = integers(np.random.default_rng(seed), abcd, dtype)
    K = sf.KroneckerFactor(values)
    expected = np.zeros((a * b * d, a * c * d), dtype)
    for i, p, r, q in np.ndindex(*abcd):
        expected[(i * b + p) * d + q, (i * c + r) * d + q] = values[i, p, r, q]
    assert K.shape == expected.shape
    assert K.dtype == dtype
    np.testing.assert_array_equal(K.toarray(), expected)
    csr = K.tocsr()
    np.testing.assert_array_equal(csr.toarray(), expected)
    csr.check_format(full_check=True)
    csr.data[:] = 1
    np.testing.assert_array_equal(csr.toarray(), kron_support(a, b, c, d))
    assert K.nnz == csr.nnz == kron_support(a, b, c, d).sum()
    assert K.nbytes == values.nbytes
    np.testing.assert_array_equal(K.T.toarray(), expected.T)
    np.testing.assert_array_equal(K.H.toarray(), expected.conj().T)
    np.testing.assert_array_equal(K.conj().toarray(), expected.conj())


@given(st.data(), st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)))
def test_kronecker_factor_multiplies_from_both_sides(data: st.DataObject, abcd: tuple[int, int, int, int]) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    K = sf.KroneckerFactor(integers(np.random.default_rng(0), abcd, dtype))
    x = data.draw(operands(K.shape[1], "right"))
    y = data.draw(operands(K.shape[0], "left"))
    np.testing.assert_array_equal(K @ x, K.toarray() @ x)
    np.testing.assert_array_equal(y @ K, y @ K.toarray())
    assert (K @ x).dtype == (K.toarray() @ x).dtype


def test_kronecker_factor_is_a_value() -> None:
    K = sf.KroneckerFactor(np.ones((1, 2, 3, 2), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        K.values[0] = 2
    with pytest.raises(AttributeError):
        K.values = np.zeros((1, 1, 1, 1))
    again = pickle.loads(pickle.dumps(K))
    np.testing.assert_array_equal(again.values, K.values)
    assert not again.values.flags.writeable
    assert "4x6 float32" in repr(K)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (np.ones((2, 2)), ShapeError),
        (np.array([[[["a"]]]]), DtypeError),
        (np.full((1, 1, 1, 1), np.nan), NonFiniteError),
    ],
)
def test_kronecker_factor_refuses(values: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^[^\n]+$"):
        sf.KroneckerFactor(values)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (1, 4, 1), ()])
def test_kronecker_factor_refuses_operands(shape: tuple[int, ...]) -> None:
    K = sf.KroneckerFactor(np.ones((1, 2, 2, 2)))
    with pytest.raises(ShapeError, match="x has shape"):
        K @ np.ones(shape)
    with pytest.raises(ShapeError, match="x has shape"):
        np.ones(shape) @ K


@given(factor_lists())
def test_product_is_the_dense_product(factors: list[Any]) -> None:
    F, P = sf.Factorization(factors), dense(factors)
    assert F.shape == P.shape
    assert F.dtype == factors[0].dtype
    for array in (F.todense(), F.toarray()):
        np.testing.assert_array_equal(array, P)
        assert array.dtype == F.dtype
        assert array.flags.writeable
        assert array.flags.c_contiguous
    np.testing.assert_array_equal(F.T.todense(), P.T)
    np.testing.assert_array_equal(F.H.todense(), P.conj().T)
    np.testing.assert_array_equal(F.conj().todense(), P.conj())
    np.testing.assert_array_equal((2 * F).todense(), 2 * P)
    np.testing.assert_array_equal((F * np.float32(-1)).todense(), -P)
    assert F.nnz == sum(f.size if isinstance(f, np.ndarray) else f.nnz for f in factors) == F.T.nnz == F.H.nnz
    assert F.density == (F.nnz / P.size if P.size else 0.0)


@given(st.data(), factor_lists())
def test_products_with_arrays_from_both_sides(data: st.DataObject, factors: list[Any]) -> None:
    F, P = sf.Factorization(factors), dense(factors)
    x, y = data.draw(operands(F.shape[1], "right")), data.draw(operands(F.shape[0], "left"))
    for got, expected, operand in ((F @ x, P @ x, x), (y @ F, y @ P, y)):
        assert type(got) is np.ndarray
        assert got.dtype == result_type(F.dtype, operand)
        np.testing.assert_array_equal(got, expected)


@given(st.data(), factor_lists())
def test_linear_operator_methods(data: st.DataObject, factors: list[Any]) -> None:
    F, P = sf.Factorization(factors), dense(factors)
    m, n = F.shape
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, y = integers(rng, (n,), np.dtype(np.complex128)), integers(rng, (m,), np.dtype(np.complex128))
    np.testing.assert_array_equal(F.matvec(x), P @ x)
    np.testing.assert_array_equal(F.matvec(x[:, None]), (P @ x)[:, None])
    np.testing.assert_array_equal(F.rmatvec(y), P.conj().T @ y)
    np.testing.assert_array_equal(F.rmatvec(y[:, None]), (P.conj().T @ y)[:, None])
    X, Y = integers(rng, (n, 3), F.dtype), integers(rng, (m, 2), F.dtype)
    np.testing.assert_array_equal(F.matmat(X), P @ X)
    np.testing.assert_array_equal(F.rmatmat(Y), P.conj().T @ Y)
    assert np.vdot(F @ x, y) == np.vdot(x, F.H @ y) == np.vdot(x, F.rmatvec(y))
    operator = aslinearoperator(F)
    assert operator.shape == F.shape
    assert operator.dtype == F.dtype
    np.testing.assert_array_equal(operator.matvec(x), P @ x)
    np.testing.assert_array_equal(operator.rmatvec(y), P.conj().T @ y)
    np.testing.assert_array_equal(operator.matmat(X), P @ X)
    np.testing.assert_array_equal(operator.rmatmat(Y), P.conj().T @ Y)


@given(st.data(), factor_lists(np.dtype(np.float64)))
def test_sparse_operands_give_dense_results(data: st.DataObject, factors: list[Any]) -> None:
    F, P = sf.Factorization(factors), dense(factors)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kind = data.draw(st.sampled_from([sparse.csr_array, sparse.csc_array, sparse.coo_matrix]))
    X, Y = kind(integers(rng, (F.shape[1], 3), F.dtype)), kind(integers(rng, (2, F.shape[0]), F.dtype))
    for got, expected in ((F @ X, P @ X.toarray()), (Y @ F, Y.toarray() @ P)):
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, expected)


@given(st.data(), factor_lists())
def test_product_of_products_joins_the_factors(data: st.DataObject, factors: list[Any]) -> None:
    F = sf.Factorization(factors)
    joined = F @ F.H
    assert isinstance(joined, sf.Factorization)
    assert len(joined.factors) == 2 * len(factors)
    np.testing.assert_array_equal(joined.todense(), dense(factors) @ dense(factors).conj().T)


def test_scipy_solvers_take_a_product() -> None:
    rng = np.random.default_rng(5)
    left = sparse.csr_array(np.eye(40, 25) + 0.1 * sparse.random_array((40, 25), density=0.2, rng=rng).toarray())
    right = sparse.csr_array(np.eye(25) + 0.1 * sparse.random_array((25, 25), density=0.2, rng=rng).toarray())
    F = sf.Factorization([left, right])
    P, b = F.todense(), rng.standard_normal(40)
    expected = np.linalg.lstsq(P, b, rcond=None)[0]
    np.testing.assert_allclose(lsqr(F, b, atol=1e-12, btol=1e-12)[0], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(svds(aslinearoperator(F), k=3)[1], np.linalg.svd(P)[1][2::-1], rtol=1e-10)


@given(factor_lists())
def test_pickles_and_copies(factors: list[Any]) -> None:
    F = sf.Factorization(factors, error=0.25, status=sf.Status.STATIONARY, history=[1, 2], seed=3, explanation="Why.")
    for G in (pickle.loads(pickle.dumps(F)), copy.copy(F), copy.deepcopy(F)):
        assert (G.error, G.status, G.history, G.seed) == (0.25, sf.Status.STATIONARY, (1, 2), 3)
        assert G.explain() == F.explain()
        np.testing.assert_array_equal(G.todense(), F.todense())
        for factor in G.factors:
            arrays = (
                [factor]
                if isinstance(factor, np.ndarray)
                else [getattr(factor, "data", getattr(factor, "values", None))]
            )
            assert not any(array.flags.writeable for array in arrays)
        assert G != F


def test_a_product_is_immutable_and_leaves_its_input_alone() -> None:
    csr = sparse.csr_array((np.array([1.0, 2.0, 3.0]), np.array([1, 0, 0]), np.array([0, 2, 3])), shape=(2, 2))
    array = np.ones((2, 2))
    before = csr.data.copy(), csr.indices.copy(), array.copy()
    F = sf.Factorization([csr, array])
    for attribute in ("factors", "error", "shape", "status", "nnz"):
        with pytest.raises(AttributeError):
            setattr(F, attribute, None)
    for held in (F.factors[0].data, F.factors[0].indices, F.factors[0].indptr, F.factors[1]):
        with pytest.raises(ValueError, match="read-only"):
            held[0] = 0
    assert F.factors[0].has_sorted_indices
    for found, expected in zip((csr.data, csr.indices, array), before, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.flags.writeable
    array[:] = 2.0


def test_read_only_factors_take_part_in_scipys_algebra() -> None:
    rng = np.random.default_rng(0)
    F = sf.Factorization([random_csr(rng, (6, 5), DTYPES[1]), random_csr(rng, (5, 4), DTYPES[1])])
    left, right = F.factors
    np.testing.assert_array_equal((left @ right).toarray(), F.todense())
    np.testing.assert_array_equal((right.T @ left.T).tocsr()[1:, ::2].toarray(), F.todense().T[1:, ::2])
    np.testing.assert_array_equal((left + left).tocsc().toarray(), 2 * left.toarray())


def test_stored_zeros_count_and_are_kept() -> None:
    csr = sparse.csr_array((np.array([0.0, 2.0]), np.array([0, 2]), np.array([0, 1, 2])), shape=(2, 3))
    F = sf.Factorization([csr, np.eye(3)])
    assert F.nnz == 2 + 9
    assert F.T.factors[1].nnz == 2
    assert (2 * F).factors[0].nnz == 2
    assert F.nbytes == sum(a.nbytes for a in (csr.data, csr.indices, csr.indptr)) + 72


def test_duplicates_are_added_and_other_formats_converted() -> None:
    coo = sparse.coo_array((np.array([1.0, 2.0, 5.0]), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    for kind in (coo, coo.tocsc(), sparse.coo_matrix(coo), sparse.lil_array(coo)):
        factor = sf.Factorization([kind]).factors[0]
        assert isinstance(factor, sparse.csr_array)
        np.testing.assert_array_equal(factor.toarray(), [[0, 3], [5, 0]])


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float16", "float16"], "float32"),
        ([ml_dtypes.bfloat16, "float32"], "float32"),
        (["int8", "int64"], "float64"),
        (["bool", "complex64"], "complex64"),
        (["float32", "float64"], "float64"),
        (["complex64", "float64"], "complex128"),
    ],
)
def test_factors_get_one_inexact_type(dtypes: list[Any], expected: str) -> None:
    F = sf.Factorization([np.eye(2).astype(dtype) for dtype in dtypes])
    assert {f.dtype.name for f in F.factors} == {F.dtype.name} == {expected}


def test_bfloat16_operands_are_computed_in_float32() -> None:
    F = sf.Factorization([2 * np.eye(3, dtype=np.float32)])
    got = F @ np.arange(3).astype(ml_dtypes.bfloat16)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [0, 2, 4])


@pytest.mark.parametrize(
    ("factors", "error", "sentence"),
    [
        ([], ShapeError, "factors is empty"),
        ([np.ones(3)], ShapeError, r"factors\[0\] has shape \(3,\)"),
        (
            [np.ones((2, 3)), np.ones((3, 4)), np.ones((5, 1))],
            ShapeError,
            r"factors\[1\].*\(3, 4\).*factors\[2\].*\(5, 1\)",
        ),
        ([sparse.coo_array(np.ones(3))], ShapeError, r"factors\[0\] has shape \(3,\)"),
        ([np.array([["a"]])], DtypeError, "cast"),
        ([np.eye(2).astype(object)], DtypeError, "cast"),
        ([np.eye(2), np.array([[1.0, np.inf], [0, 0]])], NonFiniteError, r"factors\[1\]"),
        ([sparse.csr_array(np.diag([1.0, np.nan]))], NonFiniteError, r"factors\[0\]"),
    ],
)
def test_refused_factors(factors: list[Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        sf.Factorization(factors)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (4, 1, 1), (0,)])
def test_refused_operands(shape: tuple[int, ...]) -> None:
    F = sf.Factorization([np.ones((4, 4))])
    calls = [lambda x: F @ x, F.matvec, F.matmat, F.rmatvec, F.rmatmat, lambda x: x.T @ F]
    for call in calls:
        with pytest.raises(ShapeError, match=r"^x has shape [^\n]+$"):
            call(np.ones(shape))


def test_operands_that_are_no_arrays() -> None:
    F = sf.Factorization([np.ones((2, 2))])
    with pytest.raises(TypeError):
        F @ object()
    with pytest.raises(TypeError):
        "x" * F
    with pytest.raises(DtypeError, match="NoneType"):
        F.matvec(None)
    with pytest.raises(DtypeError, match="cast x"):
        F @ np.array(["a", "b"])
    with pytest.raises(ShapeError, match=r"matvec.*\(2,\) or \(2, 1\)"):
        F.matvec(np.ones((2, 3)))
    assert F @ [1, 2] == pytest.approx([3, 3])
    assert [1, 2] @ F == pytest.approx([3, 3])


# The errors


def weighted(R: np.ndarray, G: np.ndarray) -> float:
    return float(np.trace(R @ G @ R.conj().T).real)


@given(st.data(), factor_lists(), st.booleans())
def test_errors_are_those_of_the_dense_residual(data: st.DataObject, factors: list[Any], as_sparse: bool) -> None:
    P = dense(factors).astype(np.complex128)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    A = integers(rng, P.shape, np.dtype(np.complex128 if factors[0].dtype.kind == "c" else np.float32))
    half = integers(rng, (P.shape[1], P.shape[1] + 1), A.dtype)
    G = half @ half.conj().T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residual, "_SMALLEST_PANEL", 1)
        patch.setattr(residual, "_LARGEST_PANEL", 1 + 8 * 6 * data.draw(st.sampled_from([1, 2, 100])))
        F = sf.Factorization(factors, target=sparse.csc_array(A) if as_sparse else A, gram=G)
        got = F.error, F.frobenius_error
    wide = A.astype(np.complex128)
    R = wide - P
    for found, residual_square, square in (
        (got[0], weighted(R, G), weighted(wide, G)),
        (got[1], np.vdot(R, R).real, np.vdot(wide, wide).real),
    ):
        if square > 0:
            assert found == pytest.approx(np.sqrt(residual_square / square), rel=1e-12)
        else:
            assert found == (0.0 if residual_square == 0 else np.inf)
    assert F.error_against(A) == F.frobenius_error
    assert F.error_against(A, gram=G) == F.error
    assert F.T.error == F.H.error == F.conj().error == F.error


def test_error_is_of_double_precision() -> None:
    rng = np.random.default_rng(1)
    factors = [rng.standard_normal((50, 40)).astype(np.float32), rng.standard_normal((40, 30)).astype(np.float32)]
    A = factors[0] @ factors[1]
    exact = factors[0].astype(np.float64) @ factors[1].astype(np.float64)
    expected = np.linalg.norm(A - exact) / np.linalg.norm(A.astype(np.float64))
    assert 0 < sf.Factorization(factors, target=A).error == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_error_at_the_ends_of_the_range(scale: float) -> None:
    F = sf.Factorization([np.diag([3.0, 0.0]), scale * np.eye(2)])
    assert F.error_against(scale * np.diag([3.0, 4.0])) == pytest.approx(0.8)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "int8", "float32"])
def test_error_against_other_types(dtype: Any) -> None:
    assert sf.Factorization([np.diag([3.0, 0.0])]).error_against(np.diag([3.0, 4.0]).astype(dtype)) == 0.8


def test_error_of_a_zero_target() -> None:
    zero = np.zeros((3, 4))
    assert sf.Factorization([np.zeros((3, 2)), np.ones((2, 4))], target=zero).error == 0.0
    assert sf.Factorization([np.ones((3, 4))], target=zero).error == np.inf
    assert sf.Factorization([np.zeros((3, 0)), np.zeros((0, 4))], target=zero).error == 0.0


def test_error_against_another_product() -> None:
    rng = np.random.default_rng(2)
    F, G = (sf.Factorization([rng.standard_normal((5, 3)), rng.standard_normal((3, 4))]) for _ in range(2))
    assert F.error_against(G) == pytest.approx(F.error_against(G.todense()), rel=1e-12)


def test_target_is_held_until_the_error_is_known() -> None:
    A = np.eye(4)
    alive = weakref.ref(A)
    F = sf.Factorization([np.eye(4)], target=A)
    transposed = F.T
    del A
    gc.collect()
    assert alive() is not None
    assert "error" not in repr(F)
    assert transposed.error == 0.0
    gc.collect()
    assert alive() is None
    assert F.frobenius_error == 0.0
    assert "error=0" in repr(F)


def test_pickling_computes_the_error_and_leaves_the_target_behind() -> None:
    A = np.diag([3.0, 4.0]).repeat(200, axis=1)
    F = sf.Factorization([sparse.csr_array(A * [[1.0], [0.0]])], target=A)
    text = pickle.dumps(F)
    assert len(text) < A.nbytes
    assert pickle.loads(text).error == 0.8


def test_errors_given_are_believed() -> None:
    F = sf.Factorization([np.eye(2)], error=0.125)
    assert (F.error, F.frobenius_error) == (0.125, 0.125)
    G = sf.Factorization([np.eye(2)], error=0.125, frobenius_error=0.5)
    assert (G.error, G.frobenius_error) == (0.125, 0.5)
    H = sf.Factorization([np.eye(2)], error=0.125, target=np.diag([1.0, 0.0]), gram=np.eye(2))
    assert (H.error, H.frobenius_error) == (0.125, 1.0)


@pytest.mark.parametrize("which", ["error", "frobenius_error"])
def test_unknown_errors_are_said_to_be_so(which: str) -> None:
    F = sf.Factorization([np.eye(2)])
    for G in (F, F.T, F @ F, 2 * sf.Factorization([np.eye(2)], error=0.0)):
        with pytest.raises(ArgumentError, match=r"error_against\(A\)"):
            getattr(G, which)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"target": np.ones((3, 2))}, ShapeError),
        ({"target": np.ones((2, 2)), "gram": np.ones((3, 3))}, ShapeError),
        ({"target": np.array([["a", "b"], ["c", "d"]])}, DtypeError),
        ({"error": -1.0}, ArgumentError),
        ({"error": float("nan")}, ArgumentError),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^[^\n]+$"):
        sf.Factorization([np.eye(2)], **arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_that_is_not_finite_has_no_error(bad: float) -> None:
    F = sf.Factorization([np.eye(2)])
    with pytest.raises(NonFiniteError):
        F.error_against(np.array([[1.0, bad], [0.0, 1.0]]))
    with pytest.raises(NonFiniteError):
        F.error_against(np.eye(2), gram=np.diag([1.0, bad]))


def test_repr_and_explain() -> None:
    rng = np.random.default_rng(0)
    left = sparse.random_array((384, 384), density=0.15, rng=rng, dtype=np.float32)
    F = sf.Factorization(
        [left, sparse.csr_array((384, 384), dtype=np.float32)],
        error=0.2381,
        frobenius_error=0.3,
        solver="Alternating()",
        constraint="double_sparse",
        explanation="Chosen because.",
        seconds=1.5,
        status=sf.Status.LIMIT,
        certificate="a bound",
    )
    assert repr(F) == f"Factorization(384x384 float32, 2 factors, nnz={F.nnz}, density=0.150, error=0.2381)"
    text = F.explain()
    for part in (
        "384x384",
        "Alternating()",
        "double_sparse",
        "Chosen because.",
        "0.2381 in the loss",
        "0.3 in the",
        "1.5 s",
    ):
        assert part in text
    assert sf.Status.LIMIT.value in text
    assert "a bound" in text
    assert F.T.certificate is None
    assert len(text.splitlines()) > 4
