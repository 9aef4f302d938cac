"""`sparsefact bench`: how fast it is here, beside what else is installed, and what changed between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sparsefact.cli.failure import BadInput
from sparsefact.cli.table import show_table
from sparsefact.cli.text import document, printable

__all__ = ["bench"]

_SUITES = ("kernels", "solvers", "product")
_DTYPES = ("float32", "float64", "complex64", "complex128")
_SIZES = (16, 32768)


@click.group(short_help="Measure the speed here, beside other libraries.", invoke_without_command=True)
@click.option("--suite", default="kernels,solvers,product", metavar="NAMES", help=f"Of {', '.join(_SUITES)}.")
@click.option("--device", default="cpu", show_default=True, metavar="NAMES", help="Of cpu, cuda, cuda:1, and so on.")
@click.option("--sizes", default="256,1024", show_default=True, metavar="LIST", help="Powers of two.")
@click.option("--dtype", default="float32", show_default=True, metavar="NAMES", help=f"Of {', '.join(_DTYPES)}.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=9, show_default=True, help="Rounds of measurement.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The result file to write (JSON).")
@click.option("--figure", type=click.Path(path_type=Path), help="A picture to write: .svg, .png or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print the result file instead of a table.")
@click.pass_context
def bench(
    ctx: click.Context,
    suite: str,
    device: str,
    sizes: str,
    dtype: str,
    repeat: int,
    output: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Measure operations, solvers and products on each device, beside NumPy, CuPy, torch, lazylinop and pyfaust.

    Every result is checked against a float64 reference first. Ends with exit code 1 when one is wrong.
    """
    if ctx.invoked_subcommand is not None:
        return
    suites = _chosen("--suite", suite, _SUITES)
    dtypes = _chosen("--dtype", dtype, _DTYPES)
    orders = _orders(sizes)
    names = _names("--device", device)

    from sparsefact.bench.devices import open_device
    from sparsefact.bench.environment import environment
    from sparsefact.bench.figure import panels
    from sparsefact.bench.results import document as filled
    from sparsefact.bench.results import write_results
    from sparsefact.bench.run import cases_of, run_cases
    from sparsefact.io.atomic import check_target
    from sparsefact.report.figures import speed_against_size
    from sparsefact.report.style import check_figure, save

    if figure is not None:
        check_figure(figure)
    for path in (output, figure):
        if path is not None:
            check_target(path)
    devices = [open_device(name) for name in names]

    def tell(row: dict[str, Any]) -> None:
        click.echo(f"{row['case']} on {row['device']}: {_told(row)}", err=True)

    found = run_cases(cases_of(suites, orders, dtypes), devices, repeat=repeat, on_row=tell)
    content = filled(found, environment())
    if output is not None:
        write_results(output, content)
    if figure is not None:
        drawn = panels(content)
        if drawn:
            save(speed_against_size(drawn), figure)
        else:
            click.echo(f"nothing was measured, so {printable(str(figure))} was not drawn", err=True)
            figure = None
    if as_json:
        click.echo(document(content))
    else:
        _show(content)
        for path in (output, figure):
            if path is not None:
                click.echo(f"wrote {printable(str(path))}")
    if not all(row["ok"] for row in content["rows"]):
        raise click.exceptions.Exit(1)


@bench.command(short_help="Compare two result files.")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def compare(first: Path, second: Path, as_json: bool) -> None:
    """Show how many times faster SECOND is than FIRST, case by case, and where their machines and versions differ."""
    from sparsefact.bench.results import differences, ratios, read_results

    pair = read_results(first), read_results(second)
    rows, apart = ratios(*pair), differences(*pair)
    if not rows:
        raise BadInput(
            f"{first} and {second} have no case in common, so there is nothing to compare; measure both with the same "
            "--suite, --sizes, --dtype and --device"
        )
    if as_json:
        click.echo(document({"differences": apart, "ratios": rows}))
        return
    for line in apart:
        click.echo(f"differs: {printable(line)}")
    show_table(
        ["case", "device", "way", "first", "second", "times faster"],
        [
            [
                *(printable(row[name]) for name in ("case", "device", "way")),
                _seconds(row["first"]),
                _seconds(row["second"]),
                f"{row['ratio']:.2f}" + ("" if row["clear"] else " ?"),
            ]
            for row in rows
        ],
        left=(0, 1, 2),
    )
    unclear = sum(not row["clear"] for row in rows)
    if unclear:
        click.echo(f"?: the middle halves of the measurements overlap, which is so for {unclear} of {len(rows)}")


