"""Closedness: known results, exact proofs, invariances, and evidence that shares no code with the rules."""

from __future__ import annotations

import dataclasses
import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefact as sf
from benchmarks.closedness import masks, multisets, shares
from sparsefact.analysis.closed_proofs import ClosedProof
from sparsefact.analysis.curves import DivergentCurve
from sparsefact.analysis.deep_closedness import deep_closedness
from sparsefact.analysis.groebner import agrees, excludes
from sparsefact.analysis.probe_closedness import probe_closedness
from sparsefact.analysis.refutation import is_refutation, refute
from sparsefact.analysis.relu import relu_training_wellposed
from sparsefact.errors import ArgumentError, DtypeError, ShapeError

closedness = sf.closedness


def lower(n):
    return np.tri(n, dtype=bool)


def from_sets(m, n, *rectangles):
    left, right = np.zeros((m, len(rectangles)), dtype=bool), np.zeros((len(rectangles), n), dtype=bool)
    for k, (rows, cols) in enumerate(rectangles):
        left[[int(i) - 1 for i in rows], k] = True
        right[k, [int(j) - 1 for j in cols]] = True
    return left, right


supports = st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(1, 4)).flatmap(
    lambda d: st.lists(
        st.tuples(st.integers(1, 2 ** d[0] - 1), st.integers(1, 2 ** d[1] - 1)), min_size=d[2], max_size=d[2]
    ).map(lambda rectangles: masks(rectangles, d[0], d[1]))
)


@pytest.mark.parametrize("n", [2, 3, 7, 60, 300])
def test_lu_is_not_closed(n):
    answer = closedness(lower(n), lower(n).T)
    assert answer.verdict == "not closed"
    assert answer.verify()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.ones((4, 2), bool), np.ones((2, 5), bool)),  # rank at most 2
        (np.ones((3, 1), bool), np.ones((1, 3), bool)),
        (np.ones((1, 3), bool), np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]], bool)),  # one row
        (np.array([[1, 1], [1, 1], [1, 1]], bool), np.array([[1, 1, 1], [0, 1, 1]], bool)),  # a flag of subspaces
        from_sets(2, 3, ("12", "12"), ("12", "13"), ("12", "23")),  # filled by generic columns
        from_sets(3, 3, ("1", "1"), ("12", "12"), ("12", "123")),
        (np.eye(5, dtype=bool), np.ones((5, 5), bool)),
    ],
)
def test_closed(left, right):
    answer = closedness(left, right)
    assert answer.verdict == "closed"
    assert answer.verify()
    assert answer.explain().startswith("Closed")


def test_a_full_factor_does_not_make_it_closed():
    left = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    answer = closedness(left, np.ones((2, 2), dtype=bool))
    assert answer.verdict == "not closed"
    assert answer.verify()


@pytest.mark.parametrize(
    ("observed", "closed"),
    [
        (np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool), True),
        (np.array([[1, 1], [1, 0]], bool), False),
        (np.array([[1, 1, 1], [1, 1, 0], [1, 0, 1]], bool), False),
    ],
)
def test_rank_one_completion_is_closed_only_for_full_blocks(observed, closed):
    """One full rank-one term, and a free entry for every unobserved cell."""
    m, n = observed.shape
    free = np.argwhere(~observed)
    left, right = np.zeros((m, 1 + len(free)), dtype=bool), np.zeros((1 + len(free), n), dtype=bool)
    left[:, 0], right[0] = True, True
    for k, (i, j) in enumerate(free, 1):
        left[i, k], right[k, j] = True, True
    answer = closedness(left, right)
    assert answer.verdict == ("closed" if closed else "not closed")
    assert answer.verify()


def test_all_of_2x2_by_the_count_of_full_copies():
    """One full term and exactly one further cell: not closed; everything else on 2 x 2 is closed."""
    for r in (1, 2, 3):
        for rectangles, _ in multisets(2, 2, r):
            full = sum(1 for pair in rectangles if pair == (3, 3))
            covered = set()
            for a, b in rectangles:
                if (a, b) != (3, 3):
                    covered |= {(i, j) for i in range(2) for j in range(2) if a >> i & 1 and b >> j & 1}
            expected = "not closed" if full == 1 and len(covered) == 1 else "closed"
            answer = closedness(*masks(rectangles, 2, 2))
            assert answer.verdict == expected, rectangles
            assert answer.verify()


