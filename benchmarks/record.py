"""The result files of the benchmarks: one JSON document with the machine, the versions and the commit."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Return the machine, the versions and the commit that a measurement belongs to."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    here = Path(__file__).parent
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in ("sparsefact", "numpy", "scipy", "numba")},
        "threads": {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "SPARSEFACT_NUM_THREADS")},
        "commit": _git(here, "rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git(here, "status", "--porcelain", "--untracked-files=no", "--", "../sparsefact")),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(where: Path, *arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def load(name: str) -> dict[str, Any]:
    """Return a committed result file."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def measured(document: dict[str, Any], threads: str = "") -> str:
    """Return on what a result file was measured, for below its table; `threads` says in words how many there were."""
    machine = document["environment"]
    threads = f"{threads}, " if threads else ""
    return f"Measured on an {machine['cpu']}, {machine['cores']} cores, {threads}NumPy {machine['packages']['numpy']}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the result file, which `finish` takes."""
    parser.add_argument("--output", type=Path)
    parser.add_argument("--no-record", action="store_true")


def finish(name: str, results: Any, arguments: argparse.Namespace) -> None:
    """Write a result file as the options of `add_options` say."""
    if not arguments.no_record:
        print(write(name, results, arguments.output), file=sys.stderr)


def write(name: str, results: Any, output: Path | None = None) -> Path:
    """Write a result file, by default ``benchmarks/results/NAME.json``, and return its path."""
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": name, "environment": environment(), "results": results}, indent=1) + "\n")
    return path
