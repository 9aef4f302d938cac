"""A plan carried out: each matrix read, factorized, measured and packed; then everything is written at once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend
from sparsefact.checkpoints.measure import magnitude_error, product_times
from sparsefact.checkpoints.plan import Plan, Target
from sparsefact.checkpoints.report import Event, MatrixReport, RunReport
from sparsefact.constraints.base import check_int
from sparsefact.errors import ArgumentError, NonFiniteError, SparsefactError
from sparsefact.factorizers.factorize import factorize
from sparsefact.io.atomic import check_target
from sparsefact.io.checkpoint import Checkpoint, open_checkpoint
from sparsefact.io.failure import quoted
from sparsefact.io.header import MAX_ENTRIES
from sparsefact.io.write import write_tensors
from sparsefact.products.storage import document, pack

__all__ = ["Event", "MatrixReport", "RunReport", "run"]

_log = logging.getLogger(__name__)

_PANEL = 1 << 22  # entries looked at together

_MOST_PARTS = 6  # tensors that two factors are stored in

Tensors = dict[str, NDArray[Any]]


def run(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    device: str | None = None,
    solver: Any = None,
    on_event: Callable[[Event], object] | None = None,
) -> RunReport:
    """Carry out a plan and write one file with all factors and all copied tensors.

    A matrix that cannot be factorized, for example because it holds NaN, is kept as it was and told in the report and
    in the file; the others are still done. The file appears whole or not at all, and what stood at its path stays
    until then.

    Parameters
    ----------
    plan : Plan
        What `sparsefact.checkpoints.plan.plan` made.
    output : path-like
        The file to write, of suffix ``.safetensors``; docs/format.md tells what is in it.
    seed : int, optional
        Of the solver's random numbers. Equal runs give equal bytes.
    device : str, optional
        Where to compute, as in `sparsefact.factorize`.
    solver : solver, optional
        As in `sparsefact.factorize`.
    on_event : callable, optional
        Called with an `Event` now and then. What it raises ends the run, with nothing written.

    Returns
    -------
    RunReport
        Errors, bytes and times of every matrix.

    Raises
    ------
    ArgumentError
        If `output` is a file of the checkpoint itself or has another suffix, or the checkpoint is not the one that was
        planned.
    DeviceError
        If there is no such device.
    StorageError, FormatError
        If the checkpoint cannot be read or the file cannot be written.

    Notes
    -----
    The peak of memory is the packed factors of all matrices (about `density` times the checkpoint, plus one bit for
    each entry), and for the largest matrix what the solver takes; the checkpoint itself is mapped, not read. Values are
    computed in float64 for float64 tensors and in float32 for the others, and stored in the tensor's own type.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.checkpoints.plan import plan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source, output = Path(folder) / "model.safetensors", Path(folder) / "sparse.safetensors"
    ...     write_tensors(source, {"w": np.random.default_rng(0).standard_normal((16, 16)), "bias": np.ones(16)})
    ...     report = run(plan(source, density=0.5), output)
    ...     report.matrices[0].error < report.matrices[0].magnitude_error, report.copied, sf.load(output, "w").shape
    (True, ('bias',), (16, 16))
    """
    begin = time.perf_counter()
    tell = on_event or _ignore
    # What is the caller's mistake must not become that of each matrix.
    check_int("seed", seed, 0)
    get_backend(device=device)
    with open_checkpoint(plan.source) as checkpoint:
        _check_output(output, checkpoint)
        _check_plan(plan, checkpoint)
        tensors: Tensors = {}
        records: dict[str, dict[str, Any]] = {}
        reports: list[MatrixReport] = []
        for index, target in enumerate(plan.targets):
            report, packed, record = _matrix(checkpoint, target, index, len(plan.targets), seed, device, solver, tell)
            reports.append(report)
            tensors |= packed
            if record is not None:
                records[target.name] = record
        failed = {report.name: report.message for report in reports if report.status == "failed"}
        kept = [tensor.name for tensor in plan.copied] + list(failed)
        for index, tensor in enumerate(plan.copied):
            tell(Event("copied", tensor.name, index, len(plan.copied), message=tensor.reason))
        tensors |= {name: checkpoint.read(name) for name in kept}
        metadata = document(
            records,
            source=plan.source.resolve().name,
            copied=[tensor.name for tensor in plan.copied],
            failed=failed,
            sha256={name: checkpoint.sha256(name) for name in kept},
        )
        tell(Event("writing", os.fspath(output), seconds=time.perf_counter() - begin))
        write_tensors(output, tensors, metadata)
        return RunReport(
            output=Path(output),
            matrices=tuple(reports),
            copied=tuple(tensor.name for tensor in plan.copied),
            bytes_before=sum(checkpoint.info(name).nbytes for name in checkpoint.names),
            bytes_after=sum(array.nbytes for array in tensors.values()),
            seconds=time.perf_counter() - begin,
        )


def _ignore(event: Event) -> None:
    pass


def _check_output(output: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Refuse what could not be written, or would overwrite the input, before any work is done."""
    path = Path(output)
    if path.suffix != ".safetensors":
        raise ArgumentError(f"output is {quoted(str(path))}, and it must be the path of a .safetensors file; rename it")
    target = check_target(path)
    for file in checkpoint.files:
        if target == file.resolve() or (target.exists() and target.samefile(file)):
            raise ArgumentError(
                f"output is {quoted(str(path))}, which is {file}, a file of the checkpoint itself; give another path"
            )


