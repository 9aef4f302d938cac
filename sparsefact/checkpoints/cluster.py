"""Jobs on the workers of a Dask cluster, which read the checkpoint and write their shards on shared storage.

Dask runs the job of a lost worker again on another one; what comes back is which bytes the shard has, not the shard.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sparsefact import __version__
from sparsefact.checkpoints.job import Job, Outcome, Tell, lost, perform
from sparsefact.checkpoints.report import Event
from sparsefact.checkpoints.threads import threads_here
from sparsefact.errors import ArgumentError, StorageError
from sparsefact.io.atomic import sync_directory
from sparsefact.io.failure import quoted
from sparsefact.io.stream import file_sha256

if TYPE_CHECKING:
    from sparsefact.checkpoints.run import Settle

__all__ = ["execute_on_cluster"]

_TICK = 0.5  # seconds between two looks at whether the run is to end
_PATIENCE = 30.0  # seconds to reach the scheduler and a first worker
_RELAXED = 60.0  # seconds that shared storage may take to show a file that another host has written


def execute_on_cluster(jobs: Sequence[Job], settle: Settle, tell: Tell, address: str, threads: int) -> None:
    """Do jobs on the workers of a Dask scheduler.

    Parameters
    ----------
    jobs : sequence of Job
        What to do; the largest matrix is submitted first.
    settle, tell
        As of local processes.
    address : str
        Of the scheduler, such as ``"tcp://10.0.0.1:8786"``.
    threads : int
        BLAS threads of each job, which the workers must have been started with.

    Raises
    ------
    ArgumentError
        If the package ``distributed`` is missing, or the workers are not what the run needs; the sentence says what.
    StorageError
        If the scheduler cannot be reached, or what a worker has written cannot be seen here.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ArgumentError(
            "a scheduler was given, and that needs Dask; install it with `pip install 'sparsefact[distributed]'`"
        ) from None
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise StorageError(f"the Dask scheduler {quoted(address)} cannot be reached: {error}; check it") from error
    futures: dict[Any, Job] = {}
    # A new name each time: a scheduler remembers results by it, and a worker that outlives this run may still write.
    token = secrets.token_hex(16)
    arrived = threading.Event()
    try:
        _check_workers(client, threads)
        for job in sorted(jobs, key=lambda job: job.target.shape[0] * job.target.shape[1], reverse=True):
            key = f"{job.target.name}-{token}"
            future = client.submit(_perform, _aside(job, token), key=key, pure=False)
            # at once: what a worker has finished and not handed over is begun again when that worker is lost
            future.add_done_callback(lambda _: arrived.set())
            futures[future] = job
        while futures:
            for future in [future for future in futures if future.done()]:
                job = futures.pop(future)
                settle(job, _outcome(future, job, token, tell))
                future.release()
            tell(Event("waiting", ""))
            arrived.wait(_TICK)
            arrived.clear()
    finally:
        client.cancel(list(futures), force=True)
        client.close()


def _perform(job: Job) -> Outcome:
    """Do a job on a worker; its progress stays there."""
    return perform(job, lambda event: None)


def _aside(job: Job, token: str) -> Job:
    """Return a job whose file has a name of this run, and gets its own name here when it is committed."""
    return replace(job, output=job.output.with_name(f".sparsefact-{token}-{job.index}.tmp"))


def _about_worker() -> tuple[str, int]:
    return __version__, threads_here()


def _check_workers(client: Any, threads: int) -> None:
    """Refuse workers whose results would not be those of this run."""
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError as error:
        raise StorageError("the Dask scheduler has no workers; start some with `dask worker`") from error
    for address, about in client.scheduler_info(n_workers=-1)["workers"].items():
        if about["nthreads"] != 1:
            raise ArgumentError(
                f"the Dask worker {address} does {about['nthreads']} tasks at a time, and matrices would compete for "
                f"its memory; start it with --nthreads 1"
            )
    try:
        answers = client.run(_about_worker)
    except OSError as error:
        raise StorageError(
            f"a Dask worker was lost before the run began: {error}; look at its log, and start it again"
        ) from error
    for address, (version, found) in answers.items():
        if version != __version__:
            raise ArgumentError(f"the Dask worker {address} has sparsefact {version}, and this is {__version__}")
        if found != threads:
            raise ArgumentError(
                f"the Dask worker {address} computes with {found} BLAS threads, and the run with {threads}; start it "
                f"with OPENBLAS_NUM_THREADS={threads}, or give --threads-per-job {found}"
            )


def _outcome(future: Any, job: Job, token: str, tell: Tell) -> Outcome:
    """Return what a worker reported, once its shard can be seen here."""
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return lost(job.target, "the workers that tried it died, perhaps for lack of memory")
    try:
        outcome: Outcome = future.result()
    except CancelledError as error:  # by the client, when the connection has ended
        raise StorageError(
            "the Dask scheduler was lost; what is committed is kept, and the same command goes on once it runs again"
        ) from error
    deadline = time.monotonic() + _RELAXED
    written = _aside(job, token).output
    while outcome.sha256:
        try:
            if file_sha256(written) == outcome.sha256:
                written.replace(job.output)
                sync_directory(job.output.parent)
                break
            problem = "is not the one that the worker wrote"
        except StorageError:
            problem = "cannot be seen here"
        if time.monotonic() > deadline:
            raise StorageError(
                f"{job.output}: the shard {problem}, though the worker {outcome.worker} reported it; the output must "
                f"be on storage that all hosts share"
            )
        tell(Event("waiting", job.target.name))
        time.sleep(_TICK)
    return outcome
