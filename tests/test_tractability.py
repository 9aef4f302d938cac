"""Tractability against brute force: no exact claim is ever beaten or missed, and every refusal names a reason."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.analysis.landscape import landscape
from sparsefact.analysis.support_pairs import as_pair
from sparsefact.analysis.tractability import tractability
from sparsefact.errors import ArgumentError, DtypeError, ShapeError


def closed_formula(answer, A):
    """The optimal value that a plan claims, from LAPACK's singular values."""
    left, right = answer.pair.left.toarray(), answer.pair.right.toarray()
    reached = (left.astype(int) @ right.astype(int)) > 0
    total = np.sum(np.abs(A[~reached]) ** 2)
    for rows, cols, members in zip(
        *(getattr(answer.plan.rectangles, x) for x in ("rows", "cols", "members")), strict=True
    ):
        total += np.sum(np.linalg.svd(A[np.ix_(rows, cols)], compute_uv=False)[members.size :] ** 2)
    return total


def alternating(A, E, G, rng, sweeps):
    """Plain alternating least squares from a random start, row by row: the oracle."""
    X = np.where(E, rng.standard_normal(E.shape), 0)
    Y = np.where(G, rng.standard_normal(G.shape), 0)
    for _ in range(sweeps):
        for i in range(E.shape[0]):
            s = E[i]
            X[i, s] = np.linalg.lstsq(Y[s].T, A[i], rcond=None)[0] if s.any() else 0
        for j in range(G.shape[1]):
            s = G[:, j]
            Y[s, j] = np.linalg.lstsq(X[:, s], A[:, j], rcond=None)[0] if s.any() else 0
    return np.linalg.norm(A - X @ Y) ** 2


def by_the_book(E, G):
    """The fixed point and its leftovers on dense arrays, class by class, with covers by trying all sets of lines."""
    kinds = {}
    for k in range(E.shape[1]):
        if E[:, k].any() and G[k].any():
            kinds.setdefault((tuple(np.flatnonzero(E[:, k])), tuple(np.flatnonzero(G[k]))), []).append(k)
    free, waiting = set(), dict(kinds)

    def coverable(cells, p):
        if len(cells) <= p:
            return True
        if p == 0:
            return False
        i, j = next(iter(cells))
        return coverable({c for c in cells if c[0] != i}, p - 1) or coverable({c for c in cells if c[1] != j}, p - 1)

    while True:
        for key, members in list(waiting.items()):
            if coverable(set(itertools.product(*key)) - free, len(members)):
                free |= set(itertools.product(*key))
                del waiting[key]
                break
        else:
            pieces = {}
            for key in waiting:
                cells = set(itertools.product(*key)) - free
                neighbours = {}
                for i, j in cells:
                    neighbours.setdefault(i, set()).add(j)
                groups = {}
                for i, js in neighbours.items():
                    groups.setdefault(frozenset(js), set()).add(i)
                if any(a & b for a, b in itertools.combinations(groups, 2)):
                    pieces[key] = None
                else:
                    pieces[key] = [(frozenset(rows), cols) for cols, rows in groups.items()]
            joined = {}
            for key, found in pieces.items():
                if found is not None and len(found) == 1:
                    joined.setdefault(found[0], []).append(key)
            for (rows, cols), keys in joined.items():
                if sum(len(waiting[key]) for key in keys) >= min(len(rows), len(cols)):
                    free |= set(itertools.product(rows, cols))
                    for key in keys:
                        del waiting[key]
                    break
            else:
                break
    if any(found is None for found in pieces.values()):
        return False
    blocks = {block for found in pieces.values() for block in found}
    return not any(a[0] & b[0] and a[1] & b[1] for a, b in itertools.combinations(blocks, 2))


masks = st.tuples(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(0.2, 0.9)
)


def random_supports(m, n, r, seed, density):
    rng = np.random.default_rng(seed)
    E, G = rng.random((m, r)) < density, rng.random((r, n)) < density
    if seed % 3 == 0 and r > 1:  # equal rank-one supports are rare by chance
        E[:, 1], G[1] = E[:, 0], G[0]
    E[rng.integers(m), rng.integers(r)] = G[rng.integers(r), rng.integers(n)] = True
    return E, G


@given(masks)
@settings(max_examples=300, deadline=None)
def test_the_verdict_by_the_book(case):
    E, G = random_supports(*case)
    answer = tractability(E, G)
    assert answer.tractable == by_the_book(E, G)
    assert answer.tractable == bool(answer) == (answer.plan is not None) == (answer.obstacle is None)
    assert answer.tractable == tractability(G.T, E.T).tractable
    assert answer.explain()


