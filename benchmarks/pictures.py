"""The pictures of the documentation.

python -m benchmarks.pictures        writes docs/pictures/*.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

import sparsefact as sf
from benchmarks.record import RESULTS, load
from benchmarks.reproduce import block_digits, digits_dwf, group_lasso_simulation, iris, matching_pursuit
from benchmarks.tables import NAMES

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def butterfly_supports() -> matplotlib.figure.Figure:
    """Return the supports of a butterfly chain and of a rectangular Monarch chain, one above the other."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(9, 5.2), layout="constrained")
    sf.Chain.butterfly(16).plot(axes[0])
    sf.Chain.monarch((16, 24), blocks=(4, 4)).plot(axes[1])
    return figure


def products_roofline() -> matplotlib.figure.Figure:
    """Return the speed of chains of radix-2 factors against their size, below the speed that bytes allow.

    Speed counts the operations of the radix-2 chain, whoever computes it and however: the same for all ways. The roof
    is the speed of a product that takes as long as copying its operand into its result.
    """
    from matplotlib import pyplot

    found = load("products")["results"]["butterfly"]
    dtypes, batches = (list(dict.fromkeys(row[key] for row in found)) for key in ("dtype", "batch"))
    sizes = sorted({row["size"] for row in found})
    styles: dict[str, dict[str, Any]] = {
        "copying the operand (bytes floor)": {"color": "#555555", "linewidth": 1.2},
        "sparsefact": {"color": "#0072B2", "linewidth": 2.2, "marker": "o", "markersize": 4},
        "fastest peer on the factors": {"color": "#D55E00", "linestyle": "--", "marker": "s", "markersize": 4},
        "dense product": {"color": "#888888", "linestyle": ":", "marker": "^", "markersize": 4},
    }
    figure, axes = pyplot.subplots(
        len(dtypes), len(batches), figsize=(9, 5.4), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for dtype, row_of_axes in zip(dtypes, axes, strict=True):
        for batch, axis in zip(batches, row_of_axes, strict=True):
            curves: dict[str, list[float]] = {name: [] for name in styles}
            for size in sizes:
                seconds = next(
                    row["seconds"] for row in found if (row["dtype"], row["batch"], row["size"]) == (dtype, batch, size)
                )
                dense = [s for name, s in seconds.items() if name.startswith("dense")]
                peers = [
                    s
                    for name, s in seconds.items()
                    if not name.startswith(("ours", "dense", "copy")) and "fused" not in name
                ]
                operations = (16 if dtype == "complex64" else 4) * size * (size.bit_length() - 1) * batch
                for name, time in zip(styles, (seconds["copy"], seconds["ours"], min(peers), min(dense)), strict=True):
                    curves[name].append(operations / time / 1e9)
            for name, speeds in curves.items():
                axis.plot(sizes, speeds, label=name, **styles[name])
            roof = curves["copying the operand (bytes floor)"]
            axis.fill_between(sizes, roof, 1e5, color="#dddddd", linewidth=0)
            axis.set(title=f"{dtype}, {batch} column{'s' if batch > 1 else ''}", xscale="log", yscale="log")
            axis.set_xticks(sizes, [str(size) for size in sizes], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3, linewidth=0.5)
            axis.set_ylim(0.02, 2000)
            axis.set_xlim(0.85 * sizes[0], sizes[-1] / 0.85)
    for axis in axes[-1]:
        axis.set_xlabel("size n")
    for row_of_axes in axes:
        row_of_axes[0].set_ylabel("GFLOP/s of the radix-2 chain")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def reproductions() -> dict[str, matplotlib.figure.Figure]:
    """Return the picture of every reproduction, drawn from its result file."""
    return {
        study.__name__.rpartition(".")[2]: study.figure(
            load(f"reproduce_{study.__name__.rpartition('.')[2]}")["results"]
        )
        for study in (block_digits, digits_dwf, group_lasso_simulation, iris, matching_pursuit)
    }


def ablation(document: dict[str, Any] | None = None) -> matplotlib.figure.Figure:
    """Return the errors of two sparse factors, by pattern and inner solver, on every matrix at the highest density."""
    from matplotlib import pyplot, ticker

    rows = (load("ablation") if document is None else document)["results"]["rows"]
    density = max(row["density"] for row in rows)
    rows = [row for row in rows if row["density"] == density and "error" in row]
    searched = [row for row in rows if row["solver"] not in ("magnitude", "SVD")]
    patterns = list(dict.fromkeys(row["pattern"] for row in searched))
    matrices = list(dict.fromkeys(row["matrix"] for row in rows))
    figure, grid = pyplot.subplots(
        1, len(matrices), figsize=(4 + 3 * len(matrices), 5.5), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, matrix in zip(grid[0], matrices, strict=True):
        for marker, solver in zip("osv^DXP*", dict.fromkeys(row["solver"] for row in searched), strict=False):
            here = [row for row in searched if (row["matrix"], row["solver"]) == (matrix, solver)]
            axes.plot(
                [row["error"] for row in here],
                [patterns.index(row["pattern"]) for row in here],
                marker,
                markersize=7 if solver == "ADMM" else 5,
                label=solver,
            )
        for style, solver in (("--", "magnitude"), (":", "SVD")):
            for row in rows:
                if (row["matrix"], row["solver"]) == (matrix, solver):
                    axes.axvline(row["error"], linestyle=style, color="gray", label=row["pattern"])
        axes.set(xscale="log", xlabel=f"relative error, {matrix}", yticks=range(len(patterns)))
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(axis="y", alpha=0.3)
    grid[0][0].set_yticklabels(patterns)
    grid[0][0].invert_yaxis()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"Two sparse factors, {density:g} of the entries in all")
    return figure


def error_density(document: dict[str, Any] | None = None) -> matplotlib.figure.Figure:
    """Return the errors of every form against the density, a column for each layer, without and with a gram."""
    from matplotlib import pyplot, ticker

    rows = (load("error_density") if document is None else document)["results"]["rows"]
    matrices = list(dict.fromkeys(row["matrix"] for row in rows))
    styles: dict[str, dict[str, Any]] = {
        "two sparse": {"color": "#0072B2", "linewidth": 2.2, "marker": "o", "markersize": 4},
        "sparse + low rank": {"color": "#009E73", "marker": "D", "markersize": 4},
        "one sparse": {"color": "#D55E00", "marker": "s", "markersize": 4},
        "SVD": {"color": "#555555", "linestyle": "--", "marker": "^", "markersize": 4},
        "chain": {"color": "#CC79A7", "linestyle": ":", "marker": "v", "markersize": 4},
    }
    labels = {
        "two sparse": "two sparse matrices",
        "sparse + low rank": "sparse plus low rank",
        "one sparse": "one sparse matrix",
        "SVD": "two dense factors (SVD)",
        "chain": "chain of blocks",
    }
    figure, grid = pyplot.subplots(
        2,
        len(matrices),
        figsize=(3 + 2 * len(matrices), 5.6),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for weighted, line in zip((False, True), grid, strict=True):
        for matrix, axes in zip(matrices, line, strict=True):
            for form, style in styles.items():
                points = sorted(
                    (row["density"], row["error"])
                    for row in rows
                    if (row["matrix"], row["gram"], row["form"]) == (matrix, weighted, form)
                )
                axes.plot(*zip(*points, strict=True), label=labels[form], **style)
            axes.set(yscale="log")
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
            axes.grid(alpha=0.3, linewidth=0.5)
        line[0].set_ylabel(f"relative error{', calibrated' if weighted else ''}")
    for matrix, top, bottom in zip(matrices, *grid, strict=True):
        top.set_title(NAMES.get(matrix, matrix), fontsize=10)
        bottom.set(xlabel="density", xlim=(0, None))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def main() -> None:
    """Write every picture, with the same bytes each time."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sparsefact"
    PICTURES.mkdir(exist_ok=True)
    measured = [make for make in (ablation, error_density) if (RESULTS / f"{make.__name__}.json").exists()]
    makers = [butterfly_supports, products_roofline, *measured]
    pictures = {make.__name__: make() for make in makers} | reproductions()
    for name, figure in pictures.items():
        figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
