"""Jobs in other processes, of this machine and of a Dask cluster: the same bytes, and a killed worker costs a retry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crashing import Noted

from sparsefact.checkpoints.job import Job
from sparsefact.checkpoints.journal import JOURNAL_NAME, read_journal
from sparsefact.checkpoints.memory import PROCESS, memory_of
from sparsefact.checkpoints.plan import Plan, plan
from sparsefact.checkpoints.report import Event
from sparsefact.checkpoints.run import run
from sparsefact.checkpoints.verify import verify
from sparsefact.checkpoints.workers import _Pool, _Worker
from sparsefact.errors import ArgumentError, StorageError
from sparsefact.io.write import write_tensors

ROOT = Path(__file__).resolve().parent.parent
SIZES = [(20, 20), (24, 20), (30, 20), (16, 40)]


@pytest.fixture
def work(tmp_path: Path) -> Plan:
    rng = np.random.default_rng(0)
    tensors = {f"layer.{i}.weight": rng.standard_normal(size).astype("float32") for i, size in enumerate(SIZES)}
    write_tensors(tmp_path / "model.safetensors", tensors | {"bias": np.ones(4)})
    return plan(tmp_path / "model.safetensors", density=0.6)


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes find the package and the tests' own solvers."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != JOURNAL_NAME}


def noted(tmp_path: Path, **options: float) -> Noted:
    log = tmp_path / "log"
    log.write_text("")
    return Noted(outer=3, log=str(log), **options)


def counts(tmp_path: Path) -> dict[str, int]:
    lines = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    return {shape: lines.count(shape) for shape in dict.fromkeys(lines)}


def peace(work: Plan, tmp_path: Path) -> dict[str, str]:
    run(work, tmp_path / "peace", solver=noted(tmp_path), threads_per_job=1)
    return contents(tmp_path / "peace")


def test_processes_give_the_same_bytes_and_a_killed_one_costs_a_retry(work, tmp_path):
    expected = peace(work, tmp_path)
    events: list[Event] = []
    report = run(
        work, tmp_path / "out", solver=noted(tmp_path, kills=1), jobs=2, threads_per_job=1, on_event=events.append
    )
    assert report.failed == () and counts(tmp_path) == {"30x20": 1, "16x40": 1, "24x20": 1, "20x20": 2}
    # recipes differ in nothing, solvers in what they note: the document tells the solver
    changed = {name for name, digest in contents(tmp_path / "out").items() if digest != expected[name]}
    assert changed <= {name for name in expected if name.startswith("factors-")} | {"sparsefact.json"}
    products = [path.read_bytes()[-200:] for path in sorted((tmp_path / "out").glob("factors-*"))]
    assert products == [path.read_bytes()[-200:] for path in sorted((tmp_path / "peace").glob("factors-*"))]
    assert verify(tmp_path / "out", against=work.source).ok
    assert {event.kind for event in events} >= {"start", "progress", "done", "waiting"}
    workers = {
        entry["worker"] for entry in read_journal(tmp_path / "out" / JOURNAL_NAME) if entry["kind"] == "committed"
    }
    assert len(workers) >= 2 and not any(worker.endswith(f":{os.getpid()}") for worker in workers)


def test_a_matrix_that_kills_every_worker_is_told_and_tried_again_by_the_next_run(work, tmp_path):
    solver = noted(tmp_path, kills=2)
    report = run(work, tmp_path / "out", solver=solver, jobs=2, threads_per_job=1)
    assert [matrix.name for matrix in report.failed] == ["layer.0.weight"]
    assert "its worker process died (signal 9), perhaps for lack of memory, 2 times" in report.failed[0].message
    assert counts(tmp_path)["20x20"] == 2 and verify(tmp_path / "out", against=work.source).ok


def test_an_interrupted_pool_leaves_no_process_and_no_half_file(work, tmp_path):
    def stop(event: Event) -> None:
        if event.kind == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(work, tmp_path / "out", solver=noted(tmp_path, wait=0.5), jobs=2, threads_per_job=1, on_event=stop)
    for pid in {int(line.split()[1]) for line in (tmp_path / "log").read_text().splitlines()}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not list((tmp_path / "out").glob(".*"))
    report = run(work, tmp_path / "out", solver=noted(tmp_path, wait=0.5), threads_per_job=1, resume="required")
    assert report.failed == () and report.resumed >= 1


class Pretended:
    """A pool whose workers are not started: what is admitted is what counts."""

    def __init__(self, work: Plan, tmp_path: Path, processes: int, memory: int) -> None:
        jobs = [Job(target, i, len(work.targets), work.source, tmp_path) for i, target in enumerate(work.targets)]
        self.pool = _Pool(jobs, processes, 1, memory)
        self.pool.start = self.start  # type: ignore[method-assign]

    def start(self) -> _Worker:
        class Deaf:
            def send(self, job: Job) -> None:
                pass

        worker = _Worker(None, Deaf(), len(self.pool.workers))
        self.pool.workers.append(worker)
        return worker

    def admitted(self) -> list[str]:
        self.pool.admit()
        return [worker.job.target.name for worker in self.pool.workers if worker.job is not None]


def test_the_largest_go_first_as_memory_allows(work, tmp_path):
    sizes = {target.name: memory_of(target) + PROCESS for target in work.targets}
    by_size = sorted(sizes, key=lambda name: -sizes[name])
    assert Pretended(work, tmp_path, 2, 1 << 60).admitted() == by_size[:2]
    assert Pretended(work, tmp_path, 9, 1 << 60).admitted() == by_size
    # one is always admitted, and a smaller one beside it if it fits
    assert Pretended(work, tmp_path, 9, 0).admitted() == by_size[:1]
    assert Pretended(work, tmp_path, 9, sizes[by_size[0]] + sizes[by_size[3]]).admitted() == [by_size[0], by_size[3]]


# Dask


@contextlib.contextmanager
def cluster(tmp_path: Path, workers: int, threads: int = 1) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and worker processes, the former first, without their dashboards and nannies."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    address_file = tmp_path / "scheduler.json"
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address_file)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "cwd": tmp_path}
    processes = [subprocess.Popen([*start, *options], **quiet)]
    try:
        deadline, address = time.monotonic() + 300, ""
        while not address and time.monotonic() < deadline:
            time.sleep(0.1)
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # not there, or half written
                address = json.loads(address_file.read_text())["address"]
        start = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(address_file)]
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        processes += [subprocess.Popen([*start, *options], **quiet) for _ in range(workers)]
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_cluster_gives_the_same_and_a_killed_worker_costs_a_retry(work, tmp_path):
    pytest.importorskip("distributed")
    solver = noted(tmp_path, kills=1, wait=0.3)
    run(work, tmp_path / "peace", solver=replace(solver, kills=0), threads_per_job=1)
    (tmp_path / "log").write_text("")
    with cluster(tmp_path, 2) as (address, _):
        report = run(work, tmp_path / "out", solver=solver, scheduler=address, threads_per_job=1)
        assert report.failed == ()
        assert counts(tmp_path) == {"30x20": 1, "16x40": 1, "24x20": 1, "20x20": 2}
        with pytest.raises(ArgumentError, match="computes with 1 BLAS threads, and the run with 3"):
            run(work, tmp_path / "other", scheduler=address, threads_per_job=3)
        assert not (tmp_path / "other").exists()
    products = [path.read_bytes()[-200:] for path in sorted((tmp_path / "out").glob("factors-*"))]
    assert products == [path.read_bytes()[-200:] for path in sorted((tmp_path / "peace").glob("factors-*"))]
    assert verify(tmp_path / "out", against=work.source).ok


def test_a_worker_that_dies_between_the_shard_and_the_answer_leaves_a_true_journal(work, tmp_path):
    pytest.importorskip("distributed")
    solver = noted(tmp_path, kills=1, wait=0.1, late=True)
    with cluster(tmp_path, 2) as (address, _):
        report = run(work, tmp_path / "out", solver=solver, scheduler=address, threads_per_job=1)
    assert report.failed == () and counts(tmp_path) == {"30x20": 1, "16x40": 1, "24x20": 1, "20x20": 2}
    entries = [entry for entry in read_journal(tmp_path / "out" / JOURNAL_NAME) if entry["kind"] == "committed"]
    # each matrix once, by the process that was there at the end, with the bytes that are there
    assert sorted(entry["name"] for entry in entries) == sorted(target.name for target in work.targets)
    tried = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines() if line.startswith("20x20 ")]
    workers = {entry["name"]: entry["worker"].rpartition(":")[2] for entry in entries}
    assert workers["layer.0.weight"] == tried[1] != tried[0]
    for entry in entries:
        shard = (tmp_path / "out" / entry["file"]).read_bytes()
        assert (len(shard), hashlib.sha256(shard).hexdigest()) == (entry["nbytes"], entry["sha256"])
    assert not list((tmp_path / "out").glob(".sparsefact-*"))
    assert verify(tmp_path / "out", against=work.source).ok
    again = run(work, tmp_path / "out", solver=solver, threads_per_job=1, resume="required")
    assert again.resumed == len(SIZES) and len((tmp_path / "log").read_text().splitlines()) == len(SIZES) + 1


def test_a_scheduler_that_is_lost_ends_the_run_in_one_sentence_and_keeps_what_is_committed(work, tmp_path):
    pytest.importorskip("distributed")
    solver = noted(tmp_path, wait=1.0)
    with cluster(tmp_path, 1) as (address, (scheduler, _)):

        def lose(event: Event) -> None:
            if event.kind == "done":
                scheduler.kill()

        with pytest.raises(StorageError, match="the Dask scheduler was lost; what is committed is kept"):
            run(work, tmp_path / "out", solver=solver, scheduler=address, threads_per_job=1, on_event=lose)
    assert len(list((tmp_path / "out").glob("factors-*"))) >= 1
    report = run(work, tmp_path / "out", solver=solver, threads_per_job=1, resume="required")
    assert report.failed == () and report.resumed >= 1 and verify(tmp_path / "out", against=work.source).ok


def test_a_cluster_without_dask_is_refused(work, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ArgumentError, match=r"sparsefact\[distributed\]"):
        run(work, tmp_path / "out", scheduler="tcp://127.0.0.1:1")
    assert not (tmp_path / "out").exists()
