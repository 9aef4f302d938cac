"""A recipe: which tensors are factorized and how, as a TOML file says it and as a run remembers it."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsefact.checkpoints.methods import build_solver
from sparsefact.checkpoints.names import CONSTRAINTS, GRAMS
from sparsefact.checkpoints.pairs import Inner, check_inner, support_file
from sparsefact.constraints.base import check_density, check_int
from sparsefact.constraints.block_top_k import BlockTopK
from sparsefact.errors import ArgumentError, BudgetError, FormatError
from sparsefact.io.failure import quoted, storage_error

__all__ = ["RECIPE_NAME", "Recipe", "Rule", "matches", "read_recipe"]

RECIPE_NAME = "recipe.toml"
FORMAT = 1
_MOST = 4_000_000  # bytes of a recipe that are read


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the tensors that a list of patterns chooses.

    Attributes
    ----------
    targets : tuple of str
        Shell patterns (``*``, ``?``, ``[...]``; case matters), or regular expressions after ``re:``, which must match
        the whole name. A name in full insists: it is an error when its tensor cannot be factorized.
    ignore : tuple of str
        Patterns of tensors that the rule passes over; the rules after it may still take them.
    constraint : str
        A name of `sparsefact.checkpoints.names.CONSTRAINTS`, or ``"copy"``.
    density : float or None
        Of ``double-sparse``: nonzeros of both factors together, as a fraction of the entries. Of ``single``: those of
        the one sparse matrix.
    tolerance : float or None
        Instead of a density: the smallest density of a grid whose relative error is at most this.
    inner : int, float, "auto" or None
        Of ``double-sparse``: the inner dimension, as a number, as a multiple of the shorter side (a float), or as
        `sparsefact.double_sparse` chooses it; None for the shorter side.
    support : str or None
        Of ``double-sparse`` with a density: a file with the mask of one factor, the same for all matrices of the rule,
        as `sparsefact.io.masks.read_mask` takes it (``masks.safetensors:NAME`` for one tensor of several).
    block : (int, int) or None
        Of ``single``: rows and columns of the blocks that are kept or dropped whole; None for single entries.
    blocks : (int, int) or None
        Of ``monarch``.
    rank : int
        Of ``monarch``.
    solver : str or None
        A name of `sparsefact.checkpoints.names.SOLVERS`, one that goes with the constraint; None leaves the choice to
        `sparsefact.factorize`.
    options : mapping
        The solver's hyper-parameters.
    gram : str or None
        A safetensors file of Gram matrices of the inputs, ``<layer>.gram`` for the tensor ``<layer>.weight``.
    left_gram : str or None
        The same of the gradients at the outputs, ``<layer>.left_gram``.

    Raises
    ------
    ArgumentError, BudgetError
        If a value is outside what is allowed.

    Examples
    --------
    >>> Rule(targets=("*.weight",), density=0.3).takes("layers.0.weight")
    True
    """

    targets: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    constraint: str = "double-sparse"
    density: float | None = None
    tolerance: float | None = None
    inner: Inner = None
    support: str | None = None
    block: tuple[int, int] | None = None
    blocks: tuple[int, int] | None = None
    rank: int = 1
    solver: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    gram: str | None = None
    left_gram: str | None = None

    def __post_init__(self) -> None:
        for pattern in (*self.targets, *self.ignore):
            _check_pattern(pattern)
        if self.constraint != "copy" and self.constraint not in CONSTRAINTS:
            raise ArgumentError(
                f"constraint is {quoted(self.constraint)}, and it must be one of {', '.join([*CONSTRAINTS, 'copy'])}"
            )
        for name in ("density", "tolerance", "inner", "support", "block", "blocks"):
            if getattr(self, name) is not None and name not in CONSTRAINTS.get(self.constraint, ()):
                raise ArgumentError(f"{name} does not belong to the constraint {self.constraint!r}; leave it out")
        if self.density is not None:
            object.__setattr__(self, "density", check_density("density", self.density))
        if self.tolerance is not None:
            if self.density is not None:
                raise ArgumentError("density and tolerance are both given, and one says what the other asks; leave one")
            if not isinstance(self.tolerance, int | float) or not 0 < self.tolerance < 1:
                raise BudgetError(f"tolerance={self.tolerance!r} is outside (0, 1); pass the largest relative error")
        check_inner(self.inner)
        if self.support is not None and self.density is None:
            raise BudgetError("support needs a density, which says what is left for the other factor; give one")
        if self.block is not None:
            object.__setattr__(self, "block", BlockTopK(self.block, density=1.0).block)
        check_int("rank", self.rank)
        build_solver(self.solver, self.options, self.constraint)

    @property
    def grams(self) -> dict[str, str]:
        """The files of Gram matrices that there are, by `sparsefact.checkpoints.names.GRAMS`."""
        return {kind: path for kind in GRAMS if (path := getattr(self, kind)) is not None}

    def takes(self, name: str) -> bool:
        """Return whether this rule is for the tensor of this name."""
        chosen = any(matches(name, pattern) for pattern in self.targets)
        return chosen and not any(matches(name, pattern) for pattern in self.ignore)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules in order, of which the first that matches a tensor counts, and what holds for all of them.

    Attributes
    ----------
    rules : tuple of Rule
        At least one. Tensors that no rule takes are copied.
    total : float or None
        A budget for all targets of ``double-sparse`` that have neither density nor tolerance: nonzeros together, as a
        fraction of their entries. It is spread over them by their measured error curves.
    seed : int
        Of the solvers' random numbers.
    device : str or None
        Where to compute.
    threads_per_job : int or None
        Threads of the BLAS in each job, which the last bits of a result depend on; None for what the run finds.

    Examples
    --------
    >>> recipe = Recipe((Rule(targets=("*.weight",), density=0.3),), seed=1)
    >>> print(recipe.as_toml())
    format = 1
    seed = 1
    <BLANKLINE>
    [[rules]]
    targets = ["*.weight"]
    constraint = "double-sparse"
    density = 0.3
    <BLANKLINE>
    """

    rules: tuple[Rule, ...]
    total: float | None = None
    seed: int = 0
    device: str | None = None
    threads_per_job: int | None = None

    def __post_init__(self) -> None:
        if not self.rules:
            raise ArgumentError("rules is empty, and a recipe needs at least one")
        if self.total is not None:
            object.__setattr__(self, "total", check_density("total", self.total))
        check_int("seed", self.seed, 0)
        if self.threads_per_job is not None:
            check_int("threads_per_job", self.threads_per_job)
        for number, rule in enumerate(self.rules, 1):
            if "density" not in CONSTRAINTS.get(rule.constraint, ()):
                continue
            if rule.density is not None or rule.tolerance is not None:
                continue
            if rule.constraint != "double-sparse":
                raise BudgetError(
                    f"rule {number} has neither density nor tolerance, and a budget in total is shared by "
                    f"'double-sparse' matrices only; give one"
                )
            if self.total is None:
                raise BudgetError(
                    f"rule {number} has neither density nor tolerance, and there is no budget in total; give one"
                )

    def rule_of(self, name: str) -> int | None:
        """Return the index of the first rule that takes the tensor of this name, or None."""
        return next((index for index, rule in enumerate(self.rules) if rule.takes(name)), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON and TOML can hold it, without what is as by default."""
        document: dict[str, Any] = {"format": FORMAT}
        if self.seed:
            document["seed"] = self.seed
        for name in ("device", "threads_per_job"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        if self.total is not None:
            document["budget"] = {"total": self.total}
        document["rules"] = []
        for rule in self.rules:
            listed: dict[str, Any] = {"targets": list(rule.targets)}
            if rule.ignore:
                listed["ignore"] = list(rule.ignore)
            listed["constraint"] = rule.constraint
            for name in ("density", "tolerance", "inner", "support", "solver", *GRAMS):
                if getattr(rule, name) is not None:
                    listed[name] = getattr(rule, name)
            for name in ("block", "blocks"):
                if getattr(rule, name) is not None:
                    listed[name] = list(getattr(rule, name))
            if rule.rank != 1:
                listed["rank"] = rule.rank
            if rule.options:
                listed["options"] = dict(rule.options)
            document["rules"].append(listed)
        return document

    def as_toml(self) -> str:
        """Return the recipe as the text of a TOML file that `read_recipe` reads back to an equal one."""
        document = self.as_dict()
        lines = [f"{key} = {_toml(value)}" for key, value in document.items() if key not in ("budget", "rules")]
        if "budget" in document:
            lines += ["", "[budget]", f"total = {_toml(self.total)}"]
        for rule in document["rules"]:
            lines += ["", "[[rules]]"]
            lines += [f"{key} = {_toml(value)}" for key, value in rule.items() if key != "options"]
            if "options" in rule:
                lines += [f"options.{key} = {_toml(value)}" for key, value in rule["options"].items()]
        return "\n".join(lines) + "\n"


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    r"""Read a recipe; every key is checked.

    Parameters
    ----------
    path : path-like
        A TOML file; docs/checkpoints.md tells what may stand in it.

    Returns
    -------
    Recipe
        Paths of Gram matrices and masks that are relative in the file are relative to its folder.

    Raises
    ------
    StorageError
        If it cannot be read.
    FormatError
        If it is not TOML, or has a key or a value that does not belong there; the sentence says where.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "recipe.toml"
    ...     _ = path.write_text('[[rules]]\ntargets = "*.weight"\ndensity = 0.3\n')
    ...     read_recipe(path).rules[0].density
    0.3
    """
    place = Path(path)
    try:
        with place.open("rb") as file:
            raw = file.read(_MOST + 1)
    except OSError as error:
        raise storage_error("read", place, error) from error
    if len(raw) > _MOST:
        raise FormatError(f"{place}: the recipe has more than {_MOST:,} bytes, the most that is read")
    try:
        document = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{place}: the recipe is not valid TOML in UTF-8: {quoted(str(error))[1:-1]}") from None
    return _recipe(document, place)


def _recipe(document: dict[str, Any], place: Path) -> Recipe:
    where = f"{place}"
    _check_keys(document, {"format", "seed", "device", "threads_per_job", "budget", "rules"}, where)
    if document.get("format", FORMAT) != FORMAT:
        raise FormatError(f"{where}: the recipe has format {document['format']!r}, but this version reads {FORMAT}")
    budget = _get(document, "budget", dict, where, {})
    _check_keys(budget, {"total"}, f"{where}: budget")
    listed = _get(document, "rules", list, where, [])
    rules = [_rule(rule, place, f"{where}: rule {number}") for number, rule in enumerate(listed, 1)]
    try:
        return Recipe(
            tuple(rules),
            total=_get(budget, "total", float, f"{where}: budget"),
            seed=_get(document, "seed", int, where, 0),
            device=_get(document, "device", str, where),
            threads_per_job=_get(document, "threads_per_job", int, where),
        )
    except (ArgumentError, BudgetError) as error:
        raise FormatError(f"{where}: {error}") from None


def _rule(listed: Any, place: Path, where: str) -> Rule:
    if not isinstance(listed, dict):
        raise FormatError(f"{where} is not a table; write [[rules]] before its keys")
    _check_keys(listed, {rule.name for rule in dataclasses.fields(Rule)}, where)
    fields: dict[str, Any] = {}
    for key, kind in (("constraint", str), ("solver", str), ("density", float), ("tolerance", float), ("rank", int)):
        if key in listed:
            fields[key] = _get(listed, key, kind, where)
    for key in ("targets", "ignore"):
        if key in listed:
            fields[key] = _texts(listed[key], f"{where}: {key}")
    for key in ("block", "blocks"):
        if key in listed:
            pair = listed[key]
            if not isinstance(pair, list) or len(pair) != 2 or not all(type(side) is int for side in pair):
                raise FormatError(f"{where}: {key} must be two integers, such as [4, 8]")
            fields[key] = tuple(pair)
    if "options" in listed:
        fields["options"] = _get(listed, "options", dict, where)
    if "inner" in listed:
        fields["inner"] = listed["inner"]
    if "support" in listed:
        path = _get(listed, "support", str, where)
        file = support_file(path)
        fields["support"] = str((place.parent / file).resolve()) + path[len(file) :]
    for key in GRAMS:
        if key in listed:
            fields[key] = str((place.parent / _get(listed, key, str, where)).resolve())
    try:
        return Rule(**fields)
    except (ArgumentError, BudgetError) as error:
        raise FormatError(f"{where}: {error}") from None


def matches(name: str, pattern: str) -> bool:
    r"""Return whether a tensor's name is the pattern, or is matched by it.

    Parameters
    ----------
    name : str
        Of a tensor.
    pattern : str
        A shell pattern, or a regular expression after ``re:``.

    Returns
    -------
    bool

    Examples
    --------
    >>> matches("layers.10.weight", r"re:layers\.\d+\.weight"), matches("layers.0.bias", "*.weight")
    (True, False)
    """
    if name == pattern:
        return True
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return fnmatch.fnmatchcase(name, pattern)


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, str):
        raise ArgumentError(f"a pattern is {pattern!r}, and it must be a text such as '*.weight'")
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except (re.error, RecursionError, OverflowError) as error:
            raise ArgumentError(f"the pattern {quoted(pattern)} is no regular expression: {error}") from None


def _check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise FormatError(f"{where} has the key {quoted(key)}, and there may be {', '.join(sorted(known))}")


def _get(table: Mapping[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    if key not in table:
        return default
    value = table[key]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise FormatError(f"{where}: {key} is {quoted(str(value))}, and it must be of type {kind.__name__}")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(text, str) for text in listed):
        raise FormatError(f"{where} must be a pattern, or a list of patterns")
    return tuple(listed)


def _toml(value: Any) -> str:
    """Return a value as TOML writes it; its basic strings have JSON's escapes, and DEL besides."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    return repr(value)
