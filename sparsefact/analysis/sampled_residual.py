"""How far a product is from a matrix, estimated from entries that were drawn at random: evidence, not a proof.

Entries are read in small blocks of random rows and random columns, drawn anew after the factors are final. Over such
blocks ``sum |A - P|^2 / sum |A|^2`` estimates the squared relative error. The entries on the diagonals of the blocks
are independent of each other and uniform over the matrix, which gives the statement about all entries: if a share q
of them had an error above the largest one seen, k independent draws would have missed all of these with probability
(1 - q)^k, which is less than 5 % for q above 1 - 0.05^(1/k).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SampledResidual", "sample_residual"]

Index = NDArray[np.intp]
Block = Callable[[Index, Index], NDArray[Any]]

# Rows and columns of a block of samples.
_SIDE = 32
_LEVEL = 0.05


@dataclass(frozen=True)
class SampledResidual:
    """What randomly drawn entries say about the error of a product. Numerical evidence, never a proof.

    Attributes
    ----------
    relative : float
        The estimate of ``||A - P|| / ||A||``.
    largest : float
        The largest error of an entry that was seen, relative to the root mean square of the entries seen.
    samples : int
        Entries that were drawn.
    independent : int
        How many of them were drawn independently of each other.
    entries_read : int
        Entries of the matrix that were read in all, for the factors and for this.
    unresolved : int
        Blocks of the matrix for which even the factors' own checks failed.
    seed : int
    stated : bool
        Whether a file states it, and nothing was computed since.
    """

    relative: float
    largest: float
    samples: int
    independent: int
    entries_read: int
    unresolved: int
    seed: int
    stated: bool = False

    @property
    def unseen(self) -> float:
        """The share of entries whose error may be above `largest`, with 95 % confidence."""
        return float(1 - _LEVEL ** (1 / self.independent))

    def explain(self) -> str:
        """Return the evidence in words."""
        text = (
            f"numerical evidence, not a proof: over {self.samples} random entries the relative residual is "
            f"{self.relative:.3g} (largest {self.largest:.3g}, relative to the typical entry); with 95 % confidence at "
            f"most {100 * self.unseen:.2g} % of all entries are worse than that one, and nothing is said about those; "
            f"{self.entries_read} entries were read."
        )
        if self.unresolved:
            text += f" The checks failed in {self.unresolved} blocks: the matrix is not of this chain to the tolerance."
        return text + (" A file states this." if self.stated else "")

    def stated_fields(self, F: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return what a file of factors holds of it: its numbers."""
        if not (math.isfinite(self.relative) and math.isfinite(self.largest)):
            return None
        numbers = {name: value for name, value in asdict(self).items() if name != "stated"}
        return {"kind": "sampled residual", **numbers}, {}


def sample_residual(
    exact: Block, product: Block, shape: tuple[int, int], samples: int, most: int, seed: int
) -> tuple[float, float, float, int, int]:
    """Compare two matrices on random blocks.

    Parameters
    ----------
    exact, product : callable
        Of row and column numbers; the block of the matrix and that of the product.
    shape : (int, int)
    samples : int
        Independent entries to draw, at least.
    most : int
        Entries to read in all, if one block is not more than that.
    seed : int

    Returns
    -------
    relative, largest, size : float
        As in `SampledResidual`, and the root mean square of the entries.
    samples, independent : int
    """
    rng = np.random.default_rng([seed, 0x5A])
    side = min(_SIDE, *shape)
    missed = energy = largest = 0.0
    blocks = max(1, min(-(-samples // side), most // side**2))
    for _ in range(blocks):
        rows, cols = rng.integers(0, shape[0], side), rng.integers(0, shape[1], side)
        a, p = exact(rows, cols), product(rows, cols)
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        error, size = np.abs(a.astype(wide) - p), np.abs(a.astype(wide))
        missed += float((error * error).sum())
        energy += float((size * size).sum())
        largest = max(largest, float(error.max()))
    count = blocks * side * side
    typical = math.sqrt(energy / count)
    relative = math.sqrt(missed / energy) if energy > 0 else (math.inf if missed > 0 else 0.0)
    return relative, largest / typical if typical > 0 else relative, typical, count, blocks * side
