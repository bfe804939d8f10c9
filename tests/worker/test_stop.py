"""Readiness, stopping, and what the program has to say about both."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.worker.harness import DEADLINE, ENTRY_POINT, WAIT, Worker, write

if TYPE_CHECKING:
    from pathlib import Path


def test_it_stops_with_0_after_its_cleanup(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import atexit, signal, cluster_service as cservice
        atexit.register(print, "atexit")
        try:
            cservice.worker_ready(on_worker_stop=lambda: print("cleanup"))
            wait()
        finally:
            print("finally")
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["cleanup", "finally", "atexit"]


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize(
    ("cleanup", "output"),
    [
        ("async def cleanup():\n    await asyncio.sleep(0); print('async cleanup')", ["async cleanup"]),
        ("def cleanup():\n    raise ValueError('no')", ["cservice: on_worker_stop failed:", "ValueError: no"]),
        ("async def cleanup():\n    raise ValueError('no')", ["cservice: on_worker_stop failed:", "ValueError: no"]),
        ("def cleanup():\n    raise SystemExit(5)", []),
        ("cleanup = None", []),
    ],
)
def test_cleanups_of_all_kinds(tmp_path: Path, cleanup: str, output: list[str], announce: bool) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        f"{WAIT}\nimport asyncio, signal, cluster_service\n{cleanup}\n"
        "cluster_service.worker_ready(on_worker_stop=cleanup)\nwait()\n"
    )
    with Worker("script", str(script)) as worker:
        worker.ready()
        worker.stop(announce=announce)
        assert worker.wait() == 0, worker.output
        if output:
            assert (worker.lines[0], worker.lines[-1]) == (output[0], output[-1])
        else:
            assert not worker.lines


def test_a_cleanup_that_takes_too_long_is_cut(tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import asyncio, signal, cluster_service
        async def cleanup():
            await asyncio.sleep(1000)
        cluster_service.worker_ready(on_worker_stop=cleanup)
        wait()
        """,
    )
    with Worker("script", script) as worker:
        worker.ready()
        worker.stop(0.2)
        assert worker.wait() == 0, worker.output
        assert "TimeoutError" in worker.lines[-1]


