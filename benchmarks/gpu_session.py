"""One self-contained run on a machine with a GPU: what it is, whether all is right on it, and how fast.

    python -m benchmarks.gpu_session --out DIR --budget SECONDS [--dry-run]

In this order: the machine, its ceilings, the kernels compiled by CuPy (seconds, registers), the conformance suite on
the real device, the cases of the four goals, and then the cases of `sparsefact bench` until the budget is used up. Each
step writes a JSON file of its own when it is done, and `summary.json`, which holds all of them, is written anew after
each; a step that fails says so in its file, and the next one follows. `results.json` holds what was measured as
`sparsefact bench compare` reads it.

`--dry-run` goes through everything on the emulator that the tests use, with tiny sizes: its times mean nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from sparsefact.backends.cuda.launcher import KERNELS
from sparsefact.bench.cases import Case
from sparsefact.bench.ceilings import ceilings
from sparsefact.bench.devices import Device, open_device
from sparsefact.bench.environment import environment
from sparsefact.bench.kernels import kth_case, sweep_case
from sparsefact.bench.product import chain_case
from sparsefact.bench.results import document, write_results
from sparsefact.bench.run import cases_of, run_case
from sparsefact.bench.solvers import double_sparse_case, hierarchical_case
from sparsefact.errors import SparsefactError

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
SUFFIXES = {"f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128"}


@dataclass(frozen=True)
class Sizes:
    """What is measured: the real thing, or a rehearsal."""

    hierarchical: int = 8192
    chain: tuple[int, int] = (4096, 16384)
    double_sparse: tuple[int, int] = (4096, 40)
    kth: int = 4096
    kernels: tuple[int, ...] = (4096, 1024, 8192)
    product: tuple[int, ...] = (4096, 1024, 8192)
    solvers: tuple[int, ...] = (1024, 4096)
    megabytes: int = 1024
    gemm: int | None = None
    rounds: int = 15
    tests: tuple[str, ...] = ("-n", "4", "-k", "cuda and not emulated")


REHEARSAL = Sizes(
    hierarchical=16,
    chain=(16, 8),
    double_sparse=(16, 4),
    kth=16,
    kernels=(16,),
    product=(16,),
    solvers=(16,),
    megabytes=1,
    gemm=32,
    rounds=1,
    tests=("-n", "0", "-k", "cuda-emulated and test_sweep_recovers"),
)


@dataclass
class Session:
    """What is known so far."""

    out: Path
    deadline: float
    sizes: Sizes
    gpu: Device
    cpu: Device | None
    ceilings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)
    steps: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def devices(self) -> list[Device]:
        """The GPU, and the CPU where its kernels can be compiled."""
        return [self.gpu] if self.cpu is None else [self.gpu, self.cpu]

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.deadline - time.monotonic()

    def case(self, case: Case, device: Device) -> dict[str, Any]:
        """Measure a case; no way of it takes more than a tenth of what is left."""
        budget = max(0.2, min(20.0, 0.1 * self.left))
        row = run_case(case, device, self.ceilings[device.name], repeat=self.sizes.rounds, budget=budget)
        self.rows.append(row)
        return row

    def write(self) -> None:
        """Write the summary and the result file as they stand."""
        found = {d.name: d.describe() | {"ceilings": self.ceilings.get(d.name, {})} for d in self.devices}
        content = document({"devices": found, "rows": self.rows}, self.environment)
        write_results(self.out / "results.json", content)
        write_results(self.out / "summary.json", {"goals": goals(self.rows, self.ceilings), "steps": self.steps})


Step = tuple[str, Callable[[Session], Any]]


def steps(session: Session) -> Iterator[Step]:
    """Yield the steps, the most important first."""
    sizes, both, gpu = session.sizes, session.devices, [session.gpu]
    yield "environment", lambda s: {"environment": s.environment, "devices": [d.describe() for d in both]}
    yield "ceilings", measure_ceilings
    yield "compile", compile_kernels
    yield "tests", run_tests
    first = [
        (hierarchical_case(sizes.hierarchical, "float32"), both),
        (sweep_case(sizes.hierarchical, "float32"), gpu),
        (chain_case(sizes.chain[0], "float32", sizes.chain[1]), gpu),
        (double_sparse_case(sizes.double_sparse[0], "float32", sizes.double_sparse[1]), gpu),
        (kth_case(sizes.kth, "float32"), gpu),
    ]
    for case, devices in first:
        for device in devices:
            yield step_of(case, device)
    done = {(case.key, device.name) for case, devices in first for device in devices}
    for suite, orders in (("kernels", sizes.kernels), ("product", sizes.product), ("solvers", sizes.solvers)):
        for device in both:
            for case in cases_of([suite], orders, ["float32"]):
                if (case.key, device.name) not in done:
                    yield step_of(case, device)


def step_of(case: Case, device: Device) -> Step:
    """Return the step that measures a case."""
    return f"{case.key} on {device.name}", lambda session: session.case(case, device)


def measure_ceilings(session: Session) -> Any:
    """Measure what both devices can do at most."""
    sizes = session.sizes
    for device in session.devices:
        gemm = sizes.gemm or (8192 if device.is_gpu else 4096)
        megabytes = sizes.megabytes if device.is_gpu else min(512, sizes.megabytes)
        session.ceilings[device.name] = ceilings(device, ["float32", "float64"], megabytes=megabytes, gemm=gemm)
    return session.ceilings


def compile_kernels(session: Session) -> Any:
    """Compile every kernel for this GPU: seconds and, from a real one, registers and bytes of stack."""
    table = json.loads((TESTS / "data" / "registers.json").read_text(encoding="utf-8"))
    launcher: Any = session.gpu.backend.launcher  # type: ignore[attr-defined]
    told, times = {}, dict.fromkeys(sorted(path.stem for path in KERNELS.glob("*.cu")), 0.0)
    for line in table["registers"]:
        file, _, name = line.partition(".")
        if file not in times:
            continue
        entry, _, suffix = name.rpartition("_")
        dtype = SUFFIXES.get(suffix)
        started = time.perf_counter()
        function = launcher.function(file, entry if dtype else name, dtype)
        times[file] += time.perf_counter() - started
        told[line] = {
            key: getattr(function, key, None) for key in ("num_regs", "local_size_bytes", "shared_size_bytes")
        }
    return {"seconds": times, "entries": told, "committed": table}


def run_tests(session: Session) -> Any:
    """Run the conformance suite on the device, in a process of its own."""
    limit = max(20.0, min(240.0, 0.3 * session.left))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    command += ["tests/test_conformance.py", *session.sizes.tests]
    started = time.perf_counter()
    with (session.out / "tests.log").open("w", encoding="utf-8") as log:
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            code = None
    text = (session.out / "tests.log").read_text(encoding="utf-8", errors="replace")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)\b", text)}
    found = {"command": command[1:], "code": code, "counts": counts, "seconds": time.perf_counter() - started}
    found["failures"] = re.findall(r"^(?:FAILED|ERROR) .*$", text, re.MULTILINE)[:50]
    if code != 0:
        found["failed"] = "the time was up" if code is None else f"pytest ended with {code}"
        found["end"] = text[-4000:]
    return found


def goals(rows: list[dict[str, Any]], top: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers that the goals are about, as far as they are measured."""
    told: dict[str, Any] = {}
    for row in rows:
        times = {name: way["median"] for name, way in row["ways"].items() if "median" in way}
        ours = times.pop("sparsefact", None)
        if ours is None:
            continue
        found = {"ours_seconds": ours, "others_over_ours": {name: other / ours for name, other in times.items()}}
        bandwidth = top.get(row["device"], {}).get("bandwidth")
        if bandwidth:
            found["times_the_bytes_floor"] = ours * bandwidth / row["bytes"]
        told[f"{row['case']} on {row['device']}"] = found
    for name, found in list(told.items()):
        other = told.get(name.replace(" on cuda", " on cpu"))
        if other is not None and other is not found:
            found["cpu_over_ours"] = other["ours_seconds"] / found["ours_seconds"]
    return told


