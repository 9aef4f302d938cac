"""What an output says of its run, as plain numbers: the same for the page and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal
from sparsefact.checkpoints.output import read_folder
from sparsefact.checkpoints.recipe import RECIPE_NAME
from sparsefact.checkpoints.report import MatrixReport
from sparsefact.errors import FormatError, StorageError

__all__ = ["Layer", "Summary", "summarise"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One matrix of a run.

    Attributes
    ----------
    report : MatrixReport
        How it came out.
    history : list of (int, float)
        Iterations, and the relative error after them.
    curve : list of (int, float)
        Nonzeros, and the relative error with them, where a shared budget was measured.
    """

    report: MatrixReport
    history: list[tuple[int, float]]
    curve: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers.

    Attributes
    ----------
    folder : Path
        The output.
    source, version : str
        What was factorized, and by which version.
    layers : list of Layer
        In the order of the output's shards.
    copied : list of str
        Names of the tensors that were taken over.
    recipe : str
        The text of the recipe; empty if it is gone.
    """

    folder: Path
    source: str
    version: str
    layers: list[Layer]
    copied: list[str]
    recipe: str

    @property
    def totals(self) -> dict[str, float]:
        """Sums over the factorized matrices: entries, nonzeros, bytes, seconds, times of a product, and the error.

        ``error`` is the root of the mean of the squared relative errors, every entry weighing alike.
        """
        done = [layer.report for layer in self.layers if layer.report.status != "failed"]
        entries = sum(report.shape[0] * report.shape[1] for report in done)
        squares = sum((report.error or 0.0) ** 2 * report.shape[0] * report.shape[1] for report in done)
        return {
            "matrices": len(done),
            "failed": len(self.layers) - len(done),
            "copied": len(self.copied),
            "entries": entries,
            "nonzeros": sum(report.nnz for report in done),
            "bytes_before": sum(report.bytes_before for report in done),
            "bytes_after": sum(report.bytes_after for report in done),
            "seconds": sum(report.seconds for report in done),
            "dense_ms": sum(report.dense_ms or 0.0 for report in done),
            "factor_ms": sum(report.factor_ms or 0.0 for report in done),
            "error": (squares / entries) ** 0.5 if entries else 0.0,
        }


def summarise(folder: Path) -> Summary:
    """Read what an output folder says of its run.

    Parameters
    ----------
    folder : Path
        What ``sparsefact factorize`` has written.

    Returns
    -------
    Summary

    Raises
    ------
    StorageError
        If it is no folder, or the run has not ended.
    FormatError
        If the document or the journal is damaged.
    """
    if not folder.is_dir():
        raise StorageError(f"{folder}: this is no folder of a run; give the folder that factorize has written")
    content = read_folder(folder)
    entries: dict[str, dict[str, Any]] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in Journal.open(folder / JOURNAL_NAME).entries:
        if entry["kind"] in ("committed", "failed"):
            entries[entry["name"]] = entry
        elif entry["kind"] == "curve":
            curves[entry["name"]] = [(int(nnz), float(error)) for nnz, error in entry["points"]]
    names = sorted(entries, key=lambda name: str(entries[name]["file"]))
    recipe = folder / RECIPE_NAME
    try:
        layers = [_layer(entries[name], curves.get(name, [])) for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder / JOURNAL_NAME}: a line has no report of its matrix ({error})") from None
    return Summary(
        folder=folder,
        source=str(content["source"]),
        version=str(content["version"]),
        layers=layers,
        copied=list(content["copied"]),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
    )


def _layer(entry: dict[str, Any], curve: list[tuple[int, float]]) -> Layer:
    report = MatrixReport(**{**entry["report"], "shape": tuple(entry["report"]["shape"])})
    return Layer(report, [(int(step), float(error)) for step, error in entry["history"]], curve)
