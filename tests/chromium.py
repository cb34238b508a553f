"""A browser for tests: Chromium without a window, spoken to through a pair of pipes.

The DevTools protocol (https://chromedevtools.github.io/devtools-protocol) with nothing but the
standard library. One process serves all pages.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Without a font, a page has no text.
PACKAGES = ("chromium", "fonts-dejavu-core")
ELSEWHERE = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
#: Seconds until a silent browser is given up.
PATIENCE = 60.0


def find_or_install(names: Sequence[str] = NAMES, packages: Sequence[str] = PACKAGES) -> str:
    """Find a program, or install Debian's; of several processes, one does it and the others wait.

    Parameters
    ----------
    names : sequence of str
        What the program may be called.
    packages : sequence of str
        Debian's.

    Returns
    -------
    str
        Its path.
    """
    found = _find(names)
    if found:
        return found
    if shutil.which("apt-get") is None:
        raise RuntimeError(
            f"These tests need {packages[0]}: none of {', '.join(names)} is on the path, and there "
            "is no apt-get to install Debian's. Install it."
        )
    import fcntl

    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    with (Path(tempfile.gettempdir()) / "torchreg-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _find(names):
            for command in (
                ["update"],
                ["install", "-y", "--no-install-recommends", *packages],
            ):
                subprocess.run(
                    [*sudo, "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                )
    found = _find(names)
    if not found:
        raise RuntimeError(f"apt-get installed {packages[0]}, but {names[0]} is not on the path.")
    return found


def _find(names: Sequence[str]) -> str | None:
    paths = [shutil.which(name) for name in names]
    if names is NAMES:
        paths += [path for path in ELSEWHERE if os.access(path, os.X_OK)]
    return next((path for path in paths if path), None)


class Browser:
    """A running Chromium that can reach nothing but files.

    Parameters
    ----------
    program : str
    profile : Path
        An empty folder.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_it, from_us = os.pipe()
        from_it, to_us = os.pipe()
        # The browser reads from its file 3 and writes to its file 4. Numbers that are in the
        # way are moved out of it first.
        command = f'exec 13<&{to_it} 14>&{to_us}; exec 3<&13 4>&14; exec 13<&- 14>&-; exec "$@"'
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        with (profile / "messages.txt").open("wb") as messages:
            self.process = subprocess.Popen(
                ["bash", "-c", command, "chromium", program, *options],
                pass_fds=(to_it, to_us),
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
            )
        os.close(to_it)
        os.close(to_us)
        self.writes, self.reads = from_us, from_it
        self.buffer = b""
        self.count = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str, session: str) -> None:
        """Wait until an event has come."""
        while not any(
            e.get("method") == method and e.get("sessionId") == session for e in self.events
        ):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.reads], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(self.reads, 1 << 16) if ready else b""
            if not piece:
                raise RuntimeError("The browser does not answer.")
            self.buffer += piece
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        """End the process."""
        with suppress(Exception):
            self.call("Browser.close")
        os.close(self.writes)
        os.close(self.reads)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @contextmanager
    def page(self, path: Path, *, width: int = 1200, dark: bool = False) -> Iterator[Page]:
        """Open a file in a window so wide, with light or dark colors, and close it again."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=800,
                deviceScaleFactor=2 if width < 600 else 1,
                mobile=width < 600,
            )
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            page.call("Emulation.setEmulatedMedia", features=scheme)
            page.call("Page.navigate", url=path.as_uri())
            self.wait_for("Page.loadEventFired", session)
            yield page
        finally:
            self.call("Target.closeTarget", targetId=target)


class Page:
    """An open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command about this page."""
        return self.browser.call(method, self.session, **params)

    def evaluate(self, expression: str) -> Any:
        """Compute JavaScript in the page (this works where the page itself may run none)."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """Take a picture of the whole page, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """Print it, as its own style sheet says."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(printed["data"])

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            event["params"]
            for event in self.browser.events
            if event.get("sessionId") == self.session and event["method"] == method
        ]

    def complaints(self) -> list[str]:
        """List what the browser wrote to its console, and what went wrong in scripts."""
        logged = [entry["entry"]["text"] for entry in self._events("Log.entryAdded")]
        thrown = [e["exceptionDetails"]["text"] for e in self._events("Runtime.exceptionThrown")]
        said = [str(call["args"]) for call in self._events("Runtime.consoleAPICalled")]
        return logged + thrown + said

    def requests(self) -> list[str]:
        """List what the page asked for, the file itself first."""
        return [request["request"]["url"] for request in self._events("Network.requestWillBeSent")]
