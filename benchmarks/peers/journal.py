"""What was measured so far: one JSON document, replaced whole after every process, and whose measurement it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.record import environment, versions
from sparsefact.io.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[2]
# What is measured, changes that are not committed included.
_SOLVING = ("analysis", "backends", "constraints", "factorizers", "minimizers", "objectives", "products", "transforms")
ROOMS = (*(f"sparsefact/{room}" for room in _SOLVING), "benchmarks/peers")
PACKAGES = ("lazylinop", "pyfaust", "torch", "scikit-learn", "pandas", "einops", "array-api-compat")


class Stale(Exception):
    """The journal belongs to other sources, versions or options; the message says where they differ."""


def identity(options: dict[str, Any]) -> dict[str, Any]:
    """Return what a measurement depends on: the machine, the commit, the sources, the versions and the options."""
    here = environment()
    sources = hashlib.sha256()
    for path in sorted(each for room in ROOMS for each in (ROOT / room).rglob("*.py")):
        sources.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    kept = {name: here[name] for name in ("cpu", "cores", "python", "packages", "commit")}
    return kept | {"sources": sources.hexdigest(), "peers": versions(PACKAGES), "options": options}


class Journal:
    """The rows by key, in a file.

    Parameters
    ----------
    path : Path
    whose : dict
        What `identity` returned. A file that says otherwise is refused.
    fresh : bool
        Whether to begin anew, whatever is in the file.

    Raises
    ------
    Stale
        If the file belongs to another identity, or is not a journal.
    """

    def __init__(self, path: Path, whose: dict[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        self._whose = json.loads(json.dumps(whose))
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists() and not fresh:
            self.rows = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        again = "measure anew with --fresh"
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            whose, rows = content["identity"], content["rows"]
            different = sorted(key for key in {*whose, *self._whose} if whose.get(key) != self._whose.get(key))
        except (ValueError, KeyError, TypeError) as error:
            raise Stale(f"{self.path.name} is no journal of this benchmark; {again}") from error
        if different:
            raise Stale(f"{self.path.name} was begun with other {', '.join(different)}; {again}")
        found: dict[str, dict[str, Any]] = rows
        return found

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Add a row; when this returns, it is on disk."""
        self.rows[key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"identity": self._whose, "rows": self.rows}, indent=1)

        def fill(temporary: Path) -> None:
            temporary.write_text(text, encoding="utf-8")

        atomic_write(self.path, fill)
