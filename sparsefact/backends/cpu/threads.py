"""The one thread pool of the CPU backend: kernels without the interpreter lock run over ranges of independent work.

Every item of a range is computed the same way in whichever range it falls, so results do not depend on the number of
threads. The pool is made on first use, forgotten in a forked child, and belongs to no object, so it never travels.

Futures would cost more than a small product: here a caller puts its ranges where workers find them, takes ranges
itself until none is left, and waits for those that others took. A worker that wakes late finds nothing to do, and
nobody waits for it.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["over_ranges", "thread_count"]

R = TypeVar("R")

_lock = threading.Lock()
_jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
_workers = 0


class _Job:
    """The ranges of one call, and what came of them."""

    def __init__(self, work: Callable[[int, int], Any], ranges: list[tuple[int, int]]) -> None:
        self.results: list[Any] = [None] * len(ranges)
        self.failure: BaseException | None = None
        self._work = work
        self._left = deque(enumerate(ranges))
        self._count = itertools.count(1)
        self._finished = threading.Lock()
        self._finished.acquire()

    def take_part(self) -> None:
        """Run ranges until none is left."""
        while self._left:
            try:
                place, (start, stop) = self._left.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                self.results[place] = self._work(start, stop)
            except BaseException as failure:  # the caller gets it, not the worker
                self.failure = failure
            if next(self._count) == len(self.results):
                self._finished.release()

    def wait(self) -> None:
        """Return when every range has been run."""
        self._finished.acquire()


def thread_count() -> int:
    """Return how many threads a kernel may use.

    The environment variable ``SPARSEFACT_NUM_THREADS`` if it holds a positive integer, else the processors this process
    may run on.
    """
    asked = os.environ.get("SPARSEFACT_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def over_ranges(work: Callable[[int, int], R], length: int, *, grain: int = 1, align: int = 1) -> list[R]:
    """Call ``work(start, stop)`` over consecutive ranges that cover ``range(length)``, one range per thread.

    Parameters
    ----------
    work : callable
        Called from several threads at once; must not call this function again.
    length : int
        How many items there are; with none there is no call.
    grain : int
        The fewest items worth a thread.
    align : int
        Ranges start at multiples of this.

    Returns
    -------
    list
        What the calls returned, in the order of the ranges.
    """
    parts = length // max(grain, 1)
    if parts < 2:
        return [work(0, length)] if length else []
    parts = min(thread_count(), parts)
    step = -(-length // (parts * align)) * align if length else 1
    ranges = [(start, min(start + step, length)) for start in range(0, length, step)]
    if len(ranges) < 2:
        return [work(start, stop) for start, stop in ranges]
    _hire(parts)
    job = _Job(work, ranges)
    for _ in ranges[1:]:
        _jobs.put(job)
    job.take_part()
    job.wait()
    if job.failure is not None:
        raise job.failure
    return job.results


def _hire(count: int) -> None:
    """Start workers until there are as many."""
    global _workers
    if _workers < count:
        with _lock:
            while _workers < count:
                name = f"sparsefact_{_workers}"
                threading.Thread(target=_serve, args=(_jobs,), name=name, daemon=True).start()
                _workers += 1


def _serve(jobs: queue.SimpleQueue[_Job]) -> None:
    while True:
        job = jobs.get()
        job.take_part()
        del job  # or its arrays would live until the next one


def _forget() -> None:
    global _lock, _jobs, _workers
    _lock, _jobs, _workers = threading.Lock(), queue.SimpleQueue(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
