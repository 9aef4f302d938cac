"""All cells in one shuffled order, each in a process of its own, and the table that they make."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

from benchmarks.peers.case import Case, Way
from benchmarks.peers.cell import OURS, quartiles
from benchmarks.peers.journal import ROOT, Journal

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "SPARSEFACT_NUM_THREADS")
# Ours compiles its kernels in the first process after an installation.
PATIENCE = 10


@dataclass(frozen=True)
class Cell:
    """One process: a way on a case, for the `turn`-th time."""

    case: Case
    way: Way
    turn: int = 0

    @property
    def key(self) -> str:
        """What the journal calls it."""
        return f"{self.case.key} | {self.way.title} | {self.turn}"


@dataclass(frozen=True)
class Rules:
    """How every cell is run.

    Attributes
    ----------
    budget : float
        Seconds for the samples of a cell.
    rounds : int
        Samples at most.
    limit : float
        Seconds that the process of a peer may take.
    threads : int or None
        For every library, or None for what each takes by itself.
    layers : Path or None
        The file with the real layers.
    """

    budget: float = 1.0
    rounds: int = 9
    limit: float = 60.0
    threads: int | None = None
    layers: Path | None = None


Execute = Callable[[Cell], dict[str, Any]]


def plan(cases: Sequence[Case], only: Sequence[str], processes: int, seed: int) -> list[Cell]:
    """Return the cells in their shuffled order; `only` names libraries, and none means all."""
    cells = [
        Cell(case, way, turn)
        for case in cases
        for way in case.ways
        for turn in range(processes)
        if not only or way.library in only
    ]
    random.Random(seed).shuffle(cells)
    return cells


def missing(way: Way) -> list[str]:
    """Return the modules that a way needs and that are not installed."""
    return [name for name in way.needs if importlib.util.find_spec(name) is None]


def execute(cell: Cell, rules: Rules) -> dict[str, Any]:
    """Run one cell in a process of its own and return its row, whatever becomes of the process."""
    absent = missing(cell.way)
    if absent:
        return {"status": "not installed", "reason": f"needs {', '.join(absent)}"}
    limit = rules.limit * (PATIENCE if cell.way.library == OURS else 1)
    told = os.environ | ({} if rules.threads is None else dict.fromkeys(THREADS, str(rules.threads)))
    with tempfile.TemporaryDirectory() as folder:
        output, said = Path(folder) / "row.json", Path(folder) / "said"
        command = [sys.executable, "-m", "benchmarks.peers.cell", cell.case.key, cell.way.title]
        command += ["--budget", str(rules.budget), "--rounds", str(rules.rounds), "--output", str(output)]
        command += [] if rules.layers is None else ["--layers", str(rules.layers)]
        started = time.perf_counter()
        with said.open("wb") as sink:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env=told, stdout=subprocess.DEVNULL, stderr=sink, timeout=limit, check=False
                )
            except subprocess.TimeoutExpired:
                return {"status": "limit", "reason": f"more than {limit:g} s", "wall": limit}
        wall = time.perf_counter() - started
        if output.exists():
            row: dict[str, Any] = loads(output.read_text(encoding="utf-8"))
            return row | {"wall": wall}
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"status": "failed", "reason": ended(done.returncode, lines), "wall": wall}


def ended(code: int, lines: Sequence[str]) -> str:
    """Return why a process left no row."""
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    return lines[-1][:200] if lines else f"the process ended with code {code}"


def run(cells: Sequence[Cell], journal: Journal, execute: Execute, tell: Callable[[str], None]) -> None:
    """Run the cells that the journal does not have, in their order."""
    for at, cell in enumerate(cells, start=1):
        if cell.key in journal.rows:
            continue
        row = execute(cell)
        journal.add(cell.key, row)
        said = (
            f"{1e3 * row['median']:.3f} ms, error {row['error']:.4g}"
            if row["status"] == "ok"
            else f"{row['status']}: {row['reason']}"
        )
        tell(f"{at}/{len(cells)} {cell.case.key} {cell.way.title}: {said}")


def together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one row of the turns of a way: all samples, the largest error and peak; what went wrong comes first."""
    bad = [row for row in rows if row["status"] != "ok"]
    if bad:
        return {name: bad[0][name] for name in ("status", "reason")} | {"wall": sum(row.get("wall", 0) for row in rows)}
    if len(rows) == 1:
        return dict(rows[0])
    seconds = [each for row in rows for each in row["seconds"]]
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"] is not None]
    return {
        **rows[0],
        "error": max(row["error"] for row in rows),
        "first": max(row["first"] for row in rows),
        "wall": sum(row["wall"] for row in rows),
        "warm": all(row["warm"] for row in rows),
        "seconds": seconds,
        "median": statistics.median(seconds),
        "quartiles": quartiles(seconds),
        "peak_bytes": max(peaks) if peaks else None,
    }


def table(cases: Sequence[Case], cells: Sequence[Cell], rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a document for each case that has cells, its ways in the order of the case."""
    turns: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        turns.setdefault((cell.case.key, cell.way.title), []).append(rows[cell.key])
    found = []
    for case in cases:
        ways = {
            way.title: {"library": way.library} | together(turns[case.key, way.title])
            for way in case.ways
            if (case.key, way.title) in turns
        }
        said = {name: getattr(case, name) for name in ("family", "size", "title", "measure", "exact")}
        if ways:
            found.append({"case": case.key} | said | {"ways": ways})
    return found
