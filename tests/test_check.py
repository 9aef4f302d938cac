"""`sparsefact check`: verdicts, pictures, JSON and what is refused."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import sparse

from sparsefact.cli.app import app
from sparsefact.cli.picture import picture
from sparsefact.constraints import presets


def _check(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


@pytest.mark.parametrize(
    "preset, tractable, verdict",
    [("hodlr:8,2,1", True, "closed"), ("low-rank:4,6,2", True, "closed"), ("lu:3", False, "not closed")],
)
def test_presets(preset, tractable, verdict):
    result = _check("--preset", preset, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["tractability"]["tractable"] is tractable and found["closedness"]["verdict"] == verdict
    assert found["landscape"]["benign"] is (True if tractable else None)
    text = _check("--preset", preset).stdout
    assert f"closedness: {verdict.capitalize()}" in text
    assert f"tractable: {'yes' if tractable else 'not known to be'}." in text


def test_files_and_figure(tmp_path):
    left, right = presets.arrow(5)
    np.save(tmp_path / "left.npy", left.mask())
    sparse.save_npz(tmp_path / "right.npz", right.tocsr())
    figure = tmp_path / "out.png"
    matplotlib = pytest.importorskip("matplotlib")
    assert matplotlib.__version__
    result = _check(tmp_path / "left.npy", tmp_path / "right.npz", "--figure", figure)
    assert result.exit_code == 0, result.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "left 5 x 5 (9 nonzeros), right 5 x 5 (9 nonzeros), 5 classes" in result.stdout


def test_picture_shows_classes_and_overlaps():
    classes = [([0, 1], [0, 1], [0]), ([1, 2], [1, 2], [1])]
    assert picture(classes, (3, 4)) == "AA··\nA#B·\n·BB·"
    assert picture(classes, (3, 400)) == ""


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "give the two masks"),
        (("a.npy",), "give the two masks"),
        (("--preset", "lu:3", "a.npy"), "not both"),
        (("--preset", "qr:3"), "not known"),
        (("--preset", "lu"), "takes 1: n"),
        (("--preset", "banded:3,x,1"), "not a list of integers"),
        (("--preset", "banded:3,9,1"), "must be below n=3"),
        (("missing.npy", "missing.npy"), "check the path"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = _check(*arguments)
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr


def test_masks_that_do_not_fit_get_a_sentence(tmp_path):
    np.save(tmp_path / "m.npy", np.ones((3, 4), bool))
    result = _check(tmp_path / "m.npy", tmp_path / "m.npy")
    assert result.exit_code == 2 and "transpose" in result.stderr
