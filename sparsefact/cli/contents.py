"""What the commands say of a file, as plain data: the tensors of a checkpoint, the records of a factor file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsefact.checkpoints.output import is_output_folder, read_folder
from sparsefact.checkpoints.plan import Plan, plan
from sparsefact.checkpoints.verify_claims import claim_parts
from sparsefact.io.checkpoint import Checkpoint, open_checkpoint
from sparsefact.io.tensor_file import TensorFile
from sparsefact.products.fields import Fields
from sparsefact.products.storage import KEY, read_document

__all__ = ["describe", "describe_plan"]


def describe_plan(work: Plan) -> dict[str, Any]:
    """Return every tensor of a checkpoint in its order, and what a plan does with it.

    Parameters
    ----------
    work : Plan
        What `sparsefact.checkpoints.plan.plan` made.

    Returns
    -------
    dict
        ``source``, ``density`` and ``tensors``, a list of dictionaries with name, shape, dtype, nbytes, target (whether
        it is factorized), rule (which of the recipe, from 1, or None), budget (nonzeros of all factors together, or
        None) and reason (why it is copied, or None); and ``notes``, sentences.
    """
    budgets = {target.name: target.budget for target in work.targets}
    rules = {target.name: work.recipe.rules.index(target.rule) + 1 for target in work.targets}
    reasons = {tensor.name: tensor.reason for tensor in work.copied}
    with open_checkpoint(work.source) as checkpoint:
        infos = [checkpoint.info(name) for name in checkpoint.names]
    rows = [
        {
            "name": info.name,
            "shape": info.shape,
            "dtype": info.dtype,
            "nbytes": info.nbytes,
            "target": info.name in budgets,
            "rule": rules.get(info.name),
            "budget": budgets.get(info.name),
            "reason": reasons.get(info.name),
        }
        for info in infos
    ]
    return {"source": str(work.source), "density": work.density, "tensors": rows, "notes": list(work.notes)}


def describe(path: Path) -> dict[str, Any]:
    """Return what is in a file or directory.

    Parameters
    ----------
    path : Path
        A factor file, a safetensors checkpoint, or a directory with one.

    Returns
    -------
    dict
        Of a factor file ``matrices``, ``copied``, ``failed``, ``source``, ``version``, ``format`` and ``nbytes``; of a
        checkpoint what `describe_plan` returns, with every matrix that any density can factorize as a target.

    Raises
    ------
    StorageError, FormatError
        If it cannot be read, or a record is not what it should be.
    """
    if is_output_folder(path):
        content = read_folder(path)
        with open_checkpoint(path) as checkpoint:
            return _describe_factors(checkpoint, content)
    with open_checkpoint(path) as checkpoint:
        files = checkpoint.files
    for file in files:
        with TensorFile(file) as opened:
            if KEY in opened.metadata:
                return _describe_factors(opened, read_document(opened.metadata, str(opened.path)))
    return describe_plan(plan(path, density=1.0))


def _describe_factors(file: TensorFile | Checkpoint, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": content["source"],
        "version": content["version"],
        "format": content["format"],
        "nbytes": sum(file.info(name).nbytes for name in file.names),
        "matrices": [_matrix(file, name, record) for name, record in content["matrices"].items()],
        "copied": content["copied"],
        "failed": content["failed"],
    }


def _matrix(file: TensorFile | Checkpoint, name: str, record: Any) -> dict[str, Any]:
    where = f"{file.path}: {name!r}"
    fields = Fields(record, where)
    shape, nnz = fields.shape(), fields.count("nnz")
    factors: list[dict[str, Any]] = []
    parts: list[Any] = []
    for entry in fields.required("factors", list):
        factor = Fields(entry, where)
        factors.append(
            {"kind": factor.required("kind", str), "shape": factor.shape(), "nnz": factor.count("nnz")},
        )
        parts += factor.required("tensors", dict).values()
    parts += [part for _, part in claim_parts(record)]
    nbytes = sum(file.info(Fields(part, where).required("name", str)).nbytes for part in parts)
    return {
        "name": name,
        "shape": shape,
        "dtype": fields.required("dtype", str),
        "nnz": nnz,
        "density": nnz / max(shape[0] * shape[1], 1),
        "error": fields.error("error"),
        "status": fields.optional("status", str),
        "constraint": fields.optional("constraint", str),
        "solver": fields.optional("solver", str),
        "seed": fields.optional("seed", int),
        "nbytes": nbytes,
        "factors": factors,
        "certificate": _claim(fields, where),
    }


def _claim(record: Fields, where: str) -> dict[str, Any] | None:
    """Return the kind of a record's certificate and its bounds, where there are some, as they stand there."""
    listed = record.optional("certificate", dict)
    if listed is None:
        return None
    fields = Fields(listed, f"{where}, certificate")
    bounds = {key: fields.number(key) for key in ("lower_bound", "upper_bound") if key in listed}
    return {"kind": fields.required("kind", str), **bounds}
