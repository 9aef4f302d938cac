"""The tables of learning sparse parameters: what was reproduced."""

from __future__ import annotations

from typing import Any

from benchmarks.record import load


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
