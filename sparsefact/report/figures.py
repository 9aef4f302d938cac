"""The pictures, one function each: the documentation, the command line and the report page all take them from here.

Every function returns a `matplotlib.figure.Figure` that no window knows of, drawn in the style of
`sparsefact.report.style`, and `save` writes it to a file. matplotlib is the extra ``report``; without it each function
raises a StorageError that says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.chain_plot import draw_panels, inches
from sparsefact.errors import ArgumentError
from sparsefact.products.factorization import Factorization
from sparsefact.report.bounds import draw_bounds, has_bounds
from sparsefact.report.curves import Curve, draw_errors, draw_histories, look_of
from sparsefact.report.matrices import overlap_panels, support_panels, value_panels
from sparsefact.report.style import COLOURS, INK, dressed, new_figure, plain, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "before_and_after",
    "certificate",
    "convergence",
    "error_against_density",
    "factorization",
    "overlaps",
    "overview",
    "save",
    "speed_against_size",
    "supports",
]


@styled()
def supports(product: Any, *, cells: int = 128) -> Figure:
    """Draw where the factors of a product have entries, side by side and to one scale.

    Parameters
    ----------
    product : Factorization, Chain, or sequence of factors or supports
        What stores entries is drawn the darker the more of a cell is stored; Kronecker supports as `Chain.plot` does.
    cells : int
        The longest side is drawn with at most this many cells.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ArgumentError
        If there is no factor.
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import sparsefact as sf
    >>> len(supports(sf.Chain.butterfly(16)).axes[0].images)  # the support of the product, and of four factors
    5
    """
    panels, whole = support_panels(product, cells)
    figure = new_figure(*inches(panels), fitted=False)
    draw_panels(figure.add_axes((0, 0, 1, 1)), panels, equals=whole)
    return figure


@styled()
def factorization(product: Factorization, *, cells: int = 128) -> Figure:
    """Draw the supports of a product as `supports` does, and below how it was found and what was proved of its error.

    Parameters
    ----------
    product : Factorization
        With less than two reports in its history, or without bounds in its certificate, that part is left out.
    cells : int
        As for `supports`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.random.default_rng(0).standard_normal((16, 16))
    >>> figure = factorization(sf.factorize(A, sf.Chain.butterfly(16)))
    >>> [axes.get_ylabel() for axes in figure.axes]  # one report is no history
    ['', 'error / norm of the matrix']
    """
    panels, whole = support_panels(product, cells)
    wide, high = inches(panels)
    history, proof = product.history, product.certificate
    draws: list[Callable[[Axes], None]] = []
    if len(history) > 1 and all(hasattr(step, "objective") for step in history):
        draws.append(lambda ax: draw_histories(ax, {"search": history}))
    if has_bounds(proof):
        draws.append(lambda ax: draw_bounds(ax, proof, legend=True))
    below = 3.3 * math.ceil(len(draws) / 2)
    figure = new_figure(max(wide, 6.0 * min(len(draws), 2)), high + below, fitted=bool(draws))
    if not draws:
        draw_panels(figure.add_axes((0, 0, 1, 1)), panels, equals=whole)
        return figure
    grid = figure.add_gridspec(2, len(draws), height_ratios=(high, below))
    draw_panels(figure.add_subplot(grid[0, :]), panels, equals=whole)
    for place, draw in enumerate(draws):
        draw(figure.add_subplot(grid[1, place]))
    return figure


@styled()
def overlaps(left: Any, right: Any) -> Figure:
    """Draw two supports after their product, whose cells are the darker the more rank-one supports reach them.

    Parameters
    ----------
    left, right : Support
        Of shapes (m, r) and (r, n).

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> lower = sf.Support(np.tri(3, dtype=bool))
    >>> overlaps(lower, lower.T).axes[0].images[0].get_array().tolist()
    [[1.0, 1.0, 1.0], [1.0, 2.0, 2.0], [1.0, 2.0, 3.0]]
    """
    panels = overlap_panels(left, right)
    figure = new_figure(*inches(panels), fitted=False)
    draw_panels(figure.add_axes((0, 0, 1, 1)), panels, equals=True)
    return figure


@styled()
def error_against_density(curves: Mapping[str, Curve], *, first: bool = True) -> Figure:
    """Draw what is lost against what is kept.

    Parameters
    ----------
    curves : mapping of str to sequence of (float, float)
        For each way its densities, nonzeros over entries, and relative errors.
    first : bool
        Whether the first is set off from the others.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> figure = error_against_density({"ours": [(0.5, 0.1), (0.2, 0.4)], "SVD": [(0.5, 0.6), (0.2, 0.8)]})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['ours', 'SVD']
    """
    figure = new_figure(6, 3.4)
    draw_errors(figure.subplots(), curves, first=first)
    return figure


@styled()
def convergence(histories: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw how solvers approached their results.

    Parameters
    ----------
    histories : mapping of str to sequence
        For each run its ``history``, or pairs of an iteration and a relative error. Where one records no error, the
        objectives of all are drawn.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> X = np.random.default_rng(0).standard_normal((40, 10))
    >>> found = sf.minimize(sf.LeastSquares(X, X[:, :1]), sf.TopK(nnz=2), sf.IHT())
    >>> convergence({"IHT": found.history}).axes[0].get_ylabel()
    'objective'
    """
    figure = new_figure(6, 3)
    draw_histories(figure.subplots(), histories)
    return figure


