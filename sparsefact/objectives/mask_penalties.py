"""What a decayed mask does to the blocks it multiplies: the nonconvex regulariser that it amounts to.

Let a block be the product ``u = m(w) beta`` of a mask value and weights, both decayed. For given ``a = ||u||`` the
cheapest way to write it costs

    q(a) = min over w of  decay(w) + (a / m(w))^2,

so decaying masks and weights is the same as the penalty ``sum over blocks of q(||u_b||)``, up to the decay's factor.
Three masks have a closed form:

| mask m(w) | decay(w) | q(a) | best m(w) |
|---|---|---|---|
| w | w^2, half of both | a: the group lasso | sqrt(a) |
| w | abs(w) | 3 / 2^(2/3) a^(2/3) | (2 a^2)^(1/3) |
| exp(w) | w^2 | v^2 + v with v exp(2 v) = a^2, v = W(2 a^2) / 2 | exp(v) |

(W is Lambert's function.) Group powerpropagation, ``u = ||beta|| beta`` with decay ``||beta||^2``, costs ``||u||``: the
group lasso again.

Where q is subadditive, ``sum_b ||u_b|| <= q^-1(sum_b q(||u_b||))`` with equality for a single nonzero block: if the
group lasso has a unique solution of at most one block, it is also the unique solution with ``q^-1(sum q)`` in place of
the sum.
`LogSumMask` is not: near zero it is a^2 and spreads over blocks like a ridge; it grows like log(a)^2 only for large a.

Reference: "SequentialAttention++ for block sparsification", arXiv 2402.17902 (Lemmas 2.1 to 2.5 and
Theorem 1.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["GroupLassoMask", "LogSumMask", "MaskPenalty", "TwoThirdsMask"]

Array = NDArray[Any]


class MaskPenalty(Protocol):
    """The regulariser of a decayed mask, as a function of the norms of blocks (non-negative real arrays)."""

    subadditive: ClassVar[bool]
    """Whether q(a + b) <= q(a) + q(b) for all a, b >= 0."""

    def value(self, norms: Array) -> Array:
        """Return q of every norm."""
        ...

    def inverse(self, values: Array) -> Array:
        """Return the norms at which q has these values."""
        ...

    def mask(self, norms: Array) -> Array:
        """Return the mask value that attains q, positive for positive norms."""
        ...

    def cost(self, mask: Array, norms: Array) -> Array:
        """Return what is minimised: the decay of a positive mask value, and of the weights that it leaves."""
        ...


@dataclass(frozen=True)
class GroupLassoMask:
    """A mask that multiplies, both squared and halved: the group lasso.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.objectives.mask_penalties import GroupLassoMask
    >>> GroupLassoMask().value(np.array([0.0, 2.0]))
    array([0., 2.])
    """

    subadditive: ClassVar[bool] = True

    def value(self, norms: Array) -> Array:
        """Return the norms."""
        return norms

    def inverse(self, values: Array) -> Array:
        """Return the values."""
        return values

    def mask(self, norms: Array) -> Array:
        """Return the square roots of the norms."""
        root: Array = norms**0.5
        return root

    def cost(self, mask: Array, norms: Array) -> Array:
        """Return ``(w^2 + (a / w)^2) / 2``."""
        cost: Array = (mask**2 + (norms / mask) ** 2) / 2
        return cost


@dataclass(frozen=True)
class TwoThirdsMask:
    """A mask that multiplies, with its magnitude decayed: the power 2/3.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.objectives.mask_penalties import TwoThirdsMask
    >>> TwoThirdsMask().value(np.array([0.0, 2.0]))    # (2 a^2)^(1/3) = 2 for the mask and (2 / 2)^2 = 1
    array([0., 3.])
    """

    subadditive: ClassVar[bool] = True

    def value(self, norms: Array) -> Array:
        """Return ``1.5 (2 a^2)^(1/3)``."""
        value: Array = 1.5 * self.mask(norms)
        return value

    def inverse(self, values: Array) -> Array:
        """Return the norms at which q has these values."""
        norms: Array = ((values / 1.5) ** 3 / 2) ** 0.5
        return norms

    def mask(self, norms: Array) -> Array:
        """Return ``(2 a^2)^(1/3)``."""
        mask: Array = (2 * norms**2) ** (1 / 3)
        return mask

    def cost(self, mask: Array, norms: Array) -> Array:
        """Return ``|w| + (a / w)^2``."""
        cost: Array = mask + (norms / mask) ** 2
        return cost


@dataclass(frozen=True)
class LogSumMask:
    """An exponential mask with its logit squared: like a^2 near zero and like log(a)^2 far away. NumPy arrays only.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.objectives.mask_penalties import LogSumMask
    >>> bool(np.isclose(LogSumMask().value(np.exp(1.0)), 2.0))    # v = 1
    True
    """

    subadditive: ClassVar[bool] = False

    def value(self, norms: Array) -> Array:
        """Return ``v^2 + v``."""
        v = _logit(norms)
        return v**2 + v

    def inverse(self, values: Array) -> Array:
        """Return ``sqrt(v) exp(v)``, where ``v^2 + v`` is the value."""
        # 2 q / (1 + sqrt(1 + 4 q)) has all its digits near zero
        v = 2 * values / (1 + np.sqrt(1 + 4 * values))
        norms: Array = np.sqrt(v) * np.exp(v)
        return norms

    def mask(self, norms: Array) -> Array:
        """Return ``exp(v)``."""
        mask: Array = np.exp(_logit(norms))
        return mask

    def cost(self, mask: Array, norms: Array) -> Array:
        """Return ``log(m)^2 + (a / m)^2``."""
        cost: Array = np.log(mask) ** 2 + (norms / mask) ** 2
        return cost


def _logit(norms: Array) -> Array:
    """Return v with ``v exp(2 v) = a^2``."""
    from scipy.special import lambertw

    squares: Any = 2 * np.asarray(norms) ** 2
    v: Any = lambertw(squares).real / 2
    return np.asarray(v)
