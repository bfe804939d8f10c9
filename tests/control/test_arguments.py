"""From words and JSON to a command's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_service.commands import arguments
from cluster_service.commands.registry import BUILT_IN, COMMANDS, Command, Parameter, Registry
from cluster_service.errors import CommandError


def run(service: object, **given: Any) -> dict[str, Any]:
    return given


GREET = Command(
    "greet",
    "Greets somebody.",
    run,
    (
        Parameter("name", "text", "who", required=True, positional=True),
        Parameter("times", "integer", "how often", positional=True),
        Parameter("tone", "choice", "how", choices=("loud", "low")),
        Parameter("pause", "duration", "between"),
        Parameter("memory", "size", "how much"),
        Parameter("again", "flag", "once more", short="-a"),
        Parameter("also", "text", "others", many=True),
    ),
)


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("Ann", {"name": "Ann"}),
        ("Ann 3", {"name": "Ann", "times": 3}),
        ("Ann -3", {"name": "Ann", "times": -3}),
        ("--times 3 Ann", {"name": "Ann", "times": 3}),
        ("--name=Ann --times=3", {"name": "Ann", "times": 3}),
        ("Ann tone:loud pause:5m", {"name": "Ann", "tone": "loud", "pause": 300.0}),
        ("tone:loud", {"name": "tone:loud"}),
        ("tone:loud tone:low", {"name": "tone:loud", "tone": "low"}),
        ("Ann --memory 2g -a", {"name": "Ann", "memory": 2 << 30, "again": True}),
        ("Ann --no-again", {"name": "Ann", "again": False}),
        ("Ann --again=no", {"name": "Ann", "again": False}),
        ("Ann --also Bob --also Cid", {"name": "Ann", "also": ["Bob", "Cid"]}),
        ('Ann {"times": 3, "also": ["Bob"]}', {"name": "Ann", "times": 3, "also": ["Bob"]}),
        ('{"name": "Ann"}', {"name": "Ann"}),
        ("\"Ann and Bob\" '3'", {"name": "Ann and Bob", "times": 3}),
        ("a{b} 3", {"name": "a{b}", "times": 3}),
        ("-", {"name": "-"}),
    ],
)
def test_words(line: str, given: dict[str, object]) -> None:
    words = arguments.split(f"greet {line}")
    assert arguments.from_words(GREET, words[1:]) == given


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "NAME is missing: who"),
        ("Ann 3 4", "'4' is one argument too many"),
        ("Ann three", "times: 'three' is not a whole number"),
        ("Ann --tone", "--tone needs a value (loud|low)"),
        ("Ann --tone shrill", "tone: 'shrill' is not one of loud, low"),
        ("Ann --tnoe loud", "unknown option --tnoe: did you mean '--tone'?"),
        ("Ann -x", "unknown option -x"),
        ("Ann --no-times", "unknown option --no-times"),
        ("Ann --times 3 --times 4", "--times was given twice"),
        ("Ann times:3 times:4", "--times was given twice"),
        ("Ann --", "nothing after --"),
        ("Ann -- Bob", "nothing can stand after --"),
        ('Ann {"tiems": 3}', "unknown argument 'tiems': did you mean 'times'?"),
        ('Ann {"again": "maybe"}', "neither true nor false"),
    ],
)
def test_bad_words(line: str, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        arguments.from_words(GREET, arguments.split(f"greet {line}")[1:])
    assert caught.value.code == "bad_request"
    assert caught.value.message.startswith("greet: ")
    assert words in caught.value.message


def test_a_quotation_that_does_not_end() -> None:
    with pytest.raises(CommandError, match="quotation"):
        arguments.split("greet 'Ann")


def test_json_in_any_spelling_and_null_is_nothing() -> None:
    command = Command("x", "X.", run, (Parameter("no_wait", "flag", "…"), Parameter("name", "text", "…")))
    assert arguments.from_json(command, {"noWait": True, "name": None}) == {"no_wait": True}
    assert arguments.from_json(command, {"no-wait": False}) == {"no_wait": False}
    with pytest.raises(CommandError, match="given twice"):
        arguments.from_json(command, {"noWait": True, "no_wait": True})


@pytest.mark.parametrize("selector", ["all", "web", "web.2", "2", "4711", "pid:4711", 2])
def test_selectors(selector: object) -> None:
    assert arguments.from_json(COMMANDS.get("restart"), {"selector": selector})["selector"] == str(selector)


@pytest.mark.parametrize("selector", ["", "a b", "-1", "pid:", "pid:x", "/etc", "..", "é", True, [], {}, 1.5])
def test_bad_selectors(selector: object) -> None:
    with pytest.raises(CommandError, match="names no worker"):
        arguments.from_json(COMMANDS.get("restart"), {"selector": selector})


def test_a_command_may_be_added_and_take_a_built_in_s_name() -> None:
    registry = Registry()
    registry.add(GREET)
    registry.add(Command("health", "Looks deeper.", run))
    assert registry.names() == [*BUILT_IN, "greet"]
    assert registry.get("health").doc == "Looks deeper."
    assert len(registry.all()) == len(BUILT_IN) + 1
    with pytest.raises(CommandError, match="did you mean 'greet'"):
        registry.get("gret")


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "x" * 65, "__class__", "ä"])
def test_names_that_no_command_has(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a command"):
        Command(name, "…", run)
    with pytest.raises(CommandError) as caught:
        COMMANDS.get(name)
    assert caught.value.code == "no_such_command"
