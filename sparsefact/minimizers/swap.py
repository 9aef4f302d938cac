"""Exchanges of one kept entry for a dropped one, all values refitted: the polish that ends a search for a support.

For a quadratic the columns are independent, f = sum_c 1/2 b^H G b - Re b^H c, and everything about a column with
support S is in one matrix, the Gram matrix [G | c] after Gauss-Jordan pivots on S (the "sweep" of regression software,
J. Goodnight, 1979):

    A = [  G_SS^-1          G_SS^-1 G_SO               |  b_S        ]        b_S the best values,
        [ -G_OS G_SS^-1     G_OO - G_OS G_SS^-1 G_SO   | -gradient_O ]        O the dropped entries

    dropping j costs   |b_j|^2 / (2 A_jj),        adding i gains   |gradient_i|^2 / (2 A_ii),
    and after i was added, dropping j costs   |b_j - A_ji b_i|^2 / (2 (A_jj + |A_ji|^2 / A_ii)),
    where b_i = -gradient_i / A_ii.

These are exact, so are sums of a cost in one column and a gain in another, and one pivot (a rank-one update) follows an
exchange. For other objectives the same formulas with the Hessian order the pairs, each of which is then tried with a
refit; without second derivatives magnitudes and gradients order them.

Symbols: G gram (p, p), b a column of the unknown, S its support, A the swept matrix (p, p + 1).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.adapted import evaluate, measure
from sparsefact.minimizers.exchange_groups import exchange_groups
from sparsefact.minimizers.ranked import largest_first
from sparsefact.minimizers.restricted import HOPE, fit_on
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["Polish", "polish_of"]

# Relative decrease below which an exchange is rounding.
_GAIN = 1e-10
# Exchanges in one column before its pivots are formed anew.
_PIVOTS = 64
# Steps of the fit that tries a pair.
_TRIAL = 30
# Unknowns up to which the Hessian orders the pairs of an objective that is no quadratic; pairs that are ordered.
_MODEL = 512
_PAIRS = 1 << 20

Round = tuple[NDArray[Any], NDArray[np.bool_], float, NDArray[Any], int]


class Polish(Protocol):
    """Rounds of exchanges."""

    possible: bool

    def round(
        self,
        w: NDArray[Any],
        mask: NDArray[np.bool_],
        value: float,
        gradient: NDArray[Any],
        candidates: int,
        iteration: int,
    ) -> Round | None:
        """Return a better point with its mask, value, gradient and the number of exchanges; None if none was found."""
        ...


def polish_of(objective: Any, constraint: Any, backend: Backend) -> Polish:
    """Return the polish for an objective and a constraint."""
    groups = exchange_groups(constraint, objective.shape)
    if isinstance(objective, Quadratic) and objective.right_gram is None:
        return _QuadraticPolish(objective, groups, backend)
    return _TriedPolish(objective, groups, backend)


class _QuadraticPolish:
    """Exact exchanges, within columns and between them."""

    def __init__(self, objective: Quadratic, groups: NDArray[np.int64] | None, backend: Backend) -> None:
        self.objective, self.groups, self.backend = objective, groups, backend
        self.possible = groups is not None
        p, n = objective.shape
        self.stale = np.ones(n, dtype=bool)
        self.costs, self.gains = np.full((p, n), np.inf), np.zeros((p, n))
        self.across = groups is not None and bool((groups == groups[:, :1]).any(axis=0)[1:].any())

    def round(
        self,
        w: NDArray[Any],
        mask: NDArray[np.bool_],
        value: float,
        gradient: NDArray[Any],
        candidates: int,
        iteration: int,
    ) -> Round | None:
        if self.groups is None:
            return None
        backend = self.backend
        support = backend.to_host(mask).copy()
        before = support.copy()
        least = _GAIN * max(abs(value), float(np.finfo(np.float64).tiny)) / support.shape[1]
        count = 0
        for column in np.flatnonzero(self.stale):
            count += self._within(int(column), support[:, column], least)
        self.stale[:] = False
        if self.across:
            count += self._between(support, least)
        changed = np.flatnonzero((support != before).any(axis=0))
        if not changed.size:
            return None
        columns = backend.asarray(changed)
        found, moved = backend.asarray(support), w.copy()
        moved[:, columns] = backend.masked_lsq(self.objective.gram, self.objective.cross[:, columns], found[:, columns])
        reached, slope = evaluate(self.objective, moved, backend, f"at iteration {iteration}, after exchanges")
        if not reached < value:
            return None
        return moved, found, reached, slope, count

    def _within(self, column: int, support: NDArray[np.bool_], least: float) -> int:
        """Exchange entries of one column while that helps, in place; keep what every further change would bring."""
        assert self.groups is not None
        xp, groups = self.backend.xp, self.groups[:, column]
        swept, done = None, 0
        for pivots in range(10 * _PIVOTS):
            if pivots % _PIVOTS == 0:
                swept = self._sweep(column, support)
            assert swept is not None
            inside, outside = np.flatnonzero(support), np.flatnonzero(~support)
            on, off = self.backend.asarray(inside), self.backend.asarray(outside)
            diagonal, values = swept[:, :-1].diagonal().real, swept[:, -1]
            # a dropped entry that the kept ones explain would gain nothing, and divide by zero
            usable = diagonal[off] > 1e3 * xp.finfo(diagonal.dtype).eps * self.objective.gram.diagonal().real[off]
            curved = xp.where(usable, diagonal[off], 1)
            gain = xp.where(usable, abs(values[off]) ** 2 / (2 * curved), 0)
            cost = abs(values[on]) ** 2 / (2 * diagonal[on])
            if not inside.size or not outside.size:
                break
            coupling = swept[on[:, None], off[None, :]]
            net = _net(values[on], diagonal[on], values[off], curved, coupling, gain)
            net = xp.where(usable[None, :], net, np.inf)
            allowed = (groups[inside][:, None] == groups[outside][None, :]) & (groups[inside] >= 0)[:, None]
            if not allowed.all():
                net = xp.where(self.backend.asarray(allowed), net, np.inf)
            best = int(net.argmin())
            (change,) = self.backend.floats(net.reshape(-1)[best])
            if not change < -least:
                break
            j, i = int(inside[best // outside.size]), int(outside[best % outside.size])
            _pivot(swept, i)
            _pivot(swept, j)
            support[i], support[j] = True, False
            done += 1
        self.costs[:, column], self.gains[:, column] = np.inf, 0.0
        self.costs[inside, column] = self.backend.to_host(cost)
        self.gains[outside, column] = self.backend.to_host(gain)
        return done

    def _sweep(self, column: int, support: NDArray[np.bool_]) -> NDArray[Any]:
        """Return [G | c] after pivots on the support."""
        xp, gram, cross = self.backend.xp, self.objective.gram, self.objective.cross
        on, off = (self.backend.asarray(np.flatnonzero(x)) for x in (support, ~support))
        swept: NDArray[Any] = xp.empty((gram.shape[0], gram.shape[0] + 1), dtype=gram.dtype)
        inner = gram[on[:, None], on[None, :]]
        inverse = self._inverse(inner) if on.size else inner
        outer = gram[on[:, None], off[None, :]]
        image = inverse @ outer
        values = inverse @ cross[on, column]
        swept[on[:, None], on[None, :]] = inverse
        swept[on[:, None], off[None, :]] = image
        swept[off[:, None], on[None, :]] = -image.conj().T
        swept[off[:, None], off[None, :]] = gram[off[:, None], off[None, :]] - outer.conj().T @ image
        swept[on, -1] = values
        swept[off, -1] = cross[off, column] - outer.conj().T @ values
        return swept

    def _inverse(self, inner: NDArray[Any]) -> NDArray[Any]:
        """Return the inverse on a support; entries that depend on each other are told apart by a trace of ridge."""
        eps = float(np.finfo(inner.dtype).eps)
        diagonal = inner.diagonal().real
        unit = (diagonal + (diagonal <= 0)).astype(inner.dtype)
        for ridge in (8 * eps, eps**0.5):
            inner.reshape(-1)[:: len(inner) + 1] += ridge * unit
            try:
                inverse: NDArray[Any] = self.backend.spd_inverse(inner)
            except ArgumentError:
                continue
            return inverse
        raise ArgumentError(
            "gram is not positive semi-definite on a support; add a multiple of the identity, or pass polish=None"
        )

    def _between(self, support: NDArray[np.bool_], least: float) -> int:
        """Exchange entries of different columns, at most one in each, cheapest for dearest; in place."""
        assert self.groups is not None
        done = 0
        used = np.zeros(support.shape[1], dtype=bool)
        for group in np.unique(self.groups[self.groups >= 0]):
            member = self.groups == group
            cost = np.where(member & support, self.costs, np.inf)
            gain = np.where(member & ~support, self.gains, 0.0)
            cheapest, dearest = cost.min(axis=0), gain.max(axis=0)
            givers, takers = np.argsort(cheapest, kind="stable"), np.argsort(-dearest, kind="stable")
            a = b = 0
            while a < givers.size and b < takers.size:
                giver, taker = givers[a], takers[b]
                if used[giver]:
                    a += 1
                elif used[taker]:
                    b += 1
                elif not dearest[taker] - cheapest[giver] > least:
                    break
                elif giver == taker:
                    # what this column would do alone was done before; the next one gives or takes
                    if b + 1 < takers.size and (
                        a + 1 == givers.size
                        or dearest[takers[b + 1]] - cheapest[giver] > dearest[taker] - cheapest[givers[a + 1]]
                    ):
                        b += 1
                    else:
                        a += 1
                else:
                    support[cost[:, giver].argmin(), giver] = False
                    support[gain[:, taker].argmax(), taker] = True
                    used[[giver, taker]] = True
                    done += 1
        self.stale |= used
        return done


def _net(
    kept: NDArray[Any],
    kept_diagonal: NDArray[Any],
    dropped: NDArray[Any],
    dropped_diagonal: NDArray[Any],
    coupling: NDArray[Any],
    gain: NDArray[Any],
) -> NDArray[Any]:
    """Return what each exchange of a kept entry (rows) for a dropped one (columns) changes, by the formulas above."""
    after = abs(kept[:, None] - coupling * (dropped / dropped_diagonal)[None, :]) ** 2
    after /= 2 * (kept_diagonal[:, None] + abs(coupling) ** 2 / dropped_diagonal[None, :])
    net: NDArray[Any] = after - gain[None, :]
    return net


def _pivot(swept: NDArray[Any], k: int) -> None:
    """Exchange the roles of kept and dropped for entry k, in place; the same step does and undoes it."""
    pivot = swept[k, k].copy()
    row, column = swept[k] / pivot, swept[:, k].copy()
    column[k] = 0
    swept -= column[:, None] * row[None, :]
    swept[:, k] = -column / pivot
    swept[k] = row
    swept[k, k] = 1 / pivot


class _TriedPolish:
    """Exchanges that are tried one after the other, the most promising first; the first that helps is taken."""

    def __init__(self, objective: Any, groups: NDArray[np.int64] | None, backend: Backend) -> None:
        self.objective, self.groups, self.backend = objective, groups, backend
        self.possible = groups is not None
        # the Hessian H at the present point w, and H w - g, where they are known
        self.model: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def round(
        self,
        w: NDArray[Any],
        mask: NDArray[np.bool_],
        value: float,
        gradient: NDArray[Any],
        candidates: int,
        iteration: int,
    ) -> Round | None:
        if self.groups is None:
            return None
        support = self.backend.to_host(mask).reshape(-1)
        least = value - _GAIN * max(abs(value), _GAIN)
        for j, i in self._pairs(w, support, gradient, candidates):
            trial = support.copy()
            trial[j], trial[i] = False, True
            other = self.backend.asarray(trial.reshape(mask.shape))
            where = f"at iteration {iteration}, after an exchange"
            start = self._foreseen(w, trial, least, where)
            if start is None:
                continue
            fit = fit_on(self.objective, other, start, self.backend, where=where, iterations=_TRIAL, goal=least)
            if fit.value < least:
                fit = fit_on(self.objective, other, fit.w, self.backend, where=where)
                return fit.w, other, fit.value, fit.gradient, 1
        return None

    def _foreseen(self, w: NDArray[Any], trial: NDArray[np.bool_], least: float, where: str) -> NDArray[Any] | None:
        """Return where to start a fit on another support, or None where it promises no value below `least`.

        It starts where the second-order model at the present point has its minimum. Further decrease is measured by the
        model too, and several times that must reach `least`.
        """
        simple: NDArray[Any] = w * self.backend.asarray(trial.reshape(w.shape))
        if self.model is None:
            return simple
        second, target = self.model[0][np.ix_(trial, trial)], self.model[1][trial]
        start = np.zeros(trial.size)
        start[trial] = np.linalg.solve(second, target)
        ahead: NDArray[Any] = self.backend.asarray(start.reshape(w.shape).astype(w.dtype))
        reached, gradient = measure(self.objective, ahead, self.backend, where)
        if not math.isfinite(reached):
            return simple
        slope = self.backend.to_host(gradient).reshape(-1)[trial].astype(np.float64)
        promised = HOPE * float(slope @ np.linalg.solve(second, slope)) / 2
        return None if 0 <= promised < reached - least else ahead

    def _pairs(
        self, w: NDArray[Any], support: NDArray[np.bool_], gradient: NDArray[Any], candidates: int
    ) -> list[tuple[int, int]]:
        """Return pairs (kept, dropped), by what they promise."""
        assert self.groups is not None
        groups = self.groups.reshape(-1)
        kept, dropped = np.flatnonzero(support & (groups >= 0)), np.flatnonzero(~support & (groups >= 0))
        values, slopes = (self.backend.to_host(abs(x)).reshape(-1).astype(np.float64) for x in (w, gradient))
        limit = int(_PAIRS**0.5)
        if kept.size * dropped.size > _PAIRS:
            kept = np.sort(kept[np.argsort(values[kept], kind="stable")[:limit]])
            dropped = np.sort(dropped[np.argsort(-slopes[dropped], kind="stable")[:limit]])
        self.model = None
        net = self._modelled(w, support, gradient, kept, dropped)
        if net is None:
            # one curvature for all: the gradient's bound where there is one
            curvature = self.objective.lipschitz() or 1.0
            net = 0.5 * curvature * values[kept][:, None] ** 2 - 0.5 / curvature * slopes[dropped][None, :] ** 2
        net = np.where(groups[kept][:, None] == groups[dropped][None, :], net, np.inf)
        return [
            (int(kept[at // dropped.size]), int(dropped[at % dropped.size])) for at in largest_first(-net, candidates)
        ]

    def _modelled(
        self,
        w: NDArray[Any],
        support: NDArray[np.bool_],
        gradient: NDArray[Any],
        kept: NDArray[np.intp],
        dropped: NDArray[np.intp],
    ) -> NDArray[np.float64] | None:
        """Return what each exchange changes in the second-order model at the present point."""
        size = w.size
        if size > _MODEL or isinstance(self.objective, Quadratic) or not kept.size or not dropped.size:
            return None
        rows, columns = np.divmod(np.arange(size), w.shape[1])
        hessian = self.objective.hessian(w, self.backend.asarray(rows), self.backend.asarray(columns))
        if hessian is None:
            return None
        second = self.backend.to_host(hessian).astype(np.float64)
        flat, slope = (self.backend.to_host(x).reshape(-1).astype(np.float64) for x in (w, gradient))
        steepest = abs(np.diag(second)).max()
        if not steepest > np.finfo(np.float64).eps ** 4:
            return None
        second = second + 1e-10 * steepest * np.eye(size)
        self.model = second, second @ flat - slope
        swept = np.concatenate([second, self.model[1][:, None]], axis=1)
        for k in np.flatnonzero(support):
            _pivot(swept, int(k))
        diagonal, values = np.maximum(np.diag(swept[:, :-1]), 1e-300), swept[:, -1]
        coupling = swept[np.ix_(kept, dropped)]
        gain = values[dropped] ** 2 / (2 * diagonal[dropped])
        return _net(values[kept], diagonal[kept], values[dropped], diagonal[dropped], coupling, gain)
