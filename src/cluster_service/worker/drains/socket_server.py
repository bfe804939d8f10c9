"""Servers of ``socketserver``: http.server, xmlrpc, wsgiref, and Flask's development server.

They do not stop on a signal. Here a stop ends the accept loop immediately (a pipe wakes its selector), finishes a
request that the loop itself is answering, waits for threads and forked children, and then ends the worker.

Accepting: workers share the listening socket, and the selectors of all of them report one new connection. The slower
ones would block in ``accept`` until the next. So the socket is made non-blocking while it is served. (This flag belongs
to the socket and so applies to every worker; it is never reset. Python's own timeout stays None, and on Linux an
accepted socket does not inherit it.) A late ``accept`` raises OSError, which the loop expects.
"""

from __future__ import annotations

import functools
import selectors
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, List, Optional

from ..descriptors import pipe
from ..heartbeat import BEAT_SECONDS
from ..unpatched import os, select, start_thread, time
from . import RunningServer
from .open_connections import connections

if TYPE_CHECKING:
    from types import ModuleType

    from ..runtime import Runtime

_local = threading.local()


class ServerLoop(RunningServer):
    """One call of ``serve_forever`` or ``handle_request``."""

    def __init__(self, server: Any, *, forever: bool) -> None:
        self.server = server
        self.forever = forever
        self.stopping = False
        self.ended = threading.Event()  # never waited for: with green threads that is impossible
        self.wake, self._waker = pipe()
        self._open = True
        self._lock = threading.RLock()  # also acquired in a signal handler

    def begin(self) -> None:
        """Make the loop end."""
        self.stopping = True
        with self._lock:
            if not self._open:
                return  # it has already ended
            with suppress(OSError):  # the program has closed it: the loop checks by itself
                self._waker.write(b"s")
        self.server._BaseServer__shutdown_request = True  # what shutdown() sets before it waits

    def drain(self, deadline: float) -> None:
        """Wait for the requests in progress until *deadline* (monotonic seconds)."""
        connections.drain(self.ended.is_set, deadline)
        for pid in list(getattr(self.server, "active_children", None) or ()):
            _await_child(pid, deadline)

    def has_open_requests(self) -> bool:
        """Return True if a connection has to settle."""
        return connections.are_unsettled()

    def settle(self, deadline: float) -> None:
        """Wait until no connection has to settle; the loop continues."""
        connections.settle(deadline)

    def woken(self, runtime: Runtime) -> None:
        """Handle the wakeup of a stopping loop. ``serve_forever`` ends by itself; ``handle_request`` would wait."""
        if not self.forever:
            self.ended.set()
            connections.tell()
            runtime.await_exit()

    def end(self) -> None:
        """Record that the loop has ended."""
        self.ended.set()
        connections.tell()
        with self._lock:
            self._open = False
            self._waker.close()
            self.wake.close()


def _await_child(pid: int, deadline: float) -> None:
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    os.close(fd)


def drain_servers(module: ModuleType, runtime: Runtime) -> None:
    """Drain the servers made from the classes of *module*."""
    _wrap_loops(module.BaseServer, runtime)
    _wrap_processing(module)
    _wrap_forking(module, runtime)
    _wrap_datagrams(module.UDPServer)
    module._ServerSelector = _waking(module._ServerSelector, runtime)  # type: ignore[attr-defined]


def _wrap_loops(server_class: Any, runtime: Runtime) -> None:
    def wrap(name: str) -> None:
        original = getattr(server_class, name)

        @functools.wraps(original)
        def loop(self: Any, *args: Any, **kwargs: Any) -> Any:
            if runtime.draining:
                runtime.await_exit()
            _never_block_in_accept(self)
            serving = ServerLoop(self, forever=name == "serve_forever")
            outer: Optional[ServerLoop] = getattr(_local, "loop", None)
            _local.loop = serving
            runtime.add_server(serving)
            try:
                result = original(self, *args, **kwargs)
            finally:
                _local.loop = outer
                runtime.heartbeat.loop_ended(serving)
                serving.end()
                if not serving.stopping:
                    runtime.remove_server(serving)
            if serving.stopping:
                runtime.await_exit()
            return result

        setattr(server_class, name, loop)

    wrap("serve_forever")
    wrap("handle_request")


