"""`sparsefact demo`: shrink a small real network at several densities and see what it forgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sparsefact import __version__
from sparsefact.cli.table import show_table
from sparsefact.cli.text import document, duration, percent

if TYPE_CHECKING:
    from sparsefact.cli.digits import Trial

__all__ = ["DENSITIES", "demo"]

DENSITIES = (0.5, 0.4, 0.3, 0.2)


@click.command(short_help="Shrink a small network and see what it forgets.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("sparsefact-demo"),
    show_default=True,
    metavar="FOLDER",
    help="Where to write the factor files and results.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the table.")
def demo(output: Path, as_json: bool) -> None:
    """Factorize a small network for handwritten digits and measure its accuracy before and after.

    The network comes with the package; nothing is downloaded and nothing is trained.
    """
    import os
    import time

    # Matrices this small gain nothing from threads, and on a busy machine threads wait for each other.
    for library in ("OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    from sparsefact.cli import digits
    from sparsefact.io.atomic import atomic_write

    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    images, labels = digits.held_out()
    trials: list[Trial] = []
    sound = True
    with digits.network_file() as path:
        network = digits.read_network(path)
        before = digits.accuracy(network, images, labels)
        total = sum(network[name].size for name in digits.SHRUNK)
        click.echo(
            f"A perceptron 64-256-256-10 reads {percent(before)} of {len(labels)} held-out digits right. Its two large "
            f"matrices ({total:,} weights) are replaced, at each density; nothing is retrained.",
            err=True,
        )
        for density in DENSITIES:
            target = output / f"digits-{density}.safetensors"
            sound = _factorize(path, target, density) and sound
            trials += digits.compare(network, target, density, images, labels)
    text = document(
        {
            "version": __version__,
            "images": len(labels),
            "accuracy": before,
            "parameters": total,
            "verified": sound,
            "trials": [dataclasses.asdict(trial) for trial in trials],
        }
    )
    atomic_write(output / "results.json", lambda file: _write(file, text + "\n"))
    if as_json:
        click.echo(text)
    else:
        _show(before, total, trials)
        verdict = "Every factor file was read back and verified." if sound else "NOT every factor file verified."
        click.echo(
            f"{verdict} Wrote {len(DENSITIES)} factor files and results.json to {output} in "
            f"{duration(time.perf_counter() - started)}."
        )
    if not sound:
        raise click.exceptions.Exit(1)


def _factorize(network: Path, target: Path, density: float) -> bool:
    """Write one factor file the way `sparsefact factorize` does, and say whether it verifies."""
    from sparsefact.checkpoints.plan import plan
    from sparsefact.checkpoints.run import run
    from sparsefact.checkpoints.verify import verify
    from sparsefact.cli.digits import SHRUNK
    from sparsefact.cli.progress import show_progress

    work = plan(network, density=density, include=SHRUNK)
    with show_progress(work) as on_event:
        report = run(work, target, on_event=on_event)
    return not report.failed and verify(target, against=network).ok


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _show(before: float, total: int, trials: Sequence[Trial]) -> None:
    methods = list(dict.fromkeys(trial.method for trial in trials))
    rows = [["1", f"{total:,}", *[percent(before)] * len(methods)]]
    for start in range(0, len(trials), len(methods)):
        part = trials[start : start + len(methods)]
        cells = [f"{percent(trial.accuracy)} (error {percent(trial.error)})" for trial in part]
        rows.append([f"{part[0].density:g}", f"{max(trial.parameters for trial in part):,}", *cells])
    show_table(["density", "parameters", *methods], rows)