@styled()
def before_and_after(rows: Sequence[tuple[str, float, float]], labels: tuple[str, str], unit: str) -> Figure:
    """Draw pairs of bars.

    Parameters
    ----------
    rows : sequence of (str, float, float)
        A name and its two values, none negative.
    labels : (str, str)
        What the two values are.
    unit : str
        Of the values; stands below the axis.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> figure = before_and_after([("w", 4.0, 1.0)], ("before", "after"), "MiB")
    >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
    [4.0, 1.0]
    """
    figure = new_figure(7, 0.9 + 0.34 * len(rows))
    ax = dressed(figure.subplots(), x=unit)
    places = np.arange(len(rows))
    for side, (label, colour) in enumerate(zip(labels, ("#a5abb3", COLOURS[0]), strict=True)):
        values = [row[1 + side] for row in rows]
        bars = ax.barh(places + (side - 0.5) * 0.36, values, 0.36, color=colour, label=label)
        ax.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=7)
    ax.set_yticks(places, [plain(name) for name, *_ in rows])
    ax.set(ylim=(len(rows) - 0.4, -0.6), xmargin=0.08)
    ax.grid(False, axis="y")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled()
def certificate(proof: Any) -> Figure:
    """Draw what a certificate proves: the errors that no product can have, the one reached, and what lies between.

    Parameters
    ----------
    proof : Certificate
        Of `Factorization.certificate`. One of a chain shows at every split what that split alone must leave out.

    Returns
    -------
    matplotlib.figure.Figure
        Errors are relative to the matrix where the certificate knows its norm.

    Raises
    ------
    ArgumentError
        If it has no bounds.
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.random.default_rng(0).standard_normal((16, 16))
    >>> F = sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(certificate="full"))
    >>> figure = certificate(F.certificate)
    >>> len(figure.axes[0].lines[0].get_xdata())  # splits
    3
    """
    if not has_bounds(proof):
        raise ArgumentError(f"proof={proof!r} has no bounds to draw; pass the certificate of a Factorization")
    figure = new_figure(6, 3)
    draw_bounds(figure.subplots(), proof)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled()
