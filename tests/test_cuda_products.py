"""Products with factors on an emulated GPU: every kernel and every plan, moving there and back, and every refusal."""

from __future__ import annotations

import pickle

import fake_cupy as cp
import numpy as np
import pytest
from emulated import emulated_backend, install
from scipy import sparse

import sparsefact as sf
from sparsefact.backends.cuda import chain_product, kronecker
from sparsefact.backends.reference import REFERENCE
from sparsefact.errors import DeviceError, NonFiniteError
from sparsefact.products import plan_choice as plans
from sparsefact.products.csr_factor import CsrFactor
from sparsefact.products.plan_cost_gpu import GpuSetting

BACKEND = emulated_backend()
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    return install(monkeypatch)


def integers(shape, dtype="float64"):
    """Small whole numbers, so that every order of summation gives the same bits."""
    values = RNG.integers(-2, 3, shape).astype(dtype)
    return values + (1j * RNG.integers(-2, 3, shape)).astype(dtype) if values.dtype.kind == "c" else values


def on(x, layout="C"):
    if sparse.issparse(x):
        return CsrFactor(on(x.data), on(x.indices), on(x.indptr), x.shape)
    return cp.asarray(x) if layout == "C" else cp.asarray(np.ascontiguousarray(x.T)).T


def check(parts, dtype, batch, passes, rows=None):
    """The product of a chain in every layout is the reference's, and the chain goes through memory so often."""
    chain = BACKEND.prepare_chain([on(part) for part in parts], dtype, rows=None if rows is None else on(rows))
    assert chain.passes == passes
    for operand in {dtype, np.result_type(dtype, "complex64").name}:
        x = integers((chain.shape[1], batch), operand)
        expected = REFERENCE.prepare_chain(parts, dtype, rows=rows).apply(x)
        for layout in "CF":
            for rows_first in (False, True):
                found = chain.apply(on(x, layout), rows_first=rows_first)
                np.testing.assert_array_equal(found.get(), expected)
                assert (found.T if rows_first else found).flags.c_contiguous


BUTTERFLY = [(2**k, 2, 2, 2 ** (5 - k)) for k in range(6)]


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize(
    ("room", "passes"), [(64 << 10, 1), (1024 + 32 * 64, 1), (1024 + 32 * 8, 2), (1024 + 32 * 4, 3), (1024 + 32 * 2, 6)]
)
def test_a_chain_that_does_not_fit_goes_in_passes(monkeypatch, dtype, room, passes):
    monkeypatch.setattr(BACKEND.launcher, "shared_limit", room, raising=False)
    check([integers(shape, dtype) for shape in BUTTERFLY], dtype, 5, passes, RNG.permutation(64))


@pytest.mark.parametrize("busy", [1, 1 << 40])
def test_blocks_share_sets_of_rows_and_columns_in_any_way(monkeypatch, busy):
    """One set per block, or as many as fit; two passes, so that the sets of both interleave."""
    monkeypatch.setattr(BACKEND.launcher, "shared_limit", 1024 + 32 * 24, raising=False)
    monkeypatch.setattr(chain_product, "_BUSY", busy)
    parts = [integers(shape) for shape in [(3, 2, 2, 10), (6, 5, 5, 2), (30, 2, 2, 1)]]
    for batch in (1, 2, 9):
        check(parts, "float64", batch, 2)


def test_large_blocks_have_passes_of_their_own():
    parts = [integers((1, 2, 2, 40)), integers((2, 40, 33, 1)), integers((1, 33, 3, 2))]
    check(parts, "float64", 7, 3, RNG.integers(0, 6, 6))
    check([parts[1]], "float64", 70, 1, RNG.integers(0, 66, 66))


def test_sparse_factors_between_others():
    S = sparse.random_array((12, 18), density=0.3, rng=RNG).tocsr()
    S.data[:] = integers(S.nnz)
    for batch in (1, 4, 5, 33):
        check([integers((3, 2, 2, 2)), S], "float64", batch, 2)
        check([S, integers((9, 2, 1, 1))], "float64", batch, 2, RNG.permutation(9))
    # arrays of the host are moved there when the chain is laid out
    chain = BACKEND.prepare_chain([S], "float32")
    x = integers((18, 3), "float32")
    np.testing.assert_array_equal(chain.apply(on(x)).get(), S @ x)


