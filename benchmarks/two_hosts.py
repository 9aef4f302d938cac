"""A cluster of two hosts, one of which is lost in the middle of a run: same bytes, and only its matrix is done again.

The hosts are two network namespaces of this machine, each with an address of its own, joined by a virtual cable; the
folder they share is one that both see. The first has the run, a Dask scheduler and a worker, the second another worker.
When the second is at work on a matrix it is lost, once by SIGKILL and once by cutting the cable, after which it goes on
computing for nobody. Needs root, ``ip`` of iproute2 and ``pip install 'sparsefact[distributed]'``; about two minutes.

    python -m benchmarks.two_hosts [--only kill|cable] [--output results.json] [--no-record]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import sparsefact as sf
from benchmarks import record
from benchmarks.kills import digest
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.run import run
from sparsefact.checkpoints.verify import verify
from sparsefact.io.write import write_tensors

FIRST, SECOND = "10.213.47.1", "10.213.47.2"
MATRICES = 6
PAUSE = 4.0  # seconds that a matrix takes at least
_PATIENCE = 600.0  # seconds; what else the machine does may make it slow
_SILENCE = "10s"  # after which the scheduler gives up a worker that says nothing; Dask's own default is minutes


@dataclass(frozen=True)
class Noted(sf.Alternating):
    """Alternating that notes in a file which matrix is begun by which process, and takes its time."""

    log: str = ""
    wait: float = 0.0

    def init(self, problem: Any, warm: Any = None) -> Any:
        """Begin, after a note and a pause."""
        with Path(self.log).open("a") as file:
            file.write(f"{problem.matrix.shape[0]} {os.getpid()}\n")
        time.sleep(self.wait)
        return super().init(problem, warm)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Make two namespaces with a cable between them, and remove them in the end."""
    names = [f"sparsefact-{os.getpid()}-{i}" for i in (1, 2)]
    ends = [f"sf{os.getpid() % 10**8}{letter}" for letter in "ab"]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for name, end, address in zip(names, ends, (FIRST, SECOND), strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "name", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextlib.contextmanager
def cluster(hosts: tuple[str, str], folder: Path) -> Iterator[tuple[str, int, int]]:
    """Start a scheduler and a worker on the first host and a worker on the second; give the address and the workers."""
    root = Path(__file__).resolve().parent.parent
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": _SILENCE,
        "DASK_TEMPORARY_DIRECTORY": str(folder),
    }
    address_file = folder / "scheduler.json"
    worker = ["worker", "--scheduler-file", str(address_file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker += ["--preload", "benchmarks.two_hosts"]  # or its imports are a silence of their own
    scheduler = ["scheduler", "--host", FIRST, "--port", "0", "--no-dashboard", "--scheduler-file", str(address_file)]
    started: list[subprocess.Popen[bytes]] = []

    def start(host: str, kind: str, *options: str) -> int:
        command = ["ip", "netns", "exec", host, sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        with (folder / f"{kind}-{len(started)}.log").open("wb") as log:
            # `ip netns exec` becomes the command, so this is the process itself
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder))
        return started[-1].pid

    try:
        start(hosts[0], *scheduler)
        _wait(address_file.exists, "the scheduler does not start")
        pids = [start(host, *worker, "--host", address) for host, address in zip(hosts, (FIRST, SECOND), strict=True)]
        _wait(
            lambda: all("Starting established connection" in _log(folder, i) for i in (1, 2)),
            "the workers do not come to the scheduler",
        )
        yield json.loads(address_file.read_text())["address"], *pids
    finally:
        for process in started:
            process.kill()
            process.wait()


def _log(folder: Path, number: int) -> str:
    return (folder / f"worker-{number}.log").read_text(errors="replace")


def _wait(condition: Any, otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(otherwise)
        time.sleep(0.05)


def _begun(log: Path) -> list[tuple[int, int]]:
    lines = [line.split() for line in log.read_text().splitlines()]
    return [(int(rows), int(process)) for rows, process in lines]


def _drive(source: Path, output: Path, address: str | None, log: Path) -> None:
    """Carry out the run; this is the command on the first host."""
    from benchmarks.two_hosts import Noted as Known  # by the name under which the workers find it

    solver = Known(outer=3, log=str(log), wait=PAUSE)
    report = run(plan(source, density=0.5), output, solver=solver, scheduler=address, threads_per_job=1)
    print(json.dumps({"failed": len(report.failed), "seconds": report.seconds}))


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.two_hosts", "--drive", *map(str, arguments)]


def lose(how: str, folder: Path, expected: str) -> dict[str, Any]:
    """Lose the second host at work, and compare what comes out; raise if it is not what it must be."""
    log, output = folder / "begun.log", folder / f"out-{how}"
    log.write_text("")
    with two_hosts() as hosts, cluster(hosts, folder) as (address, first, second):
        command = ["ip", "netns", "exec", hosts[0], *_command(folder / "model.safetensors", output, address, log)]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        # its second matrix, so that it has given one back before
        _wait(lambda: [pid for _, pid in _begun(log)].count(second) == 2, "the second host is given nothing to do")
        there = [rows for rows, pid in _begun(log) if pid == second]
        lost_matrix = there[-1]
        time.sleep(PAUSE / 2)  # its first one is in the journal by now, and the second is still in its hands
        began = time.perf_counter()
        if how == "kill":
            os.kill(second, signal.SIGKILL)
        else:
            _ip("-n", hosts[0], "link", "set", "eth0", "down")
        _wait(lambda: (lost_matrix, first) in _begun(log), "nobody does the matrix of the lost host again")
        noticed = time.perf_counter() - began
        stdout, _ = driver.communicate(timeout=_PATIENCE)
    found = json.loads(stdout)
    here = [rows for rows, pid in _begun(log) if pid == first]
    again = set(here) & set(there)
    if found["failed"] or again != {lost_matrix} or sorted(here + there[:-1]) != sorted(set(here + there)):
        raise SystemExit(f"{how}: failed {found['failed']}, begun {_begun(log)}, where {second} lost {lost_matrix}")
    if digest(output) != expected or not verify(output, against=folder / "model.safetensors").ok:
        raise SystemExit(f"{how}: other bytes than without a loss")
    return {
        "lost by": how,
        "matrices": MATRICES,
        "matrices begun twice": len(again),
        "seconds until its matrix was begun again": noticed,
        "seconds of the run": found["seconds"],
        "same bytes as alone": True,
    }


def measure(ways: list[str]) -> list[dict[str, Any]]:
    """Return what each way of losing a host came to."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tensors = {f"layer.{i}": rng.standard_normal((40 + 2 * i, 40), "float32") for i in range(MATRICES)}
        write_tensors(folder / "model.safetensors", {**tensors, "bias": np.ones(10)})
        _run_alone(folder)
        return [lose(how, folder, digest(folder / "alone")) for how in ways]


def _run_alone(folder: Path) -> None:
    command = _command(folder / "model.safetensors", folder / "alone", "", folder / "begun.log")
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["kill", "cable"])
    record.add_options(parser)
    arguments = parser.parse_args()
    if arguments.drive:
        source, output, address, log = arguments.drive
        _drive(Path(source), Path(output), address or None, Path(log))
        return
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("two hosts are two network namespaces, which need root and the command ip of iproute2")
    results = measure([arguments.only] if arguments.only else ["kill", "cable"])
    for row in results:
        print(row)
    record.finish("two_hosts", results, arguments)


if __name__ == "__main__":
    main()
