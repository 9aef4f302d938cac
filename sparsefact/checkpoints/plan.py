"""Which tensors of a checkpoint are factorized, under which constraint, and why the others are copied."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsefact.checkpoints.grams import check_gram_entry
from sparsefact.checkpoints.methods import build_constraint, nonzeros_of
from sparsefact.checkpoints.names import CONSTRAINTS
from sparsefact.checkpoints.pairs import held_density, inner_of, read_support
from sparsefact.checkpoints.recipe import Recipe, Rule, matches
from sparsefact.constraints.base import check_density
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError, BudgetError, DtypeError, ShapeError
from sparsefact.io.checkpoint import Checkpoint, open_checkpoint
from sparsefact.io.dtypes import COMPUTABLE
from sparsefact.io.failure import quoted
from sparsefact.io.tensor_file import TensorFile, TensorInfo
from sparsefact.products.storage import KEY

__all__ = ["Copied", "Plan", "Target", "plan"]

_COMPARED = 5000  # names looked at for a near miss


@dataclass(frozen=True, slots=True)
class Target:
    """A matrix that is to be factorized.

    Attributes
    ----------
    name : str
        The tensor's name in the checkpoint.
    shape : (int, int)
        Its rows and columns.
    dtype : str
        Its safetensors code: ``"F64"``, ``"F32"``, ``"F16"`` or ``"BF16"``.
    nbytes : int
        Its size in the checkpoint.
    constraint : constraint or None
        What the factors must obey; None while it is still to be found, by a tolerance or by a budget in total.
    rule : Rule
        The rule of the recipe that it follows.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    nbytes: int
    constraint: Any
    rule: Rule = field(default_factory=Rule)

    @property
    def budget(self) -> int | None:
        """The most nonzeros that its factors may store together; None while the constraint is to be found."""
        return None if self.constraint is None else nonzeros_of(self.constraint, self.shape)

    @property
    def inner(self) -> int:
        """The inner dimension of two factors, the widest one while it is to be found."""
        return inner_of(self.rule.inner, self.shape, self.rule.density or 1.0)


