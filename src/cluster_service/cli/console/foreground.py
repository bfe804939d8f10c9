"""The console on the terminal of a service that runs in the foreground.

    attach(settings, environ)    called by the process that becomes the guardian: starts the console
    main()                       entry point of the console's process

The process that the user started becomes the guardian, so the console is a separate process: not a child of the
guardian, in the same session, and in its own process group, which is the foreground group of the terminal. Ctrl-C thus
reaches only the console, and a failure of the console does not affect the service. The service writes to a
pseudo-terminal, which the console reads and displays above its prompt. If the console dies, that output is lost, as if
the terminal had gone; the service keeps running.

When the user leaves the console (Ctrl-D), or the service ends, the guardian's group becomes the foreground group again:
from then on Ctrl-C reaches the service, and the console only relays the output. The terminal is given back before the
service has ended, because it belongs to the shell afterwards.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import signal
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING, Any

from cluster_service import isolation, rundir
from cluster_service.cli.output import out
from cluster_service.cli.session import Session
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster_service.config import Settings

    from .prompt import Prompt
    from .screen import Screen

EARLY = frozenset((signal.SIGINT,))
"""Signals blocked until the console or the guardian is ready: during its imports they would only kill it."""
PAUSE = 0.05
"""Seconds between two checks whether a starting service answers."""
LEFT = (
    "The console is left; the service goes on, here. Ctrl-C shuts it down gracefully; `cservice{}` elsewhere is its "
    "console."
)
ASKED = "Ctrl-C once more shuts the service down gracefully; Ctrl-D leaves the console, and the service goes on."
OWN = re.compile(r"\[cservice\]\S* audit \{.*\"key\": \"owner\", \"door\": \"unix\"")
"""Matches audit lines of commands given over the Unix endpoint, which the user of the console has just typed."""
ENDING = "cservice: the service is shutting down (Ctrl-C: at once)"


def wanted(settings: Settings) -> bool:
    """Return True if the service of *settings* gets a console on this terminal.

    Raises CommandError bad_request if a console was requested and is not possible.
    """
    if settings.console is False or settings.detach:
        return False
    why = _why_not() if settings.run_dir else "there is no directory for the control socket"
    if why and settings.console:
        raise CommandError("bad_request", f"--console: {why}", "Leave it out; `cservice` is a console from elsewhere.")
    return not why


def _why_not() -> str:
    if not all(os.isatty(descriptor) for descriptor in (0, 1)):
        return "standard input and output are no terminal"
    if os.environ.get("TERM") in (None, "", "dumb"):
        return "the terminal can do nothing (TERM)"
    try:
        if os.tcgetpgrp(0) != os.getpgrp():
            return "the service is started in the background"
    except OSError:
        return "it is not the terminal of this session"
    if os.getpid() == 1:  # an orphan would become a child of the guardian, like a worker
        return "the service is process 1"
    return ""


def attach(settings: Settings, environ: Mapping[str, str]) -> None:
    """Start the console and redirect the output to it. Call it in the process that becomes the guardian."""
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY)
    log, ours = pty.openpty()
    tty.setraw(ours)  # pass lines on unchanged
    with contextlib.suppress(OSError):
        fcntl.ioctl(ours, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
    ready, told = os.pipe()
    os.set_inheritable(log, True)
    arguments = ["--guardian", str(os.getpid()), "--log", str(log), "--name", settings.name]
    arguments += ["--run-dir", settings.run_dir, *(["--events"] if settings.log_file else [])]
    argv = [*isolation.command("cluster_service.cli.console.foreground:main"), *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become_console(argv, dict(environ))
    os.close(told)
    os.close(log)
    os.waitpid(child, 0)
    os.read(ready, 1)  # end of file: the console has called exec, and has the terminal
    os.close(ready)
    os.dup2(ours, 1)
    if os.isatty(2):
        os.dup2(ours, 2)
    os.close(ours)


def _become_console(argv: list[str], environ: dict[str, str]) -> None:
    """In a forked child: fork again, so that the console is an orphan; make it the foreground group and exec it."""
    try:
        if os.fork() == 0:
            os.setpgid(0, 0)
            for number in (signal.SIGTTOU, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # exec preserves this
            os.tcsetpgrp(0, os.getpgrp())
            os.execve(sys.executable, argv, environ)
    finally:
        os._exit(0)


class Beside:
    """The process of the console."""

    def __init__(self, guardian: int, log: int, session: Session, *, events: bool) -> None:
        self._guardian = guardian
        self._group = os.getpgid(guardian)
        self._log = log
        self._session = session
        self._events = events
        self._terminal = termios.tcgetattr(0)
        self._asked = False
        self._stops = False
        """Send the service SIGINT as soon as the terminal has been given back."""
        self._relayed = threading.Event()

    def run(self) -> None:
        """Run the console, then relay the output of the service until it has ended."""
        from . import obey
        from .prompt import Prompt
        from .screen import Screen

        screen = Screen()
        console = self

        class Own(Prompt):
            """The prompt on the terminal that is shared with the service."""

            def _listen(self) -> None:
                if console.wait_for_door():
                    super()._listen()

            def heard(self, event: Mapping[str, Any]) -> None:
                command = str(event.get("command"))
                if event.get("event") == "operation_start" and command == "shutdown all" and self._at_prompt:
                    self.end(ENDING)
                super().heard(event)

            def interrupted(self) -> None:
                console.interrupted(self)

        prompt = Own(self._session, screen=screen, events=self._events, after=0)
        threading.Thread(target=self._relay, args=(screen, prompt), daemon=True).start()
        self._hear_early(prompt)
        try:
            with prompt:
                outcome = obey(self._session, self._lines(prompt), terminal=True)
                left = not outcome.ended and not prompt.over
        finally:
            self._give_back()
        if self._stops:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._guardian, signal.SIGINT)
        if left:
            name = self._session.name
            out(LEFT.format("" if name == "default" else f" --name {name}"))
        self._relayed.wait()

    def _hear_early(self, prompt: Prompt) -> None:
        """Unblock Ctrl-C; one that arrived before counts as one at the prompt."""
        if EARLY & signal.sigpending():
            signal.sigwait(EARLY)
            self.interrupted(prompt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY)

    def _lines(self, prompt: Prompt) -> Iterator[str]:
        for line in prompt.lines():
            self._asked = False
            yield line

    def wait_for_door(self) -> bool:
        """Wait until the service answers and return True; return False if it ends before."""
        while not self._relayed.wait(PAUSE):
            try:
                self._session.client().glance("/api/v1/health", 5.0)
            except CommandError:
                continue
            return True
        return False

    def interrupted(self, prompt: Prompt) -> None:
        """Handle Ctrl-C on an empty line. The second one in a row is for the service, sent after the terminal is."""
        if not self._asked:
            self._asked = True
            threading.Thread(target=prompt.screen.put, args=(ASKED + "\n",), daemon=True).start()
            return
        self._stops = True
        prompt.end(ENDING)

    def _relay(self, screen: Screen, prompt: Prompt) -> None:
        """Display the output of the service in whole lines until the last writer has closed it."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        while True:
            try:
                data = os.read(self._log, 65536)
            except OSError:  # EIO: the last writer has closed it
                break
            if not data:
                break
            lines, newline, rest = (rest + decoder.decode(data)).rpartition("\n")
            _show(screen, lines + newline)
        _show(screen, rest and rest + "\n")
        self._relayed.set()
        prompt.end("cservice: the service has ended")

    def _give_back(self) -> None:
        """Restore the terminal settings, and make the group of the service the foreground group."""
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(0, termios.TCSADRAIN, self._terminal)
        with contextlib.suppress(OSError):
            if os.tcgetpgrp(0) == os.getpgrp():
                os.tcsetpgrp(0, self._group)


def _show(screen: Screen, text: str) -> None:
    """Display the lines in *text*. Ignores every error: the service must not block on its output."""
    kept = "".join(line for line in text.splitlines(keepends=True) if not OWN.search(line))
    if kept:
        with contextlib.suppress(Exception):
            screen.put(kept)


def main() -> None:
    """Run the console."""
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--guardian", type=int, required=True)
    parser.add_argument("--log", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--events", action="store_true")
    given = parser.parse_args()
    os.set_inheritable(given.log, False)
    session = Session(name=rundir.check_name(given.name), run_dir=given.run_dir, compact=True)
    Beside(given.guardian, given.log, session, events=given.events).run()


__all__ = ["attach", "main", "wanted"]
