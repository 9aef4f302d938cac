"""The pictures of the documentation.

python -m benchmarks.pictures        writes docs/pictures/*.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

import sparsefact as sf
from benchmarks.record import RESULTS, load

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def butterfly_supports() -> matplotlib.figure.Figure:
    """Return the supports of a butterfly chain and of a rectangular Monarch chain, one above the other."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(9, 5.2), layout="constrained")
    sf.Chain.butterfly(16).plot(axes[0])
    sf.Chain.monarch((16, 24), blocks=(4, 4)).plot(axes[1])
    return figure


def ablation(document: dict[str, Any] | None = None) -> matplotlib.figure.Figure:
    """Return the errors of two sparse factors, by pattern and inner solver, on every matrix at the highest density."""
    from matplotlib import pyplot

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
        axes.grid(axis="y", alpha=0.3)
    grid[0][0].set_yticklabels(patterns)
    grid[0][0].invert_yaxis()
    grid[0][-1].legend(fontsize=8)
    figure.suptitle(f"Two sparse factors, {density:g} of the entries in all")
    return figure


def main() -> None:
    """Write every picture, with the same bytes each time."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sparsefact"
    PICTURES.mkdir(exist_ok=True)
    makers = [butterfly_supports] + ([ablation] if (RESULTS / "ablation.json").exists() else [])
    for make in makers:
        make().savefig(PICTURES / f"{make.__name__}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
