"""Other libraries: what goes there and comes back has the same bits, and their own products agree with ours.

Each library is a witness of its own: its dense matrix, computed by its own code, is compared with a product of dense
factors by NumPy. Where one is not installed its tests are skipped, and the sentences without it are checked.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated import install
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, lsqr

import sparsefact as sf
from sparsefact import interop
from sparsefact.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from sparsefact.interop import from_lazylinop, from_pyfaust, to_lazylinop, to_pyfaust

# of lazylinop's own: what else it could use, and that it copies a transpose
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("PyWavelets is not", "Cast to be contiguous")]
DTYPES = ("float32", "float64", "complex64", "complex128")


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Import what is installed before hypothesis runs, since some of it changes the recursion limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("torch", "lazylinop.butterfly", "pyfaust"):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else values).astype(dtype)


@st.composite
def chains(draw: st.DrawFn) -> sf.Factorization:
    """Products of Kronecker factors whose sizes fit, chainable or not, all types."""
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**31))), draw(st.sampled_from(DTYPES))
    inner, factors = draw(st.sampled_from([1, 4, 6, 12])), []
    for _ in range(draw(st.integers(1, 3))):
        rest = inner
        a = draw(st.sampled_from([k for k in range(1, rest + 1) if rest % k == 0]))
        rest //= a
        d = draw(st.sampled_from([k for k in range(1, rest + 1) if rest % k == 0]))
        values = numbers(rng, (a, rest // d, draw(st.integers(1, 3)), d), dtype)
        factors.append(sf.KroneckerFactor(values))
        inner = factors[-1].shape[1]
    return sf.Factorization(factors)


@st.composite
def mixtures(draw: st.DrawFn, kinds: tuple[str, ...] = ("sparse", "dense", "Kronecker")) -> sf.Factorization:
    """Products of factors of every kind, sparse ones with stored zeros and without any entry among them."""
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**31))), draw(st.sampled_from(DTYPES))
    rows, factors = 6, []
    for _ in range(draw(st.integers(1, 3))):
        cols = draw(st.sampled_from([3, 6]))
        match draw(st.sampled_from(kinds)):
            case "dense":
                factor = numbers(rng, (rows, cols), dtype)
            case "Kronecker":
                factor = sf.KroneckerFactor(numbers(rng, (3, rows // 3, cols // 3, 1), dtype))
            case _:
                stored = rng.random((rows, cols)) < draw(st.sampled_from([0.0, 0.4, 1.0]))
                factor = sparse.csr_array((numbers(rng, (stored.sum(),), dtype), np.nonzero(stored)), (rows, cols))
                factor.data[::3] = 0
        factors.append(factor)
        rows = cols
    return sf.Factorization(factors)


def dense(F: sf.Factorization) -> Any:
    """The product of the dense factors, by NumPy in double precision."""
    found = [np.asarray(f if isinstance(f, np.ndarray) else f.toarray(), np.complex128) for f in F.factors]
    return np.linalg.multi_dot(found) if len(found) > 1 else found[0]


def close(found: Any, F: sf.Factorization) -> bool:
    exact = dense(F)
    eps = 1e-5 if F.dtype.name in ("float32", "complex64") else 1e-13
    return found.shape == exact.shape and bool(np.abs(found - exact).max() <= eps * (1 + np.abs(exact).max()) * 36)


def same_bits(F: sf.Factorization, G: sf.Factorization, dtype: Any = None) -> bool:
    """Whether two factorizations store the same numbers in the same places, in the same order."""
    for f, g in zip(F.factors, G.factors, strict=True):
        left, right = (x.tocsr() if isinstance(x, sf.KroneckerFactor) else x for x in (f, g))
        if isinstance(left, np.ndarray) != isinstance(right, np.ndarray):
            return False
        parts = [(left, right)]
        if not isinstance(left, np.ndarray):
            if not left.nnz and right.nnz == 1:  # pyfaust's one stored zero
                return right.data[0] == 0
            parts = [(getattr(left, name), getattr(right, name)) for name in ("data", "indices", "indptr")]
        for x, y in parts:
            kept = x.astype(dtype) if dtype is not None and x.dtype.kind == "c" else x
            if not np.array_equal(kept, y) or (x is left and kept.dtype != y.dtype):
                return False
    return True


# lazylinop


@settings(max_examples=30)
@given(chains())
def test_lazylinop_multiplies_the_same_matrix_and_gives_the_values_back(F):
    pytest.importorskip("lazylinop", reason="lazylinop is not installed")
    from lazylinop.butterfly import KsmLazyLinOp

    L = to_lazylinop(F)
    assert isinstance(L, KsmLazyLinOp) and L.shape == F.shape
    assert close(L @ np.eye(F.shape[1], dtype=F.dtype), F)
    back = from_lazylinop(L)
    assert back.dtype == F.dtype
    for f, g in zip(F.factors, back.factors, strict=True):
        assert f.values.shape == g.values.shape and np.array_equal(f.values, g.values)
    x = np.arange(1, F.shape[1] + 1).astype(F.dtype)
    assert np.array_equal(back @ x, F @ x)
    assert close(from_lazylinop(L.H).todense().conj().T, F)
    assert close(to_lazylinop(F.T) @ np.eye(F.shape[0], dtype=F.dtype), F.T)


@settings(max_examples=30)
@given(mixtures())
def test_lazylinop_takes_factors_of_every_kind(F):
    lazylinop = pytest.importorskip("lazylinop", reason="lazylinop is not installed")
    L = to_lazylinop(F)
    assert isinstance(L, lazylinop.LazyLinOp) and L.shape == F.shape and close(L @ np.eye(F.shape[1], dtype=F.dtype), F)
    assert close((L.H @ np.eye(F.shape[0], dtype=F.dtype)).conj().T, F)


def test_what_lazylinop_factorizes_comes_over():
    butterfly = pytest.importorskip("lazylinop.butterfly", reason="lazylinop is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    H = sf.transforms.hadamard(16).todense()
    found = butterfly.ksd(torch.from_numpy(H), butterfly.Chain.square_dyadic((16, 16)), svd_backend="pytorch_svd_cpu")
    F = from_lazylinop(found)
    assert [f.values.shape for f in F.factors] == [(1 << k, 2, 2, 8 >> k) for k in range(4)]
    assert F.error_against(H) < 1e-14
    assert from_lazylinop(2 * found).error_against(2 * H) < 1e-14


def test_values_on_a_gpu_stay_there(monkeypatch):
    import fake_cupy

    install(monkeypatch)
    v = np.arange(8.0).reshape(1, 2, 2, 2)
    F = from_lazylinop([fake_cupy.asarray(v)])
    assert F.device == "cuda:0" and np.array_equal(F.to("cpu").factors[0].values, v)


def test_values_need_no_lazylinop():
    v = np.random.default_rng(0).standard_normal((2, 3, 2, 4))
    F = from_lazylinop([v])
    assert np.array_equal(F.factors[0].values, v)
    F = from_lazylinop(SimpleNamespace(ks_values=[v, np.ones((4, 4, 1, 1))]))
    assert np.array_equal(F.factors[1].values, np.ones((4, 4, 1, 1))) and F.shape == (24, 4)
    with pytest.raises(DtypeError, match="without ks_values"):
        from_lazylinop(aslinearoperator(np.eye(3)))
    with pytest.raises(ShapeError, match="four axes"):
        from_lazylinop([np.eye(3)])
    with pytest.raises(ShapeError, match=r"factors\[1\]"):
        from_lazylinop([v, v])


# pyfaust


@settings(max_examples=30)
@given(mixtures())
def test_pyfaust_multiplies_the_same_matrix_and_gives_the_factors_back(F):
    pytest.importorskip("pyfaust", reason="pyfaust is not installed")
    P = to_pyfaust(F)
    wide = np.dtype("complex128") if F.dtype.kind == "c" else F.dtype
    assert P.shape == F.shape and P.numfactors() == len(F.factors) and P.dtype == wide
    assert close(P.toarray(), F)
    assert same_bits(F, from_pyfaust(P), wide)
    assert (
        same_bits(F.T, from_pyfaust(P.T), wide) or not F.nnz or any(f.nnz == 0 for f in F.factors if sparse.issparse(f))
    )


def test_what_pyfaust_makes_comes_over():
    pyfaust = pytest.importorskip("pyfaust", reason="pyfaust is not installed")
    D = from_pyfaust(pyfaust.dft(8, normed=False))
    assert D.error_against(np.fft.fft(np.eye(8))) < 1e-15
    blocks = sparse.bsr_matrix((np.arange(1.0, 19).reshape(3, 2, 3), [0, 1, 2], [0, 1, 2, 3, 3, 3]), shape=(10, 9))
    F = from_pyfaust(pyfaust.Faust([blocks, np.ones((9, 2))]))
    assert F.nnz == 18 + 18 and np.array_equal(F.factors[0].toarray(), blocks.toarray())
    assert F.error_against(blocks.toarray() @ np.ones((9, 2))) == 0


# SciPy


def test_scipy_takes_a_factorization_and_factorize_takes_an_operator():
    chain = sf.Chain.butterfly(16)
    H = sf.transforms.hadamard(16)
    operator = aslinearoperator(H)
    assert isinstance(operator, LinearOperator) and np.array_equal(operator @ np.eye(16), H.todense())
    x = np.arange(16.0)
    assert np.allclose(lsqr(H, H @ x, atol=1e-14, btol=1e-14)[0], x)
    F = sf.factorize(operator, chain)
    assert F.error_against(H.todense()) < 1e-14


# PyTorch


def torch_bridge() -> Any:
    pytest.importorskip("torch", reason="torch is not installed")
    return importlib.import_module("sparsefact.torch")


@settings(max_examples=30)
@given(mixtures())
def test_torch_multiplies_the_same_matrix_and_gives_the_factors_back(F):
    bridge = torch_bridge()
    import torch

    tensors = bridge.to_torch(F)
    assert [t.layout == torch.strided for t in tensors] == [isinstance(f, np.ndarray) for f in F.factors]
    product = torch.eye(F.shape[1], dtype=tensors[0].dtype)
    for tensor in reversed(tensors):
        product = tensor @ product
    assert close(product.numpy(), F)
    assert same_bits(F, bridge.from_torch(tensors))
    # what was handed over is a copy
    stored = [t if t.layout == torch.strided else t.values() for t in tensors]
    kept = bridge.from_torch(tensors)
    for part in stored:
        part.fill_(7)
    assert same_bits(F, kept)


def test_a_layer_gives_its_factors_back():
    bridge = torch_bridge()
    import torch

    F = sf.factorize(
        np.random.default_rng(0).standard_normal((12, 8)).astype("float32"), sf.double_sparse((12, 8), 0.5)
    )
    layer = bridge.FactorizedLinear(F, torch.ones(12))
    back = bridge.from_torch(layer)
    assert same_bits(F, back) and np.array_equal(back @ np.ones(8, "float32"), F @ np.ones(8, "float32"))
    assert same_bits(back, bridge.from_torch(bridge.FactorizedLinear(back)))
    half = bridge.FactorizedLinear(F, dtype=torch.bfloat16)
    rounded = [torch.from_numpy(f.data.copy()).to(torch.bfloat16).to(torch.float32).numpy() for f in F.factors]
    for factor, values in zip(bridge.from_torch(half).factors, rounded, strict=True):
        assert factor.dtype == np.float32 and np.array_equal(factor.data, values)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_of_every_layout():
    bridge = torch_bridge()
    import torch

    A = torch.tensor([[0.0, 1.5, 0, 0], [2, 0, 0, 0], [0, 0, 0, 3], [0, 0, -1, 4]])
    for tensor in (
        A,
        A.to_sparse(),
        A.to_sparse_csr(),
        A.to_sparse_csc(),
        A.to_sparse_bsr((2, 2)),
        A.t().contiguous().t(),
    ):
        assert np.array_equal(bridge.from_torch([tensor]).todense(), A.numpy())
    twice = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 0]], [1.0, 2.0, 3.0], (2, 2))
    assert np.array_equal(bridge.from_torch([twice]).todense(), [[0, 3], [3, 0]])
    Z = torch.tensor([[1 + 2j, 3.0]]).conj()
    assert np.array_equal(bridge.from_torch([Z]).todense(), [[1 - 2j, 3.0]])
    assert bridge.from_torch([torch.nn.Parameter(A)]).shape == (4, 4)
    for wrong, error, says in (
        ([np.eye(2)], DtypeError, "tensors\\[0\\] is a ndarray"),
        (A, DtypeError, "one tensor"),
        ([torch.empty(2, 2, device="meta")], DeviceError, "'meta'"),
        ([A[0]], ShapeError, "two axes"),
        ([], ShapeError, "empty"),
    ):
        with pytest.raises(error, match=says):
            bridge.from_torch(wrong)
    for wrong in ([torch.ones(1, 1, 1, 1, requires_grad=True)], [torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)]):
        with pytest.raises(DtypeError, match=r"ks_values\[0\] cannot be read"):
            from_lazylinop(wrong)
    assert np.array_equal(from_lazylinop([torch.ones(1, 2, 1, 1)]).todense(), np.ones((2, 1), "float32"))


# sentences


@pytest.mark.parametrize(("call", "package"), [(to_lazylinop, "lazylinop"), (to_pyfaust, "pyfaust")])
def test_a_library_that_is_missing_is_named_with_the_command(call, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ArgumentError, match=f"{package} cannot be imported here .*`pip install {package}"):
        call(sf.transforms.hadamard(4))
    with pytest.raises(ArgumentError, match=r"F is a ndarray; give a sparsefact\.Factorization"):
        call(np.eye(2))


def test_factors_on_a_gpu_are_refused_with_the_move(monkeypatch):
    install(monkeypatch)
    F = sf.transforms.hadamard(4).to("cuda")
    calls = [to_lazylinop, to_pyfaust]
    with contextlib.suppress(ImportError):
        calls.append(importlib.import_module("sparsefact.torch").to_torch)
    for call in calls:
        with pytest.raises(DeviceError, match=r"F is on 'cuda:0'.*F\.to\('cpu'\)"):
            call(F)


def test_what_is_no_faust_is_refused():
    with pytest.raises(DtypeError, match=r"faust is a list; give a pyfaust\.Faust"):
        from_pyfaust([np.eye(2)])


def test_importing_the_bridge_imports_no_library():
    program = "import sys, sparsefact.interop\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not {"lazylinop", "pyfaust", "torch"} & {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("package", ["lazylinop", "pyfaust"])
def test_examples_that_need_a_library_run_where_it_is(package):
    pytest.importorskip(package, reason=f"{package} is not installed")
    cases = [case for case in doctest.DocTestFinder().find(interop) if case.name.endswith(f"to_{package}")]
    cases += [case for case in doctest.DocTestFinder().find(interop) if case.name.endswith(f"from_{package}")]
    runner = doctest.DocTestRunner()
    for case in cases:
        for example in case.examples:
            example.options.pop(doctest.SKIP, None)
        runner.run(case)
    assert runner.failures == 0 and runner.tries > 6
