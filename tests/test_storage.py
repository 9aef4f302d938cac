"""The file format: what is written comes back bit for bit, and no lie in a file is believed."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import sparsefact as sf
from sparsefact.errors import ArgumentError, DtypeError, FormatError, StorageError
from sparsefact.io.tensor_file import TensorFile
from sparsefact.io.write import write_tensors
from sparsefact.products import encoding
from sparsefact.products.storage import FORMAT, KEY, document, pack, read_document, unpack

ROOT = Path(__file__).resolve().parent.parent
CODES = {"F32": np.float32, "F64": np.float64, "C64": np.complex64, "C128": np.complex128}


def values(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    array = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        array = array + 1j * rng.standard_normal(shape)
    return np.asarray(array, dtype=dtype)


def random_csr(rng: np.random.Generator, shape: tuple[int, int], density: float, dtype: Any) -> sparse.csr_array:
    rows, columns = np.nonzero(rng.random(shape) < density)
    data = values(rng, len(rows), dtype)
    data[rng.random(len(rows)) < rng.choice([0.0, 0.2])] = rng.choice([0.0, -0.0])
    return sparse.csr_array((data, (rows, columns)), shape=shape)


@st.composite
def products(draw: st.DrawFn) -> sf.Factorization:
    dtype = draw(st.sampled_from(list(CODES.values())))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    b, c = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    inner, columns = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    densities = st.sampled_from([0.0, 0.01, 0.3, 0.9, 0.99, 1.0])
    return sf.Factorization(
        [
            sf.KroneckerFactor(values(rng, (2, b, c, 3), dtype)),
            random_csr(rng, (6 * c, inner), draw(densities), dtype),
            random_csr(rng, (inner, columns), draw(densities), dtype),
            values(rng, (columns, draw(st.integers(0, 3))), dtype),
        ]
    )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same(F: sf.Factorization, G: sf.Factorization) -> None:
    assert (F.shape, F.dtype, F.nnz) == (G.shape, G.dtype, G.nnz)
    for f, g in zip(F.factors, G.factors, strict=True):
        assert type(f) is type(g)
        assert f.shape == g.shape
        if isinstance(f, np.ndarray):
            assert same_bits(f, g)
        elif isinstance(f, sf.KroneckerFactor):
            assert same_bits(f.values, g.values)
        else:
            assert same_bits(f.data, g.data)
            np.testing.assert_array_equal(f.indices, g.indices)
            np.testing.assert_array_equal(f.indptr, g.indptr)


def through_json(record: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(record, allow_nan=False))


# Round trips


@given(products(), st.sampled_from([8, 64, 1 << 22]))
def test_pack_and_unpack_are_inverse(F: sf.Factorization, panel: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_PANEL_ENTRIES", panel)
        tensors, record = pack(F, "w")
        assert all(t.flags.c_contiguous and t.dtype.kind in "fu" for t in tensors.values())
        assert_same(F, unpack(through_json(record), tensors.__getitem__))


@given(products())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_save_and_load_are_inverse(tmp_path: Path, F: sf.Factorization) -> None:
    path = tmp_path / "product.safetensors"
    F.save(path)
    assert_same(F, sf.load(path))
    before = path.read_bytes()
    F.save(str(path))
    assert path.read_bytes() == before


def test_what_is_known_about_a_product_is_kept(tmp_path: Path) -> None:
    F = sf.Factorization(
        [np.eye(3), sparse.csr_array(np.diag([1.0, 2.0, 0.0]))],
        error=0.1,
        frobenius_error=0.2,
        status=sf.Status.STATIONARY,
        solver=("any", "object"),
        constraint="double sparse",
        seed=7,
        explanation="Because.",
        seconds=3.0,
        history=[1],
    )
    F.save(tmp_path / "a")
    G = sf.load(tmp_path / "a")
    assert (G.error, G.frobenius_error, G.status, G.seed) == (0.1, 0.2, sf.Status.STATIONARY, 7)
    assert (G.solver, G.constraint, G.explanation) == ("('any', 'object')", "double sparse", "Because.")
    assert (G.seconds, G.history) == (0.0, ())
    G.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unknown_errors_stay_unknown(tmp_path: Path) -> None:
    sf.Factorization([np.eye(2)], error=0.1, gram=np.eye(2)).save(tmp_path / "a")
    G = sf.load(tmp_path / "a")
    assert G.error == 0.1
    with pytest.raises(ArgumentError, match="error_against"):
        G.frobenius_error  # noqa: B018
    sf.Factorization([np.eye(2)], target=np.zeros((2, 2))).save(tmp_path / "b")
    with pytest.raises(ArgumentError, match="error_against"):
        sf.load(tmp_path / "b").error  # noqa: B018


def test_saving_computes_a_pending_error(tmp_path: Path) -> None:
    sf.Factorization([np.diag([3.0, 0.0])], target=np.diag([3.0, 4.0])).save(tmp_path / "a")
    assert sf.load(tmp_path / "a").error == 0.8


def test_the_loaded_product_does_not_need_the_file(tmp_path: Path) -> None:
    F = sf.Factorization([np.arange(6.0).reshape(2, 3), sparse.csr_array(np.eye(3))])
    F.save(tmp_path / "a")
    G = sf.load(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"")
    assert_same(F, G)


# The kinds


def kind_of(factor: Any, code: str | None = None) -> str:
    tensors, record = pack(sf.Factorization([factor]), "w", dtype=code)
    assert {t["name"] for t in record["factors"][0]["tensors"].values()} == set(tensors)
    return record["factors"][0]["kind"]


@pytest.mark.parametrize("code", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.04, 0.07, 0.3, 0.93, 0.995, 1.0])
@pytest.mark.parametrize("columns", [64, 70000])
def test_the_smallest_kind_is_taken(density: float, code: str, columns: int) -> None:
    rng = np.random.default_rng(0)
    factor = sparse.csr_array(np.where(rng.random((16, columns)) < density, 1.5, 0.0).astype(np.float32))
    item = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}[code]
    size = 16 * columns
    sizes = {
        "bitmask": size // 8 + factor.nnz * item,
        "csr": factor.nnz * (item + (2 if columns <= 65536 else 4)) + 17 * 4,
        "dense": size * item,
    }
    tensors, record = pack(sf.Factorization([factor]), "w", dtype=code)
    assert sum(t.nbytes for t in tensors.values()) == min(sizes.values()) == sizes[record["factors"][0]["kind"]]
    expected = factor.astype(np.float64) if code == "F64" else factor
    assert_same(sf.Factorization([expected]), unpack(record, tensors.__getitem__))


def test_a_stored_zero_is_not_lost_in_a_dense_layout() -> None:
    full = sparse.csr_array(np.ones((8, 8)))
    assert kind_of(full) == "dense"
    full.data[5] = 0.0
    assert kind_of(full) == "bitmask"
    full.data[5] = 1e-30
    assert kind_of(full) == "dense"
    assert kind_of(full, "F16") == "bitmask"


def test_kinds_of_other_factors() -> None:
    assert kind_of(np.zeros((4, 4))) == "dense"
    assert kind_of(sf.KroneckerFactor(np.ones((1, 2, 2, 2)))) == "kronecker"


# Rounding to a storage type


@pytest.mark.parametrize(("code", "dtype"), [("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_half_precision_comes_back_rounded_as_float32(code: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    left, right = random_csr(rng, (20, 10), 0.4, np.float32), values(rng, (10, 15), np.float32)
    A = values(rng, (20, 15), np.float32)
    F = sf.Factorization([left, right], target=A, seed=1)
    tensors, record = pack(F, "w", dtype=code, target=A)
    assert {t.dtype for name, t in tensors.items() if name.endswith("values")} == {np.dtype(dtype)}
    G = unpack(through_json(record), tensors.__getitem__)
    assert G.dtype == np.float32
    np.testing.assert_array_equal(G.factors[0].data, left.data.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(G.factors[1], right.astype(dtype).astype(np.float32))
    product = G.factors[0].toarray().astype(float) @ G.factors[1].astype(float)
    expected = np.linalg.norm(A - product) / np.linalg.norm(A.astype(float))
    assert G.error == G.frobenius_error == pytest.approx(expected, rel=1e-12)
    assert G.error != F.error


def test_the_error_of_other_values_is_not_recorded() -> None:
    F = sf.Factorization([np.full((2, 2), 0.1)], error=0.5)
    assert pack(F, "w", dtype="F64")[1]["error"] == 0.5
    assert pack(F, "w", dtype="F32")[1]["error"] is None
    exact = sf.Factorization([np.full((2, 2), 0.25)], error=0.5)
    assert pack(exact, "w", dtype="BF16")[1]["error"] == 0.5


def test_gram_weighted_error_of_rounded_values() -> None:
    A, gram = np.diag([0.1, 1.0]), np.diag([1.0, 0.0])
    _, record = pack(sf.Factorization([A]), "w", dtype="BF16", target=A, gram=gram)
    rounded = float(ml_dtypes.bfloat16(0.1))
    assert record["error"] == pytest.approx(abs(rounded - 0.1) / 0.1)
    assert record["frobenius_error"] == pytest.approx(abs(rounded - 0.1) / np.hypot(0.1, 1.0))


@pytest.mark.parametrize(
    ("dtype", "code", "error"),
    [
        (np.float64, "C64", DtypeError),
        (np.complex128, "F64", DtypeError),
        (np.float64, "I8", ArgumentError),
        (np.float64, "float32", ArgumentError),
    ],
)
def test_refused_storage_types(dtype: Any, code: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"dtype is '?{code}"):
        pack(sf.Factorization([np.eye(2, dtype=dtype)]), "w", dtype=code)


@pytest.mark.parametrize(("code", "largest"), [("F16", 7e4), ("BF16", 3.4e38), ("F32", 1e39)])
def test_values_too_large_for_their_storage_type_are_refused(code: str, largest: float) -> None:
    with pytest.raises(ArgumentError, match=f"dtype is {code}, which cannot hold"):
        pack(sf.Factorization([np.array([[largest]])]), "w", dtype=code)


@pytest.mark.parametrize("name", ["", None, 3])
def test_refused_names(name: Any) -> None:
    with pytest.raises(ArgumentError, match="name is"):
        pack(sf.Factorization([np.eye(2)]), name)


# Files with several matrices


def write(path: Path, records: dict[str, Any], tensors: dict[str, np.ndarray], **arguments: Any) -> None:
    write_tensors(path, tensors, document(records, **arguments))


def test_one_of_several_matrices(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {"bias": np.ones(3)}
    records = {}
    for j in range(12):
        found, records[f"layer.{j}"] = pack(sf.Factorization([j * np.eye(2)]), f"layer.{j}")
        tensors |= found
    write(tmp_path / "f", records, tensors, source="model", copied=["bias"], failed={"x": "It is bad."})
    assert sf.load(tmp_path / "f", "layer.3").todense()[0, 0] == 3
    with pytest.raises(ArgumentError, match=r"several matrices.*'layer\.0'.*and 2 more"):
        sf.load(tmp_path / "f")
    with pytest.raises(ArgumentError, match=r"name is 'layer', but.*'layer\.0'"):
        sf.load(tmp_path / "f", "layer")
    with TensorFile(tmp_path / "f") as file:
        content = read_document(file.metadata, "f")
    assert (content["source"], content["copied"], content["failed"]) == ("model", ["bias"], {"x": "It is bad."})


def test_files_that_hold_no_factors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "plain", {"w": np.ones((2, 2))}, {"format": "pt"})
    with pytest.raises(FormatError, match="no 'sparsefact' metadata"):
        sf.load(tmp_path / "plain")
    write(tmp_path / "empty", {}, {"w": np.ones(2)})
    with pytest.raises(FormatError, match="no factorized matrix"):
        sf.load(tmp_path / "empty")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(FormatError):
        sf.load(tmp_path / "text")
    with pytest.raises(StorageError):
        sf.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[" * 100000, "not valid JSON"),
        ("[]", "it must be an object"),
        ("{}", "no 'format'"),
        ('{"format": true}', "'format' is true or false"),
        ('{"format": 3}', "upgrade sparsefact"),
        (
            '{"format": 1, "version": "0", "source": "", "matrices": [], "copied": [], "failed": {}}',
            "'matrices' is a list",
        ),
        ('{"format": 1, "version": "0", "source": "", "matrices": {}, "copied": [1], "failed": {}}', "strings only"),
        (
            '{"format": 1, "version": "0", "source": "", "matrices": {"w": 3}, "copied": [], "failed": {}}',
            "'w': the record",
        ),
    ],
)
def test_documents_that_are_not_what_they_must_be(tmp_path: Path, text: str, sentence: str) -> None:
    write_tensors(tmp_path / "f", {"w": np.ones(2)}, {KEY: text})
    with pytest.raises(FormatError, match=sentence) as caught:
        sf.load(tmp_path / "f")
    assert "\n" not in str(caught.value)


# Hostile records: each lie is told with checksums that agree


def sample() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return a record with one factor of each kind: csr 6x300, bitmask 300x5, dense 5x6, kronecker 6x6."""
    rng = np.random.default_rng(0)
    left = np.zeros((6, 300), np.float32)
    left[[0, 0, 2, 5], [3, 299, 7, 0]] = [1, 2, 3, 4]
    right = np.where(rng.random((300, 5)) < 0.4, 1.0, 0.0).astype(np.float32)
    kronecker = sf.KroneckerFactor(values(rng, (1, 2, 2, 3), np.float32))
    F = sf.Factorization([sparse.csr_array(left), sparse.csr_array(right), values(rng, (5, 6), np.float32), kronecker])
    tensors, record = pack(F, "w")
    assert [f["kind"] for f in record["factors"]] == ["csr", "bitmask", "dense", "kronecker"]
    return tensors, through_json(record)


