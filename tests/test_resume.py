"""Runs that are killed, refused, refused by the disk or taken up: nothing torn, nothing lost, the same bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsefact as sf
from benchmarks.kills import identity_beside
from sparsefact.checkpoints import job as job_module
from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal, difference, read_journal
from sparsefact.checkpoints.plan import Plan, plan
from sparsefact.checkpoints.recipe import Recipe, Rule
from sparsefact.checkpoints.report import Event
from sparsefact.checkpoints.run import run
from sparsefact.checkpoints.verify import verify
from sparsefact.errors import ArgumentError, FormatError, SparsefactError, StorageError
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.lock import LOCK_NAME, FolderLock
from sparsefact.io.stream import file_sha256, of_array, of_file, write_streamed
from sparsefact.io.tensor_file import TensorFile
from sparsefact.io.write import write_tensors

ROOT = Path(__file__).resolve().parent.parent
RNG = np.random.default_rng(0)
MODEL = {
    "a.weight": RNG.standard_normal((12, 10)).astype("float32"),
    "b.weight": RNG.standard_normal((10, 16)),
    "c.weight": RNG.standard_normal((8, 8)).astype("float16"),
    "bias": np.arange(5.0),
    "scalar": np.array(3),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "factorize", identity_beside)
    monkeypatch.setattr(job_module, "product_times", lambda A, F: (1.0, 2.0))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_tensors(folder / "model.safetensors", MODEL)
    (folder / "config.json").write_text('{"hidden_size": 10}')
    (folder / "tokenizer.model").write_bytes(bytes(range(256)))
    (folder / "modeling.py").write_text("raise SystemExit")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the journal, which tells times."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != JOURNAL_NAME}


def begun(work: Plan, output: Path, **options: Any) -> list[str]:
    """Carry out a run and return the matrices that it has worked on."""
    names: list[str] = []
    run(work, output, on_event=lambda e: names.append(e.name) if e.kind == "start" else None, **options)
    return names


def stop_after(count: int) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        if event.kind == "done" and event.index == count - 1:
            raise KeyboardInterrupt

    return watch


# the folder


def test_a_folder_is_a_checkpoint_with_everything_in_it(source, tmp_path):
    report = run(plan(source, density=0.5), tmp_path / "out")
    assert report.failed == () and report.resumed == 0
    assert set(contents(tmp_path / "out")) == {
        "factors-00001-of-00003.safetensors",
        "factors-00002-of-00003.safetensors",
        "factors-00003-of-00003.safetensors",
        "copied-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "sparsefact.json",
        "recipe.toml",
        "config.json",
        "tokenizer.model",
    }
    with open_checkpoint(tmp_path / "out") as checkpoint:
        for name in ("bias", "scalar"):
            assert checkpoint.read(name).tobytes() == MODEL[name].tobytes()
        assert report.bytes_after == sum(checkpoint.info(name).nbytes for name in checkpoint.names)
    for name in ("config.json", "tokenizer.model"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    for index, matrix in enumerate(report.matrices):
        product = sf.load(tmp_path / "out" / f"factors-{index + 1:05}-of-00003.safetensors").todense()
        A = MODEL[matrix.name].astype("float64")
        assert np.isclose(matrix.error, np.linalg.norm(A - product) / np.linalg.norm(A), rtol=1e-3)
    found = verify(tmp_path / "out", against=source)
    assert found.ok and len(found.findings) >= 14
    # a second run has nothing to do, and tells the same
    before = contents(tmp_path / "out")
    again = run(plan(source, density=0.5), tmp_path / "out", resume="required")
    assert again.matrices == report.matrices and again.resumed == 3 and contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_bytes(source, tmp_path, name, count):
    work = plan(source, density=0.5)
    run(work, tmp_path / "peace")
    run(work, tmp_path / "peace.safetensors")
    output = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        run(work, output, on_event=stop_after(count))
    place = output if name == "out" else output.with_name("out.safetensors.partial")
    assert not output.is_file() and not list(place.glob(".*")) and not (place / LOCK_NAME).exists()
    if name == "out":
        with pytest.raises(StorageError, match="has not ended"):
            from sparsefact.checkpoints.output import read_folder

            read_folder(output)
        assert not verify(output).ok
    assert begun(work, output, resume="required") == [target.name for target in work.targets][count:]
    if name == "out":
        assert contents(output) == contents(tmp_path / "peace")
    else:
        assert output.read_bytes() == (tmp_path / "peace.safetensors").read_bytes() and not place.exists()
    assert verify(output, against=source).ok


def test_a_damaged_shard_is_done_again_and_a_lost_one_too(source, tmp_path, caplog):
    work, output = plan(source, density=0.5), tmp_path / "out"
    run(work, tmp_path / "peace")
    with pytest.raises(KeyboardInterrupt):
        run(work, output, on_event=stop_after(3))
    shards = sorted(output.glob("factors-*"))
    data = bytearray(shards[0].read_bytes())
    data[20] ^= 1
    shards[0].write_bytes(data)
    shards[2].unlink()
    assert begun(work, output) == [work.targets[0].name, work.targets[2].name]
    assert contents(output) == contents(tmp_path / "peace") and "damaged" in caplog.text


def test_resume_required_and_never(source, tmp_path):
    work, output = plan(source, density=0.5), tmp_path / "out"
    with pytest.raises(ArgumentError, match=r"no sparsefact\.journal of a run to take up"):
        run(work, output, resume="required")
    assert not output.exists()
    run(work, output)
    other = plan(source, density=0.6)
    with pytest.raises(ArgumentError, match="the run begun there had"):
        run(other, output)
    assert len(begun(other, output, resume="never")) == 3
    run(other, tmp_path / "peace")
    assert contents(output) == contents(tmp_path / "peace")
    with pytest.raises(ArgumentError, match="'auto', 'required' or 'never'"):
        run(work, output, resume="perhaps")


def changed_source(source: Path) -> None:
    write_tensors(source / "model.safetensors", MODEL | {"bias": np.arange(5.0)[::-1]})


def test_every_difference_of_identity_is_named_and_nothing_is_touched(source, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(plan(source, density=0.5), output, on_event=stop_after(1))
    before = contents(output), (output / JOURNAL_NAME).read_bytes()

    def refused(words: str, work: Plan | None = None, **options: Any) -> None:
        with pytest.raises(ArgumentError, match=words):
            run(work or plan(source, density=0.5), output, **options)
        assert (contents(output), (output / JOURNAL_NAME).read_bytes()) == before

    refused(r"recipe\.rules\[0\]\.density = 0\.5, and this one has 0\.6", plan(source, density=0.6))
    refused(r"recipe\.rules\[0\]\.ignore = nothing", plan(source, density=0.5, exclude="scalar"))
    refused(r"recipe\.seed = 0, and this one has 3", seed=3)
    refused(r"recipe\.device = null, and this one has 'cpu'", device="cpu")
    refused(r"solver = null, and this one has 'Alternating", solver=sf.Alternating())
    refused(r"threads_per_job = \d+, and this one has 77", threads_per_job=77)
    monkeypatch.setattr("sparsefact.checkpoints.run.__version__", "9.9")
    refused(r"version = '[\d.]+', and this one has '9\.9'")
    monkeypatch.undo()
    changed_source(source)
    refused(r"source\.files\.model\.safetensors\.sha256 = ")


def test_other_folders_are_not_written_into(source, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious.txt").write_text("x")
    with pytest.raises(ArgumentError, match=r"holds 'precious\.txt' and no run"):
        run(plan(source), output, resume="never")
    with pytest.raises(ArgumentError, match="the folder of the checkpoint itself"):
        run(plan(source), source)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="this is a file where a folder"):
        run(plan(source), tmp_path / "file")
    assert [path.name for path in output.iterdir()] == ["precious.txt"]


def test_an_error_before_anything_is_committed_leaves_no_folder(source, tmp_path):
    def fail(event: Event) -> None:
        if event.kind == "start":
            raise RuntimeError

    for name in ("out", "out.safetensors"):
        with pytest.raises(RuntimeError):
            run(plan(source), tmp_path / name, on_event=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# the lock


def test_a_second_writer_is_refused_and_named(source, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    with FolderLock(output), pytest.raises(StorageError, match=rf"process {os.getpid()} on .* is writing"):
        run(plan(source), output)
    run(plan(source), output)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    program = (
        "import sys, os, signal\nfrom pathlib import Path\nfrom sparsefact.io.lock import FolderLock\n"
        f"lock = FolderLock(Path({str(tmp_path)!r}))\nlock.__enter__()\nprint('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=f"process {holder.pid} "), FolderLock(tmp_path):
            pass
        holder.kill()
    assert (tmp_path / LOCK_NAME).exists()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_NAME).exists()


# every failure of the disk


class Faults:
    """Counts calls of write, fsync and replace, and fails the n-th of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, at: int) -> None:
        self.calls, self.at, self.target, self.of_directory = 0, at, "", False
        genuine = getattr(os, kind)

        def faulty(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                where = arguments[0]
                path = str(Path(f"/proc/self/fd/{where}").readlink() if isinstance(where, int) else where)
                self.target, self.of_directory = path, Path(path).is_dir()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            # What is not on disk when the power fails is not what is tested here.
            return None if kind == "fsync" else genuine(*arguments, **options)

        monkeypatch.setattr(os, kind, faulty)


@pytest.mark.parametrize("kind", ["write", "fsync", "replace"])
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_every_failure_of_the_disk_is_an_error_and_the_old_file_stays(source, tmp_path, monkeypatch, kind, name):
    work = plan(source, density=0.5)
    peace = tmp_path / f"peace{name.removeprefix('out')}"
    run(work, peace)
    at, errors = 0, 0
    while True:
        at += 1
        folder = tmp_path / f"{kind}-{at}"
        folder.mkdir()
        output = folder / name
        if name != "out":
            output.write_bytes(b"old")
        with monkeypatch.context() as patch:
            faults = Faults(patch, kind, at)
            try:
                run(work, output)
                failed = False
            except StorageError as error:
                failed = True
                assert "Input/output error" in str(error)
        if faults.calls < at:
            break
        # A directory that cannot be synchronised is a warning: the file in it is in place and whole.
        assert failed or (kind == "fsync" and faults.of_directory), (at, faults.target)
        errors += failed
        if failed and name != "out":
            assert output.read_bytes() == b"old"
        left = [path.name for path in folder.rglob("*")]
        assert not [n for n in left if n.startswith(".") or n == LOCK_NAME], left
        run(work, output)
        same = contents(output) == contents(peace) if name == "out" else output.read_bytes() == peace.read_bytes()
        assert same and verify(output, against=source).ok
    assert errors >= 5 and at >= 8


def test_kills_at_random_moments_lose_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--kills", "8", "--seed", "5", "--no-record"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "'kills': 8" in done.stdout and "'committed matrices recomputed': 0" in done.stdout


# the journal


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / JOURNAL_NAME
    opened = Journal.begin(path, {"recipe": {"seed": 0}, "threads_per_job": 1})
    for i in range(4):
        opened.append({"kind": "committed", "name": f"w{i}", "report": {"error": 0.1 * i}})
    return path


def test_a_journal_is_read_back(journal):
    entries = read_journal(journal)
    assert entries == Journal.open(journal).entries
    assert [entry["name"] for entry in entries[1:]] == ["w0", "w1", "w2", "w3"]


@given(data=st.data())
def test_a_journal_cut_anywhere_keeps_its_whole_lines(journal, tmp_path_factory, data):
    raw = journal.read_bytes()
    lines = raw.splitlines(keepends=True)
    cut = data.draw(st.integers(len(lines[0]), len(raw) - 1))
    path = journal.with_name("cut")
    path.write_bytes(raw[:cut])
    whole = sum(len(b"".join(lines[: i + 1])) <= cut for i in range(len(lines)))
    opened = Journal.open(path)
    assert len(opened.entries) == whole
    opened.append({"kind": "committed", "name": "new"})
    assert [entry.get("name") for entry in read_journal(path)] == [*[None, "w0", "w1", "w2", "w3"][:whole], "new"]


def test_every_flipped_bit_of_a_journal_is_found(journal):
    raw, path = journal.read_bytes(), journal.with_name("flipped")
    for bit in range(0, 8 * len(raw), 13):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(FormatError):
            read_journal(path)


def test_a_damaged_line_in_the_middle_ends_a_resume(journal):
    raw, path = journal.read_bytes(), journal.with_name("middle")
    path.write_bytes(raw.replace(b"w1", b"w9"))
    with pytest.raises(FormatError, match="line 3 of the journal is damaged, and lines follow"):
        Journal.open(path)
    path.write_bytes(b"x" + raw)
    with pytest.raises(FormatError, match="first line"):
        Journal.open(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=6,
)


@given(before=JSON, now=JSON)
def test_a_difference_is_found_exactly_when_there_is_one(before, now):
    same = json.dumps(before, sort_keys=True) == json.dumps(now, sort_keys=True)
    assert (difference(before, now) is None) == same


# streaming


@pytest.mark.parametrize("metadata", [None, {"sparsefact": 'a "text" with \\ é\u2028\x7f\n'}])
def test_a_streamed_file_has_the_bytes_of_the_safetensors_package(tmp_path, metadata):
    tensors = MODEL | {'names é"': np.zeros((0, 3), "int8"), "z": np.ones((2, 3), "int8")}
    write_tensors(tmp_path / "a.safetensors", tensors, metadata)
    arrays = [of_array(name, array) for name, array in tensors.items()]
    sha256, nbytes = write_streamed(tmp_path / "b.safetensors", arrays, metadata)
    expected = (tmp_path / "a.safetensors").read_bytes()
    assert (tmp_path / "b.safetensors").read_bytes() == expected
    assert (sha256, nbytes) == (hashlib.sha256(expected).hexdigest(), len(expected))
    with TensorFile(tmp_path / "a.safetensors") as file:
        streamed = [of_file(name, file) for name in file.names]
        write_streamed(tmp_path / "c.safetensors", streamed, metadata)
    assert file_sha256(tmp_path / "c.safetensors") == sha256


def test_short_writes_are_continued_and_changed_sources_refused(tmp_path, monkeypatch):
    genuine = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: genuine(fd, bytes(data)[:7]))
    write_streamed(tmp_path / "a.safetensors", [of_array("w", np.arange(100.0))])
    monkeypatch.undo()
    with TensorFile(tmp_path / "a.safetensors") as file:
        assert np.array_equal(file.read("w"), np.arange(100.0))
    short = of_array("w", np.arange(4.0))

    def half() -> Iterator[bytes]:
        yield b"\0" * 16

    from dataclasses import replace

    with pytest.raises(StorageError, match="came with 16 bytes instead of 32"):
        write_streamed(tmp_path / "b.safetensors", [replace(short, pieces=half)])
    with pytest.raises(SparsefactError, match="twice"):
        write_streamed(tmp_path / "b.safetensors", [short, short])
    assert not (tmp_path / "b.safetensors").exists()


def test_a_recipe_is_written_and_belongs_to_the_run(source, tmp_path):
    recipe = Recipe((Rule(targets=("a.*",), density=0.5), Rule(constraint="copy")), seed=7)
    run(plan(source, recipe=recipe), tmp_path / "out")
    text = (tmp_path / "out" / "recipe.toml").read_text()
    assert "seed = 7" in text and 'constraint = "copy"' in text and "threads_per_job = " in text
