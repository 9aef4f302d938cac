"""The tables of docs/benchmarks.md: ours beside the peers, where ours loses, and what every result file says."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.cell import OURS
from benchmarks.peers.compare import Standing, standing, standings
from benchmarks.record import RESULTS, load, measured

FAMILIES = {
    "fixed-support-exact": "Two factors on a Monarch pair of supports, where the optimum is known",
    "fixed-support-hard": "Two factors on random supports",
    "butterfly": "A butterfly out of a matrix",
    "monarch": "Two Monarch factors of a layer",
    "double-sparse": "Two sparse factors",
    "double-sparse-gram": "Two sparse factors with calibration data",
    "one-matrix-gram": "One sparse matrix with calibration data",
    "regression": "Sparse linear regression",
    "block-regression": "Linear regression with few blocks",
    "classification": "Sparse multinomial logistic regression",
    "product-chain": "Multiplying by a butterfly",
    "product-pair": "Multiplying by two sparse matrices",
    "transform": "The discrete Fourier transform",
}
# Errors that differ by less than this share are equal in the table of all result files.
SAME = 1e-3
# Load average per core from which the times are not to be trusted.
BUSY = 0.5
HERE = Path(__file__).resolve().parents[1]


def seconds(value: float) -> str:
    """Return a time with three digits and its unit."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _error(way: dict[str, Any], case: dict[str, Any]) -> str:
    return "rounding" if way["error"] <= case["exact"] else f"{way['error']:.4g}"


def _said(document: dict[str, Any]) -> list[str]:
    """Return what must be said before the numbers: that they are few, or that the machine had other work."""
    lines = []
    if document["results"]["quick"]:
        lines += ["**A small part only**, of `python -m benchmarks.peers --quick`: the small cases, few samples.", ""]
    load = (document["results"]["load_average"] or [0.0])[0]
    if load > BUSY * document["environment"]["cores"]:
        lines += [f"**The machine had other work** (load average {load:.0f}): compare times as ratios.", ""]
    return lines


