"""Planning, running and verifying whole checkpoints, with a stand-in solver whose error is known in closed form."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

import sparsefact as sf
from sparsefact.checkpoints import job as run_module
from sparsefact.checkpoints import run as engine
from sparsefact.checkpoints.measure import magnitude_error, product_times
from sparsefact.checkpoints.plan import Copied, plan
from sparsefact.checkpoints.run import Event, run
from sparsefact.checkpoints.verify import VerifyReport, verify
from sparsefact.errors import (
    ArgumentError,
    BudgetError,
    DeviceError,
    DtypeError,
    FormatError,
    ShapeError,
    StorageError,
)
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.tensor_file import TensorFile
from sparsefact.io.write import write_tensors

# A busy machine is slow, and that is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Tensors = dict[str, NDArray[Any]]

RNG = np.random.default_rng(0)
MODEL: Tensors = {
    "embed.weight": RNG.standard_normal((40, 16)).astype(ml_dtypes.bfloat16),
    "layers.0.q.weight": RNG.standard_normal((16, 16)).astype("float32"),
    "layers.0.up.weight": RNG.standard_normal((24, 16)).astype("float16"),
    "layers.0.down.weight": RNG.standard_normal((16, 24)),
    "layers.0.bias": RNG.standard_normal(16).astype("float32"),
    "layers.0.conv": RNG.standard_normal((3, 4, 5)).astype("float32"),
    "layers.0.ids": np.arange(40).reshape(4, 10),
    "layers.0.scale": RNG.standard_normal((8, 8)).astype(ml_dtypes.float8_e4m3fn),
    "layers.0.row": RNG.standard_normal((1, 64)).astype("float32"),
    "layers.0.tiny": RNG.standard_normal((2, 3)).astype("float32"),
    "layers.0.none": np.empty((0, 5), "float32"),
    "scalar": np.array(2.5),
}
MATRICES = ["embed.weight", "layers.0.q.weight", "layers.0.up.weight", "layers.0.down.weight"]


def pruned(A: NDArray[Any], count: int) -> NDArray[Any]:
    """Keep the `count` entries of largest magnitude, by sorting them all."""
    kept = np.zeros(A.size)
    order = np.argsort(-np.abs(A.astype("float64")).reshape(-1), kind="stable")[:count]
    kept[order] = A.astype("float64").reshape(-1)[order]
    return kept.reshape(A.shape)


def relative_error(A: NDArray[Any], P: NDArray[Any]) -> float:
    return float(np.linalg.norm(A.astype("float64") - P) / np.linalg.norm(A.astype("float64")))


def stand_in(A, constraint, solver=None, *, device=None, seed=0, callback=None) -> sf.Factorization:
    """The identity times A pruned to what is left of the budget, on the side where the factor is square."""
    assert A.dtype in (np.float32, np.float64)
    side = min(A.shape)
    if callback is not None:
        callback(SimpleNamespace(iteration=3, total=7, error=0.5, seconds=0.0))
    rest = sparse.csr_array(pruned(A, constraint.budget - side).astype(A.dtype))
    one = sparse.csr_array(np.eye(side, dtype=A.dtype))
    factors = [one, rest] if A.shape[0] == side else [rest, one]
    return sf.Factorization(factors, target=A, constraint=constraint, status=sf.Status.LIMIT, seed=seed, solver=solver)


FACTORIZE, PRODUCT_TIMES = run_module.factorize, run_module.product_times


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "factorize", stand_in)
    monkeypatch.setattr(run_module, "product_times", lambda A, F: (1.0, 2.0))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "model.safetensors", MODEL)
    return tmp_path / "model.safetensors"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "sparse.safetensors"


def shards(folder: Path, tensors: Tensors, count: int = 3) -> Path:
    folder.mkdir()
    weight_map = {}
    items = list(tensors.items())
    for i in range(count):
        name = f"model-{i + 1:05}-of-{count:05}.safetensors"
        safetensors.numpy.save_file(dict(items[i::count]), folder / name)
        weight_map |= dict.fromkeys(dict(items[i::count]), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def names(items: Any) -> list[str]:
    return [item.name for item in items]


# plan


def test_by_default_the_floating_matrices_are_factorized_and_all_else_is_copied_with_its_reason(source):
    work = plan(source)
    assert sorted(names(work.targets)) == sorted(MATRICES)
    assert dict((tensor.name, tensor.reason) for tensor in work.copied) == {
        "layers.0.bias": "it has 1 dimension",
        "layers.0.conv": "it has 3 dimensions",
        "layers.0.ids": "its dtype is I64",
        "layers.0.scale": "its dtype is F8_E4M3",
        "layers.0.row": "it is a single row or column",
        "layers.0.tiny": "it is too small for the density 0.3",
        "layers.0.none": "it is empty",
        "scalar": "it has 0 dimensions",
    }
    assert (work.source, work.density) == (source, 0.3)
    for target in work.targets:
        array = MODEL[target.name]
        assert (target.shape, target.nbytes) == (array.shape, array.nbytes)
        assert target.constraint == sf.double_sparse(array.shape, 0.3)


def test_patterns_choose(source):
    assert names(plan(source, include="layers.*.q.weight").targets) == ["layers.0.q.weight"]
    assert names(plan(source, include=["*q.weight", "embed.weight"]).targets) != []
    assert set(names(plan(source, exclude=["*.weight", "*.tiny"], include="*").copied)) == set(MODEL)
    work = plan(source, include=["layers.*"], exclude=["*q*", "matches nothing"])
    assert sorted(names(work.targets)) == ["layers.0.down.weight", "layers.0.up.weight"]
    reasons = {tensor.name: tensor.reason for tensor in work.copied}
    assert reasons["embed.weight"] == "it matches no include pattern"
    assert reasons["layers.0.q.weight"] == "it matches the exclude pattern '*q*'"
    # A pattern with wildcards passes over what cannot be factorized; case matters.
    assert names(plan(source, include="layers.0.[bi]*").targets) == []
    with pytest.raises(ArgumentError):
        plan(source, include="LAYERS.*")


@PATIENT
@given(
    patterns=st.tuples(*[st.lists(st.text("layers.0qu*?[]!", max_size=5), max_size=3)] * 2),
    density=st.floats(0.05, 1.0),
)
def test_every_tensor_is_either_a_target_or_copied(patterns_source, patterns, density):
    include, exclude = patterns
    try:
        work = plan(patterns_source, include=include, exclude=exclude, density=density)
    except (ArgumentError, BudgetError):
        return
    together = names(work.targets) + names(work.copied)
    assert sorted(together) == sorted(MODEL)
    for target in work.targets:
        assert target.constraint.budget <= density * np.prod(target.shape)


@pytest.fixture(scope="module")
def patterns_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patterns") / "model.safetensors"
    write_tensors(path, MODEL)
    return path


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("layers.0.bias", ShapeError, r"'layers.0.bias' has the shape \(16,\)"),
        ("layers.0.conv", ShapeError, r"'layers.0.conv' has the shape \(3, 4, 5\)"),
        ("layers.0.row", ShapeError, "'layers.0.row' .*at least 2 rows and 2 columns"),
        ("layers.0.none", ShapeError, "'layers.0.none'"),
        ("layers.0.ids", DtypeError, "'layers.0.ids' has the dtype I64"),
        ("layers.0.scale", DtypeError, "'layers.0.scale' has the dtype F8_E4M3"),
        ("layers.0.tiny", BudgetError, "'layers.0.tiny': density=0.3 .*--exclude"),
        ("layers.0.bia", ArgumentError, "matches none of the 12 tensors .*nearest names are 'layers.0.bias'"),
        ("*.nothing", ArgumentError, "matches none"),
        (3, ArgumentError, "include holds 3"),
    ],
)
def test_a_name_in_full_insists(source, name, error, words):
    with pytest.raises(error, match=words):
        plan(source, include=[name])


def test_a_name_with_brackets_can_be_given_in_full(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"w[0]": np.ones((8, 8)), "b[0]": np.ones(8)})
    assert names(plan(tmp_path, include="w[0]", density=0.5).targets) == ["w[0]"]
    with pytest.raises(ShapeError, match=r"b\[0\]"):
        plan(tmp_path, include="b[0]", density=0.5)


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan"), float("inf"), "half", None])
def test_a_density_outside_its_range_is_a_budget_error(source, density):
    with pytest.raises(BudgetError, match="density"):
        plan(source, density=density)


def test_a_density_too_small_for_every_matrix_is_an_error_and_for_some_a_reason(source):
    with pytest.raises(BudgetError, match=r"density=0\.001 .*pass a density of at least"):
        plan(source, density=0.001)
    work = plan(source, density=0.1)
    assert set(names(work.targets)) < set(MATRICES) and work.targets
    assert Copied("layers.0.q.weight", "it is too small for the density 0.1") in work.copied


def test_planning_reads_no_data_of_sharded_checkpoints(tmp_path):
    folder = shards(tmp_path / "model", MODEL)
    work = plan(folder)
    assert work.source == folder and sorted(names(work.targets)) == sorted(MATRICES)


def test_a_factor_file_is_not_planned(source, output):
    run(plan(source), output)
    with pytest.raises(ArgumentError, match="sparsefact has written"):
        plan(output)


def test_names_that_the_factors_would_take_are_refused(tmp_path):
    for other in ("w.factors.0.values", "w.factors.1.bits"):
        write_tensors(tmp_path / "model.safetensors", {"w": np.ones((8, 8)), other: np.ones(3)})
        with pytest.raises(ArgumentError, match=f"'{other}' has a name that the factors of 'w' would take"):
            plan(tmp_path, density=0.5)
        assert names(plan(tmp_path, density=0.5, exclude="w").copied) != []
    write_tensors(tmp_path / "model.safetensors", {"w": np.ones((8, 8)), "v.factors.0": np.ones(3)})
    assert names(plan(tmp_path, density=0.5).targets) == ["w"]


def test_a_checkpoint_that_cannot_be_read_is_not_planned(tmp_path):
    with pytest.raises(StorageError, match="missing"):
        plan(tmp_path / "missing.safetensors")
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(FormatError, match="pickle"):
        plan(tmp_path / "a.bin")


# run


def test_a_run_writes_factors_and_copies_with_true_numbers(tmp_path, output):
    folder = shards(tmp_path / "model", MODEL)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = run(plan(folder, density=0.4), output, seed=5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(names(report.matrices)) == sorted(MATRICES) and report.failed == ()
    assert set(report.copied) == set(MODEL) - set(MATRICES)
    assert report.bytes_before == sum(array.nbytes for array in MODEL.values())
    with TensorFile(output) as file:
        assert report.bytes_after == sum(file.info(name).nbytes for name in file.names)
        for name in report.copied:
            assert file.read(name).tobytes() == MODEL[name].tobytes()
            assert file.read(name).dtype == MODEL[name].dtype
        document = json.loads(file.metadata["sparsefact"])
        assert list(file.metadata) == ["sparsefact"]
    assert (document["format"], document["source"]) == (2, "model")
    assert document["copied"] == list(report.copied) and document["failed"] == {}
    for matrix in report.matrices:
        A, budget = MODEL[matrix.name], int(0.4 * MODEL[matrix.name].size)
        assert (matrix.shape, matrix.nnz, matrix.bytes_before) == (A.shape, budget, A.nbytes)
        assert matrix.density == budget / A.size
        assert (matrix.dense_ms, matrix.factor_ms, matrix.status, matrix.message) == (1.0, 2.0, "limit", "")
        assert np.isclose(matrix.error, relative_error(A, pruned(A, budget - min(A.shape))), rtol=1e-12)
        assert np.isclose(matrix.magnitude_error, relative_error(A, pruned(A, budget)), rtol=1e-12)
        product = sf.load(output, matrix.name)
        assert product.nnz == budget and product.error == matrix.error
        assert np.array_equal(product.todense(), pruned(A, budget - min(A.shape)))
        record = document["matrices"][matrix.name]
        assert record["seed"] == 5 and record["budget"] == budget and record["density"] == 0.4
        assert record["dtype"] == matrix.dtype
        with open_checkpoint(folder) as checkpoint:
            assert record["source_sha256"] == checkpoint.sha256(matrix.name)
    assert verify(output, against=folder).ok
    listed = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert listed["output"] == str(output) and len(listed["matrices"]) == 4


def test_equal_runs_give_equal_bytes(source, tmp_path):
    for name in ("a", "b"):
        run(plan(source), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_events_tell_the_whole_story(source, output):
    events: list[Event] = []
    work = plan(source)
    run(work, output, on_event=events.append)
    kinds = [(event.kind, event.name) for event in events if event.kind != "waiting"]
    expected = [(kind, name) for name in names(work.targets) for kind in ("start", "progress", "done")]
    expected += [("copied", name) for name in names(work.copied)] + [("writing", str(output))]
    assert kinds == expected
    assert [event.index for event in events if event.kind == "done"] == [0, 1, 2, 3]
    progress = next(event for event in events if event.kind == "progress")
    assert (progress.iteration, progress.iterations, progress.error, progress.total) == (3, 7, 0.5, 4)


def with_bad_values(source: Path) -> Tensors:
    tensors = {name: array.copy() for name, array in MODEL.items()}
    tensors["embed.weight"][30, 5] = np.nan
    tensors["layers.0.down.weight"][3, 7] = np.inf
    tensors["layers.0.down.weight"][9, 0] = np.nan
    write_tensors(source, tensors)
    return tensors


def test_a_bad_tensor_fails_alone_and_is_kept_as_it_was(source, output):
    tensors = with_bad_values(source)
    events: list[Event] = []
    report = run(plan(source), output, on_event=events.append)
    messages = {matrix.name: matrix.message for matrix in report.failed}
    assert set(messages) == {"embed.weight", "layers.0.down.weight"}
    assert "'embed.weight' holds 1 NaN or infinite values, the first at (30, 5)" in messages["embed.weight"]
    assert "holds 2 NaN or infinite values, the first at (3, 7)" in messages["layers.0.down.weight"]
    assert sorted(event.name for event in events if event.kind == "failed") == sorted(messages)
    for matrix in report.failed:
        assert (matrix.error, matrix.magnitude_error, matrix.dense_ms, matrix.density) == (None, None, None, 1.0)
    assert set(report.copied).isdisjoint(messages)
    with TensorFile(output) as file:
        for name in messages:
            assert file.read(name).tobytes() == tensors[name].tobytes()
        assert json.loads(file.metadata["sparsefact"])["failed"] == messages
    assert sf.load(output, "layers.0.q.weight").shape == (16, 16)
    json.dumps(report.as_dict(), allow_nan=False)
    found = verify(output, against=source)
    assert found.ok
    assert any("not factorized: tensor 'embed.weight' holds" in finding.message for finding in found.findings)


@pytest.mark.parametrize("error", [BudgetError("of the solver"), MemoryError()])
def test_a_solver_that_gives_up_is_told_and_the_others_are_done(source, output, monkeypatch, error):
    def give_up(A, *args, **kwargs):
        if A.shape == (16, 16):
            raise error
        return stand_in(A, *args, **kwargs)

    monkeypatch.setattr(run_module, "factorize", give_up)
    report = run(plan(source), output)
    assert names(report.failed) == ["layers.0.q.weight"]
    assert report.failed[0].message in ("of the solver", "there is not enough memory to factorize it")
    assert verify(output, against=source).ok


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a mistake in the package")])
def test_what_is_no_fault_of_the_matrix_ends_the_run_and_keeps_what_is_committed(source, output, monkeypatch, error):
    def fail(event: Event) -> None:
        if event.kind == "done" and event.index == 2:
            raise error

    output.write_bytes(b"old")
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        run(plan(source), output, on_event=fail)
    assert [path.read_bytes() for path in output.parent.iterdir() if path.is_file()] == [b"old"]
    begun = []
    run(plan(source), output, on_event=lambda event: begun.append(event.name) if event.kind == "start" else None)
    assert begun == names(plan(source).targets)[3:]
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_factors_that_half_precision_cannot_hold_are_stored_as_float32(tmp_path, output, monkeypatch):
    def scaled(A, *args, **kwargs):
        left, right = stand_in(A, *args, **kwargs).factors
        return sf.Factorization([left * np.float32(2**20), right * np.float32(2**-20)])

    monkeypatch.setattr(run_module, "factorize", scaled)
    A = MODEL["layers.0.up.weight"]
    write_tensors(tmp_path / "model.safetensors", {"w": A})
    report = run(plan(tmp_path, density=0.5), output)
    assert "stored as F32, since F16 cannot hold the factors" in report.matrices[0].message
    assert report.matrices[0].dtype == "F16"
    with TensorFile(output) as file:
        assert json.loads(file.metadata["sparsefact"])["matrices"]["w"]["dtype"] == "F32"
    assert np.isclose(report.matrices[0].error, relative_error(A, pruned(A, 192 - 16)), rtol=1e-6)
    assert verify(output, against=tmp_path / "model.safetensors").ok


def test_the_recorded_error_is_that_of_the_rounded_values(tmp_path, output, monkeypatch):
    def thirds(A, *args, **kwargs):
        left, right = stand_in(A, *args, **kwargs).factors
        return sf.Factorization([left / np.float32(3), right * np.float32(3)], target=A)

    monkeypatch.setattr(run_module, "factorize", thirds)
    A = MODEL["embed.weight"]
    write_tensors(tmp_path / "model.safetensors", {"w": A})
    report = run(plan(tmp_path, density=0.9), output)
    product = sf.load(output).todense().astype("float64")
    stored = [factor.toarray().astype("float64") for factor in sf.load(output).factors]
    exact = relative_error(A, stored[0] @ stored[1])
    assert np.isclose(report.matrices[0].error, exact, rtol=1e-12)
    assert abs(exact - relative_error(A, pruned(A, 576 - 16))) > 1e-6
    assert np.allclose(product, stored[0] @ stored[1], atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e200])
def test_zero_and_extreme_matrices_have_true_errors(tmp_path, output, scale):
    A = MODEL["layers.0.down.weight"] * scale
    write_tensors(tmp_path / "model.safetensors", {"w": A})
    report = run(plan(tmp_path, density=0.5), output)
    (matrix,) = report.matrices
    if scale:
        expected = MODEL["layers.0.down.weight"]
        assert np.isclose(matrix.error, relative_error(expected, pruned(expected, 192 - 16)), rtol=1e-9)
        assert np.isclose(matrix.magnitude_error, relative_error(expected, pruned(expected, 192)), rtol=1e-9)
    else:
        assert (matrix.error, matrix.magnitude_error) == (0.0, 0.0)
    assert verify(output, against=tmp_path / "model.safetensors").ok


def test_a_checkpoint_without_matrices_is_copied(tmp_path, output):
    tensors = {"b": np.ones(3), "none": np.empty((0, 4), "float32")}
    write_tensors(tmp_path / "model.safetensors", tensors)
    report = run(plan(tmp_path), output)
    assert report.matrices == () and set(report.copied) == set(tensors)
    assert verify(output, against=tmp_path / "model.safetensors").ok


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("no work may be done")


def test_an_output_that_is_the_input_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "factorize", never)
    folder = shards(tmp_path / "model", MODEL)
    shard = folder / "model-00002-of-00003.safetensors"
    (tmp_path / "link.safetensors").symlink_to(shard)
    os.link(shard, tmp_path / "hard.safetensors")
    work = plan(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for output in (
        shard,
        folder / ".." / "model" / shard.name,
        tmp_path / "link.safetensors",
        tmp_path / "hard.safetensors",
    ):
        with pytest.raises(ArgumentError, match="a file of the checkpoint itself; give another path"):
            run(work, output)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("sparse.bin", ArgumentError, "must be the path of a .safetensors file"),
        ("missing/sparse.safetensors", StorageError, "does not exist; create it first"),
        ("folder.safetensors", StorageError, "directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(source, monkeypatch, name, error, words):
    monkeypatch.setattr(run_module, "factorize", never)
    (source.parent / "folder.safetensors").mkdir()
    with pytest.raises(error, match=words):
        run(plan(source), source.parent / name)


def test_mistakes_of_the_caller_are_not_blamed_on_the_matrices(source, output):
    with pytest.raises(DeviceError, match="abacus"):
        run(plan(source), output, device="abacus")
    with pytest.raises(ArgumentError, match="seed"):
        run(plan(source), output, seed=-1)
    assert not output.exists()


def test_a_plan_of_another_checkpoint_is_refused(source, output):
    work = plan(source)
    tensors = {name: array for name, array in MODEL.items() if name != "scalar"}
    for changed in (tensors, MODEL | {"more": np.ones(2)}, MODEL | {"layers.0.q.weight": np.ones((16, 16))}):
        write_tensors(source, changed)
        with pytest.raises(ArgumentError, match="make a new plan"):
            run(work, output)


def test_more_matrices_than_a_file_holds_are_refused_before_any_work(source, output, monkeypatch):
    monkeypatch.setattr(engine, "MAX_ENTRIES", 31)
    monkeypatch.setattr(run_module, "factorize", never)
    with pytest.raises(ArgumentError, match=r"4 matrices .* up to 32 tensors, and one file holds 31"):
        run(plan(source), output)


def test_a_full_disk_leaves_the_old_output(source, output, monkeypatch):
    write_once = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 2000:  # the shards, not what comes before them
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_once(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    output.write_bytes(b"old")
    with pytest.raises(
        StorageError, match=r"\.safetensors: cannot be written: No space left .*bytes are needed"
    ) as caught:
        run(plan(source), output)
    assert caught.value.errno == errno.ENOSPC
    assert [path.read_bytes() for path in output.parent.iterdir() if path.is_file()] == [b"old"]


# measuring


@PATIENT
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, 1.0, -1.0]), min_size=1, max_size=30),
    count=st.integers(0, 30),
)
def test_the_magnitude_error_is_that_of_sorting(values, count):
    A = np.array([values], "float32")
    expected = relative_error(A, pruned(A, count)) if A.any() else 0.0
    assert np.isclose(magnitude_error(A, count), expected, rtol=1e-9, atol=1e-12)


def test_product_times_are_positive_and_leave_their_arguments_alone():
    A = np.random.default_rng(0).standard_normal((30, 20)).astype("float32")
    before = A.copy()
    A.flags.writeable = False
    times = product_times(A, sf.Factorization([before]), seconds=0.002)
    assert min(times) > 0 and np.array_equal(A, before)


# verify


def rewritten(path: Path, change: Callable[[Tensors, dict[str, Any]], None]) -> Path:
    """Write the file anew with its tensors or its document changed."""
    with TensorFile(path) as file:
        tensors = {name: file.read(name).copy() for name in file.names}
        document = json.loads(file.metadata["sparsefact"])
    change(tensors, document)
    changed = path.with_name("changed.safetensors")
    write_tensors(changed, tensors, {"sparsefact": json.dumps(document)})
    return changed


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A checkpoint and its factor file, which has factors of the kinds csr, bitmask and dense."""
    folder = tmp_path_factory.mktemp("written")
    tensors = MODEL | {"wide": np.diag(np.arange(1.0, 65.0)).astype("float32")}
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "factorize", stand_in)
        run(plan(folder / "model.safetensors", density=1.0), folder / "sparse.safetensors")
    yield folder / "model.safetensors", folder / "sparse.safetensors"


