"""`FactorizedLinear` with Kronecker factors: the dense product, its gradients, and the state of earlier versions."""

from __future__ import annotations

import copy
import importlib
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sparsefact as sf

torch = pytest.importorskip("torch", reason="torch is not installed")
bridge = importlib.import_module("sparsefact.torch")
pytestmark = pytest.mark.filterwarnings("ignore:Sparse")

CHAINS = {
    "butterfly": sf.Chain.butterfly(64),
    "monarch": sf.Chain.monarch((48, 80), blocks=(4, 8)),
    "rank 2": sf.Chain.from_ranks((2, 3, 2), (3, 2, 2), (2, 2)),
    "not chainable": sf.Chain([(2, 2, 3, 1), (1, 2, 2, 3)]),
    "kaleidoscope": sf.Chain.kaleidoscope(16),
}


def of_chain(chain: Any, seed: int = 0) -> sf.Factorization:
    rng = np.random.default_rng(seed)
    return sf.Factorization([sf.KroneckerFactor(rng.standard_normal((k.a, k.b, k.c, k.d))) for k in chain])


def dense(layer: Any) -> Any:
    """The product of a layer's factors, by definition and with torch alone, so that autograd knows it."""
    product = None
    for factor in layer.factors:
        if factor.ndim == 4:
            a, b, c, d = factor.shape
            one = torch.einsum("ij,ibcq,qs->ibqjcs", torch.eye(a).to(factor), factor, torch.eye(d).to(factor))
            factor = one.reshape(a * b * d, a * c * d)
        factor = factor.to_dense() if factor.layout != torch.strided else factor
        product = factor if product is None else product @ factor
    return product


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("block", [1, 4, 32])
def test_products_and_gradients_are_those_of_the_dense_product(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "_BLOCK", block)
    F = of_chain(CHAINS[name])
    layer = bridge.FactorizedLinear(F, torch.ones(F.shape[0], dtype=torch.float64))
    assert torch.allclose(dense(layer), torch.from_numpy(F.todense()), rtol=1e-12)
    x = torch.randn(2, 3, F.shape[1], dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, F.shape[0], dtype=torch.float64)
    inputs = [x, *(factor.requires_grad_() for factor in layer.factors)]
    y = layer(x)
    expected = x @ dense(layer).t() + layer.bias
    assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10)
    found = torch.autograd.grad((y * weights).sum(), inputs)
    exact = torch.autograd.grad((expected * weights).sum(), inputs)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(found, exact, strict=True))


@given(st.integers(0, 2**20), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=40)
def test_two_neighbours_are_merged_exactly_where_they_can_be(seed: int, x: int, y: int, r: int, b: int) -> None:
    F = of_chain(sf.Chain([(2, b, x * r, y), (2 * x, r * y, 2, 1)]), seed)
    left, right = bridge.FactorizedLinear(F).factors
    one = bridge._pair(left, right)
    assert one.shape == (2, b * y, x * 2, 1)
    found = bridge.from_torch([one]).todense()
    assert np.allclose(found, F.todense(), rtol=1e-12, atol=1e-12)


def test_small_blocks_are_merged_and_large_ones_are_not() -> None:
    sides = lambda chain: [tuple(f.shape) for f in bridge._merged(bridge.FactorizedLinear(of_chain(chain)).factors)]  # noqa: E731
    assert sides(sf.Chain.butterfly(1024)) == [(1, 32, 32, 32), (32, 32, 32, 1)]
    assert sides(sf.Chain.monarch((64, 64), blocks=(8, 8))) == [(1, 8, 8, 8), (8, 8, 8, 1)]
    assert sides(CHAINS["not chainable"]) == [(2, 2, 3, 1), (1, 2, 2, 3)]


