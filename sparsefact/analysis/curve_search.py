"""The search for divergent curves on a block that no rule calls closed.

The curves searched have, on the cells that are not free, one factor ``X0 + X1 / t`` and the other ``t Y1 + Y0`` with
``X0 Y1 = 0`` on the cells, and so the limit ``X0 Y0 + X1 Y1``: the column by column limits of what a left factor on its
way to losing rank can reach. Whatever the product writes on free cells is corrected there by the absorbed items.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sparsefact.analysis.closedness_rules import Item, Reduction, bits, transpose_items
from sparsefact.analysis.curves import DivergentCurve, Entry, Laurent, block_of, product_of
from sparsefact.analysis.refutation import refute
from sparsefact.analysis.support_pairs import SupportPair

__all__ = ["find_curve", "random_target"]

Grid = list[list[Fraction]]


@dataclass
class _Seed:
    """``X0 + X1 / t`` times ``t Y1 + Y0``, one column of X and one row of Y for every member of every item."""

    x0: Grid
    x1: Grid
    y1: Grid
    y0: Grid


def find_curve(
    pair: SupportPair,
    rows: Sequence[int],
    cols: Sequence[int],
    reduction: Reduction,
    inner: Sequence[int],
    *,
    tries: int,
    seed: int = 0,
) -> DivergentCurve | None:
    """Search a block for a divergent curve and a proof that its limit is no product.

    Parameters
    ----------
    pair : SupportPair
    rows, cols : sequence of int
        The block.
    reduction : Reduction
        Of the block, in positions of `rows` and `cols`; its members are positions in `inner`.
    inner : sequence of int
        The inner indices of the block's supports.
    tries : int
        Random curves to try, after those that are known for the smallest patterns.
    seed : int
        Of the random curves.

    Returns
    -------
    DivergentCurve or None
        A curve that has passed its own `verify`; None says only that none was found.
    """
    left, right, present = block_of(pair, rows, cols)
    place = {k: position for position, k in enumerate(present)}
    if not reduction.items:
        return None
    terms = [(item, k) for item in reduction.items for k in item.members]
    cells = sorted({(i, j) for item in reduction.items for i, row in enumerate(item.cells) for j in bits(row)})
    busy = sorted({place[inner[k]] for _, k in terms})
    reduced_left, reduced_right = np.zeros_like(left), np.zeros_like(right)
    reduced_left[:, busy], reduced_right[busy] = left[:, busy], right[busy]
    shape = len(rows), len(cols)
    seen: set[tuple[Fraction, ...]] = set()
    numbers = np.random.default_rng(seed)
    for flipped, trial in _seeds([item for item, _ in terms], *shape, tries, seed):
        curve = _lift(terms, trial, flipped, shape)
        if curve is None:
            continue
        limit, curve_left, curve_right = curve
        key = tuple(value for row in limit for value in row)
        if key in seen or _is_reached([item for item, _ in terms], limit, numbers):
            continue
        seen.add(key)
        proof = refute(reduced_left, reduced_right, limit, cells)
        if proof is None:
            continue
        full_left, full_right = _absorb(reduction, limit, curve_left, curve_right)
        product = product_of(full_left, full_right)
        whole = tuple(
            tuple(product.get((i, j), {}).get(0, Fraction(0)) for j in range(len(cols))) for i in range(len(rows))
        )
        found = DivergentCurve(
            tuple(rows),
            tuple(cols),
            tuple((rows[i], inner[k], power, value) for i, k, power, value in full_left),
            tuple((inner[k], cols[j], power, value) for k, j, power, value in full_right),
            whole,
            proof,
        )
        if found.verify(pair):
            return found
    return None


def _seeds(items: Sequence[Item], m: int, n: int, tries: int, seed: int) -> Iterator[tuple[bool, _Seed]]:
    """Yield curves to try, for the block or (flipped) for its transpose."""
    flipped = transpose_items(items)
    flipped = [Item(item.cells + (0,) * (n - len(item.cells)), item.members) for item in flipped]
    if m <= 3 and n <= 3:
        yield from ((False, trial) for trial in _known(items, m, n))
        yield from ((True, trial) for trial in _known(flipped, n, m))
    rng = random.Random(seed)
    for attempt in range(tries):
        side = bool(attempt % 2)
        trial = _random_seed(flipped if side else items, n if side else m, m if side else n, rng)
        if trial is not None:
            yield side, trial


def random_target(reduction: Reduction, shape: tuple[int, int], rng: random.Random) -> Grid | None:
    """Return the limit of a random curve on the cells that are not free (elsewhere zero), or None where none is drawn.

    Whether the limit is a product is not looked at.
    """
    terms = [(item, k) for item in reduction.items for k in item.members]
    for _ in range(20 if terms else 0):
        for flipped, trial in _seeds([item for item, _ in terms], *shape, 2, rng.randrange(1 << 30)):
            curve = _lift(terms, trial, flipped, shape)
            if curve is not None and rng.random() < 0.5:
                return curve[0]
    return None


def _is_reached(items: Sequence[Item], limit: Grid, rng: np.random.Generator) -> bool:
    """Whether Levenberg-Marquardt finds factors that reach the limit on the cells: then no proof is looked for."""
    m, n, count = len(limit), len(limit[0]), len(items)
    masks = np.array([[[row >> j & 1 for j in range(n)] for row in item.cells] for item in items], dtype=float)
    rows, cols = masks.any(axis=2).astype(float), masks.any(axis=1).astype(float)
    target = np.array([[float(v) for v in row] for row in limit])
    for _ in range(2):
        x, y, damping = rng.standard_normal((count, m)) * rows, rng.standard_normal((count, n)) * cols, 1e-2
        error = np.einsum("ki,kj,kij->ij", x, y, masks) - target
        for _ in range(40):
            slope = np.zeros((m, n, count * (m + n)))
            for k in range(count):
                for i in range(m):
                    slope[i, :, k * m + i] = masks[k, i] * y[k]
                for j in range(n):
                    slope[:, j, count * m + k * n + j] = masks[k, :, j] * x[k]
            flat = slope.reshape(m * n, -1)
            # as many equations as cells, which are fewer than unknowns
            gram = flat @ flat.T
            # the second term keeps the system regular where the damping has become negligible
            shift = damping + 1e-13 * float(np.trace(gram)) + 1e-30
            step = flat.T @ np.linalg.solve(gram + shift * np.eye(m * n), error.ravel())
            new_x, new_y = x - step[: count * m].reshape(count, m), y - step[count * m :].reshape(count, n)
            new_error = np.einsum("ki,kj,kij->ij", new_x, new_y, masks) - target
            if np.sum(new_error**2) < np.sum(error**2):
                x, y, error, damping = new_x, new_y, new_error, damping / 10
                if np.abs(error).max() < 1e-9:
                    return bool(max(np.abs(x).max(), np.abs(y).max()) < 1e4)
            else:
                damping *= 5
    return False


def _zeros(m: int, n: int) -> Grid:
    return [[Fraction(0)] * n for _ in range(m)]


def _known(items: Sequence[Item], m: int, n: int) -> Iterator[_Seed]:
    """Yield the curves of the two smallest patterns: a 2 x 2 item without a corner, and two rectangles on 2 columns."""
    one = Fraction(1)
    for k, item in enumerate(items):
        for i in range(m):
            for h in range(m):
                # row i keeps both columns, row h lacks one: the entry that stays grows in the corner that is free
                both, single = item.cells[i], item.cells[h]
                if i == h or not single or single & ~both or not both & ~single:
                    continue
                j, free = next(bits(single)), next(bits(both & ~single))
                trial = _Seed(
                    _zeros(m, len(items)), _zeros(m, len(items)), _zeros(len(items), n), _zeros(len(items), n)
                )
                trial.x0[h][k], trial.x1[i][k] = one, one
                trial.y0[k][j], trial.y1[k][free] = one, one
                yield trial
    for a, first in enumerate(items):
        for b, second in enumerate(items[a + 1 :], a + 1):
            common = first.rows & second.rows
            if first.cols != second.cols or not common or first.cols.bit_count() < 2:
                continue
            u = next(bits(common))
            v, p = list(bits(first.cols))[:2]
            for i in bits(first.rows & ~common):
                for h in bits(second.rows & ~common):
                    trial = _Seed(
                        _zeros(m, len(items)), _zeros(m, len(items)), _zeros(len(items), n), _zeros(len(items), n)
                    )
                    trial.x0[u][a], trial.x0[u][b], trial.x1[i][a], trial.x1[h][b] = one, one, one, one
                    trial.y1[a][v], trial.y1[b][v], trial.y0[a][p] = one, -one, one
                    yield trial


def _random_seed(items: Sequence[Item], m: int, n: int, rng: random.Random) -> _Seed | None:
    """Return a curve of small integers that loses rank in the limit, or None where this draw does not."""
    count = len(items)
    x0, x1, y1, y0 = _zeros(m, count), _zeros(m, count), _zeros(count, n), _zeros(count, n)
    for k, item in enumerate(items):
        for i in bits(item.rows):
            x0[i][k] = Fraction(rng.choice((0, 0, 1, 1, 1)))
            x1[i][k] = Fraction(rng.choice((0, 1, -1, 0)))
    if count > 1 and rng.random() < 0.6:
        a, b = rng.sample(range(count), 2)
        for i in range(m):
            if items[a].cells[i] and items[b].cells[i]:
                x0[i][a] = x0[i][b]
            elif rng.random() < 0.8:
                x0[i][a] = x0[i][b] = Fraction(0)
    growing = False
    for j in range(n):
        present = [k for k, item in enumerate(items) if item.cols >> j & 1]
        if not present:
            continue
        rows = [i for i in range(m) if any(items[k].cells[i] >> j & 1 for k in present)]
        system = [[x0[i][k] if items[k].cells[i] >> j & 1 else Fraction(0) for k in present] for i in rows]
        for k in present:
            y0[k][j] = Fraction(rng.choice((0, 0, 1)))
        for vector in _kernel(system, len(present)):
            scale = rng.choice((-1, 0, 1, 1))
            for k, value in zip(present, vector, strict=True):
                y1[k][j] += scale * value
        growing = growing or any(y1[k][j] for k in present)
    return _Seed(x0, x1, y1, y0) if growing else None


def _kernel(system: Grid, width: int) -> list[list[Fraction]]:
    """Return a basis of the vectors that a matrix maps to zero, scaled to integers."""
    rows = [list(row) for row in system]
    pivots: list[int] = []
    for column in range(width):
        at = next((r for r in range(len(pivots), len(rows)) if rows[r][column]), None)
        if at is None:
            continue
        r = len(pivots)
        rows[r], rows[at] = rows[at], rows[r]
        rows[r] = [v / rows[r][column] for v in rows[r]]
        for other in range(len(rows)):
            if other != r and rows[other][column]:
                factor = rows[other][column]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[r], strict=True)]
        pivots.append(column)
    basis = []
    for free in (c for c in range(width) if c not in pivots):
        vector = [Fraction(0)] * width
        vector[free] = Fraction(1)
        for r, column in enumerate(pivots):
            vector[column] = -rows[r][free]
        scale = math.lcm(*(v.denominator for v in vector))
        basis.append([v * scale for v in vector])
    return basis


def _lift(
    terms: Sequence[tuple[Item, int]], trial: _Seed, flipped: bool, shape: tuple[int, int]
) -> tuple[Grid, list[Entry], list[Entry]] | None:
    """Return the limit on the cells and the curve's entries (positions in the block), or None where it is zero."""
    limit = _zeros(*shape)
    tall: list[Entry] = []
    wide: list[Entry] = []
    for number, (item, k) in enumerate(terms):
        rows, cols = (item.cols, item.rows) if flipped else (item.rows, item.cols)
        for i in bits(rows):
            tall.extend((i, k, power, v) for power, v in ((0, trial.x0[i][number]), (-1, trial.x1[i][number])) if v)
        for j in bits(cols):
            wide.extend((k, j, power, v) for power, v in ((1, trial.y1[number][j]), (0, trial.y0[number][j])) if v)
        for i in bits(item.rows):
            for j in bits(item.cells[i]):
                a, b = (j, i) if flipped else (i, j)
                limit[i][j] += trial.x0[a][number] * trial.y0[number][b] + trial.x1[a][number] * trial.y1[number][b]
    if not any(any(row) for row in limit):
        return None
    if flipped:
        return limit, [(j, k, p, v) for k, j, p, v in wide], [(k, i, p, v) for i, k, p, v in tall]
    return limit, tall, wide


def _absorb(
    reduction: Reduction, limit: Grid, left: Sequence[Entry], right: Sequence[Entry]
) -> tuple[list[Entry], list[Entry]]:
    """Add the absorbed items, last freed first, so that the product is the limit on the free cells too."""
    left, right = list(left), list(right)
    for step in reversed(reduction.absorbed):
        product = product_of(left, right)
        row_lines = {index for kind, index in step.lines if kind == "row"}
        for (kind, index), k in zip(step.lines, step.item.members, strict=False):
            if kind == "row":
                left.append((index, k, 0, Fraction(1)))
            else:
                right.append((k, index, 0, Fraction(1)))
            for i, row in enumerate(step.item.cells):
                for j in bits(row):
                    mine = i == index if kind == "row" else (j == index and i not in row_lines)
                    if not mine:
                        continue
                    for power, value in (_minus(limit[i][j], product.get((i, j), {}))).items():
                        if kind == "row":
                            right.append((k, j, power, value))
                        else:
                            left.append((i, k, power, value))
    return left, right


def _minus(value: Fraction, entry: Laurent) -> Laurent:
    rest = {power: -v for power, v in entry.items()}
    rest[0] = rest.get(0, Fraction(0)) + value
    return {power: v for power, v in rest.items() if v}
