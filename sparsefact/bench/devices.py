"""Where a case of the benchmark runs, and the packages that run it another way."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend

__all__ = ["COLD", "Device", "installed", "open_device"]

COLD = 1 << 28
"""Bytes that the operands of a case take up together, so that calls in turn do not find them in a cache."""
_COPIES = 8


class Device:
    """One device with its backend.

    Parameters
    ----------
    name : str
        As given: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    backend : Backend
    """

    def __init__(self, name: str, backend: Backend) -> None:
        self.name, self.backend = name, backend
        self.xp: Any = backend.xp
        self.is_gpu = backend.name == "cuda"
        self.index = int(getattr(backend, "index", 0))

    @property
    def library(self) -> str:
        """The array library of this device: what the ways that use nothing else are called."""
        return "cupy" if self.is_gpu else "numpy"

    def put(self, x: NDArray[Any]) -> Any:
        """Return an array on this device."""
        return self.backend.asarray(x)

    def copies(self, x: NDArray[Any]) -> list[Any]:
        """Return several equal arrays on this device, for calls in turn: together `COLD` bytes, but at most eight.

        An operand of less than an eighth of that may still be found in a cache, which is then also what a user finds.
        """
        count = max(1, min(_COPIES, -(-COLD // max(1, x.nbytes))))
        return [self.put(x.copy()) for _ in range(count)]

    def wait(self) -> None:
        """Wait until everything that was asked of the device is done."""
        if self.is_gpu:
            self.xp.cuda.Device(self.index).synchronize()

    def host(self, x: Any) -> NDArray[Any]:
        """Return an array of any of the libraries as a NumPy array."""
        if type(x).__module__.partition(".")[0] == "torch":
            found: NDArray[Any] = x.detach().cpu().numpy()
            return found
        if hasattr(x, "get") and not isinstance(x, np.ndarray):
            return self.backend.to_host(x)
        return np.asarray(x)

    def torch(self) -> tuple[ModuleType, Callable[[NDArray[Any]], Any]] | None:
        """Return torch and what puts a NumPy array on this device, or None where torch cannot run here."""
        if not installed("torch"):
            return None
        torch = importlib.import_module("torch")
        if self.is_gpu and not torch.cuda.is_available():
            return None
        where = f"cuda:{self.index}" if self.is_gpu else "cpu"
        return torch, lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(where)

    def module(self, name: str) -> Any:
        """Return a part of CuPy that is imported on demand, such as ``cupyx.scipy.sparse``; None on the CPU."""
        launcher = getattr(self.backend, "launcher", None)
        return None if launcher is None else launcher.library(name)

    def set_tf32(self, on: bool) -> None:
        """Let float32 products of torch and CuPy round to TF32, or not."""
        found = self.torch() if self.is_gpu else None
        if found is not None:
            found[0].backends.cuda.matmul.allow_tf32 = on
            found[0].backends.cudnn.allow_tf32 = on

    def describe(self) -> dict[str, Any]:
        """Return what a result file says of this device."""
        if not self.is_gpu:
            return {"device": self.name, "kind": "cpu"}
        runtime = self.xp.cuda.runtime
        told: dict[str, Any] = {"device": self.name, "kind": "cuda"}
        if hasattr(runtime, "getDeviceProperties"):
            properties = runtime.getDeviceProperties(self.index)
            name = properties["name"]
            told["name"] = name.decode() if isinstance(name, bytes) else str(name)
            told["memory"] = int(properties["totalGlobalMem"])
            told["processors"] = int(properties["multiProcessorCount"])
            told["l2_bytes"] = int(properties.get("l2CacheSize", 0))
            told["compute_capability"] = f"{properties['major']}.{properties['minor']}"
            told["driver_cuda"] = int(runtime.driverGetVersion())
            told["runtime_cuda"] = int(runtime.runtimeGetVersion())
        return told


def open_device(name: str) -> Device:
    """Return a device by its name.

    Raises
    ------
    DeviceError
        If it is unknown, or not here.
    """
    return Device(name, get_backend(device=name))


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, which is how tests stand one in
        return True
