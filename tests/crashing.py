"""Solvers for the tests of workers: they travel to other processes, leave a mark there, and may kill them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sparsefact as sf
from sparsefact.checkpoints import job
from sparsefact.io.stream import write_streamed


def _written_and_dead(*given: Any) -> Any:
    write_streamed(*given)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Noted(sf.Alternating):
    """Alternating that notes each matrix it is given in a file, waits a little, and kills its process now and then.

    At once; or, if `late`, when the factors are on the disk and nobody has been told.
    """

    log: str = ""
    kills: int = 0
    wait: float = 0.0
    late: bool = False

    def init(self, problem: Any, warm: Any = None) -> Any:
        shape = "x".join(map(str, problem.matrix.shape))
        with Path(self.log).open("a") as file:
            file.write(f"{shape} {os.getpid()}\n")
        time.sleep(self.wait)
        tries = sum(line.startswith(shape + " ") for line in Path(self.log).read_text().splitlines())
        if tries <= self.kills and problem.matrix.shape[0] == 20:
            if self.late:
                job.write_streamed = _written_and_dead
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().init(problem, warm)