@given(masks, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_verdict_does_not_depend_on_order(case, seed):
    E, G = random_supports(*case)
    rng = np.random.default_rng(seed)
    rows, inner, cols = (rng.permutation(k) for k in (E.shape[0], E.shape[1], G.shape[1]))
    a, b = tractability(E, G), tractability(E[np.ix_(rows, inner)], G[np.ix_(inner, cols)])
    assert (a.tractable, a.rule, len(a.classes)) == (b.tractable, b.rule, len(b.classes))


@given(masks)
@settings(max_examples=100, deadline=None)
def test_the_plan_covers_every_cell_once(case):
    E, G = random_supports(*case)
    plan = tractability(E, G).plan
    if plan is None:
        return
    times = np.zeros((E.shape[0], G.shape[1]), dtype=int)
    for rows, cols, members in zip(plan.rectangles.rows, plan.rectangles.cols, plan.rectangles.members, strict=True):
        times[np.ix_(rows, cols)] += 1
        assert E[np.ix_(rows, members)].all() and G[np.ix_(members, cols)].all()
    lines = plan.lines
    np.add.at(times, (lines.rows, lines.cols), 1)
    np.testing.assert_array_equal(times, (E.astype(int) @ G.astype(int)) > 0)
    assert E[lines.rows, lines.inner].all() and G[lines.inner, lines.cols].all()
    # one line per inner index
    for k in np.unique(lines.inner):
        mine = lines.inner == k
        assert np.unique(lines.along_row[mine]).size == 1
        assert np.unique((lines.rows if lines.along_row[mine][0] else lines.cols)[mine]).size == 1


def supports_of(m, n, r):
    rectangles = [
        (rows, cols)
        for rows in itertools.product((False, True), repeat=m)
        for cols in itertools.product((False, True), repeat=n)
        if any(rows) and any(cols)
    ]
    return itertools.combinations_with_replacement(rectangles, r)


def assert_no_false_claim(pairs, starts=3, sweeps=60):
    """Every claimed optimum is a bound that random starts do not beat; reaching it is tested with the solver."""
    rng = np.random.default_rng(0)
    claims = 0
    for chosen in pairs:
        E, G = np.array([rows for rows, _ in chosen]).T, np.array([cols for _, cols in chosen])
        answer = tractability(E, G)
        if not answer.tractable:
            continue
        claims += 1
        A = rng.standard_normal((E.shape[0], G.shape[1]))
        bound = closed_formula(answer, A)
        for _ in range(starts):
            assert alternating(A, E, G, rng, sweeps) >= bound - 1e-10 * (1 + bound)
    return claims


def test_no_false_claim_on_all_small_supports():
    assert assert_no_false_claim(supports_of(2, 2, 2), starts=1, sweeps=15) == 41


@pytest.mark.parametrize("r", [2, 3])
def test_no_false_claim_on_sampled_supports(r):
    rng = np.random.default_rng(r)
    every = list(supports_of(3, 3, 1))
    pairs = [[every[i][0] for i in rng.integers(len(every), size=r)] for _ in range(40)]
    assert assert_no_false_claim(pairs, starts=1, sweeps=20) > 10


def test_known_families():
    full = np.ones((5, 2), dtype=bool)
    assert tractability(full, full.T).rule == "disjoint or identical"
    monarch = sf.KroneckerSupport(4, 4, 4, 1), sf.KroneckerSupport(1, 4, 4, 4)
    answer = tractability(*monarch)
    assert answer.rule == "disjoint or identical" and len(answer.classes) == 16
    butterfly = sf.KroneckerSupport(1, 2, 2, 4), sf.KroneckerSupport(2, 2, 2, 2)
    assert tractability(*butterfly).tractable
    lower = np.tri(4, dtype=bool)
    answer = tractability(lower, lower.T)
    assert answer.obstacle == (0, 3) and not answer
    text = answer.explain()
    assert "inner indices 0 and 3" in text and "AlternatingLeastSquares" in text
    # a low-rank term with free cells on a diagonal: what is left is no rectangle
    free = np.eye(4, dtype=bool)
    low = np.ones((4, 1), dtype=bool)
    assert not tractability(np.hstack([low, free]), np.vstack([low.T, free])).tractable
    # leftovers on two diagonal blocks, the rest free row by row
    rest = np.kron(~np.eye(2, dtype=bool), np.ones((2, 2), dtype=bool))
    two = tractability(np.hstack([low, free]), np.vstack([low.T, rest]))
    assert two.rule == "relatively complete classes" and two.plan.spills
    assert len(two.plan.rectangles) == 2


def test_a_class_that_is_complete_only_relative_to_others():
    E = np.array([[1, 1], [1, 0]], dtype=bool)
    G = np.array([[1, 1], [1, 1]], dtype=bool)
    answer = tractability(E, G)
    assert answer.rule == "relatively complete classes" and len(answer.plan.rectangles) == 0


def test_equal_leftovers_join_their_ranks():
    E = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], dtype=bool)
    G = np.array([[1, 1], [1, 1], [1, 1]], dtype=bool)
    answer = tractability(E, G)
    assert answer.tractable and len(answer.plan.rectangles) == 0


