"""A JSON object from a stranger, read field by field: each one that is not what it must be is one sentence."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from sparsefact.errors import FormatError
from sparsefact.io.failure import quoted

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Fields"]

_LARGEST_DIMENSION = 1 << 32
_LARGEST_NUMBER = sys.float_info.max

_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}


class Fields:
    """A JSON object from a stranger, read field by field."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: the record is {_kind(value)}, but it must be an object")
        self._value = value
        self._where = where

    def required(self, key: str, kind: type) -> Any:
        """Return a value that must be there and of one of the types that JSON has."""
        if key not in self._value:
            raise FormatError(f"{self._where}: the record has no {key!r}")
        value = self._value[key]
        # JSON's true is not a number, although Python's is.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FormatError(f"{self._where}: {key!r} is {_kind(value)}, but it must be {_NAMES[kind]}")
        return value

    def optional(self, key: str, kind: type) -> Any:
        """Return a value of a type, or None where it is null or missing."""
        return None if self._value.get(key) is None else self.required(key, kind)

    def choice(self, key: str, allowed: Collection[str]) -> str:
        """Return one of the allowed strings."""
        value: str = self.required(key, str)
        if value not in allowed:
            raise FormatError(f"{self._where}: {key!r} is {quoted(value)}, but it must be one of {', '.join(allowed)}")
        return value

    def count(self, key: str) -> int:
        """Return an integer from 0 to 2**63 - 1."""
        value: int = self.required(key, int)
        if not 0 <= value < 1 << 63:
            raise FormatError(f"{self._where}: {key!r} is outside the range 0 to 2**63 - 1")
        return value

    def shape(self) -> tuple[int, int]:
        """Return the shape of a matrix."""
        value = self.required("shape", list)
        if len(value) != 2 or not all(type(n) is int and 0 <= n <= _LARGEST_DIMENSION for n in value):
            raise FormatError(f"{self._where}: 'shape' must be two integers from 0 to 2**32")
        return value[0], value[1]

    def error(self, key: str) -> float | None:
        """Return a relative error, or None where it is null or missing."""
        if type(self._value.get(key)) is int:
            return float(self.count(key))
        value: float | None = self.optional(key, float)
        if value is not None and not 0.0 <= value < math.inf:
            raise FormatError(
                f"{self._where}: {key!r} is {value}, but a relative error is a finite number >= 0 or null"
            )
        return value

    def number(self, key: str) -> float:
        """Return a finite number >= 0."""
        return self._finite(key, self._value.get(key))

    def numbers(self, key: str, most: int) -> tuple[float, ...]:
        """Return a list of at most so many finite numbers >= 0."""
        listed: list[Any] = self.required(key, list)
        if len(listed) > most:
            raise FormatError(f"{self._where}: {key!r} has {len(listed)} entries, but it can have {most} at most")
        return tuple(self._finite(key, value) for value in listed)

    def _finite(self, key: str, value: Any) -> float:
        # an integer may have more digits than a float has range
        if type(value) not in (int, float) or not 0 <= value <= _LARGEST_NUMBER:
            raise FormatError(f"{self._where}: {key!r} must hold finite numbers >= 0, and nothing else")
        return float(value)


def _kind(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)
