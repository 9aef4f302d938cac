"""Every backend computes what the float64 reference computes; a backend joins by one entry in BACKENDS."""

from __future__ import annotations

import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefact.backends.protocol import Backend
from sparsefact.backends.reference import REFERENCE
from sparsefact.backends.registry import get_backend
from sparsefact.errors import ArgumentError, DeviceError, NonFiniteError

BACKENDS = ["cpu"]

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
    np.testing.assert_array_equal(mask, REFERENCE.topk_mask(x, k, per))
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
    expected, expected_ties = REFERENCE.kth_largest_abs(x, k, axis)
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
    for k in (1, x.size // 50, x.size // 5, x.size // 2, x.size - 1, x.size):
        np.testing.assert_array_equal(take(backend.topk_mask(put(backend, x), k)), REFERENCE.topk_mask(x, k))
        threshold, ties = backend.kth_largest_abs(put(backend, x), k)
        expected, expected_ties = REFERENCE.kth_largest_abs(x, k)
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
    np.testing.assert_array_equal(mask, REFERENCE.nm_mask(x, n, m, axis))


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
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


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
