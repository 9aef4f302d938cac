"""One matrix, one job: read it, factorize it, measure it, and commit its factors as a file of their own.

A job is a value that travels to another process or host; what it needs is named by paths, and what it gives is the file
it has written and an `Outcome` that says which bytes are in it.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.checkpoints.grams import read_grams
from sparsefact.checkpoints.measure import magnitude_error, product_times
from sparsefact.checkpoints.methods import build_constraint, density_for, nonzeros_of
from sparsefact.checkpoints.pairs import build_pair, held_density
from sparsefact.checkpoints.plan import Target
from sparsefact.checkpoints.report import MEASURING, Event, MatrixReport
from sparsefact.constraints.double_sparse import DoubleSparse, joint_budget
from sparsefact.errors import ArgumentError, BudgetError, FormatError, NonFiniteError, SparsefactError, StorageError
from sparsefact.factorizers.factorize import factorize
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.failure import quoted
from sparsefact.io.stream import of_array, write_streamed
from sparsefact.products.storage import document, pack

__all__ = ["Job", "Outcome", "Tell", "lost", "perform"]

_log = logging.getLogger(__name__)

_PANEL = 1 << 22  # entries looked at together
_STEPS = 20  # densities that a tolerance is looked for among

Tell = Callable[[Event], object]
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done with one matrix.

    Attributes
    ----------
    target : Target
        The matrix, its constraint and its rule.
    index, total : int
        Which it is of how many, for the events.
    source : Path
        The checkpoint.
    output : Path
        The file that gets its factors.
    solver : solver or None
        What `sparsefact.factorize` is given.
    seed : int
        Of the solver's random numbers.
    device : str or None
        Where to compute.
    densities : tuple of float
        If there are any, no file is written: the error at each of them is what is asked for.
    """

    target: Target
    index: int
    total: int
    source: Path
    output: Path
    solver: Any = None
    seed: int = 0
    device: str | None = None
    densities: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a job.

    Attributes
    ----------
    report : MatrixReport or None
        How the matrix came out; None for a job that only measured errors.
    sha256 : str
        Of the whole file of its factors; empty if there is none.
    nbytes : int
        Of that file.
    history : tuple of (int, float)
        Iterations, and the relative error after them.
    curve : tuple of (int, float)
        Nonzeros, and the relative error with them, of a job that only measured errors.
    lasting : bool
        Whether another try would come out the same; a lack of memory, or a lost worker, would perhaps not.
    worker : str
        The process that did it.
    """

    report: MatrixReport | None
    sha256: str = ""
    nbytes: int = 0
    history: tuple[tuple[int, float], ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    lasting: bool = True
    worker: str = ""


def perform(job: Job, tell: Tell) -> Outcome:
    """Do a job; that its matrix cannot be factorized is an outcome, not an error.

    Parameters
    ----------
    job : Job
        What to do.
    tell : callable
        Receives events; what it raises ends the job, with no file left behind.

    Returns
    -------
    Outcome

    Raises
    ------
    StorageError, FormatError
        If the checkpoint cannot be read or the file of factors cannot be written: that is no fault of the matrix.
    """
    target, begin = job.target, time.perf_counter()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    about = MEASURING if job.densities else ""

    def watch(progress: Any) -> bool:
        seconds = time.perf_counter() - begin
        step, steps = progress.iteration, progress.total or 0
        tell(Event("progress", target.name, job.index, job.total, step, steps, progress.error, seconds, message=about))
        return False

    tell(Event("start", target.name, job.index, job.total, message=about))
    try:
        with open_checkpoint(job.source) as checkpoint:
            A = _finite_matrix(checkpoint.read(target.name), target.name)
            grams = read_grams(target.rule.grams, target.name, target.shape)

            def solve(constraint: Any) -> Any:
                return factorize(A, constraint, job.solver, device=job.device, seed=job.seed, callback=watch, **grams)

            if job.densities:
                curve = tuple(_point(target, density, solve) for density in job.densities)
                return Outcome(None, curve=curve, worker=worker)
            if target.constraint is None and target.rule.tolerance is not None:
                target, F = _within(target, target.rule.tolerance, solve)
            else:
                F = solve(target.constraint)
            seconds = time.perf_counter() - begin
            tensors, record, message = _pack(F, A, grams, target, checkpoint.sha256(target.name))
        dense_ms, factor_ms = product_times(A, F)
        report = MatrixReport(
            name=target.name,
            shape=target.shape,
            dtype=target.dtype,
            density=F.density,
            nnz=F.nnz,
            error=record["frobenius_error"],
            magnitude_error=magnitude_error(A, F.nnz),
            bytes_before=target.nbytes,
            bytes_after=sum(array.nbytes for array in tensors.values()),
            seconds=seconds,
            dense_ms=dense_ms,
            factor_ms=factor_ms,
            status=F.status.name.lower() if F.status is not None else "unknown",
            message=message,
            weighted_error=record["error"] if grams else None,
        )
        history = tuple((step.iteration, float(step.error)) for step in F.history or () if _finite(step.error))
    except (StorageError, FormatError):
        raise
    except (SparsefactError, MemoryError) as error:
        message = str(error) or "there is not enough memory to factorize it"
        _log.warning("%s: not factorized: %s", target.name, message)
        if job.densities:
            return Outcome(None, lasting=not isinstance(error, MemoryError), worker=worker)
        outcome = lost(target, message, seconds=time.perf_counter() - begin, worker=worker)
        return outcome if isinstance(error, MemoryError) else replace(outcome, lasting=True)
    sha256, nbytes = write_streamed(
        job.output,
        [of_array(name, array) for name, array in tensors.items()],
        document({target.name: record}, source=job.source.resolve().name),
    )
    return Outcome(report, sha256, nbytes, history, worker=worker)


def lost(target: Target, message: str, *, seconds: float = 0.0, worker: str = "") -> Outcome:
    """Return the outcome of a matrix that stays as it was, and may be tried again.

    Parameters
    ----------
    target : Target
        The matrix.
    message : str
        Why.
    seconds : float, optional
        Spent on it.
    worker : str, optional
        The process that gave up.

    Returns
    -------
    Outcome
    """
    report = MatrixReport(
        name=target.name,
        shape=target.shape,
        dtype=target.dtype,
        density=1.0,
        nnz=target.shape[0] * target.shape[1],
        error=None,
        magnitude_error=None,
        bytes_before=target.nbytes,
        bytes_after=target.nbytes,
        seconds=seconds,
        dense_ms=None,
        factor_ms=None,
        status="failed",
        message=message,
    )
    return Outcome(report, lasting=False, worker=worker)


def _finite(error: float | None) -> bool:
    return error is not None and math.isfinite(error)


def _point(target: Target, density: float, solve: Callable[[Any], Any]) -> tuple[int, float]:
    """Return the budget at a density and the error reached with it."""
    constraint = build_pair(target.shape, density, target.rule.inner)
    return nonzeros_of(constraint, target.shape), float(solve(constraint).error)


def _within(target: Target, tolerance: float, solve: Callable[[Any], Any]) -> tuple[Target, Any]:
    """Return the factorization of the smallest density of the grid whose error is within a tolerance, by bisection."""
    low, high, best = 0, _STEPS + 1, None
    while high - low > 1:
        middle = (low + high) // 2
        try:
            constraint = build_constraint(
                target.rule.constraint,
                target.shape,
                density=held_density(middle / _STEPS, target.shape, target.rule.inner),
                block=target.rule.block,
                inner=target.rule.inner,
            )
        except BudgetError:
            low = middle
            continue
        found = solve(constraint)
        if found.error <= tolerance:
            high, best = middle, (replace(target, constraint=constraint), found)
        else:
            low = middle
    if best is None:
        raise BudgetError(
            f"tensor {quoted(target.name)} keeps a relative error above the tolerance {tolerance:g} at every density; "
            f"give a larger tolerance, or leave it out"
        )
    return best


def _finite_matrix(A: NDArray[Any], name: str) -> NDArray[Any]:
    """Return a matrix as float32 or float64, the same object where it is one already; refuse NaN and infinity."""
    height = max(1, _PANEL // max(1, A.shape[1]))
    bad, first = 0, ""
    for start in range(0, A.shape[0], height):
        broken = ~np.isfinite(A[start : start + height])
        count = int(np.count_nonzero(broken))
        if count and not bad:
            row, column = np.argwhere(broken)[0]
            first = f"({start + row}, {column})"
        bad += count
    if bad:
        raise NonFiniteError(
            f"tensor {quoted(name)} holds {bad} NaN or infinite values, the first at {first}, and only finite numbers "
            f"can be factorized; repair it, or exclude it"
        )
    return A if A.dtype in (np.float32, np.float64) else A.astype(np.float32)


def _pack(
    F: Any, A: NDArray[Any], grams: dict[str, Any], target: Target, sha256: str
) -> tuple[Tensors, dict[str, Any], str]:
    """Pack factors in the type of the tensor they stand for, or in float32 where that cannot hold their values."""
    message = ""
    try:
        tensors, record = pack(F, target.name, dtype=target.dtype, target=A, source_sha256=sha256, **grams)
    except ArgumentError as error:
        if target.dtype not in ("F16", "BF16"):
            raise
        message = f"stored as F32, since {target.dtype} cannot hold the factors: {error}"
        tensors, record = pack(F, target.name, dtype="F32", target=A, source_sha256=sha256, **grams)
    record["source_dtype"] = target.dtype
    if isinstance(target.constraint, DoubleSparse):
        record["density"], record["budget"] = target.constraint.density, target.constraint.budget
    elif target.rule.support is not None and target.rule.density is not None:
        record["density"], record["budget"] = target.rule.density, joint_budget(target.rule.density, target.shape)
    elif target.rule.constraint == "single":
        # the density of a budget of whole blocks, which is what a record's pair of them says
        count = nonzeros_of(target.constraint, target.shape)
        record["density"], record["budget"] = density_for(count, target.shape), count
    return tensors, record, message