def table(first, second):
    """The exact answer for r = 2, written with sets."""
    (r1, c1), (r2, c2) = first, second
    a1, a2, b1, b2 = r1 - r2, r2 - r1, c1 - c2, c2 - c1
    if not (r1 & r2 and c1 & c2):
        return "closed"
    sticks_out = (a1 and b1) or (a2 and b2)
    same_columns = c1 == c2 and len(c1) >= 2 and a1 and a2
    same_rows = r1 == r2 and len(r1) >= 2 and b1 and b2
    return "not closed" if sticks_out or same_columns or same_rows else "closed"


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (4, 4)])
def test_two_terms_are_fully_decided(shape):
    chosen = list(multisets(*shape, 2))
    for rectangles, _ in chosen if len(chosen) < 300 else random.Random(0).sample(chosen, 300):
        answer = closedness(*masks(rectangles, *shape))
        sets = [({i for i in range(4) if a >> i & 1}, {j for j in range(4) if b >> j & 1}) for a, b in rectangles]
        assert answer.verdict == table(*sets), rectangles
        assert answer.verify()


def test_2x3_with_three_terms_is_fully_decided():
    row = shares(2, 3, 3)
    assert row["counts"] == {"closed": 1585, "not closed": 186}
    assert row["unverified"] == 0


def test_3x3_with_three_terms_sample():
    chosen = list(multisets(3, 3, 3))
    answers = [closedness(*masks(rectangles, 3, 3), tries=10) for rectangles, _ in chosen[::6]]
    assert all(answer.verify() for answer in answers)
    assert sum(answer.verdict == "unknown" for answer in answers) <= 0.12 * len(answers)


def not_closed_examples():
    yield lower(2), lower(2).T
    yield np.array([[1, 0], [1, 1], [0, 1]], dtype=bool), np.ones((2, 2), dtype=bool)
    yield from_sets(2, 3, ("1", "1"), ("12", "12"), ("12", "13"))
    yield from_sets(3, 3, ("1", "1"), ("23", "23"), ("123", "123"))
    yield from_sets(3, 3, ("1", "12"), ("12", "123"), ("13", "123"))


@pytest.mark.parametrize(("left", "right"), list(not_closed_examples()))
def test_groebner_bases_agree_with_the_refutations(left, right):
    answer = closedness(left, right)
    assert answer.verdict == "not closed"
    assert agrees(answer.certificate, answer.pair)


@pytest.mark.parametrize(("left", "right"), list(not_closed_examples()))
def test_a_divergent_curve_reaches_its_target_in_floating_point(left, right):
    answer = closedness(left, right)
    target = answer.certificate.target(answer.pair)
    errors, sizes = [], []
    for t in (1e2, 1e3, 1e4):
        x, y = answer.certificate.at(t, answer.pair)
        assert not np.any(x[~left])
        assert not np.any(y[~right])
        errors.append(np.linalg.norm(x @ y - target))
        sizes.append(np.linalg.norm(x) * np.linalg.norm(y))
    assert errors[0] > 8 * errors[1] > 64 * errors[2]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize(("left", "right"), list(not_closed_examples()))
def test_least_squares_diverges_on_the_target(left, right):
    """Alternating least squares written here: the error goes on falling while the balanced factors grow."""
    answer = closedness(left, right)
    target = answer.certificate.target(answer.pair)
    rng = np.random.default_rng(3)
    best = None
    for _ in range(4):
        x, y = left * rng.standard_normal(left.shape), right * rng.standard_normal(right.shape)
        history = []
        for sweep in range(1, 1601):
            for i in range(left.shape[0]):
                x[i, left[i]] = np.linalg.lstsq(y[left[i]].T, target[i], rcond=1e-13)[0]
            for j in range(right.shape[1]):
                y[right[:, j], j] = np.linalg.lstsq(x[:, right[:, j]], target[:, j], rcond=1e-13)[0]
            if sweep in (100, 400, 1600):
                size = sum(np.linalg.norm(x[:, k]) * np.linalg.norm(y[k]) for k in range(left.shape[1]))
                history.append((np.linalg.norm(x @ y - target), size))
        if best is None or history[-1][0] < best[-1][0]:
            best = history
    (e1, s1), (e2, s2), (e3, s3) = best
    assert e1 > e2 > e3 > 0
    assert e3 < 0.1
    assert s1 < s2 < s3