def perform(session: Session) -> None:
    """Go through the steps until they or the budget end."""
    for number, (name, act) in enumerate(steps(session)):
        told: dict[str, Any] = {"step": name}
        if session.left <= 0:
            told["status"] = "no time left"
        else:
            started = time.monotonic()
            try:
                result = act(session)
                failed = isinstance(result, dict) and (result.get("failed") or result.get("ok") is False)
                told |= {"status": "failed" if failed else "done", "result": result}
            except Exception as error:  # what fails is told, and the next step follows
                told |= {"status": "failed", "failed": repr(error), "traceback": traceback.format_exc()[-4000:]}
            told["seconds"] = time.monotonic() - started
            file = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
            write_results(session.out / f"{number:03d}-{file}.json", told)
        session.steps.append(told)
        session.write()
        print(f"{told['status']:12s} {told.get('seconds', 0.0):8.2f} s  {name}", flush=True)


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Let the package find the emulator of the tests as a GPU."""
    import pytest

    sys.path.insert(0, str(TESTS))
    try:
        from emulated import install

        with pytest.MonkeyPatch.context() as patch:
            install(patch)
            yield
    finally:
        sys.path.remove(str(TESTS))


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the results; it is made.")
@click.option("--budget", required=True, type=click.FloatRange(min=1), help="Seconds; no step begins after them.")
@click.option("--dry-run", is_flag=True, help="Go through all of it on the emulator, with tiny sizes.")
def main(out: Path, budget: float, dry_run: bool) -> None:
    """Measure, step by step, and write a file for each."""
    deadline = time.monotonic() + budget
    out.mkdir(parents=True, exist_ok=True)
    with emulated() if dry_run else contextlib.nullcontext():
        try:
            gpu = open_device("cuda")
        except SparsefactError as error:
            raise click.ClickException(str(error)) from error
        try:
            cpu = open_device("cpu")
        except ImportError as error:  # numba lags behind NumPy at times, and a GPU does not need it
            print(f"without the CPU: {error}")
            cpu = None
        session = Session(out.resolve(), deadline, REHEARSAL if dry_run else Sizes(), gpu, cpu)
        perform(session)
    bad = [told["step"] for told in session.steps if told["status"] == "failed"]
    print(f"{len(session.steps)} steps, {len(bad)} failed; everything is in {out / 'summary.json'}")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
