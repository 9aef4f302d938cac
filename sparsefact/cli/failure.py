"""How a command refuses: one sentence on standard error and exit code 2."""

from __future__ import annotations

import click

from sparsefact.cli.text import printable
from sparsefact.errors import SparsefactError

__all__ = ["BadInput", "sentence"]


class BadInput(click.ClickException):
    """An error of the user's input: ``Error: <one sentence>`` on standard error, exit code 2."""

    exit_code = 2


def sentence(error: BaseException) -> str:
    """Return an error in one printable line.

    Parameters
    ----------
    error : BaseException
        The package's own errors are sentences already; those of the system get their path in front.

    Returns
    -------
    str
        Without line breaks.

    Examples
    --------
    >>> sentence(FileExistsError(17, "File exists", "results"))
    'results: File exists'
    """
    if isinstance(error, OSError) and not isinstance(error, SparsefactError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return printable(f"{where}{error.strerror}")
    return printable(" ".join(str(error).split()) or type(error).__name__)
