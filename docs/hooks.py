"""What the site needs beside the pages: the result files that they link to, which live outside of `docs/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_OUTSIDE, _INSIDE = "](../benchmarks/results/", "](results/"


def on_files(files: Files, config: Any) -> Files:
    """Put the benchmarks' result files into the site."""
    results = Path(config["config_file_path"]).parent / "benchmarks" / "results"
    for path in sorted(results.glob("*.json")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links to result files, which are right in the repository, be right in the site."""
    return markdown.replace(_OUTSIDE, _INSIDE)
