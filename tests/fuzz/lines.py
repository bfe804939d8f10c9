"""Command lines: at ``POST /cli``, in a console that reads from a pipe, as arguments of cservice, and parsed alone."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

from cluster_service.commands import arguments
from cluster_service.commands.registry import COMMANDS
from cluster_service.errors import CommandError
from tests.tools.service import CSERVICE, DEADLINE

from .hostile import values
from .oracles import Broken, strict
from .subject import KEY, NAME, READS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from .subject import Subject

WORDS = (
    "--json", "--count", "--group", "--no-wait", "--timeout", "-n", "-", "--", "---", "=", "--=", "--x=", "all",
    "web.1", "1.1", "+1", "-1", "{}", '{"a":', '{"a": 1}', "{" * 50, "'", '"', "\\", "''", '"a b"',
    "#", "$(id)", "`id`", ";", "|", "&&", "*", "~",
    "name:value", "count:3", "count:nan", "a:b:c", "10s", "-5s", "1e400s", "5 parsecs", "\u00a0", "\u0663",
)  # fmt: skip
NOT_HERE = ("--follow", "-f", *(name for name in COMMANDS.names() if name not in READS))
"""Words that would follow for ever, or change the service: they stay out of what is performed."""
LINE_SECONDS = 2.0
"""The longest time that reading one line may take."""
CODES = {*range(130), 130, 141}
ACTUAL = 2
"""Lines of a batch that a process of cservice of its own gets as arguments."""


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """Lines, and for each one way to give it."""
    names = COMMANDS.names()
    for number in range(count):
        alone = random.random() < 0.4
        words = [random.choice(names if alone else READS)] if random.random() < 0.9 else []
        more = random.choice((0, 1, 2, 4, 30))
        words += [random.choice(WORDS) if random.random() < 0.6 else values.text(random)[:300] for _ in range(more)]
        if random.random() < 0.05:
            words.append(random.choice((" {", " {}", "' ", '\\"', "a:")) * random.choice((100, 20000)))
        line = random.choice((" ", " ", "  ", "\t")).join(words)
        if random.random() < 0.15:
            line = values.garble(random, line.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        acts = any(word in line for word in NOT_HERE)
        how = "alone" if alone or acts else "argv" if number < ACTUAL else random.choice(("cli", "console"))
        yield {"how": how, "line": line, "command": random.choice(names)}


def perform(subject: Subject, given: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Give the lines of a batch; return how many were taken, and the violations."""
    taken, found = 0, []
    for one in given:
        if one["how"] in ("alone", "cli"):
            ok, sentence = (_alone if one["how"] == "alone" else lambda one: _cli(subject, one))(one)
            taken += ok
            found += [sentence] if sentence else []
    console = "\n".join(one["line"].replace("\n", " ") for one in given if one["how"] == "console")
    processes = [([CSERVICE, "--name", NAME], console)]
    for one in given:
        if one["how"] == "argv":
            words = one["line"].replace("\0", "").encode("utf-8", "replace").decode().split(" ")
            processes.append(([CSERVICE, "--name", NAME, *words[:50]], ""))
    for command, text in processes:
        sentence = _process(command, text)
        taken += not sentence
        found += [sentence] if sentence else []
    return taken, found


def _alone(one: dict[str, Any]) -> tuple[bool, str]:
    """Read the line without a service: nothing but CommandError may come of it, and soon."""
    began = time.monotonic()
    ok = False
    try:
        words = arguments.split(one["line"])
        name = words[0] if words and words[0] in COMMANDS.names() else one["command"]
        arguments.from_words(COMMANDS.get(name), words[1:])
        ok = True
    except CommandError as error:
        strict_error(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return False, f"reading a line raises {error!r}: {one['line'][:300]!r}"
    seconds = time.monotonic() - began
    if seconds > LINE_SECONDS:
        return ok, f"reading a line of {len(one['line'])} characters took {seconds:.1f} s: {one['line'][:100]!r}"
    return ok, ""


def strict_error(error: CommandError) -> None:
    """An error has a code that is known, and a sentence."""
    if error.status < 400 or not error.message:
        raise Broken(f"an error without a status or a message: {error!r}")


def _cli(subject: Subject, one: dict[str, Any]) -> tuple[bool, str]:
    connection = http.client.HTTPConnection("127.0.0.1", subject.door_port, timeout=DEADLINE)
    try:
        body = one["line"].encode("utf-8", "surrogatepass")
        connection.request("POST", "/cli", body, {"Authorization": f"Bearer {KEY}", "Host": "localhost"})
        response = connection.getresponse()
        answer = response.read()
        if response.status == 500:
            return False, f"an internal error: {answer[:300]!r} for {one['line'][:300]!r}"
        strict(answer, f"the answer to {one['line'][:100]!r}")
        return response.status < 300, ""
    except Broken as broken:
        return False, str(broken)
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer: {error!r} for {one['line'][:300]!r}"
    finally:
        connection.close()


def _process(command: list[str], text: str) -> str:
    """Run cservice; return what is wrong with how it ended."""
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, input=text.encode("utf-8", "replace"), capture_output=True, timeout=DEADLINE, check=False, env=env
    )
    if done.returncode not in CODES or b"Traceback" in done.stderr:
        return f"{command[1:]} ended with {done.returncode}: {done.stderr[-600:]!r}"
    return ""
