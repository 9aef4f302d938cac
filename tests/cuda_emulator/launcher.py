"""The launcher that runs the CUDA backend's kernels on the CPU, over the stand-in for CuPy.

Each `.cu` text is compiled once per content, compiler and options, to a shared library in a folder of the temporary
directory that later runs find again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fake_cupy
import numpy as np

from sparsefact.backends.cuda.launcher import KERNELS, entry_name, source

HEADER = Path(__file__).with_name("emulator.h")
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off")
ENTRY = re.compile(r'extern\s+"C"\s+__global__\s+void\s+__launch_bounds__\s*\((\d+)[^)]*\)\s*(\w+)\s*\(')
# what a block may ask for on the smallest GPU that is supported
SHARED_LIMIT = 64 * 1024


def compiler() -> str:
    """The C++ compiler. There is no way around it: without one nothing of the CUDA backend would be tested."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return name
    raise RuntimeError("the CUDA kernels are tested by compiling them for the CPU; install g++, or set CXX")


def folder() -> Path:
    path = Path(tempfile.gettempdir()) / f"sparsefact-emulator-{os.getuid()}"
    path.mkdir(exist_ok=True)
    return path


def entries(file: str, flags: Sequence[str] = ()) -> dict[str, int]:
    """Every entry of a `.cu` text with its launch bound, found after the preprocessor has unfolded the macros."""
    run = subprocess.run(
        [compiler(), *flags, "-E", "-P", "-x", "c++", "-"],
        input=source(file),
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: int(bound) for bound, name in ENTRY.findall(run.stdout)}


@functools.cache
def library(file: str, sanitize: bool = False) -> tuple[ctypes.CDLL, dict[str, int]]:
    """The compiled entries of a `.cu` text."""
    # under the sanitizer all types but complex64, which takes its time to compile and adds no other text
    flags = [*FLAGS, *(["-fsanitize=address", "-DDTYPES=11"] if sanitize else ["-U_FORTIFY_SOURCE"])]
    text = source(file)
    key = hashlib.sha256("\0".join([text, HEADER.read_text(), compiler(), *flags]).encode()).hexdigest()[:20]
    shared = folder() / f"{file}-{key}.so"
    listed = shared.with_suffix(".entries")
    # two workers that want the same library compile it once
    with (folder() / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not listed.exists():
            found = entries(file, flags)
            program = [f'#include "{HEADER}"', text, *(f"EMULATED({name})" for name in found)]
            part = shared.with_suffix(".part")
            command = [compiler(), *flags, "-x", "c++", "-", "-o", str(part)]
            run = subprocess.run(command, input="\n".join(program), capture_output=True, text=True)
            if run.returncode:
                raise RuntimeError(f"{file}.cu does not compile for the emulator:\n{run.stderr}")
            part.replace(shared)
            listed.write_text("\n".join(f"{name} {bound}" for name, bound in found.items()))
    bounds = {name: int(bound) for name, bound in (line.split() for line in listed.read_text().splitlines())}
    loaded = ctypes.CDLL(str(shared))
    loaded.emulator_message.restype = ctypes.c_char_p
    for name in bounds:
        getattr(loaded, f"takes_{name}").restype = ctypes.c_char_p
    return loaded, bounds


class EmulatedLauncher:
    """Runs kernels on the CPU; `launches` counts them by name.

    Every argument is checked against the entry: an array must have the element type of the pointer and lie in C order,
    a number must be a Python int or float.
    """

    shared_limit = SHARED_LIMIT

    def __init__(self, index: int = 0, *, reverse: bool = False, sanitize: bool = False) -> None:
        self.index, self.reverse, self.sanitize = index, reverse, sanitize
        self.xp = fake_cupy
        self.launches: dict[str, int] = {}

    def active(self):
        return contextlib.nullcontext()

    def library(self, name):
        return fake_cupy.library(name)

    def function(self, file, entry, dtype):
        """The compiled kernel, as `CupyLauncher.function` returns it."""
        return getattr(library(file, self.sanitize)[0], f"emulated_{entry_name(entry, dtype)}")

    def launch(self, file, entry, dtype, grid, threads, arguments, *, shared=0):
        loaded, bounds = library(file, self.sanitize)
        name = entry_name(entry, dtype)
        if name not in bounds:
            raise KeyError(f"{file}.cu has no entry {name}, only {sorted(bounds)}")
        if threads > bounds[name]:
            raise ValueError(f"{name} is bound to {bounds[name]} threads and is launched with {threads}")
        if threads % 32:
            raise ValueError(f"{name} is launched with {threads} threads, which is no whole number of warps")
        if shared > self.shared_limit:
            raise ValueError(f"{name} asks for {shared} bytes of shared memory, more than {self.shared_limit}")
        if not 0 < grid < 1 << 31:
            raise ValueError(f"{name} is launched with {grid} blocks")
        expected = getattr(loaded, f"takes_{name}")().decode().split()
        values = self._values(name, expected, arguments)
        sizes = (ctypes.c_uint * 4)(grid, 1, 1, threads)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        loaded.emulator_reverse(int(self.reverse))
        if getattr(loaded, f"emulated_{name}")(sizes, ctypes.c_size_t(shared), pointers):
            raise RuntimeError(f"{name}: {loaded.emulator_message().decode()}")
        self.launches[name] = self.launches.get(name, 0) + 1

    @staticmethod
    def _values(name, expected, arguments):
        if len(expected) != len(arguments):
            raise TypeError(f"{name} takes {len(expected)} arguments and received {len(arguments)}")
        values = []
        for kind, argument in zip(expected, arguments, strict=True):
            if kind[0] == "P":
                values.append(ctypes.c_void_p(None if argument is None else _address(name, kind[1:], argument)))
            elif kind == "i8" and type(argument) is int:
                values.append(ctypes.c_longlong(argument))
            elif kind == "f8" and type(argument) is float:
                values.append(ctypes.c_double(argument))
            else:
                raise TypeError(f"{name} takes a {kind} where it received {argument!r}")
        return values


def _address(name, kind, array):
    if not isinstance(array, fake_cupy.ndarray):
        raise TypeError(f"{name} takes a device array, not {type(array)}")
    host = fake_cupy.unwrap(array)
    if host.dtype != np.dtype(kind) or not host.flags.c_contiguous:
        raise TypeError(f"{name} takes a contiguous array of {kind}, not of {host.dtype} with strides {host.strides}")
    return host.ctypes.data


assert KERNELS.is_dir()