def test_a_sparse_factor_of_64_bits_is_refused():
    S = sparse.csr_array((3, 1 << 31))
    with pytest.raises(DeviceError, match=r"CSR matrix of shape \(3, 2147483648\) .* device='cpu'"):
        BACKEND.prepare_chain([S], "float64")


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_gradients_add_up_parts_of_the_columns(monkeypatch, dtype):
    monkeypatch.setattr(kronecker, "_STRETCH", 16)
    for pattern in [(1, 2, 3, 2), (2, 5, 1, 1), (1, 33, 34, 2)]:
        a, b, c, d = pattern
        x, gy = integers((a * c * d, 70), dtype), integers((a * b * d, 70), dtype)
        found = BACKEND.ks_grad(pattern, on(x, "F"), on(gy))
        np.testing.assert_array_equal(found.get(), REFERENCE.ks_grad(pattern, x, gy))


def test_operands_that_are_not_aligned():
    """Arrays of the device begin where they like: loads of 16 bytes are for those that begin at a multiple of them."""
    S = sparse.random_array((8, 8), density=0.5, rng=RNG).tocsr()
    blocks = integers((1, 32, 32, 1), "float32")
    parts = [integers((2, 2, 2, 2), "float32")]
    for part, n in ((parts[0], 8), (S, 8), (blocks, 32)):
        chain = BACKEND.prepare_chain([on(part)], "float32")
        memory = integers(8 * n + 1, "float32")
        found = chain.apply(on(memory)[1:].reshape(n, 8))
        expected = REFERENCE.prepare_chain([part], "float32").apply(memory[1:].reshape(n, 8))
        np.testing.assert_allclose(found.get(), expected, rtol=1e-6)


# factors on the device


def factors_of(dtype):
    """Every kind of factor, a permutation and a diagonal among them; 32 rows, 24 columns."""
    order = sparse.csr_array((np.ones(24, dtype), (np.arange(24), RNG.permutation(24))), shape=(24, 24))
    S = sparse.random_array((32, 32), density=0.2, rng=RNG).tocsr().astype(dtype)
    S.data[:] = integers(S.nnz, dtype)
    return [
        S,
        sparse.csr_array(sparse.diags_array(integers(32, dtype) + 3)),
        sf.KroneckerFactor(integers((4, 2, 2, 4), dtype)),
        sf.KroneckerFactor(integers((2, 4, 3, 4), dtype)),
        integers((24, 24), dtype),
        order,
    ]


