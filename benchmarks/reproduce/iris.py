"""The 15 parameters of a softmax on the iris data: iterative hard thresholding against every support there is.

Two studies. The first mirrors the published protocol: three seeds, random sparse starts at every level of sparsity,
120 training and 30 test flowers, plain iterative hard thresholding with the Monte-Carlo step; losses, accuracies, and
whether the end is HT-stable. The second knows the answer: for all 150 flowers and a small ridge, Newton's method on
each of the 32767 supports gives the global optimum of every level, and solvers are held against it.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.reproduce.iris        # about five minutes on one core
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

import sparsefact as sf
from benchmarks.reproduce.study import axes, command, tell

RIDGE = 0.01
PARAMETERS, CLASSES = 15, 3
STARTS = 12  # random starts of each seed and level
STOP = 0.05  # training loss at which the published runs end

Array = NDArray[Any]


def flowers(rows: Array | None = None) -> tuple[Array, Array]:
    """Return the four features, standardised over the given rows, and the classes."""
    from sklearn.datasets import load_iris

    X, labels = load_iris(return_X_y=True)
    X, labels = (X, labels) if rows is None else (X[rows], labels[rows])
    return (X - X.mean(axis=0)) / X.std(axis=0), labels


# Study one: the published protocol


def protocol(quick: bool) -> list[dict[str, Any]]:
    """Return, for every level of sparsity, what the runs from random sparse starts end with."""
    found = []
    for level in (11,) if quick else range(1, PARAMETERS):
        ends = [
            _one_run(level, seed, start) for seed in range(1 if quick else 3) for start in range(1 if quick else STARTS)
        ]
        found.append(
            {
                "level": level,
                "runs": len(ends),
                "stable": sum(end["stable"] for end in ends),
                "rising": sum(end["rises"] for end in ends),
                **{
                    name: {"mean": statistics.mean(values), "sd": statistics.pstdev(values)}
                    for name in ("train_loss", "test_loss", "test_accuracy", "estimate", "curvature", "bound")
                    for values in [[end[name] for end in ends]]
                },
            }
        )
        tell(f"level {level}: {found[-1]['stable']} of {len(ends)} HT-stable")
    return found


def _one_run(level: int, seed: int, start: int) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(150)
    X, labels = flowers()
    train, test = order[:120], order[120:]
    f = sf.LogisticRegression(X[train], labels[train], l2=0.0)
    held = sf.LogisticRegression(X[test], labels[test], l2=0.0, classes=CLASSES)
    rng = np.random.default_rng((seed, start, level))
    W = np.zeros(f.shape)
    W.flat[rng.choice(PARAMETERS, level, replace=False)] = rng.standard_normal(level)
    # values only: the support is what the run finds, and no exact fit follows that the published runs do not have
    solver = sf.IHT(variant="plain", lipschitz="montecarlo", steps=2000, tolerance=1e-6, refit=False, report_every=10)
    solution = sf.minimize(
        f, sf.TopK(nnz=level), solver, init=W, seed=start, callback=lambda progress: progress.objective <= STOP
    )
    losses = [progress.objective for progress in solution.history]
    certificate = solution.certificate
    gradient = f.gradient(solution.value)
    kept = solution.value != 0
    smallest, steepest = np.abs(solution.value[kept]).min(initial=np.inf), np.abs(gradient[~kept]).max(initial=0.0)
    return {
        "train_loss": losses[-1],
        "test_loss": float(held.value(solution.value)),
        "test_accuracy": float(np.mean(held.predict(solution.value) == labels[test])),
        # the inequality of HT-stability, with the step of the run
        "stable": bool(smallest >= certificate.step * steepest),
        "rises": sum(after > before * (1 + 1e-12) for before, after in itertools.pairwise(losses)),
        "estimate": certificate.lipschitz or 0.0,
        "bound": certificate.lipschitz_bound or 0.0,
        "curvature": _curvature(f, level),
    }


def _curvature(f: sf.LogisticRegression, level: int) -> float:
    """Return a curvature that the loss has on some support of this size: the constant that is estimated is no less."""
    rows, columns = (index.reshape(-1) for index in np.indices(f.shape))
    hessian = f.hessian(np.zeros(f.shape), rows, columns)
    leading = np.abs(np.linalg.eigh(hessian)[1][:, -1])
    support = np.argsort(-leading)[:level]
    return float(np.linalg.eigvalsh(hessian[np.ix_(support, support)])[-1])


# Study two: against the global optimum of every level


def problem() -> sf.LogisticRegression:
    """Return the problem whose optima are known: all flowers, and a ridge."""
    X, labels = flowers()
    return sf.LogisticRegression(X, labels, l2=RIDGE)


def global_optima(levels: tuple[int, ...], batch: int = 1024) -> dict[int, float]:
    """Return the minimum over every support of each size, by Newton's method on all of them at once."""
    X, labels = flowers()
    X = np.hstack([X, np.ones((len(X), 1))])
    targets = np.eye(CLASSES)[labels]
    best = {}
    for level in levels:
        supports = np.array(list(itertools.combinations(range(PARAMETERS), level)))
        values = [_newton(X, targets, supports[i : i + batch]) for i in range(0, len(supports), batch)]
        best[level] = float(np.concatenate(values).min())
    return best