def test_an_async_cleanup_runs_on_the_programs_loop(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import asyncio, cluster_service
        async def main():
            loop = asyncio.get_running_loop()
            async def cleanup():
                print("same loop", asyncio.get_running_loop() is loop)
            cluster_service.worker_ready(on_worker_stop=cleanup)
            try:
                await asyncio.Event().wait()
            finally:
                print("cancelled")
        asyncio.run(main())
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["same loop True", "cancelled"]


def test_a_signal_during_the_cleanup_at_the_end_of_the_program_is_ignored(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import os, signal, cluster_service
        def cleanup():
            os.kill(os.getpid(), signal.SIGTERM)
            print("cleanup")
        cluster_service.worker_ready(on_worker_stop=cleanup)
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.channel.send(json.dumps({"type": "stop", "timeout": 600.0, "reason": "restart"}).encode())
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["cleanup"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_program_with_a_handler_of_its_own_keeps_it(python: str, tmp_path: Path, kind: str) -> None:
    script = write(
        tmp_path / "worker.py",
        f"""
        import os, signal, sys, cluster_service
        {kind} cleanup():
            os.write(1, b"cleanup\\n")
        def handler(number, frame):
            os.write(1, b"own handler\\n")
            sys.exit(4)
        signal.signal(signal.SIGTERM, handler)
        cluster_service.worker_ready(on_worker_stop=cleanup)
        wait()
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 4, worker.output
        assert sorted(worker.lines) == ["cleanup", "own handler"]


def test_a_loops_handler_has_the_cleanup_on_its_loop(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import asyncio, signal, cluster_service
        async def main():
            loop, told, cleaned = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, told.set)
            async def cleanup():
                print("same loop", asyncio.get_running_loop() is loop)
                cleaned.set()
            cluster_service.worker_ready(on_worker_stop=cleanup)
            await told.wait()
            await cleaned.wait()
        asyncio.run(main())
        print("end")
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["same loop True", "end"]


def test_the_end_of_the_channel_alone_is_no_stop(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import signal, cluster_service
        cluster_service.worker_ready(on_worker_stop=lambda: print("cleanup"))
        wait()
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.channel.close()
        worker.process.terminate()  # the service stops it in this way, whatever has become of the channel
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["cleanup"]


CLOSES = """
import cluster_service, http.server, os, signal, sys, threading
os.closerange(3, 4096)
files = [open(f"{sys.argv[1]}/data-{number}", "w+b", buffering=0) for number in range(24)]
for file in files:
    file.write(b"precious;")
cluster_service.worker_ready()  # would be written to the channel
for _ in range(5):
    pid = os.fork()  # the runtime's reader is stopped and started around it
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
print("serving", flush=True)
server.serve_forever()
"""


def test_the_runtime_writes_to_no_file_that_has_the_number_of_its_descriptor(python: str, tmp_path: Path) -> None:
    script = write(tmp_path / "worker.py", CLOSES)
    with Worker("script", script, str(tmp_path), python=python) as worker:
        worker.line("serving")
        lost = worker.line("the program has closed")
        assert "Do not close descriptors" in lost
        worker.process.terminate()
        assert worker.wait() == 0, worker.output
    assert [(tmp_path / f"data-{number}").read_bytes() for number in range(24)] == [b"precious;"] * 24


GUARDIAN = """
import ctypes, os, signal, socket, sys
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if not os.fork():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, as the guardian does
    ours.close()
    theirs.set_inheritable(True)
    os.environ["CSERVICE_CHANNEL"] = str(theirs.fileno())
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
theirs.close()
ours.recv(100)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_guardians_death_is_one_sigterm_and_not_two(tmp_path: Path) -> None:
    """The kernel's, and not a second one from the channel's end: to many programs that means "at once"."""
    script = write(
        tmp_path / "worker.py",
        """
        import os, select, signal, threading, cluster_service
        wake, waker = os.pipe()
        got = []
        def handler(number, frame):
            got.append(number)
            os.write(waker, b"s")
        signal.signal(signal.SIGTERM, handler)
        cluster_service.worker_ready(on_worker_stop=lambda: os.write(waker, b"c"))
        seen = b""
        while set(seen) != set(b"cs"):  # the channel's end has been seen to, and the kernel's signal, which comes later
            seen += os.read(wake, 1)
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join()
        select.select([], [], [], 0)
        print("signals", len(got), flush=True)
        """,
    )
    with subprocess.Popen(
        [sys.executable, "-c", GUARDIAN, str(ENTRY_POINT), "script", script], stdout=subprocess.PIPE, text=True
    ) as guardian:
        assert guardian.stdout is not None
        assert select.select([guardian.stdout], [], [], DEADLINE)[0]
        assert guardian.stdout.read() == "signals 1\n"


def test_readiness_is_told_once_each_way(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        from cluster_service import worker_ready
        for ready in (False, False, True, True, False, True):
            worker_ready(ready)
        """,
    )
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        said = [worker.message() for _ in range(5)]
    assert said == [*({"type": "ready", "ready": ready} for ready in (False, True, False, True)), None]


def test_a_guardian_that_does_not_read_blocks_nobody(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import signal
        from cluster_service import worker_ready
        for _ in range(2000):
            worker_ready(False)
            worker_ready(True)
        print("not blocked")
        wait()
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.line("not blocked")
        worker.stop()
        assert worker.wait() == 0
        last = None
        while (message := worker.message()) is not None:
            last = message
    assert last is not None
    assert last["type"] == "ready"


def test_what_waited_is_sent_when_the_guardian_reads_again(tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import signal
        from cluster_service import worker_ready
        for _ in range(2000):
            worker_ready(False)
            worker_ready(True)
        worker_ready(False)
        print("said")
        wait()
        """,
    )
    with Worker("script", script) as worker:
        worker.line("said")
        messages = []
        try:
            worker.channel.settimeout(2.0)  # the end of what it has to say shows in silence only
            while True:
                messages.append(json.loads(worker.channel.recv(65536))["ready"])
        except TimeoutError:
            pass
        assert messages[-1] is False
        worker.stop()
        assert worker.wait() == 0, worker.output


def test_a_fork_tells_nothing_again(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import os, signal
        from cluster_service import worker_ready
        worker_ready()
        if not os.fork():
            worker_ready(on_worker_stop=lambda: print("never"))
            os._exit(0)
        os.wait()
        print("forked")
        wait()
        """,
    )
    with Worker("script", script, python=python, env={"PYTHONWARNINGS": "ignore"}) as worker:  # early 3.13's, of forks
        worker.ready()
        worker.line("forked")
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.message() is None
        assert worker.lines == ["forked"]


def test_a_fork_may_be_the_one_that_is_ready(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import os
        from cluster_service import worker_ready
        if not os.fork():
            worker_ready()
            os._exit(0)
        os.wait()
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        assert worker.wait() == 0, worker.output


def test_a_program_that_swallows_everything_is_ended_in_time(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import signal, threading, cluster_service
        threading.Thread(target=threading.Event().wait, name="forever").start()
        while True:
            try:
                cluster_service.worker_ready()
                wait()
            except BaseException as error:
                print("swallowed", type(error).__name__)
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop(0.2)
        assert worker.wait() == 0, worker.output
        assert worker.lines == [
            "swallowed SystemExit",
            "cservice: stop timeout expired; forced to exit while these threads were running: forever",
        ]


def test_an_ordinary_thread_does_not_take_the_whole_time(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import atexit, threading, cluster_service
        threading.Thread(target=threading.Event().wait, name="refresh").start()
        cluster_service.worker_ready(on_worker_stop=lambda: print("cleaned up"))
        wait = threading.Event().wait
        while True:
            wait(0.1)
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop(600.0)  # far more than this test may take
        assert worker.wait() == 0, worker.output
        assert worker.lines == [
            "cleaned up",
            ("cservice: waited 3 s for threads that do not end (make them daemon threads, or join them in "
            "on_worker_stop); forced to exit while these threads were running: refresh"),
        ]


def test_the_jobs_of_a_pool_are_finished(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import concurrent.futures, os, threading, time, cluster_service
        def job():
            stopped.wait()
            time.sleep(4)  # longer than ordinary threads have
            print("job done", flush=True)
        stopped = threading.Event()
        concurrent.futures.ThreadPoolExecutor(1).submit(job)
        cluster_service.worker_ready(on_worker_stop=stopped.set)
        while True:
            time.sleep(0.1)
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop(600.0)
        assert worker.wait() == 0, worker.output
        assert worker.lines == ["job done"]


def test_a_wrong_cleanup_is_told_where_it_is_set(tmp_path: Path) -> None:
    script = write(tmp_path / "worker.py", "import cluster_service\ncluster_service.worker_ready(on_worker_stop='x')\n")
    with Worker("script", script) as worker:
        assert worker.wait() == 1
        assert worker.lines[-1] == "TypeError: on_worker_stop must be a function without arguments, not str"


def test_without_a_service_nothing_happens(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "alone.py",
        """
        import signal, cluster_service as cservice
        cservice.worker_ready(False)
        cservice.worker_ready(on_worker_stop=print)
        print(cservice.is_worker(), cservice.is_master(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        """,
    )
    env = os.environ | {"PYTHONPATH": str(ENTRY_POINT.parents[2]), "NOTIFY_SOCKET": "@nobody"}
    done = subprocess.run([python, script], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "False False True\n"


def test_a_command_says_ready_by_sd_notify(tmp_path: Path) -> None:
    script = write(tmp_path / "command.py", "import cluster_service\ncluster_service.worker_ready()\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(DEADLINE)
        env = os.environ | {
            "PYTHONPATH": str(ENTRY_POINT.parents[2]), "NOTIFY_SOCKET": str(tmp_path / "notify"), "CSERVICE_SLOT": "1",
        }  # fmt: skip
        subprocess.run([sys.executable, script], check=True, env=env, start_new_session=True)
        assert notify.recv(100) == b"READY=1"


def test_sigint_is_the_programs(python: str, tmp_path: Path) -> None:
    script = write(tmp_path / "worker.py", "import cluster_service, signal\ncluster_service.worker_ready()\nwait()\n")
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.process.send_signal(signal.SIGINT)
        assert worker.wait() == -signal.SIGINT
        assert worker.lines[-1] == "KeyboardInterrupt"
