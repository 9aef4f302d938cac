"""One way on one case, in a process of its own: ``python -m benchmarks.peers.cell CASE WAY --output FILE``.

The process makes the input, prepares the way, calls it once to warm up, once to see its memory, and then times it. The
peak memory is what the process needs beyond what it has when a call begins (Linux: VmHWM, set back before the call).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.case import Attempt, Case, Way, Wrong, check_claim
from benchmarks.peers.layers import Layers
from sparsefact.io.atomic import atomic_write

OURS = "sparsefact"
# A sample is as many calls as take this long together.
SAMPLE = 2e-3
MOST_CALLS = 1000
FEWEST_SAMPLES = 3


def _status(field: str) -> int | None:
    """Return a field of /proc/self/status in bytes, or None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024 * int(found[0]) if found else None


def begin_peak() -> int | None:
    """Give freed memory back, set the peak of this process to what it has now, and return that."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError, TypeError):
        return None
    return _status("VmHWM")


def end_peak(before: int | None) -> int | None:
    """Return the bytes that were needed since `begin_peak`, or None where that cannot be seen."""
    after = _status("VmHWM")
    return None if before is None or after is None else max(0, after - before)


def once(solve: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call and what it returns."""
    started = time.perf_counter()
    found = solve()
    return time.perf_counter() - started, found


def clock(solve: Callable[[], Any], budget: float, rounds: int, *, again: bool) -> tuple[dict[str, Any], Any]:
    """Return the times and the peak of a call, and what the last one returned.

    Parameters
    ----------
    solve : callable
    budget : float
        Seconds that the samples may take together; there are at least three of them.
    rounds : int
        How many samples at most.
    again : bool
        Whether a call is timed after the first one even if that took longer than the budget.

    Returns
    -------
    (times, found)
        Seconds of a call in every sample, whether they were warmed up, calls in a sample, the first call, peak bytes.
    """
    before = begin_peak()
    first, found = once(solve)
    peak = end_peak(before)
    times: dict[str, Any] = {"first": first, "calls": 1}
    if first > budget and not again:
        return {**times, "warm": False, "seconds": [first], "peak_bytes": peak}, found
    del found
    before = begin_peak()
    second, found = once(solve)
    peak = end_peak(before)
    samples = [second] if second > budget else []
    calls = max(1, min(MOST_CALLS, int(SAMPLE / max(second, 1e-7))))
    while not samples or (
        samples[0] <= budget
        and len(samples) < rounds
        and (sum(samples) * calls < budget or len(samples) < FEWEST_SAMPLES)
    ):
        started = time.perf_counter()
        for _ in range(calls):
            found = None
            found = solve()
        samples.append((time.perf_counter() - started) / calls)
    return {**times, "calls": calls, "warm": True, "seconds": samples, "peak_bytes": peak}, found


def quartiles(seconds: list[float]) -> list[float]:
    """Return the lower and the upper quartile."""
    return [float(q) for q in np.quantile(seconds, (0.25, 0.75))]


def measure(case: Case, way: Way, layers: Layers, *, budget: float, rounds: int) -> dict[str, Any]:
    """Return the row of one way on one case: "ok" with times and error, "wrong" or "failed" with the reason."""
    problem = case.make(layers)
    try:
        attempt: Attempt = way.prepare(problem)
        times, found = clock(attempt.solve, budget, rounds, again=way.library == OURS)
        claimed = attempt.claims(found)
        answer = attempt.read(found)
    except Exception as failure:  # other people's code may raise anything, and what it says is the result
        return {"status": "failed", "reason": reason(failure)}
    try:
        verdict = case.judge(problem, answer)
        check_claim(case, verdict, claimed)
    except Wrong as wrong:
        return {"status": "wrong", "reason": str(wrong)}
    return {
        "status": "ok",
        "error": verdict.error,
        "claimed": claimed if claimed is None or math.isfinite(claimed) else None,
        "nonzeros": verdict.nonzeros,
        "median": statistics.median(times["seconds"]),
        "quartiles": quartiles(times["seconds"]),
        **times,
    }


def reason(failure: BaseException) -> str:
    """Return the first line of what an exception says."""
    said = str(failure).strip().partition("\n")[0]
    return f"{type(failure).__name__}: {said}"[:200]


def main() -> None:
    from benchmarks.peers.registry import find

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case")
    parser.add_argument("way")
    parser.add_argument("--layers", type=Path)
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    case, way = find(given.case, given.way)
    row = measure(case, way, Layers(given.layers), budget=given.budget, rounds=given.rounds)

    def fill(temporary: Path) -> None:
        temporary.write_text(json.dumps(row), encoding="utf-8")

    atomic_write(given.output, fill)


if __name__ == "__main__":
    main()
