"""`sparsefact factorize`: every chosen matrix of a checkpoint becomes a product of sparse ones."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from click.core import ParameterSource

from sparsefact.checkpoints.names import CONSTRAINTS, GRAMS, shown_solvers
from sparsefact.cli.failure import BadInput
from sparsefact.cli.table import show_table
from sparsefact.cli.text import document, duration, milliseconds, percent, printable, shape_text, size
from sparsefact.errors import SparsefactError

if TYPE_CHECKING:
    from sparsefact.checkpoints.estimate import Estimate
    from sparsefact.checkpoints.plan import Plan
    from sparsefact.checkpoints.run import Event, RunReport

__all__ = ["factorize"]

_NAMES_SHOWN = 8
_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
_RULE_OPTIONS = tuple(
    "method density tolerance total inner support block include exclude solver gram left_gram effort".split()
)


def _block(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Read rows and columns, such as 16x16."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and int(side) for side in sides):
        raise click.BadParameter(f"{text!r} is not ROWSxCOLUMNS, such as 16x16.")
    return int(sides[0]), int(sides[1])


def _inner(ctx: click.Context, param: click.Parameter, text: str | None) -> int | float | str | None:
    """Read "auto", a whole number, or a multiple of the shorter side, such as 1.25."""
    if text is None or text == "auto":
        return text
    from sparsefact.checkpoints.pairs import check_inner

    try:
        return check_inner(int(text) if text.isascii() and text.isdecimal() else float(text))
    except (ValueError, SparsefactError):
        raise click.BadParameter(f"{text!r} is neither auto, a whole number, nor a multiple such as 1.25.") from None


@click.command(short_help="Write the matrices of a checkpoint as products of sparse ones.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The folder to write, or one factor file (.safetensors)."
)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="A TOML file with the rules, instead of the options below."
)
@click.option(
    "--method",
    type=click.Choice(list(CONSTRAINTS)),
    default="double-sparse",
    show_default=True,
    help="What a matrix becomes: two sparse factors, a single sparse matrix, or a structured product.",
)
@click.option(
    "--density",
    type=float,
    default=0.3,
    show_default=True,
    help="Nonzeros of all factors together, as a fraction of the entries of the matrix.",
)
@click.option("--tolerance", type=float, help="Instead: the smallest density whose relative error is at most this.")
@click.option("--total", type=float, help="Instead: a density for all matrices together, spread where it gains most.")
@click.option(
    "--inner",
    callback=_inner,
    metavar="auto|N|MULTIPLE",
    help="Of double-sparse: the inner dimension, or a multiple of the shorter side such as 1.25.",
)
@click.option(
    "--support",
    metavar="FILE",
    help="Of double-sparse: the mask of one factor of every matrix, FILE.safetensors[:NAME].",
)
@click.option("--block", callback=_block, metavar="ROWSxCOLUMNS", help="Of single: keep or drop whole blocks.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only tensors whose name matches; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not tensors whose name matches; may be repeated.")
@click.option("--solver", metavar="NAME", help=f"The solver: {shown_solvers()}.")
@click.option("--gram", type=click.Path(path_type=Path), help="A safetensors file of Gram matrices, <layer>.gram.")
@click.option(
    "--left-gram",
    type=click.Path(path_type=Path),
    help="The same of the gradients at the outputs, <layer>.left_gram.",
)
@click.option("--device", metavar="cpu|cuda", help="Where to compute; by default on the processor.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--effort",
    type=click.Choice(["fast", "balanced", "high"]),
    default="balanced",
    show_default=True,
    help="How much time to spend for a lower error.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="How many matrices at the same time."
)
@click.option("--threads-per-job", type=click.IntRange(min=1), help="BLAS threads of each; by default cores / jobs.")
@click.option("--scheduler", metavar="ADDRESS", help="Do the jobs on the workers of this Dask scheduler.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "required", "never"]),
    default="auto",
    show_default=True,
    help="Whether to take up an earlier run of the same output.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and what it would take; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.pass_context
def factorize(ctx: click.Context, /, **given: Any) -> None:
    """Write the matrices of CHECKPOINT as products of sparse matrices, or as single sparse ones.

    CHECKPOINT is a .safetensors file, or a directory with model.safetensors.index.json or model.safetensors. The 2-D
    floating tensors are factorized unless --include and --exclude say otherwise; every other tensor is copied. What is
    committed survives: after an interruption (exit code 75) the same command goes on.
    """
    checkpoint, output, as_json = given["checkpoint"], given["output"], given["as_json"]
    if output is None and not given["dry_run"]:
        raise click.UsageError("Missing option '-o' / '--output': name what to write, or use --dry-run.")
    with _Stop() as stop:
        from sparsefact.checkpoints.plan import plan

        work = plan(checkpoint, **_chosen(ctx, given))
        if not work.targets and not given["dry_run"]:
            raise BadInput(f"{checkpoint}: nothing in it would be factorized; see why with --dry-run")
        from sparsefact.checkpoints.estimate import estimate, refuse_what_will_not_fit

        where: dict[str, Any] = {name: given[name] for name in ("jobs", "threads_per_job")}
        where["remote"] = given["scheduler"] is not None
        if given["dry_run"]:
            _show_plan(work, estimate(work, output, probe=True, **where), as_json=as_json)
            return
        for note in work.notes:
            click.echo(f"Note: {note}.", err=True)
        refuse_what_will_not_fit(estimate(work, output, **where))
        from sparsefact.checkpoints.run import run
        from sparsefact.cli.progress import show_progress

        try:
            with show_progress(work) as on_event:
                report = run(
                    work,
                    output,
                    jobs=given["jobs"],
                    threads_per_job=given["threads_per_job"],
                    scheduler=given["scheduler"],
                    resume=given["resume"],
                    on_event=stop.watched(on_event),
                )
        except KeyboardInterrupt:
            click.echo(f"Interrupted: {_kept(output)}", err=True)
            ctx.exit(_INTERRUPTED)
    if as_json:
        click.echo(document(report.as_dict()))
    else:
        _show_report(report)
    if report.failed:
        raise click.exceptions.Exit(1)


class _Stop:
    """Turns SIGINT and SIGTERM into a flag, so that what is being committed is committed; the next event ends the run.

    A second signal does not wait for an event.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def watched(self, on_event: Callable[[Event], None]) -> Callable[[Event], None]:
        def show(event: Event) -> None:
            if self.asked:
                raise KeyboardInterrupt
            on_event(event)

        return show


