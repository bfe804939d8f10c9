"""The line that says why a program ended is found in real outputs, which ``output`` holds as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster_service.core.rules.exit_causes import EXCERPT_LINES, error_line, excerpt

OUTPUT = Path(__file__).parent / "output"
TELLING = {
    "caddy": "Error: unknown flag: --confg",
    "caddy-file": "Error: reading config file: open /nonexistent.json: no such file or directory",
    "go-fatal": "2026/11/30 02:02:35 listen tcp 127.0.0.1:19998: bind: address already in use",
    "go-panic": "panic: assignment to entry in nil map",
    "gunicorn": "ModuleNotFoundError: No module named 'nosuch'",
    "java": 'Caused by: java.lang.NumberFormatException: For input string: "x"',
    "java-class": "Caused by: java.lang.ClassNotFoundException: Nosuch",
    "nginx": (
        '2026/11/30 02:02:43 [emerg] 27012#27012: open() "/nonexistent.conf" failed (2: No such file or directory)'
    ),
    "nginx-bind": (
        "2026/11/30 02:02:43 [emerg] 27018#27018: bind() to 1.2.3.4:80 failed (99: Cannot assign requested address)"
    ),
    "node-inuse": "Error: listen EADDRINUSE: address already in use :::19999",
    "node-missing": "Error: Cannot find module 'expres'",
    "node-reject": (
        "UnhandledPromiseRejection: This error originated either by throwing inside of an async function without a "
        "catch block, or by rejecting a promise which was not handled with .catch(). The promise rejected with the "
        'reason "no connection".'
    ),
    "node-syntax": "SyntaxError: Unexpected token ';'",
    "node-throw": "Error: DATABASE_URL is not set",
    "npm": (
        "npm error enoent Could not read package.json: Error: ENOENT: no such file or directory, "
        "open '/srv/app/package.json'"
    ),
    "php": "PHP Fatal error:  Uncaught RuntimeException: DATABASE_URL is not set in /srv/app/main.php:1",
    "php-parse": 'PHP Parse error:  syntax error, unexpected token ";" in /srv/app/parse.php on line 1',
    "python-argp": "serve: error: argument --port: invalid int value: 'x'",
    "python-chained": "NoSettings: no settings for this host",
    "python-group": "ExceptionGroup: 2 services failed (2 sub-exceptions)",
    "python-multi": "ValueError: cannot connect:",
    "python-plain": "KeyError: 'DATABASE_URL'",
    "python-richtb": "RuntimeError: DATABASE_URL is not set",
    "python-synt": "SyntaxError: invalid syntax",
    "python-threadx": "RuntimeError: feed lost",
    "python-typ": "No such option: --prot (Possible options: --port)",
    "python-uv": "RuntimeError: settings are incomplete",
    "ruby": "main.rb:1:in `connect': DATABASE_URL is not set (ArgumentError)",
    "rust-error": 'Error: Os { code: 98, kind: AddrInUse, message: "Address already in use" }',
    "rust-panic": "PORT must be set: NotPresent",
}


def lines_of(name: str) -> list[str]:
    return (OUTPUT / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def test_each_output_has_its_line() -> None:
    assert {path.stem for path in OUTPUT.iterdir()} == set(TELLING)


@pytest.mark.parametrize("name", sorted(TELLING))
def test_the_line_that_tells(name: str) -> None:
    assert error_line(lines_of(name)) == TELLING[name]


@pytest.mark.parametrize("name", sorted(TELLING))
def test_the_excerpt_is_short_and_holds_that_line(name: str) -> None:
    kept = excerpt(lines_of(name))
    assert len(kept) <= EXCERPT_LINES
    assert any(TELLING[name] in line for line in kept)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ""),
        (["", "  ", "}"], ""),
        (["INFO:     Started server process [1]"], ""),
        (["ready", "cannot open the queue"], "cannot open the queue"),
        (["ValueError: handled", "FATAL: no license for this host"], "FATAL: no license for this host"),
        (["╭─ Error ─╮", "│ no such host │", "╰─────────╯"], "no such host"),
        (["a table | of | values"], "a table | of | values"),
        (["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "Quota", "bye"], "Quota"),
    ],
)
def test_short_outputs(lines: list[str], expected: str) -> None:
    assert error_line(lines) == expected


def test_time_is_linear_in_what_a_worker_writes() -> None:
    hostile = ["|" * 500, "a:" * 250, "Error" * 100, " " * 500, "x.py:1:in `" + "'" * 480, '  File "' + '"' * 480] * 10
    assert error_line(hostile) is not None
