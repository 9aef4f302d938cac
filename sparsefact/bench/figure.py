"""The rows of a result file as the panels of `sparsefact.report.figures.speed_against_size`."""

from __future__ import annotations

from typing import Any

__all__ = ["panels"]

Point = tuple[float, float, float, float]


def panels(content: dict[str, Any]) -> dict[str, dict[str, list[Point]]]:
    """Return medians and quartiles over sizes, and the roofline, for each case and way.

    Parameters
    ----------
    content : dict
        What `sparsefact.bench.results.read_results` returns.

    Returns
    -------
    dict of str to dict of str to list of (size, median, quartile, quartile)
        All times in seconds; cases whose ways all failed are left out.
    """
    found: dict[str, dict[str, list[Point]]] = {}
    several = len(content["devices"]) > 1
    for row in content["rows"]:
        detail = str(row["detail"])
        # what changes with the size does not tell cases apart
        detail = "" if "unknowns" in detail or row["name"] == "one factor" else detail
        title = ", ".join(part for part in (row["name"], row["dtype"], detail) if part)
        where = f", {row['device']}" if several else ""
        for way, told in row["ways"].items():
            if told.get("median"):
                point = (row["size"], told["median"], *told["quartiles"])
                curves = found.setdefault(title, {})
                curves.setdefault(way + where, []).append(point)
                roof = (row["size"], *[row["roofline_seconds"]] * 3)
                curves.setdefault(f"roofline{where}", [])
                if roof not in curves[f"roofline{where}"]:
                    curves[f"roofline{where}"].append(roof)
    return found
