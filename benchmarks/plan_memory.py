"""The model of memory and disk in `sparsefact.checkpoints.estimate` against what single jobs take.

Each case is a fresh process, which first does the same with a small matrix, so that all is loaded; then its peak
(VmHWM) is what counts. The constants of the model are chosen so that no case takes more than it says, and it never says
more than 1.3 times as much. Searches are cut short where that does not change what they hold; some run in full. On one
core it takes about twenty minutes. Where kernels are not compiled yet, run it twice: compiling takes memory, too.

    python -m benchmarks.plan_memory [--quick] [--only TEXT] [--output results.json] [--no-record]
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

from benchmarks import record
from sparsefact.checkpoints.estimate import PROCESS, disk_of, memory_of
from sparsefact.checkpoints.job import Job, perform
from sparsefact.checkpoints.methods import build_solver
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule
from sparsefact.io.write import write_tensors

_TYPES = {"F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}
_SHORT = {"outer": 4, "report_every": 1}
# options that cut the search of one matrix short
_SINGLE: dict[str, dict[str, Any]] = {
    "admm": {"iterations": 4, "selections": 3},
    "iht": {"steps": 4},
    "htp": {"steps": 3},
    "matching-pursuit": {"iterations": 4},
    "sequential-attention": {"iterations": 20},
    "deep-weight-factorization": {"steps": 5, "refit": True},
}


def _case(m: int, n: int, *, dtype: str = "F32", gram: bool = False, **rule: Any) -> dict[str, Any]:
    return {"shape": [m, n], "dtype": dtype, "gram": gram, "rule": rule}


def _double(m: int, n: int, density: float = 0.3, **more: Any) -> dict[str, Any]:
    return _case(m, n, density=density, options=_SHORT, **more)


def _single(m: int, n: int, solver: str, **more: Any) -> dict[str, Any]:
    options = {**_SINGLE[solver], **more.pop("options", {})}
    return _case(m, n, gram=True, constraint="single", solver=solver, options=options, density=0.3, **more)


_QUICK = [
    _double(512, 512),
    _double(2048, 512),
    _double(512, 768, 0.5, dtype="F64", gram=True),
    _case(1024, 1024, constraint="single", density=0.3),
    _single(1024, 1024, "admm"),
    _case(1024, 1024, constraint="butterfly"),
]
_CASES = [
    *_QUICK,
    *(_double(2048, 2048, density) for density in (0.1, 0.3, 0.5, 0.8)),
    *(_double(m, n) for m, n in ((1024, 1024), (512, 2048), (4096, 512), (512, 4096))),
    _double(1024, 1024, dtype="F64"),
    _double(1536, 1536, dtype="BF16"),
    *(_double(m, n, gram=True) for m, n in ((1024, 1024), (2048, 512), (512, 2048), (512, 4096), (2048, 2048))),
    _double(1024, 1024, 0.5, dtype="F64", gram=True),
    _double(3000, 3000, 0.5),
    _case(768, 768, density=0.3, options={"effort": "fast"}),
    _case(768, 768, density=0.4),
    _case(768, 768, density=0.4, gram=True),
    _case(512, 512, tolerance=0.4, options={"outer": 4}),
    *(_case(m, n, constraint="single", density=0.3) for m, n in ((512, 4096), (3072, 3072))),
    _case(2048, 2048, constraint="single", density=0.9),
    _case(2048, 2048, constraint="single", density=0.3, dtype="F64"),
    _case(2048, 2048, constraint="single", density=0.3, dtype="BF16"),
    _case(2048, 2048, constraint="single", density=0.3, block=[16, 16]),
    *(_double(m, n, inner=inner) for m, n in ((1024, 1024), (512, 2048), (2048, 512)) for inner in (0.25, 1.25, 2.0)),
    _double(1024, 1024, 0.5, inner=2.0, dtype="F64"),
    _double(512, 2048, inner="auto", gram=True),
    *(_double(side, side, inner=inner, gram=True) for side, inner in ((1024, 2.0), (1280, 1.25), (512, 4.0))),
    *(_double(m, n, support="left") for m, n in ((1024, 1024), (512, 2048), (2048, 512))),
    _double(512, 2048, support="left", gram=True),
    *(_single(m, n, solver) for solver in _SINGLE for m, n in ((512, 2048), (2048, 512), (2048, 2048))),
    *(_single(2048, 1024, solver, dtype="F64") for solver in _SINGLE),
    *(_single(1536, 1536, solver, block=[16, 16]) for solver in ("admm", "iht")),
    _single(1536, 1536, "deep-weight-factorization", options={"depth": 4}),
    _case(768, 768, constraint="single", density=0.4, gram=True),
    *(_case(side, side, constraint="butterfly") for side in (2048, 4096)),
    _case(2048, 2048, constraint="butterfly", dtype="F64"),
    *(_case(m, n, constraint="monarch") for m, n in ((1024, 1024), (2304, 2304), (1024, 4096), (4096, 4096))),
    _case(2304, 2304, constraint="monarch", rank=4),
    _case(1024, 1024, constraint="butterfly", gram=True),
    _case(1024, 1024, constraint="monarch", gram=True),
]


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _make(folder: Path, shape: list[int], dtype: str, gram: bool) -> None:
    """Write a matrix, a mask of a tenth of its left factor and, if asked for, a Gram matrix."""
    rng = np.random.default_rng(0)
    m, n = shape
    write_tensors(folder / "model.safetensors", {"w": rng.standard_normal((m, n), np.float32).astype(_TYPES[dtype])})
    write_tensors(folder / "masks.safetensors", {"left": rng.random((m, min(m, n))) < 0.1})
    if gram:
        X = rng.standard_normal((n, n + 10), np.float32)
        write_tensors(folder / "grams.safetensors", {"w.gram": X @ X.T})


def _job(folder: Path, case: dict[str, Any]) -> Job:
    given = {name: tuple(value) if name == "block" else value for name, value in case["rule"].items()}
    if "support" in given:
        given["support"] = f"{folder / 'masks.safetensors'}:{given['support']}"
    rule = Rule(**given, gram=str(folder / "grams.safetensors") if case["gram"] else None)
    (target,) = plan(folder / "model.safetensors", recipe=Recipe((rule,))).targets
    solver = build_solver(rule.solver, rule.options, rule.constraint)
    return Job(target, 0, 1, folder / "model.safetensors", folder / "factors.safetensors", solver)


def _child(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    small = folder / "small"
    small.mkdir()
    _make(small, [64, 64], "F32", case["gram"])
    perform(_job(small, case), lambda event: None)
    before = _peak()
    job = _job(folder, case)
    outcome = perform(job, lambda event: None)
    if not outcome.sha256:
        raise SystemExit(f"{case}: {outcome.report and outcome.report.message}")
    peak, said = _peak(), PROCESS + memory_of(job.target)
    return {
        **case,
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
    parser.add_argument("--only", default="", help="cases whose description has this text")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_child(Path(arguments.child[0]), json.loads(arguments.child[1]))))
        return
    rows = []
    for case in _QUICK if arguments.quick else _CASES:
        if arguments.only not in json.dumps(case):
            continue
        with tempfile.TemporaryDirectory() as name:
            _make(Path(name), case["shape"], case["dtype"], case["gram"])
            command = [sys.executable, "-m", "benchmarks.plan_memory", "--child", name, json.dumps(case)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout))
        print(json.dumps(rows[-1]), flush=True)
    ratios = [row["planned / peak"] for row in rows]
    print(f"planned / peak from {min(ratios):.3f} to {max(ratios):.3f}")
    if not arguments.no_record:
        print(record.write("plan_memory", rows, arguments.output), file=sys.stderr)


if __name__ == "__main__":
    main()
