"""The pictures of the documentation.

python -m benchmarks.pictures        writes docs/pictures/*.svg
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

import sparsefact as sf
from benchmarks.record import load
from benchmarks.reproduce import block_digits, digits_dwf, group_lasso_simulation, iris, matching_pursuit

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def butterfly_supports() -> matplotlib.figure.Figure:
    """Return the supports of a butterfly chain and of a rectangular Monarch chain, one above the other."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(9, 5.2), layout="constrained")
    sf.Chain.butterfly(16).plot(axes[0])
    sf.Chain.monarch((16, 24), blocks=(4, 4)).plot(axes[1])
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
    for name, figure in {"butterfly_supports": butterfly_supports(), **reproductions()}.items():
        figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
