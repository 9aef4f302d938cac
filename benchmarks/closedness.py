"""How many support pairs the rules decide: every multiset of r rectangles in an m x n matrix, up to symmetry.

Permuting rows or columns and transposing change no verdict, so one multiset of every orbit is decided, verified and
counted as often as its orbit is large.

python -m benchmarks.closedness [-o results.json] [--size 2x3 --inner 3]
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from benchmarks.record import write
from sparsefact.analysis.closedness import closedness

CASES = ((2, 2, 3), (2, 3, 3), (3, 3, 2), (3, 4, 2), (4, 4, 2), (3, 3, 3))


def multisets(m: int, n: int, r: int) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Yield one multiset of r rectangles (row set, column set, as bit masks) of every orbit, and the orbit's size."""
    rectangles = [(a, b) for a in range(1, 1 << m) for b in range(1, 1 << n)]
    place = {rectangle: i for i, rectangle in enumerate(rectangles)}

    def moved(count: int) -> list[list[int]]:
        return [
            [sum(1 << order[i] for i in range(count) if mask >> i & 1) for mask in range(1 << count)]
            for order in itertools.permutations(range(count))
        ]

    maps = [[place[p[a], q[b]] for a, b in rectangles] for p in moved(m) for q in moved(n)]
    if m == n:
        maps += [[place[q[b], p[a]] for a, b in rectangles] for p in moved(m) for q in moved(n)]
    seen: set[tuple[int, ...]] = set()
    for chosen in itertools.combinations_with_replacement(range(len(rectangles)), r):
        if chosen not in seen:
            orbit = {tuple(sorted(moves[i] for i in chosen)) for moves in maps}
            seen |= orbit
            yield [rectangles[i] for i in chosen], len(orbit)


def masks(rectangles: list[tuple[int, int]], m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two supports with these rank-one supports."""
    left = np.array([[a >> i & 1 for a, _ in rectangles] for i in range(m)], dtype=bool)
    return left, np.array([[b >> j & 1 for j in range(n)] for _, b in rectangles], dtype=bool)


def shares(m: int, n: int, r: int) -> dict[str, object]:
    """Decide and verify every multiset; return the counts."""
    counts: Counter[str] = Counter()
    unverified, orbits, undecided = 0, 0, []
    started = time.perf_counter()
    for rectangles, size in multisets(m, n, r):
        answer = closedness(*masks(rectangles, m, n))
        counts[answer.verdict] += size
        unverified += not answer.verify()
        orbits += 1
        if answer.verdict == "unknown":
            undecided.append({"rectangles": rectangles, "orbit": size})
    total = sum(counts.values())
    return {
        "rows": m,
        "cols": n,
        "inner": r,
        "orbits": orbits,
        "counts": dict(counts),
        "unknown_share": counts["unknown"] / total,
        "unverified": unverified,
        "undecided": undecided,
        "seconds": time.perf_counter() - started,
    }


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file.")
@click.option("--size", help="Only this size, such as 2x3.")
@click.option("--inner", type=int, help="With --size: how many rectangles.")
def main(output: Path | None, size: str | None, inner: int | None) -> None:
    """Measure, print and write the result file."""
    m, n = map(int, size.split("x")) if size else (0, 0)
    rows = []
    for case in [(m, n, inner or 3)] if size else CASES:
        row = shares(*case)
        rows.append(row)
        print(
            f"{case[0]} x {case[1]}, r = {case[2]}: {row['counts']}, unknown {row['unknown_share']:.2%}, "
            f"unverified {row['unverified']}, {row['seconds']:.1f} s"
        )
    write("closedness", rows, output)


if __name__ == "__main__":
    main()
