"""Jobs in processes of this machine: each with its share of the threads, largest matrix first, as memory allows.

A worker that dies, by the kernel's out-of-memory killer for example, costs its matrix another try, not the run.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from sparsefact.backends.registry import get_backend
from sparsefact.checkpoints.estimate import free_memory
from sparsefact.checkpoints.job import Job, Tell, lost, perform
from sparsefact.checkpoints.memory import PROCESS, memory_of
from sparsefact.checkpoints.report import Event
from sparsefact.checkpoints.threads import THREAD_VARIABLES
from sparsefact.errors import DeviceError, StorageError

if TYPE_CHECKING:
    from sparsefact.checkpoints.run import Settle

__all__ = ["execute_in_processes"]

_log = logging.getLogger(__name__)

_TRIES = 2  # of a matrix whose worker dies
_PATIENCE = 10.0  # seconds that a worker has to end when it is told to
_TICK = 0.2  # seconds between two looks at whether the run is to end
_CONTEXT = multiprocessing.get_context("spawn")


def execute_in_processes(
    jobs: Sequence[Job], settle: Settle, tell: Tell, processes: int, threads: int, memory: int | None = None
) -> None:
    """Do jobs in processes of their own.

    Parameters
    ----------
    jobs : sequence of Job
        What to do; the one that takes the most memory is begun first.
    settle : callable
        Called with each job and its outcome, in this process.
    tell : callable
        Receives events; what it raises ends the workers, whose matrices in hand are dropped.
    processes : int
        How many at the same time.
    threads : int
        BLAS threads of each.
    memory : int, optional
        Bytes that they may take together; by default what is free now. A single job is always admitted.

    Raises
    ------
    StorageError
        If a worker could not write, or cannot be started.
    """
    pool = _Pool(list(jobs), processes, threads, free_memory() if memory is None else memory)
    try:
        while pool.left:
            pool.admit()
            for worker in pool.ready():
                pool.listen(worker, settle, tell)
            tell(Event("waiting", ""))
    finally:
        pool.close()


@dataclass(eq=False)
class _Worker:
    """A process, the pipe to it, and what it is doing."""

    process: Any
    pipe: Any
    number: int
    job: Job | None = None


class _Pool:
    def __init__(self, jobs: list[Job], processes: int, threads: int, memory: int) -> None:
        self.waiting = sorted(jobs, key=lambda job: memory_of(job.target), reverse=True)
        self.processes, self.threads, self.memory = processes, threads, memory
        self.workers: list[_Worker] = []
        self.tries: dict[str, int] = {}

    @property
    def left(self) -> bool:
        return bool(self.waiting) or any(worker.job is not None for worker in self.workers)

    def admit(self) -> None:
        """Give work to every worker that is free, as long as memory will do; the largest that fits goes first."""
        while self.waiting:
            busy = [worker for worker in self.workers if worker.job is not None]
            if len(busy) == self.processes:
                return
            free = self.memory - sum(PROCESS + memory_of(worker.job.target) for worker in busy if worker.job)
            fitting = (job for job in self.waiting if not busy or PROCESS + memory_of(job.target) <= free)
            job = next(fitting, None)
            if job is None:
                return
            worker = next((worker for worker in self.workers if worker.job is None), None) or self.start()
            self.waiting.remove(job)
            worker.job = job
            with contextlib.suppress(OSError):  # it has died: its sentinel tells
                worker.pipe.send(job)

    def start(self) -> _Worker:
        taken = {worker.number for worker in self.workers}
        number = next(i for i in range(self.processes) if i not in taken)
        ours, theirs = _CONTEXT.Pipe()
        try:
            with _environment(self.threads):
                process = _CONTEXT.Process(target=_serve, args=(theirs, number), daemon=True)
                process.start()
        except OSError as error:
            raise StorageError(f"a worker process cannot be started: {error}; use fewer --jobs") from error
        theirs.close()
        worker = _Worker(process, ours, number)
        self.workers.append(worker)
        return worker

    def ready(self) -> list[_Worker]:
        """Return the workers that have something to say, or have died; wait a moment for one."""
        waited = {worker.pipe: worker for worker in self.workers}
        waited |= {worker.process.sentinel: worker for worker in self.workers}
        return list(dict.fromkeys(waited[found] for found in connection.wait(list(waited), _TICK)))

    def listen(self, worker: _Worker, settle: Settle, tell: Tell) -> None:
        """Take everything that a worker has said; then, if it has died, put its matrix back."""
        dead = not worker.process.is_alive()
        try:
            while worker.pipe.poll():
                kind, value = worker.pipe.recv()
                if kind == "event":
                    tell(value)
                    continue
                job, worker.job = worker.job, None
                if kind == "error":
                    raise value
                assert job is not None  # an outcome answers a job
                settle(job, value)
        except (EOFError, ConnectionResetError):
            dead = True
        if dead:
            worker.process.join()
            self.workers.remove(worker)
            self.mourn(worker, settle)

    def mourn(self, worker: _Worker, settle: Settle) -> None:
        code = worker.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        job = worker.job
        if job is None:
            return
        name = job.target.name
        self.tries[name] = self.tries.get(name, 0) + 1
        message = f"its worker process died ({how}), perhaps for lack of memory"
        _log.warning("%s: %s", name, message)
        if self.tries[name] < _TRIES:
            self.waiting.insert(0, job)
        else:
            settle(job, lost(job.target, f"{message}, {_TRIES} times"))

    def close(self) -> None:
        """End every worker: those at work drop what they have in hand."""
        for worker in self.workers:
            if worker.job is not None:
                worker.process.terminate()
            worker.pipe.close()  # the others find nothing more to read
        for worker in self.workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set what a new process finds: a BLAS reads its number of threads once, when it is loaded."""
    wanted = dict.fromkeys((*THREAD_VARIABLES, "SPARSEFACT_NUM_THREADS"), str(threads))
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(pipe: Any, number: int) -> None:
    """Do jobs from a pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the one that started us decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that temporary files are removed
    logging.getLogger("sparsefact").addHandler(logging.NullHandler())  # warnings are in the outcome
    threading.Thread(target=_follow_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = perform(_on_own_device(job, number), lambda event: pipe.send(("event", event)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:
            pipe.send(("error", _sendable(error)))
            continue
        pipe.send(("outcome", outcome))


def _follow_parent() -> None:
    """End with the process that started this one, also when it is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _on_own_device(job: Job, number: int) -> Job:
    """Return a job for a GPU as one for the GPU of this worker's number."""
    return job if job.device != "cuda" else replace(job, device=f"cuda:{number % _devices()}")


@functools.cache
def _devices() -> int:
    """Return how many GPUs there are; 1 where there is none, which the job then tells."""
    count = 0
    with contextlib.suppress(DeviceError):
        while True:
            get_backend(device=f"cuda:{count}")
            count += 1
    return max(1, count)


def _sendable(error: Exception) -> Exception:
    """Return an error that survives the way through a pipe."""
    known = type(error).__module__ in ("builtins", "sparsefact.errors")
    return type(error)(str(error)) if known and not isinstance(error, UnicodeError) else RuntimeError(repr(error))
