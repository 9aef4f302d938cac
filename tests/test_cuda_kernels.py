"""The CUDA texts without a GPU: they compile for every generation, and run on the CPU in either order of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nvrtc
import pytest
from cuda_emulator import launcher as emulator
from cuda_emulator.exercise import exercise
from emulated import emulated_backend

TESTS = Path(__file__).parent
TABLE = json.loads(nvrtc.TABLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compiler():
    return nvrtc.Compiler()


@pytest.mark.parametrize("file", nvrtc.FILES)
def test_compiles_for_every_generation(compiler, file):
    """Without stack and spills; registers as in the table, where NVRTC is the one that wrote it."""
    reports = nvrtc.report(compiler, file)
    wasteful = {
        (architecture, entry): use
        for architecture, entries in reports.items()
        for entry, use in entries.items()
        if use["stack"] or use["spilled"]
    }
    assert not wasteful
    found = nvrtc.registers(reports, file)
    expected = {entry: numbers for entry, numbers in TABLE["registers"].items() if entry.startswith(f"{file}.")}
    hint = "rewrite the table with `python tests/nvrtc.py`"
    assert found.keys() == expected.keys(), hint
    if compiler.version == TABLE["nvrtc"]:
        assert found == expected, hint


def test_the_table_has_nothing_else():
    assert tuple(TABLE["architectures"]) == nvrtc.ARCHITECTURES
    assert {entry.split(".")[0] for entry in TABLE["registers"]} == set(nvrtc.FILES)


def test_spills_are_read_from_the_report(compiler):
    text = (
        'extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float* x, int n) {\n'
        "  float held[64];\n"
        "  for (int i = 0; i < 64; i++) held[i] = x[i * n];\n"
        "  for (int t = 0; t < n; t++)\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 64; i++) held[i] = held[i] * held[(i + 1) % 64] + x[t];\n"
        "  for (int i = 0; i < 64; i++) x[held[0] > 0 ? i : (int)held[i] % 64] = held[(i + n) % 64];\n"
        "}\n"
    )
    use = compiler.compile(text, "sm_90")["greedy"]
    assert use["stack"] > 0


def test_every_kernel_gives_the_same_bits_in_either_order_of_threads():
    forward, backward = (emulated_backend(reverse=reverse) for reverse in (False, True))
    forward.launcher.launches.clear()
    expected, found = exercise(forward), exercise(backward)
    assert [name for name in expected if expected[name] != found[name]] == []
    entries = {name for file in nvrtc.FILES for name in emulator.entries(file)}
    assert set(forward.launcher.launches) == entries


def sanitized(*arguments):
    """Run Python in a process of its own, whose allocator is the address sanitizer's."""
    runtime = subprocess.run(
        [emulator.compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
    }
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)


def test_no_kernel_leaves_its_memory():
    run = sanitized("-m", "cuda_emulator.exercise")
    assert run.returncode == 0, run.stderr[-3000:]
    # of each kernel two types or one: the texts are the same
    kernels = {name.rpartition("_")[0] or name for file in nvrtc.FILES for name in emulator.entries(file)}
    assert {name.rpartition("_")[0] or name for name in run.stdout.split()} == kernels


def emulated(monkeypatch, body, *, shared=0, **options):
    """Launch one block of 64 threads of a kernel given by its body, over 64 numbers."""
    text = f'extern "C" __global__ void __launch_bounds__(64) tried(float* x) {{ {body} }}'
    monkeypatch.setattr(emulator, "source", lambda file: text)
    emulator.library.cache_clear()
    try:
        launcher = emulator.EmulatedLauncher(**options)
        x = launcher.xp.zeros(64, dtype="float32")
        launcher.launch("tried", "tried", None, 1, 64, (x,), shared=shared)
        return x.get()
    finally:
        emulator.library.cache_clear()


def test_the_emulator_sees_a_missing_barrier(monkeypatch):
    body = "__shared__ float s[64]; s[threadIdx.x] = threadIdx.x; %s x[threadIdx.x] = s[63 - threadIdx.x];"
    for barrier, same in (("__syncthreads();", True), ("", False)):
        forward, backward = (emulated(monkeypatch, body % barrier, reverse=reverse) for reverse in (False, True))
        assert (forward.tobytes() == backward.tobytes()) is same


def test_the_emulator_sees_threads_that_do_not_meet(monkeypatch):
    with pytest.raises(RuntimeError, match=r"32 threads wait at __syncthreads, 32 have returned"):
        emulated(monkeypatch, "if (threadIdx.x < 32) return; __syncthreads();")
    with pytest.raises(RuntimeError, match=r"warp 0: 31 lanes wait in a warp operation, 0 at __syncthreads, 1 have"):
        emulated(monkeypatch, "if (threadIdx.x == 5) return; __syncwarp(); x[0] = 1;")
    assert emulated(monkeypatch, "__syncthreads(); x[threadIdx.x] = 2;").sum() == 128


def test_the_emulator_sees_memory_that_nobody_wrote(monkeypatch):
    body = "DYNAMIC_SHARED(memory); x[threadIdx.x] = reinterpret_cast<float*>(memory)[threadIdx.x];"
    assert all(value != value for value in emulated(monkeypatch, body, shared=256))


def test_the_emulator_checks_arguments():
    launcher = emulated_backend().launcher
    x, mask = launcher.xp.zeros((4, 4), dtype="float32"), launcher.xp.zeros((4, 4), dtype=bool)
    for arguments, fault in (
        ((x, x, mask, 16), r"takes 5 arguments and received 4"),
        ((x, x, x, 16, 1), r"contiguous array of b1, not of float32"),
        ((x.T, x, mask, 16, 1), r"contiguous array of f4, not of float32 with strides"),
        ((x, x, mask, 16.0, 1), r"takes a i8 where it received 16.0"),
        ((x.get(), x, mask, 16, 1), r"takes a device array"),
    ):
        with pytest.raises(TypeError, match=fault):
            launcher.launch("admm", "update", "float32", 1, 32, arguments)
    for threads, fault in ((512, "bound to 256"), (33, "whole number of warps")):
        with pytest.raises(ValueError, match=fault):
            launcher.launch("admm", "update", "float32", 1, threads, (x, x, mask, 16, 1))
    with pytest.raises(KeyError, match="no entry update_c64"):
        launcher.launch("admm", "update", "complex64", 1, 32, (x, x, mask, 16, 1))


@pytest.mark.parametrize(
    "body",
    [
        "x[threadIdx.x + 1] = 1;",
        "__shared__ float s[32]; s[threadIdx.x] = 1; __syncthreads(); x[0] = s[0];",
        "DYNAMIC_SHARED(memory); memory[threadIdx.x] = 1; __syncthreads(); x[0] = memory[0];",
    ],
    ids=["global", "shared", "dynamic"],
)
def test_the_sanitizer_sees(body):
    program = (
        "import pytest, test_cuda_kernels as t\n"
        f"with pytest.MonkeyPatch.context() as patch:\n    t.emulated(patch, {body!r}, shared=40, sanitize=True)\n"
    )
    run = sanitized("-c", program)
    assert run.returncode
    assert "AddressSanitizer" in run.stderr and "overflow" in run.stderr
