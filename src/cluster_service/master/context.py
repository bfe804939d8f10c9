"""What a custom command is told and may do: its first argument."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from cluster_service.control.caller import Caller

    from .dispatch import Dispatch


def on_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], seconds: float | None = None) -> Any:
    """Have *coroutine* carried out on *loop*, the master's. In a thread: return its result. In a coroutine on a loop:
    return a future of its result. *seconds*: TimeoutError in a thread after so long.
    """
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(seconds)
    if here is loop:
        return loop.create_task(coroutine)
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


class Context:
    """Who gives the command, and the service. In an ``async`` command, ``await`` what is marked so.

    ``name``: the command. ``service``: the service's name. ``caller``: ``door`` (``unix``, ``tcp``, ``worker``,
    ``master``), ``peer`` and ``key`` (the name of the access key, never the key).
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
        """``<Context of greet, given by uid:0 at unix>``."""
        return f"<Context of {self.name}, given by {self.caller.peer or 'the program'} at {self.caller.door}>"

    def log(self, text: object) -> None:
        """Write *text* to the service's log, each line with the command's name."""
        self._dispatch.log(self.name, str(text))

    def command(self, name: str, /, *args: Any, **options: Any) -> Any:
        """Give another command and return its result (await it): of a long one, the operation as it begins.

        The service's program gives it, whoever gave this one. Raises CommandError.
        """
        return self._dispatch.inside(name, args, options)

    def follow(self, operation: dict[str, Any]) -> Any:
        """Return *operation* when it has ended, well or not (await it)."""
        return on_loop(self._dispatch.loop, self._dispatch.follow(str(operation["id"])))

    def builtin(self, **arguments: Any) -> Any:
        """Run the command that this one overrides, with this one's arguments but for *arguments* (await it).

        Raises CommandError where it overrides none.
        """
        return on_loop(self._dispatch.loop, self._builtin(arguments))

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers, as the command ``workers`` shows them."""
        return self._dispatch.workers()

    def broadcast(self, message: Any, group: str | None = None) -> Any:
        """Send *message* to the workers of *group*, or to all; return how many took it (await it)."""
        return self._dispatch.broadcast(message, group)


__all__ = ["Context", "on_loop"]
