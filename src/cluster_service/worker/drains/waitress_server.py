"""waitress: its connections, its answers once the worker stops, and its thread pool.

Its loop and its threads share the connections: the loop reads a request, and a thread answers it.
"""

from __future__ import annotations

import functools
from math import inf as infinity
from typing import TYPE_CHECKING, Any, List

from .connections import connections, kept

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime


def install(module: ModuleType, runtime: Runtime) -> None:
    """Track the channels of ``waitress.channel``, or the tasks and pools of ``waitress.task``."""
    if module.__name__ == "waitress.channel":
        _follow(module.HTTPChannel, runtime)
    else:
        _close_answers(module.Task, runtime)
        _watch(module.ThreadedTaskDispatcher, runtime)


def _follow(channel_class: Any, runtime: Runtime) -> None:
    initialize, received, service, handle_close = (
        channel_class.__init__,
        channel_class.received,
        channel_class.service,
        channel_class.handle_close,
    )

    @functools.wraps(initialize)
    def open_channel(self: Any, server: Any, sock: Any, *args: Any, **kwargs: Any) -> None:
        initialize(self, server, sock, *args, **kwargs)
        runtime.serves(kept)
        connections.open(self, sock, state="new", patience=infinity)

    @functools.wraps(received)
    def receive(self: Any, data: Any) -> Any:
        connection = connections.of(self)
        if connection is not None and connection.state != "busy":
            connections.moves(connection, "new")
        return received(self, data)

    @functools.wraps(service)
    def serve(self: Any) -> Any:
        connections.moves(connections.of(self), "busy")
        try:
            return service(self)
        finally:
            if not self.requests:
                connections.moves(connections.of(self), "new" if self.request is not None else "idle")

    @functools.wraps(handle_close)
    def close_channel(self: Any) -> Any:
        try:
            return handle_close(self)
        finally:
            connections.close(self)

    channel_class.__init__ = open_channel
    channel_class.received = receive
    channel_class.service = serve
    channel_class.handle_close = close_channel


def _close_answers(task_class: Any, runtime: Runtime) -> None:
    original = task_class.build_response_header

    @functools.wraps(original)
    def build_response_header(self: Any) -> Any:
        if runtime.stopping:
            self.set_close_on_finish()
        return original(self)

    task_class.build_response_header = build_response_header


def _watch(dispatcher_class: Any, runtime: Runtime) -> None:
    """Report the pool as stuck if requests wait and no thread takes the first one."""
    original = dispatcher_class.__init__

    @functools.wraps(original)
    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        first: List[Any] = []

        def stuck() -> bool:
            waiting = list(self.queue)[:1]
            same = bool(waiting) and bool(first) and waiting[0] is first[0]
            first[:] = waiting
            return same and self.active_count >= len(self.threads)

        runtime.pulse.needs(stuck)

    dispatcher_class.__init__ = initialize
