"""What annotations make of a function: a table of how arguments are written, and of what the function is given."""

from __future__ import annotations

import collections.abc
import datetime as dt
import enum
import functools
import pathlib
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import pytest

from cluster_service.commands import arguments
from cluster_service.commands.registry import COMMANDS, Command
from cluster_service.errors import CommandError
from cluster_service.master.command_context import (
    Context,
    signature_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT: Any = object()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def call(handler: Callable[..., Any], line: str = "", **named: Any) -> Any:
    """Call *handler* with a command line, or with JSON."""
    signature = signature_of(handler)
    command = Command("it", "It.", dict, signature.parameters)
    given = arguments.from_json(command, named) if named else arguments.from_words(command, arguments.split(line))
    again = arguments.from_json(command, given)  # the command line checks, and then the service
    return signature.call(handler, CONTEXT, again)


def returns(annotation: Any) -> Callable[..., Any]:
    """A function of one argument of that annotation, which returns it."""

    def handler(it: Any) -> Any:
        return it

    handler.__annotations__["it"] = annotation
    return handler


@pytest.mark.parametrize(
    ("annotation", "word", "value"),
    [
        (str, "Ann", "Ann"),
        (str, "''", ""),
        (str, "7", "7"),
        (int, "-7", -7),
        (int, "1_000", 1000),
        (float, "0.5", 0.5),
        (float, "7", 7.0),
        (Optional[int], "7", 7),  # noqa: UP045 - as older programs write it
        (int | None, "7", 7),
        (Literal["a", "b"], "b", "b"),
        (Literal[1, 2], "2", 2),
        (Colour, "blue", Colour.BLUE),
        (Level, "2", Level.HIGH),
        (pathlib.Path, "a/b", pathlib.Path("a/b")),
        (dt.timedelta, "5m", dt.timedelta(minutes=5)),
        (dict[str, Any], """'{"a": [1]}'""", {"a": [1]}),
        (dict[str, int], """'{"a": 1}'""", {"a": 1}),
        (Any, "7", "7"),
        (object, "x", "x"),
        (list[int], "1 2 3", [1, 2, 3]),
        (list, "1 x", ["1", "x"]),
        (tuple[str, ...], "a b", ("a", "b")),
        (set[Colour], "red red", {Colour.RED}),
        (collections.abc.Sequence[float], "1 2", [1.0, 2.0]),
        (Annotated[int, "how many"], "3", 3),
    ],
)
def test_a_word_of_a_command_line(annotation: Any, word: str, value: object) -> None:
    found = call(returns(annotation), word)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value", "result"),
    [
        (int, 7, 7),
        (int, 7.0, 7),
        (float, 7, 7.0),
        (Any, {"a": [1, 2.5, None]}, {"a": [1, 2.5, None]}),
        (list[int], [1, "2"], [1, 2]),
        (list[dict[str, int]], [{"a": 1}], [{"a": 1}]),
        (list[dict[str, int]], {"a": 1}, [{"a": 1}]),
        (Literal[1, 2], 2, 2),
        (dt.timedelta, 1.5, dt.timedelta(seconds=1.5)),
        (str, 7, "7"),
    ],
)
def test_a_value_of_json(annotation: Any, value: object, result: object) -> None:
    assert call(returns(annotation), it=value) == result


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "x"),
        (int, 1.5),
        (int, True),
        (int, [1]),
        (float, "nan"),
        (float, True),
        (float, "1e999"),
        (str, True),
        (str, {"a": 1}),
        (str, ["a"]),
        (bool, "perhaps"),
        (Literal["a", "b"], "c"),
        (Literal["a", "b"], ["a"]),
        (Colour, "RED"),
        (dict, "[1]"),
        (dict, [1]),
        (list[int], ["x"]),
        (dt.timedelta, "soon"),
    ],
)
def test_what_is_refused(annotation: Any, value: object) -> None:
    with pytest.raises(CommandError, match="it: it: ") as caught:
        call(returns(annotation), it=value)
    assert caught.value.code == "bad_request"