def speed_against_size(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], *, quantity: str = "seconds", columns: int = 3
) -> Figure:
    """Draw how fast ways to do something are, by size, and the roofline that none can cross.

    Parameters
    ----------
    panels : mapping of str to mapping of str to sequence
        For each title the ways, and for each of them points ``(size, value)`` or ``(size, value, low, high)``, the
        latter with bars between. A way whose name begins with ``roofline`` is the bound, shaded where nothing can
        be; the ways whose names begin with ``sparsefact`` are set off.
    quantity : str
        What is drawn. Of seconds less is better, and of everything else more.
    columns : int
        Panels side by side.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ArgumentError
        If there is no panel.
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> figure = speed_against_size({"FFT": {"sparsefact": [(64, 1e-6), (128, 2e-6)], "roofline": [(64, 1e-7)]}})
    >>> figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()
    ('size', 'seconds')
    """
    if not panels:
        raise ArgumentError("panels is empty, so there is nothing to draw; pass at least one")
    columns = min(columns, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(3 * columns + 0.6, 2.5 * lines + 0.6)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    ways = list(dict.fromkeys(way for curves in panels.values() for way in curves))
    ways.sort(key=lambda way: (way.startswith("roofline"), not way.startswith("sparsefact")))
    looks = {way: look_of(way, number) for number, way in enumerate(ways)}
    handles: dict[str, Any] = {}
    for place, (title, curves) in enumerate(panels.items()):
        ax = dressed(axes.flat[place], title=title)
        ax.set(xscale="log", yscale="log")
        for way in ways:
            points = sorted(tuple(point) for point in curves.get(way, ()))
            if not points:
                continue
            x, y, *spread = zip(*points, strict=True)
            (handles[way],) = ax.plot(x, y, label=plain(way), **looks[way])
            if spread:
                ax.vlines(x, *spread, color=looks[way]["color"], linewidth=1)
        sizes = sorted({point[0] for points in curves.values() for point in points})
        ax.set_xticks(sizes[:: math.ceil(len(sizes) / 6)] or [1], minor=False)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    for place, curves in enumerate(panels.values()):
        ax, bottom = axes.flat[place], quantity == "seconds"
        limits = ax.get_ylim()
        for way in ways:
            if way.startswith("roofline") and curves.get(way):
                x, y, *_ = zip(*sorted(tuple(point) for point in curves[way]), strict=True)
                ax.fill_between(x, y, limits[0] if bottom else limits[1], color=INK, alpha=0.15, linewidth=0)
        ax.set_ylim(*limits)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for place in range(len(panels)):
        last = place + columns >= len(panels)
        axes.flat[place].set_xlabel("size" if last else "")
        axes.flat[place].tick_params(labelbottom=last)
    for row in axes:
        row[0].set_ylabel(quantity)
    figure.legend(
        [handles[way] for way in ways if way in handles],
        [plain(way) for way in ways if way in handles],
        loc="outside upper center",
        ncols=min(4, len(ways)),
    )
    return figure


@styled()
def overview(matrix: NDArray[Any], product: Factorization, curves: Mapping[str, Curve]) -> Figure:
    """Draw a matrix, the factors of its product with their values, and what is lost at other densities.

    Parameters
    ----------
    matrix : (m, n) real array
    product : Factorization
        Of the matrix; what its factors do not store stays empty.
    curves : mapping of str to sequence of (float, float)
        As for `error_against_density`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.random.default_rng(0).standard_normal((16, 8))
    >>> F = sf.factorize(A, sf.double_sparse(A.shape, 0.5))
    >>> figure = overview(A, F, {"two sparse factors": [(0.5, F.error)]})
    >>> [len(axes.images) for axes in figure.axes]
    [3, 0]
    """
    figure = new_figure(9.4, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    draw_panels(left, value_panels(np.asarray(matrix), product), equals=True, room=0.25)
    draw_errors(right, curves, first=True)
    right.axvline(product.density, color=COLOURS[0], linestyle=":", linewidth=1)
    beside = {"xy": (product.density, 0), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    right.annotate("the factors beside", xytext=(4, 4), color=COLOURS[0], fontsize=8, **beside)
    return figure
