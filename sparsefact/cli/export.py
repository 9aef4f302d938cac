"""`sparsefact export`: an output as the plain dense checkpoint of its products, or how PyTorch takes the factors."""

from __future__ import annotations

from pathlib import Path

import click

from sparsefact.cli.text import printable

__all__ = ["export"]

_TORCH = """\
# The factors in place of the linear layers of a model that is loaded as usual.
from sparsefact.torch import replace_linears

replaced = replace_linears(model, {path!r})  # model: a torch.nn.Module with the layers of the checkpoint
# These {count} layers become sparsefact.torch.FactorizedLinear, y = x @ (F_1 @ ... @ F_L).T + bias:
{layers}
"""


@click.command(short_help="Turn an output into what other programs load.")
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--dense", type=click.Path(path_type=Path), metavar="PATH", help="Write the dense checkpoint of the products."
)
@click.option("--torch", "as_torch", is_flag=True, help="Print the lines of Python that put the factors into a model.")
def export(output: Path, dense: Path | None, as_torch: bool) -> None:
    """Turn OUTPUT, a folder or file that `sparsefact factorize` has written, into what other programs load.

    With --dense PATH every factorized matrix becomes the product of its factors in a plain checkpoint: a folder, or one
    .safetensors file. With --torch the Python is printed that replaces the layers of a PyTorch model.
    """
    if (dense is None) == (not as_torch):
        raise click.UsageError("Give either --dense PATH or --torch.")
    from sparsefact.checkpoints.export import Factorized, export_dense

    if dense is not None:
        products, copied = export_dense(output, dense)
        click.echo(f"{products} products and {copied} copied tensors; wrote {printable(str(dense))}")
        return
    with Factorized(output) as matrices:
        names = [name.removesuffix(".weight") for name in matrices.names]
    layers = "\n".join(f"#   {printable(name)}" for name in names)
    click.echo(_TORCH.format(path=str(output), count=len(names), layers=layers), nl=False)