def wrong(report: VerifyReport) -> dict[str, str]:
    return {finding.name: finding.message for finding in report.findings if not finding.ok}


def test_every_kind_of_factor_is_written(written):
    with TensorFile(written[1]) as file:
        document = json.loads(file.metadata["sparsefact"])
    kinds = {factor["kind"] for record in document["matrices"].values() for factor in record["factors"]}
    assert kinds == {"csr", "bitmask", "dense"}


def test_what_a_run_wrote_verifies(written):
    source, path = written
    for report in (verify(path), verify(path, against=source), verify(str(path), against=source.parent / source.name)):
        assert report.ok and wrong(report) == {}
        assert {finding.name for finding in report.findings} == set(MODEL) | {"wide"}


def test_a_flipped_bit_in_any_tensor_is_found(written):
    _, path = written
    content = path.read_bytes()
    with TensorFile(path) as file:
        infos = [file.info(name) for name in file.names]
    changed = path.with_name("changed.safetensors")
    for info in infos:
        if info.nbytes:
            harmed = bytearray(content)
            harmed[info.offset + info.nbytes // 2] ^= 0x10
            changed.write_bytes(harmed)
            found = wrong(verify(changed))
            assert len(found) == 1 and "SHA-256" in next(iter(found.values())), info
            assert info.name.startswith(next(iter(found)))


def test_several_faults_are_all_told(written):
    source, path = written

    def change(tensors: Tensors, document: dict[str, Any]) -> None:
        tensors["layers.0.bias"] = tensors["layers.0.bias"] + 1
        tensors["stranger"] = np.ones(2)
        del tensors["scalar"]
        document["matrices"]["wide"]["nnz"] += 1
        del document["matrices"]["embed.weight"]

    found = wrong(verify(rewritten(path, change), against=source))
    assert "SHA-256" in found["layers.0.bias"]
    assert "nothing in the record accounts for it" in found["stranger"]
    assert "not in the file" in found["scalar"]
    assert "the record says" in found["wide"]
    assert "nor its factors are in the file" in found["embed.weight"]


def record_of(document: dict[str, Any], name: str = "layers.0.q.weight") -> dict[str, Any]:
    return document["matrices"][name]


def edit(*path: Any, to: Any) -> Callable[[Tensors, dict[str, Any]], None]:
    def change(tensors: Tensors, document: dict[str, Any]) -> None:
        place: Any = record_of(document)
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


RECORD_LIES = {
    "another error": (edit("frobenius_error", to=0.5), "relative error is .*, and the record says 0.5"),
    "an error of text": (edit("frobenius_error", to="0.5"), "'frobenius_error'"),
    "an infinite error": (edit("frobenius_error", to=1e999), "'frobenius_error' outside"),
    "an endless error": (edit("frobenius_error", to=10**400), "'frobenius_error' outside"),
    "a negative error": (edit("frobenius_error", to=-1), "the record says -1"),
    "another shape": (edit("shape", to=[16, 17]), r"the factors make \(16, 16\)"),
    "a negative shape": (edit("shape", to=[-16, 16]), "two integers from 0"),
    "a shape beyond memory": (edit("shape", to=[2**32, 0]), "rows without columns"),
    "another count": (edit("nnz", to=7), "the record says 7"),
    "a smaller budget": (edit("budget", to=100), "do not fit the shape"),
    "a smaller density": (edit("density", to=0.1), "do not fit the shape"),
    "a density of NaN": (edit("density", to=float("nan")), "'density' outside"),
    "a budget of text": (edit("budget", to="many"), "'budget'"),
    "no factors": (edit("factors", to=[]), "lists no factor"),
    "factors of text": (edit("factors", to=["a", "b"]), "not a JSON object"),
    "another dtype": (edit("dtype", to="F64"), "the record says 'F64'"),
    "an unknown dtype": (edit("dtype", to="I8"), "the record says 'I8'"),
    "an unknown kind": (edit("factors", 0, "kind", to="magic"), "which is no kind"),
    "a kind of another factor": (edit("factors", 0, "kind", to="kronecker"), "which is no kind"),
    "a factor of another shape": (edit("factors", 0, "shape", to=[15, 16]), "factor 0"),
    "a factor beyond memory": (edit("factors", 0, "shape", to=[2**32, 2**32]), "factor 0"),
    "a factor of another count": (edit("factors", 1, "nnz", to=3), "factor 1 stores .* and the record says 3"),
    "no tensors": (edit("factors", 1, "tensors", to={}), "which is no kind"),
    "a tensor that is not there": (edit("factors", 1, "tensors", "values", "name", to="x"), "'x' is not in the file"),
    "a tensor of another name": (
        edit("factors", 1, "tensors", "values", "name", to="layers.0.ids"),
        "'layers.0.ids' has another SHA-256",
    ),
    "a checksum of text": (edit("factors", 1, "tensors", "values", "sha256", to=5), "'sha256'"),
    "another source": (edit("source_sha256", to="0" * 64), "another matrix than the one that was factorized"),
}


@pytest.mark.parametrize("lie", RECORD_LIES)
def test_each_lie_of_a_record_is_found(written, lie):
    source, path = written
    change, words = RECORD_LIES[lie]
    report = verify(rewritten(path, change), against=source)
    lies = [f.message for f in report.findings if not f.ok and f.name == "layers.0.q.weight"]
    assert any(re.search(words, message) for message in lies), lies
    assert all(message.isprintable() for message in lies)


def consistent(part: str, j: int, array: Callable[[NDArray[Any]], NDArray[Any]], name: str):
    """Change a tensor and its checksum with it, as a liar would."""

    def change(tensors: Tensors, document: dict[str, Any]) -> None:
        listed = record_of(document, name)["factors"][j]["tensors"][part]
        tensors[listed["name"]] = array(tensors[listed["name"]].copy())
        listed["sha256"] = hashlib.sha256(tensors[listed["name"]].tobytes()).hexdigest()

    return change


def put(at: int, value: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array.reshape(-1)[at] = value
        return array

    return change


def find(path: Path, kind: str) -> tuple[str, int]:
    """Return the name of a matrix and the number of its factor that is stored in this way."""
    with TensorFile(path) as file:
        matrices = json.loads(file.metadata["sparsefact"])["matrices"]
    return next(
        (name, j)
        for name, record in matrices.items()
        for j, factor in enumerate(record["factors"])
        if factor["kind"] == kind
    )


STRUCTURAL_LIES = {
    "a column out of range": ("csr", "indices", put(-1, 60_000), "column index 60000"),
    "columns out of order": ("csr", "indices", lambda a: a[::-1].copy(), ""),
    "pointers that fall": ("csr", "indptr", put(1, 3), ""),
    "pointers that begin late": ("csr", "indptr", put(0, 1), "does not rise from 0"),
    "pointers that end early": ("csr", "indptr", put(-1, 1), "does not rise from 0"),
    "huge pointers": ("csr", "indptr", put(1, 2**32 - 1), "does not rise from 0"),
    "signed indices": ("csr", "indices", lambda a: a.astype("int32"), "other types or shapes"),
    "too few pointers": ("csr", "indptr", lambda a: a[:-1], "other types or shapes"),
    "a bit too many": ("bitmask", "bits", lambda a: np.full_like(a, 255), "bits set for"),
    "a bit too few": ("bitmask", "bits", lambda a: np.zeros_like(a), "0 bits set for"),
    "too few bits": ("bitmask", "bits", lambda a: a[:-1], "not one bit for each entry"),
    "bits of another type": ("bitmask", "bits", lambda a: a.astype("int8"), "not one bit for each entry"),
    "values not in a row": ("bitmask", "values", lambda a: a[None], "one row of numbers"),
    "NaN": ("bitmask", "values", put(0, np.nan), "NaN or infinite"),
    "infinity": ("dense", "values", put(0, np.inf), "NaN or infinite"),
    "one zero more": ("dense", "values", lambda a: a * (np.arange(a.size).reshape(a.shape) > 0), ""),
    "another dense shape": ("dense", "values", lambda a: a.T.copy().reshape(-1), "values of shape"),
    "values of another type": ("csr", "values", lambda a: a.astype("int32"), "the record says"),
    "other values": ("bitmask", "values", lambda a: (a.astype("float64") * 1.01).astype(a.dtype), "relative error is"),
}


@pytest.mark.parametrize("lie", STRUCTURAL_LIES)
def test_each_lie_of_a_factor_is_found_though_its_checksum_agrees(written, lie):
    source, path = written
    kind, part, array, words = STRUCTURAL_LIES[lie]
    name, j = find(path, kind)
    found = wrong(verify(rewritten(path, consistent(part, j, array, name)), against=source))
    assert set(found) == {name}
    assert re.search(words, found[name]), found


def test_more_entries_than_the_budget_are_found(written):
    source, path = written

    def change(tensors: Tensors, document: dict[str, Any]) -> None:
        record = record_of(document, "wide")
        record["density"], record["budget"] = 0.01, 40

    assert "more than the budget of 40" in wrong(verify(rewritten(path, change), against=source))["wide"]


def test_a_name_listed_twice_is_found(written):
    _, path = written
    changed = rewritten(path, lambda tensors, document: document["copied"].append("wide"))
    assert "wide" in wrong(verify(changed))


def test_another_checkpoint_is_found(written, tmp_path):
    source, path = written
    others: dict[str, Callable[[Tensors], object]] = {
        "layers.0.q.weight": lambda t: t["layers.0.q.weight"].__setitem__((0, 0), 9),
        "embed.weight": lambda t: t.update({"embed.weight": t["embed.weight"].T.copy()}),
        "layers.0.bias": lambda t: t["layers.0.bias"].__setitem__(0, 9),
        "layers.0.ids": lambda t: t.update({"layers.0.ids": t["layers.0.ids"].reshape(10, 4)}),
        "scalar": lambda t: t.pop("scalar"),
        "wide": lambda t: t.pop("wide"),
        "more": lambda t: t.update(more=np.ones(3)),
    }
    with TensorFile(source) as file:
        tensors = {name: file.read(name).copy() for name in file.names}
    for name, change in others.items():
        other = copy.deepcopy(tensors)
        change(other)
        write_tensors(tmp_path / "other.safetensors", other)
        assert set(wrong(verify(path, against=tmp_path / "other.safetensors"))) == {name}


def test_what_is_no_factor_file_is_refused(written, tmp_path):
    source, path = written
    with pytest.raises(FormatError, match="holds no factors"):
        verify(source)
    with pytest.raises(StorageError, match="missing"):
        verify(tmp_path / "missing.safetensors")
    with pytest.raises(StorageError, match="missing"):
        verify(path, against=tmp_path / "missing.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="truncated"):
        verify(cut)
    with pytest.raises(FormatError, match="upgrade sparsefact"):
        verify(rewritten(path, lambda tensors, document: document.update(format=3)))
    for text in ("", "[]", "{}", "[" * 10_000, '{"format": true}'):
        write_tensors(tmp_path / "a.safetensors", {}, {"sparsefact": text})
        with pytest.raises(FormatError):
            verify(tmp_path / "a.safetensors")


PLACES = st.lists(st.integers(0, 7), min_size=1, max_size=6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**70) | st.floats() | st.sampled_from(["", "dense", "scalar", "F32"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "sha256", "values"]), inner),
    max_leaves=4,
)


@settings(PATIENT, max_examples=150)
@given(places=PLACES, value=ANYTHING)
def test_a_document_of_anything_gives_findings_or_a_format_error(written, places, value):
    source, path = written

    def change(tensors: Tensors, document: dict[str, Any]) -> None:
        place: Any = document
        for step in places:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = keys[step % len(keys)]
            if step == places[-1] or not isinstance(place[key], dict | list) or not place[key]:
                place[key] = value
                return
            place = place[key]

    changed = rewritten(path, change)
    try:
        report = verify(changed, against=source)
    except FormatError:
        return
    assert all(finding.message.isprintable() for finding in report.findings)


@st.composite
def products(draw: st.DrawFn) -> sf.Factorization:
    """Products of factors of every kind, small enough that each layout is the smallest now and then."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["float32", "float64", "complex64", "complex128"]))
    factors, rows = [], draw(st.integers(1, 12))
    for _ in range(draw(st.integers(1, 3))):
        columns = draw(st.integers(1, 30))
        kind = draw(st.sampled_from(["sparse", "dense", "kronecker"]))
        values = rng.standard_normal((rows, columns)) + 1j * rng.standard_normal((rows, columns))
        if kind == "kronecker":
            d = draw(st.sampled_from([k for k in range(1, rows + 1) if rows % k == 0]))
            values = rng.standard_normal((1, rows // d, columns, d)) + 1j * rng.standard_normal(
                (1, rows // d, columns, d)
            )
            columns *= d
        values = (values if dtype.startswith("complex") else values.real).astype(dtype)
        if kind == "sparse":
            values = sparse.csr_array(values * (rng.random(values.shape) < draw(st.floats(0, 1))))
        factors.append(sf.KroneckerFactor(values) if kind == "kronecker" else values)
        rows = columns
    return sf.Factorization(factors)


@settings(PATIENT, max_examples=60)
@given(F=products(), noise=st.floats(0, 1))
@example(F=sf.Factorization([np.zeros((1, 3), np.complex64)]), noise=5e-324)
@example(F=sf.Factorization([np.ones((3, 1), np.float32)]), noise=5e-324)
def test_products_of_every_kind_verify_with_their_errors(written, F, noise):
    path, source = written[1].with_name("product.safetensors"), written[1].with_name("target.safetensors")
    A = F.todense() + noise * np.random.default_rng(0).standard_normal(F.shape)
    A = A.real.astype("float64")
    sf.Factorization(F.factors, target=A).save(path, name="w")
    write_tensors(source, {"w": A})
    assert verify(path).ok
    report = verify(path, against=source)
    assert report.ok, report
    write_tensors(source, {"w": A.T.copy()[None]})
    assert not verify(path, against=source).ok


# With the solver itself


def test_a_sharded_checkpoint_is_factorized_and_verified(tmp_path, output, monkeypatch):
    monkeypatch.setattr(run_module, "factorize", FACTORIZE)
    monkeypatch.setattr(run_module, "product_times", PRODUCT_TIMES)
    folder = shards(tmp_path / "model", MODEL)
    report = run(plan(folder, density=0.5), output)
    assert report.failed == ()
    for matrix in report.matrices:
        assert 0 < matrix.error < matrix.magnitude_error
        assert matrix.nnz <= 0.5 * MODEL[matrix.name].size
        assert matrix.dense_ms > 0 and matrix.factor_ms > 0
        product = sf.load(output, matrix.name).todense()
        assert np.isclose(matrix.error, relative_error(MODEL[matrix.name], product), rtol=1e-5)
    assert verify(output, against=folder).ok
