"""A headless Chromium driven over its debugging pipe, for tests that open a page as a reader would."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # root may not have one, and the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# the protocol wants descriptors 3 and 4, which are others here
_PLACE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_PATIENCE = 300.0  # seconds for one answer; a busy machine takes long to start a browser


def executable() -> str | None:
    """Return the path of a Chromium, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A browser process; messages are JSON documents that end with a zero byte (the DevTools protocol)."""

    def __init__(self, path: str, profile: Path) -> None:
        read_theirs, self._write = os.pipe()
        self._read, write_theirs = os.pipe()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (read_theirs, write_theirs)]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-ISc",
                _PLACE,
                *map(str, high),
                path,
                *FLAGS,
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=high,
            start_new_session=True,
        )
        for descriptor in (read_theirs, write_theirs, *high):
            os.close(descriptor)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that arrive meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        """Return when an event of this name has arrived, which may be before."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._read, 1 << 16) if ready else b""
            if not data:
                raise RuntimeError("the browser does not answer" if not ready else "the browser has ended")
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(RuntimeError, OSError):
            self.call("Browser.close")
        for descriptor in (self._write, self._read):
            os.close(descriptor)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Tab:
    """A page that is open: what it said while it was opened, and what it looks like."""

    def __init__(self, browser: Browser, target: str) -> None:
        self.browser, self.target = browser, target
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the page."""
        return self.browser.call(method, self.session, **parameters)

    def show(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open an address in a window of this size and with this colour scheme."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.browser.events.clear()
        error = self.call("Page.navigate", url=url).get("errorText")
        if error:
            raise RuntimeError(f"{url}: {error}")
        self.browser.wait_for("Page.loadEventFired")
        # the event may be that of the empty page before
        self.value("new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))")
        self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")  # drawn, and all is told

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of the promise that it is."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    @property
    def complaints(self) -> list[str]:
        """What the console shows: errors, warnings and whatever else the page or the browser says."""
        told = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"}
        return [json.dumps(event["params"]) for event in self.browser.events if event.get("method") in told]

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for."""
        events = [event for event in self.browser.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in events]

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def opened(path: str, profile: Path) -> Iterator[Tab]:
    """Start a browser with one empty page, and end it."""
    browser = Browser(path, profile)
    try:
        yield Tab(browser, browser.call("Target.createTarget", url="about:blank")["targetId"])
    finally:
        browser.close()
