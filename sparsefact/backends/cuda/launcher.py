"""The seam between the host code of the CUDA backend and what runs its kernels.

Host code (grids, workspaces, the order of arguments) talks to a `Launcher`. On a GPU that is `CupyLauncher`; the tests
have another one that compiles the same `.cu` texts for the CPU, so everything but speed is proved on any machine.

How to add a kernel:

1. Write it in a `.cu` text in `kernels/` as a template over its number type, with entries made by ``FOR_REAL`` or
   ``FOR_ALL`` (scalar.cuh says how). An entry takes pointers, ``long long`` and ``double``, and blocks of whole warps;
   it checks its own bounds. Sums go through block.cuh: no atomics on floating point numbers, so that the bits never
   depend on timing. Dynamic shared memory is declared by ``DYNAMIC_SHARED(name)``. What needs inline PTX, asynchronous
   copies or tensor cores stands behind ``#ifdef __CUDA_ARCH__`` beside a plain path.
2. Write the host function in a module of this room: it receives the launcher first, makes operands contiguous, launches
   nothing for empty ones, allocates with `empty` and `zeros`, and never asks a device array for its value.
   CuPy's library functions come from ``launcher.xp`` and ``launcher.library(name)``.
3. Give `CudaBackend` a method that calls it, add the operation to the protocol and to the reference, and let the
   conformance suite compare the two.
4. ``python -m pytest tests/test_cuda_kernels.py`` compiles every entry for all GPU generations and compares registers
   with the committed table, which ``python tests/nvrtc.py`` rewrites.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from sparsefact.errors import DeviceError

__all__ = ["KERNELS", "CupyLauncher", "Launcher", "contiguous", "empty", "entry_name", "source", "zeros"]

KERNELS = Path(__file__).with_name("kernels")
"""The folder of the `.cu` texts."""

_SUFFIX = {"float32": "f32", "float64": "f64", "complex64": "c64", "complex128": "c128"}
_BIT = {"float32": 1, "float64": 2, "complex64": 4, "complex128": 8}
_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
# What a block may use without being asked for by name.
_STATIC_SHARED = 48 * 1024


class Launcher(Protocol):
    """What runs kernels on one device.

    Attributes
    ----------
    index : int
        The number of the device.
    xp : module
        The array module, ``cupy`` or a stand-in.
    shared_limit : int
        Bytes of shared memory that a block may ask for.
    """

    index: int
    xp: ModuleType
    shared_limit: int

    def active(self) -> AbstractContextManager[Any]:
        """Return the context in which `xp` works on this device."""
        ...

    def library(self, name: str) -> Any:
        """Return a module of CuPy that cannot be imported without CUDA's libraries, such as ``cupyx.scipy.linalg``."""
        ...

    def launch(
        self,
        file: str,
        entry: str,
        dtype: Any,
        grid: int,
        threads: int,
        arguments: Sequence[Any],
        *,
        shared: int = 0,
    ) -> None:
        """Run a kernel; it is compiled on first use.

        Parameters
        ----------
        file : str
            The name of the `.cu` text, without the ending.
        entry : str
            The name of the kernel, without the suffix of its type.
        dtype : dtype or None
            Which of the kernel's types; None for an entry without a suffix.
        grid, threads : int
            Blocks, at least one, and threads in each, a multiple of 32.
        arguments : sequence
            Contiguous arrays or None for pointers, int for ``long long``, float for ``double``.
        shared : int
            Bytes of dynamic shared memory.
        """
        ...


def entry_name(entry: str, dtype: Any) -> str:
    """Return the full name of a kernel's entry for a dtype."""
    return entry if dtype is None else f"{entry}_{_SUFFIX[np.dtype(dtype).name]}"


@functools.cache
def source(file: str) -> str:
    """Return a `.cu` text with its own headers put in place, so that it compiles without a path to them.

    CuPy's cache of compiled kernels knows the text alone: a header that changed would not be noticed.
    """
    seen: set[str] = set()

    def unfold(text: str) -> str:
        def put(match: re.Match[str]) -> str:
            name = match[1]
            if name in seen:
                return ""
            seen.add(name)
            return unfold((KERNELS / name).read_text(encoding="utf-8"))

        return _INCLUDE.sub(put, text)

    return unfold((KERNELS / f"{file}.cu").read_text(encoding="utf-8"))


