"""Groups of variables in a linear model: gated factors (D-Gating) of depth 2, 3, 4 along a path, and the group lasso.

200 samples of 200 variables in 40 groups of 5, 7 of which matter, everything standard normal; the loss is the mean
squared error, 30 strengths from 1e-5 to 15, 1500 steps of gradient descent with momentum 0.9, ten draws.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.reproduce.group_lasso_simulation        # about four minutes
"""

from __future__ import annotations

import statistics
from typing import Any

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.reproduce.study import axes, command, tell
from sparsefact.report.style import INK

SAMPLES, TEST, GROUPS, SIZE, INFORMATIVE = 200, 2000, 40, 5, 7
STRENGTHS = np.geomspace(1e-5, 15, 30)
ZERO = 1e-6
DEPTHS = (2, 3, 4)
LASSO = "group lasso, proximal gradient"

Array = NDArray[Any]


def draw(seed: int) -> tuple[Array, Array, Array, Array, Array]:
    """Return training data, test data, and which groups matter."""
    rng = np.random.default_rng(seed)
    matter = np.zeros(GROUPS, dtype=bool)
    matter[rng.choice(GROUPS, INFORMATIVE, replace=False)] = True
    w = rng.standard_normal((GROUPS * SIZE, 1)) * np.repeat(matter, SIZE)[:, None]
    X, T = rng.standard_normal((SAMPLES, GROUPS * SIZE)), rng.standard_normal((TEST, GROUPS * SIZE))
    return X, X @ w + rng.standard_normal((SAMPLES, 1)), T, T @ w + rng.standard_normal((TEST, 1)), matter


def solvers(strength: float, steps: int) -> dict[str, Any]:
    """Return what is compared, at one strength of the penalty."""
    found: dict[str, Any] = {LASSO: sf.ProximalGradient(depth=2, penalty=strength, blocks=(SIZE, 1))}
    for depth in DEPTHS:
        found[f"gating, depth {depth}"] = sf.DeepWeightFactorization(
            depth=depth, penalty=strength, blocks=(SIZE, 1), steps=steps, threshold=ZERO, momentum=0.9
        )
    return found


def measure(quick: bool) -> Any:
    """Return test errors and numbers of groups along the paths, averaged over draws; and how the supports compare."""
    draws = 1 if quick else 10
    strengths = STRENGTHS[[20]] if quick else STRENGTHS
    rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    distances: dict[float, list[float]] = {}
    for seed in range(draws):
        X, y, T, target, matter = draw(seed)
        # (1/n) ||X w - y||^2 as a quadratic
        f = sf.Quadratic(2 / SAMPLES * X.T @ X, 2 / SAMPLES * X.T @ y, constant=float(np.mean(y**2)))
        # as a linear layer starts, not from the dense solution, which interpolates
        start = np.random.default_rng((seed, 1)).standard_normal(f.shape) / np.sqrt(GROUPS * SIZE)
        for strength in strengths:
            found = {}
            for name, solver in solvers(float(strength), 200 if quick else 1500).items():
                w = sf.minimize(f, sf.Dense(), solver, init=start, seed=seed).value
                groups = np.linalg.norm(w.reshape(GROUPS, SIZE), axis=1) > ZERO
                found[name] = w
                rows.setdefault((name, float(strength)), []).append(
                    {
                        "test_error": float(np.mean((T @ w - target) ** 2)),
                        "groups": int(groups.sum()),
                        "exact": bool(np.array_equal(groups, matter)),
                    }
                )
            size = max(np.linalg.norm(found[LASSO]), 1e-300)
            gap = np.linalg.norm(found["gating, depth 2"] - found[LASSO]) / size
            distances.setdefault(float(strength), []).append(float(gap) if found[LASSO].any() else 0.0)
        tell(f"draw {seed} of {draws}")
    paths = [
        {
            "method": name,
            "strength": strength,
            "test_error": statistics.mean(each["test_error"] for each in runs),
            "groups": statistics.mean(each["groups"] for each in runs),
            "exact": sum(each["exact"] for each in runs),
            "draws": len(runs),
        }
        for (name, strength), runs in rows.items()
    ]
    gaps = [{"strength": strength, "largest": max(values)} for strength, values in distances.items()]
    return {"paths": paths, "depth_2_to_lasso": gaps}


def figure(results: Any) -> matplotlib.figure.Figure:
    """Return test error and number of groups against the strength."""
    drawn, (left, right) = axes(9, 3.6, 2)
    for name in dict.fromkeys(row["method"] for row in results["paths"]):
        rows = [row for row in results["paths"] if row["method"] == name]
        style = {"color": INK, "linestyle": "--"} if name == LASSO else {}
        left.plot([row["strength"] for row in rows], [row["test_error"] for row in rows], label=name, **style)
        right.plot([row["strength"] for row in rows], [row["groups"] for row in rows], label=name, **style)
    left.set(xscale="log", yscale="log", xlabel="strength of the penalty", ylabel="mean squared test error")
    left.set_ylim(1, 1e4)  # gating that diverges goes on for many decades
    right.set(xscale="log", xlabel="strength of the penalty", ylabel=f"groups kept ({INFORMATIVE} matter)")
    left.legend()
    return drawn


if __name__ == "__main__":
    command("group_lasso_simulation", measure, __doc__)
