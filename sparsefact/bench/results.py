"""Result files of the benchmark: one JSON document, written whole, and two of them side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsefact.errors import FormatError, StorageError
from sparsefact.io.atomic import atomic_write

__all__ = ["KIND", "VERSION", "differences", "document", "ratios", "read_results", "write_results"]

KIND, VERSION = "sparsefact bench", 1
_LARGEST = 1 << 28


def document(found: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """Return what a result file holds."""
    return {"kind": KIND, "version": VERSION, "environment": environment, **found}


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Write a result file through a temporary one beside it.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    text = json.dumps(finite(content), indent=1, allow_nan=False) + "\n"

    def fill(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic_write(path, fill)


def read_results(path: Path) -> dict[str, Any]:
    """Return a checked result file.

    Raises
    ------
    StorageError
        If it cannot be read.
    FormatError
        If it is no result file of this version.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}; give a file that `sparsefact bench -o` wrote"
        ) from error
    if len(raw) > _LARGEST:
        raise FormatError(f"{path}: more than {_LARGEST} bytes, which no result file of `sparsefact bench` has")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: this is not a complete JSON document ({error}); measure again") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise FormatError(f"{path}: this is JSON, but not a result file of `sparsefact bench`; give one that it wrote")
    if content.get("version") != VERSION:
        raise FormatError(
            f"{path}: this result file has the version {content.get('version')!r} and version {VERSION} is read; "
            "measure again, or compare with the sparsefact that wrote it"
        )
    rows, devices, environment = (content.get(name) for name in ("rows", "devices", "environment"))
    if not (isinstance(rows, list) and isinstance(devices, dict) and isinstance(environment, dict)):
        raise FormatError(f"{path}: this result file lacks its rows, devices or environment; measure again")
    if not all(map(_is_row, rows)):
        raise FormatError(f"{path}: a row of this result file lacks its case, device or times; measure again")
    return content


def ratios(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for every case, device and way in both files the two medians and how many times faster the second is.

    Examples
    --------
    >>> def result(median):
    ...     way = {"median": median, "quartiles": [median, median]}
    ...     return {"rows": [{"case": "kernels/inverse", "device": "cpu", "ways": {"sparsefact": way}}]}
    >>> ratios(result(3.0), result(1.5))[0]["ratio"]
    2.0
    """
    there = {key: way for key, way in _timed(second)}
    found = []
    for (case, device, name), way in _timed(first):
        other = there.get((case, device, name))
        if other is None:
            continue
        apart = way["quartiles"][1] < other["quartiles"][0] or other["quartiles"][1] < way["quartiles"][0]
        ratio = way["median"] / other["median"]
        found.append(
            {"case": case, "device": device, "way": name, "first": way["median"], "second": other["median"]}
            | {"ratio": ratio, "clear": apart}
        )
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return where the machines, devices and versions of two result files differ, one line each."""
    pairs = [
        (_flat(content["environment"]) | _flat({"device": _without_ceilings(content["devices"])}))
        for content in (first, second)
    ]
    names = sorted(set(pairs[0]) | set(pairs[1]))
    return [
        f"{name}: {pairs[0].get(name, 'none')} / {pairs[1].get(name, 'none')}"
        for name in names
        if pairs[0].get(name, "none") != pairs[1].get(name, "none")
    ]


def _without_ceilings(devices: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in told.items() if key != "ceilings"} if isinstance(told, dict) else told
        for name, told in devices.items()
    }


def _timed(content: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    for row in content["rows"]:
        for name, way in row["ways"].items():
            if way.get("median"):
                yield (row["case"], row["device"], name), way


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("ways"), dict):
        return False
    if not all(isinstance(row.get(name), str) for name in ("case", "device")):
        return False
    return all(isinstance(way, dict) and _is_timed(way) for way in row["ways"].values())


def _is_timed(way: dict[str, Any]) -> bool:
    """Return whether a way has its times, or none at all because it was wrong."""
    if "median" not in way:
        return True
    quartiles = way.get("quartiles")
    if not isinstance(quartiles, list) or len(quartiles) != 2:
        return False
    return all(isinstance(x, (int, float)) and 0 < x < math.inf for x in (way["median"], *quartiles))


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        return {key: x for part, inner in value.items() for key, x in _flat(inner, f"{name} {part}".strip()).items()}
    return {name: str(value)}


def finite(value: Any) -> Any:
    """Replace what JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value
