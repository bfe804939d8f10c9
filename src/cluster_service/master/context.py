"""The context of a custom command, which it receives as its first argument."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from cluster_service.control.caller import Caller

    from .dispatch import Dispatch


def on_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], seconds: float | None = None) -> Any:
    """Run *coroutine* on *loop*, the master's event loop. In a thread, return its result. In a coroutine, return a
    future of its result. In a thread, raises TimeoutError after *seconds*.
    """
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(seconds)
    if here is loop:
        return loop.create_task(coroutine)
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


class Context:
    """The caller of a command, and the service. An ``async`` command must ``await`` the results marked "awaitable".

    ``name``: the command. ``service``: the name of the service. ``caller``: ``door`` (``unix``, ``tcp``, ``worker``,
    ``master``), ``peer`` and ``key`` (the name of the access key, never the key itself).
    """

    def __init__(
        self,
        name: str,
        caller: Caller,
        dispatch: Dispatch,
        builtin: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    ) -> None:
        self.name = name
        self.service = dispatch.service.name
        self.caller = caller
        self._dispatch = dispatch
        self._builtin = builtin

    def __repr__(self) -> str:
        """Return, for example, ``<Context of greet, given by uid:0 at unix>``."""
        return f"<Context of {self.name}, given by {self.caller.peer or 'the program'} at {self.caller.door}>"

    def log(self, text: object) -> None:
        """Write *text* to the log of the service, each line with the name of the command."""
        self._dispatch.log(self.name, str(text))

    def command(self, name: str, /, *args: Any, **options: Any) -> Any:
        """Run another command and return its result (awaitable); of a long one, the operation when it begins.

        It runs with the rights of the service's program, whatever the rights of the caller. Raises CommandError.
        """
        return self._dispatch.inside(name, args, options)

    def follow(self, operation: dict[str, Any]) -> Any:
        """Wait until *operation* has ended, successfully or not, and return it (awaitable)."""
        return on_loop(self._dispatch.loop, self._dispatch.follow(str(operation["id"])))

    def builtin(self, **arguments: Any) -> Any:
        """Run the overridden built-in command with the arguments of this one, updated by *arguments* (awaitable).

        Raises CommandError if this command overrides none.
        """
        return on_loop(self._dispatch.loop, self._builtin(arguments))

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers, as the command ``workers`` does."""
        return self._dispatch.workers()

    def broadcast(self, message: Any, group: str | None = None) -> Any:
        """Send *message* to the workers of *group*, or to all; return how many received it (awaitable)."""
        return self._dispatch.broadcast(message, group)


__all__ = ["Context", "on_loop"]
