"""The checks that solvers share for their hyper-parameters, with one sentence for each kind."""

from __future__ import annotations

import math
from typing import Any

from sparsefact.errors import ArgumentError

__all__ = ["check_count", "check_depth", "check_non_negative", "check_penalty"]


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not an integer of at least `least`; True and False are not integers here."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ArgumentError(f"{name}={value!r} is not allowed; pass an integer that is at least {least}")


def check_non_negative(name: str, value: Any) -> None:
    """Refuse what is not a finite number of at least 0."""
    if not (value >= 0 and math.isfinite(value)):
        raise ArgumentError(f"{name}={value!r} is not allowed; pass a number that is at least 0")


def check_depth(value: Any) -> None:
    """Refuse a number of factors that is not an integer of at least 2."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise ArgumentError(
            f"depth={value!r} is not allowed; pass an integer that is at least 2, since one factor alone is "
            "plain weight decay and gives no zeros"
        )


def check_penalty(value: Any) -> None:
    """Refuse a penalty that is not a positive number."""
    if isinstance(value, (bool, str)) or not (value > 0 and math.isfinite(value)):
        raise ArgumentError(
            f"penalty={value!r} is not allowed; pass a positive number, the weight of sum |W|^(2/depth)"
        )
