"""The model of memory and disk in `sparsefact.checkpoints.memory` against what single jobs take.

Each case is a fresh process; its peak (VmHWM) is what counts. Usually it first does the same with a small matrix, and
all kernels are compiled; the cases marked cold begin with an empty cache of kernels instead. The constants of the model
are chosen so that no case takes more than it says, and it never says more than 1.3 times as much. Searches are cut
short where that does not change what they hold; some run in full. On one core it takes about fifteen minutes.

    python -m benchmarks.plan_memory [--quick] [--jobs N] [--only TEXT] [--output results.json] [--no-record]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numba.core import event

from benchmarks import record
from sparsefact.checkpoints.estimate import disk_of
from sparsefact.checkpoints.job import Job, perform
from sparsefact.checkpoints.memory import PROCESS, memory_of
from sparsefact.checkpoints.methods import build_solver
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule
from sparsefact.constraints.sparse_plus_low_rank import sparse_plus_low_rank
from sparsefact.io.write import write_tensors

_TYPES = {"F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16}
_SHORT = {"outer": 4, "report_every": 1, "exchanges": 1}
_G, _L, _BOTH = ("gram",), ("left_gram",), ("gram", "left_gram")
# options that cut the search of one matrix, or of a chain, short
_SINGLE: dict[str, dict[str, Any]] = {
    "admm": {"iterations": 4, "selections": 3},
    "iht": {"steps": 4},
    "htp": {"steps": 3},
    "matching-pursuit": {"iterations": 4},
    "sequential-attention": {"iterations": 20},
    "deep-weight-factorization": {"steps": 5, "refit": True},
}
_CHAIN: dict[str, dict[str, Any]] = {
    "palm": {"iterations": 6, "report_every": 1},
    "als": {"iterations": 3, "restarts": 1, "trial_sweeps": 1, "escapes": 1, "report_every": 1},
    "alternating": _SHORT,
}


def _case(m: int, n: int, *, dtype: str = "F32", grams: tuple[str, ...] = (), **rule: Any) -> dict[str, Any]:
    """Return a case: a rule of a recipe, but for the `rank` of a sum."""
    about = {name: rule.pop(name) for name in ("cold", "sum_rank") if name in rule}
    return {"shape": [m, n], "dtype": dtype, "grams": list(grams), **about, "rule": rule}


def _double(m: int, n: int, density: float = 0.3, **more: Any) -> dict[str, Any]:
    options = {**_SHORT, "fits": 1} if more.get("grams") else _SHORT
    return _case(m, n, density=density, options=options, **more)


def _sum(m: int, n: int, density: float = 0.3, rank: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a case that runs in full, since no recipe names its solver."""
    return _case(m, n, density=density, sum_rank=rank, **more)


def _single(m: int, n: int, solver: str, grams: tuple[str, ...] = _G, **more: Any) -> dict[str, Any]:
    options = {**_SINGLE[solver], **more.pop("options", {})}
    return _case(m, n, grams=grams, constraint="single", solver=solver, options=options, density=0.3, **more)


def _chain(m: int, n: int, constraint: str, solver: str | None, **more: Any) -> dict[str, Any]:
    rule = {} if solver is None else {"solver": solver, "options": _CHAIN[solver]}
    return _case(m, n, constraint=constraint, **rule, **more)


