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


TABLES = {
    "README.md": {"double_sparse": lambda: double_sparse((0.5, 0.3, 0.2))},
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