def _never_block_in_accept(server: Any) -> None:
    listener = getattr(server, "socket", None)
    if isinstance(listener, socket.socket) and listener.fileno() >= 0 and listener.type == socket.SOCK_STREAM:
        os.set_blocking(listener.fileno(), False)


def _waking(selector_class: Any, runtime: Runtime) -> Any:
    class Selector(selector_class):  # type: ignore[misc]
        """A selector that also returns, with an empty list, when the worker stops."""

        def __init__(self) -> None:
            super().__init__()
            self._loop: Optional[ServerLoop] = getattr(_local, "loop", None)
            if self._loop is not None:
                self.register(self._loop.wake.fd, selectors.EVENT_READ)

        def select(self, timeout: Optional[float] = None) -> List[Any]:
            if self._loop is None:
                return list(super().select(timeout))
            if self._loop.forever:  # it repeats the call by itself, so a shorter timeout is harmless
                runtime.heartbeat.beat(self._loop)
                timeout = BEAT_SECONDS if timeout is None else min(timeout, BEAT_SECONDS)
            ready = super().select(timeout)
            if self._loop.stopping:
                self._loop.woken(runtime)
                return []
            return [item for item in ready if item[0].fileobj != self._loop.wake.fd]

    return Selector


def _wrap_processing(module: ModuleType) -> None:
    def inline(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def process_request(self: Any, request: Any, client_address: Any) -> Any:
            connections.open(request)
            try:
                return original(self, request, client_address)
            finally:
                connections.close(request)

        return process_request

    def begin_thread(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def process_request(self: Any, request: Any, client_address: Any) -> Any:
            connections.open(request)
            try:
                return original(self, request, client_address)
            except BaseException:
                connections.close(request)
                raise

        return process_request

    def end_thread(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def process_request_thread(self: Any, request: Any, client_address: Any) -> Any:
            try:
                return original(self, request, client_address)
            finally:
                connections.close(request)

        return process_request_thread

    def quiet(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def handle_error(self: Any, request: Any, client_address: Any) -> Any:
            connection = connections.of(request)
            if connection is not None and connection.is_ended_early and isinstance(sys.exc_info()[1], OSError):
                return None  # the error is how the handler was notified
            return original(self, request, client_address)

        return handle_error

    module.BaseServer.process_request = inline(module.BaseServer.process_request)
    module.BaseServer.handle_error = quiet(module.BaseServer.handle_error)
    threads = module.ThreadingMixIn
    threads.process_request = begin_thread(threads.process_request)
    threads.process_request_thread = end_thread(threads.process_request_thread)


def _wrap_forking(module: ModuleType, runtime: Runtime) -> None:
    original = module.ForkingMixIn.process_request

    @functools.wraps(original)
    def process_request(self: Any, request: Any, client_address: Any) -> Any:
        _local.forking = request
        try:
            return original(self, request, client_address)
        finally:
            _local.forking = None

    def in_child() -> None:
        connections.forget()
        request, loop = getattr(_local, "forking", None), getattr(_local, "loop", None)
        if request is not None and loop is not None:
            connections.open(request)
            start_thread(_stop_with_parent, loop, runtime)

    module.ForkingMixIn.process_request = process_request
    os.register_at_fork(after_in_child=in_child)


def _stop_with_parent(loop: ServerLoop, runtime: Runtime) -> None:
    """In the child that answers one connection: detect the stop through the pipe that wakes the parent's loop."""
    poll = select.poll()
    poll.register(loop.wake.fd, select.POLLIN)
    poll.poll()
    runtime.begin_stop()
    loop.ended.set()
    connections.drain(loop.ended.is_set, runtime.deadline)


def _wrap_datagrams(server_class: Any) -> None:
    original = server_class.get_request

    @functools.wraps(original)
    def get_request(self: Any) -> Any:
        if not isinstance(self.socket, socket.socket) or self.socket.gettimeout() is not None:
            return original(self)
        # Another worker may have taken the datagram. The socket itself stays blocking, because handlers send with it.
        data, client_address = self.socket.recvfrom(self.max_packet_size, socket.MSG_DONTWAIT)
        return (data, self.socket), client_address

    server_class.get_request = get_request
