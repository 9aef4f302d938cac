"""Runs scripts, each in a process of its own, forked from one that has imported what takes long.

The package itself is not imported there: each script loads of it what it asks for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PARENT = """
import os, runpy, sys, traceback
import numba, numpy, scipy.linalg, scipy.sparse.linalg

for line in sys.stdin:
    folder, script, output = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            told = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for here, there in ((nothing, 0), (told, 1), (told, 2)):
                os.dup2(here, there)
            os.chdir(folder)
            sys.argv, sys.path[0] = [script], folder
            runpy.run_path(script, run_name="__main__")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Scripts:
    """A process to fork from; warnings are errors in its children."""

    def __init__(self) -> None:
        self.parent: subprocess.Popen[str] | None = None

    def run(self, script: Path) -> tuple[int, str]:
        """Run a script in its folder; return its exit code and what it printed."""
        if not hasattr(os, "fork"):
            command = [sys.executable, "-W", "error", str(script)]
            done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True)
            return done.returncode, done.stdout + done.stderr
        if self.parent is None:
            command = [sys.executable, "-W", "error", "-c", _PARENT]
            self.parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.parent.stdin is not None and self.parent.stdout is not None
        output = script.with_suffix(".output")
        print(script.parent, script, output, sep="\t", file=self.parent.stdin, flush=True)
        code = self.parent.stdout.readline()
        return int(code or 1), output.read_text(encoding="utf-8")

    def close(self) -> None:
        """End the process."""
        if self.parent is not None:
            self.parent.communicate()
