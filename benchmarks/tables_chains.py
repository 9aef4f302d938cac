"""The tables of chains: factorization and products; and of matrices too large to hold."""

from __future__ import annotations

from typing import Any

from benchmarks.record import load, measured


def butterfly() -> str:
    """Return the times and errors on the square dyadic chain, and on the other chains, beside the fastest peer."""
    document = load("butterfly")
    found = document["results"]
    cases: dict[tuple[str, int], dict[str, Any]] = {}
    for row in found["square dyadic"]:
        cases.setdefault((row["dtype"], row["size"]), {})[row["target"]] = row
    lines = [
        "| type | N | time | copies of the matrix | times faster than the fastest peer: exact / noisy / Gaussian "
        "| the fastest peer, noisy | error, noisy: ours / peer's |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dtype, size), targets in cases.items():
        noisy = targets["noisy"]
        ours, peer = noisy["ours"][0], (noisy["peers"] or [None])[0]
        faster = " / ".join(_times(targets[kind]["ours"][0]["times_faster"]) for kind in ("exact", "noisy", "Gaussian"))
        theirs = f"{peer['name']}, {1000 * peer['median']:.0f} ms" if peer else "not measured"
        lines.append(
            f"| {dtype} | {size} | {1000 * ours['median']:.1f} ms | {ours['copies']:.1f} | {faster} | {theirs} "
            f"| {ours['error']:.6f} / {_or_dash(peer, 'error', '.6f')} |"
        )
    slopes = [row["exponent"] for row in found["exponents"] if row["name"] == "left-to-right"]
    peaks = [row["ours"][0]["peak_over_matrix"] for row in found["square dyadic"]]
    lines += [
        "",
        "Ours from left to right, on the noisy target; the fastest peer is so whatever its error. The time grows as "
        f"N to the power {min(slopes):.2f} to {max(slopes):.2f} (over types and targets), and at most "
        f"{max(peaks):.2f} matrices are allocated beside the input.",
        "",
        "| chain, float32 | target | time | times faster than the fastest peer | error: ours / peer's "
        "| proved: error / optimum at most |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["other chains"]:
        ours, peer = row["ours"][0], (row["peers"] or [None])[0]
        theirs = f"{_times(ours['times_faster'])} ({peer['name']})" if peer else "-"
        lines.append(
            f"| {row['chain']} | {row['target']} | {1000 * ours['median']:.2f} ms | {theirs} "
            f"| {ours['error']:.6f} / {_or_dash(peer, 'error', '.6f')} | {ours['ratio']:.3f} |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in found["peers"].items())
    lines += [
        "",
        f"{measured(document, 'every library with the threads it takes by itself')}, {versions}; medians of runs in "
        "shuffled turn.",
    ]
    return "\n".join(lines)


def butterfly_orders() -> str:
    """Return what the other orders of splits cost, relative to left-to-right."""
    rows = [row for row in load("butterfly")["results"]["square dyadic"] if row["target"] == "noisy"]
    names = [ours["name"] for ours in rows[0]["ours"]]
    lines = ["| type | N | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        times = " | ".join(f"{1000 * ours['median']:.1f} ms, error {ours['error']:.6f}" for ours in row["ours"])
        lines.append(f"| {row['dtype']} | {row['size']} | {times} |")
    return "\n".join(lines)


def butterfly_accuracy() -> str:
    """Return the largest error of any order on the transforms that are exactly of the chain, by size."""
    rows = load("butterfly")["results"]["accuracy"]
    sizes = sorted({row["size"] for row in rows})
    worst: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        here = worst.setdefault((row["matrix"], row["dtype"]), {})
        here[row["size"]] = max(row["error"], here.get(row["size"], 0.0))
    lines = ["| matrix | type | " + " | ".join(f"N = {n}" for n in sizes) + " |", "|---" * (len(sizes) + 2) + "|"]
    for (matrix, dtype), errors in worst.items():
        lines.append(f"| {matrix} | {dtype} | " + " | ".join(f"{errors[n]:.1e}" for n in sizes) + " |")
    return "\n".join(lines)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}"


def _or_dash(row: dict[str, Any] | None, key: str, form: str) -> str:
    return "-" if row is None else format(row[key], form)


def fastest_peer(seconds: dict[str, float]) -> str:
    """Return the name of the fastest way to a product that is neither ours, nor dense, nor fused by hand."""
    peers = {n: s for n, s in seconds.items() if not n.startswith(("ours", "dense", "copy")) and "fused" not in n}
    return min(peers, key=peers.__getitem__)


def products() -> str:
    """Return the times of products beside every other way: chains, the DFT, and pairs of sparse matrices."""
    document = load("products")
    found = document["results"]
    lines = [
        "| chain of log2(n) factors | batch | ours | fastest peer, as many times ours | lazylinop, fused by hand "
        "| dense | copying the operand |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["butterfly"]:
        seconds = row["seconds"]
        ours = seconds["ours"]
        fused = [s for name, s in seconds.items() if "fused by hand" in name]
        dense = min(s for name, s in seconds.items() if name.startswith("dense"))
        peer = fastest_peer(seconds)
        lines.append(
            f"| n = {row['size']}, {row['dtype']} | {row['batch']} | {1e3 * ours:.3f} ms ({row['kernel']}) "
            f"| {seconds[peer] / ours:.1f} ({peer}) | {f'{min(fused) / ours:.1f}' if fused else '-'} "
            f"| {dense / ours:.1f} | {seconds['copy'] / ours:.2f} |"
        )
    lines += [
        "",
        "| DFT, complex64 | batch | ours | scipy.fft, one worker | scipy.fft, all cores |",
        "|---|---|---|---|---|",
    ]
    for row in found["dft"]:
        seconds = row["seconds"]
        ours, one, every = (seconds[name] for name in ("ours", "scipy.fft", "scipy.fft, all cores"))
        lines.append(
            f"| n = {row['size']} | {row['batch']} | {1e3 * ours:.3f} ms | {one / ours:.2f} times ours "
            f"| {every / ours:.2f} |"
        )
    lines += [
        "",
        "| two sparse matrices, float32 | total density | batch | ours | two scipy products | dense |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["pairs"]:
        if row["density"] in (0.1, 0.3, 0.5):
            ours, scipy, dense = (row["seconds"][name] for name in ("ours", "scipy CSR", "dense NumPy"))
            lines.append(
                f"| {row['size']} x {row['size']} | {row['density']} | {row['batch']} "
                f"| {1e3 * ours:.3f} ms ({row['kernel']}) | {scipy / ours:.1f} times ours | {dense / ours:.2f} |"
            )
    lines.append("")
    for batch in (1, 128):
        ends = []
        for size in sorted({row["size"] for row in found["pairs"]}):
            wins = [
                row["density"]
                for row in found["pairs"]
                if (row["size"], row["batch"]) == (size, batch)
                and row["seconds"]["ours"] < row["seconds"]["dense NumPy"]
            ]
            ends.append(f"{max(wins) if wins else 'none'} at {size}")
        lines.append(
            f"* Batch {batch}: the highest measured density at which two factors beat dense: {', '.join(ends)}."
        )
    lines += ["", f"{measured(document)}."]
    return "\n".join(lines)


def permutations() -> str:
    """Return how often shuffled butterflies are recovered."""
    found = load("permutations")["results"]
    cells = {(row["family"], row["n"], row["noise"]): row for row in found["rates"]}
    noises = sorted({noise for _, _, noise in cells})
    lines = [
        "| family | n | " + " | ".join(f"noise {noise:g}" for noise in noises) + " | seconds, most noise |",
        "|---|---|" + "---|" * (len(noises) + 1),
    ]
    for family, n in dict.fromkeys((family, n) for family, n, _ in cells):
        if n >= 32:
            row = [cells[family, n, noise] for noise in noises]
            rates = " | ".join(f"{100 * c['recovered'] / c['instances']:.0f} %" for c in row)
            lines.append(f"| {family} | {n} | {rates} | {row[-1]['median_seconds']:.2f} |")
    small = [row for row in found["rates"] if row["n"] < 32]
    missed = sum(row["instances"] - row["recovered"] for row in small)
    lines += ["", f"Below n = 32, {missed} of {sum(row['instances'] for row in small)} runs are not recovered."]
    return "\n".join(lines)


def large_panels() -> str:
    """Return time and peak memory of matrices in files."""
    files = load("large")["results"]["files"]
    lines = ["| matrix in a file, float32 | time | peak memory | relative error |", "|---|---|---|---|"]
    for name, found in files.items():
        size = f"{found['order']} x {found['order']}, {found['bytes'] / 2**30:.0f} GiB"
        for when, run in found.items():
            if not isinstance(run, dict):
                continue
            told = {"first": "first time", "again": "read before", "reading": "reading alone"}[when]
            error = f"{run['error_of_the_steps']:.1e}" if "error_of_the_steps" in run else ""
            lines.append(
                f"| {name}, {size}: {told} | {run['seconds']:.1f} s | {run['peak_bytes'] / 1e9:.2f} GB | {error} |"
            )
    return "\n".join(lines)


def large_cross() -> str:
    """Return entries read, time and error of matrices known by their entries."""
    found = load("large")["results"]
    rows = [(f"DFT, complex128, N = {row['order']}", row) for row in found["dft"]]
    rows += [(f"DFT with noise 1e-6, N = {found['noisy dft']['order']}", found["noisy dft"])]
    rows += [
        (f"Fourier integral operator, rank 8, N = {found['fourier integral']['order']}", found["fourier integral"])
    ]
    lines = [
        "| matrix by its entries | entries read | of all | time | peak memory | error on random vectors |",
        "|---|---|---|---|---|---|",
    ]
    for title, row in rows:
        share = 100 * row["entries_read"] / row["order"] ** 2
        lines.append(
            f"| {title} | {row['entries_over_order_to_the_1.5']:.1f} N^1.5 | {share:.1f} % | {row['seconds']:.2f} s "
            f"| {row['peak_bytes'] / 1e9:.2f} GB | {row['error_on_vectors']:.1e} |"
        )
    return "\n".join(lines)