def tampered_curves(curve):
    cell = next(iter(curve.proof))
    monomial, value = next(iter(curve.proof[cell].items()))
    i, k, power, coefficient = curve.left[0]
    bumped = [list(row) for row in curve.limit]
    bumped[0][0] += 1
    yield dataclasses.replace(curve, limit=tuple(map(tuple, bumped)))
    yield dataclasses.replace(curve, left=((i, k, power, coefficient + 1), *curve.left[1:]))
    yield dataclasses.replace(curve, left=((i, k, power + 1, coefficient), *curve.left[1:]))
    yield dataclasses.replace(curve, left=curve.left[1:])
    yield dataclasses.replace(curve, right=())
    yield dataclasses.replace(curve, rows=curve.rows[::-1])
    yield dataclasses.replace(curve, rows=(*curve.rows[:-1], 10**6))
    yield dataclasses.replace(curve, proof={})
    yield dataclasses.replace(curve, proof={**curve.proof, cell: {**curve.proof[cell], monomial: value + 1}})
    yield dataclasses.replace(curve, proof={c: g for c, g in curve.proof.items() if c != cell})
    # factors at rest at a matrix that is a product: no divergence, no refutation
    yield dataclasses.replace(curve, left=((i, k, 0, Fraction(1)),), right=())


@pytest.mark.parametrize(("left", "right"), list(not_closed_examples()))
def test_a_tampered_curve_fails(left, right):
    answer = closedness(left, right)
    for number, curve in enumerate(tampered_curves(answer.certificate)):
        assert not dataclasses.replace(answer, certificate=curve).verify(), number
    assert not dataclasses.replace(answer, verdict="closed").verify()
    assert not dataclasses.replace(answer, verdict="unknown").verify()
    assert not dataclasses.replace(answer, certificate=None).verify()


def test_a_curve_of_other_supports_fails():
    answer = closedness(lower(2), lower(2).T)
    full = closedness(np.ones((2, 2), bool), np.ones((2, 2), bool))
    assert not dataclasses.replace(answer, pair=full.pair).verify()
    assert not dataclasses.replace(full, pair=answer.pair).verify()


def test_a_tampered_closed_proof_fails():
    answer = closedness(*from_sets(3, 3, ("1", "1"), ("12", "12"), ("12", "123")))
    proof = answer.certificate
    (block,) = proof.blocks
    group, ruling = block.ruled[0]

    def rejected(**changes):
        changed = dataclasses.replace(proof, blocks=(dataclasses.replace(block, **changes),))
        return not dataclasses.replace(answer, certificate=changed).verify()

    assert answer.verify()
    assert rejected(absorbed=())
    assert rejected(ruled=())
    assert rejected(rows=block.rows[:-1])
    assert rejected(inner=block.inner[:-1])
    assert rejected(ruled=((group[:1], ruling),))
    assert rejected(ruled=((group, dataclasses.replace(ruling, name="rectangle")),))
    assert rejected(ruled=((group, dataclasses.replace(ruling, name="cross-nested")),))
    assert rejected(ruled=((group, dataclasses.replace(ruling, forced={})),))
    assert rejected(ruled=((group, dataclasses.replace(ruling, name="because")),))
    for changes in ({"parts": ()}, {"blocks": ()}, {"separate": (0,)}, {"parts": ((0, 1),)}):
        assert not dataclasses.replace(answer, certificate=dataclasses.replace(proof, **changes)).verify()


