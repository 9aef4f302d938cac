"""`sparsefact check`: what can be said of a pair of supports before any matrix is seen."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from sparsefact.cli.failure import BadInput
from sparsefact.cli.text import document, shape_text

__all__ = ["check"]

_PRESETS = ("low-rank", "hodlr", "lu", "banded", "arrow")


@click.command(short_help="Say what is known of two supports: tractable, closed, benign.")
@click.argument("left", required=False)
@click.argument("right", required=False)
@click.option(
    "--preset",
    metavar="NAME:N,...",
    help="A pair of supports by name instead of files: lu:N, banded:N,LOWER,UPPER, arrow:N, hodlr:N,LEVELS,RANK, "
    "low-rank:M,N,RANK.",
)
@click.option("--figure", type=click.Path(path_type=Path), help="A picture to write: .svg, .png or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(left: str | None, right: str | None, preset: str | None, figure: Path | None, as_json: bool) -> None:
    """Say what is known of the products L @ R with supp(L) in LEFT and supp(R) in RIGHT.

    LEFT (m x r) and RIGHT (r x n) are masks: .npy, .npz (scipy.sparse), .mtx (Matrix Market) or .safetensors files.
    The answers hold for every matrix: can its best approximation be computed exactly, does it always exist, and can a
    descent get stuck.
    """
    pair = _pair(left, right, preset)

    from sparsefact.analysis.closedness import closedness
    from sparsefact.analysis.landscape import landscape
    from sparsefact.analysis.tractability import tractability
    from sparsefact.cli.picture import picture
    from sparsefact.report.figures import overlaps
    from sparsefact.report.style import check_figure, save

    if figure is not None:
        check_figure(figure)
    easy, closed, smooth = tractability(*pair), closedness(*pair), landscape(*pair)
    if figure is not None:
        save(overlaps(*pair), figure)
    if as_json:
        click.echo(
            document(
                {
                    "left": {"shape": list(pair[0].shape), "nnz": pair[0].nnz},
                    "right": {"shape": list(pair[1].shape), "nnz": pair[1].nnz},
                    "classes": len(easy.classes),
                    "tractability": {"tractable": easy.tractable, "rule": easy.rule, "explanation": easy.explain()},
                    "closedness": {"verdict": closed.verdict, "explanation": closed.explain()},
                    "landscape": {"benign": smooth.benign, "reason": smooth.reason},
                }
            )
        )
        return
    left_text, right_text = (f"{shape_text(support.shape)} ({support.nnz:,} nonzeros)" for support in pair)
    click.echo(f"left {left_text}, right {right_text}, {len(easy.classes)} classes of rank-one supports")
    drawn = picture(easy.classes, easy.pair.shape)
    if drawn:
        click.echo(f"\n{drawn}\n")
    click.echo(f"tractable: {'yes' if easy.tractable else 'not known to be'}. {easy.explain()}")
    click.echo(f"closedness: {closed.explain()}")
    click.echo(f"landscape: {'benign' if smooth.benign else 'not known to be benign'}. {smooth.reason}")
    if figure is not None:
        click.echo(f"wrote {figure}")


def _pair(left: str | None, right: str | None, preset: str | None) -> tuple[Any, Any]:
    if preset is not None:
        if left is not None:
            raise click.UsageError("give either LEFT and RIGHT or --preset, not both.")
        return _preset(preset)
    if left is None or right is None:
        raise click.UsageError("give the two masks LEFT and RIGHT, or --preset.")
    from sparsefact.constraints.support import Support
    from sparsefact.io.masks import read_mask

    return Support(read_mask(left)), Support(read_mask(right))


def _preset(text: str) -> tuple[Any, Any]:
    from sparsefact.constraints import presets

    name, _, given = text.partition(":")
    if name not in _PRESETS:
        raise BadInput(f"--preset {text!r} is not known; pass one of {', '.join(_PRESETS)} with its numbers, like lu:4")
    make = getattr(presets, name.replace("-", "_"))
    try:
        numbers = [int(number) for number in given.split(",")] if given else []
    except ValueError:
        raise BadInput(f"--preset {text!r}: {given!r} is not a list of integers; pass them like banded:8,1,2") from None
    wanted = list(inspect.signature(make).parameters)
    if name == "low-rank":
        wanted = ["m", "n", "rank"]
    if len(numbers) != len(wanted):
        raise BadInput(f"--preset {text!r} has {len(numbers)} numbers; {name} takes {len(wanted)}: {', '.join(wanted)}")
    pair: tuple[Any, Any] = make((numbers[0], numbers[1]), numbers[2]) if name == "low-rank" else make(*numbers)
    return pair
