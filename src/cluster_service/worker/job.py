"""Runs one program for the service and kills everything it started: ``python -I -S job.py DESCRIPTOR``.

DESCRIPTOR contains a JSON object: ``argv``, ``env``, ``cwd``, ``uid``, ``gid``, ``groups`` (uid -1: that of this
process) and ``no_new_privs``. This process keeps the user and environment of the service: variables such as LD_PRELOAD
reach only the program, which is executed, and enters its directory, after groups, gid and uid are changed.

It is started in its own session, with a pipe as standard input whose other end only the caller holds. The program gets
the output, an empty standard input, its own session and process group, and no other descriptor.

When the program exits, when the pipe is closed (by the caller or its death), or on SIGTERM, SIGINT or SIGHUP, all
descendants of the program are killed, whatever sessions and groups they created: this process is a child subreaper, so
it inherits all orphans. Tracers (ptrace) are killed with the rest; what cannot be killed is left after KILL_SECONDS.
Then it ends with the exit code or signal of the program. If this process is killed, the kernel kills the program.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any, Dict, List, NoReturn, Optional

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

KILL_SECONDS = 5.0
"""Time after which processes that cannot be killed, or reaped, are left behind."""
KILL_AGAIN_SECONDS = 0.05
"""Time until descendants are looked for again, if no child ends."""

CANNOT_RUN = 126
"""Exit code if the program cannot be executed, as in shells."""


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def main(descriptor: int) -> NoReturn:
    """Run the program described in *descriptor*; see the module."""
    with open(descriptor, "rb") as file:
        plan = json.load(file)
    _prctl(PR_SET_DUMPABLE, 0)  # so that no process without CAP_SYS_PTRACE can trace this one
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    awake, waker = os.pipe()
    for end in (awake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    own = os.getpid()
    program = os.fork()
    if program == 0:
        _become(plan, own)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):  # only the program holds the output now, so its end marks the end of output
        os.dup2(null, stream)
    os.close(null)
    _end_as(_kill_all(program, _wait(program, awake), awake))


def _become(plan: Dict[str, Any], parent: int) -> NoReturn:
    """Execute the program, in the child."""
    program = plan["argv"][0]
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, 1 << 20)
        if plan["uid"] >= 0:
            os.setgroups(plan["groups"])
            os.setresgid(plan["gid"], plan["gid"], plan["gid"])
            os.setresuid(plan["uid"], plan["uid"], plan["uid"])
        if plan["no_new_privs"]:
            _prctl(PR_SET_NO_NEW_PRIVS, 1)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it
        _enter(plan["cwd"], program)
        if os.getppid() == parent:
            os.execve(program, plan["argv"], plan["env"])  # the purpose of this module
    except OSError as error:
        why = {
            errno.ENOENT: "the interpreter that its first line names does not exist",
            errno.ENOEXEC: "it is no program for this machine, and has no first line like #!/bin/sh",
        }.get(error.errno or 0, error.strerror)
        _refuse(program, str(why))
    finally:
        os._exit(CANNOT_RUN)


def _enter(directory: str, program: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        _refuse(program, f"cannot enter {directory}: {error.strerror}")
        os._exit(CANNOT_RUN)


def _refuse(program: str, why: str) -> None:
    os.write(2, f"{program} cannot be run: {why}\n".encode("utf-8", "replace"))


def _wait(program: int, awake: int) -> Optional[int]:
    """Return the wait status of *program*, or None if it must be killed first."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(awake, select.POLLIN)
    pidfd = os.pidfd_open(program)  # it becomes readable also if a tracer keeps the program from being reaped
    poll.register(pidfd, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if awake in ready:
            numbers = os.read(awake, 4096)
            status = _reap(program)
            if status is not None:
                return status
            if set(numbers) - {signal.SIGCHLD}:
                return None
        if pidfd in ready:
            return _reap(program)
        if 0 in ready and not os.read(0, 4096):
            return None


def _reap(program: int) -> Optional[int]:
    """Reap the children that have exited; return the wait status of *program* if it is one of them."""
    found = None
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return found
            if pid == program:
                found = status
    except ChildProcessError:
        return found


def _kill_all(program: int, status: Optional[int], awake: int) -> int:
    """Kill every descendant within KILL_SECONDS; return the wait status of *program*, *status* if that is known.

    Descendants of every depth are killed before anything is waited for: the kernel hands over a process that has ended
    only when its tracer, which may be any of them, has ended too. What loses its parent meanwhile becomes our child.
    """
    poll = select.poll()
    poll.register(awake, select.POLLIN)
    end = time.monotonic() + KILL_SECONDS
    while True:
        found = _reap(program)
        status = found if status is None else status
        killed = _kill_each(_descendants())
        if not killed or time.monotonic() >= end:
            return signal.SIGKILL if status is None else status
        if poll.poll(KILL_AGAIN_SECONDS * 1000):
            os.read(awake, 4096)


def _kill_each(pids: List[int]) -> bool:
    """Return whether any of *pids* was there to be killed; a zombie is, too."""
    killed = False
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed = True
        except OSError:  # it has ended, or is another user's (a setuid program)
            continue
    return killed


def _descendants() -> List[int]:
    offspring: Dict[int, List[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            offspring.setdefault(parent, []).append(int(entry))
    found: List[int] = []
    todo = [os.getpid()]
    while todo:
        children = offspring.pop(todo.pop(), [])
        found += children
        todo += children
    return found


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
