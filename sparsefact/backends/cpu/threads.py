"""The one thread pool of the CPU backend: kernels without the interpreter lock run over ranges of independent work.

Every item of a range is computed the same way in whichever range it falls, so results do not depend on the number of
threads. The pool is made on first use, forgotten in a forked child, and belongs to no object, so it never travels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["over_ranges", "thread_count"]

R = TypeVar("R")

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None


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
    parts = max(1, min(thread_count(), length // max(grain, 1)))
    step = -(-length // (parts * align)) * align if length else 1
    ranges = [(start, min(start + step, length)) for start in range(0, length, step)]
    if len(ranges) < 2:
        return [work(start, stop) for start, stop in ranges]
    pool = _shared_pool(thread_count())
    later = [pool.submit(work, start, stop) for start, stop in ranges[1:]]
    first = work(*ranges[0])
    return [first, *(future.result() for future in later)]


def _shared_pool(threads: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] < threads:
            if _pool is not None:
                _pool[1].shutdown(wait=False)
            _pool = threads, ThreadPoolExecutor(threads, thread_name_prefix="sparsefact")
        return _pool[1]


def _forget() -> None:
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