def test_a_closed_proof_that_calls_lu_closed_fails():
    pair = closedness(lower(2), lower(2).T).pair
    assert not ClosedProof((0, 1), (), ()).verify(pair)
    nested = closedness(np.ones((2, 2), bool), np.array([[1, 1], [1, 0]], bool))
    assert nested.verdict == "closed"
    assert not dataclasses.replace(nested, pair=pair).verify()


def test_refutations_exist_exactly_for_what_is_no_lu_product():
    """All 0/1 matrices of order 2 and a sample of order 3, against the rank condition for a factorization."""

    def factors(a):
        n = len(a)
        rank = np.linalg.matrix_rank
        return all(rank(a[:k, :k]) + k >= rank(a[:k]) + rank(a[:, :k]) for k in range(1, n + 1))

    for n, step in ((2, 1), (3, 7)):
        for bits in list(itertools.product((0, 1), repeat=n * n))[::step]:
            a = np.array(bits).reshape(n, n)
            target = a.tolist()
            cells = [(i, j) for i in range(n) for j in range(n)]
            proof = refute(lower(n), lower(n).T, target, cells, degree=3, largest=500)
            if factors(a):
                assert proof is None
                assert not excludes(lower(n), lower(n).T, target)
            else:
                assert excludes(lower(n), lower(n).T, target)
                assert n > 2 or is_refutation(lower(n), lower(n).T, target, proof)


@settings(max_examples=60, deadline=None)
@given(supports, st.randoms(use_true_random=False))
def test_permutations_and_transposition_change_no_verdict(pair, rng):
    left, right = pair
    verdict = closedness(left, right, tries=10).verdict
    rows, inner, cols = (rng.sample(range(n), n) for n in (left.shape[0], left.shape[1], right.shape[1]))
    moved = closedness(left[np.ix_(rows, inner)], right[np.ix_(inner, cols)], tries=10)
    turned = closedness(right.T, left.T, tries=10)
    for other in (moved, turned):
        assert other.verify()
        # a random search may end in "unknown" on one side only; a contradiction may never be
        assert other.verdict == verdict or "unknown" in (other.verdict, verdict)


def test_supports_whose_inner_indices_do_not_meet_allow_only_zero():
    answer = closedness(np.array([[True, False]]), np.array([[False], [True]]))
    assert answer.verdict == "closed" and answer.verify()


@settings(max_examples=60, deadline=None)
@given(supports, st.randoms(use_true_random=False))
def test_a_block_of_something_closed_is_never_not_closed(pair, rng):
    left, right = pair
    whole = closedness(left, right, tries=10)
    rows = sorted(rng.sample(range(left.shape[0]), 2))
    cols = sorted(rng.sample(range(right.shape[1]), 2))
    if not left[rows].any() or not right[:, cols].any():
        return
    part = closedness(left[rows], right[:, cols], tries=10)
    assert part.verify()
    assert not (whole.verdict == "closed" and part.verdict == "not closed")


@settings(max_examples=40, deadline=None)
@given(supports)
def test_repeating_rows_or_adding_empty_ones_changes_no_verdict_wrongly(pair):
    left, right = pair
    verdict = closedness(left, right, tries=10).verdict
    padded = closedness(np.vstack([left, np.zeros_like(left[:1])]), right, tries=10)
    assert padded.verdict == verdict
    doubled = closedness(np.vstack([left, left]), right, tries=10)
    assert doubled.verify()
    assert not (verdict == "not closed" and doubled.verdict == "closed")


@settings(max_examples=60, deadline=None)
@given(supports)
def test_tractable_supports_are_closed(pair):
    if sf.tractability(*pair).tractable:
        assert closedness(*pair).verdict == "closed"


def test_the_probe_agrees_with_the_exact_table():
    chosen = list(multisets(3, 3, 2))[::4]
    for rectangles, _ in chosen:
        pair = masks(rectangles, 3, 3)
        suspected = probe_closedness(*pair, targets=4).suspicion == "not closed"
        assert suspected == (closedness(*pair).verdict == "not closed"), rectangles