Change = Callable[[np.ndarray], np.ndarray]


def at(index: Any, value: Any) -> Change:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("tensor", "change", "sentence"),
    [
        ("0.indices", at(1, 300), "column index 300 is outside"),
        ("0.indices", at(0, 299), "strictly ascending"),
        ("0.indices", at(0, 300 - 0), "outside"),
        ("0.indices", lambda x: x[[1, 0, 2, 3]], "strictly ascending"),
        ("0.indices", lambda x: x[:3], "4 values need"),
        ("0.indices", lambda x: x.astype(np.int64), "uint16 or uint32"),
        ("0.indices", lambda x: x.astype(np.float32), "uint16 or uint32"),
        ("0.indptr", at(0, 1), "run from 0 to 4"),
        ("0.indptr", at(-1, 3), "run from 0 to 4"),
        ("0.indptr", at(-1, 2**32 - 1), "run from 0 to 4"),
        ("0.indptr", at(2, 2**32 - 1), "decreases"),
        ("0.indptr", at(4, 1), "decreases"),
        ("0.indptr", lambda x: x[1:], "6 rows need"),
        ("0.indptr", lambda x: x[:0], "6 rows need"),
        ("0.indptr", lambda x: x.astype(np.int32), "uint32 or uint64"),
        ("0.values", lambda x: x[:2], "the record says"),
        ("0.values", lambda x: x[:, None], "the record says"),
        ("0.values", lambda x: x.astype(np.float64), "float64, but the record says F32"),
        ("0.values", at(2, np.nan), "NaN or infinity"),
        ("1.bits", at(3, 255), "bits are set"),
        ("1.bits", lambda x: x[:-1], "need uint8 of shape"),
        ("1.bits", lambda x: x.astype(np.int8), "need uint8"),
        ("1.bits", lambda x: x[:, None], "need uint8 of shape"),
        ("1.values", lambda x: x[:-1], "the record says"),
        ("2.values", lambda x: x.T, "the record says"),
        ("2.values", at((0, 0), -np.inf), "NaN or infinity"),
        ("3.values", lambda x: x[0], "four axes"),
        ("3.values", lambda x: x.reshape(3, 2, 2, 1)[:, :, :1], "do not make"),
        ("3.values", lambda x: x.reshape(1, 4, 1, 3), "do not make"),
    ],
)
def test_arrays_that_lie(tensor: str, change: Change, sentence: str) -> None:
    tensors, record = sample()
    name = f"w.factors.{tensor}"
    tensors[name] = change(tensors[name])
    factor, part = tensor.split(".")
    contents = np.ascontiguousarray(tensors[name]).tobytes()
    record["factors"][int(factor)]["tensors"][part]["sha256"] = hashlib.sha256(contents).hexdigest()
    with pytest.raises(FormatError, match=rf"^matrix.*{sentence}") as caught:
        unpack(record, tensors.__getitem__)
    assert "\n" not in str(caught.value)