_QUICK = [
    _double(512, 512),
    _double(2048, 512),
    _double(512, 768, 0.5, dtype="F64", grams=_G),
    _case(1024, 1024, constraint="single", density=0.3),
    _single(1024, 1024, "admm"),
    _case(1024, 1024, constraint="butterfly"),
]
_CASES = [
    *_QUICK,
    *(_double(1024, 1024, density) for density in (0.1, 0.3, 0.5, 0.8)),
    *(_double(m, n) for m, n in ((512, 2048), (4096, 512), (512, 4096), (2048, 2048))),
    _double(1024, 1024, dtype="F64"),
    _double(1024, 1024, dtype="BF16"),
    _case(512, 512, density=0.3, options={"effort": "fast"}),
    _case(384, 384, density=0.4),
    _case(384, 384, tolerance=0.4, options={"outer": 4}),
    *(_double(m, n, grams=_G) for m, n in ((768, 768), (1536, 384), (384, 1536), (256, 2048), (1280, 1280))),
    *(_double(640, 640, density, grams=grams) for density in (0.5, 0.8) for grams in (_G, _L, _BOTH)),
    *(_double(m, n, grams=grams) for m, n in ((1280, 320), (320, 1280)) for grams in (_L, _BOTH)),
    _double(640, 640, 0.5, dtype="F64", grams=_G),
    _double(512, 512, 0.8, dtype="F64", grams=_BOTH),
    _case(384, 384, density=0.4, grams=_G),
    *(_double(640, 640, density, inner=2.0) for density in (0.3, 0.8)),
    *(_double(m, n, inner=1.25) for m, n in ((2048, 512), (512, 2048))),
    *(_double(m, n, 0.5, inner=1.5, grams=_BOTH) for m, n in ((512, 512), (320, 960))),
    *(_sum(m, n) for m, n in ((768, 768), (512, 1536), (1536, 512))),
    *(_sum(768, 768, density, rank=rank) for density, rank in ((0.8, 16), (0.5, 150))),
    *(_sum(m, n, 0.5, grams=_G) for m, n in ((640, 640), (384, 1152))),
    _sum(512, 512, dtype="F64"),
    *(_case(m, n, constraint="single", density=0.3) for m, n in ((512, 4096), (3072, 3072))),
    _case(2048, 2048, constraint="single", density=0.9),
    _case(2048, 2048, constraint="single", density=0.3, dtype="F64"),
    _case(2048, 2048, constraint="single", density=0.3, dtype="BF16"),
    _case(2048, 2048, constraint="single", density=0.3, block=[16, 16]),
    *(_double(m, n, inner=inner) for m, n in ((768, 768), (512, 2048), (2048, 512)) for inner in (0.25, 2.0)),
    _double(768, 768, 0.5, inner=2.0, dtype="F64"),
    _double(512, 2048, inner="auto", grams=_G),
    *(_double(side, side, inner=inner, grams=_G) for side, inner in ((768, 2.0), (384, 4.0))),
    *(_double(m, n, support="left") for m, n in ((1024, 1024), (512, 2048), (2048, 512))),
    _double(512, 1536, support="left", grams=_G),
    *(_single(m, n, solver) for solver in _SINGLE for m, n in ((384, 1536), (1536, 384), (1280, 1280))),
    *(_single(960, 640, solver, grams) for solver in _SINGLE for grams in (_L, _BOTH)),
    *(_single(1280, 640, solver, dtype="F64") for solver in _SINGLE),
    *(_single(1024, 1024, solver, block=[16, 16]) for solver in ("admm", "iht")),
    _single(1024, 1024, "deep-weight-factorization", options={"depth": 4}),
    _case(1024, 1024, constraint="single", density=0.8, grams=_G, solver="admm", options=_SINGLE["admm"]),
    _case(384, 384, constraint="single", density=0.4, grams=_G),
    *(_case(side, side, constraint="butterfly") for side in (2048, 4096)),
    _case(2048, 2048, constraint="butterfly", dtype="F64"),
    *(_case(m, n, constraint="monarch") for m, n in ((1024, 1024), (2304, 2304), (1024, 4096), (4096, 4096))),
    _case(2304, 2304, constraint="monarch", rank=4),
    *(_chain(side, side, "butterfly", "palm", grams=grams) for side in (512, 1024) for grams in ((), _G, _BOTH)),
    _chain(512, 512, "butterfly", "palm", grams=_L, dtype="F64"),
    *(_chain(m, n, "monarch", "als", grams=grams) for m, n in ((900, 900), (400, 1600)) for grams in ((), _G)),
    *(_chain(900, 900, "monarch", solver, grams=_BOTH) for solver in ("palm", "alternating")),
    *(_chain(400, 1600, "monarch", solver, grams=_G) for solver in ("palm", "alternating")),
    *(_chain(1600, 1600, "monarch", solver) for solver in ("palm", "alternating")),
    *(_chain(576, 576, "monarch", "als", grams=grams, rank=4) for grams in ((), _G)),
    _case(256, 256, constraint="butterfly", grams=_G),
    _case(324, 324, constraint="monarch", grams=_G),
]
# In a process that finds nothing compiled.
_COLD = [
    {**case, "cold": True}
    for case in (
        _double(256, 256),
        _double(1024, 1024),
        _double(512, 512, 0.5, grams=_BOTH),
        _double(384, 384, dtype="F64", grams=_G),
        _sum(384, 384),
        _case(1024, 1024, constraint="single", density=0.3),
        *(_single(512, 512, solver) for solver in _SINGLE),
        *(_case(1024, 1024, constraint=name) for name in ("butterfly", "monarch")),
        _chain(512, 512, "butterfly", "palm", grams=_G),
        _chain(576, 576, "monarch", "als", grams=_G),
    )
]
_QUICK += _COLD[:1]
_CASES += _COLD


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _make(folder: Path, shape: list[int], dtype: str, grams: list[str]) -> None:
    """Write a matrix, a mask of a tenth of its left factor and the Gram matrices that are asked for."""
    rng = np.random.default_rng(0)
    m, n = shape
    write_tensors(folder / "model.safetensors", {"w": rng.standard_normal((m, n), np.float32).astype(_TYPES[dtype])})
    write_tensors(folder / "masks.safetensors", {"left": rng.random((m, min(m, n))) < 0.1})
    sides = {"gram": n, "left_gram": m}
    inputs = {kind: rng.standard_normal((sides[kind], sides[kind] + 10), np.float32) for kind in grams}
    write_tensors(folder / "grams.safetensors", {f"w.{kind}": X @ X.T for kind, X in inputs.items()})


