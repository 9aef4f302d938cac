"""Safetensors headers that lie: each lie has its sentence, none costs much, and nothing else ever escapes."""

from __future__ import annotations

import contextlib
import json
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sparsefact.errors import FormatError
from sparsefact.io.header import parse_header
from sparsefact.io.tensor_file import TensorFile

# A busy machine is slow, and that is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PLACE = Path("a.safetensors")


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


DATA = bytes(range(8))
GOOD = entry()
LIES = {
    "nothing": (b"", "has 0 bytes"),
    "seven bytes": (b"\x01" * 7, "has 7 bytes.*truncated"),
    "a length beyond the limit": (b"\xff" * 64, "promise a header of 18,446,744,073,709,551,615 bytes.*100,000,000"),
    "a length beyond the file": (file_of({}, length=3), "promise a header of 3 bytes, but only 2 follow.*truncated"),
    "a length of zero": (file_of(b""), "'{' must stand"),
    "a blank first": (file_of(b" {}"), "'{' must stand"),
    "a list": (file_of([]), "'{' must stand"),
    "text after the end": (file_of(b"{} x"), "nothing but blanks"),
    "an open object": (file_of(b"{"), "its end where the name of a tensor"),
    "an open name": (file_of(b'{"a'), "the name of a tensor, a JSON string"),
    "a bare name": (file_of(b"{a:1}"), "the name of a tensor, a JSON string"),
    "a control character": (file_of(b'{"a\n":1}'), "the name of a tensor, a JSON string"),
    "half a surrogate": (file_of(b'{"\\ud800":1}'), "the name of a tensor, a JSON string"),
    "surrogates in the wrong order": (file_of(b'{"\\udc00\\ud800":1}'), "the name of a tensor, a JSON string"),
    "no colon": (file_of(b'{"a" 1}'), "':'"),
    "a trailing comma": (file_of(b'{"__metadata__":{},}'), "the name of a tensor"),
    "bytes that are not UTF-8": (file_of(b'{"\xff":1}'), "not UTF-8"),
    "UTF-8 cut off": (file_of(b'{"\xe2\x82'), "not UTF-8"),
    "UTF-16": (file_of(json.dumps({"a": GOOD}).encode("utf-16-le"), DATA), "the header at byte 9"),
    "a name twice": (
        file_of(b'{"a":' + json.dumps(GOOD).encode() + b',"\\u0061":' + json.dumps(GOOD).encode() + b"}", DATA),
        "names the tensor 'a' twice",
    ),
    "a tensor that is a list": (file_of({"a": [GOOD]}, DATA), "the entry of tensor 'a', a flat JSON object"),
    "a tensor with an object inside": (file_of({"a": entry(shape={"x": 1})}, DATA), "a flat JSON object"),
    "an endless entry": (file_of({"a": entry(shape=[1] * 900)}, DATA), "at most 2,048 bytes"),
    "broken JSON inside": (file_of(b'{"a":{"dtype":}}'), "tensor 'a' is not valid JSON"),
    "a field twice": (
        file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}}', DATA),
        "a field stands there twice",
    ),
    "a field missing": (file_of({"a": {"dtype": "F32", "shape": [2]}}, DATA), "has the fields dtype, shape, and"),
    "a field more": (file_of({"a": entry(more=1)}, DATA), "has the fields dtype, shape, data_offsets, more"),
    "an unknown dtype": (file_of({"a": entry("F31")}, DATA), "has the dtype 'F31', and it must be one of F64, F32"),
    "a dtype that is a number": (file_of({"a": entry(3)}, DATA), "has the dtype 3"),
    "a dtype that is null": (file_of({"a": entry(None)}, DATA), "has the dtype null"),
    "a shape that is a number": (file_of({"a": entry(shape=2)}, DATA), "has the shape 2, and it must be a list"),
    "a shape of fractions": (file_of({"a": entry(shape=[2.0])}, DATA), r"has the shape \[2.0\]"),
    "a shape of truths": (file_of({"a": entry("U8", [True, 8])}, DATA), r"has the shape \[true, 8\]"),
    "a negative shape": (file_of({"a": entry(shape=[-1, -2])}, DATA), r"has the shape \[-1, -2\]"),
    "minus zero": (file_of(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), r"has the shape \[0\]"),
    "not a number": (file_of(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'), r"the shape \[NaN\]"),
    "a product that overflows": (file_of({"a": entry(shape=[2**32, 2**32])}, DATA), r"fewer than 2\*\*63 bytes"),
    "an overflow hidden by a zero": (file_of({"a": entry(shape=[2**40, 0, 2**40], offsets=[0, 0])}), r"2\*\*63 bytes"),
    "a huge number": (file_of({"a": entry(shape=[10**400, 0], offsets=[0, 0])}), r"fewer than 2\*\*63 bytes"),
    "a number without end": (
        file_of(b'{"a":{"dtype":"F32","shape":[1' + b"0" * 1900 + b'],"data_offsets":[0,8]}}', DATA),
        r"fewer than 2\*\*63 bytes",
    ),
    "too many dimensions": (file_of({"a": entry("U8", [1] * 65, [0, 1])}, b"x"), "has 65 dimensions"),
    "one offset": (file_of({"a": entry(offsets=[0])}, DATA), r"data_offsets \[0\]"),
    "three offsets": (file_of({"a": entry(offsets=[0, 4, 8])}, DATA), r"data_offsets \[0, 4, 8\]"),
    "offsets backwards": (file_of({"a": entry(offsets=[8, 0])}, DATA), r"data_offsets \[8, 0\]"),
    "offsets beyond the data": (file_of({"a": entry(offsets=[0, 8])}, DATA[:7]), "within the 7 bytes of data"),
    "offsets of text": (file_of({"a": entry(offsets=["0", "8"])}, DATA), "data_offsets"),
    "a size that is not the shape's": (file_of({"a": entry(shape=[3])}, DATA), r"8 bytes of data, .* \[3\] take 12"),
    "a hole": (file_of({"a": entry(shape=[1], offsets=[4, 8])}, DATA), "leaves a hole before it.*begin at 0"),
    "an overlap": (
        file_of({"a": entry(), "b": entry(shape=[1], offsets=[4, 8])}, DATA),
        "tensor 'b' begins at data byte 4 and overlaps .*begin at 8",
    ),
    "the same bytes twice": (
        file_of({"a": entry(), "b": entry()}, DATA),
        "tensor 'b' begins at data byte 0 and overlaps",
    ),
    "data left over": (file_of({"a": entry()}, DATA + b"x"), "take 8 bytes of data, but the file holds 9"),
    "metadata that is a list": (file_of({"__metadata__": []}), "'__metadata__', an object of strings"),
    "metadata that is null": (file_of({"__metadata__": None}), "'__metadata__', an object of strings"),
    "metadata of numbers": (file_of({"__metadata__": {"k": 1}}), "the metadata text of 'k'"),
    "metadata twice": (file_of(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' twice"),
    "a metadata key twice": (file_of(b'{"__metadata__":{"k":"a","k":"b"}}'), "the key 'k' twice"),
    "a name without end": (file_of({"n" * 140_000: GOOD}, DATA), "the name of a tensor, .* at most 65,536 bytes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_each_lie_has_its_sentence(tmp_path, lie):
    content, words = LIES[lie]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=f"(?s)a.safetensors: .*{words}") as caught:
        TensorFile(path)
    sentence = str(caught.value)
    assert len(sentence) < 800
    assert sentence.isprintable()


def test_names_cannot_flood_or_colour_the_terminal():
    with pytest.raises(FormatError) as caught:
        parse_header(file_of({"\x1b[31m\n" + "n" * 60_000: entry("F31")}, DATA), PLACE)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_blanks_anywhere_and_padding_are_allowed():
    header = b'{ \n"a"\t: {"dtype" :"F32","shape":[ 2 ],"data_offsets": [0,8]}\r , "__metadata__" : { "k" : "v" } }   '
    parsed = parse_header(file_of(header, DATA), PLACE)
    assert parsed.tensors["a"].shape == (2,)
    assert list(parsed.metadata) == ["k"]


# Whatever the bytes are: a FormatError, or the same reading as the safetensors package.


def agrees(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        file = TensorFile(path)
    except FormatError as error:
        assert str(error).isprintable()
        return False
    with file:
        theirs = dict(safetensors.deserialize(content))
        assert set(theirs) == set(file.names)
        for name, found in theirs.items():
            info = file.info(name)
            assert (info.dtype, list(info.shape)) == (found["dtype"], found["shape"])
            assert file.read(name).tobytes() == bytes(found["data"])
            assert b"".join(file.pieces(name)) == bytes(found["data"])
        with safetensors.safe_open(path, framework="np") as other:
            assert (other.metadata() or {}) == file.metadata
    return True


VALID = safetensors.numpy.save(
    {"layer.weight": np.arange(6, dtype="float32").reshape(2, 3), "layer.bias": np.arange(3, dtype="int16")},
    {"format": "np", "é": '"\\\n'},
)
# Bytes that mean something in a header are likelier to make a lie that looks true.
TELLING = st.sampled_from(list(b'{}[]",:\\0123456789-.eE+ \nuFBIU_\x00\xff'))
EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "cut", "repeat"]), st.integers(0, len(VALID)), TELLING),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "a.safetensors"


def test_the_file_that_is_mutated_is_valid(place):
    assert agrees(place, VALID)


@settings(PATIENT, max_examples=400)
@given(edits=EDITS, fix=st.booleans())
def test_mutated_bytes_are_refused_or_read_as_the_package_reads_them(place, edits, fix):
    content = bytearray(VALID)
    length = int.from_bytes(VALID[:8], "little")
    for kind, at, byte in edits:
        before = len(content)
        if kind == "set" and at < len(content):
            content[at] = byte
        elif kind == "insert":
            content.insert(at, byte)
        elif kind == "delete":
            del content[at : at + 1]
        elif kind == "cut":
            del content[at:]
        elif kind == "repeat":
            content[at:at] = content[at : at + byte % 16]
        if 8 <= at < 8 + length:
            length += len(content) - before
    if fix and len(content) >= 8:
        content[:8] = max(length, 0).to_bytes(8, "little")
    agrees(place, bytes(content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**66) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.integers(0, 26) | st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, -1])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I16", "BF16", "U8", "F8_E4M3", "F4", "f32"]) | JSON,
        "shape": st.lists(NUMBERS, max_size=3) | JSON,
        "data_offsets": st.tuples(NUMBERS, NUMBERS) | JSON,
    },
    optional={"extra": JSON},
)


