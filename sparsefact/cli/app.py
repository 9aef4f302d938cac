"""The group of commands: loads each command's own module, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import importlib
import logging
from typing import Any

import click

from sparsefact import __version__
from sparsefact.cli.failure import BadInput, sentence
from sparsefact.cli.text import printable
from sparsefact.errors import SparsefactError

__all__ = ["app"]

_COMMANDS = ("factorize", "inspect", "verify", "export", "report", "check", "bench", "demo")


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"sparsefact.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted: no file was left half-written, and the output is as it was before.", err=True)
            ctx.exit(130)
        except (SparsefactError, OSError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output left: click ends quietly
            raise BadInput(sentence(error)) from error


class _Warnings(logging.Handler):
    """Shows the library's warnings on standard error, each once; a run's are in its report and its progress already."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage())
        if record.name != "sparsefact.checkpoints.job" and text not in self._shown:
            self._shown.add(text)
            click.echo(f"Warning: {text}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sparsefact", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Turn the weight matrices of a checkpoint into products of sparse matrices, and check the result.

    Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 some matrices failed
    or verify found something, 2 bad usage or bad input, 75 factorize was interrupted and can go on, 130 interrupted.
    """
    logger, handler = logging.getLogger("sparsefact"), _Warnings()
    logger.addHandler(handler)
    ctx.call_on_close(lambda: logger.removeHandler(handler))
