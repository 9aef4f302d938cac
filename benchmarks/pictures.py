"""The pictures of the documentation, drawn from the result files and from the network that comes with the package.

python -m benchmarks.pictures        writes docs/pictures/*.svg, with the same bytes each time
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import sparsefact as sf
from benchmarks import demo_matrix
from benchmarks.record import RESULTS, load
from benchmarks.reproduce import block_digits, digits_dwf, group_lasso_simulation, iris, matching_pursuit
from benchmarks.tables_chains import fastest_peer
from benchmarks.tables_double_sparse import NAMES
from sparsefact.report import figures
from sparsefact.report.curves import draw_curves
from sparsefact.report.style import dressed, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def overview() -> Figure:
    """Return a matrix of the demo's network as two sparse factors, and the errors at other densities."""
    found = load("demo_matrix")["results"]
    m, n = found["shape"]
    curves = {
        way: [(row[way]["numbers"] / (m * n), row[way]["error"]) for row in found["rows"]]
        for way in ("two sparse factors", "magnitude pruning", "SVD")
    }
    return figures.overview(demo_matrix.matrix(), demo_matrix.factors(demo_matrix.SHOWN), curves)


def double_sparse_density() -> Figure:
    """Return the errors of double sparse factorization and its peers on an attention layer."""
    rows = [row for row in load("double_sparse")["results"]["comparison"] if row["matrix"] == "q384"]
    ways = {
        "sparsefact": "error",
        "authors' code": "authors_error",
        "magnitude pruning": "magnitude_error",
        "SVD": "svd_error",
    }
    return figures.error_against_density(
        {way: sorted((row["density"], row[key]) for row in rows) for way, key in ways.items()}
    )


def convergence() -> Figure:
    """Return the way of the search on a matrix of the demo's network, for each effort."""
    A = demo_matrix.matrix()
    target = sf.double_sparse(A.shape, demo_matrix.SHOWN)
    efforts = ("fast", "balanced", "high")
    return figures.convergence(
        {f"effort {effort}": sf.factorize(A, target, sf.Alternating(effort=effort)).history for effort in efforts}
    )


def butterfly_certificate() -> Figure:
    """Return what is proved of the butterfly nearest to a Gaussian matrix."""
    A = np.random.default_rng(0).standard_normal((256, 256))
    return figures.certificate(
        sf.factorize(A, sf.Chain.butterfly(256), sf.Hierarchical(certificate="full")).certificate
    )


def butterfly_supports() -> Figure:
    """Return the supports of a butterfly chain and of a rectangular Monarch chain, one above the other."""
    figure = new_figure(9, 5.2)
    axes = figure.subplots(2, 1)
    sf.Chain.butterfly(16).plot(axes[0])
    sf.Chain.monarch((16, 24), blocks=(4, 4)).plot(axes[1])
    return figure


def products_roofline() -> Figure:
    """Return the speed of chains of radix-2 factors against their size, below the speed that bytes allow.

    Speed counts the operations of the radix-2 chain, whoever computes it and however: the same for all ways. The roof
    is the speed of a product that takes as long as copying its operand into its result.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    rows = sorted(load("products")["results"]["butterfly"], key=lambda row: (row["dtype"] != "float32", row["batch"]))
    for row in rows:
        size, batch, seconds = row["size"], row["batch"], row["seconds"]
        times = {
            "sparsefact": seconds["ours"],
            "fastest peer on the factors": seconds[fastest_peer(seconds)],
            "dense product": min(s for name, s in seconds.items() if name.startswith("dense")),
            "roofline: copying the operand": seconds["copy"],
        }
        operations = (16 if row["dtype"] == "complex64" else 4) * size * (size.bit_length() - 1) * batch
        panel = panels.setdefault(f"{row['dtype']}, {batch} column{'s' if batch > 1 else ''}", {})
        for way, time in times.items():
            panel.setdefault(way, []).append((size, operations / time / 1e9))
    return figures.speed_against_size(panels, quantity="GFLOP/s of the chain")


def reproductions() -> dict[str, Figure]:
    """Return the picture of every reproduction, drawn from its result file."""
    studies = {
        study.__name__.rpartition(".")[2]: study
        for study in (block_digits, digits_dwf, group_lasso_simulation, iris, matching_pursuit)
    }
    return {name: study.figure(load(f"reproduce_{name}")["results"]) for name, study in studies.items()}


def ablation(document: dict[str, Any] | None = None) -> Figure:
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


FORMS = {
    "two sparse": "two sparse matrices",
    "sparse + low rank": "sparse plus low rank",
    "one sparse": "one sparse matrix",
    "SVD": "two dense factors (SVD)",
    "chain": "chain of blocks",
}


def error_density(document: dict[str, Any] | None = None) -> Figure:
    """Return the errors of every form against the density, a column for each layer, without and with a gram."""
    from matplotlib import ticker

    rows = (load("error_density") if document is None else document)["results"]["rows"]
    matrices = list(dict.fromkeys(row["matrix"] for row in rows))
    figure = new_figure(3 + 2 * len(matrices), 5.6)
    grid = figure.subplots(2, len(matrices), sharex=True, sharey="row", squeeze=False)
    for weighted, line in zip((False, True), grid, strict=True):
        for matrix, axes in zip(matrices, line, strict=True):
            curves = {
                name: sorted(
                    (row["density"], row["error"])
                    for row in rows
                    if (row["matrix"], row["gram"], row["form"]) == (matrix, weighted, form)
                )
                for form, name in FORMS.items()
            }
            draw_curves(axes, curves, first=True)
            dressed(axes).get_legend().remove()
            axes.set(yscale="log", xlim=(0, None))
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        line[0].set_ylabel(f"relative error{', calibrated' if weighted else ''}")
    for matrix, top, bottom in zip(matrices, *grid, strict=True):
        top.set_title(NAMES.get(matrix, matrix), fontsize=10)
        bottom.set_xlabel("density")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def main() -> None:
    """Write every picture."""
    makers = [
        overview,
        double_sparse_density,
        convergence,
        butterfly_certificate,
        butterfly_supports,
        products_roofline,
        *(make for make in (ablation, error_density) if (RESULTS / f"{make.__name__}.json").exists()),
    ]
    PICTURES.mkdir(exist_ok=True)
    with styled():
        pictures = {make.__name__: make() for make in makers} | reproductions()
    for name, figure in pictures.items():
        save(figure, PICTURES / f"{name}.svg")


if __name__ == "__main__":
    main()