def test_factors_that_are_changed_are_merged_again() -> None:
    F = of_chain(sf.Chain.butterfly(8))
    layer = bridge.FactorizedLinear(F)
    x = torch.randn(4, 8, dtype=torch.float64)
    assert torch.allclose(layer(x), x @ dense(layer).t()) and layer._merged is not None
    kept = layer._merged[2]
    assert layer(x) is not None and layer._merged[2] is kept
    layer.factor_1.mul_(2)
    assert torch.allclose(layer(x), x @ dense(layer).t())
    layer.load_state_dict(bridge.FactorizedLinear(of_chain(sf.Chain.butterfly(8), 1)).state_dict())
    assert torch.allclose(layer(x), x @ dense(layer).t())
    half = copy.deepcopy(layer).to(torch.float32)
    assert half(x.float()).dtype == torch.float32 and torch.allclose(half(x.float()), layer(x).float(), rtol=1e-4)
    with torch.inference_mode():
        assert torch.allclose(layer(x), x @ dense(layer).t())
        assert torch.allclose(bridge.FactorizedLinear(F)(x), x @ torch.from_numpy(F.todense()).t())
    again = pickle.loads(pickle.dumps(layer))
    assert again._merged is None and torch.equal(again(x), layer(x))


def mixed() -> sf.Factorization:
    rng = np.random.default_rng(0)
    first = sf.KroneckerFactor(rng.standard_normal((2, 3, 2, 2)))
    last = sparse.random_array((5, 7), density=0.4, rng=rng)
    return sf.Factorization([first, rng.standard_normal((8, 5)), last])


def as_in_the_first_version(F: sf.Factorization) -> dict[str, Any]:
    """A state in which every factor is a sparse CSR tensor with all that it stores."""
    rows = [
        np.repeat([f.shape[1]], f.shape[0]) if isinstance(f, np.ndarray) else np.diff(_csr(f).indptr) for f in F.factors
    ]
    state = {}
    for j, (factor, counts) in enumerate(zip(F.factors, rows, strict=True)):
        full = isinstance(factor, np.ndarray)
        indices = np.tile(np.arange(factor.shape[1]), factor.shape[0]) if full else _csr(factor).indices
        values = factor.reshape(-1) if full else _csr(factor).data
        pointers = torch.from_numpy(np.concatenate(([0], np.cumsum(counts))))
        parts = torch.from_numpy(np.array(indices, np.int64)), torch.from_numpy(values.copy())
        state[f"factor_{j}"] = torch.sparse_csr_tensor(pointers, *parts, factor.shape)
    return state


def _csr(factor: Any) -> Any:
    return factor.tocsr()


@pytest.mark.parametrize("F", [mixed(), of_chain(CHAINS["rank 2"])], ids=["mixed", "chain"])
def test_states_are_loaded_also_those_of_the_first_version(F: sf.Factorization) -> None:
    layer = bridge.FactorizedLinear(F)
    assert [f.layout == torch.strided for f in layer.factors] == [not sparse.issparse(f) for f in F.factors]
    for state in (layer.state_dict(), as_in_the_first_version(F)):
        empty = bridge.FactorizedLinear(F * 0.0)
        for factor in empty.factors[1:]:
            (factor if factor.layout == torch.strided else factor.values()).zero_()
        empty.load_state_dict(dict(state))
        assert torch.equal(dense(empty), dense(layer))
    for f, g in zip(F.factors, bridge.from_torch(layer).factors, strict=True):
        assert type(f) is type(g) and np.array_equal(_values(f), _values(g))


def _values(factor: Any) -> Any:
    return factor if isinstance(factor, np.ndarray) else getattr(factor, "values", getattr(factor, "data", None))


def test_a_state_of_other_factors_is_refused() -> None:
    F, other = of_chain(sf.Chain.butterfly(8)), of_chain(sf.Chain([(4, 2, 2, 1), (2, 2, 2, 2), (1, 2, 2, 4)]))
    with pytest.raises(RuntimeError, match="factor_0"):
        bridge.FactorizedLinear(F).load_state_dict(as_in_the_first_version(other))
