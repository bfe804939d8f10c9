"""Examination of a target by an interpreter, which runs ``target_probe.py`` as the user of the workers.

The interpreter belongs to the user, so its answer is not trusted: it is limited in size and time, and only known fields
of the expected types are used.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError
from cluster_service.wire.signals import signal_name

from . import user_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.machine.identity import Identity

PROBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "target_probe.py")

SECONDS = 20.0
"""Default timeout for the answer of an interpreter, in seconds."""
MAX_TEXT = 20_000
"""Maximum length of one text in an answer, in characters."""
MAX_NAMES = 1000
_SAID = 300


def asked(
    python: str,
    kind: str,
    target: str,
    *,
    identity: Identity,
    cwd: str,
    environ: Mapping[str, str],
    timeout: float = SECONDS,
) -> Mapping[str, object]:
    """Return what *python* reports about *target*: see ``target_probe``. Blocking.

    *identity*: the user that runs it; *timeout*: seconds. Raises CommandError bad_request if the interpreter does not
    start, does not answer, or is older than 3.9.
    """
    module, _, attribute = target.partition("(")[0].partition(":")
    arguments = [kind, module, attribute] if kind == "app" else [kind, target.removeprefix("-m ")]
    out, err = _output(identity, [python, "-B", PROBE, *arguments], cwd, environ, timeout)
    lines = out.splitlines()
    try:
        answer = json.loads(lines[-1])
        major, minor = (int(part) for part in answer["version"])
        found = _checked(answer)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        said = (err.splitlines() or ["nothing"])[-1][:_SAID]
        if "future feature annotations" in said:
            raise CommandError("bad_request", f"{python} is an old Python: workers need 3.9 or newer") from None
        raise CommandError(
            "bad_request", f"{python} does not answer as a Python interpreter would: it said {said!r}"
        ) from None
    if (major, minor) < (3, 9):
        raise CommandError("bad_request", f"{python} is Python {major}.{minor}: workers need 3.9 or newer")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError("not a text, or too long")
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in value)


def _names(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return [_text(name)[:_SAID].replace("\n", " ") for name in value[:MAX_NAMES]]


_FIELDS: dict[str, Callable[[Any], object]] = {
    "broken": _text, "missing": _text, "file": _text, "near": _names, "names": _names,
}  # fmt: skip


def _checked(answer: Mapping[str, Any]) -> dict[str, object]:
    """Return the known fields of *answer*. Raises TypeError or ValueError for a field of another type."""
    return {name: check(answer[name]) for name, check in _FIELDS.items() if name in answer}


def _output(
    identity: Identity, argv: list[str], cwd: str, environ: Mapping[str, str], timeout: float
) -> tuple[str, str]:
    """Run an interpreter and return its output. Raises CommandError; on a timeout the whole session is killed."""
    try:
        done = user_programs.run_as(identity, argv, cwd=cwd, env=environ, seconds=timeout)
    except user_programs.Late:
        raise CommandError("bad_request", f"the interpreter {argv[0]} did not answer in {timeout:g} s") from None
    except user_programs.TooMuch:
        much = f"the interpreter {argv[0]} answered with more than {user_programs.MAX_OUTPUT_BYTES >> 20} MiB"
        raise CommandError("bad_request", much) from None
    except OSError as error:
        raise CommandError("bad_request", f"the interpreter {argv[0]} does not start: {error.strerror}") from None
    _, cannot, why = done.err.rstrip().rpartition(" cannot be run: ")
    if done.code == user_programs.CANNOT_RUN and cannot:
        if not os.path.exists(argv[0]):  # a virtual environment whose Python was removed
            why = "No such file or directory"
        raise CommandError("bad_request", f"the interpreter {argv[0]} does not start: {why[:_SAID]}")
    if done.code < 0:
        killed = f"the interpreter {argv[0]} was killed by {signal_name(-done.code)} before it answered"
        raise CommandError("bad_request", killed)
    return done.out, done.err
