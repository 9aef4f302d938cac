"""A plan carried out: each matrix is a job whose factors are committed as a file, so that a killed run can go on."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from sparsefact import __version__
from sparsefact.backends.registry import get_backend
from sparsefact.checkpoints.budget import Curve, allocate, probe_densities
from sparsefact.checkpoints.job import Job, Outcome, Tell, perform
from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal, check_identity
from sparsefact.checkpoints.methods import build_solver, density_for
from sparsefact.checkpoints.output import (
    committed_sha256,
    finish_folder,
    finish_single,
    shard_name,
    side_files,
)
from sparsefact.checkpoints.pairs import build_pair, held_density, support_file
from sparsefact.checkpoints.place import Place
from sparsefact.checkpoints.plan import Plan, Target
from sparsefact.checkpoints.recipe import RECIPE_NAME, Recipe
from sparsefact.checkpoints.report import MEASURING, Event, MatrixReport, RunReport
from sparsefact.checkpoints.threads import cores, threads_here
from sparsefact.constraints.base import check_int
from sparsefact.errors import ArgumentError, BudgetError
from sparsefact.io.checkpoint import Checkpoint, open_checkpoint
from sparsefact.io.header import MAX_ENTRIES
from sparsefact.io.lock import FolderLock
from sparsefact.io.stream import file_sha256, write_text

__all__ = ["Event", "MatrixReport", "Resume", "RunReport", "run"]

_log = logging.getLogger(__name__)

_MOST_PARTS = 6  # tensors that two factors are stored in

Resume = Literal["auto", "required", "never"]
Settle = Callable[[Job, Outcome], None]


def run(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    seed: int | None = None,
    device: str | None = None,
    solver: Any = None,
    jobs: int = 1,
    threads_per_job: int | None = None,
    scheduler: str | None = None,
    resume: Resume = "auto",
    on_event: Callable[[Event], object] | None = None,
) -> RunReport:
    """Carry out a plan; every finished matrix is on disk before the next one counts.

    A matrix that cannot be factorized, for example because it holds NaN, is kept as it was and told in the report and
    in the output; the others are still done. A run that was ended, by whatever, is taken up by the same call: what
    has been committed is not computed again, and the result has the same bytes.

    Parameters
    ----------
    plan : Plan
        What `sparsefact.checkpoints.plan.plan` made.
    output : path-like
        A folder, which becomes a sharded checkpoint; or, of suffix ``.safetensors``, one file (until it is complete
        the work lies in a folder beside it, of suffix ``.partial``). docs/format.md tells what is in both.
    seed : int, optional
        Of the solver's random numbers, instead of the recipe's. Equal runs give equal bytes.
    device : str, optional
        Where to compute, as in `sparsefact.factorize`, instead of the recipe's.
    solver : solver, optional
        As in `sparsefact.factorize`, instead of the recipe's.
    jobs : int, optional
        How many matrices are factorized at the same time, each in a process of its own if there are several.
    threads_per_job : int, optional
        Of the BLAS in each job, instead of the recipe's; by default the cores are divided between the jobs.
    scheduler : str, optional
        The address of a Dask scheduler whose workers do the jobs; they must see the same files.
    resume : {"auto", "required", "never"}, optional
        Whether to take up what an earlier run has left at `output`: if there is something, in any case, or not: then
        it is discarded.
    on_event : callable, optional
        Called with an `Event` now and then. What it raises ends the run; what is committed stays.

    Returns
    -------
    RunReport
        Errors, bytes and times of every matrix.

    Raises
    ------
    ArgumentError
        If `output` is a file of the checkpoint itself or an unsuitable path, if the checkpoint is not the one that was
        planned, or if the run to take up was another one (the sentence names the field that differs).
    DeviceError
        If there is no such device.
    StorageError, FormatError
        If the checkpoint cannot be read, the output cannot be written, or another process is writing it.

    Notes
    -----
    The checkpoint is mapped, not read, and factors are in memory only until they are committed: the peak is what the
    solver takes for the largest matrices that are in hand together. Values are computed in float64 for float64
    tensors and in float32 for the others, and stored in the tensor's own type.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.checkpoints.plan import plan
    >>> from sparsefact.io.write import write_tensors
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
    check_int("jobs", jobs)
    if resume not in ("auto", "required", "never"):
        raise ArgumentError(f"resume is {resume!r}, and it must be 'auto', 'required' or 'never'")
    recipe = _settled(plan.recipe, seed, device, threads_per_job, jobs, scheduler)
    if scheduler is None:
        get_backend(device=recipe.device)
    with open_checkpoint(plan.source) as checkpoint:
        place = Place.of(output, checkpoint)
        _check_plan(plan, checkpoint, single=place.single)
        identity = _identity(plan, recipe, checkpoint, solver, tell)
        execute = _executor(recipe, jobs, scheduler)
        place.create()
        try:
            with FolderLock(place.folder):
                journal = _open_journal(place, identity, resume, recipe)
                try:
                    work = _Work(plan, recipe, place, journal, tell, solver)
                    work.take_up()
                    work.measure(execute)
                    work.factorize(execute)
                    return work.finish(checkpoint, begin)
                finally:
                    place.sweep(committed=len(journal.entries) > 1)
        finally:
            place.leave()


