"""What the site needs beside the pages: the result files that they link to, and formulas that need no script."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
_BLOCK = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OUTSIDE, _INSIDE = "](../benchmarks/results/", "](results/"


def on_files(files: Files, config: Any) -> Files:
    """Put the benchmarks' result files into the site."""
    results = Path(config["config_file_path"]).parent / "benchmarks" / "results"
    for path in sorted(results.glob("*.json")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links to result files and blocks of mathematics, which are right on GitHub, be right in the site."""
    return _BLOCK.sub(r"$$\n\1$$", markdown).replace(_OUTSIDE, _INSIDE)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Turn formulas into MathML, which browsers draw without a script, and so without a network."""

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found[2]).strip(), display="block" if found[1] == "div" else "inline")

    return _FORMULA.sub(mathml, content)