KERNELS = ["tile", "matmul", "dense"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_every_plan_gives_the_product_of_the_host(monkeypatch, dtype, kernel):
    usual = plans._cheapest
    monkeypatch.setattr(plans, "_cheapest", lambda found: usual([c for c in found if c[1] == kernel] or found))
    monkeypatch.setattr(plans, "GROWTH", 1e9)
    whole = factors_of(dtype)
    # a dense factor has no place in a chain
    F = sf.Factorization(whole[:4] if kernel == "tile" else whole)
    G = F.to("cuda")
    assert (G.device, F.device) == ("cuda:0", "cpu")
    assert G.plan(batch=3).kernel == kernel
    P = F.todense()
    (m, n), complex_too = F.shape, np.result_type(dtype, "complex64").name
    for batch in (0, 1, 3):
        for operand in {dtype, complex_too}:
            x, y = integers((n, batch), operand), integers((m, batch), operand)
            z = integers((batch, m), operand)
            for found, expected in (
                (G @ on(x), P @ x),
                (on(z) @ G, z @ P),
                (G.T @ on(y, "F"), P.T @ y),
                (G.H @ on(y), P.conj().T @ y),
                (G.conj() @ on(x), P.conj() @ x),
                (G.rmatmat(on(y)), P.conj().T @ y),
                (G.T.H @ on(x), P.conj() @ x),
            ):
                assert type(found) is cp.ndarray
                np.testing.assert_array_equal(found.get(), expected)
    v = integers(n, dtype)
    np.testing.assert_array_equal((G @ on(v)).get(), P @ v)
    np.testing.assert_array_equal(G.matvec(on(v)).get(), P @ v)


def test_products_without_entries():
    F = sf.Factorization([np.ones((3, 0)), np.ones((0, 2))]).to("cuda")
    assert F.plan(batch=2).kernel == "plain"
    np.testing.assert_array_equal((F @ on(np.ones((2, 4)))).get(), np.zeros((3, 4)))
    K = on(np.ones((2, 3, 0, 2)))
    np.testing.assert_array_equal(BACKEND.ks_apply(K, on(np.ones((0, 4)))).get(), np.zeros((12, 4)))
    assert BACKEND.ks_grad((2, 3, 2, 2), on(np.ones((8, 0))), on(np.ones((12, 0)))).get().sum() == 0
    found = BACKEND.sddmm(on(np.zeros(4, int)), on(np.zeros(0, int)), on(np.ones((3, 2))), on(np.ones((2, 5))))
    assert found.shape == (0,)


def test_what_a_product_says_of_itself_on_the_device(tmp_path):
    F = sf.Factorization(factors_of("float64"), target=np.ones((32, 24)))
    G = F.to("cuda:0")
    assert G.to("cuda") is G and F.to("cpu") is F and F.to("reference") is F
    assert (G.nnz, G.dtype, G.shape) == (F.nnz, F.dtype, F.shape)
    assert 8 * G.nnz < G.nbytes <= F.nbytes
    assert G.error == F.error
    assert [type(f) for f in G.factors] == [
        CsrFactor,
        CsrFactor,
        sf.KroneckerFactor,
        sf.KroneckerFactor,
        cp.ndarray,
        CsrFactor,
    ]
    np.testing.assert_array_equal(G.todense().get(), F.todense())
    np.testing.assert_array_equal(sf.Factorization(G.factors[:1]).todense().get(), F.factors[0].toarray())
    np.testing.assert_array_equal((2 * G).todense().get(), 2 * F.todense())
    back = G.to("cpu")
    for there, here in zip(back.factors, F.factors, strict=True):
        assert type(there) is type(here)
        np.testing.assert_array_equal(
            there if isinstance(there, np.ndarray) else there.toarray(),
            here if isinstance(here, np.ndarray) else here.toarray(),
        )
    G.save(tmp_path / "f.safetensors")
    F.save(tmp_path / "g.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == (tmp_path / "g.safetensors").read_bytes()
    assert "on cuda:0" in repr(G) and "cuda" not in repr(F)
    assert "6 factors: 32x32 CSR" in G.explain()
    said = G.plan(batch=64).explain()
    assert "on cuda:0" in said and "if the GPU reaches the rates of an H200" in said
    target = on(integers((32, 24)))
    assert (
        G.error_against(target, on(np.eye(24)))
        == F.error_against(target.get(), np.eye(24))
        == G.error_against(target.get())
    )
    assert G.error_against(F) == 0.0
    assert sf.Factorization(G.factors, target=target).error == F.error_against(target.get())


def test_factors_of_the_device_alone():
    K = sf.KroneckerFactor(on(integers((2, 3, 2, 2))))
    host = K.values.get()
    dense = sf.KroneckerFactor(host).toarray()
    for factor, expected in ((K, dense), (K.T, dense.T), (K.H, dense.T), (K.tocsr(), dense), (K.tocsr().T, dense.T)):
        np.testing.assert_array_equal(factor.toarray().get(), expected)
        x = integers((expected.shape[1], 3))
        np.testing.assert_array_equal((factor @ on(x)).get(), expected @ x)
        np.testing.assert_array_equal((factor @ on(x[:, 0])).get(), expected @ x[:, 0])
    np.testing.assert_array_equal((on(np.eye(12)) @ K).get(), dense)
    S = CsrFactor.from_dense(on(dense))
    np.testing.assert_array_equal(S.toarray().get(), dense)
    assert S.nnz == np.count_nonzero(dense) and "12x8 float64" in repr(S)
    with pytest.raises(NonFiniteError, match="values holds NaN"):
        sf.KroneckerFactor(on(np.full((1, 1, 1, 1), np.nan)))


def test_factors_and_operands_in_two_places_are_refused():
    F = sf.Factorization([np.eye(4), sf.KroneckerFactor(np.ones((2, 2, 2, 1)))])
    G = F.to("cuda")
    with pytest.raises(DeviceError, match=r"x is on 'cpu' and the factors are on 'cuda:0'; .* F.to\('cpu'\) or cupy"):
        G @ np.eye(4)
    with pytest.raises(
        DeviceError, match=r"x is on 'cuda:0' and the factors are on 'cpu'; .* F.to\('cuda:0'\) or x.get"
    ):
        F @ on(np.eye(4))
    with pytest.raises(DeviceError, match="x is on 'cpu' and the factors are on 'cuda:0'"):
        np.eye(4) @ G
    with pytest.raises(DeviceError, match="x is on 'cuda:0' and the factors are on 'cpu'"):
        F.factors[1] @ on(np.eye(4))
    with pytest.raises(DeviceError, match="mixed"):
        sf.Factorization([F.factors[0], G.factors[1]])
    with pytest.raises(DeviceError, match="'cuda:1' does not exist"):
        F.to("cuda:1")
    with pytest.raises(DeviceError, match="mixed"):
        sf.factorize(np.eye(4), sf.double_sparse((4, 4), 1.0), init=sf.Factorization([on(np.eye(4))] * 2))


def test_products_do_not_wait_for_the_device():
    S = sparse.random_array((16, 16), density=0.3, rng=RNG).tocsr()
    F = sf.Factorization([sf.KroneckerFactor(integers((2, 2, 2, 4))), S, sf.KroneckerFactor(integers((4, 2, 2, 2)))])
    G, x = F.to("cuda"), on(integers((16, 8)))
    G @ x
    cp.reset()
    for _ in range(3):
        G @ x
        G.T @ x
    BACKEND.ks_grad((2, 2, 2, 4), x, x)
    BACKEND.sddmm(on(S.indptr), on(S.indices), x, x.T)
    assert cp.syncs == 0, cp.waits


def test_a_plan_says_when_cublas_rounds(monkeypatch):
    F = sf.Factorization([np.eye(8, dtype="float32")] * 2).to("cuda")
    assert "TF32" not in F.plan(batch=9).explain()
    monkeypatch.setenv("CUPY_TF32", "1")
    assert "rounds the operands of these products to TF32" in F.plan(batch=9).explain()
    assert "TF32" not in F.plan(batch=9, dtype="float64").explain()
    assert "TF32" not in F.to("cpu").plan(batch=9).explain()


def test_factorize_gives_factors_where_the_matrix_is():
    A = RNG.standard_normal((16, 16)).astype("float32")
    few = sf.Alternating(outer=4)
    for constraints, solver, kinds in (
        (sf.Chain.butterfly(16), None, [sf.KroneckerFactor] * 4),
        (sf.double_sparse(A.shape, 0.5), few, [CsrFactor] * 2),
        ((sf.TopK(density=0.5), sf.Dense()), few, [CsrFactor, cp.ndarray]),
    ):
        host = sf.factorize(A, constraints, solver, device="cuda")
        assert host.device == "cpu"
        found = sf.factorize(on(A), constraints, solver)
        assert found.device == "cuda:0"
        assert [type(f) for f in found.factors] == kinds
        assert found.error == pytest.approx(host.error, rel=1e-5)
        np.testing.assert_allclose((found @ on(A)).get(), host.todense() @ A, atol=1e-4)
        again = pickle.loads(pickle.dumps(found.to("cpu")))
        np.testing.assert_array_equal(again.todense(), found.todense().get())


def test_the_cost_model_prefers_one_pass_and_merges():
    """Not how long anything takes, which only a GPU can tell, but what must hold of any sensible answer."""
    F = sf.Factorization([sf.KroneckerFactor(np.ones((2**k, 2, 2, 2 ** (9 - k)), "float32")) for k in range(10)])
    plan = F.to("cuda").plan(batch=4096)
    assert plan.kernel == "tile" and len(plan.groups) < 10
    blocks = [sf.KroneckerFactor(np.ones(shape, "float32")) for shape in ((1, 64, 64, 16), (16, 64, 64, 1))]
    assert len(sf.Factorization(blocks).to("cuda").plan(batch=4096).groups) == 2
    assert sf.Factorization([np.eye(64)] * 2).to("cuda").plan(batch=64).kernel == "dense"
    setting = GpuSetting(64, 4, False, False)
    assert setting.tile((1, 2, 2, 512)) < setting.matmul((1, 2, 2, 512))
    assert setting.vector((1, 2, 2, 512)) == setting.tile((1, 2, 2, 512))
