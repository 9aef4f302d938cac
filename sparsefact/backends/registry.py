"""Which backend runs for which arrays: decided by where they live, or by name, never by a silent fallback."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from typing import Any

import numpy as np

from sparsefact.backends.protocol import Backend
from sparsefact.errors import DeviceError

__all__ = ["device_of", "get_backend", "on_gpu", "rounds_to_tf32"]

_EXTRA = "install it with `pip install 'sparsefact[cuda13]'` (CUDA 13) or `pip install 'sparsefact[cuda12]'` (CUDA 12)"


def get_backend(*arrays: Any, device: str | None = None) -> Backend:
    """Return the backend that works on the given arrays.

    Parameters
    ----------
    *arrays : array
        The operands; NumPy arrays run on the CPU, CuPy arrays on their GPU. Nothing is moved here.
    device : {None, "cpu", "cuda", "cuda:0", "reference"}, optional
        None follows the arrays; a name decides for NumPy arrays. ``"cuda:1"`` is the second GPU, and so on, and
        ``"cuda"`` the first, or that of the arrays. ``"reference"`` is the slow float64 specification, for tests.

    Returns
    -------
    Backend

    Raises
    ------
    DeviceError
        If the device is unknown, or needs a package or a GPU that is not here; if the arrays are on more than one
        device, or on another one than asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.backends.registry import get_backend
    >>> get_backend(np.ones((2, 2))).name
    'cpu'
    """
    found = _where(arrays)
    if device is None or (device == "cuda" and found is not None):
        device = found or "cpu"
    elif found is not None and device != found:
        raise DeviceError(
            f"device={device!r} was asked for, but an array is on {found!r}; pass device=None to follow the arrays, or "
            "move it first, with x.get() or cupy.asarray(x)"
        )
    return _by_name(device if isinstance(device, str) else repr(device))


def device_of(*arrays: Any) -> str:
    """Return where arrays are, ``"cpu"`` or ``"cuda:0"`` and so on; a `DeviceError` if not all in one place."""
    return _where(arrays) or "cpu"


def on_gpu(array: Any) -> bool:
    """Return whether something is an array on a GPU."""
    return type(array).__module__.partition(".")[0] == "cupy"


def rounds_to_tf32(device: str, dtype: Any) -> bool:
    """Return whether cuBLAS rounds the operands of its products of this type to TF32 there, as CUPY_TF32 asks CuPy."""
    asked = os.environ.get("CUPY_TF32", "0") not in ("", "0")
    return asked and device.startswith("cuda") and np.dtype(dtype).name in ("float32", "complex64")


def _where(arrays: tuple[Any, ...]) -> str | None:
    """Return the GPU on which the arrays are, or None if none of them is on one."""
    devices = sorted({f"cuda:{array.device.id}" for array in arrays if on_gpu(array)})
    if len(devices) > 1:
        raise DeviceError(
            f"the arrays are on {' and '.join(map(repr, devices))}; move them to one GPU, with cupy.asarray(x) inside "
            f"`with cupy.cuda.Device({devices[0].partition(':')[2]}):`"
        )
    if devices and any(isinstance(array, np.ndarray) for array in arrays):
        raise DeviceError(
            f"NumPy arrays and CuPy arrays on {devices[0]!r} are mixed; pass all as one kind, with cupy.asarray(x) or "
            "x.get()"
        )
    return devices[0] if devices else None


@functools.cache
def _by_name(device: str) -> Backend:
    if device == "cpu":
        from sparsefact.backends.cpu.backend import CPU

        return CPU
    if device == "reference":
        from sparsefact.backends.reference import REFERENCE

        return REFERENCE
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise DeviceError(
            f"device={device!r} is not known; pass None (follow the arrays), 'cpu', 'cuda', 'cuda:0', 'cuda:1', ... or "
            "'reference'"
        )
    index = int(number or 0)
    if device != f"cuda:{index}":
        return _by_name(f"cuda:{index}")
    return _cuda(device, index)


def _cuda(device: str, index: int) -> Backend:
    if importlib.util.find_spec("cupy") is None:
        raise DeviceError(
            f"device={device!r} needs the package cupy, which is not installed; {_EXTRA} or use device='cpu'"
        )
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(
            f"device={device!r} needs the package cupy, and importing it fails ({str(error).splitlines()[0]}); it may "
            f"be built for another CUDA than the one here: {_EXTRA}, or use device='cpu'"
        ) from error
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"device={device!r} needs an NVIDIA GPU with its driver, and CUDA answers {str(error)!r}; use device='cpu' "
            f"or, if the GPU is there, check that cupy matches its driver: {_EXTRA}"
        ) from error
    if index >= count:
        there = "1 GPU, which is 'cuda:0'" if count == 1 else f"{count} GPUs, numbered from 0"
        raise DeviceError(f"device={device!r} does not exist: this machine has {there}")
    from sparsefact.backends.cuda.backend import CudaBackend

    return CudaBackend(index)
