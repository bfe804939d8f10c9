"""Custom commands, without a service: how they are defined, found, and kept from doing harm."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.cli import rendering
from cluster_service.client.service_commands import command_from, find
from cluster_service.commands import arguments
from cluster_service.commands.registry import Registry
from cluster_service.commands.service_interface import INSIDE, Caller
from cluster_service.errors import CommandError
from cluster_service.master.custom_command_registry import Extensions, as_json
from cluster_service.master.hooks import HOOKS
from cluster_service.master.internal_commands import check_caller
from cluster_service.master.user_code import Crowded, Handlers, Late, Raised, Unstarted

if TYPE_CHECKING:
    from collections.abc import Callable

WORKER = Caller("worker", "web.1 (pid 71)")


class Told:
    """A master, as far as commands need one."""

    class service:  # noqa: N801 - an attribute
        name = "test"

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, who: str, text: str) -> None:
        self.lines += [f"{who}: {line}" for line in text.splitlines()]

    async def run(self, command: Any, given: Any) -> Any:
        return {"command": command.name, "status": "ok", **given}


def extensions() -> Extensions:
    made = Extensions(Registry())
    made.dispatch = Told()  # type: ignore[assignment]
    return made


def give(made: Extensions, name: str, /, *, caller: Caller = INSIDE, **given: Any) -> Any:
    command = made.registry.get(name)
    custom = command.run.__self__  # type: ignore[attr-defined]
    return asyncio.run(custom.call(arguments.from_json(command, given), caller))


def test_a_command_is_one_of_the_registry() -> None:
    made = extensions()

    def greet(context: Any, name: str = "you") -> str:
        """Greet somebody.

        Politely.
        """
        return f"hello {name} from {context.service}"

    made.command("greetAll", greet)
    command = made.registry.get("greetAll")
    assert (command.summary, command.usage, command.access) == ("Greet somebody.", "greetAll [NAME]", "local")
    assert made.registry.get("greet_all") is made.registry.get("greet-all") is command
    assert made.registry.names()[-1] == "greetAll"
    assert give(made, "greetAll", name="Ann") == "hello Ann from test"
    assert asyncio.run(command.run(None, name="Ann")) == {"result": "hello Ann from test"}  # type: ignore[arg-type]
    made.command("greet_all", lambda: 1)
    assert made.registry.names()[-1] == "greet_all", "the same name again takes its place"
    assert "greetAll" not in made.registry.names()


def test_described_and_read_again_it_is_the_same_but_for_what_runs_it() -> None:
    made = extensions()

    def handler(a: int, *more: str, mood: bool = True) -> None:
        """Do it."""

    made.command("it", handler, access="remote", timeout="5s")
    command = made.registry.get("it")
    again = command_from(command.describe())
    assert again.describe() == command.describe()
    assert (again.timeout, again.custom, again.render) == (5.0, True, "custom")
    assert arguments.from_words(again, ["1", "b", "c", "--no-mood"]) == {"a": 1, "more": ["b", "c"], "mood": False}
    assert find([again], "it") is again
    with pytest.raises(CommandError, match=r"there is no command 'itt': did you mean 'it'\?"):
        find([again], "itt")
    strange = {"name": "x", "parameters": [{"name": "y", "kind": "of a newer service"}], "render": "newer"}
    assert command_from(strange).parameters[0].kind == "any"


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("9lives", {}, "'9lives' cannot be the name of a command"),
        ("a b", {}, "'a b' cannot be the name of a command"),
        ("x" * 65, {}, "cannot be the name of a command"),
        ("__class__", {}, "cannot be the name of a command"),
        ("it", {"access": "root"}, "it: access='root' is none of inproc, local, remote, disabled"),
        ("it", {"timeout": "soon"}, "it: timeout: 'soon' is not a duration"),
    ],
)
def test_definitions_that_cannot_be(name: str, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        extensions().command(name, lambda: None, **options)


def test_a_handler_must_be_callable() -> None:
    with pytest.raises(TypeError, match="the handler of 'it' must be callable, not int"):
        extensions().command("it", 3)  # type: ignore[arg-type]


def fails() -> None:
    raise ValueError("swordfish")


async def fails_later() -> None:
    raise ValueError("swordfish")


def exits() -> None:
    raise SystemExit(1)


def returns_one_that_fails() -> Any:
    return fails_later()


def returns_no_json() -> Any:
    return {1: object()}


@pytest.mark.parametrize("handler", [fails, fails_later, exits, returns_one_that_fails, returns_no_json])
def test_what_it_raises_is_in_the_log_and_not_in_the_answer(handler: Callable[..., Any]) -> None:
    made = extensions()
    made.command("it", handler)
    with pytest.raises(CommandError, match=r"^it failed; the service's log tells more under [0-9a-f]{8}$") as caught:
        give(made, "it")
    assert caught.value.code == "failed"
    told: Any = made.dispatch
    assert told.lines[0].startswith(f"error {caught.value.message[-8:]} in it: ")
    assert told.lines[-1].endswith(("ValueError: swordfish", "SystemExit: 1", "return a dict, list or text"))


def test_a_command_error_is_the_answer() -> None:
    made = extensions()

    def refuses() -> None:
        raise CommandError("not_found", "there is no customer 7", "See: customers.")

    made.command("it", refuses)
    with pytest.raises(CommandError, match="there is no customer 7") as caught:
        give(made, "it")
    assert (caught.value.code, caught.value.hint) == ("not_found", "See: customers.")


def test_one_that_blocks_is_left_to_itself() -> None:
    made = extensions()
    release = threading.Event()
    made.command("blocks", release.wait, timeout=0.01)

    async def forever() -> None:
        await asyncio.Event().wait()

    made.command("forever", forever, timeout=0.01)
    try:
        for name in ("blocks", "forever"):
            with pytest.raises(
                CommandError, match=f"{name} has not ended within 0.01 s and is left to itself"
            ) as caught:
                give(made, name)
            assert caught.value.code == "timeout"
    finally:
        release.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_one_that_cannot_be_started_is_not_at_work(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def seven() -> int:
        return 7

    async def story() -> None:
        handlers = Handlers(most=2)
        call: Callable[[], Any] = seven if kind == "async" else lambda: 7
        with monkeypatch.context() as short:
            short.setattr(threading.Thread, "start", no_thread)
            short.setattr(handlers, "_on_loop", no_thread)
            for _ in range(5):
                with pytest.raises(Unstarted, match="refuses another thread"):
                    await handlers.run(call, 20.0, on_loop=kind == "async")
        assert handlers.at_work == 0
        assert await handlers.run(call, 20.0, on_loop=kind == "async") == 7

    asyncio.run(story())


def test_so_many_at_a_time_and_no_more() -> None:
    async def story() -> None:
        handlers = Handlers(most=2)
        release = threading.Event()
        for _ in range(2):
            with pytest.raises(Late):
                await handlers.run(release.wait, 0.01, on_loop=False)
        assert handlers.at_work == 2
        with pytest.raises(Crowded):
            await handlers.run(release.wait, 0.01, on_loop=False)
        release.set()
        while handlers.at_work:  # noqa: ASYNC110 - a thread's end has no event of its own
            await asyncio.sleep(0)
        assert await handlers.run(lambda: 7, 20.0, on_loop=False) == 7

    asyncio.run(story())


def test_a_cancellation_of_its_own_making_is_a_failure() -> None:
    async def story() -> None:
        async def cancels() -> None:
            raise asyncio.CancelledError

        with pytest.raises(Raised):
            await Handlers().run(cancels, 20.0, on_loop=True)

    asyncio.run(story())


def test_health_is_added_to() -> None:
    made = extensions()
    made.command("health", lambda: {"database": "fine"})
    assert give(made, "health") == {"command": "health", "status": "ok", "database": "fine"}
    made.command("health", fails)
    answer = give(made, "health")
    assert (answer["status"], answer["error"][:14]) == ("degraded", "health failed;")
    assert made.registry.get("health").access == "remote", "as the built-in"


def test_overriding_and_calling_what_was_there() -> None:
    made = extensions()
    made.command("restart", lambda selector: selector)
    assert give(made, "restart", selector="web") == "web"
    assert made.registry.built_in("restart") is not made.registry.get("restart")
    assert made.registry.get("restart").parameters[0].kind == "selector"


def test_disabled_is_for_everybody() -> None:
    made = extensions()
    made.command("it", lambda: 1)
    for name in ("it", "restart"):
        made.registry.disable(name)
        for caller in (INSIDE, WORKER):
            with pytest.raises(CommandError, match="it is switched off"):
                check_caller(made.registry.get(name), caller)
    with pytest.raises(CommandError, match="there is no command 'nosuch'"):
        made.registry.disable("nosuch")


@pytest.mark.parametrize(
    ("name", "options", "allowed"),
    [
        ("greet", {}, True),
        ("greet", {"access": "inproc"}, True),
        ("greet", {"workers": False}, False),
        ("restart", {}, False),
        ("restart", {"workers": True}, True),
        ("health", {}, True),
        ("health", None, True),
        ("workers", None, True),
        ("restart", None, False),
        ("upgrade", None, False),
        ("shutdown", None, False),
        ("exit", None, False),
        ("start", None, False),
        ("test", None, False),
    ],
)
def test_what_a_worker_may_give(name: str, options: dict[str, Any] | None, allowed: bool) -> None:
    made = extensions()
    if options is not None:
        made.command(name, lambda: None, **options)
    check_caller(made.registry.get(name), INSIDE)
    if allowed:
        check_caller(made.registry.get(name), WORKER)
    else:
        with pytest.raises(CommandError, match=f"a worker may not give {name}"):
            check_caller(made.registry.get(name), WORKER)


@dataclasses.dataclass
class Point:
    x: int
    at: dt.date


class Size(enum.Enum):
    BIG = "big"


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (Point(1, dt.date(2030, 1, 2)), {"x": 1, "at": "2030-01-02"}),
        ({2, 1}, [1, 2]),
        ((1, "a"), [1, "a"]),
        (Size.BIG, "big"),
        (Path("/a"), "/a"),
        (dt.timedelta(seconds=1.5), 1.5),
        ({1: 2}, {"1": 2}),
        (None, None),
    ],
)
def test_results_as_json(value: object, result: object) -> None:
    assert as_json(value) == result


@pytest.mark.parametrize("value", [object(), float("nan"), "x" * 4200000, b"bytes"])
def test_results_that_are_none(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_json(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("two\nlines\x1b[2J", "two\nlines\\x1b[2J"),
        (None, "done"),
        (7, "7"),
        (True, "yes"),
        (["a", 2], "a\n2"),
        ([], "none"),
        ([{"name": "Ann", "age": 7}, {"name": "Bob", "age": 8}], "NAME  AGE\nAnn     7\nBob     8"),
    ],
)
def test_results_as_people_see_them(value: object, text: str) -> None:
    assert rendering.show("custom", {"result": value}, terminal=False) == text


def test_a_built_ins_rendering_that_does_not_fit_is_no_harm() -> None:
    assert rendering.show("workers", {"result": "none of your business"}, terminal=False) == "none of your business"
    assert rendering.show("operations", {"operations": 7}, terminal=False) == "operations  7"


def test_a_directory_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = extensions()
    monkeypatch.setattr(HOOKS, "extensions", made)
    header = "from cluster_service.master.python_api import command\n"
    (tmp_path / "a.py").write_text(header + "@command\ndef one():\n    return 1\n@command\ndef two(): pass\n")
    (tmp_path / "b.py").write_text(header + "@command\ndef two():\n    return 2\n@command\ndef three(): pass\n1 / 0\n")
    (tmp_path / "c.py").write_text(header + "@command\ndef one():\n    return 'c'\n")
    (tmp_path / "d.py").write_text("this is no Python\n")
    (tmp_path / "_shared.py").write_text("1 / 0\n")
    lines: list[str] = []
    made.load(str(tmp_path), lines.append)
    assert set(made.registry.added()) == {"one", "two"}
    assert give(made, "one") == "c"
    assert give(made, "two") is None
    broken, replaced, syntax = lines
    assert broken.startswith(f"{tmp_path}/b.py is left out, and its commands with it:\n")
    assert broken.endswith("ZeroDivisionError: division by zero")
    assert replaced == f"{tmp_path}/c.py replaces the command one, which was defined before"
    assert "SyntaxError" in syntax
    made.load(str(tmp_path / "nosuch"), lines.append)
    assert lines[-1] == f"the commands in {tmp_path}/nosuch cannot be read: No such file or directory"


def test_the_ways_to_define_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import cluster_service as cservice

    made = extensions()
    monkeypatch.setattr(HOOKS, "extensions", made)
    monkeypatch.setattr(HOOKS, "_handlers", {})

    @cservice.command("one", access="remote", timeout="5s", help="The first.")
    def first() -> int:
        return 1

    @cservice.command
    def two() -> int:
        return 2

    @cservice.on("three")
    def third(context: Any) -> int:
        return 3

    cservice.on("four", lambda: 4, access="inproc")
    heard = cservice.on("five", lambda event: event)
    assert {name: give(made, name) for name in ("one", "two", "three", "four")} == {
        "one": 1,
        "two": 2,
        "three": 3,
        "four": 4,
    }
    command = made.registry.get("one")
    assert (command.access, command.timeout, command.summary) == ("remote", 5.0, "The first.")
    assert made.registry.get("four").access == "inproc"
    assert "five" not in made.registry.names()
    assert HOOKS._handlers["five"][0].call is heard
    assert (first(), two(), third(None)) == (1, 2, 3), "they stay functions"
    cservice.disable("two")
    assert made.registry.get("two").access == "disabled"
    with pytest.raises(ValueError, match="there is no command 'nosuch'"):
        cservice.disable("nosuch")


def test_before_a_service_runs_nothing_happens() -> None:
    from cluster_service.master import python_api

    assert python_api.trigger("greet") is None
    assert python_api.broadcast("x") == 0
