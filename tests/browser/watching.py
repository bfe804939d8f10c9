"""What the tests of the dashboard look for in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.tools import releases
from tests.tools.doors import KEY
from tests.tools.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tools.browser import Browser, Page

PIDS = "[...document.querySelectorAll('#workers tbody tr')].map((row) => row.cells[2].textContent)"


LOCAL = ("--trust-loopback",)
"""The browser is on this machine, and gives commands."""


def web(folder: Path, door: int, port: int, key_file: Path, workers: int = 2) -> Service:
    """A service of an app in *folder*, on *port*, with its door at *door*."""
    options = (
        "-w",
        str(workers),
        "--port",
        str(door),
        "--access-key-file",
        str(key_file),
        "--ready-after",
        "60s",
        *LOCAL,
    )
    return Service(*options, "--bind", f"127.0.0.1:{port}", *releases.target(folder, "app"), cwd=folder)


def idle(door: int, key_file: Path, workers: int = 2, cwd: Path | None = None) -> Service:
    """A service of workers that do nothing, which costs less."""
    options = (
        "-w",
        str(workers),
        "--port",
        str(door),
        "--access-key-file",
        str(key_file),
        "--ready-after",
        "50ms",
        *LOCAL,
    )
    return Service(*options, "--", "sleep", "1000", cwd=cwd)


def address(door: int) -> str:
    return f"http://127.0.0.1:{door}/"


def entered(browser: Browser, door: int, key: str = KEY, **look: Any) -> Page:
    """The dashboard, where the key was typed."""
    page = browser.open(address(door), **look)
    page.until("document.activeElement.id === 'key'", "the field for the key")
    page.type(key)
    page.press("Enter")
    page.until("!document.getElementById('live').hidden", "the page")
    return page


def until_workers(page: Page, pids: list[int]) -> None:
    """Wait until the table shows these workers, and they serve."""
    wanted = [str(pid) for pid in pids]
    page.until(
        f"{PIDS}.sort().join() === {wanted}.sort().join()"
        " && [...document.querySelectorAll('#workers .state')]"
        ".every((cell) => ['serving', 'serving (not listening)'].includes(cell.textContent))",
        f"the workers {pids}",
    )


def until_operation(page: Page, command: str, state: str) -> None:
    """Wait until the operation in sight is *command*, and in that *state*."""
    page.until(
        f"document.querySelector('#current h2').textContent.startsWith({command!r})"
        f" && document.querySelector('#current .pill').dataset.state === {state!r}",
        f"{command}: {state}",
    )


def fill(page: Page, name: str, text: str) -> None:
    """Type *text* into the field of that *name* instead of what it holds."""
    page.run(f"(() => {{ const one = document.querySelector('dialog [name={name}]'); one.focus(); one.select(); }})()")
    page.type(text)
