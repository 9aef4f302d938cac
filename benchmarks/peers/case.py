"""What is measured: a case is one input and one question, a way is one library's answer, and a judge believes neither.

Everything is made inside the process that measures it: a case makes its input from seeds (or from the layers that it is
given), a way prepares what its library likes best, and only `Attempt.solve` is timed. What it returns becomes plain
arrays, whose error the judge computes in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from benchmarks.peers.layers import Layers
from benchmarks.worker import relative_error

SIZES = ("small", "medium", "large")
# A library's own error may differ from the judge's by this share: it is often computed in float32.
CLAIM = 1e-3


class Wrong(Exception):
    """What a way returned is not an answer to the question; the message says why."""


@dataclass(frozen=True)
class Attempt:
    """A way made ready on one input.

    ``solve()`` is timed; ``read(found)`` gives plain arrays, which the judge of the case takes; ``claims(found)`` is
    the error that the library states itself, or None.
    """

    solve: Callable[[], Any]
    read: Callable[[Any], Any]
    claims: Callable[[Any], float | None] = lambda found: None


@dataclass(frozen=True)
class Way:
    """One library's way to answer: `prepare` takes the input of the case, `needs` are the modules that it takes."""

    library: str
    name: str
    prepare: Callable[[Any], Attempt]
    needs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name in tables: the library, and which of its ways."""
        return f"{self.library}: {self.name}" if self.name else self.library


@dataclass(frozen=True)
class Verdict:
    """The error in float64, and how many numbers the answer keeps where they are limited."""

    error: float
    nonzeros: int | None = None


@dataclass(frozen=True)
class Case:
    """One input and one question.

    Attributes
    ----------
    family, size : str
        Together its key; `size` is one of `SIZES`.
    title : str
        What the input is.
    measure : str
        What the error is.
    make : callable
        Makes the input from the layers.
    judge : callable
        Takes the input and what was read; returns a `Verdict` or raises `Wrong`.
    ways : tuple of Way
    exact : float
        Errors below this are rounding, and count as equal.
    """

    family: str
    size: str
    title: str
    measure: str
    make: Callable[[Layers], Any]
    judge: Callable[[Any, Any], Verdict]
    ways: tuple[Way, ...]
    exact: float = 0.0

    @property
    def key(self) -> str:
        """What `--case` matches."""
        return f"{self.family}/{self.size}"


def check_claim(case: Case, verdict: Verdict, claimed: float | None) -> None:
    """Raise `Wrong` if the error is not a finite number, or is not what the library says of itself."""
    if not math.isfinite(verdict.error):
        raise Wrong(f"the error is {verdict.error}")
    if claimed is None or max(claimed, verdict.error) <= case.exact:
        return
    if not abs(claimed - verdict.error) <= CLAIM * verdict.error + case.exact:
        raise Wrong(f"it claims the error {claimed:.6g}, which is {verdict.error:.6g}")


def plain(factor: Any) -> Any:
    """Return a factor of any kind as a float64 or complex128 CSR array."""
    if hasattr(factor, "tocsr"):
        factor = factor.tocsr()
    csr = scipy.sparse.csr_array(factor)
    return csr.astype(np.complex128 if csr.dtype.kind == "c" else np.float64)


def nonzeros(factors: Sequence[Any]) -> int:
    """Return how many numbers are not zero in all factors together."""
    return sum(int(np.count_nonzero(factor.data)) for factor in factors)


def factors_error(
    A: NDArray[Any], factors: Sequence[Any], *, budget: int | None = None, masks: Sequence[Any] | None = None
) -> Verdict:
    """Return the verdict on factors (CSR arrays): ||A - F_1 ... F_L|| / ||A||.

    Parameters
    ----------
    A : (m, n) array
    factors : sequence of CSR arrays
    budget : int, optional
        How many nonzeros they may have together.
    masks : sequence of boolean CSR arrays, optional
        Where each may be nonzero.
    """
    shapes = [factor.shape for factor in factors]
    fits = all(left[1] == right[0] for left, right in itertools.pairwise(shapes))
    if not fits or (shapes[0][0], shapes[-1][1]) != A.shape:
        raise Wrong(f"factors of shapes {shapes} for a matrix of shape {A.shape}")
    if masks is not None:
        if [mask.shape for mask in masks] != shapes:
            raise Wrong(f"factors of shapes {shapes} for supports of shapes {[mask.shape for mask in masks]}")
        outside = sum(nonzeros([factor - factor * mask]) for factor, mask in zip(factors, masks, strict=True))
        if outside:
            raise Wrong(f"{outside} entries outside of the supports")
    return Verdict(relative_error(A, factors), within(nonzeros(factors), budget))


def within(count: int, budget: int | None) -> int:
    """Return the count, or raise `Wrong` if it is above the budget."""
    if budget is not None and count > budget:
        raise Wrong(f"{count} nonzeros where {budget} are allowed")
    return count


def ours(F: Any) -> list[Any]:
    """Return the factors of a `Factorization` as CSR arrays."""
    return [plain(factor) for factor in F.factors]
