"""One self-contained page about a run: what it did to every matrix, in numbers and pictures, nothing to download."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sparsefact.checkpoints.output import load_matrix, read_folder
from sparsefact.checkpoints.report import MatrixReport
from sparsefact.report.bounds import has_bounds
from sparsefact.report.figures import before_and_after, certificate, convergence, error_against_density, supports
from sparsefact.report.style import svg_element
from sparsefact.report.summary import Layer, Summary, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["page"]

_PICTURES = 24  # layers whose supports are drawn
_CELLS = 64  # along the longest side of a factor
_BARS = 60  # layers in a chart of bars

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #6b6b6b; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181c; --soft: #9a9a9a; --wrong: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; } h1 { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } .scroll > svg { min-width: 32rem; max-width: 60rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .5rem;
  border-bottom: 1px solid color-mix(in srgb, var(--soft) 30%, transparent); }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
#totals { max-width: 40rem; } #matrices { font-size: 13px; } #matrices th, #matrices td { white-space: nowrap; }
#matrices td:first-child { white-space: normal; min-width: 10rem; }
svg { max-width: 100%; height: auto; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; }
figcaption { color: var(--soft); overflow-wrap: anywhere; }
pre { overflow-x: auto; background: color-mix(in srgb, var(--soft) 12%, transparent); padding: .7rem; }
#matrices .failed { color: var(--wrong); text-align: left; white-space: normal; }
"""


