"""Commands from inside the service: from its own program, its custom commands and its workers.

Permissions: the program itself may run every command that is not disabled. A worker may run the custom commands of its
service (except one that overrides a command that changes something, unless defined with ``workers=True``) and the
built-in commands that only read. It can never restart or upgrade the service, since workers may be less trusted than
the master. A name that is not a command is an event.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any

from cluster_service.commands import arguments
from cluster_service.commands.registry import NAME, Command
from cluster_service.commands.service_interface import CALLER, INSIDE
from cluster_service.config.settings_table import canonical
from cluster_service.errors import CommandError
from cluster_service.server import audit
from cluster_service.server.access import Admission, Knock, check_right

from .command_context import on_loop
from .custom_command_registry import Custom
from .hooks import NAMES, OWN_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster_service.commands.service_interface import Caller

    from .custom_command_registry import Extensions
    from .interfaces import Broadcaster, Master
    from .service_api import RunningService

LINES = 200
"""Maximum lines of one text that are logged."""


class Dispatch:
    """The commands of a running master for callers inside the service."""

    def __init__(self, master: Master, service: RunningService, extensions: Extensions, bus: Broadcaster) -> None:
        self.service = service
        self.loop = asyncio.get_running_loop()
        self._master = master
        self._registry = extensions.registry
        self._bus = bus

    # -- for contexts and the program ----------------------------------------------------------------------------------

    def log(self, who: str, text: str) -> None:
        """Log *text*, with *who* as the prefix of each line."""
        for line in text.splitlines()[:LINES] or [""]:
            self._master.log(f"{who}: {_printable(line)}")

    def inside(self, name: str, args: Sequence[Any], options: Mapping[str, Any], within: float | None = None) -> Any:
        """Run a command, or publish an event, as the service's own program."""
        return on_loop(self.loop, self.give(name, args, options, INSIDE), within)

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers. Thread-safe."""
        if _runs_here(self.loop):
            return self.service.workers()

        async def ask() -> list[dict[str, Any]]:
            return self.service.workers()

        return asyncio.run_coroutine_threadsafe(ask(), self.loop).result()

    def broadcast(self, message: Any, group: str | None) -> Any:
        """Send *message* to workers. Thread-safe."""
        return on_loop(self.loop, self._bus.broadcast(message, group))

    async def follow(self, operation: str) -> dict[str, Any]:
        """Wait until the operation has ended and return it."""
        view = self.service.operation(operation)
        while view["state"] == "running":
            seen = view.get("steps_dropped", 0) + len(view["steps"])
            view = await self.service.follow(operation, seen, 60.0)
        return view

    # -- commands and events -------------------------------------------------------------------------------------------

    async def give(self, name: str, args: Sequence[Any], options: Mapping[str, Any], caller: Caller) -> Any:
        """Run the command *name* and return its result, or publish the event. Raises CommandError."""
        command = self.find(name)
        if command is None:
            self.tell(name, args, options, caller)
            return None
        began, outcome, given = time.monotonic(), "internal", {}
        try:
            check_caller(command, caller)
            given = arguments.from_call(command, args, options)
            given.pop("no_wait", None)
            if caller is INSIDE:
                given = arguments.from_here(command, given)
            result = await self.run(command, given, caller)
            outcome = "accepted" if command.operation else "done"
        except CommandError as error:
            outcome = error.code
            raise
        finally:
            self._audit(command, given, caller, outcome, time.monotonic() - began)
        return result

    async def run(self, command: Command, given: Mapping[str, Any], caller: Caller = INSIDE) -> Any:
        """Run *command* with checked arguments."""
        custom = getattr(command.run, "__self__", None)
        if isinstance(custom, Custom):
            return await custom.call(given, caller)
        token = CALLER.set(caller)
        try:
            result = command.run(self.service, **given)
            return await result if inspect.isawaitable(result) else result
        finally:
            CALLER.reset(token)

    def find(self, name: str) -> Command | None:
        """Return the command *name*, or None if *name* is an event."""
        try:
            return self._registry.get(name)
        except CommandError:
            return None

    def tell(self, name: str, args: Sequence[Any], options: Mapping[str, Any], caller: Caller) -> None:
        """Publish the custom event *name* to the log, the hooks and the streams. Raises CommandError."""
        known = canonical(name)
        if not NAME.match(name):
            raise CommandError("bad_request", f"{name[:80]!r} is the name of neither a command nor an event")
        if known in NAMES:
            raise CommandError("bad_request", f"{known} is an event of the service itself", "Choose another name.")
        fields = {str(key): value for key, value in options.items()}
        taken = sorted(OWN_FIELDS & set(fields))
        if taken:
            raise CommandError("bad_request", f"{known}: {taken[0]!r} is a field that every event has by itself")
        shown = ", ".join([*(repr(value) for value in args), *(f"{key}={value!r}" for key, value in fields.items())])
        source = caller.peer or caller.door
        line = f"event {known} ({source})" + (f": {_printable(shown[:200])}" if shown else "")
        self._master.tell(known, {"source": source, "args": list(args), **fields}, line)

    def _audit(self, command: Command, given: Mapping[str, Any], caller: Caller, outcome: str, seconds: float) -> None:
        entry = audit.entry(Knock("unix", caller.peer), None, command.name, given, outcome, seconds)
        aloud = command.changes or outcome not in ("done", "accepted")
        self.service.audit({**entry, "door": caller.door, "key": caller.key}, aloud=aloud)


def check_caller(command: Command, caller: Caller) -> None:
    """Raise CommandError ``forbidden`` if *caller*, the program or a worker, may not run *command*."""
    if command.access == "disabled":
        check_right(command.name, command.access, Admission("", "local"))
    if caller.door != "worker" or command.workers:
        return
    if not command.custom and command.access == "remote" and not command.changes:
        return
    raise CommandError(
        "forbidden",
        f"a worker may not give {command.name}",
        "Define a command of the service's own that does it, and trigger that one.",
    )


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _printable(text: str) -> str:
    plain = (char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in text)
    return "".join(plain)
