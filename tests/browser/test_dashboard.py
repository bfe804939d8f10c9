"""The dashboard of a running service in a real browser: what a person sees there, and does."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.browser.watching import PIDS, address, entered, fill, idle, until_operation, until_workers, web
from tests.tools import releases
from tests.tools.doors import KEY, audited, keys
from tests.tools.ports import free_port
from tests.tools.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tools.browser import Browser, Page


def test_the_key_is_asked_for_and_kept_only_if_wished(browser: Browser, key_file: Path) -> None:
    door = free_port()
    with idle(door, key_file, workers=1) as service:
        pids = service.serving(1)
        page = browser.open(address(door))
        page.until("document.activeElement.id === 'key'", "the field for the key")
        page.type("not the key")
        page.press("Enter")
        page.until("!document.getElementById('sign-in-error').hidden", "a refusal")
        assert "The access key is wrong." in page.text("#sign-in-error")
        assert not page.run("document.getElementById('live').checkVisibility()")
        page.type(KEY)
        page.press("Enter")
        until_workers(page, pids)
        assert "ok · 1 of 1 serving" in page.text("#health")
        page.go(address(door))
        page.until("document.activeElement.id === 'key'", "the field for the key, since it was kept nowhere")
        page.type(KEY)
        page.click("#keep")
        page.click("button", "Open")
        until_workers(page, pids)
        page.go(address(door))
        until_workers(page, pids)
        page.click("button", "Forget the key")
        page.until("document.activeElement.id === 'key'", "the field for the key")
        assert page.run("sessionStorage.length + localStorage.length + document.cookie.length") == 0
        assert KEY not in page.run("document.documentElement.outerHTML + location.href")
        assert not any(str(pid) in page.text("body") for pid in pids)
        assert page.complaints() == []
        assert KEY not in service.log


def test_a_killed_worker_is_seen_to_be_replaced(browser: Browser, key_file: Path) -> None:
    door = free_port()
    with idle(door, key_file) as service:
        first, second = service.serving(2)
        page = entered(browser, door)
        until_workers(page, [first, second])
        cells = page.run("[...document.querySelector('#workers tbody tr').cells].map((cell) => cell.textContent)")
        assert cells[:2] == ["web.1", "serving (not listening)"]
        assert cells[5].endswith(" MB")
        assert cells[6].endswith(" %")
        assert cells[7:9] == ["0", "0"]
        os.kill(first, signal.SIGKILL)
        new = service.until_event("worker_ready", count=3)[-1]["pid"]
        until_workers(page, [new, second])
        page.until("document.querySelector('#events').textContent.includes('SIGKILL')", "the event")
        assert sorted(page.run(PIDS)) == sorted([str(new), str(second)])
        assert page.complaints() == []


def test_a_restart_with_the_keyboard_alone(browser: Browser, tmp_path: Path, key_file: Path) -> None:
    door = free_port()
    with web(releases.write(tmp_path / "v1", "v1", "app"), door, free_port(), key_file) as service:
        before = service.serving(2)
        page = entered(browser, door)
        until_workers(page, before)
        page.tab_to("Restart web")
        page.press("Enter")
        page.until("document.querySelector('dialog').open", "the question")
        assert "Restart web?" in page.text("dialog")
        assert "the group web (2 workers)" in page.text("dialog .sentence")
        page.press("Escape")
        page.until("!document.querySelector('dialog').open", "no question")
        page.press("Space")
        page.until("document.activeElement.textContent === 'Restart' && document.activeElement.closest('dialog')", "it")
        page.press("Enter")
        until_operation(page, "restart web", "done")
        page.until("document.getElementById('say').textContent.includes('restart web: done')", "it to be said")
        assert "2 of 2" in page.text("#current .pill")
        assert page.run("document.activeElement.ariaLabel") == "Restart web"
        after = service.serving(2)
        assert not set(before) & set(after)
        until_workers(page, after)
        assert [entry["command"] for entry in audited(service)] == ["restart"]  # Escape gave none
        assert page.complaints() == []


def test_an_upgrade_that_is_undone_says_why(browser: Browser, tmp_path: Path, key_file: Path) -> None:
    door = free_port()
    first = releases.write(tmp_path / "v1", "v1", "app")
    second = releases.write(tmp_path / "v2", "v2", "app", head='raise RuntimeError("no <b>database</b>")')
    with web(first, door, free_port(), key_file) as service:
        before = service.serving(2)
        page = entered(browser, door)
        page.click("button", "Upgrade…")
        assert page.run("document.querySelector('dialog [name=target]').value") == "main:app"
        fill(page, "cwd", "no/such/place")
        page.press("Enter")
        page.until("!document.querySelector('dialog .error').hidden", "a refusal, in the form")
        assert "no/such/place" in page.text("dialog .error")
        fill(page, "cwd", str(second))
        page.click("dialog button", "Upgrade")
        until_operation(page, "upgrade web", "undone")
        assert "RuntimeError: no <b>database</b>" in page.text("#current .reason")
        assert not page.run("document.querySelector('#live b b')")
        until_workers(page, before)
        assert str(first) in page.text("#groups")
        page.click("button", "Close")
        page.until("document.getElementById('current').hidden", "the report to be put away")
        page.click("#operations summary")
        assert "RuntimeError: no" in page.text("#operations details[open] .reason")
        assert service.serving(2) == before
        assert page.complaints() == []


def test_every_other_button(browser: Browser, tmp_path: Path, key_file: Path) -> None:
    door = free_port()
    first, second = (releases.write(tmp_path / version, version, "app") for version in ("v1", "v2"))
    with web(first, door, free_port(), key_file, workers=1) as service:
        service.serving(1)
        page = entered(browser, door)
        page.click("button", "Scale…")
        assert "has 1 worker now" in page.text("dialog .sentence")
        page.type("+1")
        page.click("dialog button", "Scale")
        until_operation(page, "scale +1", "done")
        until_workers(page, service.serving(2))

        page.click("button", "Upgrade…")
        fill(page, "cwd", str(second))
        fill(page, "monitor", "0s")
        page.click("dialog button", "Upgrade")
        until_operation(page, "upgrade web", "done")
        page.until(f"document.querySelector('#groups .runs').textContent.endsWith({str(second)!r})", "the new release")

        page.click("button", "Roll back")
        assert "back to the release that was promoted before" in page.text("dialog .sentence")
        page.click("dialog button", "Roll back")
        until_operation(page, "rollback", "done")
        page.until(f"document.querySelector('#groups .runs').textContent.endsWith({str(first)!r})", "the old release")

        page.click("button", "Upgrade…")
        fill(page, "cwd", str(second))
        fill(page, "monitor", "1h")
        page.click("dialog button", "Upgrade")
        page.until("document.querySelector('.stages [aria-current=step]').textContent === 'canary'", "the canary")
        page.click("button", "Cancel…")
        assert "every worker is put back on the code that it had" in page.text("dialog .sentence")
        page.click("dialog button", "Cancel the operation")
        until_operation(page, "upgrade web", "cancelled")

        page.click("button", "More…")
        page.click("dialog button", "reload")
        page.click("dialog [name=plan]")
        page.click("dialog button", "Give reload")
        page.until("document.querySelector('dialog pre')?.textContent.includes('changes')", "the plan")
        page.click("dialog button", "Close")

        page.click("button", "Shut down")
        assert "2 workers end gracefully, and the service ends with them" in page.text("dialog .sentence")
        assert page.run("document.activeElement.textContent") == "Go back"
        page.click("dialog button", "Shut the service down")
        assert service.ended() == 0
        page.until("document.getElementById('banner').textContent.includes('does not answer')", "the banner")
        assert page.complaints() == []


def test_the_service_goes_and_comes_back(browser: Browser, key_file: Path) -> None:
    door = free_port()
    with idle(door, key_file) as service:
        pids = service.serving(2)
        page = entered(browser, door)
        until_workers(page, pids)
        service.stop()
        page.until("!document.getElementById('banner').hidden", "the banner")
        assert "The service does not answer, since " in page.text("#banner")
    with idle(door, key_file) as service:
        until_workers(page, service.serving(2))
        page.until("document.getElementById('banner').hidden", "no banner")
        page.until("document.querySelector('#events').textContent.includes('operation_end')", "its events")
        assert page.run("document.querySelectorAll('#operations details').length") == 1
        assert service.cli("restart", "all").code == 0
        until_workers(page, service.serving(2))
        page.until("document.querySelector('#events').textContent.includes('restart all')", "its events")
        keys(key_file, "another key, and a longer one")
        os.kill(service.json("info")["master_pid"], signal.SIGKILL)
        page.until("!document.getElementById('sign-in').hidden", "the key to be asked for again")
        assert "The access key is wrong." in page.text("#sign-in-error")
        assert page.complaints() == []


STATUS = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
NOTIFIES = f"""
import os, signal, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1\\nSTATUS=" + {STATUS!r}.encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\\0"))
signal.pause()
"""


def test_what_the_service_says_is_text(browser: Browser, tmp_path: Path, key_file: Path) -> None:
    door, folder = free_port(), tmp_path / "<i>place<i>"
    folder.mkdir()
    (folder / "worker.py").write_text(NOTIFIES)
    options = ("-w", "1", "--port", str(door), "--access-key-file", str(key_file), "--ready-after", "60s")
    with Service(*options, "worker.py", cwd=folder) as service:
        service.serving(1)
        page = entered(browser, door)
        page.until(f"document.querySelector('#workers .state').textContent.includes({STATUS!r})", "the status")
        assert "<i>place<i>" in page.text("#groups .runs")
        (folder / "<img src=x>.py").write_text("raise RuntimeError('<img src=x>')\n")
        assert service.cli("upgrade", "all", "<img src=x>.py", "--cwd", str(folder)).code == 1
        page.until("document.querySelector('#current .reason').textContent.includes('<img src=x>')", "the reason")
        page.until("document.querySelector('#events').textContent.includes('state=undone')", "the events")
        assert page.run("document.querySelectorAll('img, i, [onerror]').length") == 0
        assert page.run("[...document.querySelectorAll('b')].every((one) => one.textContent !== 'bold')")
        assert "owned" not in page.run("document.title")
        assert page.complaints() == []


def test_only_what_the_key_may_do_is_offered(browser: Browser, tmp_path: Path) -> None:
    door, file = free_port(), tmp_path / "keys"
    keys(
        file,
        f"[keys.looks]\nkey = '{KEY}'\nallow = ['workers', 'health']\n"
        "[keys.restarts]\nkey = 'a key that may restart'\nallow = ['restart', 'workers']",
    )
    with idle(door, file) as service:
        pids = service.serving(2)
        page = entered(browser, door)
        until_workers(page, pids)
        assert page.text("#live button, #service-buttons button") == ""
        assert "may not follow the events" in page.text("#events")
        assert not page.run("document.getElementById('groups-section').checkVisibility()")
        page.click("button", "Forget the key")
        page.type("a key that may restart")
        page.press("Enter")
        until_workers(page, pids)
        assert page.text("#live button, #service-buttons button").split("\n") == ["Restart all", "Restart", "Restart"]
        page.click("button", "Restart all")
        page.click("dialog button", "Restart")
        until_operation(page, "restart all", "done")  # it may follow its own
        assert page.complaints() == []


def test_it_fits_a_phone_and_follows_the_scheme(browser: Browser, tmp_path: Path, key_file: Path) -> None:
    door, folder = free_port(), tmp_path / ("a-very-long-name-" * 6)
    folder.mkdir()
    with idle(door, key_file, cwd=folder) as service:
        pids = service.serving(2)
        page = entered(browser, door)
        until_workers(page, pids)
        for wide, scheme in ((360, "light"), (768, "dark"), (1280, "dark"), (1280, "light")):
            page.look(wide, 800, scheme)
            assert page.run("document.documentElement.scrollWidth") <= wide
            page.click("button", "Upgrade…")
            assert page.run("document.querySelector('dialog').getBoundingClientRect().right") <= wide
            page.click("dialog summary", "More settings")
            assert page.run("document.querySelector('dialog').scrollWidth") <= wide
            page.click("dialog button", "Go back")
            text, back = (brightness(page, name) for name in ("color", "backgroundColor"))
            assert (back > 600 and text < 200) if scheme == "light" else (back < 200 and text > 600)
        assert page.complaints() == []


def brightness(page: Page, name: str) -> int:
    """Of a color of the page, from 0 (black) to 765."""
    return sum(map(int, page.run(f"getComputedStyle(document.body).{name}").strip("rgb()").split(",")))
