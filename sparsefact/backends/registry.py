"""Which backend runs for which arrays: decided by where they live, or by name, never by a silent fallback."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

from sparsefact.backends.protocol import Backend
from sparsefact.errors import DeviceError

__all__ = ["get_backend"]

_EXTRA = "install it with `pip install 'sparsefact[cuda13]'` (CUDA 13) or `pip install 'sparsefact[cuda12]'` (CUDA 12)"


def get_backend(*arrays: Any, device: str | None = None) -> Backend:
    """Return the backend that works on the given arrays.

    Parameters
    ----------
    *arrays : array
        The operands; NumPy arrays run on the CPU, CuPy arrays on their GPU. Nothing is moved here.
    device : {None, "cpu", "cuda", "cuda:0", "reference"}, optional
        None follows the arrays; a name decides. ``"cuda:1"`` is the second GPU, and so on. ``"reference"`` is the
        slow float64 specification, for tests.

    Returns
    -------
    Backend

    Raises
    ------
    DeviceError
        If the device is unknown, or needs a package or a GPU that is not here.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.backends.registry import get_backend
    >>> get_backend(np.ones((2, 2))).name
    'cpu'
    """
    if device is None:
        device = "cpu"
        for array in arrays:
            if type(array).__module__.partition(".")[0] == "cupy":
                device = "cuda"
    return _by_name(device if isinstance(device, str) else repr(device))


@functools.cache
def _by_name(device: str) -> Backend:
    if device == "cpu":
        from sparsefact.backends.cpu.backend import CPU

        return CPU
    if device == "reference":
        from sparsefact.backends.reference import REFERENCE

        return REFERENCE
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index.isdecimal() or device == "cuda"):
        raise DeviceError(
            f"device={device!r} is not known; pass None (follow the arrays), 'cpu', 'cuda', 'cuda:0', 'cuda:1', ... or "
            "'reference'"
        )
    return _cuda(device, int(index or 0))


def _cuda(device: str, index: int) -> Backend:
    if importlib.util.find_spec("cupy") is None:
        raise DeviceError(
            f"device={device!r} needs the package cupy, which is not installed; {_EXTRA} or use device='cpu'"
        )
    cupy = importlib.import_module("cupy")
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"device={device!r} needs an NVIDIA GPU with its driver, and CUDA answers {str(error)!r}; use device='cpu' "
            f"or, if the GPU is there, check that cupy matches its driver: {_EXTRA}"
        ) from error
    if index >= count:
        raise DeviceError(f"device={device!r} does not exist: this machine has {count} GPUs, numbered from 0")
    raise DeviceError(f"device={device!r}: this version of sparsefact has no CUDA kernels yet; use device='cpu'")
