"""What a `Factorization` says of itself, in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparsefact.products import factors as _factors

if TYPE_CHECKING:
    from sparsefact.products.factorization import Factorization
    from sparsefact.products.factors import Factor

__all__ = ["explained", "plural"]


def explained(F: Factorization) -> str:
    """Return the lines of `Factorization.explain`; what is not known of the errors is left out.

    Parameters
    ----------
    F : Factorization

    Returns
    -------
    str
    """
    m, n = F.shape
    parts = " @ ".join(_described(factor) for factor in F.factors)
    lines = [f"{m}x{n} {F.dtype} matrix as a product of {plural(len(F.factors), 'factor')}: {parts}"]
    if F.constraint is not None:
        lines.append(f"Constraint: {_text(F.constraint)}")
    if F.solver is not None:
        lines.append(f"Solver: {_text(F.solver)}")
    if F.explanation:
        lines.append(F.explanation)
    reached = f"Reached: {F.nnz} stored entries, density {F.density:.3f}, {F.nbytes} bytes"
    error, frobenius_error = F.known_errors()
    if error is not None:
        reached += f", relative error {error:.4g}"
        if frobenius_error is not None and frobenius_error != error:
            reached += f" in the loss, {frobenius_error:.4g} in the Frobenius norm"
    if F.seconds:
        reached += f", in {F.seconds:.3g} s"
    lines.append(reached + ".")
    if F.status is not None:
        lines.append(f"Status: {F.status.name}. {F.status.value}")
    for title, claim in (("Certificate", F.certificate), ("Evidence", F.evidence)):
        if claim is not None:
            said = getattr(claim, "explain", None)
            lines.append(f"{title}: {_text(claim) if said is None else said()}")
    return "\n".join(lines)


def _described(factor: Factor) -> str:
    dense, kronecker = _factors.is_dense(factor), isinstance(factor, _factors.KroneckerFactor)
    kind = "dense" if dense else "Kronecker" if kronecker else "CSR"
    return f"{factor.shape[0]}x{factor.shape[1]} {kind} (nnz {_factors.factor_nnz(factor)})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
