"""From settings to a running guardian: take the name's lock, write the boot message, become the guardian.

    start(settings, program=None)    does not return, unless ``settings.detach``: then returns the guardian's pid once
                                     the service is up. Raises AlreadyRunning, CommandError.

The process that the user started becomes the guardian by exec: same pid, a small fresh interpreter, and no access key
in its arguments or environment (the boot message travels in an anonymous file).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from . import isolation, rundir
from .errors import CommandError
from .machine import files, shortage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .config import Settings

GUARDIAN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guardian", "__main__.py")
SECRETS = ("CSERVICE_ACCESS_KEY", "CSERVICE_ACCESS_KEY_FILE")
MANAGERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What a service manager tells the guardian alone: its workers have a NOTIFY_SOCKET of their own."""
HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""The signals that the guardian acts on."""
FIRST_GIVEN = 3
"""The first descriptor that a service manager passes: SD_LISTEN_FDS_START of sd_listen_fds(3)."""
MOST_GIVEN = 1024


class AlreadyRunning(Exception):
    """A service of that name runs on this machine. ``name``, ``pid``, ``since`` (ISO 8601)."""

    def __init__(self, holder: rundir.Holder) -> None:
        super().__init__(f"{holder} is already running")
        self.holder = holder
        self.name, self.pid, self.since = holder.name, holder.pid, holder.since


@dataclass(frozen=True)
class Program:
    """A program to run as the master."""

    argv: tuple[str, ...]
    cwd: str
    safe_path: bool = True

    @classmethod
    def plain(cls) -> Program:
        """The master without a user's program. It lives in no release, so its directory is the root, and imports
        nothing from the user's environment.
        """
        return cls(tuple(isolation.command("cluster_service.master.main:main")), "/")

    @classmethod
    def this(cls) -> Program:
        """The running program, to be run again. Raises CommandError when it cannot be (an interactive session)."""
        again = sys.orig_argv[1:]
        if not again or sys.flags.interactive or again[0] == "-":
            raise CommandError(
                "bad_request",
                "cservice.start() must be called from a program in a file, since the master runs that program again",
                "Put the call in a file and run it, or use: cservice start TARGET",
            )
        return cls((sys.executable, *again), os.getcwd())

    def to_json(self, environ: dict[str, str]) -> dict[str, Any]:
        """As the boot message holds it."""
        return {"argv": list(self.argv), "cwd": self.cwd, "env": environ}


def start(
    settings: Settings,
    program: Program | None = None,
    console: Callable[[Settings, Mapping[str, str]], None] | None = None,
) -> int:
    """Start the service of *settings*; see the module. *program*: what the master runs; by default only ourselves.
    *console*: starts one beside the service, given the environment for it, once the name is ours.
    """
    plain = Program.plain()
    environ = {key: value for key, value in os.environ.items() if key not in (*SECRETS, *MANAGERS)}
    manager = told_by_manager(os.environ, os.getpid())
    for place, _ in enumerate(manager["sockets"], FIRST_GIVEN):
        os.set_inheritable(place, False)  # only the guardian is to have them
    hold_signals()
    try:
        lock = rundir.take_lock(settings.run_dir, settings.name) if settings.run_dir else None
    except rundir.Held as held:
        raise AlreadyRunning(held.holder) from None
    message = {
        "name": settings.name,
        "run_dir": settings.run_dir,
        "lock_fd": lock,
        "stop_timeout": settings.stop_timeout,
        "master": (program or plain).to_json(environ),
        "safe_master": plain.to_json(environ),
        "master_hang_timeout": settings.master_hang_timeout,
        "log_file": settings.log_file or (log_path(settings) if settings.detach else None),
        "log_max_size": settings.log_max_size,
        "log_keep": settings.log_keep,
        "pid_file": settings.pid_file,
        "process_titles": settings.process_titles,
        "manager": manager,
        "settings": settings.to_json(),
    }
    if settings.detach:
        assert lock is not None  # the settings see to it
        return _detach(settings, lock, message, environ)
    if console is not None:
        console(settings, environ)
    try:
        _become(settings.name, lock, message, environ)
    except OSError as error:
        if lock is not None:
            os.close(lock)
            rundir.clean_up(settings.run_dir, settings.name)
        why = f"the service cannot be started by {sys.executable}: {shortage.explain(error)}"
        raise CommandError("failed", why, "It must be there, and this user must be allowed to execute it.") from None


def told_by_manager(environ: Mapping[str, str], pid: int) -> dict[str, Any]:
    """Return what a service manager has told process *pid*, as ``guardian.boot_message.Manager`` reads it.

    What is meant for another process, or is no number, is as if it had not been said, as sd_watchdog_enabled(3) and
    sd_listen_fds(3) have it.
    """

    def number(name: str) -> int:
        text = environ.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0

    watched = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    count = min(number("LISTEN_FDS"), MOST_GIVEN) if number("LISTEN_PID") == pid else 0
    names = [*environ.get("LISTEN_FDNAMES", "").split(":"), *[""] * count][:count]
    there = all(_is_open(FIRST_GIVEN + place) for place in range(count))
    return {
        "notify": environ.get("NOTIFY_SOCKET", ""),
        "watchdog": number("WATCHDOG_USEC") / 1e6 if watched else 0.0,
        "sockets": [name or "unknown" for name in names] if there else [],
    }


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def log_path(settings: Settings) -> str:
    """Where a detached service writes its log when it was not told."""
    return settings.log_file or os.path.join(settings.run_dir, f"{settings.name}.log")


def hold_signals() -> None:
    """As process 1: let signals wait for the guardian. One without a handler would be lost to process 1 otherwise."""
    if os.getpid() == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def _become(name: str, lock: int | None, message: dict[str, Any], environ: dict[str, str]) -> NoReturn:
    boot = os.memfd_create("cservice-boot", 0)
    data = json.dumps(message).encode()
    while data:
        data = data[os.write(boot, data) :]
    for descriptor in (
        *([] if lock is None else [lock]),
        *(place for place, _ in enumerate(message["manager"]["sockets"], FIRST_GIVEN)),
    ):
        os.set_inheritable(descriptor, True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)  # one that comes while the guardian imports is its own to hear
    os.execve(  # our own file under our own interpreter
        sys.executable, [sys.executable, "-I", "-S", GUARDIAN, "--boot-fd", str(boot), name], environ
    )


def _detach(settings: Settings, lock: int, message: dict[str, Any], environ: dict[str, str]) -> int:
    """Fork the guardian into a session of its own and wait until the service is up. Raises CommandError."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = log_path(settings)
    written = os.path.getsize(log) if os.path.exists(log) else 0
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            rundir.write_lock(lock, settings.name, os.getpid())
            null = os.open(os.devnull, os.O_RDWR)
            output = files.open_for_append(log)
            for target, source in ((0, null), (1, output), (2, output)):
                os.dup2(source, target)
            os.chdir("/")
            _become(settings.name, lock, message, environ)
        except BaseException as error:  # noqa: BLE001 - a forked child must not return into its parent's code
            os.write(2, f"cservice: {error}\n".encode())
        finally:
            os._exit(70)
    os.close(lock)
    pidfd = os.pidfd_open(pid)
    try:
        _wait_until_up(settings, pidfd, pid, log, written)
    finally:
        os.close(pidfd)
    return pid


