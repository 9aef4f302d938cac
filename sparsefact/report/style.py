"""One style for every picture, readable on white and on black, and the ways out of it: a file, or text inside a page.

The ground is transparent and all that is written has one grey of the middle. What is drawn has the colours of Tol's
vibrant scheme, which people who see few colours can tell apart, and markers of its own besides. Nothing depends on a
user's settings, on the date or on chance, so equal data gives equal bytes.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsefact.errors import ArgumentError, StorageError
from sparsefact.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "INK",
    "MARKERS",
    "check_figure",
    "dressed",
    "new_figure",
    "plain",
    "save",
    "styled",
    "svg_element",
]

INK = "#7f7f7f"
COLOURS = ("#0077bb", "#ee7733", "#009988", "#ee3377", "#33bbee", "#cc3311")
MARKERS = "os^Dv*"

_SUFFIXES = (".svg", ".png", ".pdf")
_STYLE: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 4,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "svg.fonttype": "none",  # words stay words: small, to be searched and read aloud
}


@contextmanager
def styled() -> Iterator[None]:
    """Make and write figures in the style, whatever the user's settings of matplotlib are; they are left as they were.

    Raises
    ------
    StorageError
        If matplotlib is not installed.
    """
    try:
        from cycler import cycler
        from matplotlib import style
    except ImportError as error:
        raise StorageError(
            "a picture needs matplotlib, which is not installed; pip install 'sparsefact[report]'"
        ) from error
    # a letter that the font lacks is drawn by the reader's own
    with style.context(["default", _STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def new_figure(width: float, height: float, *, fitted: bool = True) -> Figure:
    """Return an empty figure of a size in inches; where `fitted`, its axes make room for their words."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained" if fitted else None)


def dressed(ax: Axes, *, title: str = "", x: str = "", y: str = "") -> Axes:
    """Put a grid, a title and labels on axes, and return them."""
    ax.grid(True)
    ax.set_axisbelow(True)
    ax.set_title(plain(title, 46))
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    return ax


def plain(text: str, length: int = 40) -> str:
    r"""Return a stranger's name as matplotlib draws it as it stands: no mathematics, nothing that is hidden.

    Examples
    --------
    >>> plain("encoder.layer.11.attention.output.dense.weight")
    'encoder.layer.11.a...output.dense.weight'
    >>> plain("_$x$")
    '\u2009_\\$x\\$'
    """
    shown = _printable(text)
    if len(shown) > length:
        kept = length - 3
        shown = shown[: kept // 2] + "..." + shown[len(shown) - (kept - kept // 2) :]
    shown = shown.replace("$", r"\$")
    # a legend leaves out what begins with an underscore
    return f"\u2009{shown}" if shown.startswith("_") else shown


def check_figure(path: Path) -> None:
    """Refuse a figure that could not be drawn, before any work is done for it.

    Raises
    ------
    ArgumentError
        If the ending is none of .svg, .png and .pdf.
    StorageError
        If matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise ArgumentError(f"{path}: a figure ends in .svg, .png or .pdf; give such a path")
    with styled():
        pass


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure into a file, whole or not at all; its ending chooses the format.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path-like
        Ends in .svg, .png or .pdf; equal figures give equal bytes.

    Raises
    ------
    ArgumentError
        If the ending is another.
    StorageError
        If matplotlib is not installed, or the file cannot be written.
    """
    path = Path(path)
    check_figure(path)
    if path.suffix == ".svg":
        data = to_svg(figure).encode()
    else:
        metadata: dict[str, Any] = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}[path.suffix]
        buffer = io.BytesIO()
        with styled():
            figure.savefig(buffer, format=path.suffix[1:], dpi=150, metadata=metadata)
        data = buffer.getvalue()
    atomic_write(path, lambda temporary: _write(temporary, data))


def to_svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file, without dates, fonts, scripts or addresses to be fetched.

    Parameters
    ----------
    figure : matplotlib.figure.Figure

    Returns
    -------
    str
        The same for equal figures.

    Examples
    --------
    >>> from sparsefact.report.figures import convergence
    >>> text = to_svg(convergence({"w": [(1, 0.5), (2, 0.25)]}))
    >>> text == to_svg(convergence({"w": [(1, 0.5), (2, 0.25)]})), "iteration" in text
    (True, True)
    """
    with styled():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"<!--.*?-->\s*|<!DOCTYPE.*?>\s*", "", buffer.getvalue(), flags=re.DOTALL)
    return _with_ids(re.sub(r"\n\s+", "\n", text), "i")


def svg_element(figure: Figure, *, name: str, kind: str, label: str) -> str:
    """Return a figure as an ``<svg>`` element for a page that may hold many.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    name : str
        Letters and digits, another for each figure of the page: what its ids begin with.
    kind : str
        The element's class.
    label : str
        What is seen, for those who do not.

    Returns
    -------
    str
        With ids that no other name gives, and words in the page's own colour.

    Examples
    --------
    >>> from sparsefact.report.figures import convergence
    >>> figure = convergence({"w": [(1, 0.5), (2, 0.25)]})
    >>> svg_element(figure, name="first", kind="lines", label="error").startswith('<svg class="lines" role="img"')
    True
    """
    text = to_svg(figure)
    text = text[text.index("<svg") :].replace("xlink:href", "href").replace(INK, "currentColor")
    text = re.sub(r"<style.*?</style>\s*", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", text, count=3)
    attributes = f'class="{kind}" role="img" aria-label="{escape(_printable(label))}" stroke-linejoin="round"'
    return _with_ids(text.replace("<svg", f"<svg {attributes}", 1), name).strip()


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _with_ids(text: str, prefix: str) -> str:
    """Return an SVG in which only what is referred to has an id: the prefix and a number, in their order."""
    numbers: dict[str, int] = {}

    def renamed(found: re.Match[str]) -> str:
        return f"{found[1]}#{prefix}{numbers.setdefault(found[2], len(numbers))}"

    # what stands between tags may be anybody's text, but no < or >
    tags = re.compile(r"<[^<>]+>")
    text = tags.sub(lambda tag: re.sub(r'(href="|url\()#([^")]+)', renamed, tag[0]), text)

    def kept(found: re.Match[str]) -> str:
        return f' id="{prefix}{numbers[found[1]]}"' if found[1] in numbers else ""

    return tags.sub(lambda tag: re.sub(r' id="([^"]*)"', kept, tag[0]), text)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