def empty(launcher: Launcher, shape: Any, dtype: Any) -> Any:
    """Return an uninitialised array on the device, from CuPy's memory pool, which gives freed blocks out again."""
    return launcher.xp.empty(shape, dtype=dtype)


def zeros(launcher: Launcher, shape: Any, dtype: Any) -> Any:
    """Return an array of zeros on the device."""
    return launcher.xp.zeros(shape, dtype=dtype)


def contiguous(launcher: Launcher, x: Any) -> Any:
    """Return `x`, or a copy of it in C order."""
    return launcher.xp.ascontiguousarray(x)


class CupyLauncher:
    """Compiles kernels with ``cupy.RawModule``, per text and dtype, and runs them on one GPU."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.xp = importlib.import_module("cupy")
        self.shared_limit = int(self.xp.cuda.Device(index).attributes["MaxSharedMemoryPerBlockOptin"])
        self._modules: dict[tuple[str, int], Any] = {}
        self._functions: dict[tuple[str, str], Any] = {}
        self._granted: dict[tuple[str, str], int] = {}

    def active(self) -> AbstractContextManager[Any]:
        """Return the context in which this GPU is the current one, and running out of its memory is one sentence."""
        return _Active(self.xp, self.index)

    def library(self, name: str) -> Any:
        """Return a module of CuPy.

        Raises
        ------
        DeviceError
            If the CUDA library behind it is missing.
        """
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise DeviceError(
                f"device='cuda:{self.index}' needs {name}, and CUDA's library behind it cannot be loaded "
                f"({str(error).splitlines()[0]}); install CUDA's libraries, for instance with "
                "`pip install 'cupy-cuda13x[ctk]'`"
            ) from error

    def launch(
        self,
        file: str,
        entry: str,
        dtype: Any,
        grid: int,
        threads: int,
        arguments: Sequence[Any],
        *,
        shared: int = 0,
    ) -> None:
        """Run a kernel on the current stream; see `Launcher.launch`."""
        key = file, entry_name(entry, dtype)
        function = self._functions.get(key) or self.function(file, entry, dtype)
        if shared > max(_STATIC_SHARED, self._granted.get(key, 0)):
            function.max_dynamic_shared_size_bytes = shared
            self._granted[key] = shared
        function((grid,), (threads,), tuple(_argument(each) for each in arguments), shared_mem=shared)

    def function(self, file: str, entry: str, dtype: Any) -> Any:
        """Return CuPy's function for a kernel, compiled."""
        name = entry_name(entry, dtype)
        function = self._functions[file, name] = self._module(file, dtype).get_function(name)
        return function

    def _module(self, file: str, dtype: Any) -> Any:
        wanted = 0 if dtype is None else _BIT[np.dtype(dtype).name]
        if (file, wanted) not in self._modules:
            options = ("-std=c++17", f"-DDTYPES={wanted}")
            self._modules[file, wanted] = self.xp.RawModule(code=source(file), options=options)
        return self._modules[file, wanted]


class _Active:
    """One GPU made current, with its errors in the words of this package."""

    def __init__(self, cupy: ModuleType, index: int) -> None:
        self._cupy, self._index, self._device = cupy, index, cupy.cuda.Device(index)

    def __enter__(self) -> None:
        self._device.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._device.__exit__(kind, error, trace)
        if isinstance(error, self._cupy.cuda.memory.OutOfMemoryError):
            raise DeviceError(
                f"device='cuda:{self._index}' has too little free memory for this ({error}); use device='cpu', a "
                "smaller matrix, or a GPU with more memory"
            ) from error


def _argument(value: Any) -> Any:
    """Return what CuPy passes as a pointer, a ``long long`` or a ``double``."""
    if value is None:
        return np.uintp(0)
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value
