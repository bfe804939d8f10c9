"""The worker's end of the bus, under every interpreter. The tests play the service: they read and write the channel."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from tests.worker.harness import WAIT, Worker, write

if TYPE_CHECKING:
    from pathlib import Path

SHOW = """
import cluster_service as cservice
def show(function, *args, **options):
    try:
        print("got", repr(function(*args, **options)), flush=True)
    except Exception as error:
        print("raised", type(error).__name__, getattr(error, "code", None), error, flush=True)
"""


def script(tmp_path: Path, text: str) -> str:
    return write(tmp_path / "worker.py", SHOW + textwrap.dedent(text))


def tell(worker: Worker, message: dict[str, Any]) -> None:
    worker.channel.send(json.dumps(message).encode())


def asked(worker: Worker) -> dict[str, Any]:
    message = worker.message()
    assert message is not None, worker.output
    return message


def test_trigger_returns_the_answer(python: str, tmp_path: Path) -> None:
    path = script(tmp_path, "show(cservice.trigger, 'greet', 'Ann', times=2)")
    with Worker("script", path, python=python) as worker:
        question = asked(worker)
        identity = question.pop("id")
        assert question == {"type": "trigger", "name": "greet", "args": ["Ann"], "options": {"times": 2}}
        assert identity.startswith(f"{worker.pid}.")
        tell(worker, {"type": "answer", "id": "1.1", "result": "somebody else's"})
        tell(worker, {"type": "taken", "id": identity})
        tell(worker, {"type": "answer", "id": identity, "result": {"hello": "Ann"}})
        assert worker.line("got") == "got {'hello': 'Ann'}"
        assert worker.wait() == 0


def test_trigger_raises_what_was_raised(python: str, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        try:
            cservice.trigger("greet")
        except cservice.CommandError as error:
            print("raised", error.code, error, error.hint)
        """,
    )
    with Worker("script", path, python=python) as worker:
        error = {"code": "bad_request", "message": "NAME is missing", "hint": "Usage: greet NAME"}
        tell(worker, {"type": "answer", "id": asked(worker)["id"], "error": error})
        assert worker.line("raised") == "raised bad_request NAME is missing Usage: greet NAME"


def test_in_a_coroutine_it_is_awaited_and_the_loop_goes_on(python: str, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import asyncio
        async def main():
            first, second = cservice.trigger("first"), cservice.broadcast({"x": 1}, group="web")
            await asyncio.sleep(0)
            print("the loop turns", first.done(), flush=True)
            print("got", await first, await second, flush=True)
            try:
                await cservice.trigger("third")
            except cservice.CommandError as error:
                print("raised", error.code, flush=True)
            try:
                await cservice.trigger("fourth", within=0.01)
            except cservice.CommandError as error:
                print("late", error.code, flush=True)
        asyncio.run(main())
        """,
    )
    with Worker("script", path, python=python) as worker:
        first, second = asked(worker), asked(worker)
        assert (second["type"], second["message"], second["group"]) == ("broadcast", {"x": 1}, "web")
        worker.line("the loop turns False")
        tell(worker, {"type": "answer", "id": second["id"], "result": 4})
        tell(worker, {"type": "answer", "id": first["id"], "result": None})
        worker.line("got None 4")
        tell(worker, {"type": "answer", "id": asked(worker)["id"], "error": {"code": "failed", "message": "no"}})
        worker.line("raised failed")
        worker.line("late timeout")
        assert worker.wait() == 0


def test_nobody_answers(python: str, tmp_path: Path) -> None:
    path = script(tmp_path, "show(cservice.trigger, 'greet', within=0.01)")
    with Worker("script", path, python=python) as worker:
        assert "raised CommandError timeout greet was not answered within 0.01 s" in worker.line("raised")


def test_a_new_master_is_asked_again_for_what_was_not_begun_and_for_nothing_else(python: str, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import threading
        for name in ("begun", "lost"):
            threading.Thread(target=show, args=(cservice.trigger, name)).start()
        """,
    )
    with Worker("script", path, python=python) as worker:
        questions = {question["name"]: question for question in (asked(worker), asked(worker))}
        tell(worker, {"type": "taken", "id": questions["begun"]["id"]})
        tell(worker, {"type": "master"})
        assert asked(worker) == questions["lost"]
        assert "unavailable the service's master was replaced while it carried out begun" in worker.line("raised")
        tell(worker, {"type": "answer", "id": questions["lost"]["id"], "result": 7})
        worker.line("got 7")
        assert worker.wait() == 0


