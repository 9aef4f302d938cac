"""The quadratic objective against its definition, and refits against dense least squares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from sparsefact.minimizers.refit import refit


def _random(rng, shape, kind):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if kind == "c" else x


@given(st.integers(1, 7), st.integers(1, 6), st.integers(1, 8), st.sampled_from("rc"), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_value_is_the_weighted_squared_error(p, n, m, kind, seed):
    rng = np.random.default_rng(seed)
    F, A, B = _random(rng, (m, p), kind), _random(rng, (m, n), kind), _random(rng, (p, n), kind)
    X = _random(rng, (n + 2, n), kind)
    H = X.conj().T @ X
    f = sf.Quadratic(F.conj().T @ F, F.conj().T @ A @ H, H, constant=0.5 * np.trace(A @ H @ A.conj().T).real)
    residual = (A - F @ B) @ X.conj().T
    assert f.value(B) == pytest.approx(0.5 * np.linalg.norm(residual) ** 2, rel=1e-9, abs=1e-9)


@given(st.integers(1, 6), st.integers(1, 5), st.sampled_from("rc"), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_gradient_is_the_slope(p, n, kind, two_sided, seed):
    rng = np.random.default_rng(seed)
    F, X = _random(rng, (p + 1, p), kind), _random(rng, (n + 1, n), kind)
    f = sf.Quadratic(F.conj().T @ F, _random(rng, (p, n), kind), X.conj().T @ X if two_sided else None)
    B, D = _random(rng, (p, n), kind), _random(rng, (p, n), kind)
    # A quadratic is its own second-order expansion, so the central difference is exact up to rounding.
    slope = (f.value(B + D) - f.value(B - D)) / 2
    assert slope == pytest.approx(np.vdot(D, f.gradient(B)).real, rel=1e-8, abs=1e-8)


@given(st.integers(1, 6), st.integers(1, 5), st.sampled_from("rc"), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_one_sided_refit_is_least_squares_on_each_column(p, n, kind, seed):
    rng = np.random.default_rng(seed)
    F, A, mask = _random(rng, (p + 3, p), kind), _random(rng, (p + 3, n), kind), rng.random((p, n)) < 0.6
    f = sf.Quadratic(F.conj().T @ F, F.conj().T @ A)
    found = refit(f, mask, np.zeros_like(f.cross), get_backend(f.gram))
    for j in range(n):
        expected = np.zeros(p, dtype=A.dtype)
        expected[mask[:, j]] = np.linalg.lstsq(F[:, mask[:, j]], A[:, j], rcond=None)[0]
        np.testing.assert_allclose(found[:, j], expected, rtol=1e-6, atol=1e-8)


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from("rc"), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_two_sided_refit_solves_the_kronecker_system(p, n, kind, seed):
    rng = np.random.default_rng(seed)
    F, X, mask = _random(rng, (p + 6, p), kind), _random(rng, (n + 6, n), kind), rng.random((p, n)) < 0.6
    G, H = F.conj().T @ F, X.conj().T @ X
    f = sf.Quadratic(G, _random(rng, (p, n), kind), H)
    found = refit(f, mask, np.zeros_like(f.cross), get_backend(G), iterations=400, tolerance=1e-13)
    system, on = np.kron(G, H.T), mask.ravel()
    expected = np.zeros(p * n, dtype=f.dtype)
    if on.any():
        expected[on] = np.linalg.solve(system[np.ix_(on, on)], f.cross.ravel()[on])
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6, atol=1e-8)


def test_bad_input_gets_a_sentence():
    eye, cross = np.eye(3), np.ones((3, 2))
    with pytest.raises(ShapeError, match=r"gram has shape \(2, 2\).*must be \(3, 3\)"):
        sf.Quadratic(np.eye(2), cross)
    with pytest.raises(ShapeError, match=r"right_gram has shape \(3, 3\).*must be \(2, 2\)"):
        sf.Quadratic(eye, cross, eye)
    with pytest.raises(DtypeError, match="float32"):
        sf.Quadratic(eye.astype(np.float32), cross)
    with pytest.raises(DtypeError, match="int64"):
        sf.Quadratic(np.eye(3, dtype=np.int64), cross)
    with pytest.raises(DtypeError, match="list"):
        sf.Quadratic([[1.0]], cross)
    skew = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(ArgumentError, match="conjugate transpose"):
        sf.minimize(sf.Quadratic(skew, cross), sf.Dense())
    with pytest.raises(ArgumentError, match="positive semi-definite"):
        sf.minimize(sf.Quadratic(-eye, cross), sf.Dense())
    with pytest.raises(NonFiniteError, match="cross holds 1 NaN"):
        sf.minimize(sf.Quadratic(eye, np.array([[1.0], [np.nan], [0.0]])), sf.Dense())
