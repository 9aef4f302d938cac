"""The tables of docs/checkpoints.md; what has no result file yet is left out."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.record import RESULTS, load


def _found(name: str) -> dict[str, Any] | None:
    return load(name) if (RESULTS / f"{name}.json").exists() else None


def nothing_lost() -> str:
    """Return what was done to runs and files, and what came of it, as a list."""
    lines = []
    if document := _found("kills"):
        found = document["results"]
        lines.append(
            f"* {found['kills']} SIGKILLs at random moments of runs, over {found['outputs']} outputs: "
            f"{found['committed matrices recomputed']} committed matrices computed again, no file torn or left over, "
            "and every output with the bytes of a run in peace."
        )
    if document := _found("two_hosts"):
        ways = {"kill": "killed", "cable": "cut off from the network"}
        rows = [
            f"{ways[row['lost by']]} ({row['matrices begun twice']} matrix begun twice, "
            f"{row['seconds until its matrix was begun again']:.1f} s after the loss)"
            for row in document["results"]
        ]
        lines.append(
            f"* A cluster of two hosts (network namespaces), one of which was {' or '.join(rows)} in the middle of its "
            "second matrix: the bytes of a run alone."
        )
    if document := _found("hostile_files"):
        found = document["results"]
        slowest = max(found["slowest index, seconds"], found["slowest header, seconds"])
        lines.append(
            f"* {found['mutated headers']:,} mutated headers and {found['hostile indexes']} hostile index files: a "
            f"clean error each, or a file that was sound after all; none took more than {slowest:.2f} s, and all "
            f"together {found['memory added, bytes'] / 2**20:.0f} MiB of memory."
        )
        lines.append(
            f"* {found['found']:,} of {found['flipped bits']:,} flipped bits of an output found by `verify`, "
            f"{found['of them in headers']} of them in headers."
        )
    if document := _found("checkpoint_memory"):
        found = document["results"]
        side = math.isqrt(found["largest target, float32 bytes"] // 4)
        lines.append(
            f"* A checkpoint of {found['bytes'] / 1e9:.0f} GB with three matrices of {side} x {side} to factorize: "
            f"{found['peak'] / 1e6:.0f} MB of memory at the peak."
        )
    if document := _found("checkpoint_workers"):
        found = document["results"]
        lines.append(
            f"* Eight equal matrices of {found['size']} x {found['size']} on {document['environment']['cores']} cores: "
            f"two workers in {found['two workers, seconds']:.0f} s, one in {found['one worker, seconds']:.0f} s "
            f"({found['ratio']:.2f} times as long)."
        )
    return "\n".join(lines)


def _kind(row: dict[str, Any]) -> str:
    """Return the line of the table that a case belongs to."""
    rule = row["rule"]
    if row.get("cold"):
        return "any, while kernels are compiled"
    kind = "sparse plus low rank" if "sum_rank" in row else rule.get("constraint", "double-sparse")
    if "inner" in row:
        kind += ", wider inside"
    if rule.get("solver") in ("palm", "als", "alternating"):
        kind += f", by {rule['solver']}"
    weights = {"gram": "a Gram matrix", "left_gram": "one of the rows"}
    return kind + (", with " + " and ".join(weights[name] for name in row["grams"]) if row["grams"] else "")


def plan_memory() -> str:
    """Return how far the plan's bounds are from what jobs took."""
    document = _found("plan_memory")
    if document is None:
        return ""
    rows = document["results"]
    lines = ["| constraint | cases | memory said / taken | disk said / written |", "|---|---|---|---|"]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)
    for kind, cases in kinds.items():
        ranges = []
        for key in ("planned / peak", "planned disk / disk"):
            ratios = [case[key] for case in cases]
            ranges.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        lines.append(f"| {kind} | {len(cases)} | {' | '.join(ranges)} |")
    return "\n".join(lines)


def embeddings() -> str:
    """Return how far the embeddings of a real model move, by density and method."""
    document = _found("embeddings")
    if document is None:
        return ""
    found = document["results"]
    methods = list(dict.fromkeys(row["method"] for row in found["rows"]))
    rows = {(row["density"], row["method"]): row for row in found["rows"]}
    lines = [f"| density | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    for density in dict.fromkeys(row["density"] for row in found["rows"]):
        cells = [rows[density, method] for method in methods]
        shown = " | ".join(f"{cell['mean cosine']:.3f} ({cell['least cosine']:.3f})" for cell in cells)
        lines.append(f"| {100 * density:.0f} % | {shown} |")
    layers = found["rows"][0]["layers"]
    lines += [
        "",
        "Mean (and least) cosine similarity with the embeddings of the dense model over "
        f"{found['evaluated']} sentences; {layers} layers, "
        f"effort `{found['effort']}`, Gram matrices of {found['calibration']} other texts with "
        f"`damping = {found['damping']:g}`.",
    ]
    return "\n".join(lines)
