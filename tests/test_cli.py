"""The command line: results on stdout, the rest on stderr, one sentence for bad input, honest exit codes."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import Result
from commands import check_refused, invoke
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import sparsefact
from sparsefact.checkpoints.export import Factorized
from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal
from sparsefact.checkpoints.names import CONSTRAINTS, solvers_for
from sparsefact.cli.app import app

Tensors = dict[str, NDArray[Any]]


def make_tensors() -> Tensors:
    rng = np.random.default_rng(0)
    return {
        "block.0.weight": rng.standard_normal((24, 16)).astype(np.float32),
        "block.1.weight": rng.standard_normal((16, 16)),
        "block.1.bias": rng.standard_normal(16).astype(np.float32),
        "positions": np.arange(12).reshape(3, 4),
        "conv": rng.standard_normal((2, 3, 4)).astype(np.float16),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(make_tensors(), path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """One factor file for the tests that only read: (checkpoint, output, result of the command)."""
    folder = tmp_path_factory.mktemp("made")
    save_file(make_tensors(), folder / "model.safetensors")
    output = folder / "sparse.safetensors"
    done = invoke("factorize", folder / "model.safetensors", "-o", output, "--density", "0.5", "--effort", "fast")
    return folder / "model.safetensors", output, done


def listing(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


# The shell


def test_help_is_light() -> None:
    code = (
        "import sys\n"
        "from sparsefact.cli import main\n"
        "sys.argv = ['sparsefact', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'numpy', 'scipy', 'numba', 'cupy', 'rich', 'safetensors', 'ml_dtypes'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("factorize", "inspect", "verify", "demo"):
        assert name in done.stdout


def test_version() -> None:
    assert invoke("--version").output.strip() == f"sparsefact {sparsefact.__version__}"


@pytest.mark.parametrize("name", app.list_commands(click.Context(app)))
def test_every_option_says_what_it_does(name: str) -> None:
    done = invoke(name, "--help")
    assert done.exit_code == 0
    command = app.get_command(click.Context(app), name)
    assert command is not None and command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help.endswith(".")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("factorize",),
        ("factorize", "x.safetensors"),
        ("factorize", "x.safetensors", "-o", "y.safetensors", "--density", "half"),
        ("factorize", "x.safetensors", "-o", "y.safetensors", "--effort", "heroic"),
        ("factorize", "x.safetensors", "-o", "y.safetensors", "--seed", "-1"),
        ("verify",),
        ("inspect", "--unknown"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    check_refused(invoke(*arguments))


# factorize


def test_factorize_reports_every_matrix(made: tuple[Path, Path, Result]) -> None:
    _, output, done = made
    assert done.exit_code == 0, done.output
    assert output.exists()
    for name in ("block.0.weight", "block.1.weight"):
        assert name in done.stdout and f"{name}: error" in done.stderr
    assert "24 x 16" in done.stdout
    assert "copied unchanged: " in done.stdout and "positions" in done.stdout
    assert "2 of 2 matrices factorized" in done.stdout
    assert "\x1b" not in done.output and "━" not in done.output  # not a terminal: no colours, no bars


def test_factorize_json_is_one_document_and_agrees_with_the_file(checkpoint: Path) -> None:
    output = checkpoint.with_name("out.safetensors")
    done = invoke("factorize", checkpoint, "-o", output, "--density", "0.5", "--effort", "fast", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    tensors = make_tensors()
    assert {matrix["name"] for matrix in report["matrices"]} == {"block.0.weight", "block.1.weight"}
    for matrix in report["matrices"]:
        A = tensors[matrix["name"]].astype(np.float64)
        product = sparsefact.load(output, matrix["name"]).todense()
        assert np.isclose(matrix["error"], np.linalg.norm(A - product) / np.linalg.norm(A), rtol=1e-5)
        kept = np.sort(np.abs(A), axis=None)[: A.size - int(0.5 * A.size)]
        assert np.isclose(matrix["magnitude_error"], np.linalg.norm(kept) / np.linalg.norm(A), rtol=1e-5)
        assert matrix["nnz"] <= 0.5 * A.size


def test_equal_seeds_give_equal_bytes(made: tuple[Path, Path, Result], tmp_path: Path) -> None:
    checkpoint, output, _ = made
    again = tmp_path / "again.safetensors"
    done = invoke("factorize", checkpoint, "-o", again, "--density", "0.5", "--effort", "fast")
    assert done.exit_code == 0, done.output
    assert again.read_bytes() == output.read_bytes()


def test_include_and_exclude_choose_the_matrices(checkpoint: Path) -> None:
    done = invoke("factorize", checkpoint, "--include", "block.*.weight", "--exclude", "*.1.*", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in json.loads(done.stdout)["tensors"]}
    assert {name for name, row in rows.items() if row["target"]} == {"block.0.weight"}
    assert set(rows) == set(make_tensors())


def test_dry_run_writes_nothing_and_says_why_tensors_are_copied(checkpoint: Path) -> None:
    before = listing(checkpoint.parent)
    done = invoke("factorize", checkpoint, "-o", checkpoint.with_name("out.safetensors"), "--dry-run")
    assert done.exit_code == 0, done.output
    assert listing(checkpoint.parent) == before
    assert "2 of 5 tensors" in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "factorized" in lines["block.0.weight"] and "115" in lines["block.0.weight"]  # floor(0.3 * 24 * 16)
    for name in ("block.1.bias", "positions", "conv"):
        assert "copied: " in lines[name]


def test_one_bad_tensor_fails_alone(checkpoint: Path) -> None:
    tensors = make_tensors()
    tensors["block.1.weight"][3, 5] = np.nan
    save_file(tensors, checkpoint)
    output = checkpoint.with_name("out.safetensors")
    done = invoke("factorize", checkpoint, "-o", output, "--density", "0.5", "--effort", "fast")
    assert done.exit_code == 1
    assert "failed: block.1.weight: " in done.stdout and "Traceback" not in done.output
    assert "1 of 2 matrices factorized" in done.stdout
    assert sparsefact.load(output, "block.0.weight").shape == (24, 16)
    as_json = invoke("factorize", checkpoint, "-o", output, "--density", "0.5", "--effort", "fast", "--json")
    assert as_json.exit_code == 1
    failed = [matrix for matrix in json.loads(as_json.stdout)["matrices"] if matrix["status"] == "failed"]
    assert [matrix["name"] for matrix in failed] == ["block.1.weight"] and failed[0]["message"]


def test_one_sparse_matrix_of_blocks(checkpoint: Path) -> None:
    output = checkpoint.with_name("out")
    command = ("factorize", checkpoint, "-o", output, "--method", "single", "--block", "8x4", "--density", "0.5")
    command = (*command, "--solver", "sequential-attention")
    done = invoke(*command, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "both factors" not in done.stdout and "Note: without Gram matrices" in done.stdout
    assert not output.exists()
    assert len(json.loads(invoke(*command, "--dry-run", "--json").stdout)["notes"]) == 1
    done = invoke(*command)
    assert done.exit_code == 0 and "Note: without Gram matrices" in done.stderr, done.output
    for name in ("block.0.weight", "block.1.weight"):
        with Factorized(output) as matrices:
            F = matrices.load(name)
        A = make_tensors()[name]
        blocks = np.abs(F.todense()).reshape(A.shape[0] // 8, 8, A.shape[1] // 4, 4).sum(axis=(1, 3))
        assert len(F.factors) == 1 and np.count_nonzero(blocks) == blocks.size // 2 and F.nnz == A.size // 2
        kept = F.todense() != 0
        assert np.array_equal(F.todense()[kept], A[kept])
    assert invoke("verify", output, "--against", checkpoint).exit_code == 0
    assert "bitmask 24 x 16\n" in invoke("inspect", output).stdout
    assert invoke("export", output, "--dense", checkpoint.with_name("dense")).exit_code == 0
    assert "block.0" in invoke("export", output, "--torch").stdout
    assert invoke("report", output, "-o", checkpoint.with_name("page.html")).exit_code == 0


def test_an_inner_dimension_and_a_shared_mask(checkpoint: Path) -> None:
    output = checkpoint.with_name("out")
    mask = np.eye(24, 20, dtype=bool)
    save_file({"left": mask, "other": np.eye(3, dtype=bool)}, checkpoint.with_name("masks.safetensors"))
    support = f"{checkpoint.with_name('masks.safetensors')}:left"
    command = ("factorize", checkpoint, "-o", output, "--density", "0.5", "--inner", "1.25", "--support", support)
    done = invoke(*command, "--effort", "fast")
    assert done.exit_code == 0, done.output
    with Factorized(output) as matrices:
        F = matrices.load("block.0.weight")
    assert [factor.shape for factor in F.factors] == [(24, 20), (20, 16)]
    assert sparsefact.Support(mask).contains(F.factors[0]) and F.nnz <= F.shape[0] * F.shape[1] // 2
    dry = invoke(*command, "--dry-run").output
    assert "the support has the shape (24, 20), and the factors of a 16 x 16 matrix" in dry


@pytest.mark.parametrize("method", ["monarch", "butterfly"])
def test_structures_have_no_density(checkpoint: Path, method: str) -> None:
    output = checkpoint.with_name("out.safetensors")
    done = invoke("factorize", checkpoint, "-o", output, "--method", method, "--include", "block.*.weight")
    assert done.exit_code == 0, done.output
    assert sparsefact.load(output, "block.1.weight").shape == (16, 16)
    check_refused(invoke("factorize", checkpoint, "-o", output, "--method", method, "--density", "0.5"), "density")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "single", "--block", "7x7"), ("7, 7", "whole number of blocks")),
        (("--method", "single", "--block", "16x16", "--include", "block.0.weight"), ("block.0.weight", "(24, 16)")),
        (("--method", "single", "--block", "16"), ("'16'", "16x16")),
        (("--method", "single", "--block", "0x4"), ("'0x4'", "16x16")),
        (("--block", "4x4"), ("--block", "double-sparse", "--method single")),
        (("--method", "monarch", "--block", "4x4"), ("--block", "monarch")),
        (("--inner", "wide"), ("'wide'", "neither auto, a whole number")),
        (("--inner", "0"), ("'0'", "neither auto, a whole number")),
        (("--inner", "inf"), ("'inf'", "neither auto, a whole number")),
        (("--method", "single", "--inner", "8"), ("--inner", "single")),
        (("--method", "monarch", "--support", "m.safetensors"), ("--support", "monarch")),
        (("--tolerance", "0.5", "--support", "m.safetensors"), ("support needs a density",)),
        (("--support", "missing.safetensors"), ("missing.safetensors",)),
        (("--method", "single", "--solver", "magic"), ("'magic'", "sequential-attention")),
        (("--method", "single", "--solver", "palm"), ("'palm' finds a product", "admm")),
        (("--solver", "iht"), ("'iht' finds one matrix", "alternating")),
        (("--solver", "magic"), ("'magic'", "alternating")),
        (("--method", "single", "--effort", "high"), ("--effort", "alternating")),
        (("--method", "single", "--total", "0.3"), ("double-sparse",)),
        (("--method", "magic"), ("'magic'", "'single'")),
    ],
)
def test_methods_and_solvers_that_do_not_go_together(
    checkpoint: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = listing(checkpoint.parent)
    check_refused(invoke("factorize", checkpoint, "-o", checkpoint.with_name("out"), *arguments), *words)
    assert listing(checkpoint.parent) == before and not checkpoint.with_name("out").exists()


def test_help_takes_the_names_from_the_table() -> None:
    shown = "".join(invoke("factorize", "--help").output.split())
    for constraint in CONSTRAINTS:
        assert f"for{constraint}:{','.join(solvers_for(constraint))}" in shown.replace("\n", "")


def make_shards(folder: Path) -> Tensors:
    """Two shards and their index, in the layout of a Hugging Face directory."""
    tensors = make_tensors()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:2], "model-00002-of-00002.safetensors": names[2:]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return tensors


def test_a_sharded_checkpoint_is_factorized_and_verified(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = make_shards(folder)
    output = tmp_path / "out.safetensors"
    done = invoke("factorize", folder, "-o", output, "--density", "0.5", "--effort", "fast")
    assert done.exit_code == 0, done.output
    assert invoke("verify", output, "--against", folder).exit_code == 0
    written = load_file(output)
    for name in ("block.1.bias", "positions", "conv"):
        assert np.array_equal(written[name], tensors[name])


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "missing.safetensors"])
def test_an_index_that_points_astray_is_refused(tmp_path: Path, shard: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(make_tensors(), tmp_path / "elsewhere.safetensors")
    make_shards(folder)
    index = {"weight_map": {"block.0.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    check_refused(invoke("factorize", folder, "-o", tmp_path / "out.safetensors"), shard)
    assert not (tmp_path / "out.safetensors").exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def lying(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [truncated, lying, pickled, empty])
def test_broken_files_are_refused(checkpoint: Path, harm: Callable[[Path], None]) -> None:
    harm(checkpoint)
    output = checkpoint.with_name("out.safetensors")
    output.write_bytes(b"the old output")
    before = listing(checkpoint.parent)
    check_refused(invoke("factorize", checkpoint, "-o", output), "model.safetensors")
    check_refused(invoke("factorize", checkpoint, "--dry-run"), "model.safetensors")
    check_refused(invoke("inspect", checkpoint), "model.safetensors")
    check_refused(invoke("verify", checkpoint), "model.safetensors")
    assert listing(checkpoint.parent) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--density", "0"), ("density", "0")),
        (("--density", "2"), ("density", "2")),
        (("--density", "nan"), ("density", "nan")),
        (("--density", "0.001"), ("density", "0.001")),
        (("--include", "nothing.*"), ("nothing.*",)),
        (("--include", "positions"), ("positions",)),
        (("--include", "conv"), ("conv",)),
        (("--include", "block.1.bias"), ("block.1.bias",)),
        (("--device", "abacus"), ("abacus",)),
    ],
)
def test_impossible_options_are_refused(checkpoint: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    output = checkpoint.with_name("out.safetensors")
    output.write_bytes(b"the old output")
    before = listing(checkpoint.parent)
    check_refused(invoke("factorize", checkpoint, "-o", output, *options), *words)
    assert listing(checkpoint.parent) == before


def test_nothing_to_factorize_is_refused(checkpoint: Path) -> None:
    output = checkpoint.with_name("out.safetensors")
    check_refused(invoke("factorize", checkpoint, "-o", output, "--include", "con*"), "model.safetensors", "--dry-run")
    check_refused(invoke("factorize", checkpoint, "-o", output, "--exclude", "*"), "model.safetensors")
    assert not output.exists()


def test_impossible_paths_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    check_refused(
        invoke("factorize", tmp_path / "missing.safetensors", "-o", tmp_path / "x.safetensors"), "missing.safetensors"
    )
    check_refused(invoke("factorize", checkpoint, "-o", checkpoint), "model.safetensors")
    check_refused(invoke("factorize", checkpoint, "-o", tmp_path / "no folder" / "x.safetensors"), "no folder")
    check_refused(invoke("factorize", checkpoint, "-o", tmp_path))
    check_refused(invoke("factorize", tmp_path / "weights.bin", "-o", tmp_path / "x.safetensors"), "weights.bin")
    check_refused(invoke("inspect", tmp_path / "missing.safetensors"), "missing.safetensors")
    check_refused(invoke("verify", tmp_path / "missing.safetensors"), "missing.safetensors")
    assert listing(tmp_path) == before


def test_interrupt_keeps_the_old_output(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsefact.cli import progress

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    output = checkpoint.with_name("out.safetensors")
    output.write_bytes(b"the old output")
    before = listing(checkpoint.parent)
    monkeypatch.setattr(progress._Lines, "__call__", interrupt)
    done = invoke("factorize", checkpoint, "-o", output)
    assert done.exit_code == 75
    assert done.stdout == "" and "Interrupted" in done.stderr and "Traceback" not in done.stderr
    assert listing(checkpoint.parent) == before


# the second matrix is begun, and goes on when it is told to
HELD = """
import sys
from sparsefact.cli import main
from sparsefact.factorizers.alternating import Alternating

