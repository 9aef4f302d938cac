"""What leaves the package: dense exports, PyTorch modules, the page of a report; what `verify` finds in a folder."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from commands import invoke
from scipy import sparse

import sparsefact as sf
from benchmarks.hostile_files import check_headers, check_indexes
from sparsefact.checkpoints.export import export_dense
from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule, read_recipe
from sparsefact.checkpoints.run import run
from sparsefact.checkpoints.verify import verify
from sparsefact.errors import ArgumentError, FormatError, ShapeError, StorageError
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.write import write_tensors
from sparsefact.report.page import page
from sparsefact.report.summary import summarise

RNG = np.random.default_rng(1)
EVIL = "<script>alert('é')</script>&\"w"
MODEL = {
    "encoder.0.weight": RNG.standard_normal((20, 16)).astype("float32"),
    "encoder.0.bias": np.arange(20, dtype="float32"),
    "encoder.1.weight": RNG.standard_normal((16, 20)).astype(ml_dtypes.bfloat16),
    EVIL: RNG.standard_normal((12, 12)),
    "broken.weight": np.full((8, 8), np.nan, "float32"),
    "ids": np.arange(6).reshape(2, 3),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a run of it with a shared budget, for the tests that only read."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "model").mkdir()
    write_tensors(folder / "model" / "model.safetensors", MODEL)
    (folder / "model" / "config.json").write_text("{}")
    recipe = Recipe((Rule(options={"outer": 10, "report_every": 2}),), total=0.5)
    run(plan(folder / "model", recipe=recipe), folder / "out")
    return folder / "model", folder / "out"


# verify


def test_every_flipped_bit_of_a_folder_is_found(made, tmp_path):
    source, out = made
    assert verify(out, against=source).ok
    shutil.copytree(out, tmp_path / "out")
    draw = random.Random(0)
    files = sorted((tmp_path / "out").iterdir())
    sizes = [path.stat().st_size for path in files]
    for number in range(150):
        # each file in turn, and in every second one a bit of its beginning, where headers are
        path = files[number % len(files)]
        raw = path.read_bytes()
        most = 8 * min(len(raw), 300) if number // len(files) % 2 else 8 * len(raw)
        bit = draw.randrange(most)
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = [finding for finding in verify(tmp_path / "out").findings if not finding.ok]
        assert found and any(path.name in f.name or path.name in f.message for f in found), (path.name, bit)
        path.write_bytes(raw)
    assert sizes == [path.stat().st_size for path in files] and verify(tmp_path / "out").ok


@pytest.mark.parametrize("name", ["sparsefact.json", JOURNAL_NAME, "config.json", "factors-00001-of-00004.safetensors"])
def test_a_lost_and_a_strange_file_are_found(made, tmp_path, name):
    shutil.copytree(made[1], tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    assert any(
        name in finding.name + finding.message for finding in verify(tmp_path / "out").findings if not finding.ok
    )


def test_files_beside_an_output_are_judged(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    assert verify(tmp_path / "out").ok
    write_tensors(tmp_path / "out" / "more.safetensors", {"w": np.ones(2)})
    (wrong,) = [finding for finding in verify(tmp_path / "out").findings if not finding.ok]
    assert (wrong.name, wrong.message) == ("more.safetensors", "it is in the folder, but not in the journal")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="the folder holds no factors"):
        verify(tmp_path / "empty")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("files"),
        lambda d: d.update(files={"../x": "0"}),
        lambda d: d.update(matrices=3),
        lambda d: d["matrices"]["encoder.0.weight"].pop("file"),
        lambda d: d["matrices"]["encoder.0.weight"].update(file="../../etc/passwd"),
        lambda d: d["matrices"]["encoder.0.weight"].update(file="config.json"),
        lambda d: d["matrices"]["encoder.0.weight"].update(file="factors-00009-of-00004.safetensors"),
    ],
)
def test_hostile_documents_are_clean_errors(made, tmp_path, change):
    shutil.copytree(made[1], tmp_path / "out")
    path = tmp_path / "out" / "sparsefact.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    assert not verify(tmp_path / "out").ok
    for arguments in (("export", tmp_path / "out", "--dense", tmp_path / "dense"), ("report", tmp_path / "out")):
        done = invoke(*arguments)
        assert done.exit_code in (0, 2) and "Traceback" not in done.output
    assert not list(tmp_path.glob("dense/*"))


def test_mutated_headers_and_hostile_indexes_are_clean_errors(tmp_path):
    found = check_headers(tmp_path, 3000, seed=1)
    assert found["refused"] > 2000 and found["slowest header, seconds"] < 1
    assert check_indexes(tmp_path / "indexes")["slowest index, seconds"] < 1


# export


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_dense_export_holds_the_products_and_the_other_tensors(made, tmp_path, kind):
    source, out = made
    if kind == "file":
        run(plan(source, density=0.5), tmp_path / "sparse.safetensors", solver=sf.Alternating(outer=2))
        out = tmp_path / "sparse.safetensors"
    assert export_dense(out, tmp_path / "dense") == (3, 3)
    assert export_dense(out, tmp_path / "dense.safetensors") == (3, 3)
    single = safetensors.numpy.load_file(tmp_path / "dense.safetensors")
    with open_checkpoint(tmp_path / "dense") as checkpoint:
        assert set(checkpoint.names) == set(MODEL) == set(single)
        for name in MODEL:
            array = checkpoint.read(name)
            assert array.dtype == MODEL[name].dtype and array.shape == MODEL[name].shape
            assert array.tobytes() == single[name].tobytes()
            if name in ("ids", "encoder.0.bias", "broken.weight"):
                assert array.tobytes() == MODEL[name].tobytes()
    document = json.loads((out / "sparsefact.json").read_text()) if kind == "folder" else None
    for name in ("encoder.0.weight", "encoder.1.weight", EVIL):
        F = sf.load(out / document["matrices"][name]["file"] if document else out, name)
        expected = np.linalg.multi_dot([factor.toarray().astype("float64") for factor in F.factors])
        # rounded once: only in float64 does the order of a sum show
        same = np.allclose if name == EVIL else np.array_equal
        assert same(single[name], expected.astype(single[name].dtype))
    assert not (tmp_path / "dense" / "sparsefact.json").exists()
    if kind == "folder":
        assert (tmp_path / "dense" / "config.json").read_text() == "{}"
    with pytest.raises(ArgumentError, match="there already"):
        export_dense(out, tmp_path / "dense")


def test_a_failed_export_leaves_nothing(made, tmp_path):
    def fail(name: str) -> None:
        if name == "ids":
            raise KeyboardInterrupt

    for name in ("dense", "dense.safetensors"):
        with pytest.raises(KeyboardInterrupt):
            export_dense(made[1], tmp_path / name, on_tensor=fail)
    assert not list(tmp_path.iterdir())


def test_export_on_the_command_line(made, tmp_path):
    done = invoke("export", made[1], "--dense", tmp_path / "dense")
    assert done.exit_code == 0 and "3 products and 3 copied tensors" in done.stdout
    done = invoke("export", made[1], "--torch")
    assert done.exit_code == 0 and "replace_linears(model, " in done.stdout and "#   encoder.0\n" in done.stdout
    compile(done.stdout, "export", "exec")
    assert invoke("export", made[1]).exit_code == 2
    assert invoke("export", tmp_path / "missing", "--torch").exit_code == 2


# PyTorch


def test_factorized_linear_is_the_dense_product(made):
    torch = pytest.importorskip("torch")
    from sparsefact.torch import FactorizedLinear, replace_linears

    for factors in (
        [sparse.random_array((6, 5), density=0.4, rng=RNG), RNG.standard_normal((5, 9))],
        [np.eye(4), np.zeros((4, 4)), RNG.standard_normal((4, 6))],
        [sf.KroneckerFactor(RNG.standard_normal((1, 2, 3, 2))), sparse.csr_array(RNG.standard_normal((6, 7)))],
    ):
        F = sf.Factorization(factors)
        bias = torch.arange(F.shape[0], dtype=torch.float64)
        layer = FactorizedLinear(F, bias)
        x = torch.from_numpy(RNG.standard_normal((2, 3, F.shape[1])))
        expected = x.numpy() @ F.todense().T + bias.numpy()
        assert np.allclose(layer(x).numpy(), expected, rtol=1e-12) and layer(x).shape == (2, 3, F.shape[0])
        assert layer.to(torch.float32)(x.float()).dtype == torch.float32
        with pytest.raises(ShapeError, match="bias has shape"):
            FactorizedLinear(F, bias[1:])

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.ModuleList([torch.nn.Linear(16, 20), torch.nn.Linear(20, 16, bias=False)])

        def forward(self, x: Any) -> Any:
            return self.encoder[1](torch.relu(self.encoder[0](x)))

    model = Model()
    with torch.no_grad():
        model.encoder[0].bias.copy_(torch.from_numpy(MODEL["encoder.0.bias"]))
    assert replace_linears(model, made[1]) == ["encoder.0", "encoder.1"]
    document = json.loads((made[1] / "sparsefact.json").read_text())["matrices"]
    W = [sf.load(made[1] / document[f"encoder.{i}.weight"]["file"]).todense() for i in (0, 1)]
    x = RNG.standard_normal((4, 16)).astype("float32")
    expected = np.maximum(x @ W[0].T + MODEL["encoder.0.bias"], 0) @ W[1].T
    assert np.allclose(model(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_grams_are_streamed_and_what_factorize_takes(tmp_path):
    torch = pytest.importorskip("torch")
    from sparsefact.torch import collect_grams

    model = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(12, 5))
    model.train()
    batches = [torch.from_numpy(RNG.standard_normal((7, 3, 8)).astype("float32")) for _ in range(4)]
    taken: list[int] = []

    def stream() -> Any:
        for i, batch in enumerate(batches):
            taken.append(i)
            yield (batch,) if i % 2 else batch

    grams = collect_grams(model, stream(), output=tmp_path / "grams.safetensors")
    X = torch.cat(batches).reshape(-1, 8)
    H = torch.relu(model[0](X)).detach().numpy().astype("float64")
    assert taken == [0, 1, 2, 3] and model.training and set(grams) == {"0.gram", "3.gram"}
    assert np.allclose(grams["0.gram"], X.numpy().astype("float64").T @ X.numpy(), rtol=1e-6, atol=1e-5)
    assert np.allclose(grams["3.gram"], H.T @ H, rtol=1e-5, atol=1e-4)
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    write_tensors(tmp_path / "model.safetensors", tensors)
    rule = Rule(targets=("*.weight",), density=0.5, gram=str(tmp_path / "grams.safetensors"), options={"outer": 3})
    report = run(plan(tmp_path / "model.safetensors", recipe=Recipe((rule,))), tmp_path / "out")
    assert report.failed == () and all(matrix.weighted_error is not None for matrix in report.matrices)
    with pytest.raises(ArgumentError, match="no linear layer"):
        collect_grams(model, [], include=lambda name: False)
    with pytest.raises(ArgumentError, match="'0' has seen no input"):
        collect_grams(model, [])


@pytest.mark.parametrize("frozen", [False, True])
def test_grams_of_the_gradients_at_the_outputs(frozen):
    torch = pytest.importorskip("torch")
    from sparsefact.torch import collect_grams

    first, second = torch.nn.Linear(8, 6), torch.nn.Linear(6, 3, bias=False)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    model.requires_grad_(not frozen)
    batches = [torch.from_numpy(RNG.standard_normal((5, 2, 8)).astype("float32")) for _ in range(3)]
    grams = collect_grams(model, batches, loss=lambda found: (found**2).sum() / 2)
    assert set(grams) == {"0.gram", "0.left_gram", "2.gram", "2.left_gram"}
    assert all(parameter.grad is None and parameter.requires_grad != frozen for parameter in model.parameters())
    # the gradient of half the squares is the output itself; behind the ReLU it comes back through the weights
    X = torch.cat(batches).reshape(-1, 8)
    hidden = first(X).detach().numpy().astype("float64")
    W = second.weight.detach().numpy().astype("float64")
    out = np.maximum(hidden, 0) @ W.T
    back = (out @ W) * (hidden > 0)
    assert np.allclose(grams["2.left_gram"], out.T @ out, rtol=1e-4, atol=1e-4)
    assert np.allclose(grams["0.left_gram"], back.T @ back, rtol=1e-4, atol=1e-4)
    assert np.allclose(grams["0.gram"], X.numpy().T @ X.numpy(), rtol=1e-4, atol=1e-4)
    A = first.weight.detach().numpy()
    F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), gram=grams["0.gram"], left_gram=grams["0.left_gram"])
    assert F.error < sf.factorize(A, sf.double_sparse(A.shape, 0.5)).error_against(
        A, grams["0.gram"], grams["0.left_gram"]
    )

    class Aside(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = first, second

        def forward(self, x: Any) -> Any:
            found = self.used(x)
            self.idle(found)
            return found

    with pytest.raises(ArgumentError, match="loss does not depend on the layer 'idle'; leave it out with include"):
        collect_grams(Aside(), batches, loss=lambda found: found.sum())


def test_without_pytorch_the_sentence_says_what_to_install():
    program = "import sys; sys.modules['torch'] = None\nimport sparsefact.torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'sparsefact[torch]'" in done.stderr.splitlines()[-1]


# the report


class Checked(HTMLParser):
    """Every tag is closed in its order, and nothing is fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert tag not in ("script", "img", "iframe", "object", "embed", "base", "form")
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "action", "xlink:href"):
                assert value == "data:," or value[:1] == "#" or value.startswith("data:image/png;base64,")
            if name == "id":
                assert value not in self.ids
                self.ids.append(value)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_needs_nothing(made, tmp_path):
    done = invoke("report", made[1], "-o", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == page(made[1]) and "http:" not in text and "https:" not in text and not re.search(r"url\((?!#)", text)
    assert "@import" not in text and "<script" not in text
    parser = Checked()
    parser.feed(text)
    parser.close()
    assert parser.open == [] and EVIL in "".join(parser.text)
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    for picture in pictures:
        ElementTree.fromstring(picture)
    # three charts of bars, two of lines, and the factors of three matrices
    kinds = [re.match(r'<svg class="(\w+)"', picture).group(1) for picture in pictures]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"bars": 3, "lines": 2, "support": 3}
    summary = summarise(made[1])
    totals = summary.totals
    document = json.loads((made[1] / "sparsefact.json").read_text())
    assert totals["nonzeros"] == sum(record["nnz"] for record in document["matrices"].values())
    assert (totals["matrices"], totals["failed"], totals["copied"]) == (3, 1, 2)
    for shown in (f"{totals['nonzeros']:,}", f"{totals['bytes_after']:,}", "broken.weight", "NaN or infinite"):
        assert shown in text
    assert json.loads(invoke("report", made[1], "--json").stdout)["nonzeros"] == totals["nonzeros"]
    assert f"nonzeros {totals['nonzeros']:,} of" in done.stdout
    for layer in summary.layers:
        if layer.report.status != "failed":
            assert len(layer.history) >= 4 and len(layer.curve) == 5