def test_padding_bits_must_be_zero() -> None:
    tensors, record = pack(sf.Factorization([sparse.csr_array(np.diag([1.0, 2.0, 3.0]))]), "w", dtype="F64")
    assert record["factors"][0]["kind"] == "bitmask"
    bits = tensors["w.factors.0.bits"]
    bits[0] -= 1
    bits[1] |= 0x80
    record["factors"][0]["tensors"]["bits"]["sha256"] = hashlib.sha256(bits.tobytes()).hexdigest()
    with pytest.raises(FormatError, match="beyond the last entry"):
        unpack(record, tensors.__getitem__)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("dtype",), "F64", "the record says F64"),
        (("dtype",), "I8", "must be one of"),
        (("dtype",), None, "'dtype' is null"),
        (("shape",), [6, 7], "the record says 6x7"),
        (("shape",), [6], "two integers"),
        (("shape",), [6, True], "two integers"),
        (("shape",), [6, -6], "two integers"),
        (("nnz",), 5, "with 5"),
        (("nnz",), 4.0, "'nnz' is a number"),
        (("nnz",), -1, "range"),
        (("error",), -0.5, "relative error"),
        (("error",), float("nan"), "relative error"),
        (("error",), float("inf"), "relative error"),
        (("error",), "small", "a string"),
        (("error",), 10**400, "range"),
        (("status",), "PERFECT", "must be one of OPTIMAL"),
        (("status",), 1, "an integer"),
        (("seed",), "1", "a string"),
        (("solver",), {}, "an object"),
        (("factors",), [], "at least one factor"),
        (("factors",), {}, "an object"),
        (("factors", 0), 3, "factor 0: the record is an integer"),
        (("factors", 0, "kind"), "pickle", "must be one of"),
        (("factors", 0, "kind"), "bitmask", "no 'bits'"),
        (("factors", 0, "shape"), [7, 300], "7 rows need"),
        (("factors", 0, "shape"), [6, 299], "outside"),
        (("factors", 0, "shape"), [6, 301], "must share their inner dimension"),
        (("factors", 0, "shape"), [2**40, 300], "two integers"),
        (("factors", 0, "shape"), [2**32, 300], "rows need"),
        (("factors", 0, "nnz"), 3, "the record says"),
        (("factors", 0, "nnz"), 2**70, "range"),
        (("factors", 0, "tensors"), [], "a list"),
        (("factors", 0, "tensors", "values"), "w", "a string"),
        (("factors", 0, "tensors", "values", "name"), "w.factors.9.values", "missing or damaged"),
        (("factors", 0, "tensors", "values", "name"), "w.factors.2.values", "not those that were recorded"),
        (("factors", 0, "tensors", "values", "sha256"), "0" * 64, "not those that were recorded"),
        (("factors", 0, "tensors", "values", "sha256"), None, "is null"),
        (("factors", 1, "shape"), [5, 300], "must share"),
        (("factors", 1, "shape"), [300, 2**32], "need uint8"),
        (("factors", 2, "sparse"), "yes", "a string"),
        (("factors", 2, "nnz"), 3, "30 entries are stored"),
        (("factors", 3, "shape"), [6, 3], "do not make"),
    ],
)
def test_records_that_lie(path: tuple[Any, ...], value: Any, sentence: str) -> None:
    tensors, record = sample()
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(FormatError, match=rf"^matrix.*{sentence}") as caught:
        unpack(record, tensors.__getitem__)
    assert "\n" not in str(caught.value)
    del place[path[-1]]
    if path[-1] not in ("error", "status", "seed", "solver", "sparse"):
        with pytest.raises(FormatError):
            unpack(record, tensors.__getitem__)