@dataclass(frozen=True, slots=True)
class Copied:
    """A tensor that is taken over unchanged.

    Attributes
    ----------
    name : str
        The tensor's name in the checkpoint.
    reason : str
        Why it is not factorized: a few words that go on from "copied:".
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What `sparsefact.checkpoints.run.run` is going to do with a checkpoint.

    Attributes
    ----------
    source : Path
        The checkpoint, as it was given.
    targets : tuple of Target
        The matrices to factorize, in the order of the checkpoint.
    copied : tuple of Copied
        Every other tensor, in the order of the checkpoint.
    recipe : Recipe
        What it follows.
    """

    source: Path
    targets: tuple[Target, ...]
    copied: tuple[Copied, ...]
    recipe: Recipe

    @property
    def density(self) -> float | None:
        """The density that all rules have in common, or that of the budget in total; None if there are several."""
        densities = {rule.density for rule in self.recipe.rules if "density" in CONSTRAINTS.get(rule.constraint, ())}
        densities = {self.recipe.total if density is None else density for density in densities}
        return densities.pop() if len(densities) == 1 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a sentence before the run, because it is not what one may expect."""
        if all(target.rule.constraint != "single" or target.rule.grams for target in self.targets):
            return ()
        return (
            "without Gram matrices one sparse matrix is the projection on its constraint, whatever the solver; give "
            "--gram or --left-gram, or either in the rule, for a solver to weigh the error by the inputs",
        )


def plan(
    source: str | os.PathLike[str],
    *,
    density: float = 0.3,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    recipe: Recipe | None = None,
    words: tuple[str, str] = ("targets", "ignore"),
) -> Plan:
    """Choose what is factorized: the 2-D floating tensors, unless patterns say otherwise. Only headers are read.

    Parameters
    ----------
    source : path-like
        A safetensors file or a directory (see `sparsefact.io.checkpoint.open_checkpoint`).
    density : float, optional
        In (0, 1]: the two factors of a matrix together hold at most ``floor(density * m * n)`` nonzeros.
    include : str or iterable of str, optional
        Patterns (``*``, ``?``, ``[...]``, or a regular expression after ``re:``; case matters): only tensors whose name
        matches one are factorized. A pattern with wildcards passes over what cannot be factorized; a name in full
        insists, and is an error then.
    exclude : str or iterable of str, optional
        Patterns of tensors that are copied even if they are included.
    recipe : Recipe, optional
        Instead of `density`, `include` and `exclude`, which make a recipe of one rule.
    words : (str, str), optional
        What the caller calls the targets and the ignored patterns of a recipe, for the sentences.

    Returns
    -------
    Plan
        Targets and copied tensors together are all tensors of the checkpoint. A matrix that is too small for the
        density, since each row of a factor needs an entry, is copied.

    Raises
    ------
    ArgumentError
        If a pattern of targets matches no tensor at all, or `source` is a file that sparsefact itself has written.
    BudgetError
        If the density is outside (0, 1], or too small for a tensor that is included by its full name, or for every
        one that could be factorized.
    DtypeError, ShapeError
        If a tensor that is included by its full name is not a floating matrix.
    StorageError, FormatError
        If the checkpoint cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sparsefact.io.write import write_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "model.safetensors"
    ...     write_tensors(path, {"w": np.ones((20, 30)), "bias": np.ones(20)})
    ...     work = plan(path, density=0.5)
    >>> [(target.name, target.budget) for target in work.targets]
    [('w', 300)]
    >>> work.copied
    (Copied(name='bias', reason='it has 1 dimension'),)
    """
    if recipe is None:
        words = ("include", "exclude")
        included, excluded = _patterns("include", include), _patterns("exclude", exclude)
        density = check_density("density", density)
        recipe = Recipe((Rule(targets=included or ("*",), ignore=excluded, density=density),))
    with open_checkpoint(source) as checkpoint:
        _refuse_factor_file(checkpoint)
        for rule in recipe.rules:
            for pattern in rule.targets:
                if pattern != "*" and not any(matches(name, pattern) for name in checkpoint.names):
                    raise _matches_nothing(words[0], pattern, checkpoint)
        supports = {rule.support: read_support(rule.support) for rule in recipe.rules if rule.support is not None}
        targets: list[Target] = []
        copied: list[Copied] = []
        unfit: list[BudgetError | ShapeError] = []
        for name in checkpoint.names:
            info = checkpoint.info(name)
            rule_index = recipe.rule_of(name)
            reason = _left_out(name, recipe, words) if rule_index is None else None
            if rule_index is not None:
                rule = recipe.rules[rule_index]
                try:
                    if rule.constraint != "copy":
                        targets.append(_target(info, rule, recipe.total, supports.get(rule.support or "")))
                        continue
                    reason = f"rule {rule_index + 1} copies it"
                except (ArgumentError, BudgetError, DtypeError, ShapeError) as error:
                    # The name in full is what insists; a tensor's name may itself contain wildcards.
                    if name in rule.targets:
                        raise
                    if isinstance(error, BudgetError) or (isinstance(error, ShapeError) and _misfits(info, rule)):
                        unfit.append(error)
                    reason = _reason(info, rule, recipe.total, error)
            copied.append(Copied(name, reason or ""))
    if unfit and not targets:
        raise unfit[0]
    _refuse_taken_names(targets, copied)
    _refuse_missing_grams(targets)
    return Plan(Path(source), tuple(targets), tuple(copied), recipe)


def _patterns(argument: str, patterns: str | Iterable[str]) -> tuple[str, ...]:
    listed = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in listed:
        if not isinstance(pattern, str):
            raise ArgumentError(f"{argument} holds {pattern!r}, and it must be a pattern or several patterns of text")
    return listed


def _matches_nothing(word: str, pattern: str, checkpoint: Checkpoint) -> ArgumentError:
    names = checkpoint.names[:_COMPARED]
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
    hint = f"the nearest names are {', '.join(quoted(name) for name in near)}" if near else "it has no tensors"
    return ArgumentError(
        f"{word} is {quoted(pattern)}, which matches none of the {len(checkpoint.names)} tensors of "
        f"{checkpoint.path}; {hint}"
    )


def _left_out(name: str, recipe: Recipe, words: tuple[str, str]) -> str:
    """Return why no rule takes a tensor."""
    for rule in recipe.rules:
        for pattern in rule.ignore:
            if matches(name, pattern):
                return f"it matches the {words[1]} pattern {quoted(pattern)}"
    return f"it matches no {words[0]} pattern"


def _target(info: TensorInfo, rule: Rule, total: float | None, support: Support | None) -> Target:
    who = f"tensor {quoted(info.name)}"
    if len(info.shape) != 2:
        raise ShapeError(
            f"{who} has the shape {info.shape}, and only matrices, with 2 dimensions, can be factorized; leave it out"
        )
    if info.dtype not in COMPUTABLE:
        raise DtypeError(
            f"{who} has the dtype {info.dtype}, and only {', '.join(COMPUTABLE)} can be factorized; cast it or "
            f"leave it out"
        )
    rows, columns = info.shape
    if min(rows, columns) < 2:
        raise ShapeError(
            f"{who} has the shape {info.shape}, and at least 2 rows and 2 columns are needed; leave it out"
        )
    try:
        constraint = build_constraint(
            rule.constraint,
            (rows, columns),
            density=_density(rule, total, (rows, columns)),
            block=rule.block,
            blocks=rule.blocks,
            rank=rule.rank,
            inner=rule.inner,
            support=support,
        )
    except BudgetError as error:
        raise BudgetError(f"{who}: {error}; or leave it out with --exclude") from None
    except (ArgumentError, ShapeError) as error:
        raise type(error)(f"{who}: {error}") from None
    if "density" in CONSTRAINTS[rule.constraint] and rule.density is None:
        constraint = None
    return Target(info.name, (rows, columns), info.dtype, info.nbytes, constraint, rule)


def _density(rule: Rule, total: float | None, shape: tuple[int, int]) -> float | None:
    """Return the density at which a matrix must have a factorization to be a target."""
    if "density" not in CONSTRAINTS[rule.constraint]:
        return None
    if rule.density is not None:
        return rule.density
    return held_density(1.0 if rule.tolerance is not None or total is None else total, shape, rule.inner)


def _reason(info: TensorInfo, rule: Rule, total: float | None, error: Exception) -> str:
    """Return in a few words why `_target` refused a tensor."""
    dimensions = len(info.shape)
    if dimensions != 2:
        return f"it has {dimensions} dimension{'' if dimensions == 1 else 's'}"
    if info.dtype not in COMPUTABLE:
        return f"its dtype is {info.dtype}"
    if min(info.shape) < 2:
        return "it is a single row or column" if min(info.shape) else "it is empty"
    if isinstance(error, BudgetError):
        return f"it is too small for the density {_density(rule, total, (info.shape[0], info.shape[1])):g}"
    if rule.support is not None:
        return str(error).split("; ")[0].split(": ", 1)[1]
    if rule.block is not None:
        return f"blocks of {rule.block[0]} x {rule.block[1]} do not divide it"
    return f"its shape does not fit the constraint {rule.constraint!r}"


def _misfits(info: TensorInfo, rule: Rule) -> bool:
    """Return whether only the blocks or the support of a rule keep a matrix from being factorized."""
    if len(info.shape) != 2 or info.dtype not in COMPUTABLE or min(info.shape) < 2:
        return False
    if rule.block is None:
        return rule.support is not None
    return any(side % length for side, length in zip(info.shape, rule.block, strict=True))


def _refuse_factor_file(checkpoint: Checkpoint) -> None:
    """Refuse what sparsefact has written: copying its tensors without their records would lose the matrices."""
    for path in checkpoint.files:
        with TensorFile(path) as file:
            if KEY in file.metadata:
                raise ArgumentError(
                    f"source is {path}, a file of factors that sparsefact has written; give the checkpoint it came from"
                )


def _refuse_missing_grams(targets: Sequence[Target]) -> None:
    """Refuse a file of Gram matrices that lacks one that a rule asks for."""
    wanted = {source for target in targets for source in target.rule.grams.items()}
    for kind, path in sorted(wanted):
        with TensorFile(path) as file:
            for target in targets:
                if target.rule.grams.get(kind) == path:
                    check_gram_entry(file, target.name, target.shape, kind)


def _refuse_taken_names(targets: Sequence[Target], copied: Sequence[Copied]) -> None:
    """Refuse tensors whose names the factors are going to have."""
    own = {target.name for target in targets}
    for name in [*own, *(tensor.name for tensor in copied)]:
        parts = name.split(".factors.")
        for end in range(1, len(parts)):
            if ".factors.".join(parts[:end]) in own:
                matrix = ".factors.".join(parts[:end])
                raise ArgumentError(
                    f"the tensor {quoted(name)} has a name that the factors of {quoted(matrix)} would take; "
                    f"rename it, or exclude {quoted(matrix)}"
                )
