"""What `sparsefact.report.figures` draws of a certificate: the errors that it rules out, and the one reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparsefact.report.style import COLOURS, INK, dressed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_bounds", "has_bounds"]


def has_bounds(proof: Any) -> bool:
    """Return whether an object speaks of errors that no product can have."""
    return hasattr(proof, "lower_bound") and hasattr(proof, "upper_bound")


def draw_bounds(ax: Axes, proof: Any, *, legend: bool = False) -> None:
    """Draw the bounds of a certificate, and for a chain what each split leaves out; labelled, named where `legend`."""
    norm = getattr(proof, "norm", None)
    unit = norm or 1.0
    lower, upper = proof.lower_bound / unit, proof.upper_bound / unit
    known = getattr(proof, "split_errors", None)
    told = "what one split alone leaves out"
    if known is not None:
        points = list(enumerate(known, 1))
    else:
        points = sorted(zip(getattr(proof, "order", ()), getattr(proof, "step_errors", ()), strict=True))
        told = "what the step of a split left out"
    reached = "error reached" if getattr(proof, "exact", True) else "bound on the error reached"
    dressed(ax, x="split" if points else "", y=f"error{' / norm of the matrix' if norm else ''}")
    if getattr(proof, "stated", False):
        ax.set_title("as the file states, not checked again")
    if points:
        ax.plot(*zip(*((s, e / unit) for s, e in points), strict=True), "o", color=COLOURS[0], label=told)
    ax.axhline(upper, color=COLOURS[1], linewidth=2.2, label=f"{reached}: {upper:.4g}")
    if proof.ratio > 1:
        ax.axhspan(
            lower,
            upper,
            color=COLOURS[1],
            alpha=0.15,
            linewidth=0,
            label=f"the best possible, at most {proof.ratio:.4g} times less",
        )
    low = f"no product is below {lower:.4g}" + ("" if proof.ratio > 1 else ": it is the optimum")
    ax.axhline(lower, color=COLOURS[2], linestyle="--", label=low)
    ax.axhspan(0, lower, facecolor="none", edgecolor=INK, alpha=0.25, hatch="///", linewidth=0)
    ax.set_ylim(0, 1.15 * max(upper, *(e / unit for _, e in points), 1e-300))
    ax.set_xticks(sorted({s for s, _ in points}))
    if legend:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