@pytest.mark.parametrize("kind", ["bitmask", "dense"])
def test_a_tiny_file_cannot_ask_for_gigabytes(kind: str) -> None:
    tensors, record = pack(sf.Factorization([sparse.csr_array((3, 0)), np.ones((0, 2))]), "w")
    entry = record["factors"][0]
    empty = {"name": "w.factors.0.values", "sha256": hashlib.sha256(b"").hexdigest()}
    bits = {"name": "bits", "sha256": hashlib.sha256(b"").hexdigest()}
    entry |= {"kind": kind, "sparse": True, "shape": [2**32, 0], "tensors": {"values": empty, "bits": bits}}
    record["shape"] = [2**32, 2]
    tensors |= {"bits": np.zeros(0, np.uint8), "w.factors.0.values": np.zeros(0 if kind == "bitmask" else (2**32, 0))}
    with pytest.raises(FormatError, match="no columns"):
        unpack(record, tensors.__getitem__)


def test_wide_row_pointers_are_read() -> None:
    tensors, record = sample()
    tensors["w.factors.0.indptr"] = tensors["w.factors.0.indptr"].astype(np.uint64)
    digest = hashlib.sha256(tensors["w.factors.0.indptr"].tobytes()).hexdigest()
    record["factors"][0]["tensors"]["indptr"]["sha256"] = digest
    assert_same(unpack(record, tensors.__getitem__), unpack(SAMPLE[1], SAMPLE[0].__getitem__))


