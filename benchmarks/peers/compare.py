"""Ratios: ours beside the best peer of every case, and one result file beside another."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.cell import OURS

# Errors within this share of each other count as equal.
EQUAL = 0.01
# A regression is a time whose quartiles are apart and whose median is more than this share larger, or such an error.
SLOWER, WORSE = 0.05, 1e-3


@dataclass(frozen=True)
class Standing:
    """Ours on one case.

    Attributes
    ----------
    case : dict
        The document of the case.
    ours : dict
    fastest : str or None
        The fastest peer that is at least as accurate.
    time : float or None
        Our time as a part of its time.
    accurate : str or None
        The most accurate peer.
    error : float or None
        Our error as a part of its error; one where both are rounding.
    """

    case: dict[str, Any]
    ours: dict[str, Any]
    fastest: str | None
    time: float | None
    accurate: str | None
    error: float | None

    @property
    def verdict(self) -> str:
        """Return "first", "slower", "less accurate" or "alone"."""
        if self.accurate is None or self.error is None:
            return "alone"
        if self.error > 1 + EQUAL:
            return "less accurate"
        return "slower" if self.time is not None and self.time > 1 else "first"


def standing(case: dict[str, Any]) -> Standing | None:
    """Return how ours stands on a case, or None where ours was not measured or was wrong."""
    ours = case["ways"].get(OURS)
    if ours is None or ours["status"] != "ok":
        return None
    peers = {name: way for name, way in case["ways"].items() if name != OURS and way["status"] == "ok"}
    if not peers:
        return Standing(case, ours, None, None, None, None)

    def level(way: dict[str, Any]) -> float:
        return max(float(way["error"]), float(case["exact"]))

    accurate = min(peers, key=lambda name: level(peers[name]))
    # without an exact level, an error of zero beside one of zero is equal
    best = level(peers[accurate])
    error = level(ours) / best if best > 0 else (1.0 if level(ours) == 0 else float("inf"))
    able = [name for name in peers if level(peers[name]) <= (1 + EQUAL) * level(ours)]
    fastest = min(able, key=lambda name: peers[name]["median"], default=None)
    time = None if fastest is None else ours["median"] / peers[fastest]["median"]
    return Standing(case, ours, fastest, time, accurate, error)


def standings(results: dict[str, Any]) -> list[Standing]:
    """Return how ours stands on every case."""
    return [found for case in results["cases"] if (found := standing(case)) is not None]


def beside_peers(results: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each case: our time and error as parts of the best peers' ones."""
    for case in results["cases"]:
        found = standing(case)
        if found is not None:
            yield _beside(found)
        for name, way in case["ways"].items():
            if way["status"] != "ok":
                yield f"{case['case']:30s}     {name}: {way['status']}, {way['reason']}"


def _beside(found: Standing) -> str:
    line = f"{found.case['case']:30s} {1e3 * found.ours['median']:12.3f} ms  error {found.ours['error']:.6g}"
    if found.fastest is not None:
        line += f"  time {found.time:.3f} of {found.fastest}"
    if found.accurate is not None:
        line += f"  error {found.error:.4f} of {found.accurate}"
    return f"{line}  ({found.verdict})"


def _changes(
    first: dict[str, Any], second: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    there = {case["case"]: case["ways"] for case in second["cases"]}
    for case in first["cases"]:
        for name, way in case["ways"].items():
            other = there.get(case["case"], {}).get(name)
            if other is not None:
                yield case["case"], name, way, other


def regressions(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return where ours is slower or less accurate in the second document, or works no more."""
    exact = {case["case"]: case["exact"] for case in second["cases"]}
    found = []
    for case, name, before, after in _changes(first, second):
        if name != OURS or before["status"] != "ok":
            continue
        if after["status"] != "ok":
            found.append(f"{case}: {after['status']}, {after['reason']}")
            continue
        ratio = after["median"] / before["median"]
        if ratio > 1 + SLOWER and after["quartiles"][0] > before["quartiles"][1]:
            found.append(f"{case}: {ratio:.2f} times the time")
        if after["error"] > max((1 + WORSE) * before["error"], exact[case]):
            found.append(f"{case}: error {after['error']:.6g} after {before['error']:.6g}")
    return found


def between(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Yield the ratios of the second document to the first one, and what got worse."""
    drift = []
    for case, name, before, after in _changes(first, second):
        if before["status"] != "ok" or after["status"] != "ok":
            continue
        ratio = after["median"] / before["median"]
        if name == OURS:
            error = after["error"] / before["error"] if before["error"] > 0 else 1.0
            yield f"{case:30s} time {ratio:.3f}  error {error:.4f}"
        else:
            drift.append(ratio)
    if drift:
        yield f"{'the peers, median':30s} time {statistics.median(drift):.3f}, which is the machine"
    worse = regressions(first, second)
    yield "regressions:" if worse else "no regressions"
    yield from (f"    {line}" for line in worse)
