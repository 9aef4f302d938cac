"""The names that recipes and the command line give to constraints and solvers: one table of each.

A new solver or constraint becomes available to both by its line here. Nothing is imported, so that help stays light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CONSTRAINTS", "GRAMS", "SOLVERS", "NamedSolver", "shown_solvers", "solvers_for"]


@dataclass(frozen=True, slots=True)
class NamedSolver:
    """Where a solver is, and what it can solve.

    Attributes
    ----------
    module, name : str
        Of its dataclass, whose fields are its options.
    constraints : tuple of str
        The names of `CONSTRAINTS` that it goes with.
    preset : mapping
        Fields that the name itself says.
    """

    module: str
    name: str
    constraints: tuple[str, ...]
    preset: Mapping[str, Any] = field(default_factory=dict)


CONSTRAINTS: dict[str, tuple[str, ...]] = {
    "double-sparse": ("density", "tolerance", "inner", "support"),
    "single": ("density", "tolerance", "block"),
    "monarch": ("blocks", "rank"),
    "butterfly": (),
}
"""Constraints by name, with the keys of a rule that belong to them."""

GRAMS = ("gram", "left_gram")
"""Keys of a rule for files of Gram matrices, of columns and of rows; also the ends of the names in such a file."""

_ONE = ("single",)
_CHAINS = ("monarch", "butterfly")

SOLVERS: dict[str, NamedSolver] = {
    "alternating": NamedSolver("sparsefact.factorizers.alternating", "Alternating", ("double-sparse", "monarch")),
    "als": NamedSolver("sparsefact.factorizers.als", "AlternatingLeastSquares", ("monarch",)),
    "hierarchical": NamedSolver("sparsefact.factorizers.hierarchical", "Hierarchical", _CHAINS),
    "palm": NamedSolver("sparsefact.factorizers.palm", "PALM", _CHAINS),
    "admm": NamedSolver("sparsefact.minimizers.admm", "ADMM", _ONE),
    "iht": NamedSolver("sparsefact.minimizers.iht", "IHT", _ONE),
    "htp": NamedSolver("sparsefact.minimizers.iht", "IHT", _ONE, {"variant": "htp"}),
    "matching-pursuit": NamedSolver("sparsefact.minimizers.matching_pursuit", "MatchingPursuit", _ONE),
    "sequential-attention": NamedSolver("sparsefact.minimizers.sequential_attention", "SequentialAttention", _ONE),
    "deep-weight-factorization": NamedSolver(
        "sparsefact.minimizers.deep_weight_factorization", "DeepWeightFactorization", _ONE
    ),
}
"""Solvers by name."""


def solvers_for(constraint: str) -> tuple[str, ...]:
    """Return the names of the solvers that go with a constraint.

    Parameters
    ----------
    constraint : str
        One of `CONSTRAINTS`.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> solvers_for("butterfly")
    ('hierarchical', 'palm')
    """
    return tuple(name for name, solver in SOLVERS.items() if constraint in solver.constraints)


def shown_solvers() -> str:
    """Return the solvers of every constraint in one line, for a help text.

    Returns
    -------
    str

    Examples
    --------
    >>> shown_solvers().split("; ")[0]
    'for double-sparse: alternating'
    """
    return "; ".join(f"for {constraint}: {', '.join(solvers_for(constraint))}" for constraint in CONSTRAINTS)
