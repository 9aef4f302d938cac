"""What a plan will take, before it starts: memory and disk as upper bounds, time as a guess from a short probe."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsefact.checkpoints.memory import PROCESS, memory_of
from sparsefact.checkpoints.methods import build_constraint, build_solver
from sparsefact.checkpoints.pairs import held_density
from sparsefact.checkpoints.plan import Plan, Target
from sparsefact.checkpoints.threads import threads_here
from sparsefact.constraints.chain import Chain
from sparsefact.constraints.double_sparse import DoubleSparse, double_sparse
from sparsefact.constraints.sparse_plus_low_rank import SparsePlusLowRank
from sparsefact.errors import StorageError
from sparsefact.factorizers.alternating import Alternating
from sparsefact.factorizers.factorize import factorize
from sparsefact.io.checkpoint import open_checkpoint

__all__ = [
    "Estimate",
    "disk_of",
    "estimate",
    "free_memory",
    "refuse_what_will_not_fit",
    "shortages",
]

_PROJECTION = 4e-8  # seconds for an entry, that a projection takes
_RECORD = 3900  # bytes of a record, its journal line and its entry in the index, without the names
_NAMES = 30  # how often the name of a matrix is written
_FURTHER, _FURTHER_NAMES = 800, 6  # the same of each factor beyond the second
_HISTORY = 72  # bytes of one point of a convergence history, in the journal and beside the factors
_PROBE = 160  # side of the matrix that the probe factorizes
_PROBE_STEPS = 3


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, and what there is.

    Attributes
    ----------
    memory : int
        Bytes at the peak, of all processes of this machine together; an upper bound.
    memory_free : int
        Bytes that are available now.
    disk : int
        Bytes that will be written and kept at the same time; an upper bound.
    disk_free : int
        Bytes that are free where the output goes, together with what an earlier run has left there.
    seconds : float or None
        A guess from a short probe; None without one.
    largest : str
        The matrix that takes the most memory; empty if there is none.
    """

    memory: int
    memory_free: int
    disk: int
    disk_free: int
    seconds: float | None
    largest: str


def disk_of(target: Target, total: float | None = None) -> int:
    """Return an upper bound of the bytes of a matrix's factors and of all that is written about them.

    Parameters
    ----------
    target : Target
        The matrix and its constraint.
    total : float, optional
        The density of a shared budget.

    Returns
    -------
    int
    """
    constraint = target.constraint
    if constraint is None:
        density = 1.0 if target.rule.tolerance is not None or total is None else total
        constraint = build_constraint(
            target.rule.constraint,
            target.shape,
            density=held_density(density, target.shape, target.rule.inner),
            block=target.rule.block,
            inner=target.rule.inner,
        )
    stored = {"F64": 8, "F32": 4}.get(target.dtype, 2)
    about = _RECORD + _NAMES * len(target.name.encode()) + _HISTORY * 20
    if isinstance(constraint, Chain):
        further = max(0, len(constraint) - 2) * (_FURTHER + _FURTHER_NAMES * len(target.name.encode()))
        return int(constraint.nnz) * stored + about + further
    if isinstance(constraint, SparsePlusLowRank):
        return _stored_sum(constraint, stored) + about
    if isinstance(constraint, tuple):
        shapes = ((target.shape[0], target.inner), (target.inner, target.shape[1]))
        return about + sum(_stored(shape, each.nnz, stored) for shape, each in zip(shapes, constraint, strict=True))
    if not isinstance(constraint, DoubleSparse):
        return _stored(target.shape, constraint.count(target.shape), stored) + about
    least, most = constraint.left_bounds
    splits = {int(left) for left in np.linspace(least, most, 65)}
    if constraint.left_nnz is not None:
        splits = {constraint.left_nnz}
    return about + max(
        _stored(constraint.left_shape, left, stored) + _stored(constraint.right_shape, constraint.budget - left, stored)
        for left in splits
    )


def _stored_sum(constraint: SparsePlusLowRank, itemsize: int) -> int:
    """Return the bytes of a sparse matrix and one of low rank at the worst of the ranks that it may get."""
    m, n = constraint.shape
    most = constraint.largest_rank if constraint.rank is None else constraint.rank
    found = [_stored((m, n), constraint.budget, itemsize)]
    for rank in sorted({round(step) for step in np.linspace(1, most, 65)}) if most else ():
        inner, unit, sparse = min(m, n) + rank, min(m, n), constraint.sparse_nnz(rank)
        left, right = (unit, sparse) if m <= n else (sparse, unit)
        found.append(_stored((m, inner), left + rank * m, itemsize) + _stored((inner, n), right + rank * n, itemsize))
    return max(found)


