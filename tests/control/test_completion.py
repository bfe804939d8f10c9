"""What may be written next, and what it means."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.cli.completion import Asked, Choices, complete, split, usage
from cluster_service.client.client import connect
from cluster_service.commands.registry import BUILT_IN, COMMANDS, Command, Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.control.machine import Running

GREET = Command(
    "greet",
    "Greet somebody.",
    lambda _service: {},
    (
        Parameter("name", "string", "whom", positional=True),
        Parameter("manner", "choice", "how", positional=True, choices=("warmly", "coldly")),
        Parameter("loud", "flag", "shout"),
        Parameter("words", "text", "what else", many=True, short="-x"),
    ),
    custom=True,
)


class Fixed:
    """Two groups, three workers, two operations."""

    def commands(self) -> Sequence[Command]:
        return [*COMMANDS.all(), GREET]

    def workers(self) -> Sequence[dict[str, Any]]:
        rows = [("web", 1, 4711, "serving"), ("web", 2, 4799, "starting"), ("jobs", 1, None, "waiting")]
        return [dict(zip(("group", "slot", "pid", "state"), row, strict=True)) for row in rows]

    def operations(self) -> Sequence[dict[str, Any]]:
        return [
            {"id": "8", "command": "upgrade all v2.py", "state": "running"},
            {"id": "7", "command": "restart all", "state": "done"},
        ]


OFFERS = Fixed()


def found(line: str) -> list[str]:
    return [choice.text for choice in complete(*split(line), OFFERS).found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", [*BUILT_IN, "greet"]),
        ("re", [name for name in BUILT_IN if name.startswith("re")]),
        ("restart ", ["all", "web", "jobs", "web.1", "web.2", "jobs.1"]),
        ("restart w", ["web", "web.1", "web.2"]),
        ("restart 47", ["4711", "4799"]),
        ("restart 479", ["4799"]),
        ("restart all --t", ["--timeout"]),
        ("restart all --timeout ", []),
        ("restart all --timeout 5 --", ["--no-wait"]),
        ("restart --timeout 5 j", ["jobs", "jobs.1"]),
        ("restart all no_wait:", ["no_wait:true", "no_wait:false"]),
        ("rollback ", ["all", "web", "jobs"]),
        ("scale 4 ", ["web", "jobs"]),
        ("operations ", ["8", "7"]),
        ("cancel ", ["8"]),
        ("help gr", ["greet"]),
        ("exit ", ["now"]),
        ("upgrade all v2.py --server ", ["uvicorn", "granian"]),
        ("upgrade all v2.py --server=g", ["--server=granian"]),
        ("upgrade all v2.py server:u", ["server:uvicorn"]),
        ("greet ", []),
        ("greet Ann ", ["warmly", "coldly"]),
        ("greet 'Ann and Bob' w", ["warmly"]),
        ("greet Ann warmly -x a -", ["--name", "--manner", "--loud", "--words"][2:]),
        ("greet Ann warmly ", ["--loud", "--words"]),
        ("nosuch ", []),
    ],
)
def test_what_may_come_next(line: str, expected: list[str]) -> None:
    assert found(line) == expected


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("upgrade all ", "files"),
        ("upgrade all v2.py ", "directories"),
        ("upgrade all v2.py --test sm", "files"),
        ("upgrade all v2.py --test=sm", "files"),
        ("start -- node ser", "files"),
        ("restart ", ""),
    ],
)
def test_where_files_may_stand(line: str, files: str) -> None:
    assert complete(*split(line), OFFERS).files == files


def test_choices_say_what_they_are() -> None:
    docs = {choice.text: choice.doc for choice in complete(["restart"], "", OFFERS).found}
    assert docs["web"] == "2 workers"
    assert docs["web.1"] == "serving (pid 4711)"
    assert docs["jobs.1"] == "waiting"
    assert complete(["cancel"], "", OFFERS).found[0].doc == "upgrade all v2.py"


@pytest.mark.parametrize("command", BUILT_IN)
def test_every_command_can_be_completed_word_by_word(command: str) -> None:
    words = [command]
    for _ in range(12):
        choices = complete(words, "", OFFERS)
        assert isinstance(choices, Choices)
        assert usage(words, "", OFFERS.commands()).startswith(COMMANDS.get(command).usage)
        words.append(choices.found[0].text if choices.found else "x")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ""),
        ("s", "start  scale  shutdown"),
        ("restart", "restart all|GROUP|SLOT|PID [TIMEOUT]: "),
        ("restart ", "restart all|GROUP|SLOT|PID [TIMEOUT]   all|GROUP|SLOT|PID: which workers"),
        ("restart all ", "restart all|GROUP|SLOT|PID [TIMEOUT]   TIMEOUT: how long"),
        ("restart all --no-wait", "restart all|GROUP|SLOT|PID [TIMEOUT]   --no-wait: do not wait"),
        ("restart all --timeout ", "restart all|GROUP|SLOT|PID [TIMEOUT]   --timeout: how long"),
        ("restart all 5 ", "restart all|GROUP|SLOT|PID [TIMEOUT]: "),
        ("nosuch ", ""),
    ],
)
def test_help_as_it_is_typed(line: str, expected: str) -> None:
    text = usage(*split(line), OFFERS.commands())
    assert text.startswith(expected)
    assert bool(text) == bool(expected)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("line", "words", "current"),
    [
        ("", [], ""),
        ("a", [], "a"),
        ("a ", ["a"], ""),
        ("a  b c", ["a", "b"], "c"),
        ("a 'b c", ["a"], "b c"),
        ('a "b c" d', ["a", "b c"], "d"),
        (r"a b\ c", ["a"], "b c"),
        ("a '' b", ["a", ""], "b"),
        (r"""a "it's" 'a\b' """, ["a", "it's", r"a\b"], ""),
        ("a b\\", ["a"], "b"),
    ],
)
def test_lines_that_are_not_finished(line: str, words: list[str], current: str) -> None:
    assert split(line) == (words, current)


def test_the_service_is_asked_and_the_answer_remembered(service: Running) -> None:
    now = [10.0]
    asked = Asked(connect, clock=lambda: now[0])
    assert [row["pid"] for row in asked.workers()] == [101, 102]
    service.machine.groups["web"].append(103)
    assert len(asked.workers()) == 2
    now[0] += 5
    assert len(asked.workers()) == 3
    assert [command.name for command in asked.commands()] == list(BUILT_IN)
    assert asked.operations() == []


def test_without_a_service_its_part_is_missing_and_nothing_else() -> None:
    asked = Asked(connect)
    assert asked.workers() == ()
    assert [command.name for command in asked.commands()] == list(BUILT_IN)
    assert found("restart all --t") == ["--timeout"]


def test_a_command_of_the_service_s_own_in_a_built_in_one_s_place() -> None:
    class Overridden(Fixed):
        def commands(self) -> Sequence[Command]:
            return [replace(GREET, name="test")]

    assert [choice.text for choice in complete(["test", "x"], "", Overridden()).found] == ["warmly", "coldly"]
