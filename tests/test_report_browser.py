"""The page of a report in a real browser: nothing in the console, nothing fetched or cut off, every picture there."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np
import pytest
from browser import Tab, executable, opened

from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule
from sparsefact.checkpoints.run import run
from sparsefact.io.write import write_tensors
from sparsefact.report.page import page

PHONE = 360
NAME = "model.layers.0.a_rather_long_name_of_a_block.that_goes_on.self_attention.query_projection.weight"
EVIL = "<img src=http://127.0.0.1:9/x onerror=console.error(1)>'\"&"

# the side of every picture, and whether it has been decoded
PICTURES = """
[...document.querySelectorAll("svg, img, canvas, picture")].map(e => {
  const box = e.getBoundingClientRect();
  return [e.tagName, box.width, box.height, e.tagName != "IMG" || e.naturalWidth > 0];
})
"""
# what a reader cannot reach: it is beyond the window, and nothing around it scrolls
CUT_OFF = """
[...document.body.querySelectorAll("*")].filter(e => {
  for (let up = e; up && up != document.body; up = up.parentElement)
    if (getComputedStyle(up).overflowX == "auto") return false;
  return e.getBoundingClientRect().right > window.innerWidth + 1;
}).map(e => e.outerHTML.slice(0, 80))
"""
# the least contrast (WCAG) of the texts of the page with the ground of the page, outside pictures
CONTRAST = """
(() => {
  const light = css => {
    const [r, g, b] = css.match(/[\\d.]+/g).map(Number)
      .map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const ratio = e => {
    const [low, high] = [light(getComputedStyle(e).color), ground].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return Math.min(...[...document.querySelectorAll("h1, h2, p, td, th, figcaption, pre")].map(ratio));
})()
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    found = executable()
    if found is None:
        pytest.skip("no Chromium is installed, which this test drives")
    with opened(found, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of the page of a small run with every section, a failure and names that are no names."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    model = {
        NAME: rng.standard_normal((24, 32)).astype("float32"),
        EVIL: rng.standard_normal((16, 16)).astype("float32"),
        "chain.weight": rng.standard_normal((16, 16)).astype("float32"),
        "broken.weight": np.full((8, 8), np.nan, "float32"),
        "bias": np.ones(4, "float32"),
    }
    write_tensors(folder / "model.safetensors", model)
    rules = (
        Rule(targets=("chain.weight",), constraint="butterfly"),
        Rule(options={"outer": 6, "report_every": 2}),
    )
    run(plan(folder / "model.safetensors", recipe=Recipe(rules, total=0.5)), folder / "out")
    (folder / "report.html").write_text(page(folder / "out"), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_the_page_of_a_run_shows_everything_and_complains_of_nothing(tab, report, width, scheme):
    tab.show(report, width=width, scheme=scheme)
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [report]
    heads = tab.value("[...document.querySelectorAll('h2')].map(e => e.innerText)")
    assert len(heads) >= 8 and {
        "Every matrix",
        "Error over density",
        "Supports of the factors",
        "Certificates of the errors",
        "Recipe",
    } <= set(heads)
    pictures = tab.value(PICTURES)
    # a chart of bars for each of error, bytes and time, two of lines, the supports of every matrix, and a certificate
    assert len(pictures) == 5 + 3 + 1
    assert all(w >= 8 and h >= 8 and decoded for _, w, h, decoded in pictures), pictures
    assert tab.value("document.documentElement.scrollWidth") <= width and tab.value(CUT_OFF) == []
    assert tab.value(CONTRAST) >= 4.5
    dark = "[...getComputedStyle(document.body).backgroundColor.matchAll(/[0-9]+/g)].every(v => v[0] < 64)"
    assert tab.value(dark) == (scheme == "dark")
    cells = tab.value("[...document.querySelectorAll('#matrices td:first-child')].map(e => e.innerText)")
    assert {NAME, EVIL, "broken.weight", "chain.weight"} == set(cells)


def test_what_a_page_must_not_do_is_noticed(tab, tmp_path):
    """The checks above, on pages that fail them: a browser that says nothing would prove nothing."""
    bad = {
        "complains": "<script>console.warn('careful')</script>",
        "throws": "<script>throw new Error('no')</script>",
        "fetches": "<img src='http://127.0.0.1:9/picture.png'>",
        "lacks": "<img src='missing.png'>",
        "wide": "<div style='width: 900px'>x</div>",
        "cut": "<div style='overflow: hidden'><p style='width: 900px'>x</p></div>",
        "pale": "<p style='color: #aaa'>x</p>",
        "empty": "<svg width=0 height=10></svg>",
    }
    found = {}
    for name, body in bad.items():
        path = tmp_path / f"{name}.html"
        path.write_text(
            '<!DOCTYPE html><html><head><meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{escape(name)}</title></head>'
            f'<body style="background: #fff; color: #000"><p>x</p>{body}</body></html>'
        )
        tab.show(path.as_uri(), width=PHONE)
        found[name] = {
            "complains": bool(tab.complaints),
            "fetches": [url for url in tab.requests if not url.startswith("data:")] != [path.as_uri()],
            "wide": tab.value("document.documentElement.scrollWidth") > PHONE,
            "cut": tab.value(CUT_OFF) != [],
            "pale": tab.value(CONTRAST) < 4.5,
            "empty": any(w < 8 or not decoded for _, w, _, decoded in tab.value(PICTURES)),
        }
    told = {name: {check for check, failed in checks.items() if failed} for name, checks in found.items()}
    assert told["complains"] == told["throws"] == {"complains"}
    assert {"complains", "fetches"} <= told["fetches"] and {"complains", "fetches", "empty"} <= told["lacks"]
    assert "wide" in told["wide"] and told["cut"] == {"cut"} and told["pale"] == {"pale"} and told["empty"] == {"empty"}
