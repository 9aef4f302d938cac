"""Proofs that a support pair is closed, made of blocks whose proof can be replayed on numbers.

A block stands for a connected part of the classes. Rows with the same pattern are interchangeable, and more than
``p + 1`` of them, p being the number of inner indices they meet, say no more than ``p + 1``: every rule compares a
number of rows only with a number of inner indices. So the block keeps that many rows per pattern, and columns likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sparsefact.analysis.closedness_rules import Absorbed, Item, Ruling, bits
from sparsefact.analysis.support_pairs import SupportPair
from sparsefact.analysis.tractability import tractability_of

__all__ = ["BlockProof", "ClosedProof", "TractableProof"]

_TOLERANCE = 1e-7

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class BlockProof:
    """The reduction of a block and the rule for each connected group of what is left.

    Parameters
    ----------
    rows, cols : tuple of int
        Rows and columns of the product, the representatives of the block.
    inner : tuple of int
        The inner indices that meet the block; members of items are positions in it.
    absorbed : tuple of Absorbed
        In the order in which their cells became free.
    ruled : tuple of (items, Ruling)
        The groups.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    inner: tuple[int, ...]
    absorbed: tuple[Absorbed, ...]
    ruled: tuple[tuple[tuple[Item, ...], Ruling], ...]

    def verify(self, pair: SupportPair) -> bool:
        """Return whether the block is closed: its bookkeeping exactly, its constructions on random points."""
        if len(set(self.inner)) != len(self.inner) or not all(ruling.closed for _, ruling in self.ruled):
            return False
        # other parts may meet the same rows and columns, in other cells
        left = pair.left.tocsr()[list(self.rows)].tocsc()[:, list(self.inner)].toarray()
        right = pair.right.tocsr()[list(self.inner)].tocsc()[:, list(self.cols)].toarray()
        if not self._accounts_for(left, right) or not self._fills(left, right):
            return False
        rng = np.random.default_rng(0)
        return all(_check(group, ruling, rng) for group, ruling in self.ruled)

    def _accounts_for(self, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> bool:
        """Whether every cell of every term is free or in exactly one item of that term, and groups share no cell."""
        free = np.zeros((len(self.rows), len(self.cols)), dtype=bool)
        for step in self.absorbed:
            cells = _mask(step.item, free.shape)
            if np.any(cells & free) or not _covered(step, cells):
                return False
            if not all(np.all(np.outer(left[:, k], right[k]) >= cells) for k in step.item.members):
                return False
            free |= cells
        grouped = [[_mask(item, free.shape) for item in group] for group, _ in self.ruled]
        unions = [np.any(masks, axis=0) for masks in grouped]
        if any(np.any(a & b) for a, b in combinations(unions, 2)):
            return False
        for k in range(len(self.inner)):
            mine = [
                mask
                for (group, _), masks in zip(self.ruled, grouped, strict=True)
                for item, mask in zip(group, masks, strict=True)
                if k in item.members
            ]
            # no row and no column in common: only then are the pieces of a term independent of each other
            if any(np.any(a.any(x) & b.any(x)) for a, b in combinations(mine, 2) for x in (0, 1)):
                return False
            kept = np.any(mine, axis=0) if mine else np.zeros_like(free)
            if not np.array_equal(kept, np.outer(left[:, k], right[k]) & ~free):
                return False
        return True

    def _fills(self, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> bool:
        """Whether the absorbed items reproduce random values on all free cells, beside random factors of the items."""
        if not self.absorbed:
            return True
        rng = np.random.default_rng(0)
        x, y = np.zeros(left.shape), np.zeros(right.shape)
        kept = np.zeros((len(self.rows), len(self.cols)))
        for group, _ in self.ruled:
            for item in group:
                mask = _mask(item, kept.shape)
                rows, cols = np.any(mask, axis=1), np.any(mask, axis=0)
                for k in item.members:
                    a, b = rng.standard_normal(rows.sum()), rng.standard_normal(cols.sum())
                    x[rows, k], y[k, cols] = a, b
                    kept += np.outer(_spread(a, rows), _spread(b, cols)) * mask
        target = kept
        for step in self.absorbed:
            cells = _mask(step.item, target.shape)
            target = np.where(cells, rng.standard_normal(target.shape), target)
        for step in reversed(self.absorbed):
            cells = _mask(step.item, target.shape)
            rest = np.where(cells, target - x @ y, 0.0)
            for (kind, index), k in zip(step.lines, step.item.members, strict=False):
                if kind == "row":
                    x[index, k] += 1.0
                    y[k] += rest[index]
                    rest[index] = 0.0
            for (kind, index), k in zip(step.lines, step.item.members, strict=False):
                if kind == "column":
                    y[k, index] += 1.0
                    x[:, k] += rest[:, index]
        inside = not np.any(x[~left]) and not np.any(y[~right])
        return inside and bool(np.abs(x @ y - target).max() <= _TOLERANCE * (1 + np.abs(target).max()))


@dataclass(frozen=True)
class ClosedProof:
    """A proof that P is closed: parts that share no cell, each closed.

    Parameters
    ----------
    separate : tuple of int
        Inner indices of classes whose rectangle meets no other class: matrices of bounded rank on a rectangle.
    blocks : tuple of BlockProof
        One for every other connected part.
    parts : tuple of tuples of int
        The inner indices of those parts, all of them.
    """

    separate: tuple[int, ...]
    blocks: tuple[BlockProof, ...]
    parts: tuple[tuple[int, ...], ...]

    def verify(self, pair: SupportPair) -> bool:
        """Return whether the proof holds for the pair."""
        alive = np.flatnonzero(pair.rows.lengths)
        listed = np.concatenate([np.array(part, dtype=np.int64) for part in (self.separate, *self.parts)])
        if not np.array_equal(np.sort(listed), alive) or len(self.blocks) != len(self.parts):
            return False
        if not _share_no_cell(pair, self.separate, self.parts):
            return False
        return all(
            _represents(pair, block, part) and block.verify(pair)
            for block, part in zip(self.blocks, self.parts, strict=True)
        )

    def explain(self) -> str:
        """Return the proof in words."""
        lines = []
        if self.separate:
            lines.append(
                f"{len(self.separate)} inner indices belong to rectangles that no other rectangle meets: there the "
                "products are the matrices of bounded rank, a closed set."
            )
        for block in self.blocks:
            where = f"On a block represented by {len(block.rows)} rows and {len(block.cols)} columns"
            if block.absorbed:
                free = sum(row.bit_count() for step in block.absorbed for row in step.item.cells)
                where += f", {free} cells can be filled freely"
            names = sorted({_WORDS[ruling.name] for _, ruling in block.ruled})
            lines.append(
                where + ("; what is left " + ", and ".join(names) if names else ", which is all of them") + "."
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class TractableProof:
    """A proof that P is closed for supports too large to replay: an optimum is known for every matrix.

    Where `sparsefact.tractability` holds, the optimum is computed by truncated SVDs, so it exists.
    """

    def verify(self, pair: SupportPair) -> bool:
        """Return whether the pair is tractable, by analysing it again."""
        return tractability_of(pair).tractable

    def explain(self) -> str:
        """Return the proof in words."""
        return (
            "The supports are tractable: truncated SVDs compute an optimum for every matrix (sparsefact.tractability)."
        )


_WORDS = {
    "rectangle": "is rectangles of bounded rank that meet nothing else",
    "cross-nested": "is rectangles of which, in pairs that meet, one is the taller and the other the wider, so that an "
    "orthogonal choice of the factors is bounded by the product",
    "filled": "is filled completely by one generic factor",
}


def _mask(item: Item, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    for i, row in enumerate(item.cells):
        mask[i, list(bits(row))] = True
    return mask


def _spread(values: Matrix, where: NDArray[np.bool_]) -> Matrix:
    full = np.zeros(where.size)
    full[where] = values
    return full


def _covered(step: Absorbed, cells: NDArray[np.bool_]) -> bool:
    if len(step.lines) > len(set(step.item.members)):
        return False
    rest = cells.copy()
    for kind, index in step.lines:
        if kind == "row":
            rest[index] = False
        else:
            rest[:, index] = False
    return not rest.any()


def _share_no_cell(pair: SupportPair, separate: Sequence[int], parts: Sequence[Sequence[int]]) -> bool:
    """Whether the rectangles of different parts, and different rectangles of `separate`, are disjoint, by counting."""
    left, right = pair.left.astype(np.int32), pair.right.astype(np.int32)

    def reached(members: Sequence[int]) -> int:
        which = np.asarray(members, dtype=np.int64)
        return int((left[:, which] @ right[which]).nnz)

    chosen = {int(k) for k in separate}
    heads = []
    for rows, cols, members in pair.classes:
        inside = [int(k) in chosen for k in members]
        if any(inside) and not all(inside):
            return False
        if inside[0]:
            heads.append((int(members[0]), rows.size * cols.size))
    total = sum(size for _, size in heads) + sum(reached(part) for part in parts)
    everyone = [k for k, _ in heads] + [k for part in parts for k in part]
    return total == reached(everyone)


def _represents(pair: SupportPair, block: BlockProof, part: Sequence[int]) -> bool:
    """Whether every row and column pattern of the part occurs in the block as often as it matters."""
    which = np.asarray(part, dtype=np.int64)
    if not np.array_equal(np.sort(block.inner), np.sort(which)):
        return False
    for pattern, chosen in (
        (pair.left[:, which].tocsr(), block.rows),
        (pair.right[which].T.tocsr(), block.cols),
    ):
        if len(set(chosen)) != len(chosen):
            return False
        wanted: dict[bytes, list[int]] = {}
        kept = set(chosen)
        for i in range(pattern.shape[0]):
            indices = np.sort(pattern.indices[pattern.indptr[i] : pattern.indptr[i + 1]])
            if indices.size:
                entry = wanted.setdefault(indices.astype(np.int64).tobytes(), [0, 0, indices.size + 1])
                entry[0] += 1
                entry[1] += i in kept
        if any(held < min(count, cap) for count, held, cap in wanted.values()):
            return False
    return True


def _check(group: Sequence[Item], ruling: Ruling, rng: np.random.Generator) -> bool:
    """Replay a rule on random points."""
    shape = (len(group[0].cells), max(item.cols for item in group).bit_length())
    masks = [_mask(item, shape) for item in group]
    rectangles = all(np.array_equal(mask, np.outer(mask.any(1), mask.any(0))) for mask in masks)
    if ruling.name == "rectangle":
        return rectangles and len(group) == 1
    if ruling.name == "cross-nested":
        return rectangles and all(_gauge_holds(group, masks, rng, near) for near in (0.0, 1.0, 1.0 - 1e-4))
    if ruling.name == "filled":
        if ruling.side == "right":
            masks = [mask.T for mask in masks]
        return all(_fills_all(group, masks, ruling, rng, kind) for kind in range(4))
    return False


def _gauge_holds(
    group: Sequence[Item], masks: Sequence[NDArray[np.bool_]], rng: np.random.Generator, near: float
) -> bool:
    """Whether the QR gauge keeps the product and makes its norm that of the right factor, with unit left columns.

    Columns are taken from short and wide to tall and narrow; each is made orthogonal to the earlier ones that it
    contains and whose rows of the right factor contain its own. `near` makes columns almost parallel to begin with.
    """
    order = sorted(
        ((mask, k) for mask, item in zip(masks, group, strict=True) for k in item.members),
        key=lambda entry: (int(entry[0].any(1).sum()), -int(entry[0].any(0).sum())),
    )
    rows = np.array([mask.any(axis=1) for mask, _ in order])
    cols = np.array([mask.any(axis=0) for mask, _ in order])
    shared = rng.standard_normal(rows.shape[1])
    x = rows * (near * shared + (1.0 - near) * rng.standard_normal(rows.shape) + 1e-3 * rng.standard_normal(rows.shape))
    y = cols * rng.standard_normal(cols.shape)
    product = x.T @ y
    for late in range(len(order)):
        for _ in range(2):  # twice is enough for orthogonality to rounding
            for early in range(late):
                if np.all(rows[early] <= rows[late]) and np.all(cols[late] <= cols[early]):
                    coefficient = float(x[early] @ x[late])
                    x[late] = x[late] - coefficient * x[early]
                    y[early] = y[early] + coefficient * y[late]
        norm = float(np.linalg.norm(x[late]))
        x[late], y[late] = x[late] / norm, y[late] * norm
    same = np.abs(x.T @ y - product).max() <= _TOLERANCE * (1 + np.abs(y).max())
    return bool(same) and bool(abs(np.linalg.norm(product) / np.linalg.norm(y) - 1) <= _TOLERANCE)


def _fills_all(
    group: Sequence[Item], masks: Sequence[NDArray[np.bool_]], ruling: Ruling, rng: np.random.Generator, kind: int
) -> bool:
    """Whether random targets on the cells are reached: dense, sparse, with one entry in the columns read off."""
    cells = np.any(masks, axis=0)
    target = np.where(cells, rng.standard_normal(cells.shape), 0.0)
    if kind == 1:
        target = np.where(rng.random(cells.shape) < 0.5, target, 0.0)
    x = [rng.standard_normal(cells.shape[0]) for item in group for _ in item.members]
    owner = [number for number, item in enumerate(group) for _ in item.members]
    for number, j in ruling.forced.items():
        if not (0 <= number < len(group) and 0 <= j < cells.shape[1]) or len(group[number].members) != 1:
            return False
        rows = np.flatnonzero(masks[number].any(axis=1))
        if kind >= 2:
            target[:, j] = 0.0
            # the first or the last of the rows, so that two forced columns have one chance to agree
            target[rows[0 if kind == 2 else -1], j] = 1.0
        if target[:, j].any():
            x[owner.index(number)] = target[:, j]
    for j in range(cells.shape[1]):
        rows = np.flatnonzero(cells[:, j])
        if rows.size:
            system = np.array([np.where(masks[k][:, j], column, 0.0) for column, k in zip(x, owner, strict=True)]).T[
                rows
            ]
            solution = np.linalg.lstsq(system, target[rows, j], rcond=None)[0]
            if np.abs(system @ solution - target[rows, j]).max() > _TOLERANCE * (1 + np.abs(solution).max()):
                return False
    return True
