"""Every backend computes what the float64 reference computes; a backend joins by one entry in BACKENDS."""

from __future__ import annotations

import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from emulated import BACKENDS, get_backend
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefact.backends.protocol import Backend
from sparsefact.backends.reference import REFERENCE
from sparsefact.errors import ArgumentError, DeviceError, NonFiniteError

every_backend = pytest.mark.parametrize("device", BACKENDS)
real_dtypes = st.sampled_from(["float32", "float64"])
dtypes = st.sampled_from(["float32", "float64", "complex64", "complex128"])
layouts = st.sampled_from(["C", "F", "strided", "reversed"])
kinds = st.sampled_from(["normal", "ties", "constant", "zeros", "nan", "infinite", "huge"])
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(0, 13)


def make(shape, dtype="float64", kind="normal", seed=0):
    """A matrix of one kind of difficulty."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if kind == "ties":
        x = rng.integers(-2, 3, shape).astype(float)
    elif kind == "constant":
        x = np.full(shape, -1.5)
    elif kind == "zeros":
        x = np.where(rng.random(shape) < 0.8, -0.0, x)
    elif kind == "nan":
        x[rng.random(shape) < 0.3] = np.nan
    elif kind == "infinite":
        x[rng.random(shape) < 0.3] = -np.inf
    elif kind == "huge":
        x = x * np.where(rng.random(shape) < 0.5, 1e18, 1e-18)
    x = x.astype(dtype)
    if x.dtype.kind == "c" and kind == "normal":
        x += 1j * rng.standard_normal(shape).astype(x.real.dtype)
    return x


def put(backend: Backend, x, layout="C"):
    """Move an array to the backend, lying in memory as asked."""
    xp = backend.xp
    if layout == "F":
        return xp.asarray(np.ascontiguousarray(x.T)).T
    if layout == "strided":
        room = np.zeros((2 * x.shape[0] + 1, 3 * x.shape[1] + 1), dtype=x.dtype)
        room[1::2, 1::3] = x
        return xp.asarray(room)[1::2, 1::3]
    if layout == "reversed":
        return xp.asarray(np.ascontiguousarray(x[::-1, ::-1]))[::-1, ::-1]
    return xp.asarray(x)


def take(x):
    return x.get() if hasattr(x, "get") else np.asarray(x)


def formed(backend: Backend, x):
    """Complex entries as the magnitudes that the backend decides by: hypot may differ in the last bit."""
    return take(abs(backend.xp.asarray(x))) if x.dtype.kind == "c" else x


def tolerance(dtype, factor=1.0):
    return factor * float(np.finfo(dtype).eps)


def assert_close(actual, expected, dtype, factor):
    actual, expected = take(actual), take(expected)
    assert actual.dtype == np.dtype(dtype)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    scale = max(1.0, float(np.nanmax(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance(dtype, factor) * scale, equal_nan=True)


def test_backends_satisfy_the_protocol():
    for device in [*BACKENDS, "reference"]:
        assert isinstance(get_backend(device=device), Backend)


# selection


@every_backend
@given(sizes, sizes, dtypes, layouts, kinds, seeds, st.floats(0, 1), st.sampled_from(["matrix", "row", "column"]))
@settings(max_examples=150, deadline=None)
def test_topk_mask(device, m, n, dtype, layout, kind, seed, share, per):
    x = make((m, n), dtype, kind, seed)
    length = {"matrix": m * n, "row": n, "column": m}[per]
    k = round(share * length)
    backend = get_backend(device=device)
    given_array = put(backend, x, layout)
    mask = take(backend.topk_mask(given_array, k, per))
    np.testing.assert_array_equal(mask, REFERENCE.topk_mask(formed(backend, x), k, per))
    assert mask.dtype == bool
    axis = {"matrix": None, "row": 1, "column": 0}[per]
    assert np.all(np.count_nonzero(mask, axis=axis) == k)
    np.testing.assert_array_equal(take(given_array), x)


@every_backend
@given(sizes, sizes, dtypes, layouts, kinds, seeds, st.floats(0, 1), st.sampled_from([None, 0, 1]))
@settings(max_examples=150, deadline=None)
def test_kth_largest_abs(device, m, n, dtype, layout, kind, seed, share, axis):
    x = make((m, n), dtype, kind, seed)
    k = round(share * {None: m * n, 0: m, 1: n}[axis])
    backend = get_backend(device=device)
    threshold, ties = backend.kth_largest_abs(put(backend, x, layout), k, axis)
    expected, expected_ties = REFERENCE.kth_largest_abs(formed(backend, x), k, axis)
    np.testing.assert_array_equal(take(threshold), expected)
    np.testing.assert_array_equal(take(ties), expected_ties)
    assert take(threshold).dtype == x.real.dtype


@every_backend
@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "zeros", "nan", "infinite", "huge"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_selection_from_many_entries(device, kind, dtype):
    """Large enough for the ways that look at a sample first, with a period that a strided sample would fall for."""
    backend = get_backend(device=device)
    x = make((150, 128), dtype, kind, seed=7)
    with np.errstate(invalid="ignore"):
        x[:, ::16] *= 3
    sizes = formed(backend, x)
    for k in (1, x.size // 50, x.size // 5, x.size // 2, x.size - 1, x.size):
        np.testing.assert_array_equal(take(backend.topk_mask(put(backend, x), k)), REFERENCE.topk_mask(sizes, k))
        threshold, ties = backend.kth_largest_abs(put(backend, x), k)
        expected, expected_ties = REFERENCE.kth_largest_abs(sizes, k)
        np.testing.assert_array_equal(take(threshold), expected)
        assert int(ties) == expected_ties


@every_backend
def test_selection_where_a_sample_misleads(device):
    """Almost all entries equal, the few others decisive."""
    backend = get_backend(device=device)
    x = np.ones((200, 200), dtype="float32")
    x[50, 10:40] = 2
    x[60:90, 7] = 0.5
    for k in (1, 29, 30, 31, x.size - 31, x.size - 30, x.size - 29):
        np.testing.assert_array_equal(take(backend.topk_mask(put(backend, x), k)), REFERENCE.topk_mask(x, k))


@every_backend
@given(sizes, st.integers(0, 4), st.integers(1, 40), st.integers(0, 40), dtypes, layouts, kinds, seeds, st.booleans())
@settings(max_examples=100, deadline=None)
def test_nm_mask(device, rows, groups, m, n, dtype, layout, kind, seed, along_rows):
    n = min(n, m)
    shape, axis = ((rows, groups * m), 1) if along_rows else ((groups * m, rows), 0)
    x = make(shape, dtype, kind, seed)
    backend = get_backend(device=device)
    mask = take(backend.nm_mask(put(backend, x, layout), n, m, axis))
    np.testing.assert_array_equal(mask, REFERENCE.nm_mask(formed(backend, x), n, m, axis))


@every_backend
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dtypes,
    layouts,
    kinds,
    seeds,
    st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_block_mask(device, block, grid, dtype, layout, kind, seed, share):
    x = make((block[0] * grid[0], block[1] * grid[1]), dtype, kind, seed)
    count = round(share * grid[0] * grid[1])
    backend = get_backend(device=device)
    mask = take(backend.block_mask(put(backend, x, layout), block, count))
    expected = REFERENCE.block_mask(x, block, count)
    if kind in ("normal", "huge"):  # the order of the sum may decide between norms that are equal up to rounding
        blocks = mask.reshape(grid[0], block[0], grid[1], block[1])
        assert np.all(blocks == blocks[:, :1, :, :1])
        assert np.count_nonzero(mask) == count * block[0] * block[1]
        wide = np.abs(x.astype(complex))
        assert math.isclose(np.linalg.norm(wide[mask]), np.linalg.norm(wide[expected]), rel_tol=1e-12)
    else:
        np.testing.assert_array_equal(mask, expected)


@every_backend
def test_block_norms_neither_overflow_nor_vanish(device):
    backend = get_backend(device=device)
    for scale in (1e-300, 1e300):
        x = scale * np.array([[1.0, 1.0, 3.0, 0.0, 2.0, 0.0]])
        mask = take(backend.block_mask(put(backend, x), (1, 2), 1))
        np.testing.assert_array_equal(mask, [[False, False, True, True, False, False]])


# linear algebra


def gram(p, dtype, seed, ridge=0.5):
    f = make((p + 3, p), dtype, "normal", seed)
    return f.conj().T @ f + np.asarray(ridge * np.eye(p), dtype=dtype)


@every_backend
@given(st.integers(0, 90), dtypes, layouts, seeds)
@settings(max_examples=40, deadline=None)
def test_spd_inverse(device, p, dtype, layout, seed):
    g = gram(p, dtype, seed, ridge=1.0 + p / 4)
    noisy = g + np.triu(make((p, p), dtype, "nan", seed), 1)  # only the lower triangle is read
    backend = get_backend(device=device)
    inverse = take(backend.spd_inverse(put(backend, noisy, layout)))
    assert_close(inverse, REFERENCE.spd_inverse(g), dtype, 200)
    np.testing.assert_array_equal(inverse, inverse.conj().T)
    assert_close((inverse @ g).astype(dtype), np.eye(p, dtype=dtype), dtype, 200 + 20 * p)
    in_place = take(backend.spd_inverse(put(backend, noisy.copy(), layout), overwrite=True))
    assert_close(in_place, inverse, dtype, 200)
    np.testing.assert_array_equal(in_place, in_place.conj().T)


@every_backend
@pytest.mark.parametrize("p", [5, 97, 384])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spd_inverse_of_equal_columns_with_a_ridge(device, p, dtype):
    # The Gram matrix of p equal columns plus a ridge r; the inverse is (I - 1 1^T / (p + r)) / r.
    ridge = 0.01
    g = np.ones((p, p), dtype) + np.asarray(ridge * np.eye(p), dtype)
    inverse = take(get_backend(device=device).spd_inverse(put(get_backend(device=device), g, "C")))
    expected = (np.eye(p) - 1 / (p + ridge)) / ridge
    np.testing.assert_allclose(inverse, expected, atol=3e-2 / ridge if dtype == "float32" else 1e-9)


@pytest.mark.parametrize("device", [*BACKENDS, "reference"])
def test_spd_inverse_refuses(device):
    backend = get_backend(device=device)
    with pytest.raises(ArgumentError, match=r"g must be positive definite"):
        backend.spd_inverse(put(backend, np.diag([1.0, -1.0])))
    with pytest.raises(NonFiniteError, match=r"g holds 1 NaN"):
        backend.spd_inverse(put(backend, np.diag([1.0, np.nan, 2.0])))


@every_backend
@given(st.integers(0, 40), st.integers(0, 12), dtypes, layouts, seeds, st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
@settings(max_examples=80, deadline=None)
def test_masked_lsq(device, p, n, dtype, layout, seed, density):
    g = gram(p, dtype, seed)
    r = make((p, n), dtype, "normal", seed + 1)
    mask = np.random.default_rng(seed).random((p, n)) < density
    if n > 2:
        mask[:, 1] = mask[:, 0]
    backend = get_backend(device=device)
    z = backend.masked_lsq(put(backend, g, layout), put(backend, r, layout), put(backend, mask, layout))
    expected = REFERENCE.masked_lsq(g, r, mask)
    condition = np.linalg.cond(g) if p else 1.0
    assert_close(z, expected, dtype, 20 + 4 * condition)
    assert not np.any(take(z)[~mask])


@pytest.mark.parametrize("device", [*BACKENDS, "reference"])
def test_masked_lsq_against_scipy(device):
    backend = get_backend(device=device)
    g, r = gram(70, "complex128", 5), make((70, 4), "complex128", seed=6)
    mask = np.random.default_rng(0).random((70, 4)) < 0.7
    z = take(backend.masked_lsq(put(backend, g), put(backend, r), put(backend, mask)))
    for j in range(4):
        s = np.flatnonzero(mask[:, j])
        factor = scipy.linalg.cho_factor(g[np.ix_(s, s)], lower=True)
        np.testing.assert_allclose(z[s, j], scipy.linalg.cho_solve(factor, r[s, j]), rtol=1e-9)


@pytest.mark.parametrize("device", [*BACKENDS, "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_masked_lsq_drops_dependent_unknowns(device, dtype):
    """Repeated, zero and dependent columns: finite, and still the least squares residual."""
    rng = np.random.default_rng(3)
    f = np.round(4 * make((20, 8), dtype, seed=3))
    f[:, 3] = 0
    f[:, 5] = f[:, 1]
    f[:, 7] = f[:, 0] - 2 * f[:, 2]
    a = make((20, 5), dtype, seed=4)
    mask = rng.random((8, 5)) < 0.8
    mask[:, 0] = True
    backend = get_backend(device=device)
    z = take(backend.masked_lsq(*(put(backend, x) for x in (f.conj().T @ f, f.conj().T @ a, mask))))
    assert np.all(np.isfinite(z))
    assert np.all(z[3] == 0)
    for j in range(5):
        best = np.linalg.lstsq(f[:, mask[:, j]].astype(complex), a[:, j].astype(complex))[0]
        reached = np.linalg.norm(f @ z[:, j] - a[:, j])
        possible = np.linalg.norm(f[:, mask[:, j]] @ best - a[:, j])
        assert reached <= possible * (1 + tolerance(dtype, 1000))


@pytest.mark.parametrize("device", [*BACKENDS, "reference"])
def test_masked_lsq_shows_nan(device):
    backend = get_backend(device=device)
    r = np.ones((3, 2))
    r[1, 0] = np.nan
    z = take(backend.masked_lsq(*(put(backend, x) for x in (np.eye(3), r, np.ones((3, 2), dtype=bool)))))
    assert np.isnan(z[1, 0])
    np.testing.assert_array_equal(z[:, 1], 1)


def captured(blocks, u):
    """The energy of every block in the span of its columns of u, which are orthonormal."""
    return np.sum(np.abs(u.conj().transpose(0, 2, 1) @ blocks) ** 2, axis=(1, 2))


def make_blocks(count, b, c, dtype, kind, seed):
    """Blocks of one kind of difficulty for a dominant pair."""
    rng = np.random.default_rng(seed)
    x = (
        np.stack([make((b, c), dtype, "normal", seed + i) for i in range(count)])
        if count
        else np.zeros((0, b, c), dtype)
    )
    if kind == "rank one":
        x = np.stack([np.outer(one[:, 0], one[0]) for one in x]) if count else x
    elif kind == "ties":
        x = np.zeros((count, b, c)) + np.eye(b, c)[rng.permutation(b)]
    elif kind == "near ties":
        p = min(b, c)
        values = np.ones(p) - 10.0 ** rng.uniform(-16, -1, p)
        u, v = (
            np.linalg.qr(make((k, p), "complex128" if dtype[0] == "c" else "float64", seed=seed + k))[0] for k in (b, c)
        )
        x = np.broadcast_to((u * values) @ v.conj().T, (count, b, c))
    elif kind == "blocks apart":
        x = np.zeros((count, b, c))
        x[:, 0, 0] = np.sqrt(3.0)
        x[:, 1:3, 1:3] = 1.0
    elif kind == "zeros":
        x = np.zeros((count, b, c))
    elif kind == "huge":
        x = x * 10.0 ** rng.choice([-18, 18], (count, 1, 1))
    return x.astype(dtype)


block_kinds = st.sampled_from(["normal", "rank one", "ties", "near ties", "blocks apart", "zeros", "huge"])


@every_backend
@given(st.integers(0, 5), st.integers(1, 20), st.integers(1, 20), dtypes, block_kinds, seeds, st.booleans())
@settings(max_examples=150, deadline=None)
def test_rank1(device, count, b, c, dtype, kind, seed, reverse):
    x = make_blocks(count, b, c, dtype, kind, seed)
    x = x[:, ::-1, ::-1] if reverse else x
    backend = get_backend(device=device)
    given_blocks = backend.xp.asarray(x)
    u, s, v = (take(part) for part in backend.rank1(given_blocks))
    assert (u.shape, s.shape, v.shape) == ((count, b), (count,), (count, c))
    assert u.dtype == v.dtype == x.dtype and s.dtype == x.real.dtype
    _, sigma, _ = REFERENCE.rank1(x)
    tight = tolerance(dtype, 50)
    np.testing.assert_allclose(s, sigma, rtol=tight, atol=0)
    for unit in (u, v):
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=tight)
    scale = np.where(sigma > 0, sigma, 1)[:, None, None].astype(float)
    wide = x / scale
    energy = captured(wide, u[:, :, None])
    np.testing.assert_allclose(energy, (sigma > 0).astype(float), rtol=0, atol=max(tight, 1e-12))
    # no worse than the best approximation, even where that is exact
    rest = np.linalg.norm(wide - np.where(sigma > 0, 1, 0)[:, None, None] * u[:, :, None] * v[:, None, :], axis=(1, 2))
    full = np.linalg.svd(wide.astype(complex), compute_uv=False)
    np.testing.assert_allclose(rest, np.linalg.norm(full[:, 1:], axis=1), rtol=0, atol=tight)
    np.testing.assert_array_equal(take(given_blocks), x)


@every_backend
@given(st.integers(0, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), dtypes, block_kinds, seeds)
@settings(max_examples=100, deadline=None)
def test_rank_r(device, count, b, c, r, dtype, kind, seed):
    r = min(r, b, c)
    x = make_blocks(count, b, c, dtype, kind, seed)
    backend = get_backend(device=device)
    u, s, v = (take(part) for part in backend.rank_r(backend.xp.asarray(x), r))
    assert (u.shape, s.shape, v.shape) == ((count, b, r), (count, r), (count, r, c))
    assert u.dtype == v.dtype == x.dtype and s.dtype == x.real.dtype
    _, sigma, _ = REFERENCE.rank_r(x, r)
    tight = tolerance(dtype, 200)
    assert np.all(np.abs(s - sigma) <= tight * sigma[:, :1])
    eye = np.broadcast_to(np.eye(r), (count, r, r))
    np.testing.assert_allclose(u.conj().transpose(0, 2, 1) @ u, eye, rtol=0, atol=tight)
    np.testing.assert_allclose(v @ v.conj().transpose(0, 2, 1), eye, rtol=0, atol=tight)
    scale = np.where(sigma[:, :1] > 0, sigma[:, :1], 1)[:, :, None].astype(float)
    best = np.sum((sigma / scale[:, :, 0]) ** 2, axis=1)
    np.testing.assert_allclose(captured(x / scale, u), best, rtol=0, atol=max(tight, 1e-12) * r)
    # no worse than the best approximation, even where that is exact
    rest = np.linalg.norm(x / scale - (u * (s / scale[:, :, 0])[:, None, :]) @ v, axis=(1, 2))
    full = np.linalg.svd((x / scale).astype(complex), compute_uv=False)
    np.testing.assert_allclose(rest, np.linalg.norm(full[:, r:], axis=1), rtol=0, atol=tight)


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(32, 32), (33, 70), (90, 41), (110, 130)])
@pytest.mark.parametrize("kind", ["normal", "rank one", "ties", "blocks apart", "zeros", "huge", "gap"])
def test_rank1_of_large_blocks(device, shape, dtype, kind):
    x = make_blocks(3, *shape, dtype, "normal" if kind == "gap" else kind, seed=5)
    if kind == "gap":
        x = (x / 20 + np.outer(x[0, :, 0], x[0, 0])).astype(dtype)
    backend = get_backend(device=device)
    u, s, v = (take(part) for part in backend.rank1(backend.xp.asarray(x)))
    _, sigma, _ = REFERENCE.rank1(x)
    loss = 2e-6 if dtype in ("float32", "complex64") else 1e-10
    np.testing.assert_allclose(s, sigma, rtol=loss, atol=0)
    for unit in (u, v):
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=tolerance(dtype, 50))
    scale = np.where(sigma > 0, sigma, 1)[:, None, None].astype(float)
    np.testing.assert_allclose(captured(x / scale, u[:, :, None]), (sigma > 0).astype(float), rtol=0, atol=loss)


@every_backend
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(2, 40), (7, 30), (16, 50), (30, 5)])
def test_rank_r_with_singular_values_far_apart(device, shape, dtype):
    """Down to 1e-11 of the largest, where a Gram matrix knows nothing."""
    p = min(shape)
    sigma = np.logspace(0, -11, p)
    sides = [np.linalg.qr(make((n, p), dtype, seed=n))[0] for n in shape]
    x = (sides[0] * sigma) @ sides[1].conj().T
    backend = get_backend(device=device)
    r = max(2, p - 1)
    u, s, v = (take(part)[0] for part in backend.rank_r(backend.xp.asarray(x[None]), r))
    exact = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(s, exact[:r], rtol=0, atol=1e-15 * 50)
    np.testing.assert_allclose(u.conj().T @ u, np.eye(r), rtol=0, atol=1e-13)
    np.testing.assert_allclose(v @ v.conj().T, np.eye(r), rtol=0, atol=1e-13)
    assert np.linalg.norm(x - (u * s) @ v) <= np.linalg.norm(exact[r:]) + 1e-14


@every_backend
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (20, 18), (40, 33)])
def test_low_rank_takes_any_batch_axes(device, shape, transposed):
    """Blocks of interleaved rows and whole intervals, as a view of one matrix."""
    b, c = shape
    backend = get_backend(device=device)
    matrix = backend.xp.asarray(make((b * 4, c * 3), "float64", seed=1))
    matrix = backend.xp.asarray(np.ascontiguousarray(take(matrix).T)).T if transposed else matrix
    blocks = matrix.reshape(1, b, 4, 3, c).transpose(0, 3, 2, 1, 4)
    for r in (1, 2):
        u, s, v = (take(part) for part in backend.rank_r(blocks, r))
        assert (u.shape, s.shape, v.shape) == ((1, 3, 4, b, r), (1, 3, 4, r), (1, 3, 4, r, c))
        best = np.linalg.svd(take(blocks), compute_uv=False)
        np.testing.assert_allclose(s, best[..., :r], rtol=1e-9)
        rest = np.linalg.norm(take(blocks) - (u * s[..., None, :]) @ v, axis=(-2, -1))
        np.testing.assert_allclose(rest, np.linalg.norm(best[..., r:], axis=-1), rtol=1e-9)
    u, s, v = (take(part) for part in backend.rank1(blocks))
    assert (u.shape, s.shape, v.shape) == ((1, 3, 4, b), (1, 3, 4), (1, 3, 4, c))


# the sweep


@st.composite
def sweeps(draw, tall=False):
    """Levels whose sizes fit each other, and the shape of a stack for them."""
    # tall blocks only come first, and are slow to decompose: few levels, so that there are few of them
    depth = draw(st.integers(1, 2) if tall else st.integers(0, 4))
    ds = [draw(st.integers(1, 3))]
    for _ in range(depth):
        ds.append(ds[-1] * draw(st.sampled_from([1, 2, 2, 3])))
    ds, levels, r = ds[::-1], [], draw(st.integers(1, 2))
    ps = [draw(st.integers(1, 3)) for _ in range(depth)]
    width = draw(st.integers(1, 4)) * math.prod(ps)
    shape = (draw(st.integers(1, 2)), r * ds[0], width)
    for level in range(depth):
        b, d, p = r * ds[level] // ds[level + 1], ds[level + 1], ps[level]
        if tall and level == 0:
            b = draw(st.integers(17, 20))
            shape = (shape[0], b * d, width)
        width //= p
        r = draw(st.integers(1, min(b, width, 4)))
        levels.append((b, p, r, d))
    return shape, levels


def parts_of(left, level):
    """The bases of one level: (k, p, d, b, r)."""
    b, p, r, d = level
    return left.reshape(left.shape[0], b, p, r, d).transpose(0, 2, 4, 1, 3)


def rebuild(lefts, rest, levels):
    """The stack that a sweep keeps."""
    for left, (b, p, r, d) in zip(lefts[::-1], levels[::-1], strict=True):
        u, width = parts_of(left, (b, p, r, d)), rest.shape[2]
        blocks = u @ rest.reshape(-1, p, r, d, width).transpose(0, 1, 3, 2, 4)
        rest = blocks.transpose(0, 3, 2, 1, 4).reshape(-1, b * d, p * width)
    return rest


def check_sweep(backend, x, levels, factor=300.0):
    """A sweep against its definition, level by level, and against what its own bases leave out."""
    given_stack = x.copy()
    lefts, rest, missed, energy = backend.sweep(x, levels)
    lefts, rest = [take(left) for left in lefts], take(rest)
    np.testing.assert_array_equal(take(x), take(given_stack))
    x = take(x)
    unit = float(np.abs(x).max(initial=0.0)) or 1.0
    stack = x.astype("complex128") / unit
    total = float(np.sum(np.abs(stack) ** 2))
    tight = tolerance(x.dtype, factor)
    assert missed.dtype == np.float64 and missed.shape == (len(levels),)
    assert math.isclose(float(energy) / unit**2, total, rel_tol=tight, abs_tol=tight**2)
    assert len(lefts) == len(levels) and rest.dtype == x.dtype
    for left, lost, level in zip(lefts, missed / unit**2, levels, strict=True):
        b, p, r, d = level
        k, _, width = stack.shape
        assert left.shape == (k, b, p * r, d) and left.dtype == x.dtype
        u = parts_of(left, level).astype("complex128")
        eye = np.broadcast_to(np.eye(r), (k, p, d, r, r))
        np.testing.assert_allclose(u.conj().swapaxes(-1, -2) @ u, eye, rtol=0, atol=tight)
        blocks = stack.reshape(k, b, d, p, width // p).transpose(0, 3, 2, 1, 4)
        kept = u.conj().swapaxes(-1, -2) @ blocks
        best = np.linalg.svd(blocks, compute_uv=False)
        tails = np.sum(best[..., r:] ** 2, axis=-1)
        residuals = np.sum(np.abs(blocks - u @ kept) ** 2, axis=(-1, -2))
        # as norms, like the error of an SVD itself; what an earlier level rounded away is nothing to go by
        assert np.all(np.sqrt(residuals) <= np.sqrt(tails) + tight * math.sqrt(total))
        assert abs(math.sqrt(lost) - math.sqrt(residuals.sum())) <= tight * math.sqrt(total)
        stack = kept.transpose(0, 1, 3, 2, 4).reshape(k * p, r * d, width // p)
    np.testing.assert_allclose(rest / unit, stack, rtol=0, atol=tight * max(1.0, math.sqrt(total)))
    # the steps are orthogonal
    error = float(np.linalg.norm(x / unit - rebuild(lefts, rest.astype("complex128") / unit, levels)))
    assert abs(error - math.sqrt(missed.sum() / unit**2)) <= 4 * tight * math.sqrt(total)


def put_stack(backend, x, layout):
    """Move a stack to the backend, lying in memory as asked."""
    if layout == "F":
        return backend.xp.asarray(np.ascontiguousarray(x.transpose(0, 2, 1))).transpose(0, 2, 1)
    if layout == "reversed":
        return backend.xp.asarray(np.ascontiguousarray(x[:, ::-1, ::-1]))[:, ::-1, ::-1]
    if layout == "strided":
        room = np.zeros((x.shape[0], 2 * x.shape[1], 3 * x.shape[2]), x.dtype)
        room[:, ::2, 1::3] = x
        return backend.xp.asarray(room)[:, ::2, 1::3]
    return backend.xp.asarray(x)


@pytest.mark.parametrize("device", [*BACKENDS, "reference"])
@given(sweeps(), dtypes, layouts, st.sampled_from(["normal", "ties", "constant", "zeros"]), seeds)
@settings(max_examples=50, deadline=None)
def test_sweep(device, case, dtype, layout, kind, seed):
    shape, levels = case
    backend = get_backend(device=device)
    check_sweep(backend, put_stack(backend, make(shape, dtype, kind, seed), layout), levels)


@every_backend
@given(sweeps(tall=True), dtypes, layouts, seeds)
@settings(max_examples=40, deadline=None)
def test_sweep_of_tall_blocks(device, case, dtype, layout, seed):
    shape, levels = case
    backend = get_backend(device=device)
    check_sweep(backend, put_stack(backend, make(shape, dtype, "normal", seed), layout), levels)


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("layout", ["C", "F", "reversed"])
@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((1, 256, 256), [(2, 2, 1, 128 >> i) for i in range(7)]),
        ((1, 256, 600), [(2, 2, 1, 128 >> i) for i in range(3)]),
        ((2, 81, 162), [(3, 3, 1, 27), (3, 3, 1, 9), (3, 2, 1, 3)]),
        ((1, 64, 300), [(8, 3, 2, 8), (4, 2, 2, 4), (8, 5, 3, 1)]),
        ((1, 96, 128), [(4, 2, 2, 24), (4, 2, 4, 12), (16, 4, 2, 3)]),
        ((1, 70, 40), [(2, 2, 1, 35), (5, 2, 2, 7), (14, 1, 1, 1)]),
        ((1, 3, 1), [(3, 1, 1, 1)]),
    ],
)
def test_sweep_of_chains(device, shape, levels, layout, dtype):
    backend = get_backend(device=device)
    check_sweep(backend, put_stack(backend, make(shape, dtype, seed=2), layout), levels)


@every_backend
@given(st.integers(2, 16), st.integers(1, 8), st.integers(1, 40), st.integers(1, 12), seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_sweep_keeps_small_singular_values(device, b, r, width, decades, seed, is_complex):
    """Singular values down to 1e-12 of the largest; check_sweep compares norms, not energies."""
    r, p = min(r, b, width), min(b, width)
    dtype = "complex128" if is_complex else "float64"
    sides = [np.linalg.qr(make((n, p), dtype, seed=seed + n))[0] for n in (b, width)]
    block = (sides[0] * np.logspace(0, -decades, p)) @ sides[1].conj().T
    stack = np.stack([block, block[::-1]], axis=1).reshape(1, 2 * b, width)
    backend = get_backend(device=device)
    check_sweep(backend, backend.xp.asarray(stack), [(b, 1, r, 2)], factor=100)


@pytest.mark.parametrize("device", [*BACKENDS, "reference"])
def test_sweep_recovers_a_product_of_its_kind(device):
    """A Hadamard matrix is a butterfly: nothing is missed, beyond rounding."""
    h = scipy.linalg.hadamard(64).astype("float64")
    levels = [(2, 2, 1, 32 >> i) for i in range(5)]
    _, _, missed, energy = get_backend(device=device).sweep(h[None], levels)
    assert energy == 64.0**2
    assert np.all(missed < 1e-28 * energy)


@pytest.mark.parametrize("device", [*BACKENDS, "reference"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("levels", [[(2, 2, 1, 8), (2, 2, 1, 4)], [(4, 2, 2, 4), (4, 2, 2, 2)], [(16, 2, 3, 1)], []])
def test_sweep_shows_what_is_not_finite(device, bad, levels):
    x = make((1, 16, 16), "float64", seed=0)
    x[0, 3, 5] = bad
    with np.errstate(invalid="ignore"):
        lefts, rest, missed, energy = get_backend(device=device).sweep(x, levels)
    assert not np.isfinite(energy)
    assert len(lefts) == len(missed) == len(levels) and rest.ndim == 3


@every_backend
@pytest.mark.parametrize("b", [2, 4, 20])
@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-42, 1e38])
def test_sweep_out_of_the_range_of_squares_ends(device, b, scale):
    x = (scale * np.clip(make((1, 2 * b, 40), "float64", seed=0), -1, 1)).astype("float32")
    with np.errstate(over="ignore", invalid="ignore"):
        _, rest, _, energy = get_backend(device=device).sweep(x, [(b, 2, 1, 2)])
    assert rest.shape == (2, 2, 20) and energy >= 0


@pytest.mark.parametrize("device", ["cpu"])
def test_sweep_reads_read_only_and_swapped_input(device):
    backend = get_backend(device=device)
    x = make((1, 16, 16), "float64", seed=0)
    levels = [(2, 2, 1, 8), (2, 2, 1, 4)]
    expected = backend.sweep(x, levels)
    frozen = x.copy()
    frozen.flags.writeable = False
    swapped = x.astype(x.dtype.newbyteorder())
    misaligned = np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    for other in (frozen, swapped, misaligned):
        _, rest, missed, energy = backend.sweep(other, levels)
        np.testing.assert_array_equal(rest, expected[1])
        np.testing.assert_array_equal(missed, expected[2])
        assert rest.dtype.isnative and energy == expected[3]


@every_backend
@given(st.integers(0, 3), st.integers(1, 90), st.integers(1, 140), dtypes, layouts, st.booleans(), seeds)
@settings(max_examples=60, deadline=None)
def test_mirrored(device, k, m, n, dtype, layout, nan, seed):
    rng = np.random.default_rng(seed)
    x, rows, columns = make((k, m, n), dtype, "nan" if nan else "normal", seed), rng.permutation(m), rng.permutation(n)
    backend = get_backend(device=device)
    found = take(backend.mirrored(put_stack(backend, x, layout), rows, columns))
    np.testing.assert_array_equal(found, REFERENCE.mirrored(x, rows, columns))
    assert found.dtype == x.dtype
    for p, q in zip(rng.integers(0, n, 5), rng.integers(0, m, 5), strict=True):
        np.testing.assert_array_equal(found[:, p, q], x[:, rows[q], columns[p]])


# the elementwise steps


@every_backend
@given(sizes, sizes, dtypes, layouts, layouts, st.sampled_from(["normal", "ties", "nan"]), seeds)
@settings(max_examples=80, deadline=None)
def test_admm_update(device, m, n, dtype, layout, other, kind, seed):
    b, t = make((m, n), dtype, "normal", seed), make((m, n), dtype, kind, seed + 1)
    mask = np.random.default_rng(seed).random((m, n)) < 0.4
    backend = get_backend(device=device)
    result = put(backend, t.copy(), layout)
    assert backend.admm_update(put(backend, b, other), result, put(backend, mask, layout)) is None
    expected = t.copy()
    REFERENCE.admm_update(b, expected, mask)
    assert_close(result, expected, dtype, 4)


@every_backend
@given(
    sizes, sizes, dtypes, layouts, layouts, st.sampled_from(["normal", "nan"]), seeds, st.sampled_from([0.0, 1.0, 0.3])
)
@settings(max_examples=80, deadline=None)
def test_admm_rhs(device, m, n, dtype, layout, other, kind, seed, rho):
    c, t = make((m, n), dtype, "normal", seed), make((m, n), dtype, kind, seed + 1)
    mask = np.random.default_rng(seed).random((m, n)) < 0.4
    expected = np.empty_like(c)
    REFERENCE.admm_rhs(c, t, mask, rho, expected)
    backend = get_backend(device=device)
    for target in ("new", "c", "t"):
        arrays = {"c": put(backend, c.copy(), other), "t": put(backend, t.copy(), layout)}
        out = arrays.get(target, put(backend, np.zeros_like(c), layout))
        assert backend.admm_rhs(arrays["c"], arrays["t"], put(backend, mask, layout), rho, out) is None
        assert_close(out, expected, dtype, 4)


# products


patterns = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
columns = st.sampled_from([0, 1, 2, 3, 5, 8, 33])


@every_backend
@given(patterns, columns, dtypes, layouts, seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_ks_apply(device, pattern, batch, dtype, layout, seed, wider):
    a, _, c, d = pattern
    backend = get_backend(device=device)
    values = make(pattern, dtype, seed=seed)
    x = make((a * c * d, batch), np.result_type(dtype, "complex64") if wider else dtype, seed=seed + 1)
    operand = put(backend, x, layout)
    expected = REFERENCE.ks_apply(values, x)
    assert_close(backend.ks_apply(backend.xp.asarray(values), operand), expected, x.dtype, 40)
    np.testing.assert_array_equal(take(operand), x)


@every_backend
@given(patterns, columns, dtypes, layouts, layouts, seeds)
@settings(max_examples=60, deadline=None)
def test_ks_grad(device, pattern, batch, dtype, layout, other, seed):
    """It is the adjoint of what a change of the values does to the product, which is linear in them."""
    a, b, c, d = pattern
    backend = get_backend(device=device)
    x, gy = make((a * c * d, batch), dtype, seed=seed), make((a * b * d, batch), dtype, seed=seed + 1)
    found = backend.ks_grad(pattern, put(backend, x, layout), put(backend, gy, other))
    wide = [z.reshape(a, k, d, batch).astype("complex128") for z, k in ((x, c), (gy, b))]
    expected = np.einsum("ipqn,irqn->iprq", wide[1], wide[0].conj())
    assert_close(found, expected if dtype[0] == "c" else expected.real, dtype, 30 * max(1, batch))
    change = make(pattern, dtype, seed=seed + 2)
    moved = REFERENCE.ks_apply(change.astype("complex128"), x.astype("complex128"))
    assert np.vdot(gy, moved).real == pytest.approx(
        np.vdot(take(found), change).real, abs=tolerance(dtype, 1e3) * (1 + np.linalg.norm(gy) * np.linalg.norm(moved))
    )


@every_backend
@given(sizes, sizes, st.integers(0, 70), dtypes, layouts, layouts, seeds, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_sddmm(device, m, n, k, dtype, layout, other, seed, density):
    backend = get_backend(device=device)
    x, y = make((m, k), dtype, seed=seed), make((k, n), dtype, seed=seed + 1)
    support = np.random.default_rng(seed).random((m, n)) < density
    rows, indices = np.nonzero(support)
    indptr = np.append(0, np.cumsum(support.sum(axis=1)))
    found = backend.sddmm(*map(backend.xp.asarray, (indptr, indices)), put(backend, x, layout), put(backend, y, other))
    expected = np.einsum("ek,ke->e", x[rows].astype("complex128"), y[:, indices].astype("complex128"))
    assert_close(found, expected if dtype[0] == "c" else expected.real, dtype, 20 * max(1, k))


CHAINS = {
    "butterfly": [(2**k, 2, 2, 2 ** (4 - k)) for k in range(5)],
    "wide blocks": [(1, 4, 4, 8), (4, 8, 8, 1)],
    "uneven": [(2, 3, 5, 2), (5, 4, 3, 1), (1, 15, 2, 1)],
    "one": [(3, 1, 4, 2)],
}


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("name", CHAINS)
def test_prepare_chain(device, name, dtype):
    """Kronecker-sparse factors before, after and between sparse ones, rows of the operand selected or not."""
    backend, rng = get_backend(device=device), np.random.default_rng(5)
    kronecker = [make(shape, dtype, seed=k) for k, shape in enumerate(CHAINS[name])]
    (high, _), (_, width) = (REFERENCE.prepare_chain([part], dtype).shape for part in (kronecker[0], kronecker[-1]))
    left, right = (
        scipy.sparse.random_array(
            shape, density=0.4, rng=rng, dtype=np.dtype(dtype), data_sampler=lambda size: make(size, dtype)
        ).tocsr()
        for shape in ((7, high), (width, 9))
    )
    for parts in (kronecker, [left, *kronecker, right], [left], [left, *kronecker]):
        n = parts[-1].shape[1] if scipy.sparse.issparse(parts[-1]) else width
        rows = rng.integers(0, n + 2, n)
        placed = [part if scipy.sparse.issparse(part) else backend.xp.asarray(part) for part in parts]
        for taken, batch, layout, rows_first in (
            (None, 3, "C", False),
            (rows, 1, "F", True),
            (rows, 18, "strided", True),
        ):
            x = make((n if taken is None else n + 2, batch), dtype, seed=batch)
            chain = backend.prepare_chain(
                placed, dtype, vectors=batch == 1, rows=None if taken is None else backend.xp.asarray(taken)
            )
            found = chain.apply(put(backend, x, layout), rows_first=rows_first)
            assert (found.T if rows_first else found).flags.c_contiguous
            assert_close(found, REFERENCE.prepare_chain(parts, dtype, rows=taken).apply(x), dtype, 300)
            again = chain.apply(put(backend, x, "C"), rows_first=rows_first)
            assert take(again).tobytes() == take(found).tobytes()


# threads, compilation, devices


@pytest.fixture
def eager_threads(monkeypatch):
    """Let small arrays be shared out over threads too."""
    from sparsefact.backends.cpu import admm, select

    monkeypatch.setattr(select, "_GRAIN", 1 << 14)
    monkeypatch.setattr(admm, "_GRAIN", 1 << 14)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch, eager_threads):
    rng = np.random.default_rng(0)
    x, b = rng.standard_normal((2, 400, 900)).astype("float32")
    mask = x > 0.5
    g = gram(40, "float32", 1)
    r, supports = make((40, 900), "float32"), rng.random((40, 900)) < 0.9
    supports[:, 449:452] = supports[:, 449:450]
    backend = get_backend(device="cpu")
    seen = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("SPARSEFACT_NUM_THREADS", threads)
        t = x.copy()
        backend.admm_update(b, t, mask)
        seen.append(
            (
                backend.topk_mask(x, 80_000),
                backend.topk_mask(x, 100, "row"),
                backend.nm_mask(x, 2, 4),
                backend.masked_lsq(g, r, supports),
                t,
            )
        )
    for others in seen[1:]:
        for one, other in zip(seen[0], others, strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize(
    "levels", [[(2, 2, 1, 64 >> i) for i in range(5)], [(4, 2, 2, 32), (4, 2, 2, 16)], [(32, 4, 2, 4), (8, 2, 1, 1)]]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_sweeps_do_not_depend_on_the_number_of_threads(monkeypatch, levels, dtype, transposed):
    x = make((1, 128, 1024), dtype, seed=4)
    x = x.transpose(0, 2, 1).copy().transpose(0, 2, 1) if transposed else x
    seen = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("SPARSEFACT_NUM_THREADS", threads)
        lefts, rest, missed, energy = get_backend(device="cpu").sweep(x, levels)
        seen.append(b"".join(part.tobytes() for part in (*lefts, rest, missed, energy)))
    assert seen[0] == seen[1] == seen[2]


def test_many_callers_at_once(monkeypatch, eager_threads):
    monkeypatch.setenv("SPARSEFACT_NUM_THREADS", "3")
    x = make((400, 400), "float32")
    backend = get_backend(device="cpu")
    expected = backend.topk_mask(x, 1000)
    results = []
    callers = [threading.Thread(target=lambda: results.append(backend.topk_mask(x, 1000))) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 6
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_the_pool_survives_a_fork():
    program = (
        "import os, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "os.environ['SPARSEFACT_NUM_THREADS'] = '3'\n"
        "from sparsefact.backends.cpu.threads import over_ranges\n"
        "work = lambda start, stop: stop - start\n"
        "assert sum(over_ranges(work, 10)) == 10\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if over_ranges(work, 10) == [4, 4, 2] else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_ranges_cover_everything_once(monkeypatch):
    from sparsefact.backends.cpu.threads import over_ranges

    monkeypatch.setenv("SPARSEFACT_NUM_THREADS", "4")
    for length in range(12):
        ranges = over_ranges(lambda start, stop: (start, stop), length, grain=2)
        assert [i for start, stop in ranges for i in range(start, stop)] == list(range(length))
    with pytest.raises(ZeroDivisionError):
        over_ranges(lambda start, stop: 1 // (start - 3), 12)


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch):
    import numba

    from sparsefact.backends.cpu.jit import jit

    njit = numba.njit

    def without_cache(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", without_cache)
    double = jit()(lambda x: 2 * x)
    assert double(3.0) == 6.0


def test_registry():
    assert get_backend(np.ones(2)) is get_backend(device="cpu")
    assert get_backend(device="reference") is REFERENCE
    for unknown in ("gpu", "cuda:x", "cuda:", "cpu:0", 0, ["cuda"]):
        with pytest.raises(DeviceError, match=r"is not known; pass None .*'cuda'"):
            get_backend(device=unknown)


def test_cuda_without_cupy_names_the_extra(monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "cupy" else find_spec(name, *a))
    with pytest.raises(DeviceError, match=r"device='cuda:0' needs the package cupy.*sparsefact\[cuda13\].*\[cuda12\]"):
        get_backend(np.ones(2), device="cuda:0")
