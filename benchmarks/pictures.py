"""The pictures of the documentation.

python -m benchmarks.pictures        writes docs/pictures/*.svg
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

import sparsefact as sf
from benchmarks.record import load
from benchmarks.reproduce import block_digits, digits_dwf, group_lasso_simulation, iris, matching_pursuit

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
RESULTS = Path(__file__).parent / "results"


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

    found = json.loads((RESULTS / "products.json").read_text())["results"]["butterfly"]
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


def main() -> None:
    """Write every picture, with the same bytes each time."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sparsefact"
    PICTURES.mkdir(exist_ok=True)
    pictures = {make.__name__: make() for make in (butterfly_supports, products_roofline)} | reproductions()
    for name, figure in pictures.items():
        figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
