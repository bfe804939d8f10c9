"""The prompt: edits, completes and explains the line being typed, and displays events above it.

Its history is in ``$XDG_STATE_HOME/cluster-service/history``, mode 0600.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from typing import TYPE_CHECKING, Any, Self

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.styles import Style

from cluster_service import rundir
from cluster_service.cli import completion, rendering
from cluster_service.cli.output import out
from cluster_service.client.client import feed
from cluster_service.core.rules import redaction
from cluster_service.errors import CommandError
from cluster_service.machine import files

from .screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.key_binding import KeyPressEvent

    from cluster_service.cli.session import Session

TROUBLE = frozenset({"slot_broken", "slot_recovered", "worker_hung", "worker_kill", "master_start", "missed"})
"""Events displayed while a command runs too, besides failures of workers."""
STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "prompt": "bold"})
REST = "Tab completes · F2 switches the events {} · Ctrl-D leaves"


class Completing(Completer):
    """Completion from the same source as for shells."""

    def __init__(self, offers: completion.Offers) -> None:
        self._offers = offers

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield the completions of the current word."""
        words, current = completion.split(document.text_before_cursor)
        choices = completion.complete(words, current, self._offers)
        for choice in choices.found:
            yield Completion(choice.text, start_position=-len(current), display_meta=choice.doc.split("\n")[0])
        if choices.files:
            paths = PathCompleter(only_directories=choices.files == "directories", expanduser=True)
            yield from paths.get_completions(Document(current, len(current)), complete_event)


class Prompt:
    """The prompt of one console; use it in a ``with`` block."""

    def __init__(
        self, session: Session, *, screen: Screen | None = None, events: bool = True, after: int | None = None
    ) -> None:
        """Set up the prompt.

        *screen*: displays lines that arrive by themselves; *events*: display events, from after the event with id
        *after* (None: from now on).
        """
        self._name = session.name
        self._client = session.client
        self.screen = screen or Screen()
        self._offers = completion.Asked(session.client)
        self._events = events
        self._after = after
        self._at_prompt = False
        self._given = ""
        """The last command typed. Its own event often arrives when the prompt is back, and is not displayed."""
        self._over = ""
        """Why there will be no further prompt; empty while there may be one."""
        self._application: tuple[asyncio.AbstractEventLoop, Any] | None = None
        self._lock = threading.Lock()
        self._prompt: PromptSession[str] = PromptSession(
            completer=Completing(self._offers),
            complete_in_thread=True,
            complete_while_typing=False,
            history=FileHistory(place()),
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=self._keys(),
            bottom_toolbar=self._toolbar,
            style=STYLE,
            reserve_space_for_menu=5,
        )

    def __enter__(self) -> Self:
        """Start listening to the service."""
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the listening thread is a daemon."""

    @property
    def over(self) -> str:
        """Why there is no further prompt; empty while there may be one."""
        return self._over

    # -- lines -------------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Yield the lines typed, until the user leaves the console or the service has ended."""
        while not self._over:
            line = self.ask()
            if line is None:
                return
            self._given = line.strip().partition(" ")[0]
            yield line
        out(self._over)

    def ask(self) -> str | None:
        """Return a line; empty if it was cleared, None if the console ends."""
        try:
            self._at_prompt = True
            line = self._prompt.prompt(f"{self._name}> ", pre_run=self._begun)
        except EOFError:
            if not self._over:
                return None
            out(self._over)
            return None
        except KeyboardInterrupt:
            line = ""
        finally:
            self._at_prompt = False
            with self._lock:
                self._application = None
            self.screen.ended()
        return line

    def interrupted(self) -> None:
        """Handle Ctrl-C on an empty line; for subclasses."""

    def end(self, why: str) -> None:
        """End the prompt and print *why*. Thread-safe."""
        with self._lock:
            self._over = self._over or why
            if self._application is not None:
                loop, application = self._application
                loop.call_soon_threadsafe(_leave, application)

    def _begun(self) -> None:
        with self._lock:
            loop, application = asyncio.get_running_loop(), get_app()
            self._application = loop, application
            if self._over:
                loop.call_soon(_leave, application)
        self.screen.prompting(loop)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("f2")
        def _switch(_event: KeyPressEvent) -> None:
            self._events = not self._events

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _clear(event: KeyPressEvent) -> None:
            empty = not event.current_buffer.text
            event.current_buffer.reset()
            if empty:
                self.interrupted()

        return keys

    def _toolbar(self) -> str:
        words, current = completion.split(self._prompt.default_buffer.document.text_before_cursor)
        text = completion.usage(words, current, self._offers.known()) if words or current else ""
        text = text or REST.format("off" if self._events else "on")
        width = max(20, get_app().output.get_size().columns - 1)
        return text if len(text) <= width else text[: width - 1] + "…"

    # -- events ------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Load the commands of the service, then display its events until it ends."""
        self._offers.commands()
        try:
            for event in feed(self._client(), self._after):
                self.heard(event)
        except CommandError as error:
            if error.code == "unavailable":
                self.end(f"cservice: {rendering.clean_lines(error.message)}")

    def heard(self, event: Mapping[str, Any]) -> None:
        """Display *event*, unless it belongs to the command just given or events are off."""
        kind = event.get("event")
        if kind == "command" and event.get("name") == self._given:
            self._given = ""
            return
        grave = kind in TROUBLE or (kind == "worker_exit" and event.get("reason") == "failure")
        if self._events and (grave or self._at_prompt):
            self.screen.put(rendering.event(event) + "\n")


def _leave(application: Any) -> None:
    if application.is_running:
        application.exit(exception=EOFError())


KEPT = 1000
"""Maximum number of lines loaded; the file is truncated to them when it holds more than twice as many."""
_SECRET = re.compile(r"access.?key|--env\b|\benv[:=]|\"env\"", re.IGNORECASE)


def place(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of the file; None if this user has no state directory."""
    state = rundir.state_home(environ)
    return None if state is None else os.path.join(state, "history")


class FileHistory(History):
    """The history in the file at *path*; None: in memory only."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Yield the lines, newest first."""
        lines = self._read()
        if len(lines) > 2 * KEPT:
            lines = lines[-KEPT:]
            self._keep("".join(line + "\n" for line in lines))
        return reversed(lines[-KEPT:])

    def store_string(self, string: str) -> None:
        """Add a line, unless it is likely to contain a secret."""
        line = " ".join(string.split("\n"))
        words = line.split()
        if not _SECRET.search(line) and redaction.redact_arguments(words) == words:
            self._add(line + "\n")

    def _read(self) -> list[str]:
        if self._path is None:
            return []
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return file.read().splitlines()
        except OSError:
            return []

    def _add(self, text: str) -> None:
        if self._path is None:
            return
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(files.open_for_append(self._path, 0o600), "ab") as file:
                file.write(text.encode("utf-8", "replace"))
        except OSError:
            self._path = None  # continue without a file

    def _keep(self, text: str) -> None:
        if self._path is None:
            return
        try:
            files.replace(self._path, text.encode("utf-8", "replace"), 0o600, follow=False)
        except OSError:
            self._path = None
