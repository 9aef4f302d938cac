"""History, certificates and evidence in a factor file: given back as stated, checked again, and no lie believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsefact as sf
from sparsefact.analysis.stated import read_record
from sparsefact.checkpoints.verify import verify
from sparsefact.errors import FormatError
from sparsefact.io.write import write_tensors
from sparsefact.products.history import decode_history, encode_history
from sparsefact.products.progress import Progress
from sparsefact.products.storage import document, pack

DATA = Path(__file__).resolve().parent / "data"
RNG = np.random.default_rng(0)
SQUARE, WIDE = RNG.standard_normal((16, 16)), RNG.standard_normal((12, 8)).astype(np.float32)
LOWER = np.tri(6, dtype=bool)
# Two rank-one terms on one rectangle: the second has nothing to do where the matrix has rank one, and stores nothing.
TWICE = (sf.Support(np.ones((4, 2), dtype=bool)), sf.Support(np.ones((2, 5), dtype=bool)))


def blocks(m: int, n: int) -> tuple[sf.Support, sf.Support]:
    left = np.kron(np.eye(2, dtype=bool), np.ones((m // 2, 1), dtype=bool))
    right = np.kron(np.eye(2, dtype=bool), np.ones((1, n // 2), dtype=bool))
    return sf.Support(left), sf.Support(right)


CASES: dict[str, Callable[[], tuple[Any, sf.Factorization]]] = {
    "butterfly": lambda: (SQUARE, sf.factorize(SQUARE, sf.Chain.butterfly(16))),
    "every split": lambda: (
        SQUARE,
        sf.factorize(SQUARE, sf.Chain.butterfly(16), sf.Hierarchical(certificate="full", sweeps=1)),
    ),
    "transposed": lambda: (
        WIDE.T,
        sf.factorize(WIDE.T, sf.Chain.monarch((12, 8), blocks=(3, 2)).T, sf.Hierarchical()),
    ),
    "redundant": lambda: (
        SQUARE,
        sf.factorize(SQUARE, sf.Chain([(1, 16, 16, 1), (1, 16, 16, 1), (4, 4, 4, 1)])),
    ),
    "tolerance": lambda: (SQUARE, sf.factorize(SQUARE, sf.Chain.butterfly(16), sf.Hierarchical(tolerance=0.3))),
    "weighted chain": lambda: (
        SQUARE,
        sf.factorize(SQUARE, sf.Chain.butterfly(16), gram=np.diag(np.arange(16.0) + 1)),
    ),
    "complex": lambda: (
        SQUARE + 1j * SQUARE.T,
        sf.factorize(SQUARE + 1j * SQUARE.T, sf.Chain.butterfly(16)),
    ),
    "pair": lambda: (WIDE, sf.factorize(WIDE, blocks(12, 8), sf.SubmatrixSVD())),
    "pair that stores less": lambda: (
        np.outer(np.arange(4.0), np.arange(5.0)),
        sf.factorize(np.outer(np.arange(4.0), np.arange(5.0)), TWICE, sf.SubmatrixSVD()),
    ),
    "weighted pair": lambda: (
        WIDE,
        sf.factorize(WIDE, blocks(12, 8), sf.SubmatrixSVD(), gram=np.diag(np.arange(8.0) + 1).astype(np.float32)),
    ),
    "Kronecker pair": lambda: (
        SQUARE,
        sf.factorize(SQUARE, (sf.KroneckerSupport(1, 4, 4, 4), sf.KroneckerSupport(4, 4, 4, 1)), sf.SubmatrixSVD()),
    ),
}


def through_file(F: sf.Factorization, folder: Path) -> sf.Factorization:
    F.save(folder / "a")
    G = sf.load(folder / "a")
    G.save(folder / "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    return G


@pytest.mark.parametrize("case", CASES)
def test_a_certificate_comes_back_as_stated_and_is_checked_again(case: str, tmp_path: Path) -> None:
    A, F = CASES[case]()
    G = through_file(F, tmp_path)
    ours, stated = F.certificate, G.certificate
    assert type(stated) is type(ours) and isinstance(stated, sf.Certificate)
    assert (ours.stated, stated.stated) == (False, True)
    assert (stated.lower_bound, stated.upper_bound) == (ours.lower_bound, ours.upper_bound)
    assert ours.verify(A) and stated.verify(A)
    other = A.copy()
    other[1, 2] += 1
    assert not stated.verify(other)
    assert "file states" in G.explain() and "file states" not in F.explain()
    without_times = [(s.iteration, s.total, s.objective, s.error) for s in F.history]
    assert without_times == [(s.iteration, s.total, s.objective, s.error) for s in G.history]
    assert len(F.history) > 0 and all(step.seconds == 0 for step in G.history)


def test_the_cases_are_what_they_say() -> None:
    assert CASES["transposed"]()[1].certificate.transposed
    assert len(CASES["redundant"]()[1].certificate.chain) < 3
    _, F = CASES["pair that stores less"]()
    assert F.factors[0].nnz < 8 and F.certificate.pair.left.nnz == 8


def test_that_there_is_no_optimum_comes_back_and_is_proved_again(tmp_path: Path) -> None:
    A = np.array([[0.0, 1.0], [1.0, 0.0]])
    supports = sf.Support(np.tri(2, dtype=bool)), sf.Support(np.tri(2, dtype=bool).T)
    F = sf.factorize(A, supports, sf.AlternatingLeastSquares(iterations=3000))
    assert F.status is sf.Status.INFIMUM_NOT_ATTAINED and F.certificate.verdict == "not closed"
    verdict = through_file(F, tmp_path).certificate
    assert (verdict.verdict, verdict.stated, verdict.verify()) == ("not closed", True, True)
    assert "a file states" in sf.load(tmp_path / "a").explain()
    closed = sf.Factorization([np.ones((2, 2)), np.ones((2, 2))])
    tensors2, record2 = pack(closed, "w")
    record2["certificate"] = {"kind": "closedness", "verdict": "not closed", "left": None, "right": None, "tensors": {}}
    assert not read_record(record2, tensors2.__getitem__).certificate.verify()


def test_evidence_comes_back(tmp_path: Path) -> None:
    entries = sf.Entries((16, 16), np.float64, lambda i, j: 1.0 / (1.0 + i[:, None] + j))
    F = sf.factorize(entries, sf.Chain.butterfly(16), sf.CrossApproximation())
    stated = through_file(F, tmp_path).evidence
    assert stated.stated and not F.evidence.stated
    assert (stated.relative, stated.seed, stated.unseen) == (F.evidence.relative, F.evidence.seed, F.evidence.unseen)
    assert "A file states this" in stated.explain()


def test_nothing_is_said_of_values_that_were_rounded() -> None:
    F = sf.factorize(SQUARE, sf.Chain.butterfly(16))
    assert "certificate" in pack(F, "w")[1]
    for code in ("F16", "BF16", "F32"):
        record = pack(F, "w", dtype=code)[1]
        assert "certificate" not in record and "history" in record


def test_files_of_the_first_format_are_read() -> None:
    # written by the version of sparsefact before format 2
    F = sf.load(DATA / "format_1.safetensors")
    assert (F.shape, F.dtype, len(F.factors)) == ((4, 4), np.float32, 2)
    assert (F.history, F.certificate, F.evidence) == ((), None, None)
    assert verify(DATA / "format_1.safetensors").ok


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**53 - 1),
            st.integers(0, 2**53 - 1),
            st.floats(),
            st.none() | st.floats(0, allow_nan=False),
        ),
        min_size=1,
    )
)
def test_a_history_is_kept_but_for_its_times(rows: list[tuple[int, int, float, float | None]]) -> None:
    given_steps = [Progress(*row, seconds=1.0) for row in rows]
    encoded = encode_history(given_steps)
    assert encoded is not None
    found = decode_history(encoded, "w")
    np.testing.assert_equal([(s.iteration, s.total, s.objective, s.error) for s in found], rows)


def test_a_history_without_end_is_thinned_and_keeps_its_last_step() -> None:
    encoded = encode_history([Progress(i, 200_000, 1.0, None, 0.0) for i in range(200_000)])
    assert encoded is not None and len(encoded) == 50_000
    assert encoded[-1, 0] == 199_999 and set(np.diff(encoded[:, 0])) == {4.0}
    assert encode_history([]) is None and encode_history([1, 2]) is None


# Lies


def sample(case: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tensors, record = pack(CASES[case]()[1], "w")
    return tensors, json.loads(json.dumps(record))


SAMPLES = {case: sample(case) for case in ("weighted chain", "pair that stores less")}
CHAIN_LIES: list[tuple[str, Any, str]] = [
    ("kind", 3, "'kind' is an integer"),
    ("kind", None, "'kind' is null"),
    ("tensors", None, "'tensors' is null"),
    ("tensors", {}, "no 'weights'"),
    ("lower_bound", None, "'lower_bound' must hold finite numbers"),
    ("lower_bound", -1.0, "finite numbers >= 0"),
    ("lower_bound", 10**400, "finite numbers >= 0"),
    ("upper_bound", float("inf"), "finite numbers >= 0"),
    ("upper_bound", float("nan"), "finite numbers >= 0"),
    ("lower_bound", 1e9, "do not follow from its errors"),
    ("exact", 1, "'exact' is an integer"),
    ("transposed", True, "no chainable chain"),
    ("order", [1, 1, 2], "do not follow"),
    ("order", [1, 2], "do not follow"),
    ("order", [0, 1, 2], "do not follow"),
    ("order", [10**30, 1, 2], "do not follow"),
    ("order", {}, "'order' is an object"),
    ("order", ["1", 2, 3], "finite numbers >= 0"),
    ("order", [True, 2, 3], "finite numbers >= 0"),
    ("step_errors", [0.0] * 513, "512 at most"),
    ("step_errors", [[]], "finite numbers >= 0"),
    ("split_errors", [1e9, 0, 0], "do not follow"),
    ("weighted", "yes", "'weighted' is a string"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), CHAIN_LIES)
def test_lies_about_a_chain(key: str, value: Any, sentence: str) -> None:
    tensors, record = SAMPLES["weighted chain"]
    refused({**record, "certificate": {**record["certificate"], key: value}}, tensors, sentence)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("lower_bound", 1e9, "above the upper bound"),
        ("residual", None, "finite numbers"),
        ("left", 3, "'left' is an integer"),
        ("left", {"kind": "dense", "nnz": 8}, "'kind' is 'dense'"),
        ("left", {"kind": "bitmask", "nnz": 7}, "8 bits are set"),
        ("left", {"kind": "bitmask", "nnz": 1 << 63}, "outside the range"),
        ("left", {"kind": "csr", "nnz": 8}, "no 'left.indices'"),
        ("right", {"kind": "bitmask", "nnz": 4}, "10 bits are set"),
    ],
)
def test_lies_about_a_pair(key: str, value: Any, sentence: str) -> None:
    tensors, record = SAMPLES["pair that stores less"]
    refused({**record, "certificate": {**record["certificate"], key: value}}, tensors, sentence)


def test_a_certificate_must_be_about_such_factors() -> None:
    (pair_tensors, pair), (chain_tensors, chain) = SAMPLES["pair that stores less"], SAMPLES["weighted chain"]
    refused({**pair, "certificate": chain["certificate"]}, pair_tensors, "Kronecker factors, and these are not")
    refused({**chain, "certificate": pair["certificate"]}, chain_tensors, "two supports, but there are 4 factors")
    assert read_record({**pair, "certificate": {"kind": "of tomorrow"}}, pair_tensors.__getitem__).certificate is None


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((1, 4), np.float32), "must be float64"),
        (np.zeros((0, 4)), "from 1 to"),
        (np.zeros((65537, 4)), "from 1 to"),
        (np.zeros((1, 3)), "4 columns"),
        (np.zeros(4), "4 columns"),
        (np.array([[-1.0, 0, 0, 0]]), "whole numbers"),
        (np.array([[0.5, 0, 0, 0]]), "whole numbers"),
        (np.array([[np.nan, 0, 0, 0]]), "whole numbers"),
        (np.array([[0, 2.0**53, 0, 0]]), "whole numbers"),
        (np.array([[0, 0, 0, -0.1]]), "below 0"),
    ],
)
def test_lies_about_the_history(array: np.ndarray, sentence: str) -> None:
    with pytest.raises(FormatError, match=sentence):
        decode_history(array, "w")


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_lies_about_weights(value: float, tmp_path: Path) -> None:
    _, F = CASES["weighted chain"]()
    F.certificate.weights.setflags(write=True)
    F.certificate.weights[0] = value
    F.save(tmp_path / "f")  # with checksums that agree
    with pytest.raises(FormatError, match="the weights must be"):
        sf.load(tmp_path / "f")


def test_damaged_tensors_are_refused() -> None:
    tensors, record = SAMPLES["weighted chain"]
    for name in ("w.factors.history", "w.factors.certificate.weights"):
        refused(record, {**tensors, name: tensors[name] + 1}, "not those that were recorded")
        refused(record, {k: v for k, v in tensors.items() if k != name}, "missing or damaged")


def refused(record: dict[str, Any], tensors: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(FormatError, match=sentence) as caught:
        read_record(record, tensors.__getitem__, where="f: 'w'")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("f: 'w'")


@pytest.mark.parametrize("case", SAMPLES)
def test_a_lie_that_makes_sense_is_found_by_verify(case: str) -> None:
    (A, _), (tensors, record) = CASES[case](), SAMPLES[case]
    proof = {**record["certificate"]}
    proof["lower_bound"] = proof["upper_bound"] = proof["residual"] = 1.5 * proof["upper_bound"] + 1
    if "step_errors" in proof:
        proof["step_errors"] = [proof["upper_bound"], 0, 0]
    assert read_record(record, tensors.__getitem__).certificate.verify(A)
    assert not read_record({**record, "certificate": proof}, tensors.__getitem__).certificate.verify(A)


def test_the_command_verify_checks_certificates_against_the_checkpoint(tmp_path: Path) -> None:
    A, F = CASES["weighted chain"]()
    write_tensors(tmp_path / "model.safetensors", {"w": A})
    F.save(tmp_path / "f", name="w")
    (finding,) = verify(tmp_path / "f", against=tmp_path / "model.safetensors").findings
    assert finding.ok and finding.message.endswith("its certificate holds")
    tensors, record = SAMPLES["weighted chain"]
    largest = max(record["certificate"]["step_errors"])
    lie = {**record["certificate"], "step_errors": [9 * largest, 0, 0], "exact": False, "lower_bound": 9 * largest}
    write_tensors(tmp_path / "g", tensors, document({"w": {**record, "certificate": lie}}))
    (finding,) = verify(tmp_path / "g", against=tmp_path / "model.safetensors").findings
    assert not finding.ok and "certificate does not hold" in finding.message
    assert verify(tmp_path / "g").ok  # the file is sound, only not honest
    damaged = {**tensors, "w.factors.history": tensors["w.factors.history"] + 1}
    write_tensors(tmp_path / "h", damaged, document({"w": record}))
    assert "the history" in verify(tmp_path / "h").findings[0].message
