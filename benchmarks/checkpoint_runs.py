"""Whole-checkpoint runs: the memory of a large checkpoint, and how far two workers are faster than one.

    python -m benchmarks.checkpoint_runs memory [--bytes 20000000000] [--no-record]
    python -m benchmarks.checkpoint_runs workers [--equal-size 768] [--no-record]

The large checkpoint is a sparse file, so that it takes hardly any disk: it reads as zeros but for a few
matrices. Its output is as large, and written. Peak memory is that of the process that does the run (VmHWM). That takes
some ten minutes; two workers against one take a few on two cores, which should be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from sparsefact.io.write import write_tensors

_RUN = """
import json, sys
from pathlib import Path
import sparsefact as sf
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.run import run
source, output, include = sys.argv[1:4]
options = json.loads(sys.argv[4])
if __name__ == "__main__":
    work = plan(source, density=0.4, include=include)
    report = run(work, output, solver=sf.Alternating(**options.pop("solver")), **options)
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps({"seconds": report.seconds, "peak": int(peak) * 1024, "failed": len(report.failed)}))
"""


def _carry_out(source: Path, output: Path, include: str, **options: Any) -> dict[str, Any]:
    script = output.with_name("run.py")
    script.write_text(_RUN, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, source, output, include, json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sparse_checkpoint(path: Path, matrices: int, size: int, total: int) -> None:
    """Write a file of about `total` bytes: some matrices with numbers, and one tensor of zeros that takes no disk."""
    rest = (total - matrices * size * size * 4) // 4
    entries: dict[str, Any] = {}
    at = 0
    for name, shape in [*((f"w.{i}", [size, size]) for i in range(matrices)), ("zeros", [rest])]:
        nbytes = 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(matrices):
            file.write(rng.standard_normal((size, size), dtype=np.float32).tobytes())
        file.truncate(8 + len(header) + at)


def memory(folder: Path, total: int, size: int) -> dict[str, Any]:
    """Run on a large sparse file; its zeros are copied, so the output is as large."""
    sparse_checkpoint(folder / "large.safetensors", 3, size, total)
    found = _carry_out(folder / "large.safetensors", folder / "out", "w.*", solver={"outer": 4})
    allowed = 3 * size * size * 4 + 400_000_000
    return {**found, "bytes": total, "largest target, float32 bytes": size * size * 4, "allowed": allowed}


def workers(folder: Path, size: int) -> dict[str, Any]:
    """Run on eight equal matrices, with one worker and with two."""
    rng = np.random.default_rng(0)
    tensors = {f"w.{i}": rng.standard_normal((size, size), dtype=np.float32) for i in range(8)}
    write_tensors(folder / "equal.safetensors", tensors)
    times = {}
    for jobs in (1, 2):
        begin = time.perf_counter()
        _carry_out(folder / "equal.safetensors", folder / f"out-{jobs}", "w.*", jobs=jobs, threads_per_job=1, solver={})
        times[jobs] = time.perf_counter() - begin
    return {
        "size": size,
        "one worker, seconds": times[1],
        "two workers, seconds": times[2],
        "ratio": times[1] / times[2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["memory", "workers"])
    parser.add_argument("--bytes", type=int, default=20_000_000_000)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--equal-size", type=int, default=768)
    record.add_options(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.which == "memory":
            results = memory(Path(name), arguments.bytes, arguments.size)
        else:
            results = workers(Path(name), arguments.equal_size)
    print(results)
    record.finish(f"checkpoint_{arguments.which}", results, arguments)


if __name__ == "__main__":
    main()