@settings(PATIENT, max_examples=300)
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", "", "é\x00"]),
        ENTRIES | JSON | st.dictionaries(st.text(max_size=2), st.text(max_size=3), max_size=2),
        max_size=3,
    ),
    size=st.integers(0, 26),
    padding=st.text(" \n\t", max_size=3),
)
@example(header={"a": entry("U8", [3], [0, 3]), "b": entry("I16", [0, 5], [3, 3])}, size=3, padding="")
@example(header={"a": entry("U8", [0], [3, 3]), "b": entry("U8", [3], [0, 3])}, size=3, padding="")
@example(header={"a": entry("U8", [], [0, 1]), "__metadata__": {"": "\u2028"}}, size=1, padding=" ")
def test_generated_headers_are_refused_or_read_as_the_package_reads_them(place, header, size, padding):
    agrees(
        place,
        file_of(json.dumps(header, ensure_ascii=False).encode("utf-8", "replace") + padding.encode(), bytes(size)),
    )


@PATIENT
@given(content=st.binary(max_size=80))
def test_random_bytes_are_refused_or_read_as_the_package_reads_them(place, content):
    agrees(place, content)


# The dearest headers there are, as large as the format allows, must not cost much.

LARGEST = 100_000_000
WIDE = "\U0001f600"


