"""The tables of the documentation, written from the result files between markers.

python -m benchmarks.tables        rewrites the README and the pages of docs/ that have tables
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.peers import page as peers_page
from benchmarks.record import load
from benchmarks.tables_chains import (
    butterfly,
    butterfly_accuracy,
    butterfly_orders,
    fastest_peer,
    large_cross,
    large_panels,
    permutations,
    products,
)
from benchmarks.tables_checkpoints import embeddings, nothing_lost, plan_memory
from benchmarks.tables_double_sparse import (
    ablation,
    data_aware,
    double_sparse,
    efforts,
    error_density,
    growth,
    inner_dimension,
)
from benchmarks.tables_learning import (
    block_digits,
    digits_dwf,
    group_lasso_simulation,
    iris_optima,
    iris_protocol,
    matching_pursuit,
    sparse_claims,
)

ROOT = Path(__file__).parent.parent


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


def families() -> str:
    """Return one measured case of every family, with the file that it comes from."""
    lines = ["| | sparsefact | beside it | measured |", "|---|---|---|---|"]

    def add(family: str, ours: str, others: str, name: str) -> None:
        lines.append(f"| {family} | {ours} | {others} | [{name}](benchmarks/results/{name}.json) |")

    exact, loop, *palm = load("fixed_support")["results"]["monarch 1024 x 1024, float32"]
    add(
        "[Fixed supports](docs/fixed_support.md): Monarch pair nearest to a 1024 x 1024 matrix",
        f"**{1000 * statistics.median(exact['seconds']):.0f} ms**, the optimum, certified",
        f"{loop['times_ours']:.1f} times as long: a loop of NumPy SVDs"
        + "".join(f"; {row['times_ours']:.0f} times: {row['solver']}" for row in palm),
        "fixed_support",
    )
    rows = load("butterfly")["results"]["square dyadic"]
    row = max(
        (row for row in rows if (row["dtype"], row["target"]) == ("float32", "noisy") and row["peers"]),
        key=lambda row: row["size"],
    )
    ours, peer = row["ours"][0], row["peers"][0]
    add(
        f"[Butterfly](docs/butterfly.md): nearest to a noisy {row['size']} x {row['size']} matrix",
        f"**{1000 * ours['median']:.0f} ms**, error {ours['error']:.4f}",
        f"{ours['times_faster']:.0f} times as long, error {peer['error']:.4f}: {peer['name'].split()[0]}",
        "butterfly",
    )
    row = next(
        row
        for row in load("products")["results"]["butterfly"]
        if (row["size"], row["dtype"], row["batch"]) == (4096, "float32", 32)
    )
    seconds = row["seconds"]
    name = fastest_peer(seconds)
    dense = min(s for name, s in seconds.items() if name.startswith("dense"))
    add(
        "[Products](docs/products.md): a chain of 12 factors, 4096 x 4096, times 32 columns",
        f"**{1000 * seconds['ours']:.2f} ms**",
        f"{seconds[name] / seconds['ours']:.1f} times as long: {name}; {dense / seconds['ours']:.0f} times: dense",
        "products",
    )
    rows = load("double_sparse")["results"]["comparison"]
    row = next(row for row in rows if (row["matrix"], row["density"]) == ("q384", 0.3))
    add(
        "[Double sparse](docs/double_sparse.md): an attention layer, density 0.3",
        f"error **{row['error']:.4f}** in {statistics.median(row['seconds']):.1f} s",
        f"{row['authors_error']:.4f}: the authors' code; {row['magnitude_error']:.4f}: magnitude pruning; "
        f"{row['svd_error']:.4f}: SVD",
        "double_sparse",
    )
    rows = load("data_aware")["results"]["comparison"]
    row = next(row for row in rows if (row["matrix"], row["density"]) == ("q384", 0.3))
    add(
        "[With calibration data](docs/double_sparse.md): the same layer and density, two factors",
        f"error of the outputs **{row['error']:.4f}**",
        f"{row['published_error']:.4f}, in {1 / row['time_ratio']:.2f} times our time: the published algorithm",
        "data_aware",
    )
    add(
        "[One sparse matrix](docs/double_sparse.md): the same",
        f"error of the outputs **{row['single_error']:.4f}**",
        f"{row['alps_error']:.4f}, in {1 / row['single_time_ratio']:.2f} times our time: ALPS",
        "data_aware",
    )
    rows = load("reproduce_block_digits")["results"]["rows"]
    found = {row["method"]: row["mean"] for row in rows if row["kept"] == 6}
    best = max(found, key=found.__getitem__)
    add(
        "[Learning](docs/sparse_learning.md): digits read right by 6 of 128 blocks of weights",
        f"**{100 * found[best]:.1f} %** with {best}",
        "; ".join(f"{100 * found[name]:.1f} %: {name}" for name in ("ACDC", "powerpropagation", "magnitude")),
        "reproduce_block_digits",
    )
    return "\n".join(lines)


TABLES = {
    "docs/benchmarks.md": {
        "peers": peers_page.peers,
        "peers_lost": peers_page.lost,
        "contests": peers_page.contests,
        "peers_ways": peers_page.ways,
        "result_files": peers_page.files,
    },
    "README.md": {"families": families},
    "docs/butterfly.md": {
        "butterfly": butterfly,
        "butterfly_orders": butterfly_orders,
        "butterfly_accuracy": butterfly_accuracy,
    },
    "docs/checkpoints.md": {"nothing_lost": nothing_lost, "plan_memory": plan_memory, "embeddings": embeddings},
    "docs/double_sparse.md": {
        "data_aware": data_aware,
        "efforts": efforts,
        "inner_dimension": inner_dimension,
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