def _job(folder: Path, case: dict[str, Any]) -> Job:
    given = {name: tuple(value) if name == "block" else value for name, value in case["rule"].items()}
    if "support" in given:
        given["support"] = f"{folder / 'masks.safetensors'}:{given['support']}"
    rule = Rule(**given, **dict.fromkeys(case["grams"], str(folder / "grams.safetensors")))
    (target,) = plan(folder / "model.safetensors", recipe=Recipe((rule,))).targets
    if "sum_rank" in case:
        rank = case["sum_rank"] if target.shape == tuple(case["shape"]) else None
        target = replace(target, constraint=sparse_plus_low_rank(target.shape, rule.density or 1.0, rank))
    solver = build_solver(rule.solver, rule.options, rule.constraint)
    return Job(target, 0, 1, folder / "model.safetensors", folder / "factors.safetensors", solver)


def _child(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    before, compiled = None, event.RecordingListener()
    event.register("numba:compile", compiled)
    if not case.get("cold"):
        small = folder / "small"
        small.mkdir()
        _make(small, [64, 64], "F32", case["grams"])
        perform(_job(small, case), lambda event: None)
        before = _peak()
    job = _job(folder, case)
    outcome = perform(job, lambda event: None)
    if not outcome.sha256:
        raise SystemExit(f"{case}: {outcome.report and outcome.report.message}")
    peak, said = _peak(), PROCESS + memory_of(job.target)
    return {
        **case,
        "compiled": len(compiled.buffer) > 0,
        "process": before,
        "peak": peak,
        "planned": said,
        "planned / peak": said / peak,
        "disk": outcome.nbytes,
        "planned disk / disk": disk_of(job.target) / outcome.nbytes,
    }


def _measured(case: dict[str, Any], kernels: Path) -> dict[str, Any]:
    """Return a case with what a process of its own took; one that had to compile something is repeated."""
    while True:
        with tempfile.TemporaryDirectory() as name:
            _make(Path(name), case["shape"], case["dtype"], case["grams"])
            command = [sys.executable, "-m", "benchmarks.plan_memory", "--child", name, json.dumps(case)]
            environment = {**os.environ, "NUMBA_CACHE_DIR": name if case.get("cold") else str(kernels)}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        row: dict[str, Any] = json.loads(done.stdout)
        if row["compiled"] == bool(case.get("cold")):
            print(json.dumps(row), flush=True)
            return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="cases whose description has this text")
    parser.add_argument("--jobs", type=int, default=1, help="cases at the same time, which changes no peak")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    record.add_options(parser)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_child(Path(arguments.child[0]), json.loads(arguments.child[1]))))
        return
    chosen = [case for case in (_QUICK if arguments.quick else _CASES) if arguments.only in json.dumps(case)]
    with tempfile.TemporaryDirectory() as kernels, ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda case: _measured(case, Path(kernels)), chosen))
    ratios = [row["planned / peak"] for row in rows]
    print(f"planned / peak from {min(ratios):.3f} to {max(ratios):.3f}")
    record.finish("plan_memory", rows, arguments)


if __name__ == "__main__":
    main()
