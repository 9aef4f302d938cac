"""The backends under test: the CPU, the CUDA backend emulated on it, and a real GPU where there is one."""

from __future__ import annotations

import functools
from importlib.machinery import ModuleSpec

import fake_cupy
from cuda_emulator.launcher import EmulatedLauncher

from sparsefact.backends import registry
from sparsefact.backends.cuda.backend import CudaBackend
from sparsefact.backends.protocol import Backend
from sparsefact.errors import DeviceError

__all__ = ["BACKENDS", "emulated_backend", "get_backend", "install"]


def _has_gpu() -> bool:
    try:
        registry.get_backend(device="cuda")
    except DeviceError:
        return False
    return True


BACKENDS = ["cpu", "cuda-emulated", *(["cuda"] if _has_gpu() else [])]
"""The names that the conformance suite runs over."""


def get_backend(*arrays, device: str | None = None) -> Backend:
    """What the package's function of this name returns; ``"cuda-emulated"`` is known here alone."""
    return emulated_backend() if device == "cuda-emulated" else registry.get_backend(*arrays, device=device)


@functools.cache
def emulated_backend(*, reverse: bool = False, sanitize: bool = False) -> CudaBackend:
    """The backend over the stand-in for CuPy, its kernels compiled for the CPU."""
    return CudaBackend(launcher=EmulatedLauncher(reverse=reverse, sanitize=sanitize))


def install(monkeypatch) -> CudaBackend:
    """Let the package find the stand-in as CuPy, and one emulated GPU."""
    import sys

    fake_cupy.__spec__ = ModuleSpec("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    backend = emulated_backend()
    monkeypatch.setattr(registry, "_by_name", functools.cache(registry._by_name.__wrapped__))
    monkeypatch.setattr("sparsefact.backends.cuda.backend.CupyLauncher", lambda index: backend.launcher)
    fake_cupy.reset()
    return backend
