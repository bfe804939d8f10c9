"""What workers write: whole lines, with their names, never lost by a slow output and never held up by a broken one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import socket
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.wire import facts, orders
from tests.contract.interface import DEADLINE
from tests.tools.ports import free_port
from tests.tools.processes import log_writer_of, stat

from .puppet import Puppet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.real import RealKernel

    from .conftest import Start


def shell(kernel: RealKernel, number: int, script: str, **how: Any) -> None:
    fields: dict[str, Any] = {"env": {"PATH": os.environ["PATH"]}, "cwd": "/", "label": f"web.{number}", **how}
    kernel.send(orders.Spawn(number, ["/bin/sh", "-c", script], **fields))


def tail(kernel: RealKernel, number: int) -> list[str]:
    return list(kernel.fact(facts.Output, worker=number).lines)


def writer(kernel: RealKernel) -> int:
    pid = log_writer_of(kernel.process.pid)
    assert pid is not None
    return pid


def workers(kernel: RealKernel) -> list[dict[str, Any]]:
    kernel.send(orders.Hello())
    return list(kernel.fact(facts.Snapshot).workers)


def test_whole_lines_with_their_workers_name(start: Start) -> None:
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    kernel = start(stdout=out_end, stderr=err_end)
    os.close(out_end)
    os.close(err_end)
    kernel.send(orders.Log("by the master"))
    shell(kernel, 1, "printf 'one '; echo two; echo three >&2; printf 'no newline'")
    assert set(tail(kernel, 1)) == {"one two", "three", "no newline"}
    kernel.close()
    with os.fdopen(out) as file:
        assert file.read() == "[web.1] one two\n[web.1] no newline\n"
    with os.fdopen(err) as file:  # the end of the master may be reported as well
        lines = [line for line in file.read().splitlines() if not line.startswith("[cservice] the master (pid ")]
    assert sorted(lines) == ["[cservice] by the master", "[web.1] three"]


def test_a_line_without_its_end_is_seen_while_the_worker_waits(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do("os.write(1, b'Waiting for the lock ... ')")
    assert kernel.wrote("[web.1] Waiting for the lock ... \n")
    puppet.do("os.write(1, b'got it\\nnext\\n')")
    assert kernel.wrote("[web.1] got it\n[web.1] next\n")
    puppet.do("for n in range(9): os.write(1, b'\\r%d %%' % n)")
    assert kernel.wrote("[web.1] 8 %\n")
    puppet.end()
    assert tail(kernel, 1) == ["Waiting for the lock ... ", "got it", "next", "8 %"]


def test_what_the_master_writes(kernel: RealKernel) -> None:
    os.write(os.open(f"/proc/{kernel.master_pid}/fd/2", os.O_WRONLY), b"a traceback\n")
    assert kernel.wrote("[cservice] a traceback\n")
    for name in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{name}") and os.readlink(f"/proc/self/fd/{name}") == os.readlink(
            f"/proc/{kernel.master_pid}/fd/2"
        ):
            os.close(int(name))


def test_the_tail_is_forty_lines_of_five_hundred_characters(kernel: RealKernel) -> None:
    shell(kernel, 1, "for i in $(seq 1 100); do echo line $i; done; head -c 70000 /dev/zero | tr '\\0' x")
    lines = tail(kernel, 1)
    assert len(lines) == 40
    assert lines[0] == "line 63"
    assert lines[-2:] == ["x" * 500, "x" * 500]  # a long line is cut into pieces
    assert kernel.wrote("[web.1] line 1\n")


def test_a_tail_too_large_for_a_message_loses_its_first_lines(kernel: RealKernel) -> None:
    before = writer(kernel)
    code = "print((chr(0x1F600) * 500 + chr(10)) * 39 + chr(108))"
    shell(kernel, 1, f"exec {sys.executable} -X utf8 -c '{code}'")
    lines = tail(kernel, 1)
    assert lines[-1] == "l"
    assert 10 < len(lines) < 40
    assert writer(kernel) == before


def test_requests_in_an_access_log_are_no_last_words(kernel: RealKernel) -> None:
    uvicorn = 'INFO:     127.0.0.1:4 - "GET /a%20b?c=d HTTP/1.1" 200 OK'
    common = '127.0.0.1 - - [24/Nov/2026 14:00:00] "POST / HTTP/1.0" 500 -'
    said = 'it said "HTTP/1.1 500" to us'
    shell(kernel, 1, "".join(f"echo '{line}'\n" for line in (said, *([uvicorn, common] * 20))))
    assert tail(kernel, 1) == [said]
    assert kernel.wrote(f"[web.1] {common}\n")


def test_grandchildren_may_keep_the_pipe_open(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do(
        "a, b = os.pipe()\n"
        "if os.fork() == 0:\n os.close(b); os.read(a, 1); os.write(2, b'late\\n'); os._exit(0)\n"
        "os.close(a); os.set_inheritable(b, True)\n"
        "os.write(1, b'early\\n')"
    )
    hold = os.open(f"/proc/{puppet.pid}/fd/{puppet.do('result = b')}", os.O_WRONLY)
    os.kill(puppet.pid, signal.SIGKILL)
    assert tail(kernel, 1) == ["early"]
    os.close(hold)
    assert kernel.wrote("[web.1] late\n")


def test_a_log_file_with_times_is_reopened(start: Start, run_dir: Path) -> None:
    log = run_dir / "service.log"
    kernel = start({"log_file": str(log)})
    kernel.send(orders.Log("before"))
    shell(kernel, 1, "echo hello; echo there >&2")
    tail(kernel, 1)
    log.rename(run_dir / "old.log")
    kernel.signal(signal.SIGUSR1)
    kernel.nothing_of(facts.Signalled)
    kernel.send(orders.Log("after"))
    kernel.close()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} "
    lines = (run_dir / "old.log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(stamp, line) for line in lines)
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["[cservice] before", "[web.1] hello", "[web.1] there"]
    first, *_ = log.read_text(encoding="utf-8").splitlines()  # the end of the master may be reported after it
    assert first.endswith(" [cservice] after")
    log.unlink()
    (run_dir / "old.log").unlink()


def terminal(start: Start, **env: str) -> bytes:
    ours, theirs = os.openpty()
    kernel = start(stdout=theirs, stderr=theirs, env={"TERM": "xterm", **env})
    os.close(theirs)
    shell(kernel, 1, "echo hello")
    tail(kernel, 1)
    text = b""
    while b"hello" not in text:
        assert select.select([ours], [], [], DEADLINE)[0]
        text += os.read(ours, 1000)
    kernel.close()
    os.close(ours)
    return text


def test_colour_only_on_a_terminal_that_wants_it(start: Start) -> None:
    assert re.fullmatch(rb"\x1b\[\d+m\[web\.1\]\x1b\[0m hello\r\n", terminal(start))
    assert terminal(start, NO_COLOR="1") == b"[web.1] hello\r\n"
    assert terminal(start, TERM="dumb") == b"[web.1] hello\r\n"


def test_a_terminal_that_is_paused_loses_nothing_and_holds_up_nobody_but_writers(start: Start) -> None:
    ours, theirs = os.openpty()
    kernel = start(stdout=theirs, stderr=theirs)
    termios.tcflow(theirs, termios.TCOOFF)  # Ctrl-S
    shell(kernel, 1, "for i in $(seq 1 300); do echo line $i; done")
    assert kernel.fact(facts.Exited).code == 0
    assert len(tail(kernel, 1)) == 40
    termios.tcflow(theirs, termios.TCOON)
    os.close(theirs)
    text = b""
    while b"line 300" not in text:
        assert select.select([ours], [], [], DEADLINE)[0]
        text += os.read(ours, 100_000)
    assert text.count(b"[web.1] line") == 300
    kernel.close()
    os.close(ours)


def test_a_slow_output_makes_workers_wait_and_loses_no_line(start: Start) -> None:
    out, end = os.pipe()
    kernel = start(stdout=end, stderr=end)
    os.close(end)
    puppet = Puppet(kernel, 1)
    kernel.send(orders.Signal(1, signal.SIGCONT, "nothing"))
    puppet.tell("for n in range(40000): os.write(1, b'%07d this is a line\\n' % n)\nresult = 'written'")
    before = 0
    while True:  # until nothing moves any more: pipe, writer and our own pipe are full
        kernel.nothing_of(facts.Exited)
        with open(f"/proc/{puppet.pid}/syscall", encoding="ascii") as file:
            blocked = file.read().startswith("1 ")
        with open(f"/proc/{puppet.pid}/io", encoding="ascii") as file:
            written = int(file.read().partition("wchar: ")[2].split()[0])
        if blocked and written == before:
            break
        before = written
    assert written < 40000 * 23
    Puppet(kernel, 2).end()
    assert tail(kernel, 2) == []
    with os.fdopen(out, "rb") as file:
        for n in range(40000):
            assert file.readline() == b"[web.1] %07d this is a line\n" % n
        puppet.answer()
        kernel.close()


def test_a_closed_output_stops_nobody(start: Start) -> None:
    out, end = os.pipe()
    kernel = start(stdout=end, stderr=end)
    os.close(end)
    os.close(out)
    shell(kernel, 1, "for i in $(seq 1 30000); do echo line $i of very many; done; echo last")
    assert kernel.fact(facts.Exited).code == 0
    assert tail(kernel, 1)[-1] == "last"


def test_a_full_disk_is_survived_and_owned_up_to(start: Start, run_dir: Path) -> None:
    """/dev/full fails every write with ENOSPC; the log file leads there until it is reopened."""
    log = run_dir / "full.log"
    log.symlink_to("/dev/full")
    kernel = start({"log_file": str(log)})
    shell(kernel, 1, "for i in 1 2 3 4 5; do echo lost $i; done")
    assert len(tail(kernel, 1)) == 5
    log.unlink()
    kernel.signal(signal.SIGUSR1)
    kernel.nothing_of(facts.Signalled)
    kernel.send(orders.Log("found again"))
    kernel.close()
    text = log.read_text(encoding="utf-8")
    assert "5 lines before this one could not be written: the disk is full" in text
    assert text.endswith("found again\n")
    log.unlink()


def test_a_log_writer_that_dies_comes_back_to_the_same_pipes(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do("os.write(1, b'first\\n')")
    assert kernel.wrote("[web.1] first\n")
    pid = writer(kernel)
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([pidfd], [], [], DEADLINE)
    os.close(pidfd)
    puppet.do("os.write(1, b'second\\n')")
    kernel.send(orders.Log("said while it was away"))
    assert kernel.wrote("[web.1] second\n")
    assert kernel.wrote("[cservice] said while it was away\n")
    puppet.do("os.write(2, b'third\\n')")
    puppet.end()
    assert tail(kernel, 1)[-1] == "third"


def test_the_last_words_are_given_up_when_the_writer_does_not_answer(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    pid = writer(kernel)
    os.kill(pid, signal.SIGSTOP)
    puppet.end()
    assert tail(kernel, 1) == []
    os.kill(pid, signal.SIGCONT)


def test_a_stopped_writer_delays_no_exit_and_no_start(kernel: RealKernel) -> None:
    pid = writer(kernel)
    os.kill(pid, signal.SIGSTOP)
    for number in range(1, 151):
        shell(kernel, number, "exit 3")
        assert kernel.fact(facts.Exited, worker=number).code == 3
    kernel.send(orders.Log("nor anything else"))
    kernel.nothing_of(facts.SpawnFailed)
    kernel.send(orders.Bye())
    kernel.hang_up()
    assert kernel.wait() == 0  # and the service ends
    assert kernel.wrote(f"[cservice] killed the log writer (pid {pid}), which made no progress; lost: ")
    assert stat(pid) is None


def test_what_a_stopped_writer_did_not_take_is_reported_at_the_end(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1)
    puppet.do("os.write(1, b'the writer works\\n')")
    assert kernel.wrote("the writer works")
    pid = writer(kernel)
    os.kill(pid, signal.SIGSTOP)
    puppet.do("os.write(1, b'words')")
    kernel.send(orders.Bye(3))
    kernel.hang_up()
    assert kernel.wait() == 3
    assert kernel.wrote(
        f"[cservice] killed the log writer (pid {pid}), which made no progress; lost: 5 bytes of output"
    )
    assert stat(pid) is None


def test_a_standard_error_that_takes_nothing_does_not_keep_the_service_from_ending(start: Start) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"." * 4096)
    os.set_blocking(writing, True)
    kernel = start(stderr=writing)
    os.close(writing)
    puppet = Puppet(kernel, 1)
    puppet.do("os.write(1, b'the writer works\\n')")
    assert kernel.wrote("the writer works")
    os.kill(writer(kernel), signal.SIGSTOP)
    puppet.do("os.write(1, b'words')")
    kernel.send(orders.Bye(3))
    kernel.hang_up()
    assert kernel.wait() == 3
    os.close(reading)


def test_the_same_failure_again_is_one_line(kernel: RealKernel) -> None:
    script = "echo pid $$ at 0x7f$$; for i in 1 2 3; do echo trace $i >&2; done; exit 1"
    for number in (1, 2, 3):
        shell(kernel, number, script)
        assert len(tail(kernel, number)) == 4  # unaffected
    shell(kernel, 4, "echo other; exit 1")
    assert tail(kernel, 4) == ["other"]
    shell(kernel, 5, script, label="api.1")
    tail(kernel, 5)
    shell(kernel, 6, script, label="api.2")
    tail(kernel, 6)
    assert kernel.wrote("[api.2] failed as before")
    lines = kernel.output().splitlines()
    assert "[web.2] failed as before (4 lines as above)" in lines
    assert "[web.3] failed as before (4 lines as above)" in lines
    assert "[web.4] other" in lines
    for label, count in (("web.1", 4), ("web.2", 1), ("web.3", 1), ("web.4", 1), ("api.1", 4), ("api.2", 1)):
        assert sum(line.startswith(f"[{label}] ") for line in lines) == count


def test_a_worker_that_comes_up_is_not_held_back_and_ends_the_folding(kernel: RealKernel) -> None:
    shell(kernel, 1, "echo oops; exit 1")
    tail(kernel, 1)
    if not kernel.snapshot.share["seccomp"]:
        puppet = Puppet(kernel, 2)
        begun = time.monotonic()
        puppet.do(f"os.write(1, b'up\\n'); s = tcp('127.0.0.1', {free_port()})")
        assert kernel.wrote("[web.2] up\n")
        assert time.monotonic() - begun < 0.9
        shell(kernel, 3, "echo oops; exit 1")
        tail(kernel, 3)
        assert kernel.wrote("[web.3] oops\n")


def test_lines_are_held_for_a_second_at_most(kernel: RealKernel) -> None:
    shell(kernel, 1, "echo here; exec sleep 1000")
    assert kernel.wrote("[web.1] here\n")


def test_a_clean_end_is_not_a_failure(kernel: RealKernel) -> None:
    for number in (1, 2):
        shell(kernel, number, "echo done; exit 0")
        tail(kernel, number)
        assert kernel.wrote(f"[web.{number}] done\n")


def test_output_of_workers_after_the_guardian_was_killed_is_still_written(kernel: RealKernel) -> None:
    program = (
        "import os, signal\ndef bye(*_):\n os.write(1, b'bye\\n'); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\nos.write(1, b'up\\n')\nwhile True: signal.pause()"
    )
    kernel.send(orders.Spawn(1, [sys.executable, "-I", "-S", "-c", program], {}, "/", "web.1"))
    assert kernel.wrote("[web.1] up\n")
    kernel.process.kill()
    kernel.process.wait()
    kernel.hang_up()
    assert kernel.wrote("[web.1] bye\n")
    assert not kernel.wrote("and then the writer ends")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM])
def test_an_output_that_is_a_socket(start: Start, kind: int) -> None:
    """As under systemd, whose journal is one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours:
        with theirs:
            kernel = start(stdout=theirs.fileno(), stderr=theirs.fileno())
            flags = fcntl.fcntl(theirs, fcntl.F_GETFL)
        shell(kernel, 1, "echo hello")
        assert ours.recv(1000) == b"[web.1] hello\n"
        assert not flags & os.O_NONBLOCK
        kernel.close()
