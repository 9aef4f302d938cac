"""`sparsefact inspect`: what is in a factor file, or in a checkpoint that could become one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sparsefact.cli.failure import BadInput
from sparsefact.cli.table import show_table
from sparsefact.cli.text import document, percent, printable, shape_text, size

__all__ = ["inspect"]

_NAMES_SHOWN = 8


@click.command(short_help="Show what is in a factor file or a checkpoint.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--matrix", metavar="NAME", help="The matrix to draw, where the factor file holds several.")
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    help="A picture of a matrix: .svg, .png or .pdf.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def inspect(file: Path, matrix: str | None, figure: Path | None, as_json: bool) -> None:
    """Show what is in FILE: a factor file, a .safetensors checkpoint, or a directory with one.

    Of a factor file the records are shown as they are; `sparsefact verify` checks them.
    """
    from sparsefact.cli.contents import describe

    if matrix is not None and figure is None:
        raise BadInput(f"--matrix {matrix!r} says which matrix to draw, and nothing is drawn; give --figure too")
    found = describe(file)
    if figure is not None:
        _draw(file, found, matrix, figure)
    if as_json:
        click.echo(document(found))
    elif "matrices" in found:
        _show_factors(found)
    else:
        _show_tensors(found)
    if figure is not None and not as_json:
        click.echo(f"wrote {printable(str(figure))}")


def _draw(file: Path, found: dict[str, Any], matrix: str | None, figure: Path) -> None:
    from sparsefact.checkpoints.factor_file import load
    from sparsefact.checkpoints.output import is_output_folder, load_matrix
    from sparsefact.report.figures import factorization
    from sparsefact.report.style import check_figure, save

    check_figure(figure)
    names = [record["name"] for record in found.get("matrices", ())]
    if not names:
        raise BadInput(f"{file}: this holds no factors to draw; give a factor file, or leave out --figure")
    if matrix is None and len(names) > 1:
        raise BadInput(f"{file}: this holds {len(names)} matrices; name the one to draw, such as --matrix {names[0]!r}")
    name = names[0] if matrix is None else matrix
    save(factorization(load_matrix(file, name) if is_output_folder(file) else load(file, name)), figure)


def _show_factors(found: dict[str, Any]) -> None:
    matrices = found["matrices"]
    show_table(
        ["matrix", "shape", "dtype", "nonzeros", "density", "error", "size", "factors"],
        [
            [
                printable(matrix["name"]),
                shape_text(matrix["shape"]),
                printable(matrix["dtype"]),
                f"{matrix['nnz']:,}",
                f"{matrix['density']:.4f}",
                percent(matrix["error"]),
                size(matrix["nbytes"]),
                printable(
                    " @ ".join(f"{factor['kind']} {shape_text(factor['shape'])}" for factor in matrix["factors"])
                ),
            ]
            for matrix in matrices
        ],
        left=(0, 2, 7),
    )
    for matrix in matrices:
        claim = matrix["certificate"] or {}
        if len(claim) == 3:
            bounds = f"{claim['lower_bound']:.6g} <= best error <= {claim['upper_bound']:.6g}"
            click.echo(f"{printable(matrix['name'])}: the file states {bounds}; verify --against checks it")
    copied, failed = found["copied"], found["failed"]
    if copied:
        names = ", ".join(printable(name) for name in copied[:_NAMES_SHOWN])
        more = f" and {len(copied) - _NAMES_SHOWN} more" if len(copied) > _NAMES_SHOWN else ""
        click.echo(f"copied unchanged: {names}{more}")
    for name, sentence in failed.items():
        click.echo(f"failed: {printable(name)}: {printable(sentence)}")
    source = f" from {printable(found['source'])}" if found["source"] else ""
    click.echo(
        f"{len(matrices)} factorized matrices and {len(copied)} copied tensors{source}, "
        f"written by sparsefact {printable(found['version'])} (format {found['format']}), {size(found['nbytes'])}"
    )


def _show_tensors(found: dict[str, Any]) -> None:
    rows = found["tensors"]
    show_table(
        ["tensor", "shape", "dtype", "size", "what can happen"],
        [
            [
                printable(row["name"]),
                shape_text(row["shape"]),
                row["dtype"],
                size(row["nbytes"]),
                "can be factorized" if row["target"] else printable(f"copied: {row['reason']}"),
            ]
            for row in rows
        ],
        left=(0, 2, 4),
    )
    targets = [row["nbytes"] for row in rows if row["target"]]
    click.echo(
        f"a checkpoint of {len(rows)} tensors, {size(sum(row['nbytes'] for row in rows))}; "
        f"{len(targets)} of them can be factorized, {size(sum(targets))}"
    )