def _stored(shape: tuple[int, int], nnz: int, itemsize: int) -> int:
    """Return the bytes of a sparse factor in the smallest layout."""
    rows, columns = shape
    index = 2 if columns <= 2**16 else 4
    bitmask = -(-rows * columns // 8) + nnz * itemsize
    csr = (rows + 1) * 4 + nnz * (index + itemsize)
    return min(bitmask, csr, rows * columns * itemsize)


def estimate(
    plan: Plan,
    output: str | os.PathLike[str] | None,
    *,
    jobs: int = 1,
    threads_per_job: int | None = None,
    probe: bool = False,
    remote: bool = False,
) -> Estimate:
    """Return what a plan will take.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    output : path-like or None
        Where to; None for the present folder.
    jobs : int, optional
        How many matrices at the same time.
    threads_per_job : int, optional
        Of the BLAS, instead of the recipe's; others than this process has take a process of their own.
    probe : bool, optional
        Whether to factorize a small random matrix, to guess the time; it takes about a second.
    remote : bool, optional
        Whether the work is done on other machines, so that no memory is taken here.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> import tempfile
    >>> from sparsefact.checkpoints.plan import plan
    >>> from sparsefact.io.write import write_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "model.safetensors", {"w": np.ones((64, 64), "float32")})
    ...     needs = estimate(plan(folder), Path(folder) / "out")
    >>> needs.largest, needs.disk < 64 * 64 * 4 + 20_000
    ('w', True)
    """
    by_memory = sorted(plan.targets, key=memory_of, reverse=True)
    adds = [memory_of(target) for target in by_memory[:jobs]]
    threads = plan.recipe.threads_per_job if threads_per_job is None else threads_per_job
    here = jobs == 1 and threads in (None, threads_here())
    processes = 1 if here else 1 + len(adds)
    single = output is not None and Path(output).suffix == ".safetensors"
    factors = sum(disk_of(target, plan.recipe.total) for target in plan.targets)
    with open_checkpoint(plan.source) as checkpoint:
        copied = sum(checkpoint.info(tensor.name).nbytes + 400 for tensor in plan.copied)
    folder = Path(output).resolve() if output is not None else Path.cwd()
    if single:
        folder = folder.with_name(folder.name + ".partial")
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return Estimate(
        memory=0 if remote else processes * PROCESS + sum(adds),
        memory_free=free_memory(),
        disk=(2 * factors if single else factors) + copied + (8 << 10),
        disk_free=shutil.disk_usage(existing).free + _already(folder),
        seconds=_seconds(plan, jobs) if probe else None,
        largest=by_memory[0].name if by_memory else "",
    )


def _already(folder: Path) -> int:
    """Return the bytes that an earlier run has left, which the present one need not write again."""
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def free_memory() -> int:
    """Return the bytes that processes may still take: what the machine has, or what the control group allows.

    Returns
    -------
    int
        A very large number where the system does not tell.

    Examples
    --------
    >>> free_memory() > 0
    True
    """
    found = [1 << 62]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):
            continue
    return min(found)


def shortages(needs: Estimate) -> list[str]:
    """Return a sentence for each thing of which there is not enough.

    Parameters
    ----------
    needs : Estimate
        What a run will take.

    Returns
    -------
    list of str

    Examples
    --------
    >>> shortages(Estimate(memory=10, memory_free=5, disk=1, disk_free=2, seconds=None, largest="w"))
    ["the run would take 10 bytes of memory, most of it for 'w', and 5 are free; use fewer --jobs, or leave it out"]
    """
    found = []
    if needs.memory > needs.memory_free:
        found.append(
            f"the run would take {needs.memory:,} bytes of memory, most of it for {needs.largest!r}, and "
            f"{needs.memory_free:,} are free; use fewer --jobs, or leave it out"
        )
    if needs.disk > needs.disk_free:
        found.append(
            f"the run would take {needs.disk:,} bytes of disk, and {needs.disk_free:,} are free; free space, take "
            f"another disk or a lower density"
        )
    return found


def refuse_what_will_not_fit(needs: Estimate) -> None:
    """Refuse a run for which memory or disk will not do, before its first byte.

    Parameters
    ----------
    needs : Estimate
        What it will take.

    Raises
    ------
    StorageError
        With the sentence of what is short.
    """
    for sentence in shortages(needs):
        raise StorageError(sentence)


def _seconds(plan: Plan, jobs: int) -> float:
    """Guess the time of a run: a few steps on a small random matrix, in proportion to the arithmetic."""
    A = np.random.default_rng(0).standard_normal((_PROBE, _PROBE), dtype=np.float32)
    constraint = double_sparse(A.shape, 0.5)
    factorize(A, constraint, Alternating(outer=1))  # loads and compiles
    begin = time.perf_counter()
    factorize(A, constraint, Alternating(outer=_PROBE_STEPS))
    step = (time.perf_counter() - begin) / (_PROBE_STEPS + 2) / _PROBE**3
    total = 0.0
    for target in plan.targets:
        m, n = target.shape
        solver: Any = build_solver(target.rule.solver, target.rule.options, target.rule.constraint) or Alternating()
        if target.rule.constraint == "single" and not target.rule.grams:
            total += _PROJECTION * m * n
            continue
        factors = 5 if target.rule.tolerance is not None else 1
        inner = target.inner if target.rule.constraint == "double-sparse" else min(m, n)
        total += step * m * n * inner * (getattr(solver, "iterations", 50) + 2) * factors
        total += 0.15  # measuring, hashing and writing
    return total / min(jobs, max(1, len(plan.targets)))
