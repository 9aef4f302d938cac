"""All cases, and how to find one by name."""

from __future__ import annotations

from fnmatch import fnmatchcase

from benchmarks.peers.case import Case, Way
from benchmarks.peers.families import (
    chains,
    classification,
    fixed_supports,
    one_matrix,
    products,
    regression,
    two_factors,
)

CASES: tuple[Case, ...] = tuple(
    case
    for family in (fixed_supports, chains, products, two_factors, one_matrix, regression, classification)
    for case in family.cases()
)
LIBRARIES: tuple[str, ...] = tuple(sorted({way.library for case in CASES for way in case.ways}))


def find(case: str, way: str) -> tuple[Case, Way]:
    """Return a case and one of its ways, by key and title."""
    found = next(each for each in CASES if each.key == case)
    return found, next(each for each in found.ways if each.title == way)


def chosen(pattern: str | None, *, quick: bool) -> list[Case]:
    """Return the cases whose keys match a shell pattern; only the small ones where it must be quick."""
    cases = [case for case in CASES if pattern is None or fnmatchcase(case.key, pattern)]
    return [case for case in cases if case.size == "small"] if quick else cases
