"""The chains that have a name, built from their Kronecker patterns (a, b, c, d).

Symbols: A is m x n; the factors are K_1 ... K_L; q_l and p_l are the radices of the rows and of the columns, so that
m = q_1 ... q_L and n = p_1 ... p_L; r_l is the rank of the split behind factor l, and r_0 = r_L = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

from sparsefact.constraints.base import Shape, check_int, check_shape
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.errors import ArgumentError, ShapeError

__all__ = ["ChainBuilders", "Pattern", "prime_factors"]

Pattern = tuple[int, int, int, int]


class ChainBuilders:
    """The classmethods of `Chain` that build one."""

    factors: tuple[KroneckerSupport, ...]

    @classmethod
    def butterfly(cls, n: int) -> Self:
        """Return the butterfly of a composite size: one factor for each prime factor of `n`, all ranks 1.

        For a power of two these are the supports (2^(l-1), 2, 2, n / 2^l) of the fast Hadamard and Fourier transforms.

        Parameters
        ----------
        n : int
            Composite.

        Returns
        -------
        Chain

        Raises
        ------
        ArgumentError
            If `n` is not a composite integer; `Chain.monarch` takes primes.

        Examples
        --------
        >>> import sparsefact as sf
        >>> sf.Chain.butterfly(12)
        Chain(<12 x 12: (1, 2, 2, 6) (2, 2, 2, 3) (4, 3, 3, 1)>)
        """
        return cls._of(_butterfly(n))

    @classmethod
    def monarch(cls, shape: int | Shape, blocks: tuple[int, int] | None = None, rank: int = 1) -> Self:
        """Return the Monarch chain of two factors, (1, p, q r, m/p) and (q, r m/p, n/q, 1), of any rectangular shape.

        Its products are the matrices in which each of the m/p x q blocks of size p x (n/q) has rank at most r; a block
        has the rows of one residue modulo m/p and n/q consecutive columns. Source: Dao et al., "Monarch: expressive
        structured matrices for efficient and accurate training", arXiv:2204.00595.

        Parameters
        ----------
        shape : (int, int) or int
            (m, n), or the size of square matrices.
        blocks : (int, int), optional
            (p, q), where p divides m and q divides n. Unless given, the divisors next to the square roots that need
            the fewest nonzeros: p from above, q from below.
        rank : int
            The chain is redundant when it is at least min(p, n/q).

        Returns
        -------
        Chain

        Raises
        ------
        ArgumentError
            If p or q is no divisor, with the divisors there are.

        Examples
        --------
        >>> import sparsefact as sf
        >>> sf.Chain.monarch((12, 20), rank=2)
        Chain(<12 x 20: (1, 4, 8, 3) (4, 6, 5, 1)>)
        """
        return cls._of(_monarch(shape, blocks, rank))

    @classmethod
    def deformable(cls, factors: Sequence[tuple[int, int, int, int, int]]) -> Self:
        """Return a deformable butterfly from its factors R^(P,Q)_(s,t,u), from left to right.

        Such a factor is P x Q: k = P/(s u) = Q/(t u) diagonal blocks, each an s x t grid of u x u diagonal matrices,
        that is (a, b, c, d) = (k, s, t, u). Source: Lin, Ran, Chiu, Chesi, Wong, "Deformable butterfly: a highly
        structured and sparse linear transform", arXiv:2203.13556.

        Parameters
        ----------
        factors : sequence of (P, Q, s, t, u)

        Returns
        -------
        Chain

        Raises
        ------
        ShapeError
            If P and Q are not k*s*u and k*t*u with one integer k, or two neighbours do not fit.

        Examples
        --------
        >>> import sparsefact as sf
        >>> sf.Chain.deformable([(6, 4, 3, 2, 2), (4, 8, 2, 4, 1)])
        Chain(<6 x 8: (1, 3, 2, 2) (2, 2, 4, 1)>)
        """
        return cls._of(_deformable(factors))

    @classmethod
    def from_ranks(cls, rows: Sequence[int], cols: Sequence[int], ranks: int | Sequence[int]) -> Self:
        """Return the chain with given radices and ranks; every chain with dense products (a_1 = d_L = 1) is one.

        Parameters
        ----------
        rows : sequence of int
            Their product is m, one for each factor.
        cols : sequence of int
            Their product is n, one for each factor.
        ranks : sequence of int, or int
            One for each split, or one for all. The chain is not redundant exactly when
            ``r_s < min(rows_s * r_{s-1}, cols_{s+1} * r_{s+1})`` for every split, where r_0 = r_L = 1.

        Returns
        -------
        Chain

        Raises
        ------
        ArgumentError
            If the lengths do not fit.

        Examples
        --------
        >>> import sparsefact as sf
        >>> sf.Chain.from_ranks((4, 3), (5, 4), ranks=2)
        Chain(<12 x 20: (1, 4, 10, 3) (5, 6, 4, 1)>)
        """
        return cls._of(_from_ranks(rows, cols, ranks))

    @classmethod
    def block_diagonal(cls, chain: Self, a: int = 1, d: int = 1) -> Self:
        """Return the chain of ``I_a (x) chain (x) I_d``: independent products on the same supports.

        Parameters
        ----------
        chain : Chain
        a : int
            How many diagonal blocks.
        d : int
            How many interleaved copies in each: entries whose indices differ modulo d are zero.

        Returns
        -------
        Chain
            Chainable with the same ranks if `chain` is.

        Examples
        --------
        >>> import sparsefact as sf
        >>> sf.Chain.block_diagonal(sf.Chain.butterfly(4), a=3)
        Chain(<12 x 12: (3, 2, 2, 2) (6, 2, 2, 1)>)
        """
        if not isinstance(chain, cls):
            raise ArgumentError(f"chain={chain!r} is not a Chain; pass one, for instance Chain.butterfly(8)")
        a, d = check_int("a", a), check_int("d", d)
        return cls._of((a * each.a, each.b, each.c, d * each.d) for each in chain.factors)

    @classmethod
    def kaleidoscope(cls, n: int) -> Self:
        """Return the butterfly of size `n` followed by its transpose.

        It is not chainable (`obstacle` says where), so that `sparsefact.Hierarchical` refuses it; `sparsefact.PALM`
        takes it. Source: Dao et al., "Kaleidoscope: an efficient, learnable representation for all structured linear
        maps", arXiv:2012.14966.

        Parameters
        ----------
        n : int
            Composite.

        Returns
        -------
        Chain
            Twice as many factors as the butterfly.

        Raises
        ------
        ArgumentError
            If `n` is not a composite integer.
        """
        half = _butterfly(n)
        return cls._of([*half, *((a, c, b, d) for a, b, c, d in reversed(half))])

    @classmethod
    def _of(cls, patterns: Iterable[Pattern]) -> Self:
        return cls(tuple(KroneckerSupport(*pattern) for pattern in patterns))  # type: ignore[call-arg]


def _butterfly(n: Any) -> list[Pattern]:
    """Return one pattern per prime factor of the composite number `n`, the smallest prime first."""
    n = check_int("n", n, 2)
    primes = prime_factors(n)
    if len(primes) == 1:
        raise ArgumentError(
            f"n={n} is prime, and a butterfly needs a composite size; pad to one such as {_composite(n)}, or use "
            "Chain.monarch, which takes every size"
        )
    return _from_ranks(primes, primes, 1)


def _monarch(shape: Any, blocks: Any, rank: Any) -> list[Pattern]:
    """Return the two patterns whose products have p x (n / q) blocks of the given rank."""
    m, n = _shape(shape)
    rank = check_int("rank", rank)
    if blocks is None:
        # of all pairs of divisors next to the square roots, the one with the fewest nonzeros: r m q + r n m / p
        p, q = m // _largest_divisor(m), _largest_divisor(n)
    else:
        try:
            p, q = blocks
        except (TypeError, ValueError):
            raise ArgumentError(
                f"blocks={blocks!r} is no pair of integers; pass (p, q) with p a divisor of the {m} rows and q a "
                f"divisor of the {n} columns, or None"
            ) from None
        p, q = check_int("blocks[0]", p), check_int("blocks[1]", q)
        _check_divisor("blocks[0]", p, m, "rows")
        _check_divisor("blocks[1]", q, n, "columns")
    return [(1, p, q * rank, m // p), (q, rank * (m // p), n // q, 1)]


def _deformable(factors: Any) -> list[Pattern]:
    """Return the patterns of factors given as (P, Q, s, t, u)."""
    patterns = []
    for number, factor in enumerate(_items("factors", factors), 1):
        name = f"factor {number}"
        try:
            values = tuple(factor)
        except TypeError:
            values = ()
        if isinstance(factor, str) or len(values) != 5:
            raise ArgumentError(f"{name} is {factor!r}; pass five integers (P, Q, s, t, u): P rows, Q columns")
        P, Q, s, t, u = (check_int(f"{symbol} of {name}", value) for symbol, value in zip("PQstu", values, strict=True))
        k, rest = divmod(P, s * u)
        if rest or k * t * u != Q:
            raise ShapeError(
                f"{name} is (P, Q, s, t, u) = {(P, Q, s, t, u)}, but P = k*s*u and Q = k*t*u must hold with one "
                f"integer k, and P/(s*u) = {_ratio(P, s * u)} while Q/(t*u) = {_ratio(Q, t * u)}"
            )
        patterns.append((k, s, t, u))
    return patterns


def _from_ranks(rows: Any, cols: Any, ranks: Any) -> list[Pattern]:
    """Return a_l = p_1 ... p_{l-1}, b_l = q_l r_{l-1}, c_l = p_l r_l, d_l = q_{l+1} ... q_L."""
    q = [check_int(f"rows[{i}]", value) for i, value in enumerate(_items("rows", rows))]
    p = [check_int(f"cols[{i}]", value) for i, value in enumerate(_items("cols", cols))]
    if len(q) != len(p) or not q:
        raise ArgumentError(
            f"rows has {len(q)} numbers and cols has {len(p)}; pass one of each for every factor, at least one"
        )
    if isinstance(ranks, Iterable):
        r = [check_int(f"ranks[{i}]", value) for i, value in enumerate(ranks)]
    else:
        r = [check_int("ranks", ranks)] * (len(q) - 1)
    if len(r) != len(q) - 1:
        raise ArgumentError(
            f"ranks has {len(r)} numbers for {len(q)} factors; pass one for each of the {len(q) - 1} splits between "
            "them, or one integer for all"
        )
    inner = [1, *r, 1]
    return [
        (math.prod(p[:i]), q[i] * inner[i], p[i] * inner[i + 1], math.prod(q[i + 1 :]))  # 0-based i = l - 1
        for i in range(len(q))
    ]


def prime_factors(n: int) -> list[int]:
    """Return the prime factors of `n` >= 1 in ascending order, by trial division."""
    primes, divisor = [], 2
    while divisor * divisor <= n:
        while n % divisor == 0:
            primes.append(divisor)
            n //= divisor
        divisor += 1 if divisor == 2 else 2
    return [*primes, n] if n > 1 else primes


def _largest_divisor(n: int) -> int:
    """Return the largest divisor of `n` that is at most its square root."""
    return next(divisor for divisor in range(math.isqrt(n), 0, -1) if n % divisor == 0)


def _composite(n: int) -> int:
    """Return the power of two next to the prime `n`, from above."""
    return max(4, 1 << n.bit_length())


def _shape(shape: Any) -> Shape:
    if not isinstance(shape, Iterable):
        size = check_int("shape", shape)
        return size, size
    m, n = check_shape(shape)
    if 0 in (m, n):
        raise ShapeError(f"shape={(m, n)} is empty; pass at least one row and one column")
    return m, n


def _items(name: str, values: Any) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ArgumentError(f"{name}={values!r} is no sequence; pass a list with one entry for each factor")
    return list(values)


def _check_divisor(name: str, value: int, size: int, what: str) -> None:
    if size % value:
        divisors = [k for k in range(1, math.isqrt(size) + 1) if size % k == 0]
        divisors = sorted({*divisors, *(size // k for k in divisors)})
        if len(divisors) > 12:
            nearest = sorted(sorted(divisors, key=lambda k: abs(math.log(k / value)))[:6])
            allowed = f"the nearest of its {len(divisors)} divisors are {', '.join(map(str, nearest))}"
        else:
            allowed = f"its divisors are {', '.join(map(str, divisors))}"
        raise ArgumentError(f"{name}={value} does not divide the {size} {what}; {allowed}")


def _ratio(numerator: int, denominator: int) -> str:
    common = math.gcd(numerator, denominator)
    return f"{numerator // common}" + (f"/{denominator // common}" if denominator != common else "")
