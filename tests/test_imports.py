"""The house: imports only point down, the rooms' fronts are empty, and the front door is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparsefact

ROOT = Path(sparsefact.__file__).parent
FLOOR = {
    "errors": 0,
    "backends": 0,
    "constraints": 1,
    "io": 1,
    "products": 2,
    "objectives": 3,
    "analysis": 3,
    "minimizers": 4,
    "factorizers": 5,
    "transforms": 6,
    "checkpoints": 7,
    "report": 8,
    "bench": 8,
    "interop": 9,
    "torch": 9,
    "cli": 9,
    "__main__": 9,
}
ONLY_IN_BACKENDS = {"numba", "cupy", "cupyx", "cupy_backends"}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, by its absolute dotted name."""
    names: set[str] = set()
    package = ["sparsefact", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.add(module)
            if module == "sparsefact":
                names.update(f"sparsefact.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names.update(arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))
    return names


def faults(room: str, names: set[str]) -> list[str]:
    found = [name for name in names if name.split(".")[0] in ONLY_IN_BACKENDS and room != "backends"]
    for name in names:
        parts = name.split(".")
        if parts[0] != "sparsefact" or name in ("sparsefact", "sparsefact.__version__"):
            continue
        # a public name taken from the top level hides which room it lives in
        if parts[1] not in FLOOR or FLOOR[parts[1]] > FLOOR[room]:
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    if path == ROOT / "__init__.py":
        return  # the front door names every room, lazily
    assert room_of(path) in FLOOR, "a new room needs a floor"
    assert not faults(room_of(path), imported(path))


def test_the_checker_sees_what_it_should():
    assert faults("constraints", {"sparsefact.products.factors", "numpy", "sparsefact.io.atomic"}) == [
        "sparsefact.products.factors"
    ]
    assert faults("constraints", {"numba"}) == ["numba"]
    assert faults("backends", {"numba.core", "cupy"}) == []
    assert faults("cli", {"sparsefact", "sparsefact.__version__", "sparsefact.checkpoints.run"}) == []
    assert faults("minimizers", {"sparsefact.TopK"}) == ["sparsefact.TopK"]


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_fronts_of_rooms_are_empty(path):
    # the package, and the two rooms whose names are public through them
    if path.parent == ROOT or room_of(path) in ("cli", "transforms"):
        return
    assert path.read_text(encoding="utf-8").strip() == ""


def loaded_after(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=600)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_import_is_light():
    assert not loaded_after("import sparsefact") & {"numpy", "numba", "cupy", "scipy", "click", "rich", "safetensors"}


def test_constraints_do_not_load_the_kernels():
    statement = "import sparsefact\nsparsefact.double_sparse((8, 8), 0.5)\nsparsefact.TopK(nnz=3).count((4, 4))"
    assert not loaded_after(statement) & {"numba", "cupy", "scipy"}


def test_every_public_name_can_be_loaded():
    for name in sparsefact.__all__:
        assert getattr(sparsefact, name) is not None
    assert set(sparsefact.__all__) <= set(dir(sparsefact))
