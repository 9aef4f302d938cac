"""One library in a process of its own, which factorizes when it is told to and says how long it took.

Libraries bring OpenMP and BLAS runtimes of their own, whose threads may not disturb each other's measurement; a process
for each library stays warm, and the one that measures tells them in turn.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Pattern = tuple[int, int, int, int]
PANEL = 256
# Calls that take less are repeated.
ENOUGH = 0.05


@dataclass(frozen=True)
class Path:
    """One way to factorize one matrix.

    ``solve()`` is what is timed; ``factors(found)`` gives the float64 or complex128 CSR factors of what it returned,
    and ``claims(found)`` what the library says about it.
    """

    name: str
    solve: Callable[[], Any]
    factors: Callable[[Any], list[Any]]
    claims: Callable[[Any], dict[str, Any]] = lambda found: {}


Make = Callable[[NDArray[Any], Sequence[Pattern]], list[Path]]


def sparse_factor(values: Any) -> Any:
    """Return the CSR array, float64 or complex128, of a Kronecker factor given by its values (a, b, c, d)."""
    values = np.asarray(values)
    wide = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
    a, b, c, d = wide.shape
    i, p, r, q = np.ogrid[:a, :b, :c, :d]
    rows, cols = np.broadcast_arrays((i * b + p) * d + q, (i * c + r) * d + q)
    entries = (wide.ravel(), (rows.ravel(), cols.ravel()))
    return scipy.sparse.coo_array(entries, shape=(a * b * d, a * c * d)).tocsr()


def relative_error(A: NDArray[Any], factors: Sequence[Any]) -> float:
    """Return ||A - F_1 ... F_L|| / ||A|| in float64, by panels of columns; the factors are float64 CSR arrays."""
    *rest, last = factors
    last = last.tocsc()
    missed = energy = 0.0
    for start in range(0, A.shape[1], PANEL):
        product = last[:, start : start + PANEL].toarray()
        for factor in reversed(rest):
            product = factor @ product
        wide = A[:, start : start + PANEL].astype(product.dtype)
        energy += float(np.linalg.norm(wide) ** 2)
        missed += float(np.linalg.norm(wide - product) ** 2)
    return float(np.sqrt(missed / energy))


def timed(solve: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call and its result: the median of as many calls as fit in `ENOUGH` seconds.

    It begins after the threads of the last path have gone to sleep.
    """
    gc.collect()
    time.sleep(0.02)
    seconds: list[float] = []
    while sum(seconds) < ENOUGH:
        started = time.perf_counter()
        found = solve()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), found


def peak_bytes(solve: Callable[[], Any]) -> int:
    """Return the peak of what one call allocates through NumPy, beside its input and with its result."""
    tracemalloc.start()
    solve()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def serve(orders: Any, make: Make, ours: bool) -> None:
    """Answer orders until the other end closes.

    ``load, file, patterns`` makes the paths and answers their names; ``try, name, limit`` runs one twice, or a peer's
    once where that takes `limit` seconds, and answers the seconds of the last run, the error and the claims;
    ``time, name`` answers the seconds.
    """
    if not ours:  # pyfaust prints from C++
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    paths: dict[str, Path] = {}
    matrix = np.zeros((0, 0))
    while True:
        try:
            order, *arguments = orders.recv()
        except EOFError:
            return
        if order == "load":
            file, patterns = arguments
            paths.clear()  # they hold the last matrix
            matrix = np.load(file)
            paths = {path.name: path for path in make(matrix, patterns)}
            orders.send(list(paths))
            continue
        path = paths[arguments[0]]
        if order == "time":
            seconds, found = timed(path.solve)
            orders.send(seconds)
            del found
            continue
        try:
            seconds, found = timed(path.solve)  # compiles, starts threads
            if ours or seconds < arguments[1]:
                seconds, found = timed(path.solve)
        except Exception as failure:  # other people's code may raise anything, and what it says is the result
            orders.send({"failure": f"{type(failure).__name__}: {failure}"})
            continue
        answer = {"first": seconds, "error": relative_error(matrix, path.factors(found)), **path.claims(found)}
        del found
        if ours:
            answer["peak_over_matrix"] = peak_bytes(path.solve) / matrix.nbytes
        orders.send(answer)


class Worker:
    """A process that makes its paths with `make` for every matrix that it is given."""

    def __init__(self, make: Make, *, ours: bool) -> None:
        fresh = multiprocessing.get_context("spawn")
        self._orders, theirs = fresh.Pipe()
        self._process = fresh.Process(target=serve, args=(theirs, make, ours), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *order: Any) -> Any:
        """Send one order and return the answer; EOFError where the process has died of it."""
        self._orders.send(order)
        return self._orders.recv()

    def close(self) -> None:
        """End the process."""
        self._orders.close()
        self._process.join()
