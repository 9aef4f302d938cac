"""What the reproductions share: a command line, a result file with the machine in it, and a picture."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from benchmarks.record import write


def command(name: str, measure: Callable[[bool], Any], description: str | None) -> None:
    """Run a reproduction from the command line; its result file is ``reproduce_NAME.json``."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds: a small part, not written to the results")
    parser.add_argument("--output", type=Path, help="where to write the result (default: benchmarks/results)")
    arguments = parser.parse_args()
    # what solvers warn about is in the results
    logging.getLogger("sparsefact").setLevel(logging.ERROR)
    results = {"quick": arguments.quick, **measure(arguments.quick)}
    if arguments.quick and arguments.output is None:
        print(results)
        return
    print(f"wrote {write(f'reproduce_{name}', results, arguments.output)}; draw it with python -m benchmarks.pictures")


def tell(text: str) -> None:
    """Say how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def digits(seed: int, held_out: int = 360) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return training images and labels, then held-out ones, of scikit-learn's digits; pixels in [0, 1], float32."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(labels))
    held, kept = order[:held_out], order[held_out:]
    return images[kept], labels[kept], images[held], labels[held]


def axes(width: float, height: float, columns: int = 1) -> tuple[matplotlib.figure.Figure, Any]:
    """Return a figure and its axes, side by side."""
    from matplotlib import pyplot

    figure, found = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    for each in found[0]:
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    return figure, found[0]
