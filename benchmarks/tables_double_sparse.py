"""The tables of double sparse factorization and its kin."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.record import load, measured

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
        f"{measured(document, threads)}; one 384 x 384 matrix at density 0.3 took {seconds:.1f} s.",
    ]
    return "\n".join(lines)


def efforts() -> str:
    """Return the errors of every effort without a gram, against the authors', with the time of the transcription."""
    document = load("double_sparse")
    names = ("fast", "balanced", "high")
    lines = ["| matrix | density | authors' code | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    for row in document["results"]["comparison"]:
        if not row.get("efforts") or row["matrix"] not in NAMES:
            continue
        found = {"balanced": row, **row["efforts"]}
        cells = [
            f"{found[name]['error']:.4f} ({100 * (found[name]['error'] / row['authors_error'] - 1):+.0f} %) "
            f"in {found[name]['time_ratio']:.2f}"
            for name in names
        ]
        lines.append(
            f"| {NAMES[row['matrix']]} | {row['density']} | {row['authors_error']:.4f} | " + " | ".join(cells) + " |"
        )
    lines += [
        "",
        f"{measured(document)}; times are "
        "shares of the time of the plain transcription of the published algorithm, run in turn.",
    ]
    return "\n".join(lines)


def data_aware() -> str:
    """Return the errors with calibration data, double and single sparse, beside the published algorithms."""
    document = load("data_aware")
    lines = [
        "| matrix | density | effort | two factors | published, two factors | one matrix | ALPS, one matrix "
        "| time / published: two factors, one matrix |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["results"]["comparison"]:
        gain = 100 * (1 - row["error"] / min(row["published_error"], row["alps_error"]))
        lines.append(
            f"| {NAMES.get(row['matrix'], row['matrix'])} | {row['density']} | {row['effort']} "
            f"| **{row['error']:.4f}** ({gain:.0f} % below both) | {row['published_error']:.4f} "
            f"| {row['single_error']:.4f} | {row['alps_error']:.4f} "
            f"| {row['time_ratio']:.2f}, {row['single_time_ratio']:.2f} |"
        )
    lines += [
        "",
        f"{measured(document)}; the published algorithms are plain NumPy transcriptions, run in turn with ours.",
    ]
    return "\n".join(lines)


def inner_dimension() -> str:
    """Return the errors by inner dimension, in about equal time."""
    document = load("inner_dimension")
    rows = document["results"]["rows"]
    widths = sorted({row["width"] for row in rows})
    lines = [
        "| matrix | density | effort | " + " | ".join(f"{width:g} min(m, n)" for width in widths) + " |",
        "|---|---|---|" + "---|" * len(widths),
    ]
    cases = list(dict.fromkeys((row["matrix"], row["density"], row["effort"], row["gram"]) for row in rows))
    for case in cases:
        found = {
            row["width"]: row["error"]
            for row in rows
            if (row["matrix"], row["density"], row["effort"], row["gram"]) == case
        }
        cells = []
        for width in widths:
            cell = f"{found[width]:.4f}" if width in found else "-"
            if width in found and width != 1 and 1 in found:
                cell += f" ({100 * (found[width] / found[1] - 1):+.0f} %)"
            cells.append(f"**{cell}**" if width in found and found[width] == min(found.values()) else cell)
        name = NAMES.get(case[0], case[0]) + (", with its Gram matrix" if case[3] else "")
        lines.append(f"| {name} | {case[1]} | {case[2]} | " + " | ".join(cells) + " |")
    ratios = []
    for case in cases:
        times = {
            row["width"]: row["seconds"]
            for row in rows
            if (row["matrix"], row["density"], row["effort"], row["gram"]) == case
        }
        ratios += [times[width] / times[1] for width in times if width != 1 and 1 in times]
    lines += [
        "",
        f"Times were {min(ratios):.1f} to {max(ratios):.1f} of those with min(m, n). {measured(document)}.",
    ]
    return "\n".join(lines)


def error_density(document: dict[str, Any] | None = None) -> str:
    """Return the errors of every form at three densities, a table without and one with calibration data."""
    document = load("error_density") if document is None else document
    rows = document["results"]["rows"]
    forms = {
        "SVD": "two dense (SVD)",
        "chain": "chain of blocks",
        "one sparse": "one sparse",
        "published sum": "sparse plus low rank, published",
        "sparse + low rank": "sparse plus low rank",
        "two sparse": "two sparse",
    }
    lines = []
    for weighted, title in ((False, "Without calibration data:"), (True, "In the loss of calibration data:")):
        lines += [title, "", f"| matrix | density | {' | '.join(forms.values())} |", "|---" * (2 + len(forms)) + "|"]
        cells: dict[tuple[str, float], dict[str, float]] = {}
        for row in rows:
            if row["gram"] is weighted and row["density"] in (0.1, 0.3, 0.5):
                cells.setdefault((row["matrix"], row["density"]), {})[row["form"]] = row["error"]
        for (matrix, density), errors in cells.items():
            lowest = min(errors.values())
            texts = (f"**{errors[f]:.4f}**" if errors[f] == lowest else f"{errors[f]:.4f}" for f in forms)
            lines.append(f"| {NAMES.get(matrix, matrix)} | {density} | {' | '.join(texts)} |")
        lines.append("")
    effort = document["results"]["effort"]
    return "\n".join([*lines, f"Two sparse matrices with `effort={effort!r}`."])


def growth(document: dict[str, Any] | None = None) -> str:
    """Return time, memory and error of double sparse factorization by size."""
    document = load("growth") if document is None else document
    lines = [
        "| size | effort | with a gram | error | seconds | MiB above the input | the same in matrices |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["results"]["rows"]:
        above = row["peak_bytes"] - row["bytes_before"]
        lines.append(
            f"| {row['size']} | {row['effort']} | {'yes' if row['gram'] else 'no'} | {row['error']:.4f} "
            f"| {row['seconds']:.0f} | {above / 2**20:.0f} | {above / row['matrix_bytes']:.1f} |"
        )
    machine = document["environment"]
    asked = machine["threads"]["OPENBLAS_NUM_THREADS"]
    threads = {None: "all BLAS threads", "1": "one BLAS thread"}.get(asked, f"{asked} BLAS threads")
    lines += ["", f"Density 0.3, float32, on an {machine['cpu']}, {machine['cores']} cores, {threads}."]
    return "\n".join(lines)


def ablation(document: dict[str, Any] | None = None) -> str:
    """Return the errors of every inner solver on every pattern, a table for each matrix and density."""
    document = load("ablation") if document is None else document
    rows = [row for row in document["results"]["rows"] if "absent" not in row]
    solvers = list(dict.fromkeys(row["solver"] for row in rows if row["solver"] not in ("magnitude", "SVD")))
    lines = []
    for matrix, density in dict.fromkeys((row["matrix"], row["density"]) for row in rows):
        here: dict[str, dict[str, Any]] = {}
        for row in rows:
            if (row["matrix"], row["density"]) == (matrix, density):
                here.setdefault(row["pattern"], {})[row["solver"]] = row
        outside = ", ".join(
            f"{pattern} {found[name]['error']:.4f}"
            for pattern, found in here.items()
            for name in ("magnitude", "SVD")
            if name in found
        )
        lines += [f"{matrix}, density {density}; {outside}:", ""]
        lines += [
            f"| pattern | {' | '.join(solvers)} | bytes / dense: CSR, bitmask | product / dense |",
            "|---" * (len(solvers) + 3) + "|",
        ]
        for pattern, found in here.items():
            known = next((found[name] for name in solvers if "csr_bytes" in found.get(name, {})), None)
            if known is None:
                continue
            errors = " | ".join(_error(found.get(name)) for name in solvers)
            sizes = ", ".join(f"{known[key] / known['dense_bytes']:.2f}" for key in ("csr_bytes", "bitmask_bytes"))
            product = known["product_seconds"] / known["dense_product_seconds"]
            lines.append(f"| {pattern} | {errors} | {sizes} | {product:.2f} |")
        took = ", ".join(
            f"{name} {statistics.median(times):.2f} s"
            for name in solvers
            if (times := [found[name]["seconds"] for found in here.values() if "seconds" in found.get(name, {})])
        )
        lines += ["", f"Median time over the patterns: {took}.", ""]
    lines.append(
        f"{measured(document)}; "
        f"products with {document['results']['batch']} columns. A bitmask is not needed where the support is fixed. "
        "* stopped by the time limit."
    )
    return "\n".join(lines)


def _error(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['error']:.4f}{'*' if row['stopped'] else ''}" if "error" in row else "refused"
