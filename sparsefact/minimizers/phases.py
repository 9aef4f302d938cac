"""The phases of a training run that is dense and sparse by turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Kind", "Phase", "phases"]

Kind = Literal["dense", "sparsify", "sparse"]


@dataclass(frozen=True)
class Phase:
    """Steps `start` to `end` (exclusive) of one kind."""

    kind: Kind
    start: int
    end: int


def phases(iterations: int, dense: float, sparse: float, cycle: tuple[Kind, ...], cycles: int) -> tuple[Phase, ...]:
    """Return the phases of a run: a dense one, `cycles` times the equal parts of `cycle`, a sparse one.

    A cycle that begins with a sparsification is nothing else the last time: what goes then does not come back.

    Parameters
    ----------
    iterations : int
    dense, sparse : float
        The shares of the first and the last phase.
    cycle : tuple of {"dense", "sparsify", "sparse"}
    cycles : int
        May be 0; then the first phase lasts until the last one.

    Returns
    -------
    tuple of Phase
        That follow each other, without empty ones.

    Examples
    --------
    >>> from sparsefact.minimizers.phases import phases
    >>> [(p.kind, p.start, p.end) for p in phases(100, 0.1, 0.5, ("sparse", "dense"), 1)]
    [('dense', 0, 10), ('sparse', 10, 30), ('dense', 30, 50), ('sparse', 50, 100)]
    """
    last = iterations - round(sparse * iterations)
    first = min(round(dense * iterations), last) if cycles else last
    kinds: list[Kind] = ["dense"]
    edges = [0, first]
    for number in range(cycles):
        parts = cycle[:1] if number == cycles - 1 and cycle[0] == "sparsify" else cycle
        begin, end = (first + (last - first) * (number + k) / cycles for k in (0, 1))
        for index, kind in enumerate(parts, 1):
            kinds.append(kind)
            edges.append(round(begin + (end - begin) * index / len(parts)))
    kinds.append("sparse")
    edges.append(iterations)
    found = (Phase(kind, start, end) for kind, start, end in zip(kinds, edges[:-1], edges[1:], strict=True))
    return tuple(phase for phase in found if phase.end > phase.start)
