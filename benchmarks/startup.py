"""How long it takes to import the package and to show the help.

python -m benchmarks.startup [-o results.json]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks.record import write

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import sparsefact": ["-c", "import sparsefact"],
    "import numpy": ["-c", "import numpy"],
    "sparsefact --help": ["-c", "from sparsefact.cli import main; main()", "--help"],
}


def seconds(arguments: list[str], runs: int = 15) -> list[float]:
    """Return the wall times of a command in new processes, after one that warms the file cache."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return times[1:]


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
def main(output: Path | None) -> None:
    """Measure, print and write the result file."""
    rows = []
    for name, arguments in COMMANDS.items():
        times = seconds(arguments)
        rows.append({"command": name, "median_seconds": statistics.median(times), "seconds": times})
        print(f"{name:20s} {statistics.median(times):.3f} s")
    write("startup", rows, output)


if __name__ == "__main__":
    main()
