"""`sparsefact verify`: read a factor file back and check every claim in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from sparsefact.cli.text import document, printable

__all__ = ["verify"]


@click.command(short_help="Check a factor file: its bytes, its factors, what it says of them.")
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Also compare with the checkpoint it came from: errors are recomputed, copied tensors compared.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
def verify(output: Path, against: Path | None, as_json: bool) -> None:
    """Check the factor file OUTPUT: its bytes, its factors and what it says of them.

    Ends with exit code 1 when something is not as the file says.
    """
    from sparsefact.checkpoints.verify import verify as check

    report = check(output, against=against)
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in report.findings]
        click.echo(document({"ok": report.ok, "findings": findings}))
    else:
        for finding in report.findings:
            word = "ok  " if finding.ok else "FAIL"
            click.echo(f"{word}  {printable(finding.name)}: {printable(finding.message)}")
        bad, total = sum(not finding.ok for finding in report.findings), len(report.findings)
        click.echo(f"{total} checks, all passed" if report.ok else f"{bad} of {total} checks failed")
    if not report.ok:
        raise click.exceptions.Exit(1)
