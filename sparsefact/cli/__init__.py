"""The command line: `sparsefact factorize`, `inspect`, `verify`, `export`, `report` and others, one file each."""

from __future__ import annotations

import contextlib
import io
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line with the arguments of the process.

    Results go to standard output, progress and errors to standard error. The process ends with 0 (done), 1 (some
    matrices failed, or verify found something), 2 (bad usage or bad input: one sentence), 75 (factorize
    was interrupted and can go on) or 130 (interrupted).
    """
    from sparsefact.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a tensor's name may not fit the terminal's encoding
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that temporary files are removed
    app.main(prog_name="sparsefact")