def page(folder: Path) -> str:
    """Return the report of an output folder as one HTML page.

    Parameters
    ----------
    folder : Path
        What ``sparsefact factorize`` has written; its run must have ended.

    Returns
    -------
    str
        HTML 5 with its style and its pictures inside: no script, no link to anything.

    Raises
    ------
    StorageError, FormatError
        If the folder cannot be read, or matplotlib, which draws the pictures, is not installed.
    """
    summary = summarise(folder)
    title = escape(f"sparsefact: {summary.source}")
    done = [layer for layer in summary.layers if layer.report.status != "failed"]
    drawn, proved = _matrices(folder, done)
    sections = [
        _totals(summary),
        _section("Every matrix", _table(summary.layers)),
        _section("Relative error", _errors(done)),
        _section("Bytes", _bytes(done)),
        _section("Time of a product with 128 vectors", _times(done)),
        _section("Convergence of the search", _convergence(done)),
        _section("Error over density", _curves(done)),
        _section("Supports of the factors", drawn),
        _section("Certificates of the errors", proved),
        _section("Recipe", f"<pre>{escape(summary.recipe)}</pre>" if summary.recipe else ""),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n" + "\n".join(section for section in sections if section) + "\n</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f'<section><h2>{escape(title)}</h2><div class="scroll">{body}</div></section>' if body else ""


def _totals(summary: Summary) -> str:
    t = summary.totals
    rows = [
        ("matrices factorized", f"{t['matrices']:,}"),
        ("matrices that failed", f"{t['failed']:,}"),
        ("tensors copied", f"{t['copied']:,}"),
        ("entries", f"{t['entries']:,}"),
        ("nonzeros", f"{t['nonzeros']:,}" + (f" ({t['nonzeros'] / t['entries']:.4f})" if t["entries"] else "")),
        ("relative error, all entries weighing alike", f"{100 * t['error']:.2f} %"),
        ("bytes before", f"{t['bytes_before']:,}"),
        ("bytes after", f"{t['bytes_after']:,}"),
        ("one product with each, dense", f"{t['dense_ms']:.4g} ms"),
        ("one product with each, factorized", f"{t['factor_ms']:.4g} ms"),
        ("time of all searches", f"{t['seconds']:.1f} s"),
    ]
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<p>Written by sparsefact {escape(summary.version)}.</p><table id="totals">{body}</table>'


def _table(layers: list[Layer]) -> str:
    heads = ["matrix", "shape", "density", "error", "pruning", "before", "after", "dense", "factorized", "search"]
    body = []
    for layer in layers:
        r = layer.report
        if r.status == "failed":
            cells = f'<td colspan="{len(heads) - 2}" class="failed">{escape(r.message)}</td>'
        else:
            values = [
                f"{r.density:.4f}",
                _percent(r.error),
                _percent(r.magnitude_error),
                f"{r.bytes_before:,}",
                f"{r.bytes_after:,}",
                f"{r.dense_ms or 0:.4g} ms",
                f"{r.factor_ms or 0:.4g} ms",
                f"{r.seconds:.1f} s",
            ]
            cells = "".join(f"<td>{value}</td>" for value in values)
        body.append(f"<tr><td>{escape(r.name)}</td><td>{r.shape[0]} × {r.shape[1]}</td>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<table id="matrices"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _errors(layers: list[Layer]) -> str:
    rows = [(r.name, 100 * (r.magnitude_error or 0), 100 * (r.error or 0)) for r in _first(layers)]
    return _bars("errors", rows, ("magnitude pruning", "factorized"), "relative error in %")


def _bytes(layers: list[Layer]) -> str:
    reports = _first(layers)
    unit, size = ("MiB", 2**20) if any(r.bytes_before >= 2**20 for r in reports) else ("KiB", 2**10)
    rows = [(r.name, r.bytes_before / size, r.bytes_after / size) for r in reports]
    return _bars("bytes", rows, ("before", "after"), unit)


def _times(layers: list[Layer]) -> str:
    rows = [(r.name, r.dense_ms or 0.0, r.factor_ms or 0.0) for r in _first(layers)]
    return _bars("times", rows, ("dense", "factorized"), "ms")


def _bars(name: str, rows: list[tuple[str, float, float]], labels: tuple[str, str], unit: str) -> str:
    if not rows:
        return ""
    label = f"{labels[0]} and {labels[1]}, {unit}"
    return svg_element(before_and_after(rows, labels, unit), name=name, kind="bars", label=label)


def _first(layers: list[Layer]) -> list[MatrixReport]:
    """Return the reports of the layers with the most bytes, in their order."""
    return [layer.report for layer in _largest(layers, _BARS)]


def _largest(layers: list[Layer], count: int) -> list[Layer]:
    """Return the layers with the most bytes, in their order."""
    by_size = sorted(range(len(layers)), key=lambda number: -layers[number].report.bytes_before)
    return [layers[number] for number in sorted(by_size[:count])]


def _convergence(layers: list[Layer]) -> str:
    histories = {layer.report.name: layer.history for layer in layers if len(layer.history) > 1}
    if not histories:
        return ""
    return svg_element(convergence(histories), name="convergence", kind="lines", label="relative error over iteration")


def _curves(layers: list[Layer]) -> str:
    curves = {}
    for layer in layers:
        entries = layer.report.shape[0] * layer.report.shape[1]
        if layer.curve:
            curves[layer.report.name] = [(nnz / entries, error) for nnz, error in layer.curve]
    if not curves:
        return ""
    figure = error_against_density(curves, first=False)
    return svg_element(figure, name="curves", kind="lines", label="relative error over density")


def _matrices(folder: Path, layers: list[Layer]) -> tuple[str, str]:
    """Return the pictures of the supports, and those of the certificates, of the largest matrices."""
    content = read_folder(folder)
    shown = _largest(layers, _PICTURES)
    drawn: list[str] = []
    proved: list[str] = []
    for number, layer in enumerate(shown):
        name = layer.report.name
        product = load_matrix(folder, name, content)
        figure = supports(product, cells=_CELLS)
        drawn.append(_figure(figure, f"supports{number}-", "support", f"supports of the factors of {name}", name))
        if has_bounds(product.certificate):
            figure = certificate(product.certificate)
            proved.append(_figure(figure, f"certificate{number}-", "lines", f"bounds of the error of {name}", name))
    if len(shown) < len(layers):
        drawn.append(f"<p>Drawn are the {len(shown)} largest of {len(layers)} matrices.</p>")
    return "".join(drawn), "".join(proved)


def _figure(figure: Figure, name: str, kind: str, label: str, caption: str) -> str:
    drawn = svg_element(figure, name=name, kind=kind, label=label)
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"
