"""A real Chromium, driven over its DevTools protocol by a pair of pipes: no port, no driver, no library.

    with Browser() as browser:
        page = browser.open("http://127.0.0.1:11987/")
        page.click("button", "Restart")
        page.until("document.querySelector('dialog').open", "the dialog")

Nobody polls: ``until`` leaves a promise in the page that is kept by the change of the document that makes it true.
Everything that Chromium writes lies in one directory, which is removed with it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEADLINE = 40.0
"""Seconds to wait for anything."""

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
"""The browser, or None when there is none."""

ARGUMENTS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-extensions", "--mute-audio", "--no-proxy-server",
)  # fmt: skip

PLACED = """
import os, sys
for pipe, aside in zip(sys.argv[1:3], (200, 201)):  # either may have the other's number
    os.dup2(int(pipe), aside)
os.dup2(200, 3)
os.dup2(201, 4)
os.closerange(5, 256)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the pipes at 3 and 4, where Chromium takes commands and answers, and becomes Chromium."""

LOADED = "Page.loadEventFired"

KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32}

UNTIL = """new Promise((resolve) => {
  const happened = () => { try { return %s; } catch { return false; } };
  if (happened()) return resolve(true);
  const observer = new MutationObserver(() => { if (happened()) { observer.disconnect(); resolve(true); } });
  observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
})"""

FIND = """[...document.querySelectorAll(%s)].find((one) =>
  one.checkVisibility() && (%s === null || one.textContent.trim() === %s))"""

Json = dict[str, Any]


class Browser:
    """The process."""

    def __enter__(self) -> Self:
        """Start it."""
        assert CHROMIUM is not None, "there is no Chromium"
        self.directory = Path(tempfile.mkdtemp(prefix="cs-browser-", dir="/tmp"))
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        place = str(self.directory)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DBUS_"))}
        environ |= {"HOME": place, "TMPDIR": place}
        pipes = (theirs_in, theirs_out)
        words = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={place}/profile", "about:blank"]
        with open(self.directory / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", PLACED, *map(str, pipes), *words],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=pipes,
            )
        for pipe in pipes:
            os.close(pipe)
        self._rest = b""
        self._last = 0
        self._said: list[Json] = []
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End it, and remove what it has written."""
        try:
            if kind is not None:
                print("--- Chromium\n" + (self.directory / "stderr").read_text(errors="replace")[-2000:])
            with contextlib.suppress(BrokenPipeError):  # it has ended by itself, which its test has noticed
                self.ask("Browser.close")
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._in)
            os.close(self._out)
            shutil.rmtree(self.directory, ignore_errors=True)

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> Json:
        """Give a command of the protocol and wait for its answer."""
        self._last += 1
        message: Json = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + DEADLINE
        while True:
            answer = self._read(end, method)
            if answer.get("id") == message["id"]:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                found: Json = answer["result"]
                return found
            self._said.append(answer)

    def said(self, session: str, method: str = "") -> list[Json]:
        """What the page of *session* has told by itself so far: everything, or what *method* names."""
        return [one for one in self._said if one.get("sessionId") == session and method in ("", one["method"])]

    def hear(self, happened: Callable[[], bool], what: str) -> None:
        """Listen to what the pages tell by themselves until *happened*."""
        end = time.monotonic() + DEADLINE
        while not happened():
            self._said.append(self._read(end, what))

    def open(self, url: str, *, width: int = 1200, height: int = 900, scheme: str = "light") -> Page:
        """A page of its own; *scheme*: light or dark."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        page.look(width, height, scheme)
        page.go(url)
        return page

    def _read(self, end: float, what: str) -> Json:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"Chromium has not answered {what} in {DEADLINE:.0f} s")
            part = os.read(self._in, 1 << 20)
            if not part:
                raise AssertionError(f"Chromium has ended before it answered {what}")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: Json = json.loads(message)
        return found


class Page:
    """One page, and what a person does there."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def ask(self, method: str, **parameters: Any) -> Json:
        """Give a command of the protocol to this page."""
        return self._browser.ask(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Load *url* to its end, as if its address were typed."""
        self._load(url, "Page.navigate", url=url)

    def leave(self, expression: str) -> None:
        """Run what leads to another page, and wait until that is loaded."""
        self._load(expression, "Runtime.evaluate", expression=expression)

    def _load(self, what: str, method: str, **parameters: Any) -> None:
        before = len(self._browser.said(self._session, LOADED))
        self.ask(method, **parameters)
        self._browser.hear(lambda: len(self._browser.said(self._session, LOADED)) > before, f"a page by {what}")

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Have a window of that size, and a user who likes the color *scheme*."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, expression: str) -> Any:
        """The value of *expression* in the page, awaited when it is a promise."""
        answer = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression: str, what: str) -> None:
        """Return as soon as *expression* is true in the page."""
        try:
            self.run(UNTIL % expression)
        except AssertionError as error:
            raise AssertionError(f"waited for {what}, but {error}\n{self.text('body')}") from None

    def text(self, selector: str) -> str:
        """What the elements show, one a line."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.innerText).join('\\n')"
        return str(self.run(found))

    def click(self, selector: str, text: str | None = None) -> None:
        """Press the left button of the mouse over the first element to be seen, with that *text* and no other."""
        found = FIND % (json.dumps(selector), json.dumps(text), json.dumps(text))
        self.until(f"Boolean({found})", f"{selector} {text or ''}")
        at = self.run(
            f"(() => {{ const one = {found}; one.scrollIntoView({{ block: 'center' }});"
            " const box = one.getBoundingClientRect();"
            " return { x: box.x + box.width / 2, y: box.y + box.height / 2 }; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def type(self, text: str) -> None:
        """Type *text* where the focus is."""
        self.ask("Input.insertText", text=text)

    def press(self, key: str, times: int = 1) -> None:
        """Press a key of ``KEYS``."""
        text = {"Enter": "\r", "Space": " "}.get(key)
        more: Mapping[str, Any] = {"text": text} if text else {}
        for _ in range(times):
            shared = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **shared, **more)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **shared)

    def tab_to(self, label: str) -> None:
        """Press Tab until the element of that text, or ARIA label, has the focus; a round is enough."""
        focused = "(document.activeElement.ariaLabel ?? document.activeElement.textContent).trim()"
        seen = []
        for _ in range(200):
            self.press("Tab")
            seen.append(self.run(focused))
            if seen[-1] == label:
                return
        raise AssertionError(f"Tab never leads to {label}: {seen[:60]}")

    def complaints(self) -> list[str]:
        """What went wrong in the page: exceptions, and what its policy forbade; not the answers of the network."""
        found = []
        for said in self._browser.said(self._session):
            told = said["params"]
            if said["method"] == "Runtime.exceptionThrown":
                found.append(str(told["exceptionDetails"]))
            elif said["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
                found.append(str(told["args"]))
            elif said["method"] == "Log.entryAdded" and told["entry"]["source"] != "network":
                found.append(told["entry"]["text"])
        return found

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what is to be seen, or the *whole* page, as PNG."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