def _check_plan(plan: Plan, checkpoint: Checkpoint) -> None:
    """Refuse a plan of another checkpoint, or of more than one file can hold."""
    planned = [target.name for target in plan.targets] + [tensor.name for tensor in plan.copied]
    same = sorted(planned) == sorted(checkpoint.names) and all(
        (info.shape, info.dtype) == (target.shape, target.dtype)
        for target, info in ((target, checkpoint.info(target.name)) for target in plan.targets)
    )
    if not same:
        raise ArgumentError(f"plan is of other tensors than {plan.source} holds now; make a new plan of it")
    stored = _MOST_PARTS * len(plan.targets) + len(plan.copied)
    if stored > MAX_ENTRIES:
        raise ArgumentError(
            f"plan has {len(plan.targets)} matrices to factorize, which take up to {stored:,} tensors, and one file "
            f"holds {MAX_ENTRIES:,}; include fewer matrices in one run"
        )


def _matrix(
    checkpoint: Checkpoint,
    target: Target,
    index: int,
    total: int,
    seed: int,
    device: str | None,
    solver: Any,
    tell: Callable[[Event], object],
) -> tuple[MatrixReport, Tensors, dict[str, Any] | None]:
    """Factorize one matrix; a failure is part of the report."""
    begin = time.perf_counter()

    def watch(progress: Any) -> bool:
        seconds = time.perf_counter() - begin
        step, steps = progress.iteration, progress.total or 0
        tell(Event("progress", target.name, index, total, step, steps, progress.error, seconds))
        return False

    tell(Event("start", target.name, index, total))
    try:
        A = _finite_matrix(checkpoint.read(target.name), target.name)
        F = factorize(A, target.constraint, solver, device=device, seed=seed, callback=watch)
        seconds = time.perf_counter() - begin
        tensors, record, message = _pack(F, A, target, checkpoint.sha256(target.name))
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
        )
    except (SparsefactError, MemoryError) as error:
        message = str(error) or "there is not enough memory to factorize it"
        _log.warning("%s: not factorized: %s", target.name, message)
        report = _failure(target, time.perf_counter() - begin, message)
        tell(Event("failed", target.name, index, total, seconds=report.seconds, message=message))
        return report, {}, None
    tell(Event("done", target.name, index, total, error=report.error, seconds=report.seconds, message=message))
    return report, tensors, record


def _failure(target: Target, seconds: float, message: str) -> MatrixReport:
    return MatrixReport(
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


def _pack(F: Any, A: NDArray[Any], target: Target, sha256: str) -> tuple[Tensors, dict[str, Any], str]:
    """Pack factors in the type of the tensor they stand for, or in float32 where that cannot hold their values."""
    message = ""
    try:
        tensors, record = pack(F, target.name, dtype=target.dtype, target=A, source_sha256=sha256)
    except ArgumentError as error:
        if target.dtype not in ("F16", "BF16"):
            raise
        message = f"stored as F32, since {target.dtype} cannot hold the factors: {error}"
        tensors, record = pack(F, target.name, dtype="F32", target=A, source_sha256=sha256)
    record["density"], record["budget"] = target.constraint.density, target.constraint.budget
    return tensors, record, message
