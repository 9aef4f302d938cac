"""Numbers, names and documents as people and programs read them."""

from __future__ import annotations

import json
import math
from typing import Any

from sparsefact.bench.results import finite

__all__ = ["document", "duration", "milliseconds", "percent", "printable", "shape_text", "shortened", "size"]

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def size(count: int) -> str:
    """Return a number of bytes in binary units.

    Examples
    --------
    >>> size(999), size(1536), size(5 * 2**30)
    ('999 B', '1.5 KiB', '5.0 GiB')
    """
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1024
        if value < 1024 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage, `-` when there is none.

    Examples
    --------
    >>> percent(0.1234), percent(None)
    ('12.34 %', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f} %"


def milliseconds(value: float | None) -> str:
    """Return a time given in milliseconds with three digits, `-` when there is none.

    Examples
    --------
    >>> milliseconds(0.01234), milliseconds(1234.6), milliseconds(None)
    ('0.0123 ms', '1235 ms', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 6)}f} ms"


def duration(seconds: float) -> str:
    """Return a time given in seconds.

    Examples
    --------
    >>> duration(3.21), duration(75), duration(7384)
    ('3.2 s', '1 min 15 s', '2 h 03 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as `256 x 64`.

    Examples
    --------
    >>> shape_text((256, 64)), shape_text(())
    ('256 x 64', 'scalar')
    """
    return " x ".join(map(str, shape)) or "scalar"


def printable(text: str) -> str:
    r"""Return `text` with every character that a terminal would act on, or could not show, written as an escape.

    Examples
    --------
    >>> printable("layers.0.weight"), printable("a\x1b[2Jb")
    ('layers.0.weight', 'a\\x1b[2Jb')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, length: int) -> str:
    """Return `text` in at most `length` characters (but at least 4), the middle left out: both ends of a name tell.

    Examples
    --------
    >>> shortened("encoder.layer.11.output.dense.weight", 20)
    'encoder....se.weight'
    """
    if len(text) <= max(length, 4):
        return text
    kept = max(length, 4) - 3
    return text[: kept // 2] + "..." + text[len(text) - (kept - kept // 2) :]


def document(value: Any) -> str:
    """Return `value` as one JSON document; NaN and infinity, which JSON lacks, become null.

    Examples
    --------
    >>> print(document({"error": float("nan"), "shape": (2, 3)}))
    {
      "error": null,
      "shape": [
        2,
        3
      ]
    }
    """
    return json.dumps(finite(value), indent=2, allow_nan=False)
