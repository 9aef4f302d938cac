"""Certificates and evidence as a file of factors states them: read, checked for sense, and marked as not proved again.

A file can claim anything. What is read here is what the claim needs to be checked against the matrix: `verify` of the
result does that, by the path that a certificate fresh from a solver takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from sparsefact.analysis.certificates import PairCertificate
from sparsefact.analysis.chain_certificate import MOST_SPLITS, ChainCertificate
from sparsefact.analysis.closedness import closedness
from sparsefact.analysis.sampled_residual import SampledResidual
from sparsefact.analysis.stored_supports import encode_supports, read_supports
from sparsefact.analysis.support_pairs import SupportPair
from sparsefact.constraints.chain import Chain
from sparsefact.errors import FormatError
from sparsefact.products.factorization import Factorization
from sparsefact.products.factors import KroneckerFactor
from sparsefact.products.fields import Fields
from sparsefact.products.storage import read_part, unpack

__all__ = ["StatedVerdict", "read_record"]

_Read = Callable[[str], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class StatedVerdict:
    """What a file says about the existence of an optimum on the supports of two factors.

    Attributes
    ----------
    verdict : str
        "not closed": for some matrices there is no optimum.
    pair : SupportPair
    stated : bool
        True: the proof is not in the file.
    """

    verdict: str
    pair: SupportPair = field(repr=False)
    stated: bool = True

    def explain(self) -> str:
        """Return the verdict in words."""
        return (
            "a file states that the supports are not closed: there are matrices for which no optimum exists. "
            "verify() proves it again."
        )

    def verify(self) -> bool:
        """Decide the question again, from the supports alone, and check the proof of the answer."""
        answer = closedness(self.pair.left, self.pair.right)
        return answer.verdict == self.verdict and answer.verify()

    def stated_fields(self, F: Factorization) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what a file holds of it."""
        fields, arrays = encode_supports(self.pair, F)
        return {"kind": "closedness", "verdict": self.verdict, **fields}, arrays


def read_record(record: Any, read: _Read, *, where: str = "matrix") -> Factorization:
    """Return the product that a record describes, with its certificate and its evidence where there are some.

    Parameters
    ----------
    record, read, where
        As for `sparsefact.products.storage.unpack`.

    Returns
    -------
    Factorization
        Its certificate and evidence have ``stated`` set: they are what the file says. Kinds that are not known are
        left out.

    Raises
    ------
    FormatError
        As `unpack`; or a claim lacks a part, has numbers or arrays that cannot be, or contradicts itself.

    Examples
    --------
    >>> import sparsefact as sf
    >>> from sparsefact.products.storage import pack
    >>> A = np.random.default_rng(0).standard_normal((16, 16))
    >>> tensors, record = pack(sf.factorize(A, sf.Chain.butterfly(16)), "w")
    >>> proof = read_record(record, tensors.__getitem__).certificate
    >>> proof.stated, proof.verify(A), proof.verify(A + 1)
    (True, True, False)
    """
    F = unpack(record, read, where=where)
    fields = Fields(record, where)
    claims = []
    for key in ("certificate", "evidence"):
        listed = fields.optional(key, dict)
        claims.append(None if listed is None else _claim(listed, F, read, f"{where}, {key}"))
    return F if claims == [None, None] else F.with_claims(*claims)


def _claim(listed: dict[str, Any], F: Factorization, read: _Read, where: str) -> Any:
    fields = Fields(listed, where)
    reader = _READERS.get(fields.required("kind", str))
    if reader is None:
        return None
    tensors = Fields(fields.required("tensors", dict), where)

    def part(name: str) -> NDArray[Any]:
        return read_part(tensors.required(name, dict), read, f"{where}, {name}")

    return reader(fields, part, F, where)


def _pair(fields: Fields, part: _Read, F: Factorization, where: str) -> PairCertificate:
    pair = read_supports(fields, part, F, where)
    lower, upper = _bounds(fields)
    if lower > upper:
        raise FormatError(f"{where}: the lower bound {lower:.6g} is above the upper bound {upper:.6g}")
    given: tuple[Any, ...] = F.factors
    left, right = (scipy.sparse.csr_array(f if isinstance(f, np.ndarray) else f.tocsr()) for f in given)
    weights = _weights(fields, part, F, where)
    return PairCertificate(lower, upper, fields.number("residual"), pair, None, (left, right), weights, stated=True)


def _chain(fields: Fields, part: _Read, F: Factorization, where: str) -> ChainCertificate:
    factors = tuple(factor for factor in F.factors if isinstance(factor, KroneckerFactor))
    if len(factors) != len(F.factors) or len(factors) > MOST_SPLITS:
        raise FormatError(f"{where}: it is about a chain of at most {MOST_SPLITS} Kronecker factors, and these are not")
    transposed = fields.required("transposed", bool)
    chain = Chain([factor.support for factor in factors])
    chain = chain.T if transposed else chain
    if not chain.is_chainable:
        raise FormatError(f"{where}: the factors are no chainable chain")
    full = fields.optional("split_errors", list)
    proof = ChainCertificate(
        *_bounds(fields),
        exact=fields.required("exact", bool),
        norm=fields.number("norm"),
        chain=chain.reduced() if fields.required("reduced", bool) else chain,
        transposed=transposed,
        factors=factors,
        order=tuple(int(split) for split in fields.numbers("order", MOST_SPLITS)),
        step_errors=fields.numbers("step_errors", MOST_SPLITS),
        split_errors=None if full is None else fields.numbers("split_errors", MOST_SPLITS),
        outside=fields.number("outside"),
        weights=_weights(fields, part, F, where),
        stated=True,
    )
    if not proof.is_consistent():
        raise FormatError(f"{where}: its bounds do not follow from its errors")
    return proof


def _verdict(fields: Fields, part: _Read, F: Factorization, where: str) -> StatedVerdict:
    return StatedVerdict(fields.choice("verdict", ("not closed",)), read_supports(fields, part, F, where))


def _sampled(fields: Fields, part: _Read, F: Factorization, where: str) -> SampledResidual:
    independent = fields.count("independent")
    if not independent:
        raise FormatError(f"{where}: it rests on no sample")
    return SampledResidual(
        fields.number("relative"),
        fields.number("largest"),
        fields.count("samples"),
        independent,
        fields.count("entries_read"),
        fields.count("unresolved"),
        fields.count("seed"),
        stated=True,
    )


_READERS: dict[str, Callable[[Fields, _Read, Factorization, str], Any]] = {
    "pair": _pair,
    "chain": _chain,
    "closedness": _verdict,
    "sampled residual": _sampled,
}


def _bounds(fields: Fields) -> tuple[float, float]:
    return fields.number("lower_bound"), fields.number("upper_bound")


def _weights(fields: Fields, part: _Read, F: Factorization, where: str) -> NDArray[np.float64] | None:
    """Return the weights of the columns, where the claim has some."""
    if not fields.required("weighted", bool):
        return None
    weights = part("weights")
    if weights.dtype != np.float64 or weights.shape != (F.shape[1],) or not (weights >= 0).all():
        raise FormatError(f"{where}: the weights must be {F.shape[1]} numbers of type float64, none below 0")
    if not np.isfinite(weights).all():
        raise FormatError(f"{where}: the weights must be finite")
    return weights.copy()