def _wait_until_up(settings: Settings, pidfd: int, pid: int, log: str, written: int) -> None:
    """Follow the service's first operation to its end. Raises CommandError failed."""
    import select
    import time

    from .client.client import connect

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + 60
    while True:
        if poller.poll(20):
            os.waitpid(pid, 0)
            raise CommandError("failed", f"the service ended at its start:\n{_tail(log, written)}", f"Its log is {log}")
        try:
            client = connect(settings.name, run_dir=settings.run_dir)
            known = client.glance("/api/v1/operations", 20.0)["operations"]  # newest first; some of an earlier life
            operation = client.follow(next(each["id"] for each in known if each["command"] == "start"))
        except CommandError as error:
            if time.monotonic() > deadline:
                raise CommandError(
                    "failed", f"the service does not answer: {error.message}", f"Its log is {log}"
                ) from None
            continue
        if operation["state"] == "done":
            return
        raise CommandError(
            "failed",
            f"the service (pid {pid}) runs, but does not serve: {operation['reason']}",
            f"It goes on trying. Look at it with cservice workers, end it with cservice shutdown all. Its log is {log}",
        )


def _tail(log: str, begin: int) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(begin)
            return "\n".join(file.read().decode(errors="replace").splitlines()[-20:])
    except OSError:
        return ""