def tensors(names: Iterable[str]) -> bytes:
    listed = (f'"{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for name in names)
    return ("{" + ",".join(listed) + "}").encode()


COSTLY: dict[str, Callable[[], bytes]] = {
    "brackets": lambda: b'{"a":' + b"[" * (LARGEST - 5),
    "an entry of brackets": lambda: b'{"a":{"shape":' + b"[" * 2000 + b"}",
    "objects": lambda: b'{"a":' * (LARGEST // 5),
    "blanks": lambda: b"{" + b" " * (LARGEST - 1),
    "a long name": lambda: b'{"' + b"a" * (LARGEST - 6) + b'":1}',
    "metadata of escapes": lambda: b'{"__metadata__":{"a":"' + b"\\n" * (LARGEST // 2 - 20) + b'"}}',
    "wide metadata": lambda: b'{"__metadata__":{"a":"' + WIDE.encode() * 24_000_000 + b'"}}',
    "many metadata keys": lambda: b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(110_000)) + b"}}",
    "many tensors": lambda: tensors(f"{i}" for i in range(70_000)),
    "tensors with wide names": lambda: tensors(f"{WIDE * 230}{i}" for i in range(30_000)),
    "as many tensors as are read": lambda: tensors(f"model.layers.{i}.mlp.experts.weight" for i in range(65_536)),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_the_largest_headers_cost_little(kind):
    header = COSTLY[kind]()
    content = file_of(header)
    assert len(header) <= LARGEST
    allowed = contextlib.nullcontext() if kind == "as many tensors as are read" else pytest.raises(FormatError)
    begin = time.process_time()
    with allowed:
        parse_header(content, PLACE)
    # About 1 s on a slow machine; the slack is for a busy one.
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("kind", ["tensors with wide names", "metadata of escapes"])
def test_the_largest_headers_take_little_memory(kind):
    content = file_of(COSTLY[kind]())
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            parse_header(content, PLACE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150_000_000
