"""The documentation: its Python runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from forks import Scripts

from benchmarks.tables import TABLES, filled
from sparsefact.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "sparsefact").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"<!-- needs ([\w, ]+) -->\n*$")
NAMED = re.compile(r"`((?:tests|benchmarks|sparsefact|docs)/[\w/.-]*)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    text = page.read_text(encoding="utf-8")
    found = [m for m in FENCE.finditer(text) if m.group(1) == language]
    return [(text.count("\n", 0, m.start(2)), m.group(2)) for m in found]


def packages_of(page: Path) -> dict[int, list[str]]:
    """The optional packages that the Python block at a line of a page says it needs, in a comment in front of it."""
    text = page.read_text(encoding="utf-8")
    said = {text.count("\n", 0, m.start(2)): NEEDS.search(text, 0, m.start()) for m in FENCE.finditer(text)}
    return {line: found.group(1).split(", ") if found else [] for line, found in said.items()}


def anchors(page: Path) -> set[str]:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    scripts = Scripts()
    yield scripts
    scripts.close()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_id)
def test_python_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path, scripts: Scripts) -> None:
    script, needs = "", packages_of(page)
    for line, code in blocks(page, "python"):
        ast.parse(code, page.name)
        if not all(importlib.util.find_spec(package) for package in needs[line]):
            continue
        script += "\n" * (line - script.count("\n")) + code  # a traceback names the line of the page
    file = tmp_path / f"page_{page.stem}.py"  # no name of a package that a block imports
    file.write_text(script, encoding="utf-8")
    code, printed = scripts.run(file)
    assert code == 0, printed


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_and_anchors_exist(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        where, _, anchor = link.partition("#")
        target = (page.parent / where).resolve() if where else page
        assert target.exists(), f"{page.name} links to {link}"
        assert ROOT in (target, *target.parents), f"{page.name} links out of the repository: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}, a heading that is not there"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_of_the_repository_that_a_page_names_are_there(page: Path) -> None:
    for name in NAMED.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_proof_names_the_test_that_holds_the_code_to_it() -> None:
    rows = [line for line in (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    claims = [row.split("|")[1:-1] for row in rows if not row.startswith("| claim")]
    assert len(claims) > 20 and {len(claim) for claim in claims} == {5}
    for claim, _, _, tests, _ in claims:
        named = re.findall(r"`(test_\w+\.py)`", tests)
        assert named and all((ROOT / "tests" / name).exists() for name in named), claim


def formulas(page: Path) -> list[str]:
    """Formulas within the lines of a page, and blocks of mathematics."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return re.findall(r"(?<![\\$])\$(?![\s$])([^$\n]*[^\s$])\$", prose) + [block for _, block in blocks(page, "math")]


def test_formulas_are_found() -> None:
    assert len(formulas(ROOT / "docs" / "mathematics.md")) > 250


@pytest.mark.parametrize("page", [page for page in PAGES if formulas(page)], ids=page_id)
def test_formulas_are_set_here_and_on_github(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for formula in formulas(page):
        # Markdown takes the backslash away before GitHub sets the formula, and some environments are not known here
        assert not re.search(r"\\[^\w\s\\]", formula) and "aligned" not in formula, formula
    assert re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)).count("$") % 2 == 0
    converter = pytest.importorskip("latex2mathml.converter", reason="latex2mathml is not installed")
    for formula in formulas(page):
        assert "\\" not in converter.convert(formula.strip()), formula  # what it does not know it leaves as it is


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_shown_commands_parse(page: Path) -> None:
    for language in ("sh", "console"):
        for _, text in blocks(page, language):
            for line in text.replace("\\\n", " ").splitlines():
                for part in line.removeprefix("$ ").split("&&"):
                    words = shlex.split(part.split("|")[0], comments=True)
                    words = words[2:] if words[:2] == ["uv", "run"] else words
                    prompt = language == "sh" or line.startswith("$ ")
                    if not prompt or words[:1] != ["sparsefact"] or len(words) < 2 or words[1].startswith("-"):
                        continue
                    command = app.get_command(click.Context(app), words[1])
                    assert command is not None, line
                    if "--help" not in words:
                        command.make_context(words[1], words[2:])


@pytest.mark.parametrize("page", TABLES)
def test_tables_are_those_of_the_result_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in TABLES[page].items():
        assert filled(text, name, make()) == text, "run: python -m benchmarks.tables"


def test_cli_page_names_every_command_and_option() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    context = click.Context(app)
    for name in app.list_commands(context):
        assert f"sparsefact {name}" in page
        section = page.split(f"## `sparsefact {name}", 1)[1].split("\n## ", 1)[0]
        command = app.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for option in parameter.opts:
                    assert f"`{option}" in section, f"{name} {option} is not documented"


def exported(module: str) -> list[str]:
    """The names in ``__all__`` of a module of the package, which is not imported."""
    tree = ast.parse((ROOT / "sparsefact" / f"{module}.py").read_text(encoding="utf-8"))
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return list(ast.literal_eval(lists[0]))


def test_reference_has_every_public_name_once() -> None:
    import sparsefact as sf
    from sparsefact import errors

    entries = [
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    public = {f"{home}.{name}" for module in (sf, sf.transforms) for name, home in module._HOME.items()}
    public |= {f"sparsefact.errors.{name}" for name in vars(errors) if isinstance(getattr(errors, name), type)}
    public |= {f"sparsefact.{bridge}.{name}" for bridge in ("interop", "torch") for name in exported(bridge)}
    public |= {f"sparsefact.report.figures.{name}" for name in exported("report/figures")}
    assert sorted(entries) == sorted(public)
