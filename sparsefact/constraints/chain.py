"""Chains of Kronecker supports, A ~ K_1 K_2 ... K_L: butterfly, Monarch, deformable butterfly and all between them.

A pair of consecutive supports is *chainable* when a_l divides a_{l+1}, d_{l+1} divides d_l and the rank
r_l = a_l c_l / a_{l+1} = b_{l+1} d_{l+1} / d_l is an integer. The supports of its products are then one Kronecker
support again, every entry of it is a sum of r_l terms, and the pair splits into a_{l+1} d_l independent factorizations
of a b_l x c_{l+1} block into rank r_l. It is *redundant* when r_l >= min(b_l, c_{l+1}): the rank is no constraint then,
and the merged support has the same products (Zheng, Leon, Riccietti, Gribonval, "Butterfly factorization with error
guarantees", arXiv:2411.04506; Definitions and Algorithm of Section 4).

Symbols: L factors; split s, 1-based, lies between factors s and s + 1; p = a_{l+1} / a_l, q = d_l / d_{l+1}.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Shape, as_matrix, check_int, check_same_shape, is_sparse
from sparsefact.constraints.chain_builders import ChainBuilders, Pattern
from sparsefact.constraints.chain_rules import Merge, is_product, obstacle, reduction
from sparsefact.constraints.kronecker_pair import is_redundant, merge, pattern, rank, unmerge
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Chain"]


@dataclass(frozen=True, init=False, repr=False)
class Chain(ChainBuilders):
    """The products of matrices that are zero off given Kronecker supports, in order, from left to right.

    An immutable sequence of `KroneckerSupport`: ``len``, iteration, ``chain[0]``, and slices, which are chains.

    Parameters
    ----------
    factors : sequence of KroneckerSupport or of (a, b, c, d)
        At least one; each has as many rows as the one before has columns.

    Raises
    ------
    ArgumentError
        If there is no factor, or one is not a Kronecker support or four positive integers.
    ShapeError
        If the sizes of two neighbours do not fit.

    Examples
    --------
    >>> import sparsefact as sf
    >>> chain = sf.Chain.butterfly(8)
    >>> chain
    Chain(<8 x 8: (1, 2, 2, 4) (2, 2, 2, 2) (4, 2, 2, 1)>)
    >>> chain.ranks, chain.nnz
    ((1, 1), 48)
    >>> chain.partial(1, 2)
    KroneckerSupport(a=1, b=4, c=4, d=2)
    """

    factors: tuple[KroneckerSupport, ...]

    def __init__(self, factors: Iterable[KroneckerSupport | Pattern]) -> None:
        if isinstance(factors, (KroneckerSupport, str)) or not isinstance(factors, Iterable):
            raise ArgumentError(f"factors={factors!r} is no sequence; pass a list of KroneckerSupport")
        supports = tuple(_support(number, factor) for number, factor in enumerate(factors, 1))
        if not supports:
            raise ArgumentError("factors is empty; a chain has at least one KroneckerSupport")
        for number, (left, right) in enumerate(pairwise(supports), 1):
            if left.shape[1] != right.shape[0]:
                raise ShapeError(
                    f"factors {number} and {number + 1}, {pattern(left)} and {pattern(right)}, do not fit: the first "
                    f"has a*c*d = {left.shape[1]} columns and the second has a*b*d = {right.shape[0]} rows; they must "
                    "be equal"
                )
        object.__setattr__(self, "factors", supports)

    def __len__(self) -> int:
        return len(self.factors)

    def __iter__(self) -> Iterator[KroneckerSupport]:
        return iter(self.factors)

    @overload
    def __getitem__(self, index: int) -> KroneckerSupport: ...
    @overload
    def __getitem__(self, index: slice) -> Chain: ...
    def __getitem__(self, index: int | slice) -> KroneckerSupport | Chain:
        return Chain(self.factors[index]) if isinstance(index, slice) else self.factors[index]

    def __repr__(self) -> str:
        m, n = self.shape
        texts = [str(pattern(factor)) for factor in self.factors]
        if len(texts) > 6:
            texts[2:-2] = [f"... {len(texts)} factors ..."]
        return f"Chain(<{m} x {n}: {' '.join(texts)}>)"

    # what it is

    @property
    def shape(self) -> Shape:
        """Rows and columns of the products."""
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    @property
    def nnz(self) -> int:
        """How many entries of all factors together may be nonzero."""
        return sum(factor.nnz for factor in self.factors)

    @property
    def T(self) -> Chain:
        """The chain of the transposed products: the transposed supports in reverse order.

        Supports are real, so this is the chain of the adjoint as well. The transpose of a chainable chain is chainable
        only by exception (a divides from left to right); transpose the matrix instead.
        """
        return Chain(tuple(factor.T for factor in reversed(self.factors)))

    @property
    def is_chainable(self) -> bool:
        """Whether every pair of neighbours is chainable, which is what `sparsefact.Hierarchical` needs."""
        return obstacle(self.factors, 1, len(self)) is None

    def obstacle(self) -> str | None:
        """Say why the chain is not chainable.

        Returns
        -------
        str or None
            None for a chainable chain; otherwise a sentence with the first pair of neighbours and the condition that
            it breaks, and what takes such a chain.

        Examples
        --------
        >>> import sparsefact as sf
        >>> sf.Chain.kaleidoscope(4).obstacle()  # doctest: +ELLIPSIS
        'factors 3 and 4 of the chain, (2, 2, 2, 1) and (1, 2, 2, 2), are not chainable: a_3=2 does not divide a_4=1...
        """
        return obstacle(self.factors, 1, len(self))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each split, ``a_s * c_s / a_{s+1}``.

        Raises
        ------
        ArgumentError
            If the chain is not chainable, with the reason.
        """
        self._require_chainable()
        return tuple(rank(left, right) for left, right in pairwise(self.factors))

    @property
    def product(self) -> KroneckerSupport:
        """The support of the products.

        Raises
        ------
        ArgumentError
            If the chain is not chainable, with the reason.
        """
        return self.partial(1, len(self))

    def partial(self, first: int, last: int) -> KroneckerSupport:
        """Return the support of the products of some consecutive factors.

        Parameters
        ----------
        first, last : int
            1-based, both included.

        Returns
        -------
        KroneckerSupport
            (a_first, b_first d_first / d_last, a_last c_last / a_first, d_last).

        Raises
        ------
        ArgumentError
            If ``1 <= first <= last <= L`` does not hold, or two neighbours among these factors are not chainable.
        """
        first, last = check_int("first", first), check_int("last", last)
        if not first <= last <= len(self):
            raise ArgumentError(
                f"first={first} and last={last} are no range of the {len(self)} factors; pass 1-based numbers with "
                f"1 <= first <= last <= {len(self)}"
            )
        reason = obstacle(self.factors, first, last)
        if reason is not None:
            raise ArgumentError(reason)
        return merge(self.factors[first - 1], self.factors[last - 1])

    def merged(self, groups: Sequence[int]) -> Chain:
        """Return the chain with consecutive factors merged into the supports of their products.

        Parameters
        ----------
        groups : sequence of int
            How many factors each new factor takes, from left to right; their sum is L.

        Returns
        -------
        Chain
            Its products contain those of this chain.

        Raises
        ------
        ArgumentError
            If the sizes do not add up to L, or factors to merge are not chainable.

        Examples
        --------
        >>> import sparsefact as sf
        >>> sf.Chain.butterfly(16).merged([2, 2]) == sf.Chain.monarch(16)
        True
        """
        if isinstance(groups, str) or not isinstance(groups, Iterable):
            raise ArgumentError(f"groups={groups!r} is no sequence; pass how many factors each new factor takes")
        sizes = [check_int(f"groups[{i}]", size) for i, size in enumerate(groups)]
        if sum(sizes) != len(self):
            raise ArgumentError(
                f"groups={sizes} takes {sum(sizes)} factors, but the chain has {len(self)}; make them add up"
            )
        ends = np.cumsum(sizes).tolist()
        return Chain(tuple(self.partial(end - size + 1, end) for end, size in zip(ends, sizes, strict=True)))

    # redundancy

    @property
    def is_redundant(self) -> bool:
        """Whether the rank of a split is no constraint, so that `reduced` has fewer factors.

        Raises
        ------
        ArgumentError
            If the chain is not chainable, with the reason.
        """
        self._require_chainable()
        return any(is_redundant(left, right) for left, right in pairwise(self.factors))

    def reduced(self) -> Chain:
        """Return the chain without redundant pairs, which has the same products.

        Redundant neighbours are merged, the leftmost first, until there are none. `restore` goes back.

        Returns
        -------
        Chain
            This chain itself when it is not redundant.

        Raises
        ------
        ArgumentError
            If the chain is not chainable, with the reason.

        Examples
        --------
        >>> import sparsefact as sf
        >>> chain = sf.Chain.from_ranks((2, 3, 2), (2, 3, 2), ranks=(2, 1))
        >>> chain.reduced(), chain.kept_splits
        (Chain(<12 x 12: (1, 6, 6, 2) (6, 2, 2, 1)>), (2,))
        """
        merges, reduced = self._reduction()
        return Chain(reduced) if merges else self

    @property
    def kept_splits(self) -> tuple[int, ...]:
        """The splits of this chain, 1-based and ascending, that are the splits of ``reduced()``.

        Raises
        ------
        ArgumentError
            If the chain is not chainable, with the reason.
        """
        splits = list(range(1, len(self)))
        for position, _, _ in self._reduction()[0]:
            del splits[position]
        return tuple(splits)

    def restore(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return factors of this chain with exactly the product that factors of ``reduced()`` have.

        A merged factor goes to one of its two factors, and the other one becomes an identity on every block, padded
        with zeros; so no rounding happens.

        Parameters
        ----------
        values : sequence of (a, b, c, d) arrays
            The values of the factors of ``reduced()``, real or complex; not modified.

        Returns
        -------
        list of (a, b, c, d) arrays
            One for each factor of this chain. What was not merged is returned as it came, not copied.

        Raises
        ------
        ArgumentError
            If the chain is not chainable, or the number of arrays is not that of the factors of ``reduced()``.
        ShapeError
            If the shape of an array does not fit its factor.
        """
        merges, reduced = self._reduction()
        result = list(values)
        if len(result) != len(reduced):
            raise ArgumentError(
                f"values has {len(result)} arrays, but the reduced chain has {len(reduced)} factors; pass one for each"
            )
        for number, (array, factor) in enumerate(zip(result, reduced, strict=True), 1):
            if np.shape(array) != pattern(factor):
                raise ShapeError(
                    f"values of factor {number} have shape {np.shape(array)}, but the factor of the reduced chain is "
                    f"{pattern(factor)}; they must agree"
                )
        for position, left, right in reversed(merges):
            result[position : position + 1] = unmerge(result[position], left, right)
        return result

    # membership

    def count(self, shape: Shape | None = None) -> int:
        """Return how many entries of all factors together may be nonzero.

        Parameters
        ----------
        shape : (int, int), optional
            Checked against the shape of the products.

        Returns
        -------
        int
        """
        if shape is not None:
            check_same_shape(shape, self.shape, "chain")
        return self.nnz

    def contains(self, x: Any, *, rtol: float | None = None) -> bool:
        """Return whether the matrix `x` is a product of this chain, up to rounding.

        A matrix is one exactly when it is zero off the support of the products and every block of every split s has
        rank at most r_s (the generalized complementary low-rank property). Here the entries off the support, and for
        each split everything beyond the r_s largest singular values of its blocks, have a Frobenius norm of at most
        ``rtol * ||x||``. If so, a product lies within ``sqrt(L) * rtol * ||x||`` of `x`; if not, none lies within
        ``rtol * ||x||``.

        Parameters
        ----------
        x : (m, n) array or scipy.sparse matrix
            Finite, real or complex; not modified.
        rtol : float, optional
            At least 0; ``max(m, n)`` times the machine epsilon of the dtype of `x` unless given.

        Returns
        -------
        bool

        Raises
        ------
        ArgumentError
            If the chain is not chainable, or `rtol` is not a number of at least 0.
        ShapeError, DtypeError, NonFiniteError
            If `x` is not a finite, floating, 2-D array of the shape of the chain.

        Examples
        --------
        >>> import numpy as np, scipy.linalg
        >>> import sparsefact as sf
        >>> H = scipy.linalg.hadamard(8).astype(float)
        >>> sf.Chain.butterfly(8).contains(H), sf.Chain.butterfly(8).contains(H + np.eye(8))
        (True, False)
        """
        self._require_chainable()
        array = as_matrix("x", x.toarray() if is_sparse(x) else x)
        if array.shape != self.shape:
            raise ShapeError(f"x has shape {array.shape}, but the chain has shape {self.shape}; they must agree")
        array = array if array.dtype.itemsize >= 4 else array.astype(np.float32)
        tolerance = max(self.shape) * float(np.finfo(array.dtype).eps) if rtol is None else _check_rtol(rtol)
        reduced = self.reduced()
        return is_product(array, reduced.factors, reduced.ranks, tolerance)

    def contains_factors(self, factors: Sequence[Any]) -> bool:
        """Return whether each matrix, dense or scipy.sparse, is zero off its support.

        Parameters
        ----------
        factors : sequence of matrices
            One for each factor of the chain, of its shape.

        Returns
        -------
        bool

        Raises
        ------
        ArgumentError
            If the number of matrices is not that of the factors.
        ShapeError
            If a matrix does not have the shape of its support.
        """
        matrices = list(factors)
        if len(matrices) != len(self):
            raise ArgumentError(
                f"factors has {len(matrices)} matrices, but the chain has {len(self)}; pass one for each"
            )
        return all([support.contains(matrix) for support, matrix in zip(self.factors, matrices, strict=True)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the supports side by side, all to one scale, after the support of the products.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure of a fitting size unless given.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ArgumentError
            If matplotlib is not installed.
        """
        from sparsefact.constraints.chain_plot import plot

        return plot(self.factors, self.product if self.is_chainable else None, ax)

    # inside

    def _require_chainable(self) -> None:
        reason = self.obstacle()
        if reason is not None:
            raise ArgumentError(reason)

    def _reduction(self) -> tuple[list[Merge], tuple[KroneckerSupport, ...]]:
        self._require_chainable()
        return reduction(self.factors)


def _support(number: int, factor: Any) -> KroneckerSupport:
    if isinstance(factor, KroneckerSupport):
        return factor
    try:
        a, b, c, d = factor
    except (TypeError, ValueError):
        raise ArgumentError(
            f"factor {number} is {factor!r}; pass a KroneckerSupport or four positive integers (a, b, c, d)"
        ) from None
    return KroneckerSupport(
        *(check_int(f"{n} of factor {number}", v) for n, v in zip("abcd", (a, b, c, d), strict=True))
    )


def _check_rtol(rtol: Any) -> float:
    try:
        value = float(rtol)
    except (TypeError, ValueError):
        value = float("nan")
    if isinstance(rtol, str) or not 0 <= value < float("inf"):
        raise ArgumentError(f"rtol={rtol!r} is not a finite number of at least 0; pass one, or None for the default")
    return value