def _newton(X: Array, targets: Array, supports: Array) -> Array:
    """Return the minimum of the loss on each of the supports, sets of indices 3 * feature + class."""
    count, n = len(supports), len(X)
    theta = np.zeros((count, PARAMETERS))
    mask = np.zeros((count, PARAMETERS))
    np.put_along_axis(mask, supports, 1.0, axis=1)
    design = np.einsum("ni,nj->nij", X, X).reshape(n, -1)

    def value(point: Array) -> tuple[Array, Array]:
        scores = X @ point.reshape(count, -1, CLASSES)
        scores -= scores.max(axis=2, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
        return -(logs * targets).sum(axis=(1, 2)) / n + RIDGE / 2 * (point**2).sum(axis=1), np.exp(logs)

    now, chances = value(theta)
    for _ in range(30):
        gradient = (X.T @ (chances - targets) / n).reshape(count, PARAMETERS) + RIDGE * theta
        gradient *= mask
        if np.abs(gradient).max() < 1e-10:
            break
        hessian = np.zeros((count, X.shape[1], CLASSES, X.shape[1], CLASSES))
        for a, b in itertools.product(range(CLASSES), repeat=2):
            weight = chances[:, :, a] * ((a == b) - chances[:, :, b]) / n
            hessian[:, :, a, :, b] = (weight @ design).reshape(count, X.shape[1], X.shape[1])
        hessian = hessian.reshape(count, PARAMETERS, PARAMETERS) + RIDGE * np.eye(PARAMETERS)
        part = np.take_along_axis(np.take_along_axis(hessian, supports[:, :, None], 1), supports[:, None, :], 2)
        slope = np.take_along_axis(gradient, supports, axis=1)
        step = np.zeros_like(theta)
        np.put_along_axis(step, supports, np.linalg.solve(part, slope[:, :, None])[:, :, 0], axis=1)
        length = np.ones((count, 1))
        for _ in range(30):
            reached, moved = value(theta - length * step)
            worse = reached > now + 1e-14
            if not worse.any():
                break
            length[worse] /= 2
        theta, now, chances = theta - length * step, reached, moved
    return now


def against_optima(quick: bool) -> list[dict[str, Any]]:
    """Return how far each solver ends above the global optimum, for every level."""
    levels = (1, 14) if quick else tuple(range(1, PARAMETERS))
    optima, f = global_optima(levels), problem()
    dense = sf.minimize(f, sf.Dense(), sf.IHT(variant="htp")).value
    found = []
    for level in levels:
        constraint = sf.TopK(nnz=level)
        starts = []
        for seed in range(2 if quick else 30):
            W = np.random.default_rng((seed, level)).standard_normal(f.shape)
            solution = sf.minimize(f, constraint, sf.IHT(variant="plain"), init=constraint.project(W))
            starts.append(solution.objective)
        solvers = {
            "thresholding from the dense optimum": (sf.IHT(variant="plain"), dense),
            "matching pursuit": (sf.MatchingPursuit(replacement=False), None),
            "matching pursuit with replacement": (sf.MatchingPursuit(), None),
            "hard thresholding pursuit, exchanges": (sf.IHT(variant="htp", polish="swap"), None),
        }
        gaps = {
            name: sf.minimize(f, constraint, solver, init=init).objective - optima[level]
            for name, (solver, init) in solvers.items()
        }
        hits = sum(value <= optima[level] * (1 + 1e-8) for value in starts)
        found.append(
            {"level": level, "optimum": optima[level], "gaps": gaps, "random_starts": len(starts), "random_hits": hits}
        )
        tell(f"level {level}: optimum {optima[level]:.6f}, gaps {gaps}")
    return found


def measure(quick: bool) -> Any:
    """Return both studies."""
    begin = time.perf_counter()
    optima = against_optima(quick)
    middle = time.perf_counter()
    runs = protocol(quick)
    return {
        "against_optima": optima,
        "protocol": runs,
        "seconds": {"against_optima": middle - begin, "protocol": time.perf_counter() - middle},
    }


def figure(results: Any) -> matplotlib.figure.Figure:
    """Return the protocol's curves, and the objective of each solver beside the global optimum."""
    drawn, (left, middle, right) = axes(11, 3.6, 3)
    rows = results["protocol"]
    levels = [row["level"] for row in rows]
    for ax, names in ((left, ("train_loss", "test_loss")), (middle, ("test_accuracy",))):
        for name in names:
            ax.errorbar(
                levels,
                [row[name]["mean"] for row in rows],
                [row[name]["sd"] for row in rows],
                label=name.replace("_", " "),
                marker="o",
                capsize=2,
            )
        ax.set(xlabel="parameters kept of 15")
        ax.legend()
    rows = results["against_optima"]
    levels = [row["level"] for row in rows]
    for name in rows[0]["gaps"]:
        right.plot(levels, [max(row["gaps"][name], 1e-12) for row in rows], marker="o", label=name)
    right.set(xlabel="parameters kept of 15", ylabel="objective above the optimum", yscale="log")
    drawn.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return drawn


if __name__ == "__main__":
    command("iris", measure, __doc__)
