"""The tables of the documentation, written from the result files between markers.

python -m benchmarks.tables        rewrites README.md and docs/getting-started.md
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.record import load

ROOT = Path(__file__).parent.parent
NAMES = {
    "q384": "attention query, 384 x 384",
    "o384": "attention output, 384 x 384",
    "fc1_1536x384": "intermediate, 1536 x 384",
    "fc2_384x1536": "output, 384 x 1536",
    "gauss512": "Gaussian, 512 x 512",
}


def double_sparse(densities: tuple[float, ...]) -> str:
    """Return the table of errors at these densities, with the time relative to the transcription."""
    document = load("double_sparse")
    rows = {(row["matrix"], row["density"]): row for row in document["results"]["comparison"]}
    lines = [
        "| matrix | density | sparsefact | authors' code | magnitude pruning | SVD | time / transcription |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in NAMES.items():
        for density in densities:
            row = rows[name, density]
            gain = 100 * (1 - row["error"] / row["authors_error"])
            lines.append(
                f"| {title} | {density} | **{row['error']:.4f}** ({gain:.0f} % lower) | {row['authors_error']:.4f} "
                f"| {row['magnitude_error']:.4f} | {row['svd_error']:.4f} | {row['time_ratio']:.2f} |"
            )
    machine = document["environment"]
    seconds = statistics.median(rows["q384", 0.3]["seconds"])
    asked = machine["threads"]["OPENBLAS_NUM_THREADS"]
    threads = {None: "all BLAS threads", "1": "one BLAS thread"}.get(asked, f"{asked} BLAS threads")
    lines += [
        "",
        f"Measured on an {machine['cpu']}, {machine['cores']} cores, {threads}, NumPy {machine['packages']['numpy']}; "
        f"one 384 x 384 matrix at density 0.3 took {seconds:.1f} s.",
    ]
    return "\n".join(lines)


def fixed_support() -> str:
    """Return what was measured on fixed supports, as a list."""
    found = load("fixed_support")["results"]
    ours, loop, *palm = found["monarch 1024 x 1024, float32"]
    slowest = max(found["analysis"], key=lambda row: row["seconds"])
    als = load("als")["results"]
    lines = [
        "* A Monarch pair, 1024 x 1024, float32: the exact optimum in "
        f"{1000 * statistics.median(ours['seconds']):.0f} ms, "
        f"{loop['times_ours']:.1f} times faster than a loop of NumPy SVDs over the blocks."
    ]
    lines += [
        f"* On the same problem {row['solver']} take {row['times_ours']:.0f} times as long, to relative error "
        f"{row['error']:.4f} instead of {ours['error']:.4f}."
        for row in palm
    ]
    lines.append(
        f"* Alternating least squares on random {100 * als['density']:.0f} % supports, {als['size']} x {als['size']} "
        f"with inner dimension {als['inner']}: {als['times_faster']:.1f} times faster than the plain loop of normal "
        "equations over the rows, to the same objective."
    )
    lines.append(
        f"* Tractability of {slowest['size']} x {slowest['size']} supports with a million nonzeros: at most "
        f"{slowest['seconds']:.2f} s and {max(row['peak_mb'] for row in found['analysis']):.0f} MB over five kinds of "
        "pair."
    )
    lines += [
        f"* Closedness of all pairs of {row['rows']} x {row['cols']} with {row['inner']} rectangles: "
        f"{row['counts'].get('closed', 0)} closed, {row['counts'].get('not closed', 0)} not closed, "
        f"{row['counts'].get('unknown', 0)} unknown; every answer passes its `verify()`."
        for row in load("closedness")["results"]
        if (row["rows"], row["cols"], row["inner"]) in ((2, 3, 3), (4, 4, 2), (3, 3, 3))
    ]
    return "\n".join(lines)


TABLES = {
    "README.md": {"double_sparse": lambda: double_sparse((0.5, 0.3, 0.2))},
    "docs/fixed_support.md": {"fixed_support": fixed_support},
    "docs/getting-started.md": {"double_sparse": lambda: double_sparse((0.5, 0.4, 0.3, 0.2))},
}


def filled(text: str, name: str, table: str) -> str:
    """Return the text with what stands between the markers of `name` replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, marker, after = rest.partition(end)
    if not marker:
        raise ValueError(f"no markers for {name}")
    return before + begin + "\n" + table + "\n\n" + end + after


def main() -> None:
    """Rewrite the tables of every page."""
    for page, tables in TABLES.items():
        path = ROOT / page
        text = path.read_text()
        for name, make in tables.items():
            text = filled(text, name, make())
        path.write_text(text)


if __name__ == "__main__":
    main()