def test_places_names_defaults_and_flags() -> None:
    def handler(
        context: Any,
        first: str,
        second: int = 2,
        *rest: float,
        loud: bool = False,
        quiet: bool = True,
        to_all: str = "x",
    ) -> Any:
        assert context is CONTEXT
        return first, second, rest, loud, quiet, to_all

    assert call(handler, "a") == ("a", 2, (), False, True, "x")
    assert call(handler, "a 3 4 5 --loud --no-quiet --to-all y") == ("a", 3, (4.0, 5.0), True, False, "y")
    assert call(handler, "a to_all:y") == ("a", 2, (), False, True, "y")
    assert call(handler, "--second 7 a") == ("a", 7, (), False, True, "x")
    assert call(handler, first="a", rest=[1], toAll="z") == ("a", 2, (1.0,), False, True, "z")
    assert call(handler, first="a", second=None) == ("a", 2, (), False, True, "x")
    with pytest.raises(CommandError, match="FIRST is missing"):
        call(handler, "--loud")
    usage = Command("it", "It.", dict, signature_of(handler).parameters).usage
    assert usage == "it FIRST [SECOND] [REST]..."


@pytest.mark.parametrize("name", ["context", "ctx", "_context", "_"])
def test_who_takes_the_context(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def handler({name}, x): return {name}, x", scope)  # noqa: S102 - the name is the table's
    assert call(scope["handler"], "1") == (CONTEXT, "1")


def test_the_context_by_its_type_and_nobody_by_accident() -> None:
    def typed(who: Context, x: int) -> Any:
        return who, x

    def plain(name: str = "you") -> Any:
        return name

    class Shop:
        def sell(self, context: Any, what: str) -> Any:
            return context, what

        def __call__(self, what: int) -> Any:
            return what

    def three(context: Any, a: int, b: int) -> Any:
        return context, a, b

    assert call(typed, "1") == (CONTEXT, 1)
    assert call(plain, "Ann") == "Ann"
    assert call(plain) == "you"
    assert call(Shop().sell, "tea") == (CONTEXT, "tea")
    assert call(Shop(), "3") == 3
    assert call(functools.partial(three, b=5), "4") == (CONTEXT, 4, 5)
    assert call(lambda: 7) == 7


def test_a_function_that_only_takes_places() -> None:
    def handler(context: Any, a: int, b: int = 2, /, c: int = 3) -> Any:
        return a, b, c

    assert call(handler, "1 --c 5") == (1, 2, 5)


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        (returns(complex), "the argument 'it' is annotated complex, which cannot be read from a command line"),
        (returns(int | str), "the argument 'it' is annotated int | str"),
        (returns(list[list[int]]), r"the argument 'it' is annotated list\[list\[int\]\]"),
        (returns(tuple[int, str]), r"the argument 'it' is annotated tuple\[int, str\]"),
        (returns("Nowhere"), "an annotation cannot be understood: name 'Nowhere' is not defined"),
        (lambda **options: options, r"\*\*options cannot be a command's"),
        (lambda access_key: access_key, "an argument cannot be called 'access_key', which has a meaning of its own"),
    ],
)
def test_a_signature_that_no_door_could_offer(handler: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        signature_of(handler)


def test_what_help_says() -> None:
    def handler(
        name: Annotated[str, "who is greeted"],
        mood: Literal["glad", "sad"] = "glad",
        *,
        wait: dt.timedelta | None = None,
    ) -> None:
        del name, mood, wait

    shown = [parameter.describe() for parameter in signature_of(handler).parameters]
    assert [entry["doc"] for entry in shown] == ["who is greeted", "a word", "a time: 10s, 5m"]
    assert [entry.get("default") for entry in shown] == [None, "glad", None]
    assert shown[1]["choices"] == ["glad", "sad"]
    assert [entry["required"] for entry in shown] == [True, False, False]


def test_an_argument_that_a_built_in_command_has_too_is_written_as_it_is_there() -> None:
    like = {parameter.name: parameter for parameter in COMMANDS.get("restart").parameters}

    def handler(context: Any, selector: str, timeout: float | None = None, *, reason: str = "") -> None:
        del context, selector, timeout, reason

    selector, timeout, reason = signature_of(handler, like).parameters
    assert (selector.kind, selector.label) == ("selector", "all|GROUP|SLOT|PID")
    assert (timeout.kind, timeout.positional, timeout.required) == ("timeout", True, False)
    assert reason.kind == "string"


def spelled(words: collections.abc.Sequence[str]) -> str:
    return " ".join(words)


def test_hints_of_the_typing_module() -> None:
    assert call(returns(typing.List[int]), "1 2") == [1, 2]  # noqa: UP006 - as older programs write it
    assert call(spelled, "a b") == "a b"
