"""The header of a safetensors file: read piece by piece, every promise checked before a byte of data is trusted.

The file is 8 bytes (little-endian length of the header), the header (a JSON object in UTF-8) and the data area, which
the tensors tile without holes or overlaps (https://github.com/huggingface/safetensors, "Format"). A JSON parser would
build a tree some thirty times the size of a hostile header; here each entry is cut out by a regular expression that
does not backtrack, and only the entry goes to the parser, so the cost is bounded by the limits below.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any

from sparsefact.errors import FormatError
from sparsefact.io.dtypes import DTYPES
from sparsefact.io.failure import quoted

__all__ = ["Header", "TensorInfo", "parse_header", "string_at"]

MAX_HEADER = 100_000_000  # the format's own limit, in bytes
MAX_ENTRIES = 65_536  # tensors, and metadata keys
MAX_LIST = 24_000_000  # bytes of all tensor entries together
MAX_METADATA = 32_000_000  # bytes of metadata
MAX_NAME = 65_536  # bytes of one name
MAX_DIMENSIONS = 64  # NumPy's

_SPACE = re.compile(rb"[ \t\r\n]*+")
# A JSON string without unpaired surrogates, which are no Unicode text.
_TEXT = (
    rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    rb'|(?![dD][89a-fA-F])[0-9a-fA-F]{4}))[^"\\\x00-\x1f]*+)*+"'
)
_STRING = re.compile(_TEXT)
_KEY = re.compile(rb"[ \t\r\n]*+(" + _TEXT + rb")[ \t\r\n]*+:[ \t\r\n]*+")
_NEXT = re.compile(rb"[ \t\r\n]*+([,}])")
_ENTRY = re.compile(rb"\{[^{}]{0,2046}+\}")
_FIELDS = {"dtype", "shape", "data_offsets"}
_INTEGER = {int}  # not bool
_SIZES = {code: dtype.itemsize for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says about one tensor.

    Attributes
    ----------
    name : str
        Its name in the file.
    dtype : str
        The safetensors code of its element type, for example ``"F32"`` or ``"BF16"``.
    shape : tuple of int
        Its shape.
    nbytes : int
        Its size in bytes.
    offset : int
        Where its first byte lies, counted from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """A validated header: the tensors in the order of the file, and where the texts of the metadata lie.

    Attributes
    ----------
    tensors : mapping of str to TensorInfo
        Every tensor by its name.
    metadata : mapping of str to (int, int)
        For each key, where its JSON string begins and ends in the file.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, tuple[int, int]]


def parse_header(buffer: mmap | bytes, path: Path) -> Header:
    """Validate the header of a safetensors file completely.

    Parameters
    ----------
    buffer : mmap or bytes
        The whole file. Only the header is touched.
    path : Path
        The file's name, for the sentences.

    Returns
    -------
    Header
        Tensors whose bytes are known to lie in the file and to fit their shape and type.

    Raises
    ------
    FormatError
        If anything at all is not as the format demands, with what was found and what is allowed.

    Notes
    -----
    Beyond the format, a file may hold at most 65,536 tensors of at most 64 dimensions, 24 MB of tensor entries and
    32 MB of metadata, and no entry may have fields of its own.
    """
    return _Parser(buffer, path).parse()


def string_at(buffer: mmap | bytes, begin: int, end: int) -> str:
    """Return the text of the JSON string in bytes `begin` to `end`, which has been validated.

    Parameters
    ----------
    buffer : mmap or bytes
        The whole file.
    begin, end : int
        The string with its quotes.

    Returns
    -------
    str
        Its text, with escapes resolved.
    """
    raw = buffer[begin:end]
    text: str = json.loads(str(raw, "utf-8")) if b"\\" in raw else str(raw[1:-1], "utf-8")
    return text


