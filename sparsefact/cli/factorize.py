"""`sparsefact factorize`: every chosen matrix of a checkpoint becomes a product of two sparse ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sparsefact.cli.failure import BadInput
from sparsefact.cli.table import show_table
from sparsefact.cli.text import document, duration, milliseconds, percent, printable, shape_text, size

if TYPE_CHECKING:
    from sparsefact.checkpoints.plan import Plan
    from sparsefact.checkpoints.run import RunReport

__all__ = ["factorize"]

_NAMES_SHOWN = 8


@click.command(short_help="Write the matrices of a checkpoint as products of two sparse ones.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The factor file to write (.safetensors).")
@click.option(
    "--density",
    type=float,
    default=0.3,
    show_default=True,
    help="Nonzeros of both factors together, as a fraction of the entries of the matrix.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Only tensors whose name matches; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not tensors whose name matches; may be repeated.")
@click.option("--device", metavar="cpu|cuda", help="Where to compute; by default on the processor.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random numbers.")
@click.option(
    "--effort",
    type=click.Choice(["fast", "balanced", "high"]),
    default="balanced",
    show_default=True,
    help="How much time to spend for a lower error.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be factorized and copied; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
def factorize(
    checkpoint: Path,
    output: Path | None,
    density: float,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    device: str | None,
    seed: int,
    effort: Literal["fast", "balanced", "high"],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write the matrices of CHECKPOINT as products of two sparse matrices.

    CHECKPOINT is a .safetensors file, or a directory with model.safetensors.index.json or model.safetensors. The 2-D
    floating tensors are factorized unless --include and --exclude say otherwise; every other tensor is copied.
    """
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output': name the factor file to write, or use --dry-run.")

    from sparsefact.checkpoints.plan import plan

    work = plan(checkpoint, density=density, include=include, exclude=exclude)
    if output is None or dry_run:
        _show_plan(work, as_json=as_json)
        return

    if not work.targets:
        raise BadInput(f"{checkpoint}: nothing in it would be factorized; see why with --dry-run")
    from sparsefact.checkpoints.run import run
    from sparsefact.cli.progress import show_progress
    from sparsefact.factorizers.alternating import Alternating

    with show_progress(work) as on_event:
        report = run(work, output, seed=seed, device=device, solver=Alternating(effort=effort), on_event=on_event)
    if as_json:
        click.echo(document(report.as_dict()))
    else:
        _show_report(report)
    if report.failed:
        raise click.exceptions.Exit(1)


def _show_plan(work: Plan, *, as_json: bool) -> None:
    from sparsefact.cli.contents import describe_plan

    described = describe_plan(work)
    if as_json:
        click.echo(document(described))
        return
    rows = described["tensors"]
    show_table(
        ["tensor", "shape", "dtype", "size", "nonzeros of\nboth factors", "what happens"],
        [
            [
                printable(row["name"]),
                shape_text(row["shape"]),
                row["dtype"],
                size(row["nbytes"]),
                f"{row['budget']:,}" if row["target"] else "",
                "factorized" if row["target"] else printable(f"copied: {row['reason']}"),
            ]
            for row in rows
        ],
        left=(0, 2, 5),
    )
    targets = [row for row in rows if row["target"]]
    share, total = (sum(row["nbytes"] for row in part) for part in (targets, rows))
    click.echo(
        f"{len(targets)} of {len(rows)} tensors would be factorized at density {work.density:g} "
        f"({size(share)} of {size(total)}); nothing was written."
    )


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
    click.echo(
        f"{len(done)} of {len(report.matrices)} matrices factorized in {duration(report.seconds)}; "
        f"tensors {size(report.bytes_before)} -> {size(report.bytes_after)}; wrote {report.output}"
    )