def test_a_page_needs_matplotlib_and_totals_do_not(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = invoke("report", made[1], "-o", tmp_path / "report.html")
    assert done.exit_code == 2 and "pip install 'sparsefact[report]'" in done.stderr
    assert list(tmp_path.iterdir()) == [] and invoke("report", made[1]).exit_code == 0


def test_a_run_that_has_not_ended_has_no_report(made, tmp_path):
    def stop(event: Any) -> None:
        if event.kind == "done":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan(made[0], density=0.5), tmp_path / "out", solver=sf.Alternating(outer=1), on_event=stop)
    assert len(Journal.open(tmp_path / "out" / JOURNAL_NAME).entries) == 2
    with pytest.raises(StorageError, match="has not ended"):
        page(tmp_path / "out")
    assert invoke("report", tmp_path / "out").exit_code == 2
    assert invoke("report", tmp_path).exit_code == 2
    assert invoke("verify", tmp_path / "out").exit_code == 1


# the command line


def test_every_flag_is_in_the_recipe_that_is_written(made, tmp_path):
    (tmp_path / "r.toml").write_text(
        "seed = 2\n[[rules]]\ntargets = 'encoder.*'\ndensity = 0.5\noptions.effort = 'fast'\nsolver = 'alternating'\n"
    )
    flags = ["--include", "encoder.*", "--density", "0.5", "--effort", "fast", "--seed", "2"]
    first = invoke("factorize", made[0], "-o", tmp_path / "a", *flags)
    second = invoke("factorize", made[0], "-o", tmp_path / "b", "--recipe", tmp_path / "r.toml")
    third = invoke("factorize", made[0], "-o", tmp_path / "c", "--recipe", tmp_path / "a" / "recipe.toml")
    for done in (first, second, third):
        assert done.exit_code == 0, done.output
    written = {name: (tmp_path / name / "recipe.toml").read_text() for name in "abc"}
    assert written["a"] == written["b"] == written["c"]
    assert read_recipe(tmp_path / "a" / "recipe.toml").rules[0].targets == ("encoder.*",)
    names = sorted(path.name for path in (tmp_path / "a").iterdir() if path.name != JOURNAL_NAME)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    again = invoke("factorize", made[0], "-o", tmp_path / "a", *flags)
    assert again.exit_code == 0 and "2 of them by an earlier run" in again.stdout
    refused = invoke("factorize", made[0], "-o", tmp_path / "a", *flags[:-1], "3")
    assert refused.exit_code == 2 and "recipe.seed = 2, and this one has 3" in refused.stderr
    assert invoke("inspect", tmp_path / "a").stdout.count("encoder.") == 3
    assert invoke("verify", tmp_path / "a", "--against", made[0]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--recipe", "r.toml", "--density", "0.5"), "say the same twice"),
        (("--density", "0.5", "--total", "0.4"), "exclude each other"),
        (("--tolerance", "2"), "tolerance=2.0 is outside"),
        (("--total", "0"), "total=0.0 is outside"),
        (("--solver", "magic"), "must be one of alternating"),
        (("--gram", "missing.safetensors"), "missing.safetensors"),
        (("--left-gram", "missing.safetensors"), "missing.safetensors"),
        (("--recipe", "r.toml", "--left-gram", "x"), "--left-gram and --recipe say the same twice"),
        (("--resume", "required"), "no sparsefact.journal"),
        (("--recipe", "missing.toml"), "missing.toml"),
        (("--scheduler", "nonsense://x"), ""),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(made, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text("[[rules]]\ndensity = 0.5\n")
    done = invoke("factorize", made[0], "-o", tmp_path / "out", *options)
    assert done.exit_code == 2 and words in done.stderr and "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_what_it_takes(made, tmp_path):
    done = invoke("factorize", made[0], "-o", tmp_path / "out", "--total", "0.4", "--dry-run")
    assert done.exit_code == 0 and "to be found" in done.stdout and "It would take" in done.stdout
    needs = json.loads(invoke("factorize", made[0], "--dry-run", "--json").stdout)["needs"]
    assert needs["memory"] > 0 and needs["disk"] > 0 and needs["seconds"] > 0
    assert not (tmp_path / "out").exists()


def test_a_disk_that_will_not_do_is_refused_before_the_first_byte(made, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    done = invoke("factorize", made[0], "-o", tmp_path / "out")
    assert done.exit_code == 2 and "bytes of disk, and 1,000 are free" in done.stderr
    assert not list(tmp_path.iterdir())
    dry = invoke("factorize", made[0], "-o", tmp_path / "out", "--dry-run")
    assert dry.exit_code == 2 and "bytes of disk" in dry.stderr