def test_explain_names_overlapping_rectangles():
    E = np.ones((3, 2), dtype=bool)
    G = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]], dtype=bool)
    answer = tractability(E, G)
    assert answer.obstacle == (0, 1) and "overlap without being equal" in answer.explain()


def test_dropped_indices_are_said():
    E = np.array([[1, 0, 1], [1, 0, 1]], dtype=bool)
    G = np.array([[1, 1], [1, 1], [0, 0]], dtype=bool)
    answer = tractability(E, G)
    np.testing.assert_array_equal(answer.pair.dropped, [1, 2])
    assert "2 inner indices (first 1) with an empty column or row" in answer.explain()
    nothing = tractability(np.array([[True, False]]), np.array([[False], [True]]))
    assert nothing.tractable and len(nothing.classes) == 0


def test_bad_input():
    good = np.ones((3, 2), dtype=bool)
    with pytest.raises(ShapeError, match=r"left has shape \(3, 2\) and right has shape \(3, 2\)"):
        tractability(good, good)
    with pytest.raises(DtypeError, match="left: mask has dtype int64"):
        tractability(good.astype(int), good.T)
    with pytest.raises(ArgumentError, match="right: mask of shape"):
        tractability(good, np.zeros((2, 3), dtype=bool))
    with pytest.raises(ShapeError, match="2-D"):
        tractability(good, np.ones(2, dtype=bool))
    with pytest.raises(DtypeError, match="positions depend on the matrix"):
        tractability(sf.TopK(nnz=2), good.T)
    before = good.copy()
    tractability(good, scipy.sparse.csr_array(good.T))
    np.testing.assert_array_equal(good, before)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_classes_and_pairs(case):
    E, G = random_supports(*case)
    pair = as_pair(sf.Support(E), scipy.sparse.csc_array(G))
    alive = E.any(axis=0) & G.any(axis=1)
    np.testing.assert_array_equal(pair.left.toarray(), E & alive)
    np.testing.assert_array_equal(pair.right.toarray(), G & alive[:, None])
    seen = []
    for rows, cols, members in pair.classes:
        for k in members:
            np.testing.assert_array_equal(np.flatnonzero(E[:, k]), rows)
            np.testing.assert_array_equal(np.flatnonzero(G[k]), cols)
        seen.extend(members)
    assert sorted(seen) == list(np.flatnonzero(alive))
    assert len({(tuple(c.rows), tuple(c.cols)) for c in pair.classes}) == len(pair.classes)


def test_kronecker_supports_are_their_masks():
    left, right = sf.KroneckerSupport(2, 3, 2, 2), sf.KroneckerSupport(4, 2, 2, 1)
    one, other = as_pair(left, right), as_pair(left.mask(), right.mask())
    assert (one.left != other.left).nnz == 0 and (one.right != other.right).nnz == 0


def test_answers_travel():
    answer = pickle.loads(pickle.dumps(tractability(np.ones((3, 1), dtype=bool), np.ones((1, 3), dtype=bool))))
    assert answer.tractable and answer.classes[0].members.tolist() == [0] and answer.classes[-1].rows.size == 3


def test_a_large_pair_stays_sparse():
    """Twenty thousand rows and columns: four hundred million cells that nothing may list."""
    size = 20_000
    low = np.ones((size, 1), dtype=bool)
    holes = scipy.sparse.eye_array(size, dtype=bool)
    left, right = scipy.sparse.hstack([low, holes]), scipy.sparse.vstack([low.T, holes])
    answer = tractability(left, right)
    assert not answer.tractable and answer.obstacle == (0, 1)
    assert tractability(holes, holes).rule == "disjoint or identical"


def test_landscape():
    full = np.ones((4, 2), dtype=bool)
    assert landscape(full, full.T).benign is True
    rows = np.array([[1, 0], [1, 1]], dtype=bool), np.array([[1, 0], [1, 1]], dtype=bool)
    assert landscape(*rows).benign is True  # two complete classes that overlap
    lower = np.tri(3, dtype=bool)
    unknown = landscape(lower, lower.T)
    assert unknown.benign is None and "probe_landscape" in unknown.reason
    E = np.array([[1, 1], [1, 0]], dtype=bool)
    mixed = landscape(E, np.ones((2, 2), dtype=bool))
    assert mixed.benign is None and "SubmatrixSVD" in mixed.reason
