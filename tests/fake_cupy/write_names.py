"""Rewrites names.txt from the CuPy that is installed: ``python write_names.py`` (no GPU needed).

One name per line. A function is followed by its parameters (``*`` and ``**`` for open ones), a universal function by
``ufunc``, everything else by nothing.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import cupy
import cupyx

FILE = Path(__file__).with_name("names.txt")


def parameters(signature: inspect.Signature) -> str:
    words = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            words.append("*")
        elif parameter.kind is parameter.VAR_KEYWORD:
            words.append("**")
        else:
            words.append(name)
    return " ".join(words)


def described(value: object) -> str:
    """What a public attribute of a module or of the array class takes."""
    if isinstance(value, cupy.ufunc):
        return "ufunc"
    # compiled functions carry their signature in the first line of their documentation
    written = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?$", (getattr(value, "__doc__", None) or "").split("\n")[0])
    try:
        if isinstance(value, type) or not callable(value):
            return ""
        return parameters(inspect.signature(value))
    except (TypeError, ValueError):
        pass
    if not written:
        return "* **"
    names = []
    for part in written[1].split(","):
        name = part.split("=")[0].split(":")[0].strip().split(" ")[-1]
        if name.startswith("*"):
            name = name[: 2 if name.startswith("**") else 1]
        if name not in ("self", "", "/"):
            names.append(name)
    return " ".join(names)


def module_names(module: object, path: str) -> list[str]:
    lines = []
    for name in sorted(dir(module)):
        if name.startswith("_"):
            continue
        value = getattr(module, name, None)
        if inspect.ismodule(value):
            continue
        lines.append(f"{path}.{name} {described(value)}".rstrip())
    return lines


def source_names(folder: Path, path: str) -> list[str]:
    """The functions of a package that cannot be imported without CUDA's libraries, read from its text."""
    lines = []
    for file in sorted(folder.glob("_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                lines.append(f"{path}.{node.name} " + " ".join(arg.arg for arg in node.args.args))
    return lines


def main() -> None:
    lines = [f"# CuPy {cupy.__version__}, {cupy.ndarray.__name__} and the functions; written by write_names.py"]
    lines += module_names(cupy, "cupy")
    lines += module_names(cupy.linalg, "cupy.linalg")
    lines += module_names(cupy.random, "cupy.random")
    lines += [f"cupy.cuda.{name}" for name in sorted(dir(cupy.cuda)) if not name.startswith("_")]
    lines += [f"cupyx.{name}" for name in sorted(dir(cupyx)) if not name.startswith("_")]
    lines += source_names(Path(cupyx.__file__).parent / "scipy" / "linalg", "cupyx.scipy.linalg")
    for name in sorted(dir(cupy.ndarray)):
        if not name.startswith("_"):
            value = inspect.getattr_static(cupy.ndarray, name)
            lines.append(f"ndarray.{name} {described(getattr(cupy.ndarray, name)) if callable(value) else ''}".rstrip())
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
