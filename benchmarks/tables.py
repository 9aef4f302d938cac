"""The tables of the documentation, written from the result files between markers.

python -m benchmarks.tables        rewrites README.md and docs/getting-started.md
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

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


def butterfly() -> str:
    """Return the times and errors on the square dyadic chain, and on the other chains, beside the fastest peer."""
    document = load("butterfly")
    found, machine = document["results"], document["environment"]
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
        f"Measured on an {machine['cpu']}, {machine['cores']} cores, every library with the threads it takes by "
        f"itself, NumPy {machine['packages']['numpy']}, {versions}; medians of runs in shuffled turn.",
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


def products() -> str:
    """Return the times of products beside every other way: chains, the DFT, and pairs of sparse matrices."""
    document = load("products")
    found, machine = document["results"], document["environment"]
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
        peers = {n: s for n, s in seconds.items() if not n.startswith(("ours", "dense", "copy")) and "fused" not in n}
        peer = min(peers, key=peers.__getitem__)
        lines.append(
            f"| n = {row['size']}, {row['dtype']} | {row['batch']} | {1e3 * ours:.3f} ms ({row['kernel']}) "
            f"| {peers[peer] / ours:.1f} ({peer}) | {f'{min(fused) / ours:.1f}' if fused else '-'} "
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
    lines += ["", f"Measured on an {machine['cpu']}, {machine['cores']} cores, NumPy {machine['packages']['numpy']}."]
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


def _reproduced(name: str) -> tuple[Any, list[str]]:
    """Return the results of a reproduction, and what is to be said of them first: where they are a small part only."""
    found = load(f"reproduce_{name}")["results"]
    if not found["quick"]:
        return found, []
    return found, [f"**A small part only**, of `python -m benchmarks.reproduce.{name} --quick`.", ""]


def block_digits() -> str:
    """Return held-out accuracies of networks with few blocks."""
    found, said = _reproduced("block_digits")
    rows = {(row["method"], row["kept"]): row for row in found["rows"]}
    kept = list(dict.fromkeys(row["kept"] for row in found["rows"]))
    lines = [*said, "| blocks kept of 128 | " + " | ".join(map(str, kept)) + " |", "|---" * (len(kept) + 1) + "|"]
    for method in found["solvers"]:
        cells = " | ".join(f"{rows[method, k]['mean']:.3f} ± {rows[method, k]['sd']:.3f}" for k in kept)
        lines.append(f"| {method} | {cells} |")
    runs = len(found["rows"][0]["accuracies"])
    seconds = sum(row["seconds"] for row in found["rows"])
    lines += [
        "",
        f"Mean and standard deviation of {runs} runs; all {runs * len(rows)} of them took {seconds:.0f} s.",
    ]
    return "\n".join(lines)


def matching_pursuit() -> str:
    """Return how often exact supports are found in correlated designs."""
    found, said = _reproduced("matching_pursuit")
    names = list(found["rows"][0]["rates"])
    lines = [*said, "| correlation | samples | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for row in found["rows"]:
        rates = " | ".join(f"{100 * row['rates'][name]:.0f} %" for name in names)
        lines.append(f"| {row['correlation']:g} | {row['samples']} | {rates} |")
    return "\n".join([*lines, "", f"Of {found['trials']} draws each."])


def iris_optima() -> str:
    """Return how far solvers end above the optimum over all supports, for every number of parameters."""
    found, said = _reproduced("iris")
    rows = found["against_optima"]
    names = list(rows[0]["gaps"])
    lines = [
        *said,
        "| kept of 15 | optimum | " + " | ".join(names) + " | random starts that hit it |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in rows:
        gaps = " | ".join("0" if row["gaps"][name] < 1e-8 else f"+{row['gaps'][name]:.4f}" for name in names)
        hits = f"{row['random_hits']} of {row['random_starts']}"
        lines.append(f"| {row['level']} | {row['optimum']:.4f} | {gaps} | {hits} |")
    return "\n".join(lines)


def iris_protocol() -> str:
    """Return what the runs of the published protocol end with."""
    found, said = _reproduced("iris")
    rows = found["protocol"]
    lines = [
        *said,
        "| kept of 15 | training loss | test loss | test accuracy | HT-stable "
        "| constant: estimated / at least / at most |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        means = {name: row[name]["mean"] for name in ("train_loss", "test_loss", "test_accuracy")}
        lines.append(
            f"| {row['level']} | {means['train_loss']:.3f} | {means['test_loss']:.3f} | {means['test_accuracy']:.3f} "
            f"| {row['stable']} of {row['runs']} "
            f"| {' / '.join(format(row[name]['mean'], '.2f') for name in ('estimate', 'curvature', 'bound'))} |"
        )
    return "\n".join(lines)


def group_lasso_simulation() -> str:
    """Return the best point of every path, and where the exact groups were found."""
    found, said = _reproduced("group_lasso_simulation")
    rows = found["paths"]
    lines = [
        *said,
        "| | lowest mean test error | at strength | groups there (7 matter) | exact groups, best strength |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["method"] for row in rows):
        path = [row for row in rows if row["method"] == name]
        best, exact = min(path, key=lambda row: row["test_error"]), max(path, key=lambda row: row["exact"])
        lines.append(
            f"| {name} | {best['test_error']:.3f} | {best['strength']:.3g} | {best['groups']:.1f} "
            f"| {exact['exact']} of {exact['draws']} draws, at {exact['strength']:.3g} |"
        )
    return "\n".join(lines)


def digits_dwf() -> str:
    """Return accuracy and compression of networks trained from scratch as products of factors."""
    found, said = _reproduced("digits_dwf")
    rows = found["rows"]
    penalties = list(dict.fromkeys(row["penalty"] for row in rows))
    lines = [*said, "| penalty | " + " | ".join(f"{penalty:g}" for penalty in penalties) + " |"]
    lines.append("|---" * (len(penalties) + 1) + "|")
    for depth in dict.fromkeys(row["depth"] for row in rows):
        cells = []
        for row in (row for row in rows if row["depth"] == depth):
            ratio = f"{row['weights'] / row['left']:.1f}x" if row["left"] else "nothing left"
            cells.append(f"{row['accuracy']:.3f}, {ratio}")
        name = "1: L1 penalty, proximal gradient" if depth == 1 else f"{depth}"
        lines.append(f"| depth {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_STUDIES = ("block_digits", "digits_dwf", "group_lasso_simulation", "iris", "matching_pursuit")


def sparse_claims() -> str:
    """Return each published claim with what was found here."""
    studies = {name: _reproduced(name) for name in _STUDIES}
    small = [name for name, (found, _) in studies.items() if found["quick"]]
    lines = [f"**Small parts only** of {', '.join(small)}: these are no findings yet.", ""] if small else []
    digits = studies["block_digits"][0]["rows"]
    means = {(row["method"], row["kept"]): row["mean"] for row in digits}
    kept = list(dict.fromkeys(row["kept"] for row in digits))
    ahead = [k for k in kept if means["SequentialAttention++", k] > means["ACDC", k]]
    gradual = [k for k in kept if means["SequentialAttention++", k] > means["SequentialAttention", k]]
    power = [k for k in kept if means["powerpropagation", k] > means["magnitude", k]]
    iris = studies["iris"][0]
    runs, stable = (sum(row[name] for row in iris["protocol"]) for name in ("runs", "stable"))
    rising = sum(row["rising"] for row in iris["protocol"])
    below = [row["level"] for row in iris["protocol"] if row["estimate"]["mean"] < row["curvature"]["mean"]]
    late = [row["train_loss"]["mean"] for row in iris["protocol"] if row["level"] >= 11]
    simulation = studies["group_lasso_simulation"][0]
    near = [row["strength"] for row in simulation["depth_2_to_lasso"] if row["largest"] > 0.01]
    strengths = [row["strength"] for row in simulation["depth_2_to_lasso"]]
    after = [strength for strength in strengths if not near or strength > max(near)]
    lowest: dict[str, float] = {}
    for row in simulation["paths"]:
        lowest[row["method"]] = min(row["test_error"], lowest.get(row["method"], row["test_error"]))
    lasso = next(name for name in lowest if "lasso" in name)
    deeper = [name for name in lowest if name.endswith(("3", "4")) and lowest[name] < lowest[lasso]]
    rows = studies["digits_dwf"][0]["rows"]
    best: dict[int, float] = {}
    for row in rows:
        if row["left"] and row["accuracy"] >= 0.95:
            best[row["depth"]] = max(best.get(row["depth"], 0.0), row["weights"] / row["left"])
    wins = [depth for depth in best if depth > 1 and best[depth] > best.get(1, 0.0)]
    said = ", ".join(f"{ratio:.1f} (depth {depth})" for depth, ratio in sorted(best.items()))
    return "\n".join(
        [
            *lines,
            "| published claim | found here |",
            "|---|---|",
            f"| SequentialAttention++ is more accurate than ACDC at equal block sparsity | {_found(ahead, kept)} |",
            f"| its gradual sparsification helps | {_found(gradual, kept)} |",
            f"| powerpropagation is more accurate than magnitude pruning | {_found(power, kept)} |",
            f"| hard thresholding on iris ends HT-stable and never raises the loss | {stable} of {runs} runs are "
            f"stable, {rising} raise the loss |",
            f"| its training loss is flat at about 0.05 from 11 parameters on | between {min(late):.3f} and "
            f"{max(late):.3f} |",
            "| the Monte-Carlo estimate of the smoothness is a conservative upper bound | "
            + (
                f"**not reproduced**: at {len(below)} of {len(iris['protocol'])} levels it is below a curvature that "
                "the loss has |"
                if below
                else "not contradicted |"
            ),
            "| gating of depth 2 coincides with the group lasso beyond some strength | "
            + (f"from {min(after):.3g} on, to 1 % |" if after else "**not reproduced** |"),
            f"| deeper gating has a lower test error than the group lasso | {_found(deeper, ['depth 3', 'depth 4'])} |",
            "| deeper factorizations compress more at equal accuracy (digits, at least 0.95) | "
            + (f"depth {', '.join(map(str, wins))} against L1: " if wins else "**not reproduced** against L1: ")
            + f"{said} |",
            "| a mask exp(w) with decay favours few blocks, like a log-sum | only for large blocks: near zero its "
            "regulariser is the square of the norm, which is not subadditive, so Theorem 1.1 does not cover it |",
        ]
    )


def _found(hits: list[Any], cases: list[Any]) -> str:
    if not hits:
        return f"**not reproduced** in any of {len(cases)} cases"
    return f"in {len(hits)} of {len(cases)} cases"


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
    machine = document["environment"]
    lines.append(
        f"Measured on an {machine['cpu']}, {machine['cores']} cores, NumPy {machine['packages']['numpy']}; "
        f"products with {document['results']['batch']} columns. A bitmask is not needed where the support is fixed. "
        "* stopped by the time limit."
    )
    return "\n".join(lines)


def _error(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['error']:.4f}{'*' if row['stopped'] else ''}" if "error" in row else "refused"


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
    machine = document["environment"]
    lines += [
        "",
        f"Measured on an {machine['cpu']}, {machine['cores']} cores, NumPy {machine['packages']['numpy']}; the "
        "published algorithms are plain NumPy transcriptions, run in turn with ours.",
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


TABLES = {
    "README.md": {"double_sparse": lambda: double_sparse((0.5, 0.3, 0.2))},
    "docs/butterfly.md": {
        "butterfly": butterfly,
        "butterfly_orders": butterfly_orders,
        "butterfly_accuracy": butterfly_accuracy,
    },
    "docs/double_sparse.md": {
        "data_aware": data_aware,
        "error_density": error_density,
        "growth": growth,
        "ablation": ablation,
    },
    "docs/fixed_support.md": {"fixed_support": fixed_support},
    "docs/products.md": {
        "products": products,
        "permutations": permutations,
        "large_panels": large_panels,
        "large_cross": large_cross,
    },
    "docs/sparse_learning.md": {
        "block_digits": block_digits,
        "matching_pursuit": matching_pursuit,
        "iris_optima": iris_optima,
        "iris_protocol": iris_protocol,
        "group_lasso_simulation": group_lasso_simulation,
        "digits_dwf": digits_dwf,
        "sparse_claims": sparse_claims,
    },
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
