"""The CUDA backend beyond the conformance suite: sizes that take other ways, waits, devices, and every refusal."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types

import fake_cupy as cp
import numpy as np
import pytest
from emulated import emulated_backend, install

from sparsefact.backends import registry
from sparsefact.backends.cuda import launcher, low_rank, masked_lsq, select, sweep
from sparsefact.backends.cuda.backend import CudaBackend
from sparsefact.backends.reference import REFERENCE
from sparsefact.errors import DeviceError

BACKEND = emulated_backend()
RNG = np.random.default_rng(0)


@pytest.fixture
def machine(monkeypatch):
    """A machine with one GPU and CuPy, as far as the package can tell."""
    return install(monkeypatch)


# the ways that large operands take


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 4097, 30_000, 40_960, 81_919])
def test_selection_over_many_blocks(dtype, k):
    x = RNG.integers(-5, 6, (160, 512)).astype(dtype)
    np.testing.assert_array_equal(BACKEND.topk_mask(cp.asarray(x), k).get(), REFERENCE.topk_mask(x, k))


def test_the_scan_goes_on_where_there_are_more_blocks_than_threads(monkeypatch):
    monkeypatch.setattr(select, "_STRETCH", 64)
    x = np.ones((200, 160), np.float32)
    for k in (1, 63, 64, 20_000, 31_999):
        np.testing.assert_array_equal(BACKEND.topk_mask(cp.asarray(x), k).get(), REFERENCE.topk_mask(x, k))


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_least_squares_of_every_size_class(dtype):
    p = 150
    f = RNG.standard_normal((2 * p, p)).astype(dtype)
    g, r = f.conj().T @ f, RNG.standard_normal((p, 9)).astype(dtype)
    mask = np.zeros((p, 9), bool)
    for j, size in enumerate((0, 3, 24, 25, 64, 65, 110, 149, 150)):
        mask[RNG.permutation(p)[:size], j] = True
    found = BACKEND.masked_lsq(*map(cp.asarray, (g, r, mask))).get()
    expected = REFERENCE.masked_lsq(g, r, mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e4 * np.finfo(dtype).eps * np.abs(expected).max())


def test_least_squares_in_turns_where_the_workspace_is_small(monkeypatch):
    monkeypatch.setattr(masked_lsq, "_WORKSPACE", 1)
    monkeypatch.setattr(masked_lsq, "_largest_in", lambda limit, dtype: 8)
    f = RNG.standard_normal((60, 30))
    g, r, mask = f.T @ f, RNG.standard_normal((30, 20)), RNG.random((30, 20)) < 0.6
    mask[:, 2:19] = mask[:, 2:3]
    found = BACKEND.masked_lsq(*map(cp.asarray, (g, r, mask))).get()
    np.testing.assert_allclose(found, REFERENCE.masked_lsq(g, r, mask), rtol=1e-9, atol=1e-12)


def test_runs_of_equal_supports_share_a_factorization_and_agree_with_single_columns():
    f = RNG.standard_normal((60, 30)).astype("float32")
    g, r = f.T @ f, RNG.standard_normal((30, 21)).astype("float32")
    mask = np.repeat(RNG.random((30, 1)) < 0.5, 21, axis=1)
    together = BACKEND.masked_lsq(*map(cp.asarray, (g, r, mask))).get()
    for j in range(21):
        alone = BACKEND.masked_lsq(*map(cp.asarray, (g, r[:, j : j + 1], mask[:, j : j + 1]))).get()
        assert alone[:, 0].tobytes() == np.ascontiguousarray(together[:, j]).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", [(66, 70), (90, 66), (65, 300)])
@pytest.mark.parametrize("r", [1, 5, 40])
def test_blocks_that_go_to_the_libraries(dtype, shape, r):
    blocks = RNG.standard_normal((3, *shape)).astype(dtype)
    blocks[1] = 0
    blocks[2] = np.outer(blocks[2, :, 0], blocks[2, 0])  # of rank one: the Gram matrix has lost the others
    u, s, v = (part.get() for part in BACKEND.rank_r(cp.asarray(blocks), r))
    tight = 300 * np.finfo(dtype).eps
    exact = np.linalg.svd(blocks.astype(complex), compute_uv=False)
    assert np.all(np.abs(s - exact[:, :r]) <= tight * exact[:, :1])
    rest = np.linalg.norm(blocks - (u * s[:, None, :]) @ v, axis=(1, 2))
    assert np.all(rest - np.linalg.norm(exact[:, r:], axis=1) <= tight * exact[:, 0])
    np.testing.assert_allclose(u.conj().transpose(0, 2, 1) @ u, np.broadcast_to(np.eye(r), (3, r, r)), atol=tight)


def launches_of(act):
    before = dict(BACKEND.launcher.launches)
    act()
    after = BACKEND.launcher.launches
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


def test_a_butterfly_is_swept_in_few_passes_without_a_wait():
    x = cp.asarray(RNG.standard_normal((1, 256, 256), dtype=np.float32))
    levels = [(2, 2, 1, 128 >> i) for i in range(7)]
    cp.reset()
    assert launches_of(lambda: BACKEND.sweep(x, levels)) == {"peel_f32": 2, "fold": 2}
    assert cp.syncs == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "levels", "limit", "groups"),
    [
        # order 8192 where 227 KiB are to be had: the whole stack, then a quarter, then a sixty-fourth of it
        ((1, 8192, 8192), "float32", [(2, 2, 1, 4096 >> i) for i in range(12)], 227 << 10, [2, 4, 6]),
        ((1, 8192, 8192), "float32", [(2, 2, 1, 4096 >> i) for i in range(12)], 64 << 10, [1, 2, 4, 5]),
        ((1, 16384, 16384), "complex128", [(2, 2, 1, 8192 >> i) for i in range(2)], 64 << 10, [0, 0]),
        ((1, 8, 8), "float64", [(4, 2, 1, 2), (2, 2, 1, 1)], 64 << 10, [0, 1]),
        ((1, 4, 8), "float64", [(2, 2, 2, 2), (4, 2, 1, 1)], 64 << 10, [0, 0]),
        ((1, 4, 600), "float64", [(2, 300, 1, 2), (2, 2, 1, 1)], 64 << 10, [2]),
        ((1, 4, 600), "float64", [(2, 2, 1, 2), (2, 300, 1, 1)], 64 << 10, [1, 1]),
        ((1, 512, 512), "float32", [(2, 1, 1, 256 >> i) for i in range(9)], 64 << 10, [4, 4, 1]),
        ((1, 1024, 8), "float32", [(2, 1, 1, 512 >> i) for i in range(10)], 64 << 10, [8, 2]),
    ],
)
def test_levels_share_a_panel_where_it_fits(shape, dtype, levels, limit, groups):
    stack, found = types.SimpleNamespace(shape=shape, dtype=np.dtype(dtype), size=1), []
    while levels:
        found.append(sweep._group(levels, stack, limit))
        for _ in range(max(1, found[-1])):
            _, p, r, d = levels.pop(0)
            k, _, w = stack.shape
            stack.shape = k * p, r * d, w // p
    assert found == groups


def test_rows_too_long_for_shared_memory_take_another_way():
    x = RNG.standard_normal((1, 4, 9000))
    for width in (8000, 9000):
        stack = np.ascontiguousarray(x[:, :, :width])
        lefts, rest, missed, energy = BACKEND.sweep(cp.asarray(stack), [(2, 1, 1, 2), (2, 2, 1, 1)])
        expected = REFERENCE.sweep(stack, [(2, 1, 1, 2), (2, 2, 1, 1)])
        np.testing.assert_allclose(missed.get(), expected[2], rtol=1e-10)
        np.testing.assert_allclose(np.abs(rest.get()), np.abs(expected[1]), atol=1e-10)
        for left, other in zip(lefts, expected[0], strict=True):
            np.testing.assert_allclose(np.abs(left.get()), np.abs(other), atol=1e-10)
        assert float(energy) == pytest.approx(float(expected[3]), rel=1e-12)


def test_jacobi_in_turns_where_the_workspace_is_small(monkeypatch):
    blocks = cp.asarray(RNG.standard_normal((5, 6, 3000)))
    whole = [part.get().tobytes() for part in BACKEND.rank_r(blocks, 2)]
    monkeypatch.setattr(low_rank, "_WORKSPACE", 1)
    assert [part.get().tobytes() for part in BACKEND.rank_r(blocks, 2)] == whole


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_blocks_whose_entries_are_far_apart(dtype):
    """Rows down to the smallest numbers, whose squares vanish."""
    x = RNG.standard_normal((40, 6, 9)) * 10.0 ** RNG.uniform(-45, 0, (40, 6, 1))
    x[20:] = x[20:] * 10.0 ** RNG.uniform(-30, 30, (20, 1, 1))
    x[::5] *= 1e-40
    x = (x * (1 + 1j) if dtype[0] == "c" else x).astype(dtype)
    exact = np.linalg.svd(x.astype(complex), compute_uv=False)
    tight = 50 * np.finfo(dtype).eps
    smallest = np.finfo(dtype).smallest_subnormal
    for r in (1, 3, 6):
        u, s, v = (part.get() for part in BACKEND.rank_r(cp.asarray(x), r))
        assert np.all(np.abs(s - exact[:, :r]) <= tight * exact[:, :1] + smallest)
        for side in (u.conj().transpose(0, 2, 1), v):
            products = side @ side.conj().transpose(0, 2, 1)
            np.testing.assert_allclose(products, np.broadcast_to(np.eye(r), products.shape), atol=tight)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_two_by_two_blocks(dtype):
    blocks = RNG.standard_normal((700, 2, 2)) * 10.0 ** RNG.integers(-15, 16, (700, 1, 1))
    if dtype[0] == "c":
        blocks = blocks * (1 + 2j) + RNG.standard_normal((700, 2, 2))
    blocks[::7, 1] = blocks[::7, 0]  # singular
    blocks[::11] = [[0, 1], [-1, 0]]  # a tie
    blocks[::13] = 0
    blocks[::17, 0] = 0
    blocks[::19, :, 0] = 0
    blocks[::23] = [[3, 1e-7], [1e-7, 3]]
    x = blocks.astype(dtype)
    u, s, v = (part.get() for part in BACKEND.rank1(cp.asarray(x)))
    wide = x.astype(complex)
    exact = np.linalg.svd(wide, compute_uv=False)
    tight = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(s, exact[:, 0], rtol=tight)
    for unit in (u, v):
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=tight)
    scale = np.where(exact[:, 0] > 0, exact[:, 0], 1)
    rest = np.linalg.norm(wide - s[:, None, None] * u[:, :, None] * v[:, None, :], axis=(1, 2)) / scale
    np.testing.assert_allclose(rest, exact[:, 1] / scale, atol=tight)


def test_low_rank_takes_any_batch_axes():
    matrix = RNG.standard_normal((12, 15))
    blocks = cp.asarray(matrix).reshape(1, 3, 4, 3, 5).transpose(0, 3, 2, 1, 4)
    host = blocks.get()
    exact = np.linalg.svd(host, compute_uv=False)
    u, s, v = (part.get() for part in BACKEND.rank_r(blocks, 2))
    assert (u.shape, s.shape, v.shape) == ((1, 3, 4, 3, 2), (1, 3, 4, 2), (1, 3, 4, 2, 5))
    np.testing.assert_allclose(s, exact[..., :2], rtol=1e-12)
    u, s, v = (part.get() for part in BACKEND.rank1(blocks))
    assert (u.shape, s.shape, v.shape) == ((1, 3, 4, 3), (1, 3, 4), (1, 3, 4, 5))
    np.testing.assert_allclose(s, exact[..., 0], rtol=1e-12)


# waits


def test_operations_do_not_wait_for_the_device():
    x, mask = cp.asarray(RNG.standard_normal((40, 48)).astype("float32")), cp.asarray(RNG.random((40, 48)) < 0.4)
    gram = x @ x.T + cp.eye(40, dtype="float32")
    cp.reset()
    for per in ("matrix", "row", "column"):
        BACKEND.topk_mask(x, 5, per)
    for axis in (None, 0, 1):
        BACKEND.kth_largest_abs(x, 5, axis)
    BACKEND.nm_mask(x, 2, 4)
    BACKEND.block_mask(x, (4, 4), 9)
    BACKEND.masked_lsq(gram, x, mask)
    BACKEND.rank1(x.reshape(12, 10, 16))
    BACKEND.rank_r(x.reshape(12, 10, 16), 3)
    BACKEND.admm_update(x, x + 1, mask)
    BACKEND.admm_rhs(x, x, mask, 0.5, x + 1)
    assert cp.syncs == 0, cp.waits
    BACKEND.spd_inverse(gram)
    assert cp.syncs == 2  # whether cuSOLVER failed, and whether the result is finite
    assert BACKEND.floats(x.sum(), gram.max(), cp.asarray(3)) == pytest.approx([float(x.sum()), float(gram.max()), 3.0])
    cp.reset()
    BACKEND.floats(x.sum(), gram.max())
    assert cp.syncs == 1


# devices


def test_an_array_decides_where_it_is_computed_with(machine):
    x = cp.asarray(np.eye(3))
    backend = registry.get_backend(x)
    assert isinstance(backend, CudaBackend)
    assert backend is registry.get_backend(device="cuda") is registry.get_backend(device="cuda:0")
    assert backend is registry.get_backend(np.eye(3), device="cuda") is registry.get_backend(x, device="cuda:0")


def on(device):
    x = cp.asarray(np.eye(3))
    x.device = cp.cuda.Device(device)
    return x


@pytest.mark.parametrize(
    ("arrays", "device", "sentence"),
    [
        ((on(0), np.eye(3)), None, r"NumPy arrays and CuPy arrays on 'cuda:0' are mixed; pass all as one kind"),
        ((on(0), on(1)), None, r"the arrays are on 'cuda:0' and 'cuda:1'; move them to one GPU"),
        ((on(1),), "cuda:0", r"device='cuda:0' was asked for, but an array is on 'cuda:1'; pass device=None"),
        ((on(0),), "cpu", r"device='cpu' was asked for, but an array is on 'cuda:0'; pass device=None .*x.get\(\)"),
        ((), "cuda:1", r"device='cuda:1' does not exist: this machine has 1 GPU, which is 'cuda:0'"),
        ((), "cuda:01", r"device='cuda:1' does not exist"),
    ],
)
def test_refused_devices(machine, arrays, device, sentence):
    with pytest.raises(DeviceError, match=sentence):
        registry.get_backend(*arrays, device=device)


def test_several_gpus_are_numbered_from_zero(machine, monkeypatch):
    monkeypatch.setattr(cp.cuda.runtime, "getDeviceCount", lambda: 4)
    with pytest.raises(DeviceError, match=r"device='cuda:4' does not exist: this machine has 4 GPUs, numbered from 0"):
        registry.get_backend(device="cuda:4")


def test_without_a_driver(machine, monkeypatch):
    def count():
        raise cp.CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    monkeypatch.setattr(cp.cuda.runtime, "getDeviceCount", count)
    with pytest.raises(DeviceError, match=r"needs an NVIDIA GPU .* CUDA answers 'cudaErrorInsufficient.*\[cuda13\]"):
        registry.get_backend(device="cuda")


def test_a_cupy_for_another_cuda(machine, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise ImportError("libcudart.so.12: cannot open shared object file\nmore lines")

    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(DeviceError, match=r"importing it fails \(libcudart.so.12: cannot open .* file\); it may"):
        registry.get_backend(device="cuda")


# the launcher for a real GPU, over a stand-in for what it asks of CuPy


class Function:
    def __init__(self, name, calls):
        self.name, self.calls, self.granted = name, calls, []

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.granted[-1]

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        self.granted.append(size)

    def __call__(self, grid, block, arguments, shared_mem):
        self.calls.append((self.name, grid, block, arguments, shared_mem))


@pytest.fixture
def stub(monkeypatch):
    """What CupyLauncher asks of CuPy."""
    made, calls, functions = [], [], {}

    class RawModule:
        def __init__(self, code, options):
            made.append((code, options))

        def get_function(self, name):
            return functions.setdefault(name, Function(name, calls))

    module = types.SimpleNamespace(
        RawModule=RawModule,
        cuda=cp.cuda,
        asarray=cp.asarray,
        zeros=cp.zeros,
        made=made,
        calls=calls,
        functions=functions,
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_kernels_are_compiled_once_per_text_and_dtype(stub):
    cuda = launcher.CupyLauncher()
    x = cp.zeros(4)
    for dtype in ("float32", "float64", "float32"):
        cuda.launch("admm", "update", dtype, 2, 64, (x, x, None, 4, 1))
        cuda.launch("admm", "rhs", dtype, 2, 64, (x, x, x, 0.5, x, 4, 1))
    assert [options for _, options in stub.made] == [("-std=c++17", "-DDTYPES=1"), ("-std=c++17", "-DDTYPES=2")]
    assert all("#include" not in code for code, _ in stub.made)
    name, grid, block, arguments, shared = stub.calls[0]
    assert (name, grid, block, shared) == ("update_f32", (2,), (64,), 0)
    assert [type(each) for each in arguments[2:]] == [np.uintp, np.int64, np.int64]
    assert isinstance(stub.calls[1][3][3], np.float64)


def test_shared_memory_beyond_the_usual_is_asked_for_once(stub):
    cuda = launcher.CupyLauncher()
    for shared in (1000, 50_000, 60_000, 55_000):
        cuda.launch("rank1", "dominant", "float32", 1, 64, (), shared=shared)
    assert stub.functions["dominant_f32"].granted == [50_000, 60_000]


def test_running_out_of_memory_is_one_sentence(stub):
    cuda = launcher.CupyLauncher()
    with pytest.raises(DeviceError, match=r"device='cuda:0' has too little free memory for this \(4 GB wanted\); use"):
        with cuda.active(), cuda.active():
            raise cp.OutOfMemoryError("4 GB wanted")
    with contextlib.suppress(KeyError), cuda.active():
        raise KeyError


def test_a_matrix_larger_than_the_card(stub, monkeypatch):
    def full(x):
        raise cp.OutOfMemoryError("Out of memory allocating 137,438,953,472 bytes")

    monkeypatch.setattr(stub, "asarray", full)
    with pytest.raises(DeviceError, match=r"too little free memory .*137,438,953,472"):
        CudaBackend(launcher=launcher.CupyLauncher()).asarray(np.eye(2))


def test_a_missing_library_names_what_to_install(stub):
    with pytest.raises(DeviceError, match=r"needs cupyx.no_such, and CUDA's library behind it cannot be loaded"):
        launcher.CupyLauncher().library("cupyx.no_such")
