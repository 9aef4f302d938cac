"""The command line as the tests call it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from sparsefact.cli.app import app

__all__ = ["check_refused", "invoke"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def check_refused(done: Result, *words: str) -> None:
    """One sentence on stderr, nothing on stdout, exit code 2, no traceback."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ") and len([line for line in lines if line.startswith("Error")]) == 1
    for word in words:
        assert word in lines[-1], lines[-1]