def test_the_end_of_the_service_is_an_answer(python: str, tmp_path: Path) -> None:
    path = script(
        tmp_path, "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\nshow(cservice.trigger, 'x')"
    )
    with Worker("script", path, python=python) as worker:
        asked(worker)
        worker.channel.close()
        assert "raised CommandError unavailable x: the service has ended" in worker.line("raised")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("cservice.trigger, 'x', {1}", "raised TypeError None a message of the bus must be JSON"),
        ("cservice.trigger, 'x', float('nan')", "raised TypeError None a message of the bus must be JSON"),
        ("cservice.broadcast, object()", "raised TypeError None a message of the bus must be JSON"),
        ("cservice.broadcast, 'x' * 61440", "exceeds the limit of 61440"),
        ("cservice.on_message, 3", "raised TypeError None the handler of messages must be callable"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(call: str, sentence: str, tmp_path: Path) -> None:
    with Worker("script", script(tmp_path, f"show({call})")) as worker:
        assert sentence in worker.line("raised")


def test_a_service_that_does_not_read_blocks_nobody(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import asyncio
        async def main():
            asked = []
            for number in range(1000):
                try:
                    asked.append(cservice.trigger("x", "y" * 50000))
                except cservice.CommandError as error:
                    print("raised", error.code, error, flush=True)
                    break
            print("count", len(asked), flush=True)
            cservice.worker_ready()
            await asyncio.Event().wait()
        asyncio.run(main())
        """,
    )
    with Worker("script", path) as worker:
        refused = worker.line("raised")
        assert "x: the service does not read the messages of this worker; the request was not sent" in refused
        count = int(worker.line("count").split()[1])
        assert count >= 500
        for _ in range(count):
            assert asked(worker)["type"] == "trigger"
        worker.ready()  # its own messages always find room


def test_a_fork_has_no_bus(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import os
        if not os.fork():
            show(cservice.trigger, "x")
            os._exit(0)
        os.wait()
        show(cservice.trigger, "y")
        """,
    )
    with Worker("script", path) as worker:
        assert "raised CommandError unavailable a process that a worker has forked has no bus" in worker.line("raised")
        tell(worker, {"type": "answer", "id": asked(worker)["id"], "result": 1})
        worker.line("got 1")


def test_messages_come_in_order_to_handlers_in_a_thread(python: str, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        WAIT
        + textwrap.dedent(
            """
            import threading
            @cservice.on_message
            def heard(message):
                if message == "bad":
                    raise ValueError("no good")
                print("heard", message, threading.current_thread() is threading.main_thread(), flush=True)
            cservice.worker_ready()
            wait()
            """
        ),
    )
    with Worker("script", path, python=python) as worker:
        worker.ready()
        for number, message in enumerate((1, "bad", {"two": 2})):
            tell(worker, {"type": "message", "id": f"b{number}", "message": message})
        for number in range(3):
            assert asked(worker) == {"type": "got", "id": f"b{number}", "taken": True}
        worker.line("heard {'two': 2} False")
        assert worker.lines.index("heard 1 False") < worker.lines.index("heard {'two': 2} False")
        worker.line("ValueError: no good")
        assert "bus.py" not in worker.output
        worker.stop()
        assert worker.wait() == 0


def test_async_handlers_run_on_the_loop_on_which_they_were_given(python: str, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import asyncio
        async def main():
            over = asyncio.Event()
            here = asyncio.get_running_loop()
            async def heard(message):
                answer = await cservice.trigger("back", message)
                print("heard", answer, asyncio.get_running_loop() is here, flush=True)
                over.set()
            cservice.on_message(heard)
            cservice.worker_ready()
            await over.wait()
        asyncio.run(main())
        """,
    )
    with Worker("script", path, python=python) as worker:
        worker.ready()
        tell(worker, {"type": "message", "id": "b1", "message": 5})
        got, back = sorted((asked(worker), asked(worker)), key=lambda message: str(message["type"]))
        assert (got["type"], back["args"]) == ("got", [5])
        tell(worker, {"type": "answer", "id": back["id"], "result": 6})
        worker.line("heard 6 True")
        assert worker.wait() == 0


def test_messages_that_nobody_wants_or_that_find_no_room_are_not_taken(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import threading
        cservice.worker_ready()
        show(cservice.trigger, "next")
        release = threading.Event()
        cservice.on_message(lambda message: release.wait())
        cservice.trigger("next")
        release.set()
        cservice.trigger("next")
        """,
    )
    with Worker("script", path) as worker:
        worker.ready()
        first = asked(worker)
        tell(worker, {"type": "message", "id": "b0", "message": 0})
        assert asked(worker) == {"type": "got", "id": "b0", "taken": False}, "it has no handler"
        tell(worker, {"type": "answer", "id": first["id"], "result": 0})
        second = asked(worker)
        taken = 0
        for number in range(1, 1100):
            tell(worker, {"type": "message", "id": f"b{number}", "message": number})
            taken += asked(worker)["taken"]
        assert 1000 <= taken <= 1002, "those that wait, and those that are with the handler"
        tell(worker, {"type": "answer", "id": second["id"], "result": 0})
        tell(worker, {"type": "answer", "id": asked(worker)["id"], "result": 0})
        assert worker.wait() == 0


ALONE = """
import asyncio
import cluster_service as cservice
@cservice.on_message
def heard(message): pass
async def main():
    return await cservice.trigger("x"), await cservice.broadcast("x")
print(cservice.trigger("x"), cservice.broadcast("x"), asyncio.run(main()), heard.__name__)
"""


def test_alone_it_does_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    subprocess.run([sys.executable, write(tmp_path / "worker.py", ALONE)], check=True)
    assert capfd.readouterr().out == "None 0 (None, 0) heard\n"


def test_without_a_channel_it_does_nothing(python: str, tmp_path: Path) -> None:
    with Worker("script", write(tmp_path / "worker.py", ALONE), python=python, channel=False) as worker:
        worker.line("None 0 (None, 0) heard")


def test_the_masters_decorators_do_nothing_in_a_worker(python: str, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        @cservice.command("greet", access="local")
        def greet(context: cservice.Context): return 1
        @cservice.command
        def other(): return 2
        @cservice.on("worker_exit")
        def gone(event): return 3
        cservice.on("x", lambda event: None)
        cservice.disable("exit")
        print("still", greet(None), other(), gone(None), cservice.is_worker(), cservice.is_master())
        """,
    )
    with Worker("script", path, python=python) as worker:
        worker.line("still 1 2 3 True False")
        assert worker.wait() == 0