def _ignore(event: Event) -> None:
    pass


def _settled(
    recipe: Recipe, seed: int | None, device: str | None, threads: int | None, jobs: int, scheduler: str | None
) -> Recipe:
    """Return the recipe with everything that identifies the run filled in."""
    if threads is None:
        threads = recipe.threads_per_job
    if threads is None:
        threads = 1 if scheduler is not None else threads_here() if jobs == 1 else max(1, cores() // jobs)
    return replace(
        recipe,
        seed=recipe.seed if seed is None else check_int("seed", seed, 0),
        device=recipe.device if device is None else device,
        threads_per_job=check_int("threads_per_job", threads),
    )


def _identity(plan: Plan, recipe: Recipe, checkpoint: Checkpoint, solver: Any, tell: Tell) -> dict[str, Any]:
    """Return what a run must have in common with the one it takes up."""
    paths = [*checkpoint.files, *side_files(plan.source)]

    def wait() -> None:
        tell(Event("waiting", str(plan.source)))

    files = {path.name: {"nbytes": path.stat().st_size, "sha256": file_sha256(path, wait)} for path in paths}
    described = recipe.as_dict()
    described |= {"seed": recipe.seed, "device": recipe.device}
    described.pop("threads_per_job", None)
    grams = sorted({path for rule in recipe.rules for path in rule.grams.values()})
    supports = sorted({support_file(rule.support) for rule in recipe.rules if rule.support is not None})
    return {
        "version": __version__,
        "source": {"name": plan.source.resolve().name, "files": files},
        "recipe": described,
        "solver": None if solver is None else repr(solver),
        "grams": {path: file_sha256(path, wait) for path in grams},
        "supports": {path: file_sha256(path, wait) for path in supports},
        "threads_per_job": recipe.threads_per_job,
    }


def _open_journal(place: Place, identity: dict[str, Any], resume: Resume, recipe: Recipe) -> Journal:
    path = place.folder / JOURNAL_NAME
    place.remove_temporary()
    if path.exists() and resume != "never":
        journal = Journal.open(path)
        check_identity(journal, identity, place.shown)
        # One file that was complete may since have been moved or replaced; a folder says so itself, in `verify`.
        if not (place.single and journal.complete) or _is_in_place(place, journal.complete):
            return journal
    if resume == "required":
        raise ArgumentError(
            f"{place.shown}: there is no {JOURNAL_NAME} of a run to take up; check the output, or use --resume auto"
        )
    place.clear()
    write_text(place.folder / RECIPE_NAME, recipe.as_toml())
    return Journal.begin(path, identity)


def _is_in_place(place: Place, complete: dict[str, Any]) -> bool:
    wanted = complete["files"].get(place.target.name)
    return any(path.exists() and file_sha256(path) == wanted for path in (place.target, place.assembled))


def _check_plan(plan: Plan, checkpoint: Checkpoint, *, single: bool) -> None:
    """Refuse a plan of another checkpoint, or of more than one file can hold."""
    planned = [target.name for target in plan.targets] + [tensor.name for tensor in plan.copied]
    same = sorted(planned) == sorted(checkpoint.names) and all(
        (info.shape, info.dtype) == (target.shape, target.dtype)
        for target, info in ((target, checkpoint.info(target.name)) for target in plan.targets)
    )
    if not same:
        raise ArgumentError(f"plan is of other tensors than {plan.source} holds now; make a new plan of it")
    stored = _MOST_PARTS * len(plan.targets) + len(plan.copied)
    if single and stored > MAX_ENTRIES:
        raise ArgumentError(
            f"plan has {len(plan.targets)} matrices to factorize, which take up to {stored:,} tensors, and one file "
            f"holds {MAX_ENTRIES:,}; give a folder as the output, without .safetensors"
        )


Executor = Callable[[Sequence[Job], Settle, Tell], None]


def _executor(recipe: Recipe, jobs: int, scheduler: str | None) -> Executor:
    """Return how jobs are done: here, in processes of this machine, or on a cluster."""
    threads = recipe.threads_per_job or 1
    if scheduler is not None:
        from sparsefact.checkpoints.cluster import execute_on_cluster

        return lambda listed, settle, tell: execute_on_cluster(listed, settle, tell, scheduler, threads)
    if jobs > 1 or threads != threads_here():
        from sparsefact.checkpoints.workers import execute_in_processes

        return lambda listed, settle, tell: execute_in_processes(listed, settle, tell, jobs, threads)
    return _execute_here


def _execute_here(jobs: Sequence[Job], settle: Settle, tell: Tell) -> None:
    for job in jobs:
        settle(job, perform(job, tell))


class _Work:
    """The state of a run: what is committed, and what is left to do."""

    def __init__(self, plan: Plan, recipe: Recipe, place: Place, journal: Journal, tell: Tell, solver: Any) -> None:
        self.plan, self.recipe, self.place, self.journal, self.tell = plan, recipe, place, journal, tell
        self.solver = solver
        self.settled: dict[str, dict[str, Any]] = {}
        self.curves: dict[str, Curve] = {}
        self.targets = list(plan.targets)
        self.resumed = 0

    def take_up(self) -> None:
        """Read what an earlier run has committed, and check that its files are still what they were."""
        sizes = {target.name: target.shape[0] * target.shape[1] for target in self.targets}
        for entry in self.journal.entries:
            if entry["kind"] == "curve":
                self.curves[entry["name"]] = Curve(sizes[entry["name"]], [tuple(point) for point in entry["points"]])
            elif entry["kind"] in ("committed", "failed"):
                self.settled[entry["name"]] = entry
        for index, target in enumerate(self.targets):
            settled = self.settled.get(target.name)
            if settled is None:
                continue
            kept = settled["lasting"] if settled["kind"] == "failed" else self._is_intact(settled)
            if not kept:
                del self.settled[target.name]
                continue
            self.resumed += 1
            report = settled["report"]
            self.tell(Event("resumed", target.name, index, len(self.targets), error=report["error"]))

    def _is_intact(self, entry: dict[str, Any]) -> bool:
        if self.journal.complete and self.place.single:
            return True  # its factors are in the output, and the shards may be gone
        path = self.place.folder / entry["file"]
        found = committed_sha256(path, entry["nbytes"], lambda: self.tell(Event("waiting", entry["name"])))
        if found != entry["sha256"]:
            _log.warning("%s: the committed file is missing or damaged, so its matrix is done again", path)
        return bool(found == entry["sha256"])

    def measure(self, execute: Executor) -> None:
        """Find the budgets of the targets that share one: from error curves, measured with little effort."""
        shared = [target for target in self.targets if target.constraint is None and target.rule.tolerance is None]
        if not shared or self.recipe.total is None:
            return
        left = [target for target in shared if target.name not in self.curves]
        jobs = [
            replace(self._job(target, quick=True), densities=_feasible(target, self.recipe.total)) for target in left
        ]

        def settle(job: Job, outcome: Outcome) -> None:
            self.journal.append(
                {"kind": "curve", "name": job.target.name, "points": outcome.curve, "worker": outcome.worker}
            )
            self.curves[job.target.name] = Curve(job.target.shape[0] * job.target.shape[1], outcome.curve)
            self.tell(Event("measured", job.target.name, job.index, job.total, message=MEASURING))

        execute(jobs, settle, self.tell)
        # A matrix without a curve cannot be factorized; its own job tells why, and the budget is that of the others.
        curves = {target.name: self.curves[target.name] for target in shared if self.curves[target.name].points}
        entries = sum(curve.entries for curve in curves.values())
        given = allocate(curves, int(self.recipe.total * entries)) if curves else {}
        for index, target in enumerate(self.targets):
            if target in shared:
                density = density_for(given[target.name], target.shape) if target.name in given else self.recipe.total
                self.targets[index] = replace(target, constraint=_pair(target, density))

    def factorize(self, execute: Executor) -> None:
        """Do what is left to do, and commit each matrix as it comes."""

        def settle(job: Job, outcome: Outcome) -> None:
            report = outcome.report
            assert report is not None  # only jobs that measure errors have none
            failed = report.status == "failed"
            entry = {
                "kind": "failed" if failed else "committed",
                "name": report.name,
                "file": job.output.name,
                "sha256": outcome.sha256,
                "nbytes": outcome.nbytes,
                "report": dataclasses.asdict(report),
                "history": outcome.history,
                "lasting": outcome.lasting,
                "worker": outcome.worker,
            }
            self.journal.append(entry)
            self.settled[report.name] = entry
            kind, error = ("failed", None) if failed else ("done", report.error)
            self.tell(Event(kind, report.name, job.index, job.total, 0, 0, error, report.seconds, report.message))

        execute([self._job(t) for t in self.targets if t.name not in self.settled], settle, self.tell)

    def _job(self, target: Target, *, quick: bool = False) -> Job:
        options = dict(target.rule.options)
        if quick:  # for which only double-sparse asks
            options["effort"] = "fast"
        solver = self.solver
        if solver is None:
            solver = build_solver(target.rule.solver, options, target.rule.constraint)
        index = next(i for i, other in enumerate(self.targets) if other.name == target.name)
        return Job(
            target=target,
            index=index,
            total=len(self.targets),
            source=self.plan.source.resolve(),
            output=self.place.folder.resolve() / shard_name(index, len(self.targets)),
            solver=solver,
            seed=self.recipe.seed,
            device=self.recipe.device,
        )

    def finish(self, checkpoint: Checkpoint, begin: float) -> RunReport:
        """Write what is not factors, say in the journal that all is there, and report."""
        reports = [_report(self.settled[target.name]["report"]) for target in self.targets]
        failed = {report.name: report.message for report in reports if report.status == "failed"}
        copied = [tensor.name for tensor in self.plan.copied]
        kept = [*copied, *failed]
        if self.journal.complete is None:
            reasons = {tensor.name: tensor.reason for tensor in self.plan.copied}
            for index, name in enumerate(copied):
                self.tell(Event("copied", name, index, len(copied), message=reasons[name]))
            self.tell(Event("writing", os.fspath(self.place.output), seconds=time.perf_counter() - begin))
            committed = {name: entry for name, entry in self.settled.items() if entry["kind"] == "committed"}
            common: dict[str, Any] = {
                "factors": {
                    target.name: (committed[target.name]["file"], committed[target.name]["sha256"])
                    for target in self.targets
                    if target.name in committed
                },
                "copied": copied,
                "failed": failed,
                "source": self.plan.source,
                "on_tensor": lambda name: self.tell(Event("waiting", name)),
            }
            if self.place.single:
                files = {self.place.target.name: finish_single(self.place.folder, checkpoint, **common)}
            else:
                files = finish_folder(self.place.folder, checkpoint, **common)
                files[RECIPE_NAME] = file_sha256(self.place.folder / RECIPE_NAME)
            self.journal.append({"kind": "complete", "files": files})
        if self.place.single:
            # Only now, so that whatever fails before leaves the old file, and a kill after it finds all in the journal.
            self.place.publish()
        done = sum(report.bytes_after for report in reports if report.status != "failed")
        return RunReport(
            output=self.place.output,
            matrices=tuple(reports),
            copied=tuple(copied),
            bytes_before=sum(checkpoint.info(name).nbytes for name in checkpoint.names),
            bytes_after=done + sum(checkpoint.info(name).nbytes for name in kept),
            seconds=time.perf_counter() - begin,
            resumed=self.resumed,
        )


def _report(fields: dict[str, Any]) -> MatrixReport:
    return MatrixReport(**{**fields, "shape": tuple(fields["shape"])})


def _pair(target: Target, density: float) -> Any:
    inner = target.rule.inner
    return build_pair(target.shape, held_density(density, target.shape, inner), inner)


def _feasible(target: Target, total: float) -> tuple[float, ...]:
    """Return the densities of the error curve at which a matrix has a factorization at all."""
    kept = []
    for density in probe_densities(total):
        try:
            build_pair(target.shape, density, target.rule.inner)
        except BudgetError:
            continue
        kept.append(density)
    return tuple(kept)
