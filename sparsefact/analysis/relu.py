"""Whether training a ReLU network with fixed sparse supports always has an optimum.

What is known is in Q.-T. Le, E. Riccietti, R. Gribonval, "Does a sparse ReLU network training problem always admit an
optimum?" (NeurIPS 2023, arXiv 2306.02666); the three results below are called Theorems IV, V and VI in the slides
"Algorithmic and theoretical aspects of sparse deep neural networks" (Q.-T. Le, 2023):

* IV: two layers and one output: an optimum exists for every training set, whatever the supports;
* V: two layers: if an optimum exists for every training set, the products of the two factors form a closed set;
* VI: N layers: the same for the products of the N factors.

The converse of V and VI fails: fully connected networks have closed products, and training sets without an optimum.
So these results say yes (IV), or no (a set of products that is not closed), or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsefact.analysis.deep_closedness import DeepClosedness, deep_closedness
from sparsefact.constraints.base import check_int
from sparsefact.errors import ArgumentError, ShapeError

__all__ = ["TrainingWellposed", "relu_training_wellposed"]


@dataclass(frozen=True)
class TrainingWellposed:
    """Whether an optimum exists for every training set.

    Attributes
    ----------
    wellposed : True, False or None
        True: for every training set. False: there is a training set without an optimum. None: not known.
    reason : str
        The theorem, in a sentence.
    closedness : DeepClosedness or None
        The verdict on the linear products that the answer rests on, where it does.
    """

    wellposed: bool | None
    reason: str
    closedness: DeepClosedness | None = None


def relu_training_wellposed(supports: Sequence[Any], output_dim: int) -> TrainingWellposed:
    """Say what is known about optima of training a ReLU network whose layers have fixed supports.

    The network is ``x -> F_1 relu(F_2 relu(... F_N x))``, and the loss is the squared error on a finite training set.

    Parameters
    ----------
    supports : sequence of Support, KroneckerSupport, boolean arrays or scipy.sparse arrays
        Of the weights, from the output to the input as in the product ``F_1 F_2 ... F_N``; two or more.
    output_dim : int
        Outputs of the network: the rows of the first support.

    Returns
    -------
    TrainingWellposed

    Raises
    ------
    ArgumentError, DtypeError, ShapeError
        If there are fewer than two supports, they are not boolean or do not fit, or the first one does not have
        `output_dim` rows.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> lower = np.tri(3, dtype=bool)
    >>> sf.relu_training_wellposed([lower, lower.T], 3).wellposed
    False
    >>> sf.relu_training_wellposed([lower[2:], lower.T], 1).wellposed
    True
    """
    output_dim = check_int("output_dim", output_dim)
    listed = list(supports)
    if len(listed) < 2:
        raise ArgumentError(
            f"supports has {len(listed)} entries; a ReLU network has two layers or more, give one support each"
        )
    answer = deep_closedness(listed)
    rows = listed[0].shape[0]
    if rows != output_dim:
        raise ShapeError(
            f"supports[0] has {rows} rows, but output_dim is {output_dim}; list the supports from output to input"
        )
    if len(listed) == 2 and output_dim == 1:
        return TrainingWellposed(
            True, "Two layers and one output: an optimum exists for every training set (Theorem IV)."
        )
    theorem = "V" if len(listed) == 2 else "VI"
    if answer.verdict == "not closed":
        return TrainingWellposed(
            False,
            "The products of factors with these supports do not form a closed set, so that some training set has no "
            f"optimum (Theorem {theorem}).",
            answer,
        )
    return TrainingWellposed(
        None,
        f"The products are {answer.verdict}: Theorem {theorem} excludes only supports that are not closed.",
        answer,
    )