def _names(option: str, text: str) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise BadInput(f"{option} {text!r} names nothing; give one name, or several with commas between them")
    return names


def _chosen(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    names = _names(option, text)
    for name in names:
        if name not in known:
            raise BadInput(f"{option} {name!r} is not known; give one or several of {', '.join(known)}")
    return names


def _orders(text: str) -> list[int]:
    low, high = _SIZES
    sizes = []
    for name in _names("--sizes", text):
        size = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else 0
        if not low <= size <= high or size & (size - 1):
            raise BadInput(f"--sizes {name!r} is not allowed; give powers of two from {low} to {high}, like 256,1024")
        sizes.append(size)
    return sorted(set(sizes))


def _told(row: dict[str, Any]) -> str:
    """Return one line for a case that is done."""
    if row.get("failed"):
        return printable(f"failed: {row['failed']}")
    wrong = [name for name, way in row["ways"].items() if not way["ok"]]
    parts = [f"wrong: {', '.join(wrong)}"] if wrong else []
    parts += [f"{name} {_seconds(way['median'])}" for name, way in row["ways"].items() if "median" in way]
    return printable(", ".join(parts) or "nothing runs here")


def _show(content: dict[str, Any]) -> None:
    rows = []
    for row in content["rows"]:
        ours = row["ways"].get("sparsefact", {}).get("median")
        for name, way in row["ways"].items():
            median = way.get("median")
            spread = (way["quartiles"][1] - way["quartiles"][0]) / median if median else None
            rows.append(
                [
                    printable(row["case"]),
                    printable(row["device"]),
                    printable(name),
                    _seconds(median),
                    "-" if spread is None else f"{100 * spread:.0f} %",
                    f"{median / ours:.2f}" if median and ours else "-",
                    f"{100 * way['roofline_share']:.1f} %" if median else "-",
                    f"{way['error']:.1e}" if way["error"] is not None else "-",
                    "" if way["ok"] else "WRONG",
                ]
            )
        if row.get("failed"):
            rows.append([printable(row["case"]), row["device"], "failed", *["-"] * 5, "WRONG"])
    show_table(
        ["case", "device", "way", "median", "spread", "x ours", "roofline", "error", ""], rows, left=(0, 1, 2, 8)
    )
    for name, told in content["devices"].items():
        top = told["ceilings"]
        gemm = ", ".join(f"{dtype} {speed / 1e9:,.0f}" for dtype, speed in top["gemm"].items())
        click.echo(f"{printable(name)}: at most {top['bandwidth'] / 1e9:.1f} GB/s and, in Gflop/s, {gemm}")
    left_out = {(name, why) for row in content["rows"] for name, why in row["left_out"].items()}
    for name, why in sorted(left_out):
        click.echo(f"left out: {printable(f'{name}: {why}')}")
    for row in content["rows"]:
        if row.get("failed"):
            click.echo(printable(f"failed: {row['case']} on {row['device']}: {row['failed']}"))
    bad = sum(not row["ok"] for row in content["rows"])
    click.echo(f"{len(content['rows'])} cases, " + ("all results right" if not bad else f"{bad} of them wrong"))


def _seconds(value: float | None) -> str:
    """Return a time with three digits in the unit that fits."""
    if value is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value / size < 1000 else f"{value / size:.0f} {unit}"
    return f"{value * 1e9:.3g} ns"
