"""Butterflies whose rows and columns come shuffled; the oracles are dense SVDs of blocks and the list of all trees."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from sparsefact.factorizers.balanced_clustering import cluster_level, measured, merge_pairs
from sparsefact.factorizers.butterfly_permutations import butterfly_with_permutations
from sparsefact.factorizers.cluster_trees import find_cluster_trees
from sparsefact.factorizers.exhaustive_clustering import cluster_exhaustively
from sparsefact.factorizers.pair_blocks import best_row
from sparsefact.factorizers.row_pairs import all_matchings, match_rows
from sparsefact.factorizers.tree_refinement import bit_reversal, missed, refine_trees


def butterfly(n, rng, blocks):
    """Return a product of the n log2 n butterfly factors whose 2 x 2 blocks are drawn by `blocks(rng)`."""
    product = np.eye(n)
    a = 1
    while a < n:
        d = n // (2 * a)
        factor = np.zeros((a, 2, d, a, 2, d), dtype=blocks(rng).dtype)
        for i, q in itertools.product(range(a), range(d)):
            factor[i, :, q, i, :, q] = blocks(rng)
        product = product @ factor.reshape(n, n)
        a *= 2
    return product


def rotation(rng):
    c, s = np.cos(angle := rng.uniform(0, 2 * np.pi)), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def gaussian(rng):
    return rng.standard_normal((2, 2)) + 1j * rng.standard_normal((2, 2))


def dft(n):
    return np.fft.fft(np.eye(n))


def hadamard(n):
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.kron(matrix, [[1.0, 1.0], [1.0, -1.0]])
    return matrix


def shuffled(matrix, rng):
    n = len(matrix)
    return matrix[rng.permutation(n)][:, rng.permutation(n)]


def noise(matrix, level, rng):
    drawn = rng.standard_normal(matrix.shape)
    if matrix.dtype.kind == "c":
        drawn = drawn + 1j * rng.standard_normal(matrix.shape)
    return drawn * (level * np.linalg.norm(matrix) / np.linalg.norm(drawn))


def projected(matrix):
    """Return the left-to-right projections of a matrix in canonical order: dense truncated SVDs of blocks."""
    n = len(matrix)
    result = matrix.astype(np.complex128)
    size = 2
    while size < n:
        for residue, part in itertools.product(range(n // size), range(size)):
            rows = slice(residue, None, n // size)
            cols = slice(part * (n // size), (part + 1) * (n // size))
            u, s, v = np.linalg.svd(result[rows, cols], full_matrices=False)
            result[rows, cols] = s[0] * np.outer(u[:, 0], v[0])
        size *= 2
    return result


def dense_error(matrix, rows, cols):
    """Return the smaller relative error of projecting from left to right and from right to left."""
    ordered = matrix[np.ix_(rows, cols)]
    mirror = bit_reversal(len(matrix))
    turned = ordered.T[np.ix_(mirror, mirror)]
    return min(np.linalg.norm(x - projected(x)) for x in (ordered, turned)) / np.linalg.norm(matrix)


def orders(items):
    """Yield one order for every balanced tree over the items: the two halves of an interval are its subtrees."""
    if len(items) == 1:
        yield items
        return
    rest = items[1:]
    for chosen in itertools.combinations(rest, len(items) // 2 - 1):
        first, second = (items[0], *chosen), tuple(i for i in rest if i not in chosen)
        for a, b in itertools.product(orders(first), orders(second)):
            yield a + b


def least_error(matrix):
    """Return the least left-to-right error over all pairs of trees, by enumeration and 2 x 2 eigenproblems."""
    n = len(matrix)
    mirror = bit_reversal(n)
    every = np.array(list(orders(tuple(range(n)))))
    least = np.inf
    for cols in every:
        x = matrix[every[:, mirror]][:, :, cols]  # (trees, n, n)
        total = np.zeros(len(x))
        while x.shape[1] > 2:
            trees, rows, width = x.shape
            blocks = x.reshape(len(every), -1, 2, rows // 2, 2, width // 2).transpose(0, 1, 4, 3, 2, 5)
            y, z = blocks[..., 0, :], blocks[..., 1, :]
            # the Gram matrix [[half sum + tilt, b], [conj(b), half sum - tilt]] of two rows, and its eigenvalues
            tilt = ((abs(y) ** 2).sum(axis=-1) - (abs(z) ** 2).sum(axis=-1)) / 2
            b = (y * z.conj()).sum(axis=-1)
            root = np.hypot(tilt, abs(b))
            total += ((abs(blocks) ** 2).sum(axis=(-1, -2)) / 2 - root).reshape(len(every), -1).sum(axis=1)
            # its leading eigenvector; where there is no such one, the first row
            first = np.where(tilt >= 0, root + tilt, b) + (root == 0)
            second = np.where(tilt >= 0, b.conj(), root - tilt)
            length = np.hypot(abs(first), abs(second))
            x = (first.conj() / length)[..., None] * y + (second.conj() / length)[..., None] * z
            x = x.reshape(2 * trees, rows // 2, width // 2)
        least = min(least, total.min())
    return np.sqrt(max(least, 0)) / np.linalg.norm(matrix)


def test_there_are_3_and_315_trees():
    assert [len(list(orders(tuple(range(n))))) for n in (2, 4, 8)] == [1, 3, 315]
    assert [len(all_matchings(n)) for n in (2, 4, 6, 8)] == [1, 3, 15, 105]


# the parts


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_matching_is_perfect_and_no_exchange_improves_it(seed, half):
    cost = np.random.default_rng(seed).random((2 * half, 2 * half))
    cost = cost + cost.T
    pairs = match_rows(cost)
    assert sorted(pairs.ravel()) == list(range(2 * half))
    total = cost[pairs[:, 0], pairs[:, 1]].sum()
    sums = sorted(sum(cost[a, b] for a, b in matching) for matching in all_matchings(2 * half))
    if half <= 2:
        assert total == pytest.approx(sums[0])
    assert total <= np.median(sums) + 1e-12
    for (a, b), (c, d) in itertools.combinations(pairs.tolist(), 2):
        assert cost[a, b] + cost[c, d] <= min(cost[a, c] + cost[b, d], cost[a, d] + cost[b, c]) + 1e-12


def test_matching_survives_a_ring_of_equal_preferences():
    assert sorted(match_rows(np.ones((6, 6))).ravel()) == list(range(6))


@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans(), st.floats(-150, 150))
def test_best_row_is_the_leading_singular_triple(seed, width, is_complex, power):
    rng = np.random.default_rng(seed)
    y, z = rng.standard_normal((2, width)) * 10.0 ** np.array([[0.0], [power / 20]])
    if is_complex:
        y = y * 1j + rng.standard_normal(width)
    row, left_out = best_row(y, z.astype(y.dtype))
    s = np.linalg.svd(np.stack([y, z]), compute_uv=False)
    assert np.linalg.norm(row) == pytest.approx(s[0], rel=1e-12)
    assert np.sqrt(left_out) == pytest.approx(s[1] if len(s) > 1 else 0, rel=1e-6, abs=1e-13 * s[0])


def test_best_row_of_zero_and_orthogonal_rows():
    assert best_row(np.zeros(3), np.zeros(3))[1] == 0
    row, left_out = best_row(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert (np.linalg.norm(row), left_out) == pytest.approx((1, 1))


@given(st.integers(0, 10**6), st.sampled_from([4, 8, 16]), st.booleans())
@settings(max_examples=20)
def test_the_cost_of_a_clustering_is_what_its_blocks_miss(seed, n, is_complex):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, n, n)) + (1j * rng.standard_normal((2, n, n)) if is_complex else 0)
    found = cluster_exhaustively(x) if n <= 8 else cluster_level(x, rng, lambda: False)
    assert sorted(found.pairs.ravel()) == list(range(n))
    assert (found.halves.sum(axis=1) == n // 2).all()
    expected = 0.0
    for matrix, half in zip(x, found.halves, strict=True):
        for pair, which in itertools.product(found.pairs, (half, ~half)):
            expected += np.linalg.svd(matrix[np.ix_(pair, which)], compute_uv=False)[1] ** 2
    merged, left_out = merge_pairs(x, found)
    assert merged.shape == (4, n // 2, n // 2)
    assert found.cost == pytest.approx(expected) == pytest.approx(left_out)
    assert measured(x, found.pairs, found.halves).cost == pytest.approx(found.cost)


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=10)
def test_refinement_never_loses(seed, is_complex):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((16, 16)) + (1j * rng.standard_normal((16, 16)) if is_complex else 0)
    rows, cols = rng.permutation(16), rng.permutation(16)
    better_rows, same_cols = refine_trees(matrix, rows, cols, lambda: True)
    assert sorted(better_rows) == sorted(same_cols) == list(range(16))
    assert missed(matrix[np.ix_(better_rows, cols)][None]) <= missed(matrix[np.ix_(rows, cols)][None]) * (1 + 1e-9)


def test_missed_is_the_squared_error_of_the_projections():
    matrix = np.random.default_rng(0).standard_normal((16, 16))
    assert missed(matrix[None]) == pytest.approx(np.linalg.norm(matrix - projected(matrix)) ** 2)


def test_refinement_repairs_exchanged_rows():
    rng = np.random.default_rng(3)
    matrix = butterfly(32, rng, rotation)
    rows, cols = np.arange(32), np.arange(32)
    rows[[3, 10]], cols[[5, 21]] = rows[[10, 3]], cols[[21, 5]]
    rows, cols = refine_trees(matrix, rows, cols, lambda: False)
    assert dense_error(matrix, rows, cols) < 1e-13


# every tree


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("blocks", [rotation, gaussian])
def test_size_4_is_the_best_of_all_trees(level, blocks):
    rng = np.random.default_rng(1)
    for _ in range(5):
        exact = butterfly(4, rng, blocks)
        matrix = shuffled(exact + noise(exact, level, rng), rng)
        found = find_cluster_trees(matrix).error
        assert found == pytest.approx(min(least_error(matrix), least_error(matrix.T)), rel=1e-8, abs=1e-7)
        assert level or found < 1e-14


@pytest.mark.parametrize(("level", "blocks"), [(0.1, gaussian), (3.0, rotation)])
def test_size_8_is_the_best_of_all_trees(level, blocks):
    rng = np.random.default_rng(2)
    exact = butterfly(8, rng, blocks)
    matrix = shuffled(exact + noise(exact, level, rng), rng)
    found = find_cluster_trees(matrix).error
    assert found == pytest.approx(min(least_error(matrix), least_error(matrix.T)), rel=1e-8)


# the whole


EXACT = {
    "dft": lambda n, rng: dft(n),
    "hadamard": lambda n, rng: hadamard(n),
    "rotations": lambda n, rng: butterfly(n, rng, rotation),
    "complex gaussian": lambda n, rng: butterfly(n, rng, gaussian),
    "identity": lambda n, rng: np.eye(n),
    "rank one": lambda n, rng: np.outer(rng.standard_normal(n), rng.standard_normal(n)),
    "blocks": lambda n, rng: np.kron(np.eye(4), dft(n // 4)),
    "one entry": lambda n, rng: np.eye(n) * (np.arange(n) == 1),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("n", [4, 8, 16, 64])
def test_exact_butterflies_are_recovered(name, n):
    rng = np.random.default_rng(n)
    matrix = shuffled(EXACT[name](n, rng), rng)
    F = butterfly_with_permutations(matrix)
    assert np.linalg.norm(F.todense() - matrix) <= 1e-13 * np.linalg.norm(matrix)
    assert F.error <= 1e-13
    rows, cols = np.argsort(F.factors[0].indices), F.factors[-1].indices
    assert sf.Chain.butterfly(n).contains(matrix[rows][:, cols], rtol=1e-12)


def test_what_is_returned():
    rng = np.random.default_rng(0)
    exact = dft(16)
    matrix = shuffled(exact + noise(exact, 0.05, rng), rng)
    matrix.flags.writeable = False
    F = butterfly_with_permutations(matrix.T, seed=3)
    left, *inner, right = F.factors
    for permutation in (left, right):
        dense = permutation.toarray()
        assert ((dense == 0) | (dense == 1)).all() and (dense.sum(axis=0) == 1).all() and (dense.sum(axis=1) == 1).all()
    assert [factor.values.shape for factor in inner] == [(1, 2, 2, 8), (2, 2, 2, 4), (4, 2, 2, 2), (8, 2, 2, 1)]
    rows, cols = np.argsort(left.indices), right.indices
    assert F.error == pytest.approx(dense_error(matrix.T, rows, cols), rel=1e-6)
    assert F.error == pytest.approx(F.error_against(matrix.T))
    assert F.status is sf.Status.STATIONARY and F.history[-1].error == pytest.approx(F.error, rel=1e-6)
    for said in ("two binary trees", "searches", "in any order", "Hierarchical"):
        assert said in F.explain()
    again = butterfly_with_permutations(np.asfortranarray(matrix.T), seed=3)
    assert all((a.toarray() == b.toarray()).all() for a, b in zip(F.factors, again.factors, strict=True))


@pytest.mark.parametrize(("name", "n", "level"), [("dft", 64, 0.1), ("rotations", 64, 0.03), ("hadamard", 32, 0.1)])
def test_noise_costs_no_more_than_with_known_orders(name, n, level):
    rng = np.random.default_rng(5)
    exact = EXACT[name](n, rng)
    matrix = exact + noise(exact, level, rng)
    cols = bit_reversal(n) if name == "dft" else np.arange(n)
    known = dense_error(matrix, np.arange(n), cols)
    assert find_cluster_trees(shuffled(matrix, rng)).error <= 1.001 * known < level


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float16"])
def test_small_types(dtype):
    rng = np.random.default_rng(0)
    exact = hadamard(16) if dtype[0] == "f" else dft(16)
    F = butterfly_with_permutations(shuffled(exact, rng).astype(dtype))
    assert F.dtype == {"float16": "float32"}.get(dtype, dtype)
    assert F.error < 1e-6 and len(F.history) == 1


@pytest.mark.parametrize("scale", [1e-300, 1e250])
def test_scale_does_not_matter(scale):
    rng = np.random.default_rng(0)
    matrix = shuffled(butterfly(16, rng, rotation), rng)
    found, scaled = find_cluster_trees(matrix), find_cluster_trees(matrix * scale)
    assert scaled.error < 1e-14 and (found.rows == scaled.rows).all()


def test_zero_matrix():
    F = butterfly_with_permutations(np.zeros((16, 16)))
    assert F.error == 0 and not F.todense().any()


def test_solver_improves_after_the_search():
    rng = np.random.default_rng(0)
    exact = butterfly(16, rng, rotation)
    matrix = shuffled(exact + noise(exact, 0.3, rng), rng)
    plain = butterfly_with_permutations(matrix)
    swept = butterfly_with_permutations(matrix, sf.Hierarchical(sweeps=5))
    assert swept.error <= plain.error


def test_callback_and_limits():
    rng = np.random.default_rng(0)
    exact = hadamard(32)
    matrix = shuffled(exact + noise(exact, 0.1, rng), rng)
    seen = []
    stopped = butterfly_with_permutations(matrix, callback=lambda progress: bool(seen.append(progress)) or True)
    assert len(seen) == 1 and stopped.status is sf.Status.STOPPED
    assert butterfly_with_permutations(matrix, time_limit=1e-6).status is sf.Status.LIMIT
    assert len(butterfly_with_permutations(matrix, restarts=2).history) <= 2


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((np.ones((6, 6)),), ShapeError, "power of two"),
        ((np.ones((4, 8)),), ShapeError, r"\(4, 8\)"),
        ((np.ones((2, 2)),), ShapeError, "at least 4"),
        ((np.ones(4),), ShapeError, "2-D"),
        ((np.ones((4, 4), dtype=int),), DtypeError, "astype"),
        ((np.full((4, 4), np.nan),), NonFiniteError, "16"),
        ((np.ones((4, 4)), sf.PALM()), ArgumentError, "Hierarchical"),
    ],
)
def test_bad_matrices_get_one_sentence(arguments, error, said):
    with pytest.raises(error, match=said):
        butterfly_with_permutations(*arguments)


@pytest.mark.parametrize("bad", [{"restarts": 0}, {"seed": -1}, {"time_limit": 0}, {"callback": 3}])
def test_bad_parameters_are_named(bad):
    with pytest.raises(ArgumentError, match=next(iter(bad))):
        butterfly_with_permutations(np.eye(4), **bad)
