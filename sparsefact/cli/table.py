"""Tables of text that lose nothing on a narrow screen: the name then stands on a line of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Sequence

import click

__all__ = ["layout", "show_table"]

_GAP = "  "


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> None:
    """Print a table on standard output, its header bold on a terminal.

    Parameters
    ----------
    headers : sequence of str
        May hold line breaks.
    rows : sequence of sequences of str
        Printable text, one for each header.
    left : collection of int
        The columns that are aligned to the left; the others are to the right.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    head, body = layout(headers, rows, left=left, width=width)
    for line in head:
        click.secho(line, bold=True)
    for line in body:
        click.echo(line)


def layout(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), width: int | None = None
) -> tuple[list[str], list[str]]:
    r"""Return the lines of a table: those of the header, and those of the rows.

    Parameters
    ----------
    headers, rows, left
        As in `show_table`.
    width : int, optional
        Columns of the screen. Where a row would not fit, its first cell gets a line of its own.

    Returns
    -------
    header, body : lists of str

    Examples
    --------
    >>> head, body = layout(["matrix", "error"], [["a.weight", "1.5 %"], ["b", "12 %"]])
    >>> print("\n".join(head + body))
    matrix    error
    a.weight  1.5 %
    b          12 %
    >>> head, body = layout(["matrix", "error"], [["a.long.name.weight", "1.5 %"]], width=20)
    >>> print("\n".join(head + body))
    matrix
      error
    a.long.name.weight
      1.5 %
    """
    from rich.cells import cell_len

    split = [header.split("\n") for header in headers]
    height = max(map(len, split))
    cells = [[""] * (height - len(parts)) + parts for parts in split]
    head = [[parts[line] for parts in cells] for line in range(height)]
    everything = [*head, *(list(row) for row in rows)]
    widths = [max(cell_len(line[column]) for line in everything) for column in range(len(headers))]

    def joined(line: Sequence[str], first: int) -> str:
        padded = []
        for column in range(first, len(line)):
            space = " " * (widths[column] - cell_len(line[column]))
            padded.append(line[column] + space if column in left else space + line[column])
        return _GAP.join(padded).rstrip()

    if width is None or sum(widths) + len(_GAP) * (len(widths) - 1) <= width:
        return [joined(line, 0) for line in head], [joined(row, 0) for row in rows]
    indent = min(len(_GAP), max(0, width - sum(widths[1:]) - len(_GAP) * (len(widths) - 2)))
    rest = [" " * indent + joined(line, 1) for line in everything]
    body = [text for row, line in zip(rows, rest[height:], strict=True) for text in (row[0], line)]
    return [headers[0].replace("\n", " "), *rest[:height]], body
