"""Compiles the CUDA kernels for every supported GPU generation, without a GPU, by NVIDIA's run-time compiler.

``python tests/nvrtc.py`` rewrites the table of registers, tests/data/registers.json.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path

from cuda_emulator.launcher import folder

from sparsefact.backends.cuda.launcher import KERNELS, source

TABLE = Path(__file__).parent / "data" / "registers.json"
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
FILES = sorted(path.stem for path in KERNELS.glob("*.cu"))
# what CuPy passes too
OPTIONS = ("-std=c++17", "-ftz=true", "--ptxas-options=-v")


class Compiler:
    """libnvrtc, from the package nvidia-cuda-nvrtc or from the system."""

    def __init__(self) -> None:
        self.library = self._load()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version = f"{major.value}.{minor.value}"

    @staticmethod
    def _load() -> ctypes.CDLL:
        spec = importlib.util.find_spec("nvidia")
        roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
        candidates = sorted(str(path) for root in roots for path in root.glob("*/lib/libnvrtc.so.*"))
        for name in [*candidates, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
        raise RuntimeError("the CUDA kernels are checked by NVIDIA's run-time compiler; install nvidia-cuda-nvrtc")

    def _check(self, code: int, program: ctypes.c_void_p | None = None) -> None:
        if code:
            log = self._text("ProgramLog", program) if program else f"nvrtc answers {code}"
            raise RuntimeError(log)

    def _text(self, what: str, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    def compile(self, text: str, architecture: str) -> dict[str, dict[str, int]]:
        """Compile a program to machine code; return what each entry uses, in registers and bytes."""
        program = ctypes.c_void_p()
        self._check(self.library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None))
        try:
            options = [f"-arch={architecture}", *OPTIONS]
            pointers = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            self._check(self.library.nvrtcCompileProgram(program, len(options), pointers), program)
            return usage(self._text("ProgramLog", program))
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))


def usage(log: str) -> dict[str, dict[str, int]]:
    """Read the assembler's report: registers, stack, spills and static shared memory of every entry."""
    found = {}
    for part in log.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", part)
        assert name is not None

        def number(pattern: str, part: str = part) -> int:
            match = re.search(pattern, part)
            return int(match[1]) if match else 0

        found[name[1]] = {
            "registers": number(r"Used (\d+) registers"),
            "stack": number(r"(\d+) bytes stack frame"),
            "spilled": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            "shared": number(r"(\d+) bytes smem"),
        }
    return found


def report(compiler: Compiler, file: str) -> dict[str, dict[str, dict[str, int]]]:
    """Compile a `.cu` text for every architecture: architecture, entry, use. Kept for a text that did not change."""
    text = source(file)
    key = hashlib.sha256("\0".join([text, compiler.version, *ARCHITECTURES, *OPTIONS]).encode()).hexdigest()[:20]
    kept = folder() / f"{file}-{key}.json"
    if kept.exists():
        found: dict[str, dict[str, dict[str, int]]] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    found = {architecture: compiler.compile(text, architecture) for architecture in ARCHITECTURES}
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(kept)
    return found


def registers(by_architecture: dict[str, dict[str, dict[str, int]]], file: str) -> dict[str, list[int]]:
    """Lines of the committed table: the registers of a text's entries, for each architecture in order."""
    return {
        f"{file}.{entry}": [by_architecture[architecture][entry]["registers"] for architecture in ARCHITECTURES]
        for entry in sorted(by_architecture[ARCHITECTURES[0]])
    }


def main() -> None:
    compiler = Compiler()
    table: dict[str, list[int]] = {}
    for file in FILES:
        table |= registers(report(compiler, file), file)
    lines = [f'    "{entry}": {numbers}' for entry, numbers in table.items()]
    text = (
        f'{{\n  "nvrtc": "{compiler.version}",\n  "architectures": {json.dumps(ARCHITECTURES)},\n  "registers": {{\n'
        + ",\n".join(lines)
        + "\n  }\n}\n"
    )
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
