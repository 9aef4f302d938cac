"""The pictures show their data, in one style, as the same bytes each time, and many of them fit on one page."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from commands import invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sparsefact as sf
from benchmarks import demo_matrix
from benchmarks.record import load
from sparsefact.analysis.certificates import Certificate
from sparsefact.bench.figure import panels
from sparsefact.errors import ArgumentError, StorageError
from sparsefact.report import figures
from sparsefact.report.matrices import support_panels
from sparsefact.report.style import COLOURS, INK, plain, save, svg_element, to_svg

matplotlib = pytest.importorskip("matplotlib")

RNG = np.random.default_rng(2)
EVIL = '_<b id="x">$&\'日\x00'


def lines(ax: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): [tuple(point) for point in line.get_xydata().tolist()] for line in ax.lines}


def words(figure: Any) -> str:
    return " ".join("".join(text.itertext()) for text in svg(figure).iter("{http://www.w3.org/2000/svg}text"))


def svg(figure: Any) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(figure))


def legend(figure: Any) -> list[str]:
    box = figure.legends[0] if figure.legends else figure.axes[0].get_legend()
    return [text.get_text() for text in box.get_texts()]


# what they show


def test_supports_are_where_the_entries_are():
    left = sparse.csr_array((np.ones(3), ([0, 3, 8], [0, 5, 4])), shape=(9, 6))
    right = np.ones((6, 4))
    figure = figures.supports([left, right, sf.KroneckerFactor(np.ones((2, 1, 1, 2)))])
    images = figure.axes[0].images
    seen = [~np.ma.getmaskarray(image.get_array()) for image in images]
    np.testing.assert_array_equal(seen[0], left.toarray() != 0)
    assert seen[1].all() and seen[1].shape == (6, 4)
    np.testing.assert_array_equal(seen[2], np.eye(4, dtype=bool))
    assert [name in words(figure) for name in ("9 × 6", "3 stored", "24 stored", "4 stored", "F")] == [True] * 5


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 40), st.integers(0, 2**32 - 1))
def test_a_cell_is_as_dark_as_its_share_is_large(m: int, n: int, cells: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((m, n)) < 0.3
    mask[0, 0] = True
    for factor in (sf.Support(mask), mask, sparse.coo_array(mask)):
        (panel,), _ = support_panels([factor], cells)
        drawn, cell = np.ma.filled(panel.image, 0), panel.cell
        assert max(drawn.shape) <= cells and panel.label.endswith(f"\n{mask.sum():,} stored")
        for (y, x), shade in np.ndenumerate(drawn):
            share = mask[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].mean()
            assert shade == np.ceil(share * 6)


def test_cells_are_drawn_to_scale():
    (ax,) = figures.supports([np.ones((30, 7)), np.ones((7, 20))], cells=8).axes
    for drawn, (m, n), cells in zip(ax.images, [(30, 7), (7, 20)], [(8, 2), (2, 5)], strict=True):
        left, right, bottom, top = drawn.get_extent()
        assert (right - left, bottom - top) == pytest.approx((4 * cells[1], 4 * cells[0]))  # cells of 4 x 4
        clip = drawn.get_clip_box().transformed(ax.transData.inverted())  # the last ones reach beyond
        np.testing.assert_allclose([clip.width, abs(clip.height)], [n, m])


def test_a_chain_is_drawn_with_its_product():
    chain = sf.Chain.butterfly(8)
    F = sf.factorize(RNG.standard_normal((8, 8)), chain)
    for product in (chain, F):
        images = figures.supports(product).axes[0].images
        assert len(images) == 4
        for image, factor in zip(images[1:], F.factors, strict=True):
            np.testing.assert_array_equal(~np.ma.getmaskarray(image.get_array()), factor.support.mask())


def test_overlaps_count_the_terms_of_a_cell():
    left, right = RNG.random((200, 5)) < 0.3, RNG.random((5, 30)) < 0.3
    image, first, second = figures.overlaps(sf.Support(left), sf.Support(right)).axes[0].images
    counts = left.astype(int) @ right
    pooled = counts.reshape(100, 2, 15, 2).max(axis=(1, 3))
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), 0), pooled)
    assert first.get_array().shape == (100, 3) and second.get_array().shape == (3, 15)


def test_the_overview_shows_values():
    A = RNG.standard_normal((12, 8))
    F = sf.Factorization([sparse.csr_array(np.diag(np.arange(1.0, 13))), A])
    figure = figures.overview(A, F, {"ours": [(0.2, 0.5), (0.4, 0.1)]})
    whole, first, second = (image.get_array() for image in figure.axes[0].images)
    np.testing.assert_array_equal(whole, A)
    np.testing.assert_array_equal(second, A)
    np.testing.assert_array_equal(np.ma.getmaskarray(first), ~np.eye(12, dtype=bool))
    curve, where = figure.axes[1].lines
    assert curve.get_xydata().tolist() == [[0.2, 0.5], [0.4, 0.1]] and set(where.get_xdata()) == {F.density}


def test_errors_over_densities():
    curves = {"ours": [(0.2, 0.5), (0.4, 0.1)], EVIL: [(0.2, 0.7), (0.4, float("nan"))]}
    figure = figures.error_against_density(curves)
    (ax,) = figure.axes
    assert list(lines(ax).values()) == [curves["ours"], [(0.2, 0.7)]]
    assert "density" in ax.get_xlabel() and ax.get_ylabel() == "relative error" and ax.get_ylim()[0] == 0
    assert ax.lines[0].get_linewidth() > ax.lines[1].get_linewidth()
    assert ax.yaxis.get_major_formatter()(0.25, None) == "25 %"


def test_convergence_takes_histories_and_pairs():
    F = sf.factorize(RNG.standard_normal((16, 12)), sf.double_sparse((16, 12), 0.5))
    (ax,) = figures.convergence({"F": F.history, "w": [(1, 0.9), (2, 0.8)]}).axes
    assert lines(ax) == {"F": [(step.iteration, step.error) for step in F.history], "w": [(1, 0.9), (2, 0.8)]}
    assert ax.get_ylabel() == "relative error"
    X = RNG.standard_normal((20, 6))
    found = sf.minimize(sf.LeastSquares(X, X[:, :1]), sf.TopK(nnz=2), sf.IHT())
    (ax,) = figures.convergence({"IHT": found.history}).axes
    assert lines(ax) == {"IHT": [(step.iteration, step.objective) for step in found.history]}
    assert ax.get_ylabel() == "objective"


def test_of_many_runs_the_highest_and_the_lowest_are_named():
    histories = {f"layer {k}": [(1, 1.0), (5, 0.1 + 0.01 * ((7 * k) % 40))] for k in range(40)}
    figure = figures.convergence(histories)
    assert {name: line for name, line in lines(figure.axes[0]).items()} == histories
    ends = {name: history[-1][1] for name, history in histories.items()}
    assert legend(figure) == [
        f"highest: {max(ends, key=ends.get)}",
        f"lowest: {min(ends, key=ends.get)}",
        "the other 38",
    ]


def test_bars_have_the_lengths_of_their_values():
    rows = [("a", 3.0, 1.0), (EVIL, 0.0, 2.5)]
    figure = figures.before_and_after(rows, ("before", "after"), "MiB")
    (ax,) = figure.axes
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [3.0, 0.0, 1.0, 2.5] and ax.get_xlabel() == "MiB" and legend(figure) == ["before", "after"]
    places = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    assert np.argsort(places).tolist() == [0, 2, 1, 3]  # both of a row side by side, rows from above


@pytest.mark.parametrize("certificate", ["free", "full"])
def test_a_certificate_shows_its_bounds_and_splits(certificate):
    A = RNG.standard_normal((16, 16))
    proof = sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(certificate=certificate)).certificate
    figure = figures.certificate(proof)
    points, upper, lower = figure.axes[0].lines
    norm = np.linalg.norm(A)
    if certificate == "full":
        expected = dict(enumerate(proof.split_errors, 1))
    else:
        expected = dict(zip(proof.order, proof.step_errors, strict=True))
    assert points.get_xdata().tolist() == sorted(expected)
    np.testing.assert_allclose(points.get_ydata(), [expected[s] / norm for s in sorted(expected)])
    assert set(upper.get_ydata()) == {proof.upper_bound / proof.norm}
    assert set(lower.get_ydata()) == {proof.lower_bound / proof.norm}
    assert f"at most {proof.ratio:.4g} times less" in " ".join(legend(figure))


def test_a_certificate_of_an_optimum_says_so():
    class Exact(Certificate):
        def verify(self, A: Any) -> bool:
            return True

    figure = figures.certificate(Exact(2.0, 2.0))
    assert [set(line.get_ydata()) for line in figure.axes[0].lines] == [{2.0}, {2.0}]
    assert "optimum" in legend(figure)[-1] and figure.axes[0].get_ylabel() == "error"
    to_svg(figures.certificate(Exact(0.0, 0.0)))


def row(size: int, ways: dict[str, float | None], **more: Any) -> dict[str, Any]:
    told = {way: {"median": s, "quartiles": [s / 2, 2 * s] if s else None} for way, s in ways.items()}
    return {"name": "FFT", "dtype": "float32", "detail": "", "device": "cpu", "size": size, "ways": told} | more


def test_speed_is_drawn_from_a_result_file():
    rows = [
        row(64, {"sparsefact": 2.0, "scipy": 4.0}, roofline_seconds=1.0),
        row(16, {"sparsefact": 0.5, "scipy": None}, roofline_seconds=0.2),
        row(16, {"sparsefact": None}, roofline_seconds=0.2, name="wrong"),
    ]
    found = panels({"devices": {"cpu": {}}, "rows": rows})
    assert list(found) == ["FFT, float32"]
    figure = figures.speed_against_size(found)
    (ax,) = figure.axes
    drawn = lines(ax)
    assert drawn["sparsefact"] == [(16, 0.5), (64, 2.0)] and drawn["scipy"] == [(64, 4.0)]
    assert drawn["roofline"] == [(16, 0.2), (64, 1.0)]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_title()) == ("log", "log", "FFT, float32")
    spreads = [
        segment.tolist() for bars in ax.collections if hasattr(bars, "get_segments") for segment in bars.get_segments()
    ]
    assert [[16, 0.25], [16, 1.0]] in spreads and [[64, 2.0], [64, 8.0]] in spreads
    assert legend(figure) == ["sparsefact", "scipy", "roofline"]
    two = panels({"devices": {"cpu": {}, "cuda:0": {}}, "rows": [rows[0], rows[0] | {"device": "cuda:0"}]})
    assert set(two["FFT, float32"]) == {
        f"{way}, {d}" for way in ("sparsefact", "scipy", "roofline") for d in ("cpu", "cuda:0")
    }


@pytest.mark.parametrize(("quantity", "side"), [("seconds", min), ("GFLOP/s", max)])
def test_what_cannot_be_lies_beyond_the_roofline(quantity, side):
    figure = figures.speed_against_size(
        {"a": {"roofline": [(1, 4.0), (2, 5.0)], "x": [(1, 9.0), (2, 1.0)]}}, quantity=quantity
    )
    (ax,) = figure.axes
    (shade,) = (each for each in ax.collections if not hasattr(each, "get_segments"))
    heights = shade.get_paths()[0].vertices[:, 1]
    assert {4.0, 5.0} <= set(heights) and side(heights) == pytest.approx(side(ax.get_ylim()))


def test_the_result_file_of_the_overview_is_of_the_network_in_the_package():
    A = demo_matrix.matrix().astype(np.float64)
    found = load("demo_matrix")["results"]
    assert found["shape"] == list(A.shape) and demo_matrix.SHOWN in [row["density"] for row in found["rows"]]
    sizes, values = np.sort(np.abs(A).ravel()) ** 2, np.linalg.svd(A, compute_uv=False) ** 2
    for each in found["rows"]:
        budget = int(each["density"] * A.size)
        rank = budget // sum(A.shape)
        errors = [np.sqrt(sizes[: A.size - budget].sum() / sizes.sum()), np.sqrt(values[rank:].sum() / values.sum())]
        assert [each[way]["error"] for way in ("magnitude pruning", "SVD")] == pytest.approx(errors, rel=1e-5)
        assert [each[way]["numbers"] for way in ("magnitude pruning", "SVD")] == [budget, rank * sum(A.shape)]
        ours = each["two sparse factors"]
        assert ours["numbers"] <= budget and ours["error"] < min(errors)


# how they are written


def every_figure() -> dict[str, Any]:
    A = RNG.standard_normal((16, 16))
    F = sf.factorize(A, sf.Chain.butterfly(16))
    names = {EVIL: [(1, 0.5), (2, 0.25)], "b": [(1, 0.5), (2, 0.2)]}
    return {
        "supports": figures.supports(F),
        "matrices": figures.supports([sparse.csr_array(A > 0), A]),
        "overlaps": figures.overlaps(sf.Support(A > 0), sf.Support(A > 1)),
        "errors": figures.error_against_density(names),
        "convergence": figures.convergence(names),
        "bars": figures.before_and_after([(EVIL, 1.0, 2.0)], ("a", "b"), "s"),
        "certificate": figures.certificate(F.certificate),
        "factorization": figures.factorization(F),
        "speed": figures.speed_against_size({EVIL: {EVIL: [(1, 1.0, 0.5, 2.0)], "roofline": [(1, 0.1)]}}),
        "overview": figures.overview(A, sf.Factorization([A]), names),
    }


def test_a_page_of_all_of_them_is_sound_and_deterministic():
    state = RNG.bit_generator.state
    first = {name: svg_element(figure, name=name, kind=name, label=EVIL) for name, figure in every_figure().items()}
    RNG.bit_generator.state = state
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path", "text.usetex": True}):
        again = {name: svg_element(figure, name=name, kind=name, label=EVIL) for name, figure in every_figure().items()}
        assert matplotlib.rcParams["font.size"] == 30
    assert first == again
    text = "".join(first.values())
    page = ElementTree.fromstring(f"<page>{text}</page>")
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) > 9
    assert {*re.findall(r'href="#([^"]*)"', text), *re.findall(r"url\(#([^)]*)\)", text)} == set(ids)
    assert not re.search(r"https?:|<(script|style|!)|@import|url\((?!#)", text) and INK not in text
    for name, element in first.items():
        root = ElementTree.fromstring(element)
        assert root.tag == "svg" and root.get("class") == name and root.get("role") == "img"


def test_names_stand_as_they_are():
    shown = EVIL.replace("\x00", "\ufffd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shown in words(figures.before_and_after([(EVIL, 1.0, 2.0)], ("a", "b"), "s"))
        assert shown in words(figures.error_against_density({EVIL: [(0.1, 0.2)], "b": [(0.1, 0.3)]}))
        assert "$x_1$ and $y$" in words(figures.convergence({"$x_1$ and $y$": [(1, 1.0)], "b": [(1, 2.0)]}))
    assert len(plain("a" * 100)) == 40


def luminance(colour: str) -> float:
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [INK, *COLOURS])
@pytest.mark.parametrize("ground", ["#ffffff", "#0d1117"])
def test_colours_can_be_seen_on_white_and_on_black(colour, ground):
    dark, light = sorted((luminance(colour), luminance(ground)))
    least = 3.5 if colour == INK else 2.0
    assert (light + 0.05) / (dark + 0.05) >= least


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_files_are_the_same_each_time(tmp_path, suffix):
    for name in ("a", "b"):
        save(figures.convergence({"w": [(1, 0.5), (2, 0.25)]}), tmp_path / f"{name}{suffix}")
    written = (tmp_path / f"a{suffix}").read_bytes()
    assert written == (tmp_path / f"b{suffix}").read_bytes() and len(written) > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="no factors"):
        figures.supports([])
    with pytest.raises(ArgumentError, match="panels is empty"):
        figures.speed_against_size({})
    with pytest.raises(ArgumentError, match="no bounds"):
        figures.certificate(None)
    figure = figures.convergence({})
    with pytest.raises(ArgumentError, match=r"\.svg, \.png or \.pdf"):
        save(figure, tmp_path / "a.bmp")
    with pytest.raises(StorageError, match="does not exist"):
        save(figure, tmp_path / "none" / "a.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(StorageError, match=r"pip install 'sparsefact\[report\]'"):
        figures.convergence({})


# the command line


def test_inspect_draws_the_matrix_that_is_named(tmp_path):
    F = sf.Factorization([sparse.csr_array(np.eye(5)), np.ones((5, 3))])
    F.save(tmp_path / "F.safetensors")
    done = invoke("inspect", tmp_path / "F.safetensors", "--figure", tmp_path / "F.svg")
    assert done.exit_code == 0 and "wrote" in done.stdout
    assert (tmp_path / "F.svg").read_text() == to_svg(figures.supports(F))
    refused: list[tuple[tuple[str | Path, ...], str]] = [
        (("--figure", tmp_path / "F.bmp"), ".svg, .png or .pdf"),
        (("--matrix", "matrix"), "give --figure too"),
        (("--figure", tmp_path / "G.svg", "--matrix", "other"), "'other'"),
    ]
    for arguments, words in refused:
        done = invoke("inspect", tmp_path / "F.safetensors", *arguments)
        assert done.exit_code == 2 and words in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["F.safetensors", "F.svg"]


def test_inspect_draws_and_says_what_the_file_states(tmp_path):
    A = np.random.default_rng(0).standard_normal((16, 16))
    F = sf.factorize(A, sf.Chain.butterfly(16), sf.Hierarchical(certificate="full", sweeps=2))
    F.save(tmp_path / "F.safetensors", name="w")
    done = invoke("inspect", tmp_path / "F.safetensors", "--figure", tmp_path / "F.svg")
    proof = F.certificate
    assert f"w: the file states {proof.lower_bound:.6g} <= best error <= {proof.upper_bound:.6g}" in done.stdout
    text = (tmp_path / "F.svg").read_text()
    assert "as the file states, not checked again" in text and "iteration" in text
    assert text == to_svg(figures.factorization(sf.load(tmp_path / "F.safetensors")))
    figure = figures.factorization(F)
    supports, search, bounds = figure.axes
    assert len(supports.images) == 5 and bounds.get_title() == ""
    assert lines(search) == {"search": [(s.iteration, s.error) for s in F.history]}
    left_out = [(float(split), e / proof.norm) for split, e in enumerate(proof.split_errors, 1)]
    assert lines(bounds)["what one split alone leaves out"] == left_out


def test_a_checkpoint_has_no_factors_to_draw(tmp_path):
    from sparsefact.io.write import write_tensors

    write_tensors(tmp_path / "model.safetensors", {"w": np.ones((4, 4))})
    done = invoke("inspect", tmp_path / "model.safetensors", "--figure", tmp_path / "a.svg")
    assert done.exit_code == 2 and "no factors to draw" in done.stderr