def test_a_number_of_nonzeros_that_lies() -> None:
    tensors, record = pack(sf.Factorization([sparse.csr_array(np.ones((3, 3)))]), "w")
    assert record["factors"][0]["sparse"] is True
    for place in (record, record["factors"][0]):
        place["nnz"] = 8
    with pytest.raises(FormatError, match="9 entries are stored"):
        unpack(record, tensors.__getitem__)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=200)
def test_any_change_of_a_record_is_an_error_of_ours_or_harmless(data: st.DataObject) -> None:
    tensors, record = SAMPLE
    record = copy.deepcopy(record)
    place: Any = record
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 3)):
            place = place[key]
            continue
        place[key] = data.draw(JSON)
        break
    try:
        F = unpack(record, tensors.__getitem__)
    except FormatError as caught:
        assert "\n" not in str(caught)
    else:
        assert F.shape == (6, 6)


SAMPLE = sample()


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_of_the_data_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "f"
    write(path, {"w": SAMPLE[1]}, SAMPLE[0])
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    position = data.draw(st.integers(start, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not those that were recorded"):
        sf.load(path)


# The documentation's reader


def test_the_reader_of_the_documentation_reads_every_kind(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "format.md").read_text("utf-8"), re.M | re.S)
    namespace: dict[str, Any] = {"np": np}
    exec(next(block for block in blocks if "def read_factors" in block), namespace)
    rng = np.random.default_rng(0)
    for dtype, code in [(np.float32, None), (np.complex128, None), (np.complex64, None), (np.float32, "BF16")]:
        F = sf.Factorization(
            [
                random_csr(rng, (6, 300), 0.01, dtype),
                random_csr(rng, (300, 5), 0.4, dtype),
                random_csr(rng, (5, 6), 1.0, dtype),
                values(rng, (6, 6), dtype),
                sf.KroneckerFactor(values(rng, (1, 2, 2, 3), dtype)),
            ]
        )
        tensors, record = pack(F, "w", dtype=code)
        write(tmp_path / "f", {"w": record}, tensors)
        expected = sf.load(tmp_path / "f")
        assert {f["kind"] for f in record["factors"]} >= {"csr", "bitmask", "dense", "kronecker"}
        for got, factor in zip(namespace["read_factors"](tmp_path / "f")["w"], expected.factors, strict=True):
            np.testing.assert_array_equal(got, factor if isinstance(factor, np.ndarray) else factor.toarray())


def test_loading_needs_no_solver(tmp_path: Path) -> None:
    sf.Factorization([np.eye(3)]).save(tmp_path / "f")
    code = "import sys, sparsefact as sf; sf.load(sys.argv[1]); assert not {'numba', 'cupy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=True, cwd=ROOT)


def test_the_format_is_the_documented_one() -> None:
    text = (ROOT / "docs" / "format.md").read_text("utf-8")
    assert f"specification of format {FORMAT}" in text
    record = SAMPLE[1]
    for key in (*record, *record["factors"][0], *json.loads(document({})[KEY])):
        assert f"`{key}`" in text
