"""SIGKILLs at random moments of a run: nothing torn, nothing committed done twice, the same bytes in the end.

Each round is a child process (a fork, so that it starts within a millisecond) that carries out a small run; it is
killed after a random time, and the next one takes up what it left. Rounds end with a run that may finish, whose output
is compared with that of a run in peace. A stand-in for the solver keeps the children busy with writing.

    python -m benchmarks.kills [--kills 300] [--seed 0] [--output results.json]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

import sparsefact as sf
from benchmarks import record
from sparsefact.checkpoints import job as job_module
from sparsefact.checkpoints.journal import JOURNAL_NAME, Journal
from sparsefact.checkpoints.plan import Plan, plan
from sparsefact.checkpoints.run import run
from sparsefact.checkpoints.verify import verify
from sparsefact.io.write import write_tensors


def identity_beside(A: Any, constraint: Any, solver: Any = None, **_: Any) -> sf.Factorization:
    """Keep the largest entries that fit beside an identity: exact work, and nearly none."""
    side = min(A.shape)
    kept = np.zeros(A.size, A.dtype)
    order = np.argsort(-np.abs(A).reshape(-1), kind="stable")[: constraint.budget - side]
    kept[order] = A.reshape(-1)[order]
    one, rest = sparse.csr_array(np.eye(side, dtype=A.dtype)), sparse.csr_array(kept.reshape(A.shape))
    return sf.Factorization([one, rest] if A.shape[0] == side else [rest, one], target=A, constraint=constraint)


def _child(work: Plan, output: Path, log: Path) -> None:
    """Carry out the run; every matrix that is begun leaves a byte in a log."""

    def note(event: Any) -> None:
        if event.kind == "start":
            with log.open("ab") as file:
                file.write(f"{event.index}\n".encode())

    run(work, output, on_event=note)


def _fork(work: Plan, output: Path, log: Path, after: float | None) -> bool:
    """Return whether a child, killed after so many seconds, came to its end before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _child(work, output, log)
            code = 0
        finally:
            os._exit(code)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status) != 0:
        raise SystemExit("a run that was not killed failed")
    return True


def digest(output: Path) -> str:
    """Return one SHA-256 of the names and bytes of an output, without the journal, which tells times."""
    if output.is_file():
        return hashlib.sha256(output.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for path in sorted(output.iterdir()):
        if path.name != JOURNAL_NAME:
            total.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def committed(folder: Path) -> list[str]:
    """Return the names of the matrices that a journal counts as committed."""
    path = folder / JOURNAL_NAME
    return [e["name"] for e in Journal.open(path).entries if e["kind"] == "committed"] if path.exists() else []


def measure(kills: int, seed: int, *, matrices: int = 12, size: int = 48) -> dict[str, Any]:
    """Kill until the count is reached, over as many outputs as it takes; raise if anything is lost."""
    job_module.factorize = identity_beside
    job_module.product_times = lambda A, F: (1.0, 2.0)
    os.fsync = lambda descriptor: None  # a kill, unlike a loss of power, loses nothing that the kernel has
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    done = rounds = recomputed = finished_first = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tensors = {f"layer.{i}.weight": rng.standard_normal((size, size)).astype("float32") for i in range(matrices)}
        write_tensors(folder / "model.safetensors", {**tensors, "bias": np.ones(1000, "float32")})
        work = plan(folder / "model.safetensors", density=0.5)
        run(work, folder / "warm")  # what is loaded and compiled on first use is so in every child
        began = time.perf_counter()
        if not _fork(work, folder / "peace", folder / "peace.log", None):
            raise SystemExit("the run in peace was killed")
        whole = time.perf_counter() - began
        expected = digest(folder / "peace")
        single = folder / "peace.safetensors"
        _fork(work, single, folder / "peace.log", None)
        expected_single = digest(single)
        while done < kills:
            rounds += 1
            alone = rounds % 3 == 0
            output = folder / (f"round-{rounds}" + (".safetensors" if alone else ""))
            place = output.with_name(output.name + ".partial") if alone else output
            log = folder / f"round-{rounds}.log"
            log.touch()
            while done < kills:
                before, lines = set(committed(place)), log.read_text().splitlines()
                ended = _fork(work, output, log, draw.uniform(0, whole))
                begun = {int(line) for line in log.read_text().splitlines()[len(lines) :]}
                recomputed += len({work.targets[index].name for index in begun} & before)
                if ended:
                    finished_first += 1
                    break
                done += 1
            _fork(work, output, log, None)
            if digest(output) != (expected_single if alone else expected) or place.exists() == alone:
                raise SystemExit(f"round {rounds} ended with other bytes")
            if not verify(output, against=folder / "model.safetensors").ok:
                raise SystemExit(f"round {rounds} does not verify")
            leftovers = [
                path.name for path in folder.rglob("*") if path.suffix == ".tmp" or path.name.endswith(".lock")
            ]
            if leftovers or recomputed:
                raise SystemExit(f"round {rounds}: left {leftovers}, recomputed {recomputed}")
    return {
        "kills": done,
        "outputs": rounds,
        "ended before the kill": finished_first,
        "committed matrices recomputed": recomputed,
        "seconds of a run in peace": whole,
        "all outputs equal and verified": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    record.add_options(parser)
    arguments = parser.parse_args()
    results = measure(arguments.kills, arguments.seed)
    print(results)
    record.finish("kills", results, arguments)


if __name__ == "__main__":
    main()