class _Parser:
    """A cursor over the header's bytes."""

    def __init__(self, buffer: mmap | bytes, path: Path) -> None:
        self.buffer = buffer
        self.path = path
        self.size = len(buffer)
        self.at = 8
        self.end = 8
        self.decoder = json.JSONDecoder(object_pairs_hook=_unique)

    def fail(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what}")

    def damaged(self, wanted: str) -> FormatError:
        found = quoted(bytes(self.buffer[self.at : min(self.at + 24, self.end)]).decode("latin-1"))
        if self.at >= self.end:
            found = "its end"
        return self.fail(f"the header at byte {self.at} holds {found} where {wanted} must stand; the file is damaged")

    def parse(self) -> Header:
        self.find()
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, tuple[int, int]] | None = None
        listed = 0
        self.at += 1
        more = not self.takes("}")
        while more:
            before = self.at
            name = self.key("the name of a tensor")
            if name == "__metadata__":
                if metadata is not None:
                    raise self.fail("the header has the key '__metadata__' twice, and each key may stand there once")
                metadata = self.texts()
            else:
                if name in tensors:
                    raise self.fail(f"the header names the tensor {quoted(name)} twice, and each name must be unique")
                tensors[name] = self.tensor(name)
                listed += self.at - before
                if len(tensors) > MAX_ENTRIES:
                    raise self.fail(f"the header lists more than {MAX_ENTRIES:,} tensors, the most that is read")
                if listed > MAX_LIST:
                    raise self.fail(f"the header's list of tensors takes more than {MAX_LIST:,} bytes, the most read")
            more = self.continues()
        self.skip()
        if self.at != self.end:
            raise self.damaged("nothing but blanks")
        self.check_tiling(tensors)
        return Header(tensors, metadata or {})

    def find(self) -> None:
        """Set where the header ends, after looking at its length, first byte and encoding."""
        if self.size < 8:
            raise self.fail(
                f"the file has {self.size} bytes, and a safetensors file begins with 8 bytes that tell the length of "
                f"its header; it is truncated or of another kind"
            )
        length = int.from_bytes(self.buffer[:8], "little")
        if length > MAX_HEADER:
            raise self.fail(
                f"the first 8 bytes promise a header of {length:,} bytes, and at most {MAX_HEADER:,} are allowed; the "
                f"file is damaged or not a safetensors file"
            )
        if length > self.size - 8:
            raise self.fail(
                f"the first 8 bytes promise a header of {length:,} bytes, but only {self.size - 8:,} follow; the file "
                f"is truncated or not a safetensors file"
            )
        self.end = 8 + length
        if length == 0 or self.buffer[8] != ord("{"):
            raise self.damaged("'{'")
        decoder = codecs.getincrementaldecoder("utf-8")()
        for begin in range(8, self.end, 1 << 16):
            piece = self.buffer[begin : min(begin + (1 << 16), self.end)]
            try:
                decoder.decode(piece, final=begin + (1 << 16) >= self.end)
            except UnicodeDecodeError as error:
                raise self.fail(f"the header is not UTF-8 text near byte {begin + error.start}") from None

    def skip(self) -> None:
        blanks = _SPACE.match(self.buffer, self.at, self.end)
        self.at = blanks.end() if blanks else self.at

    def takes(self, mark: str) -> bool:
        self.skip()
        found = self.at < self.end and self.buffer[self.at] == ord(mark)
        self.at += found
        return found

    def continues(self) -> bool:
        """Step over ',' (True) or over the closing brace (False)."""
        match = _NEXT.match(self.buffer, self.at, self.end)
        if match is None:
            raise self.damaged("',' or '}'")
        self.at = match.end()
        return match.group(1) == b","

    def key(self, what: str) -> str:
        """Read ``"key" :`` and return the key."""
        match = _KEY.match(self.buffer, self.at, min(self.at + MAX_NAME, self.end))
        if match is None:
            raise self.damaged(f"{what}, a JSON string of at most {MAX_NAME:,} bytes, and ':'")
        self.at = match.end()
        return string_at(self.buffer, *match.span(1))

    def texts(self) -> dict[str, tuple[int, int]]:
        """Read the value of ``__metadata__``: one object of strings."""
        spans: dict[str, tuple[int, int]] = {}
        last = min(self.at + MAX_METADATA, self.end)
        if not self.takes("{"):
            raise self.damaged("'{' for '__metadata__', an object of strings,")
        more = not self.takes("}")
        while more:
            key = self.key("a metadata key")
            if key in spans:
                raise self.fail(f"the metadata has the key {quoted(key)} twice, and each key may stand there once")
            match = _STRING.match(self.buffer, self.at, last)
            if match is None and self.buffer[self.at] == ord('"') and last < self.end:
                raise self.fail(f"the metadata takes more than {MAX_METADATA:,} bytes, the most that is read")
            if match is None:
                raise self.damaged(f"the metadata text of {quoted(key)}, a JSON string,")
            self.at = match.end()
            spans[key] = match.span()
            if len(spans) > MAX_ENTRIES:
                raise self.fail(f"the metadata has more than {MAX_ENTRIES:,} keys, the most that is read")
            more = self.continues()
        return spans

    def tensor(self, name: str) -> TensorInfo:
        """Read and check ``{"dtype": ..., "shape": [...], "data_offsets": [begin, end]}``."""
        match = _ENTRY.match(self.buffer, self.at, self.end)
        if match is None:
            raise self.damaged(f"the entry of tensor {quoted(name)}, a flat JSON object of at most 2,048 bytes,")
        raw = match.group()
        try:
            entry, _ = self.decoder.raw_decode(str(raw, "utf-8"))
        except (ValueError, RecursionError) as error:
            reason = str(error).split(" (char")[0].split(": line")[0]
            raise self.fail(f"the entry of tensor {quoted(name)} is not valid JSON: {reason}") from None
        self.at = match.end()
        if entry.keys() != _FIELDS:
            raise self.wrong(name, f"has the fields {_listed(entry)}", "they must be dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        itemsize = _SIZES.get(dtype) if isinstance(dtype, str) else None
        if itemsize is None:
            raise self.wrong(name, f"has the dtype {_shown(dtype)}", f"it must be one of {', '.join(DTYPES)}")
        # JSON's -0 reads as 0, yet it is no unsigned integer.
        if not _counts(shape) or b"-" in raw:
            raise self.wrong(name, f"has the shape {_shown(shape)}", "it must be a list of integers of at least 0")
        if len(shape) > MAX_DIMENSIONS:
            raise self.wrong(name, f"has {len(shape)} dimensions", f"at most {MAX_DIMENSIONS} are read")
        needed = math.prod(shape) * itemsize
        # A zero hides dimensions whose product NumPy cannot hold.
        largest = needed or math.prod(d for d in shape if d) * itemsize
        if largest >= 2**63:
            raise self.wrong(name, f"has the shape {_shown(shape)}", "it must count fewer than 2**63 bytes")
        available = self.size - self.end
        if not _counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= available:
            raise self.wrong(
                name,
                f"has the data_offsets {_shown(offsets)}",
                f"they must be two integers, the first no larger than the second, within the {available:,} bytes of "
                f"data in the file, so the file is truncated or damaged",
            )
        begin, end = offsets
        if end - begin != needed:
            found = f"has {end - begin:,} bytes of data"
            raise self.wrong(name, found, f"its dtype {dtype} and shape {_shown(shape)} take {needed:,}")
        return TensorInfo(name, dtype, tuple(shape), needed, self.end + begin)

    def wrong(self, name: str, found: str, allowed: str) -> FormatError:
        return self.fail(f"tensor {quoted(name)} {found}, and {allowed}")

    def check_tiling(self, tensors: Mapping[str, TensorInfo]) -> None:
        reached = self.end
        for info in sorted(tensors.values(), key=lambda info: (info.offset, info.nbytes)):
            if info.offset != reached:
                kind = "overlaps the tensor before it" if info.offset < reached else "leaves a hole before it"
                begin, wanted = info.offset - self.end, reached - self.end
                raise self.wrong(info.name, f"begins at data byte {begin:,} and {kind}", f"it must begin at {wanted:,}")
            reached += info.nbytes
        if reached != self.size:
            raise self.fail(
                f"the tensors take {reached - self.end:,} bytes of data, but the file holds {self.size - self.end:,}, "
                f"and the tensors must fill it; the file is damaged"
            )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands there twice")
    return fields


def _counts(value: object) -> bool:
    return type(value) is list and (not value or (set(map(type, value)) == _INTEGER and min(value) >= 0))


def _shown(value: object) -> str:
    return quoted(value) if isinstance(value, str) else quoted(json.dumps(value))[1:-1]


def _listed(names: Mapping[str, Any]) -> str:
    return quoted(", ".join(names))[1:-1] or "(none)"
