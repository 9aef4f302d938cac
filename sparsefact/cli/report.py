"""`sparsefact report`: one page about a run, and its totals in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from sparsefact.cli.text import document, duration, milliseconds, percent, printable, size

__all__ = ["report"]


@click.command(short_help="Write one page about a run, with pictures.")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="The HTML page to write.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def report(output: Path, target: Path | None, as_json: bool) -> None:
    """Show what became of a run, from OUTPUT, the folder that `sparsefact factorize` has written.

    With -o one self-contained page is written, which needs no network: errors, bytes and times of every matrix,
    convergence, and pictures of the supports.
    """
    from sparsefact.io.stream import write_text
    from sparsefact.report.page import page
    from sparsefact.report.summary import summarise

    summary = summarise(output)
    if target is not None:
        write_text(target, page(output))
    totals = summary.totals
    if as_json:
        click.echo(document({"source": summary.source, "version": summary.version, **totals}))
        return
    click.echo(
        f"{totals['matrices']} matrices of {printable(summary.source)} factorized, {totals['failed']} failed, "
        f"{totals['copied']} tensors copied"
    )
    click.echo(f"nonzeros {totals['nonzeros']:,} of {totals['entries']:,}, relative error {percent(totals['error'])}")
    click.echo(
        f"bytes {size(int(totals['bytes_before']))} -> {size(int(totals['bytes_after']))}; products "
        f"{milliseconds(totals['dense_ms'])} -> {milliseconds(totals['factor_ms'])}; "
        f"searched {duration(totals['seconds'])}"
    )
    if target is not None:
        click.echo(f"wrote {printable(str(target))}")
