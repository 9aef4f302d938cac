"""Reading and writing safetensors files, against the safetensors package and injected failures."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsefact.errors import ArgumentError, DtypeError, FormatError, StorageError
from sparsefact.io import atomic, write
from sparsefact.io.atomic import atomic_write
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.dtypes import DTYPES, code_of
from sparsefact.io.tensor_file import TensorFile
from sparsefact.io.write import write_tensors

# A busy machine is slow, and that is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

INDEX = "model.safetensors.index.json"
DTYPE_LIST = list(DTYPES.values())
NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(DTYPE_LIST))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    data = draw(st.binary(min_size=dtype.itemsize * int(np.prod(shape)), max_size=dtype.itemsize * int(np.prod(shape))))
    if dtype == np.bool_:
        data = bytes(byte & 1 for byte in data)
    return np.frombuffer(data, dtype).reshape(shape)


def same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def save(path: Path, **tensors: np.ndarray) -> Path:
    safetensors.numpy.save_file(tensors, path)
    return path


# Reading


@PATIENT
@given(
    tensors=st.dictionaries(NAMES, arrays(), max_size=4),
    texts=st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), max_size=3),
)
def test_what_the_safetensors_package_writes_is_read_identically(tmp_path_factory, tensors, texts):
    path = tmp_path_factory.mktemp("st") / "a.safetensors"
    # With neither tensors nor texts, `metadata={}` makes the package write what it cannot read itself.
    safetensors.numpy.save_file(tensors, path, metadata=texts or None)
    with TensorFile(path) as file:
        assert set(file.names) == set(tensors)
        assert file.metadata == texts
        for name, array in tensors.items():
            info = file.info(name)
            assert (info.name, info.shape, info.nbytes) == (name, array.shape, array.nbytes)
            assert DTYPES[info.dtype] == array.dtype
            assert same(file.read(name), array)
            assert file.sha256(name) == hashlib.sha256(array.tobytes()).hexdigest()


@PATIENT
@given(tensors=st.dictionaries(NAMES, arrays(), max_size=4))
def test_what_is_written_is_read_identically_by_the_safetensors_package(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("st") / "a.safetensors"
    write_tensors(path, tensors, {"k": "v"})
    with safetensors.safe_open(path, framework="np") as file:
        assert set(file.keys()) == set(tensors)
        assert file.metadata() == {"k": "v"}
    for name, found in safetensors.deserialize(path.read_bytes()):
        assert found["shape"] == list(tensors[name].shape)
        assert bytes(found["data"]) == tensors[name].tobytes()
    with TensorFile(path) as file:
        assert all(same(file.read(name), array) for name, array in tensors.items())


def test_reading_copies_nothing_and_forbids_writing(tmp_path):
    path = save(tmp_path / "a.safetensors", w=np.arange(6.0).reshape(2, 3))
    with TensorFile(path) as file:
        first, second = file.read("w"), file.read("w")
    assert np.shares_memory(first, second)
    assert not first.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1


def test_arrays_outlive_the_file(tmp_path):
    file = TensorFile(save(tmp_path / "a.safetensors", w=np.arange(1000.0)))
    array = file.read("w")
    file.close()
    file.close()
    assert array.sum() == 499500
    with pytest.raises(StorageError, match="has been closed"):
        file.read("w")


def test_a_tensor_at_an_odd_address_is_read_aligned(tmp_path):
    header = json.dumps(
        {
            "b": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "w": {"dtype": "F64", "shape": [2], "data_offsets": [3, 19]},
        }
    ).encode()
    data = bytes([1, 2, 3]) + np.array([1.5, -2.5]).tobytes()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    with TensorFile(tmp_path / "a.safetensors") as file:
        array = file.read("w")
        assert array.flags.aligned and not array.flags.writeable
        assert array.tolist() == [1.5, -2.5]


def test_an_unknown_tensor_is_an_argument_error(tmp_path):
    with TensorFile(save(tmp_path / "a.safetensors", w=np.ones(2))) as file:
        assert "w" in file and "v" not in file
        with pytest.raises(ArgumentError, match="'v'"):
            file.read("v")


@pytest.mark.parametrize("path", ["missing.safetensors", "", "a\0b", "x" * 300])
def test_a_missing_file_is_a_storage_error(tmp_path, path):
    for opener in (TensorFile, open_checkpoint):
        with pytest.raises(StorageError):
            opener(str(tmp_path / "no" / path))


def test_a_directory_a_pipe_and_a_loop_are_storage_errors(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in ((tmp_path, "directory"), (tmp_path / "pipe", "regular file"), (tmp_path / "loop", "loop")):
        with pytest.raises(StorageError, match=words):
            TensorFile(path)


def test_a_file_that_may_not_be_read_is_a_storage_error(tmp_path, monkeypatch):
    path = save(tmp_path / "a.safetensors", w=np.ones(2))

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        StorageError, match=r"a\.safetensors: cannot be read: Permission denied; .*permissions"
    ) as caught:
        TensorFile(path)
    assert caught.value.errno == errno.EACCES


def test_pickles_are_refused_by_content_and_by_suffix(tmp_path):
    for protocol in range(2, 6):
        (tmp_path / f"p{protocol}.safetensors").write_bytes(pickle.dumps({"w": [1.0] * 9}, protocol))
    with zipfile.ZipFile(tmp_path / "zip.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    for name in ("a.bin", "a.PT", "a.pth", "a.ckpt"):
        (tmp_path / name).write_bytes(b"anything at all, longer than eight bytes")
    (tmp_path / "empty.pt").touch()
    for path in sorted(tmp_path.iterdir()):
        for opener in (TensorFile, open_checkpoint):
            with pytest.raises(
                FormatError, match=f"{path.name}: this is a pickle.*run any code.*convert it to safetensors"
            ):
                opener(path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    # 0x0280 bytes of header: the file begins like a pickle of protocol 2.
    entry = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes((0x0280).to_bytes(8, "little") + entry.ljust(0x0280) + b"\x07")
    assert path.read_bytes()[:2] == b"\x80\x02"
    with TensorFile(path) as file:
        assert file.read("w").tolist() == [7]


# Checkpoints


def shard(folder: Path, shards: dict[str, dict[str, np.ndarray]], **extra: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        safetensors.numpy.save_file(tensors, folder / name)
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {t: name for name, tensors in shards.items() for t in tensors},
    }
    (folder / INDEX).write_text(json.dumps(index | extra))
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    layers = {
        f"model.layers.{i}.{part}.weight": rng.standard_normal((8, 6)).astype(ml_dtypes.bfloat16)
        for i in range(4)
        for part in ("q_proj", "mlp.up")
    }
    layers["model.norm.weight"] = np.ones(8, "float32")
    items = list(layers.items())
    names = [f"model-0000{i + 1}-of-00003.safetensors" for i in range(3)]
    return shard(tmp_path / "model", {name: dict(items[i::3]) for i, name in enumerate(names)}), layers


def test_a_sharded_checkpoint_reads_as_one(sharded):
    folder, layers = sharded
    for path in (folder, str(folder), folder / INDEX):
        with open_checkpoint(path) as checkpoint:
            assert set(checkpoint.names) == set(layers)
            assert len(checkpoint.files) == 3
            for name, array in layers.items():
                assert same(checkpoint.read(name), array)
                assert checkpoint.info(name).shape == array.shape
                assert checkpoint.sha256(name) == hashlib.sha256(array.tobytes()).hexdigest()
            with pytest.raises(ArgumentError, match="'nothing'"):
                checkpoint.read("nothing")


def test_a_directory_with_one_file_needs_no_index(tmp_path):
    save(tmp_path / "weights.safetensors", w=np.ones(2))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.names == ("w",)
    save(tmp_path / "other.safetensors", v=np.ones(2))
    with pytest.raises(FormatError, match=r"2 .*'other\.safetensors', 'weights\.safetensors'.*give the path"):
        open_checkpoint(tmp_path)
    save(tmp_path / "model.safetensors", u=np.ones(2))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.names == ("u",)


def test_a_file_without_tensors_is_a_checkpoint(tmp_path):
    with open_checkpoint(save(tmp_path / "a.safetensors")) as checkpoint:
        assert checkpoint.names == () and len(checkpoint.files) == 1


def test_a_directory_of_pickles_or_of_nothing(tmp_path):
    with pytest.raises(StorageError, match=r"no \*\.safetensors file"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(FormatError, match="this is a pickle"):
        open_checkpoint(tmp_path)


def test_tensors_that_the_index_leaves_out_are_told(sharded, caplog):
    folder, _ = sharded
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (folder / INDEX).write_text(json.dumps(index))
    with caplog.at_level(logging.WARNING), open_checkpoint(folder) as checkpoint:
        assert "model.norm.weight" not in checkpoint
    assert "1 tensors in the shards" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["../out.safetensors", "/etc/out.safetensors", "..", ".", "", "sub/a.safetensors", "sub\\a", "C:\\a", "a\0b"],
)
def test_an_index_that_leaves_its_directory_is_refused(tmp_path, name):
    save(tmp_path / "out.safetensors", w=np.ones(2))
    shard(tmp_path / "model", {}, weight_map={"w": name})
    with pytest.raises(FormatError, match="plain name of a file"):
        open_checkpoint(tmp_path / "model")


def test_symbolic_links_that_leave_the_directory_are_refused(tmp_path):
    save(tmp_path / "out.safetensors", w=np.ones(2))
    folder = shard(tmp_path / "model", {}, weight_map={"w": "in.safetensors"})
    (folder / "in.safetensors").symlink_to(tmp_path / "out.safetensors")
    with pytest.raises(FormatError, match="symbolic link"):
        open_checkpoint(folder)
    (folder / INDEX).unlink()
    with pytest.raises(FormatError, match="symbolic link"):
        open_checkpoint(folder)
    # The user's own path may be a link to anywhere.
    with open_checkpoint(folder / "in.safetensors") as checkpoint:
        assert checkpoint.names == ("w",)


def test_symbolic_links_within_the_directory_and_into_a_hub_cache_are_followed(tmp_path):
    (tmp_path / "snapshots").mkdir()
    folder = shard(tmp_path / "snapshots" / "abc", {}, weight_map={"w": "in.safetensors", "v": "own.safetensors"})
    (tmp_path / "blobs").mkdir()
    save(tmp_path / "blobs" / "0123abcd", w=np.ones(2))
    save(folder / "real.safetensors", v=np.ones(3))
    (folder / "in.safetensors").symlink_to("../../blobs/0123abcd")
    (folder / "own.safetensors").symlink_to("real.safetensors")
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.read("w").shape == (2,) and checkpoint.read("v").shape == (3,)


def test_missing_shards_and_tensors_are_named(sharded):
    folder, _ = sharded
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["promised"] = "model-00001-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(FormatError, match="'promised' in model-00001"):
        open_checkpoint(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(StorageError, match=r"1 shards that are missing .*'model-00002-of"):
        open_checkpoint(folder)


def test_an_index_of_pickles_is_refused(tmp_path):
    folder = shard(tmp_path / "model", {}, weight_map={"w": "pytorch_model-1.bin"})
    with pytest.raises(FormatError, match="this is a pickle"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"w": 3}}',
        "\xff",
        "[" * 10**5,
        "[" + "1," * 1_000_001 + "1]",
        '{"weight_map": {"w": "a.safetensors", "w": "a.safetensors"}}',
    ],
    ids=range(12),
)
def test_a_malformed_index_is_a_format_error(tmp_path, text):
    save(tmp_path / "a.safetensors", w=np.ones(2))
    (tmp_path / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match="index"):
        open_checkpoint(tmp_path)


def test_a_broken_shard_closes_the_others(sharded):
    folder, _ = sharded
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=path.name):
        open_checkpoint(folder)


# Writing


def test_awkward_arrays_are_written_as_what_they_say(tmp_path):
    base = np.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "strided": base[::2, ::-1],
        "big-endian": base.astype(">f4"),
        "big-endian bytes": base.astype(">u2"),
        "scalar": np.array(3.5, ">f8"),
        "empty": np.empty((0, 3), ml_dtypes.bfloat16),
        "column": np.asfortranarray(base).astype(ml_dtypes.bfloat16, order="F"),
    }
    copies = {name: array.copy() for name, array in tensors.items()}
    write_tensors(tmp_path / "a.safetensors", tensors)
    with TensorFile(tmp_path / "a.safetensors") as file:
        for name, array in tensors.items():
            assert file.read(name).shape == array.shape
            assert np.array_equal(file.read(name), array)
            assert tensors[name].dtype == copies[name].dtype
            assert np.array_equal(array, copies[name])


def test_equal_input_gives_equal_bytes(tmp_path):
    tensors = {name: np.full((2, 3), i, "float32") for i, name in enumerate("dbca")}
    write_tensors(tmp_path / "a", tensors, {"k": "text"})
    write_tensors(tmp_path / "b", dict(reversed(tensors.items())), {"k": "text"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_code_has_its_type_and_back():
    assert all(code_of(dtype) == code for code, dtype in DTYPES.items())
    assert all(code_of(np.dtype(other)) is None for other in ("c16", "O", "U3", "M8[s]", "f2,f4"))


@pytest.mark.parametrize("array", [np.ones(2, complex), np.array(["a"]), [1.0], None, np.array([None])])
def test_what_the_format_lacks_is_a_dtype_error(tmp_path, array):
    with pytest.raises(DtypeError, match="tensor 'w'"):
        write_tensors(tmp_path / "a.safetensors", {"w": array})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "texts"),
    [({"__metadata__": np.ones(1)}, {}), ({"\ud800": np.ones(1)}, {}), ({3: np.ones(1)}, {}), ({}, {"a": 1})],
)
def test_names_and_texts_that_do_not_fit_are_argument_errors(tmp_path, tensors, texts):
    with pytest.raises(ArgumentError):
        write_tensors(tmp_path / "a.safetensors", tensors, texts)


def test_a_header_too_large_to_read_again_is_not_written(tmp_path):
    with pytest.raises(FormatError, match="bytes of metadata"):
        write_tensors(tmp_path / "a.safetensors", {}, {"k": "x" * 32_000_001})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000, 0o027])
def test_the_mode_is_what_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"w": np.ones(2)})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~mask


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "disk" / "real.safetensors")
    write_tensors(tmp_path / "a.safetensors", {"w": np.ones(2)})
    assert (tmp_path / "a.safetensors").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real.safetensors"]


def test_targets_that_cannot_be_written_are_storage_errors(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    targets = {
        tmp_path: "directory",
        tmp_path / "missing" / "a": "does not exist; create it",
        tmp_path / "file" / "a": "directory",
        tmp_path / "pipe": "not a regular file",
        tmp_path / "loop": "loop",
        tmp_path / "a\0b": "not a path",
        tmp_path / ("x" * 300): "name too long",
    }
    before = sorted(tmp_path.iterdir())
    for target, words in targets.items():
        with pytest.raises(StorageError, match=f"(?i){words}"):
            write_tensors(target, {"w": np.ones(2)})
    assert sorted(tmp_path.iterdir()) == before


def test_a_directory_without_permission_is_a_storage_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(StorageError, match="may not be written"):
        write_tensors(tmp_path / "a.safetensors", {"w": np.ones(2)})


class Steps:
    """Records the calls into the file system, and makes the n-th of them raise."""

    def __init__(self, patch: pytest.MonkeyPatch, fail_at: int = 0, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self.fail_at = fail_at
        self.error = error
        for name in ("open", "fstat", "fchmod", "fsync", "close"):
            patch.setattr(atomic.os, name, self.wrap(getattr(os, name), name))
        patch.setattr(Path, "replace", self.wrap(Path.replace, "replace"))
        patch.setattr(write, "serialize_file", self.wrap(write.serialize_file, "serialize_file"))

    def wrap(self, function, name):
        def call(*args, **kwargs):
            self.calls.append(name)
            if len(self.calls) != self.fail_at:
                return function(*args, **kwargs)
            # What fails half-way leaves something behind.
            if name in ("close", "serialize_file"):
                function(*args, **kwargs)
            raise self.error

        return call


FAILURES = [
    (
        OSError(errno.ENOSPC, "full"),
        StorageError,
        r"a\.safetensors: cannot be written: No space left on device \([\d,]+ by",
    ),
    (OSError(errno.EIO, "broken"), StorageError, r"a\.safetensors: cannot be written: Input/output error; check"),
    (KeyboardInterrupt(), KeyboardInterrupt, None),
    (MemoryError(), MemoryError, None),
]


@pytest.mark.parametrize("old", [b"old", None])
@pytest.mark.parametrize(("error", "expected", "words"), FAILURES)
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(tmp_path, error, expected, words, old):
    path = tmp_path / "a.safetensors"
    tensors = {"w": np.ones((3, 4)).T}
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        write_tensors(path, tensors)
    whole = path.read_bytes()
    in_place = steps.calls.index("replace") + 1
    assert steps.calls.index("fsync") < in_place < len(steps.calls)
    for fail_at in range(1, in_place + 1):
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, fail_at, error)
            with pytest.raises(expected, match=words):
                write_tensors(path, tensors)
        assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [old] * (old is not None), fail_at
    # Once the new name stands, the file is whole; a directory that cannot be synchronised is told, not undone.
    for fail_at in range(in_place + 1, len(steps.calls) + 1):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt, MemoryError):
            Steps(patch, fail_at, error)
            write_tensors(path, tensors)
        assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [whole], fail_at


def test_a_directory_that_cannot_be_synchronised_is_told(tmp_path, caplog):
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
        steps = Steps(patch)
        write_tensors(tmp_path / "a.safetensors", {"w": np.ones(2)})
    last = len(steps.calls) - steps.calls[::-1].index("fsync")
    for code, level in ((errno.EIO, "WARNING"), (errno.EINVAL, "DEBUG")):
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
            Steps(patch, last, OSError(code, "refused"))
            write_tensors(tmp_path / "a.safetensors", {"w": np.ones(2)})
        assert [record.levelname for record in caplog.records] == [level]


def test_a_writer_that_fails_half_way_leaves_nothing(tmp_path):
    def half(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        atomic_write(tmp_path / "a", half)
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_file_lies_beside_its_target_and_is_private(tmp_path):
    seen = []

    def look(temporary: Path) -> None:
        seen.append(temporary)
        assert temporary.parent == tmp_path.resolve()
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600

    for _ in range(3):
        atomic_write(tmp_path / "a", look)
    assert len(set(seen)) == 3


def test_a_limit_of_the_system_is_told_with_the_bytes_needed(tmp_path):
    # A real refusal of the kernel inside the safetensors package, without filling a disk.
    program = f"""
import resource, numpy as np
from sparsefact.errors import StorageError
from sparsefact.io.write import write_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_tensors({str(tmp_path / "a.safetensors")!r}, {{"w": np.ones(10_000)}})
except StorageError as error:
    raise SystemExit(str(error))
"""
    (tmp_path / "a.safetensors").write_bytes(b"old")
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stderr
    assert "a.safetensors: cannot be written: File too large (80," in found.stderr
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


def test_the_safetensors_package_refusing_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise safetensors.SafetensorError("of its own accord")

    monkeypatch.setattr(write, "serialize_file", refuse)
    with pytest.raises(StorageError, match="of its own accord"):
        write_tensors(tmp_path / "a.safetensors", {"w": np.ones(2)})
    assert list(tmp_path.iterdir()) == []