def peers() -> str:
    """Return a line for each case: ours, the fastest peer that is as accurate, and the most accurate one."""
    document = load("peers")
    results, machine = document["results"], document["environment"]
    lines = [
        *_said(document),
        "| case | sparsefact: time, error | fastest peer that is as accurate | our time / its | most accurate peer "
        "| our error / its | |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in results["cases"]:
        found = standing(case)
        if found is None:
            way = case["ways"][OURS]
            lines.append(f"| {case['case']} | **{way['status']}**: {way['reason']} | | | | | |")
            continue
        fastest, time = (found.fastest, f"{found.time:.3g}") if found.fastest is not None else ("none", "-")
        accurate, error = (found.accurate, f"{found.error:.3f}") if found.accurate is not None else ("none", "-")
        lines.append(
            f"| {case['case']} | {seconds(found.ours['median'])}, {_error(found.ours, case)} | {fastest} | {time} "
            f"| {accurate} | {error} | {found.verdict} |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    threads = "each library with the threads it takes by itself"
    if results["threads"] is not None:
        threads = "one thread for each library" if results["threads"] == 1 else f"{results['threads']} threads each"
    wall = sum(way.get("wall", 0) for case in results["cases"] for way in case["ways"].values())
    lines += [
        "",
        f"The processes took {wall / 60:.0f} minutes together. "
        f"{measured(document, threads)}, SciPy {machine['packages']['scipy']}, {versions}; "
        f"layers: {results['layers']['source']}.",
    ]
    return "\n".join(lines)


def lost() -> str:
    """Return where a peer is faster at the same accuracy, or more accurate, the worst first."""
    document = load("peers")
    results = document["results"]
    found = standings(results)
    slower = sorted((each for each in found if each.verdict == "slower"), key=lambda each: -(each.time or 0))
    worse = sorted((each for each in found if each.verdict == "less accurate"), key=lambda each: -(each.error or 0))
    lines = [
        f"* {each.case['case']} ({each.case['title']}): {each.accurate} has the lower error; ours is {each.error:.3f} "
        f"times as large, in {_relative(each)} its time."
        for each in worse
    ]
    lines += [
        f"* {each.case['case']} ({each.case['title']}): {each.fastest} takes {seconds(_median(each))}, ours "
        f"{each.time:.2f} times as long."
        for each in slower
    ]
    lines += [
        f"* {case['case']} ({case['title']}): ours {case['ways'][OURS]['status']}, {case['ways'][OURS]['reason']}."
        for case in results["cases"]
        if standing(case) is None
    ]
    first = sum(each.verdict == "first" for each in found)
    head = (
        f"Of {len(results['cases'])} cases, ours is first in {first}: no peer is as accurate in less time, and none is"
    )
    return "\n".join(
        [*_said(document), f"{head} more accurate. In the others:" if lines else f"{head} more accurate.", "", *lines]
    )


def _median(found: Standing) -> float:
    return float(found.case["ways"][found.fastest]["median"])


def _relative(found: Standing) -> str:
    return f"{found.ours['median'] / found.case['ways'][found.accurate]['median']:.3g} times"


def ways() -> str:
    """Return what every way took, reached and needed, a table for each family."""
    document = load("peers")
    results = document["results"]
    lines = _said(document)
    for family, title in FAMILIES.items():
        cases = [case for case in results["cases"] if case["family"] == family]
        if not cases:
            continue
        lines += [f"### {title}", "", f"Time (quartiles), {cases[0]['measure']}, peak memory beside the input.", ""]
        lines += ["| | " + " | ".join(f"{case['title']}" for case in cases) + " |", "|---" * (len(cases) + 1) + "|"]
        for name in dict.fromkeys(name for case in cases for name in case["ways"]):
            cells = " | ".join(_cell(case, case["ways"].get(name)) for case in cases)
            lines.append(f"| {'**sparsefact**' if name == OURS else name} | {cells} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _cell(case: dict[str, Any], way: dict[str, Any] | None) -> str:
    if way is None:
        return "-"
    if way["status"] != "ok":
        return f"{way['status']}: {way['reason']}".replace("|", "/")
    low, high = way["quartiles"]
    spread = f" ({seconds(low)} to {seconds(high)})" if len(way["seconds"]) > 1 else " (once)"
    memory = "" if way["peak_bytes"] is None else f", {way['peak_bytes'] / 1e6:.1f} MB"
    return f"{seconds(way['median'])}{spread}, {_error(way, case)}{memory}"


@dataclass(frozen=True)
class Contest:
    """One comparison of a result file: with whom, and our times and errors as parts of theirs."""

    beside: str
    times: Sequence[float]
    errors: Sequence[float]


def _double_sparse(found: Any) -> Iterator[Contest]:
    rows = found["comparison"]
    errors = [row["error"] / (row["authors_error"] or row["transcription_error"]) for row in rows]
    yield Contest(
        "the published method: a transcription's time, the authors' errors where known",
        [r["time_ratio"] for r in rows],
        errors,
    )


def _data_aware(found: Any) -> Iterator[Contest]:
    rows = found["comparison"]
    errors = [row["error"] / row["published_error"] for row in rows]
    yield Contest("the published method for two factors, transcribed", [row["time_ratio"] for row in rows], errors)
    errors = [row["single_error"] / row["alps_error"] for row in rows]
    yield Contest("ALPS for one matrix, transcribed", [row["single_time_ratio"] for row in rows], errors)


def _butterfly(found: Any) -> Iterator[Contest]:
    rows = [row for row in found["square dyadic"] + found["other chains"] if row["peers"]]
    # errors of targets that are exactly of the chain are rounding
    pairs = [(row["ours"][0]["error"], row["peers"][0]["error"]) for row in rows]
    yield Contest(
        "the fastest way of lazylinop or pyfaust",
        [1 / row["ours"][0]["times_faster"] for row in rows],
        [ours / theirs for ours, theirs in pairs if max(ours, theirs) > 1e-4],
    )


def _products(found: Any) -> Iterator[Contest]:
    kinds = (
        ("butterfly", "the fastest of scipy CSR, dense, lazylinop and pyfaust, on butterflies"),
        ("dft", "scipy.fft, with one worker or all cores"),
        ("pairs", "scipy CSR or dense, whichever is faster, on two sparse matrices"),
    )
    for kind, beside in kinds:
        times = []
        for row in found[kind]:
            theirs = [s for name, s in row["seconds"].items() if not name.startswith(("ours", "copy"))]
            times.append(row["seconds"]["ours"] / min(theirs))
        yield Contest(beside, times, [])


def _fixed_support(found: Any) -> Iterator[Contest]:
    ours, *others = found["monarch 1024 x 1024, float32"]
    for row in others:
        yield Contest(
            f"a {row['solver']}" if "loop" in row["solver"] else row["solver"],
            [1 / row["times_ours"]],
            [ours["error"] / row["error"]],
        )


def _als(found: Any) -> Iterator[Contest]:
    theirs, ours = found["relative_error"]
    yield Contest("the plain loop over rows", [1 / found["times_faster"]], [ours / theirs])


def _hard_thresholding(found: Any) -> Iterator[Contest]:
    pursuit = found["pursuit"]
    yield Contest(
        "a plain loop over columns", [1 / pursuit["speedup"]], [pursuit["objective"] / pursuit["loop_objective"]]
    )


def _peers(found: Any) -> Iterator[Contest]:
    each = standings(found)
    times = [one.time for one in each if one.time is not None]
    yield Contest(
        "the fastest peer that is as accurate; the most accurate peer",
        times,
        [one.error for one in each if one.error is not None],
    )


CONTESTS: dict[str, Callable[[Any], Iterator[Contest]]] = {
    "als": _als,
    "butterfly": _butterfly,
    "data_aware": _data_aware,
    "double_sparse": _double_sparse,
    "fixed_support": _fixed_support,
    "hard_thresholding": _hard_thresholding,
    "peers": _peers,
    "products": _products,
}


def _range(ratios: Sequence[float], equal: float = 0.0) -> tuple[str, str]:
    """Return in how many cases ours is below one or equal, within a share, and the median, least and largest ratio."""
    if not ratios:
        return "-", "-"
    lower, same = sum(ratio < 1 - equal for ratio in ratios), sum(abs(ratio - 1) <= equal for ratio in ratios)
    won = f"{lower} of {len(ratios)}" + (f", equal in {same}" if equal and same else "")
    middle = f"{statistics.median(ratios):.3g}"
    spread = f" ({min(ratios):.3g} to {max(ratios):.3g})" if len(ratios) > 1 else ""
    return won, middle + spread


def contests() -> str:
    """Return for every result file with a comparison how often ours wins, and by how much at best and at worst."""
    lines = [
        "| result file | beside | faster in | our time / theirs: median (best to worst) | lower error in "
        "| our error / theirs |",
        "|---|---|---|---|---|---|",
    ]
    for name, read in sorted(CONTESTS.items()):
        if not (RESULTS / f"{name}.json").exists():
            continue
        for contest in read(load(name)["results"]):
            faster, time = _range(contest.times)
            lower, error = _range(contest.errors, SAME)
            lines.append(f"| {_link(name)} | {contest.beside} | {faster} | {time} | {lower} | {error} |")
    return "\n".join(lines)


def files() -> str:
    """Return every result file: what it measures, the command, the machine and the commit."""
    lines = ["| result file | what | command | machine, commit |", "|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        name = path.stem
        machine = load(name)["environment"]
        module = f"reproduce.{name.removeprefix('reproduce_')}" if name.startswith("reproduce_") else name
        where = f"{machine['cpu']}, {machine['cores']} cores, {(machine['commit'] or 'no commit')[:8]}"
        changed = " and changes" if machine.get("uncommitted_changes") else ""
        lines.append(f"| {_link(name)} | {_sentence(module)} | `python -m benchmarks.{module}` | {where}{changed} |")
    return "\n".join(lines)


def _link(name: str) -> str:
    return f"[{name}.json](../benchmarks/results/{name}.json)"


def _sentence(module: str) -> str:
    """Return what a module says of itself first, without importing it."""
    path = HERE / f"{module.replace('.', '/')}.py"
    path = path if path.exists() else HERE / module.replace(".", "/") / "__main__.py"
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return (said or "").partition("\n")[0].rstrip(".")
