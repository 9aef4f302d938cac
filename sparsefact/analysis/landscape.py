"""Can a descent method be trapped? What is proved about the local minima of ||A - L R|| on two fixed supports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sparsefact.analysis.support_pairs import as_pair
from sparsefact.analysis.tractability import COMPLETE, DISJOINT, NONE, tractability_of

__all__ = ["Landscape", "landscape"]


@dataclass(frozen=True)
class Landscape:
    """The answer of `landscape`.

    Attributes
    ----------
    benign : True or None
        True: proved that every local minimum is global, for every matrix. None: not known.
    reason : str
        The theorem, or why none applies.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> full = np.ones((4, 2), dtype=bool)
    >>> sf.landscape(full, full.T).benign
    True
    """

    benign: Literal[True] | None
    reason: str


def landscape(left: Any, right: Any) -> Landscape:
    """Tell whether every local minimum of ``||A - L R||`` on two supports is known to be global, for every matrix.

    Two facts are used. Low-rank approximation without constraints has no spurious local minimum, so neither has a sum
    of such problems on disjoint blocks with unknowns of their own (Le, Riccietti and Gribonval, arXiv 2112.00386).
    And at a local minimum a complete class leaves no residual on its rectangle: with all else fixed it sees an
    unconstrained problem whose minimum is zero. Together they settle supports whose classes are complete, or disjoint
    from all others.

    Parameters
    ----------
    left : Support, KroneckerSupport, boolean array or scipy.sparse array of shape (m, r)
    right : the same, of shape (r, n)

    Returns
    -------
    Landscape

    Raises
    ------
    DtypeError, ShapeError, ArgumentError
        If they are not two fixed supports that fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact import landscape
    >>> full = np.ones((4, 2), dtype=bool)
    >>> landscape(full, full.T).benign
    True
    >>> lower = np.tri(3, dtype=bool)
    >>> print(landscape(lower, lower.T).benign)
    None
    """
    answer = tractability_of(as_pair(left, right))
    if answer.rule == DISJOINT:
        return Landscape(
            True,
            "Every two rank-one supports are disjoint or equal, so the loss is a sum of independent low-rank "
            "approximations without constraints, none of which has a local minimum that is not global.",
        )
    if answer.rule == COMPLETE and not answer.partial:
        return Landscape(
            True,
            "Every class of equal rank-one supports is complete (as many terms as its rectangle has rows or columns) "
            "or disjoint from all others: at a local minimum a complete class leaves no residual on its rectangle, and "
            "the others are independent low-rank approximations without constraints.",
        )
    if answer.rule == NONE:
        return Landscape(
            None,
            "The supports are not known to be tractable, and local minima that are not global exist for such supports "
            "already in 3 x 3 products; sparsefact.probe_landscape counts what a descent finds.",
        )
    return Landscape(
        None,
        "The problem is solved exactly by SubmatrixSVD, but a class that is not complete overlaps others, and no "
        "theorem known to the package excludes local minima that are not global.",
    )
