"""The model of memory and disk in `sparsefact.checkpoints.estimate` against what single jobs take, by shape and type.

Each case is a fresh process, which first factorizes a small matrix, so that all is loaded; its peak (VmHWM) before
and after is what counts. The constants of the model are chosen so that no case takes more than it says.

    python -m benchmarks.checkpoint_memory [--quick] [--output results.json] [--no-record]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import sparsefact as sf
from benchmarks import record
from sparsefact.checkpoints.estimate import PROCESS, disk_of, memory_of
from sparsefact.checkpoints.job import Job, perform
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule
from sparsefact.io.write import write_tensors

Case = tuple[int, int, str, float, bool]

_QUICK: list[Case] = [(512, 512, "F32", 0.3, False), (2048, 512, "F32", 0.3, False), (512, 768, "F64", 0.5, True)]
_CASES: list[Case] = [
    *_QUICK,
    *((2048, 2048, "F32", density, False) for density in (0.1, 0.3, 0.5, 0.8)),
    *((m, n, "F32", 0.3, False) for m, n in ((1024, 1024), (512, 2048), (4096, 512), (512, 4096))),
    (1024, 1024, "F64", 0.3, False),
    (1536, 1536, "BF16", 0.3, False),
    *((m, n, "F32", 0.3, True) for m, n in ((1024, 1024), (2048, 512), (512, 2048))),
    (1024, 1024, "F64", 0.5, True),
    (3000, 3000, "F32", 0.5, False),
]
_TYPES = {"F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _make(folder: Path, m: int, n: int, dtype: str, gram: bool) -> None:
    rng = np.random.default_rng(0)
    write_tensors(folder / "model.safetensors", {"w": rng.standard_normal((m, n), np.float32).astype(_TYPES[dtype])})
    if gram:
        X = rng.standard_normal((n, n + 10), np.float32)
        write_tensors(folder / "grams.safetensors", {"w.gram": X @ X.T})


def _job(folder: Path, density: float, gram: bool) -> Job:
    rule = Rule(density=density, gram=str(folder / "grams.safetensors") if gram else None)
    (target,) = plan(folder / "model.safetensors", recipe=Recipe((rule,))).targets
    output = folder / "factors.safetensors"
    return Job(target, 0, 1, folder / "model.safetensors", output, sf.Alternating(outer=4, report_every=1))


def _child(folder: Path, case: Case) -> dict[str, Any]:
    m, n, dtype, density, gram = case
    small = folder / "small"
    small.mkdir()
    _make(small, 64, 64, "F32", False)
    perform(_job(small, 0.5, False), lambda event: None)
    before = _peak()
    job = _job(folder, density, gram)
    outcome = perform(job, lambda event: None)
    peak, said = _peak(), PROCESS + memory_of(job.target)
    return {
        "shape": [m, n],
        "dtype": dtype,
        "density": density,
        "gram": gram,
        "process": before,
        "peak": peak,
        "planned": said,
        "planned / peak": said / peak,
        "disk": outcome.nbytes,
        "planned disk / disk": disk_of(job.target) / outcome.nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_child(Path(arguments.child[0]), json.loads(arguments.child[1]))))
        return
    rows = []
    for case in _QUICK if arguments.quick else _CASES:
        with tempfile.TemporaryDirectory() as name:
            m, n, dtype, _, gram = case
            _make(Path(name), m, n, dtype, gram)
            command = [sys.executable, "-m", "benchmarks.checkpoint_memory", "--child", name, json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    ratios = [row["planned / peak"] for row in rows]
    print(f"planned / peak from {min(ratios):.3f} to {max(ratios):.3f}")
    if not arguments.no_record:
        print(record.write("checkpoint_memory", rows, arguments.output), file=sys.stderr)


if __name__ == "__main__":
    main()