def test_the_probe_says_that_it_is_evidence():
    evidence = probe_closedness(lower(40), lower(40).T, targets=3)
    assert "evidence" in evidence.explain()
    assert probe_closedness(lower(40), lower(40).T, targets=3).runs[0].norms == evidence.runs[0].norms


def test_relu_theorems():
    assert relu_training_wellposed([lower(4)[3:], lower(4).T], 1).wellposed is True
    two = relu_training_wellposed([lower(3), lower(3).T], 3)
    assert two.wellposed is False
    assert "Theorem V)" in two.reason
    three = relu_training_wellposed([lower(3), np.eye(3, dtype=bool), lower(3).T], 3)
    assert three.wellposed is False
    assert "Theorem VI)" in three.reason
    full = np.ones((3, 3), dtype=bool)
    assert relu_training_wellposed([full, full], 3).wellposed is None  # the converse fails
    assert relu_training_wellposed([full[:1], full, full], 1).wellposed is None  # Theorem IV has two layers
    with pytest.raises(ShapeError, match="output_dim"):
        relu_training_wellposed([full, full], 2)
    with pytest.raises(ArgumentError, match="two layers"):
        relu_training_wellposed([full], 3)


def test_many_factors():
    chain = [sf.KroneckerSupport(2**i, 2, 2, 2 ** (3 - i)) for i in range(4)]
    assert deep_closedness(chain).verdict == "closed"
    assert deep_closedness([lower(4)]).verdict == "closed"
    shift = np.roll(np.eye(5, dtype=bool), 1, axis=0)
    found = deep_closedness([shift, lower(5), shift.T, lower(5).T])
    assert found.verdict == closedness((lower(5).astype(int) @ shift.T) > 0, lower(5).T).verdict
    assert deep_closedness([shift, lower(5), lower(5).T, shift]).verdict == "not closed"
    # only the first two rows and columns reduce to a pair
    middle = scipy.sparse.block_diag([np.eye(2), np.ones((2, 2))]).toarray() != 0
    found = deep_closedness([lower(4), middle, lower(4).T])
    assert found.verdict == "not closed"
    assert found.pair.verify()
    assert set(found.rows) <= {0, 1, 2, 3}
    with pytest.raises(ShapeError, match="neighbours"):
        deep_closedness([lower(3), lower(4)])
    with pytest.raises(ArgumentError, match="empty"):
        deep_closedness([])


def test_large_structured_supports():
    butterfly = closedness(sf.KroneckerSupport(1, 2, 2, 512), sf.KroneckerSupport(2, 512, 512, 1))
    assert butterfly.verdict == "closed"
    assert butterfly.verify()
    n = 20000
    band = scipy.sparse.diags_array([np.ones(n), np.ones(n - 1)], offsets=[0, -1], format="csr").astype(bool)
    answer = closedness(band, band.T)
    assert answer.verdict == "not closed"
    assert answer.verify()


def test_empty_columns_are_dropped():
    left, right = lower(3).copy(), lower(3).T.copy()
    left[:, 1] = False
    answer = closedness(left, right)
    assert answer.verify()
    assert answer.verdict != "unknown"


def test_bad_input():
    with pytest.raises(ShapeError, match="left has shape"):
        closedness(lower(3), lower(4))
    with pytest.raises(DtypeError, match="bool"):
        closedness(np.ones((2, 2)), lower(2))
    with pytest.raises(ArgumentError, match="True"):
        closedness(np.zeros((2, 2), dtype=bool), lower(2))
    with pytest.raises(ArgumentError, match="tries"):
        closedness(lower(2), lower(2), tries=0)
    with pytest.raises(ShapeError, match="target"):
        excludes(lower(2), lower(2), [[1]])


def test_answers_are_reproducible_and_leave_inputs_alone():
    left, right = from_sets(3, 3, ("1", "1"), ("23", "123"), ("123", "123"))
    before = left.copy(), right.copy()
    one, two = closedness(left, right), closedness(left, right)
    assert isinstance(one.certificate, DivergentCurve)
    assert one == two
    assert np.array_equal(left, before[0])
    assert np.array_equal(right, before[1])
