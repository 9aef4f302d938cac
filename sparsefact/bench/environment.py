"""The machine, the versions and the commit that a measurement belongs to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from sparsefact import __version__

__all__ = ["environment"]

_PACKAGES = ("numpy", "scipy", "numba", "cupy", "cupy-cuda12x", "cupy-cuda13x", "torch", "lazylinop", "pyfaust")
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "SPARSEFACT_NUM_THREADS", "CUPY_TF32")


def environment() -> dict[str, Any]:
    """Return what a result file says of the machine; the commit only where the package is read from a checkout."""
    packages = {"sparsefact": __version__}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    room = Path(__file__).resolve().parent.parent
    commit = _git(room, "rev-parse", "HEAD") if (room.parent / ".git").exists() else ""
    changed = bool(commit) and bool(_git(room, "status", "--porcelain", "--untracked-files=no", "--", "."))
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "threads": {name: os.environ.get(name) for name in _THREADS if os.environ.get(name) is not None},
        "commit": commit or None,
        "uncommitted_changes": changed,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(where: Path, *arguments: str) -> str:
    try:
        found = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
