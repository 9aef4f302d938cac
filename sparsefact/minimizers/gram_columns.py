"""Columns of the Gram matrix of one column of unknowns, in double precision: from the matrix, or formed when asked for.

Symbols: X samples, y targets, G = X^H X, c = X^H y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.objectives.least_squares import LeastSquares
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["GivenColumns", "SampledColumns", "ScaledGram", "gram_columns"]

# Entries of the samples from which a pass over them costs more than guessing which columns are needed next.
_LARGE = 1 << 19


class GivenColumns:
    """The columns of the matrix of a `Quadratic`."""

    together = False

    def __init__(self, objective: Quadratic) -> None:
        self.objective = objective
        self.wide = np.complex128 if objective.dtype.kind == "c" else np.float64

    def start(self) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Return c, the diagonal of G, and the objective at zero."""
        diagonal = self.objective.gram.diagonal().real.astype(np.float64)
        return self.objective.cross[:, 0].astype(self.wide), diagonal, self.objective.constant

    def absent(self, indices: list[int]) -> list[int]:
        """Return which of these columns are yet to be formed: none."""
        return []

    def form(self, indices: list[int]) -> None:
        """Form columns: they are there."""

    def take(self, index: int) -> NDArray[Any]:
        """Return one column of G, a new array."""
        column: NDArray[Any] = self.objective.gram[:, index].astype(self.wide)
        return column

    def between(self, indices: NDArray[Any]) -> NDArray[Any]:
        """Return the entries of G between some columns."""
        entries: NDArray[Any] = self.objective.gram[indices[:, None], indices[None, :]].astype(self.wide)
        return entries

    def on(self, indices: NDArray[Any]) -> Quadratic:
        """Return the objective of some entries, the others zero."""
        return Quadratic(self.between(indices), self.objective.cross[indices].astype(self.wide))

    def gram(self) -> NDArray[Any]:
        """Return G."""
        return self.objective.gram


class SampledColumns:
    """The columns that samples have, formed several at once, and kept until they are taken.

    Attributes
    ----------
    together : bool
        Whether columns cost much less in one pass than in several.
    """

    def __init__(self, objective: LeastSquares, backend: Backend) -> None:
        self.objective, self.backend = objective, backend
        self.formed: dict[int, NDArray[Any]] = {}
        self.together = objective.X.size >= _LARGE

    def start(self) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Return c, the diagonal of G, and the objective at zero."""
        cross, diagonal, energy = self.objective.correlations()
        return cross[:, 0], diagonal, 0.5 * float(energy)

    def absent(self, indices: list[int]) -> list[int]:
        """Return which of these columns are yet to be formed."""
        return [index for index in indices if index not in self.formed]

    def form(self, indices: list[int]) -> None:
        """Form columns, in one pass over the samples."""
        new = sorted(set(self.absent(indices)))
        if new:
            rows = self.objective.gram_rows(self.backend.asarray(np.array(new)))
            self.formed.update(zip(new, rows, strict=True))

    def take(self, index: int) -> NDArray[Any]:
        """Return one column of G, a new array that is kept here no longer."""
        column: NDArray[Any] = self.formed.pop(index).conj()
        return column

    def between(self, indices: NDArray[Any]) -> NDArray[Any]:
        """Return the entries of G between some columns."""
        return self.objective.gram_rows(indices, indices)

    def on(self, indices: NDArray[Any]) -> Quadratic:
        """Return the objective of some entries, the others zero."""
        return self.objective.on_rows(indices)

    def gram(self) -> NDArray[Any] | None:
        """Return G where it is small enough to be formed."""
        return self.objective.quadratic().gram if self.objective.prefers_quadratic else None


def gram_columns(objective: LeastSquares | Quadratic, backend: Backend) -> GivenColumns | SampledColumns:
    """Return the columns of the Gram matrix of an objective."""
    return SampledColumns(objective, backend) if isinstance(objective, LeastSquares) else GivenColumns(objective)


@dataclass(frozen=True, eq=False)
class ScaledGram:
    """The Gram matrix in scaled variables, formed on the host when it is asked for."""

    columns: GivenColumns | SampledColumns
    scale: NDArray[Any]
    backend: Backend

    def __call__(self) -> NDArray[Any] | None:
        """Return the matrix, or None where it is too large."""
        gram = self.columns.gram()
        return None if gram is None else self.backend.to_host(gram / self.scale[:, None] / self.scale[None, :])