init, begun = Alternating.init, []

def hold(*arguments):
    begun.append(arguments)
    if len(begun) == 2:
        print("held", file=sys.stderr, flush=True)
        sys.stdin.readline()
    return init(*arguments)

Alternating.init = hold
main()
"""


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A checkpoint of a few matrices, and its factor file."""
    folder = tmp_path_factory.mktemp("peace")
    rng = np.random.default_rng(0)
    checkpoint, output = folder / "model.safetensors", folder / "out.safetensors"
    save_file({f"layer.{i}": rng.standard_normal((40, 40)).astype(np.float32) for i in range(4)}, checkpoint)
    assert invoke("factorize", checkpoint, "-o", output, "--effort", "fast").exit_code == 0
    return checkpoint, output.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_keep_what_is_committed_and_nothing_else(
    in_peace: tuple[Path, bytes], tmp_path: Path, number: signal.Signals
) -> None:
    checkpoint, expected = in_peace
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"the old output")
    job = subprocess.Popen(
        [sys.executable, "-c", HELD, "factorize", str(checkpoint), "-o", str(output), "--effort", "fast"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert job.stderr is not None
    first = [job.stderr.readline() for _ in range(2)]
    job.send_signal(number)
    stdout, stderr = job.communicate("\n", timeout=600)
    assert first[1] == "held\n" and job.returncode == 75, (first, stderr)
    assert stdout == "" and "Traceback" not in stderr and "the same command goes on" in stderr
    partial = tmp_path / "out.safetensors.partial"
    assert {file.name for file in tmp_path.iterdir()} == {output.name, partial.name}
    assert output.read_bytes() == b"the old output"
    kept = {entry["file"] for entry in Journal.open(partial / JOURNAL_NAME).entries if entry["kind"] == "committed"}
    assert len(kept) == 1 and {file.name for file in partial.iterdir()} == kept | {JOURNAL_NAME, "recipe.toml"}
    done = invoke("factorize", checkpoint, "-o", output, "--effort", "fast", "--resume", "required", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == 1
    assert {file.name for file in tmp_path.iterdir()} == {output.name}
    assert output.read_bytes() == expected


def test_names_cannot_reach_the_terminal_unescaped(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"evil\x1b[2J[red]name": np.eye(8, dtype=np.float32)}, path)
    for arguments in (
        ("inspect", path),
        ("factorize", path, "--dry-run"),
        ("factorize", path, "-o", tmp_path / "o.safetensors"),
    ):
        done = invoke(*arguments)
        assert "\x1b" not in done.output
        assert r"evil\x1b[2J[red]name" in done.output


# inspect


def test_inspect_tells_a_factor_file(made: tuple[Path, Path, Result]) -> None:
    _, output, _ = made
    done = invoke("inspect", output)
    assert done.exit_code == 0, done.output
    document = json.loads(invoke("inspect", output, "--json").stdout)
    assert [matrix["name"] for matrix in document["matrices"]] == ["block.0.weight", "block.1.weight"]
    assert sorted(document["copied"]) == ["block.1.bias", "conv", "positions"]
    for matrix in document["matrices"]:
        F = sparsefact.load(output, matrix["name"])
        assert matrix["nnz"] == F.nnz and tuple(matrix["shape"]) == F.shape
        assert matrix["error"] == F.error
        assert matrix["name"] in done.stdout and f"{F.nnz:,}" in done.stdout
    stored = sum(array.nbytes for name, array in load_file(output).items() if name not in document["copied"])
    assert sum(matrix["nbytes"] for matrix in document["matrices"]) == stored


def test_inspect_tells_a_saved_factorization(made: tuple[Path, Path, Result], tmp_path: Path) -> None:
    F = sparsefact.load(made[1], "block.0.weight")
    F.save(tmp_path / "one.safetensors")
    document = json.loads(invoke("inspect", tmp_path / "one.safetensors", "--json").stdout)
    assert [tuple(matrix["shape"]) for matrix in document["matrices"]] == [(24, 16)]
    assert document["copied"] == []


def test_inspect_tells_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    done = invoke("inspect", checkpoint)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(checkpoint.read_bytes())
    for path in (checkpoint, folder):
        rows = {row["name"]: row for row in json.loads(invoke("inspect", path, "--json").stdout)["tensors"]}
        for name, array in make_tensors().items():
            assert name in done.stdout
            assert tuple(rows[name]["shape"]) == array.shape and rows[name]["nbytes"] == array.nbytes
        assert {name for name, row in rows.items() if row["target"]} == {"block.0.weight", "block.1.weight"}


@pytest.mark.parametrize(
    "document",
    [
        "nonsense",
        "[]",
        "{}",
        '{"format": 99}',
        '{"format":1,"version":"","source":"","copied":[],"failed":{},"matrices":{"w":3}}',
        '{"format":1,"version":"","source":"","copied":[],"failed":{},"matrices":{"w":{"shape":[2,2],"nnz":4}}}',
        '{"format":1,"version":"","source":"","copied":[],"failed":{},'
        '"matrices":{"w":{"shape":[2,2],"nnz":4,"dtype":"F32","factors":[{"kind":"dense"}]}}}',
    ],
)
def test_inspect_refuses_records_that_make_no_sense(tmp_path: Path, document: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"w": np.eye(2)}, path, {"sparsefact": document})
    check_refused(invoke("inspect", path), "odd.safetensors")


# verify


def test_verify_accepts_what_factorize_wrote(made: tuple[Path, Path, Result]) -> None:
    checkpoint, output, _ = made
    for extra in ((), ("--against", checkpoint)):
        done = invoke("verify", output, *extra)
        assert done.exit_code == 0, done.output
        assert "FAIL" not in done.stdout
        document = json.loads(invoke("verify", output, *extra, "--json").stdout)
        assert document["ok"] is True and document["findings"] and all(f["ok"] for f in document["findings"])


def test_verify_finds_a_changed_byte_and_another_checkpoint(made: tuple[Path, Path, Result], tmp_path: Path) -> None:
    checkpoint, output, _ = made
    data = bytearray(output.read_bytes())
    data[-3] ^= 0x40
    harmed = tmp_path / "harmed.safetensors"
    harmed.write_bytes(data)
    done = invoke("verify", harmed, "--against", checkpoint)
    assert done.exit_code == 1 and "FAIL" in done.stdout and "Traceback" not in done.output

    tensors = make_tensors()
    tensors["block.0.weight"] = tensors["block.0.weight"] + np.float32(1)
    other = tmp_path / "other.safetensors"
    save_file(tensors, other)
    done = invoke("verify", output, "--against", other, "--json")
    assert done.exit_code == 1
    assert any(not f["ok"] and f["name"] == "block.0.weight" for f in json.loads(done.stdout)["findings"])


def test_verify_refuses_what_is_no_factor_file(checkpoint: Path) -> None:
    check_refused(invoke("verify", checkpoint), "model.safetensors")


# What people see


def test_progress_bar_on_a_terminal(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    output = checkpoint.with_name("out.safetensors")
    done = invoke("factorize", checkpoint, "-o", output, "--density", "0.5", "--effort", "fast")
    assert done.exit_code == 0, done.output
    assert "block.1.weight" in done.stdout and "\x1b" not in done.stdout
    assert "\x1b[" in done.stderr and "block.1.weight" in done.stderr and "[2/2]" in done.stderr


def test_the_bar_only_grows_while_matrices_are_measured_and_come_out_of_order(checkpoint: Path) -> None:
    from sparsefact.checkpoints.plan import plan
    from sparsefact.checkpoints.recipe import Recipe, Rule
    from sparsefact.checkpoints.report import MEASURING, Event
    from sparsefact.cli.progress import _Bar

    work = plan(checkpoint, recipe=Recipe((Rule(targets=("block.*",)),), total=0.5))
    first, second = (target.name for target in work.targets)
    bar = _Bar(work)
    seen = [
        bar.after(Event("start", second, 1, 2, message=MEASURING)),
        bar.after(Event("progress", second, 1, 2, 5, 10, message=MEASURING)),
        bar.after(Event("measured", second, 1, 2, message=MEASURING)),
        bar.after(Event("measured", first, 0, 2, message=MEASURING)),
        bar.after(Event("start", second, 1, 2)),
        bar.after(Event("progress", second, 1, 2, 5, 10)),
        bar.after(Event("start", first, 0, 2)),
        bar.after(Event("done", second, 1, 2)),
        bar.after(Event("progress", first, 0, 2, 5, 10)),
        bar.after(Event("done", first, 0, 2)),
    ]
    assert seen == sorted(seen) and seen[0] == 0 and seen[3] == bar.total / 2 and seen[-1] == bar.total
    # what an earlier run has measured or committed is behind it
    bar = _Bar(work)
    assert bar.after(Event("resumed", first, 0, 2)) + bar.after(Event("resumed", second, 1, 2)) > bar.total


def test_an_interruption_while_measuring_says_what_is_kept(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsefact.cli import progress

    def interrupt(_: Any, event: Any) -> None:
        if event.kind == "measured":
            raise KeyboardInterrupt

    monkeypatch.setattr(progress._Lines, "__call__", interrupt)
    output = checkpoint.with_name("out")
    done = invoke("factorize", checkpoint, "-o", output, "--total", "0.5")
    assert done.exit_code == 75 and (output / "sparsefact.journal").exists()
    assert "what was measured of 1 matrix is kept" in done.stderr and "same command goes on" in done.stderr


def test_a_failure_is_told_once(checkpoint: Path) -> None:
    tensors = make_tensors()
    tensors["block.1.weight"][3, 5] = np.nan
    save_file(tensors, checkpoint)
    done = invoke("factorize", checkpoint, "-o", checkpoint.with_name("out"), "--density", "0.5", "--effort", "fast")
    assert done.exit_code == 1 and done.stderr.count("NaN or infinite") == 1 and "Warning" not in done.stderr