def _chosen(ctx: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    """Return what `plan` is called with: a recipe, read from a file or made of the options."""
    from sparsefact.checkpoints.recipe import Recipe, Rule, read_recipe

    if given["recipe"] is not None:
        recipe = read_recipe(given["recipe"])
        for name in _RULE_OPTIONS:
            if _is_given(ctx, name):
                raise click.UsageError(
                    f"--{name.replace('_', '-')} and --recipe say the same twice: put it into the recipe."
                )
        seed = given["seed"] if _is_given(ctx, "seed") else recipe.seed
        return {"recipe": dataclasses.replace(recipe, seed=seed, device=given["device"] or recipe.device)}
    asked = [name for name in ("density", "tolerance", "total") if _is_given(ctx, name)]
    if len(asked) > 1:
        raise click.UsageError(f"--{asked[0]} and --{asked[1]} exclude each other: give one of them.")
    method, solver = given["method"], given["solver"]
    if given["block"] is not None and "block" not in CONSTRAINTS[method]:
        raise click.UsageError(f"--block does not belong to --method {method}: leave it out, or use --method single.")
    for name in ("inner", "support"):
        if given[name] is not None and name not in CONSTRAINTS[method]:
            raise click.UsageError(f"--{name} does not belong to --method {method}: leave it out.")
    # The default density is none of a structure that has no density.
    how = asked[0] if asked else "density" if "density" in CONSTRAINTS[method] else None
    if solver is None and method == "double-sparse":
        solver = "alternating"
    if solver != "alternating" and _is_given(ctx, "effort"):
        raise click.UsageError("--effort is an option of the solver alternating: leave it out.")
    options = {"effort": given["effort"]} if solver == "alternating" else {}
    grams: dict[str, Any] = {kind: str(given[kind].resolve()) for kind in GRAMS if given[kind] is not None}
    rule = Rule(
        targets=given["include"] or ("*",),
        ignore=given["exclude"],
        constraint=method,
        density=given["density"] if how == "density" else None,
        tolerance=given["tolerance"] if how == "tolerance" else None,
        inner=given["inner"],
        support=_resolved(given["support"]),
        block=given["block"],
        solver=solver,
        options=options,
        **grams,
    )
    recipe = Recipe((rule,), total=given["total"], seed=given["seed"], device=given["device"])
    return {"recipe": recipe, "words": ("include", "exclude")}


def _resolved(support: str | None) -> str | None:
    if support is None:
        return None
    from sparsefact.checkpoints.pairs import support_file

    file = support_file(support)
    return str(Path(file).resolve()) + support[len(file) :]


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _kept(output: Path) -> str:
    """Say what an interrupted run has left."""
    from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal

    folder = output if output.suffix != ".safetensors" else output.with_name(output.name + ".partial")
    try:
        kinds = [entry["kind"] for entry in Journal.open(folder / JOURNAL_NAME).entries]
    except (SparsefactError, OSError):
        kinds = []
    done = kinds.count("committed")
    where = printable(str(folder))
    if not done and (curves := kinds.count("curve")):
        of = "1 matrix" if curves == 1 else f"{curves} matrices"
        return f"what was measured of {of} is kept in {where}; the same command goes on from there."
    if not done:
        return "nothing was finished, and the output is as it was before."
    kept = "1 matrix is" if done == 1 else f"{done} matrices are"
    return f"{kept} kept in {where}; the same command goes on from there."


def _show_plan(work: Plan, needs: Estimate, *, as_json: bool) -> None:
    from sparsefact.checkpoints.estimate import shortages
    from sparsefact.cli.contents import describe_plan

    described = describe_plan(work) | {"needs": dataclasses.asdict(needs)}
    lacks = shortages(needs)
    if as_json:
        click.echo(document(described))
    else:
        memory = f"{size(needs.memory)} of memory at most ({size(needs.memory_free)} are free)"
        if not needs.memory:
            memory = "no memory to speak of here, since the workers are elsewhere"
        _show_rows(work, described["tensors"])
        for note in work.notes:
            click.echo(f"Note: {note}.")
        click.echo(
            f"It would take {memory}, "
            f"{size(needs.disk)} of disk ({size(needs.disk_free)} are free) and about {duration(needs.seconds or 0.0)}."
        )
    if lacks:
        raise BadInput(lacks[0])


def _show_rows(work: Plan, rows: list[dict[str, Any]]) -> None:
    several = len(work.recipe.rules) > 1
    pairs = all(target.rule.constraint == "double-sparse" for target in work.targets)
    show_table(
        ["tensor", "shape", "dtype", "size", "nonzeros of\nboth factors" if pairs else "nonzeros", "what happens"],
        [
            [
                printable(row["name"]),
                shape_text(row["shape"]),
                row["dtype"],
                size(row["nbytes"]),
                f"{row['budget']:,}" if row["budget"] is not None else "to be found" if row["target"] else "",
                _what_happens(row, several=several),
            ]
            for row in rows
        ],
        left=(0, 2, 5),
    )
    targets = [row for row in rows if row["target"]]
    share, total = (sum(row["nbytes"] for row in part) for part in (targets, rows))
    density = f" at density {work.density:g}" if work.density is not None else ""
    click.echo(
        f"{len(targets)} of {len(rows)} tensors would be factorized{density} "
        f"({size(share)} of {size(total)}); nothing was written."
    )


def _what_happens(row: dict[str, Any], *, several: bool) -> str:
    if not row["target"]:
        return printable(f"copied: {row['reason']}")
    return f"factorized by rule {row['rule']}" if several else "factorized"


def _show_report(report: RunReport) -> None:
    done = [matrix for matrix in report.matrices if matrix.status != "failed"]
    if done:
        products = ["dense\nproduct", "factorized\nproduct"]
        show_table(
            ["matrix", "shape", "density", "error", "magnitude\npruning", "before", "after", *products],
            [
                [
                    printable(matrix.name),
                    shape_text(matrix.shape),
                    f"{matrix.density:.4f}",
                    percent(matrix.error),
                    percent(matrix.magnitude_error),
                    size(matrix.bytes_before),
                    size(matrix.bytes_after),
                    milliseconds(matrix.dense_ms),
                    milliseconds(matrix.factor_ms),
                ]
                for matrix in done
            ],
        )
    if report.copied:
        names = [printable(name) for name in report.copied[:_NAMES_SHOWN]]
        more = len(report.copied) - len(names)
        click.echo(f"copied unchanged: {', '.join(names)}" + (f" and {more} more" if more else ""))
    for matrix in report.matrices:
        if matrix.message:
            word = "failed" if matrix.status == "failed" else "note"
            click.echo(f"{word}: {printable(matrix.name)}: {printable(matrix.message)}")
    before = f" ({report.resumed} of them by an earlier run)" if report.resumed else ""
    click.echo(
        f"{len(done)} of {len(report.matrices)} matrices factorized{before} in {duration(report.seconds)}; "
        f"tensors {size(report.bytes_before)} -> {size(report.bytes_after)}; wrote {report.output}"
    )
