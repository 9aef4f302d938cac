"""Mutated headers, hostile index files and flipped bits: each a clean error (or a file that is whole), fast and small.

A few minutes on one core.

    python -m benchmarks.hostile_files [--headers 100000] [--flips 1000] [--output results.json] [--no-record]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from sparsefact.checkpoints.plan import plan
from sparsefact.checkpoints.recipe import Recipe, Rule
from sparsefact.checkpoints.run import run
from sparsefact.checkpoints.verify import verify
from sparsefact.errors import SparsefactError
from sparsefact.io.checkpoint import open_checkpoint
from sparsefact.io.tensor_file import TensorFile
from sparsefact.io.write import write_tensors

_PIECES = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"9" * 30, b"-1", b"null", b"1e999", b"\x00", b"\xff", b"\\ud800"]


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """Return a file with something wrong in its header, or in the length of it."""
    data = bytearray(raw)
    end = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(min(end, len(data)))
        kind = draw.randrange(5)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.randrange(256)
        elif kind == 2:
            data[at:at] = draw.choice(_PIECES)
        elif kind == 3:
            del data[at : at + draw.choice((1, 2, 7, 60))]
        else:
            data[: draw.choice((1, 4, 8))] = draw.randbytes(draw.choice((1, 4, 8)))
    return bytes(data)


HOSTILE_INDEXES: dict[str, Any] = {
    "nothing": b"",
    "a number": b"7",
    "a list": b"[]",
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "no map": b"{}",
    "an empty map": {"weight_map": {}},
    "a map of numbers": {"weight_map": {"w": 3}},
    "a list of names": {"weight_map": ["w"]},
    "out of the folder": {"weight_map": {"w": "../outside.safetensors"}},
    "an absolute path": {"weight_map": {"w": "/etc/passwd"}},
    "a backslash": {"weight_map": {"w": "..\\outside.safetensors"}},
    "a null byte": {"weight_map": {"w": "a\0.safetensors"}},
    "the folder": {"weight_map": {"w": "."}},
    "a pickle": {"weight_map": {"w": "model.bin"}},
    "a device": {"weight_map": {"w": "zero.safetensors"}},
    "a link out": {"weight_map": {"w": "link.safetensors"}},
    "a missing shard": {"weight_map": {"w": "missing.safetensors"}},
    "another tensor": {"weight_map": {"v": "a.safetensors"}},
    "a key twice": b'{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}',
    "not UTF-8": b'{"weight_map": {"\xff": "a.safetensors"}}',
    "huge": b'{"weight_map": {' + b" " * 33_000_000 + b"}}",
    "many commas": b'{"x": [' + b"1," * 1_500_000 + b"1]}",
    "a huge number": b'{"weight_map": ' + b"9" * 100_000 + b"}",
}


def check_indexes(folder: Path) -> dict[str, Any]:
    """Open a checkpoint with each hostile index; raise if one is taken for sound or takes long."""
    (folder / "model").mkdir(parents=True)
    write_tensors(folder / "outside.safetensors", {"w": np.ones(3)})
    write_tensors(folder / "model" / "a.safetensors", {"w": np.ones(3)})
    (folder / "model" / "model.bin").write_bytes(b"\x80\x04.")
    (folder / "model" / "zero.safetensors").symlink_to("/dev/zero")
    (folder / "model" / "link.safetensors").symlink_to("../outside.safetensors")
    slowest = 0.0
    for name, content in HOSTILE_INDEXES.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "model" / "model.safetensors.index.json").write_bytes(raw)
        begin = time.perf_counter()
        try:
            open_checkpoint(folder / "model").close()
        except SparsefactError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                raise SystemExit(f"{name}: the error is not one sentence: {str(error)[:200]!r}") from error
        else:
            raise SystemExit(f"{name}: the index was accepted")
        slowest = max(slowest, time.perf_counter() - begin)
    return {"hostile indexes": len(HOSTILE_INDEXES), "slowest index, seconds": slowest}


def check_headers(folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Open files with mutated headers; raise if anything but a clean error or a sound file comes of one."""
    draw = random.Random(seed)
    path = folder / "model.safetensors"
    tensors = {"a.weight": np.ones((3, 4), "float32"), "b": np.zeros((0, 2)), "c.ids": np.arange(5)}
    write_tensors(path, tensors, {"sparsefact": '{"format":1}'})
    raw = path.read_bytes()
    refused, slowest = 0, 0.0
    for _ in range(count):
        # a new file each time: overwriting one makes some file systems wait for the disk
        path.unlink()
        path.write_bytes(mutated(raw, draw))
        begin = time.perf_counter()
        try:
            with TensorFile(path) as file:
                for name in file.names:
                    file.read(name).sum()
                _ = file.metadata
        except SparsefactError as error:
            refused += 1
            if "\n" in str(error):
                raise SystemExit(f"the error is not one line: {error}") from error
        slowest = max(slowest, time.perf_counter() - begin)
    return {"mutated headers": count, "refused": refused, "slowest header, seconds": slowest}


def check_flips(folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Flip bits of an output, one at a time, every second one in a header; raise if `verify` misses one."""
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    tensors = {f"layer.{i}.weight": rng.standard_normal((40, 32), "float32") for i in range(3)}
    write_tensors(folder / "model.safetensors", {**tensors, "bias": np.arange(40.0)})
    rule = Rule(options={"outer": 5})
    run(plan(folder / "model.safetensors", recipe=Recipe((rule,), total=0.5)), folder / "out")
    files = sorted((folder / "out").iterdir())
    whole = {path: path.read_bytes() for path in files}
    in_headers = 0
    for number in range(count):
        path = files[number % len(files)]
        data = bytearray(whole[path])
        head = 8 + int.from_bytes(data[:8], "little") if path.suffix == ".safetensors" else len(data)
        in_header = path.suffix == ".safetensors" and number // len(files) % 2 == 0
        bit = draw.randrange(8 * (head if in_header else len(data)))
        in_headers += path.suffix == ".safetensors" and bit < 8 * head
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        if verify(folder / "out").ok:
            raise SystemExit(f"bit {bit} of {path.name} is flipped, and verify found nothing")
        path.write_bytes(whole[path])
    if not verify(folder / "out").ok:
        raise SystemExit("the output without flipped bits does not verify")
    return {"flipped bits": count, "found": count, "of them in headers": in_headers, "files": len(files)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headers", type=int, default=100_000)
    parser.add_argument("--flips", type=int, default=1000)
    record.add_options(parser)
    arguments = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as name:
        results = check_indexes(Path(name)) | check_headers(Path(name), arguments.headers)
    results["memory added, bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    with tempfile.TemporaryDirectory() as name:
        results |= check_flips(Path(name), arguments.flips)
    print(results)
    record.finish("hostile_files", results, arguments)


if __name__ == "__main__":
    main()
