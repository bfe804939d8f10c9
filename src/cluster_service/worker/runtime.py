"""The worker's side of the service: readiness and stopping.

A stop begins with the message ``stop`` on the channel (which announces its timeout), with SIGTERM, or with the end of
the channel if the guardian has died. From there it follows the table in ``stop_sequence``; the methods below carry it
out, in the order in which they are used:

- SIGTERM is handled here, unless the program has its own handler. That one runs once the worker has stopped accepting
  and its requests are answered (``program_handlers``), and ``on_worker_stop`` runs concurrently.
- The servers known to the runtime (``drains``) stop accepting and finish their requests, supervised by a separate
  thread, so that the main thread can continue its request. Then SIGTERM is handled a second time, in the main thread:
  ``on_worker_stop`` runs once, and SystemExit(0) unwinds the program like ``sys.exit``.
- A program that is still importing modules and has not been ready is not unwound, because an exception in an import is
  often swallowed or changed. It exits immediately after ``on_worker_stop``, if it has set one.
- Nothing waits beyond the announced timeout: shortly before it the worker exits, even if it still has threads.
"""

from __future__ import annotations

import atexit
import functools
import signal
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from cluster_service.wire.worker_protocol import BUS

from .descriptors import is_listening
from .drains import call_server
from .forced_exit import end_in_time, end_now, is_importing
from .guardian_channel import Channel
from .message_bus import Bus
from .program_handlers import ProgramHandlers
from .reporting import warn
from .stop_callback import StopCallback
from .stop_sequence import CLOSED, DEFAULT_TIMEOUT, DRAINING, SHUTTING_DOWN, UNASKED, StopSequence
from .unpatched import get_ident, os, running_loop, start_thread
from .worker_process import has_died, on_fork

if TYPE_CHECKING:
    from types import FrameType

    from .drains import RunningServer
    from .heartbeat import Heartbeat
    from .worker_process import ProcessTitle

_REPEAT_SECONDS = 0.5
"""Seconds after which a SIGTERM that had no effect is sent again."""
_LOOP_SECONDS = 0.05
"""Seconds that an asyncio loop which may be about to end gets before the program is ended in it."""


class Runtime:
    """The worker's side of the service. Created once, in the main thread, before the program runs."""

    def __init__(self, channel: Optional[int], share: str, heartbeat: Heartbeat, title: ProcessTitle) -> None:
        self.share = share
        self.heartbeat = heartbeat
        self.check: Optional[int] = None
        """The descriptor of the socket for health checks of the worker, if enabled."""
        self.title = title
        self.callback = StopCallback()
        self.servers: List[RunningServer] = []
        self.sequence = StopSequence()
        self._pid = os.getpid()
        self._parent = os.getppid()
        self._main = get_ident()
        self._reported: Optional[bool] = None
        """The readiness reported last; None: not reported yet."""
        self._was_ready = False
        self._channel: Optional[Channel] = None
        if channel is not None:
            self._channel = Channel(
                channel, self._on_message, self._on_channel_end, heartbeat.beat_without_loop, self._on_channel_lost
            )
        self.bus = Bus(self._channel.offer) if self._channel is not None else None
        self.program_handlers = ProgramHandlers(self)

    def start(self) -> None:
        """Start handling the channel and SIGTERM."""
        self.program_handlers.install()
        signal.signal(signal.SIGTERM, self.on_sigterm)
        atexit.register(self._at_exit)
        on_fork(self._after_fork)
        if self._channel is not None:
            self._channel.start()

    @property
    def is_fork(self) -> bool:
        """True in a process that the worker has forked, which is not a worker."""
        return self._pid != os.getpid()

    @property
    def channel_fd(self) -> Optional[int]:
        """The descriptor of the channel, to pass to another process."""
        return None if self._channel is None else self._channel.fd

    # Readiness

    def report_ready(self, ready: bool) -> None:  # noqa: FBT001 - the field of the message
        """Report that the worker is ready, or (False) not ready yet. Repeated calls are ignored."""
        if ready == self._reported:
            return
        self._reported = ready
        self._was_ready |= ready
        if self._channel is not None:
            self._channel.send({"type": "ready", "ready": ready})

    def server_started(self) -> None:
        """Report readiness when the server of an app serves, unless the app has reported its readiness."""
        if self._reported is None:
            self.report_ready(True)

    def notify(self, fields: Dict[str, str]) -> None:
        """Send *fields* of sd_notify(3)."""
        if self._channel is not None:
            self._channel.send({"type": "notify", "fields": fields})

    # Servers

    def add_server(self, serving: RunningServer) -> None:
        """Drain *serving* when the worker stops. Repeated calls do nothing."""
        if serving in self.servers:
            return
        self.servers.append(serving)
        if self.draining:  # the program has caught SystemExit and continues
            serving.begin()

    def remove_server(self, serving: Optional[RunningServer]) -> None:
        """Remove a server that has ended; an unknown one is ignored."""
        if serving in self.servers:
            self.servers.remove(serving)

    @property
    def server_runs_callback(self) -> bool:
        """True if a server drains itself on the signal and runs ``on_worker_stop``."""
        return any(each.runs_callback for each in self.servers)

    # A stop is announced: running -> announced

    def _on_message(self, message: Dict[str, Any]) -> None:
        if message["type"] == "stop":
            timeout = message.get("timeout")
            self.begin_stop(float(timeout) if isinstance(timeout, (int, float)) else DEFAULT_TIMEOUT)
            if self.handles_sigterm():
                start_thread(self._repeat_sigterm, "announced")
            elif not self.program_handlers.are_set():
                self.run_callback_in_thread()
        elif message["type"] == "state":
            self._was_ready = True
            self.title.show(str(message.get("state")))
        elif message["type"] in BUS and self.bus is not None:
            self.bus.receive(message)

    def _on_channel_lost(self) -> None:
        """Continue without the channel, which the program has closed. The service sends SIGTERM to stop the worker."""
        if self.bus is not None:
            self.bus.end()
        warn(
            "the program has closed the descriptor of its channel to the service: the worker runs on, but cannot "
            "report readiness or receive messages. Do not close descriptors that the program has not opened"
        )

    def _on_channel_end(self) -> None:
        if self.bus is not None:
            self.bus.end()
        start_thread(self._service_is_gone)

    def _service_is_gone(self) -> None:
        if not has_died(self._parent):
            return  # only the channel has ended; SIGTERM announces a stop
        self.begin_stop()
        if not self.program_handlers.are_set():
            self.run_callback_in_thread()
        # The kernel sends SIGTERM when the guardian dies. To some programs a second one means an immediate exit, so
        # it is sent from here only if our own handler is set, which tolerates repeated signals.
        if self.handles_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
        self._repeat_sigterm("announced")

    def begin_stop(self, timeout: Optional[float] = None) -> None:
        """Record that the worker must stop within *timeout* seconds, if known. Only the first call counts."""
        if timeout is None:
            if self._channel is not None and not self.stopping:
                self._channel.catch_up()  # if the service sent the signal, its announcement is already on the channel
            timeout = DEFAULT_TIMEOUT
        self.sequence.announce(timeout)
        self.heartbeat.accepting.end()
        self.title.show_stop()

    @property
    def stopping(self) -> bool:
        """True if the worker has been asked to stop."""
        return self.sequence.state not in UNASKED

    @property
    def deadline(self) -> float:
        """The time (``time.monotonic()``) by which the worker should have exited; infinite before a stop."""
        return self.sequence.deadline

    def remaining(self) -> float:
        """Return the seconds left to stop; the default timeout if no stop was announced."""
        return self.sequence.remaining()

    def handles_sigterm(self) -> bool:
        """Return True if SIGTERM is handled here rather than by a handler of the program."""
        return not self.program_handlers.are_set() and signal.getsignal(signal.SIGTERM) == self.on_sigterm

    def _repeat_sigterm(self, state: str) -> None:
        """Send SIGTERM to the main thread repeatedly, while the stop is in *state* and SIGTERM is handled here.

        A system call that the thread enters just as the signal arrives is not interrupted; Python runs handlers between
        system calls, so it might wait forever. This is only done with our own handler, which tolerates repeated
        signals.
        """
        while not self.sequence.wait_while((state,), _REPEAT_SECONDS):
            if not self.handles_sigterm():
                return
            signal.pthread_kill(self._main, signal.SIGTERM)

    def run_callback_in_thread(self) -> None:
        """Run ``on_worker_stop`` in a thread if the program handles SIGTERM itself, unless a drain will run it."""
        if (
            not self.callback.is_set
            or self.sequence.state in SHUTTING_DOWN
            or self.handles_sigterm()
            or self.server_runs_callback
        ):
            return
        self.callback.run_in_thread(self.remaining)

    # SIGTERM arrives: announced -> draining -> drained

    def on_sigterm(self, signum: int, frame: Optional[FrameType]) -> None:
        """Handle SIGTERM, if the program does not. It may arrive again at any time."""
        del frame
        if self.is_fork:  # a fork that Python's fork hooks have not seen
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        self.begin_stop()
        if self.sequence.can("drain") and (self.servers or is_listening()):
            if self.sequence.move("drain"):
                self._begin_drain()
        else:
            self._leave()

    def _begin_drain(self) -> None:
        if not self.server_runs_callback:
            from .drains.unknown_servers import UnknownServers  # only needed at a stop

            self.servers.append(UnknownServers())
        for serving in list(self.servers):
            call_server(serving, serving.begin)
        if not start_thread(self._drain):
            self.sequence.move("drained")  # the interpreter is shutting down

    def _drain(self) -> None:
        for serving in list(self.servers):
            call_server(serving, serving.drain, self.deadline)
        entered = self.sequence.move("drained")
        if entered == "released":
            self.program_handlers.release()  # the program has set its own handler meanwhile
        elif entered == "drained":
            if self.handles_sigterm():
                signal.pthread_kill(self._main, signal.SIGTERM)
            self._repeat_sigterm("drained")

    @property
    def draining(self) -> bool:
        """True if the servers have been instructed to stop accepting."""
        return self.sequence.state in CLOSED

    # The program ends: drained -> leaving -> stopped

    def await_exit(self) -> None:
        """End the calling thread, which has no more work, when the worker is drained."""
        self._await_drained()  # in the main thread, the SIGTERM handler may raise SystemExit here
        self.leave()
        raise SystemExit(0)

    def leave(self) -> None:
        """End the program like a stopped worker when it is drained, if called in its main thread."""
        if get_ident() == self._main and not self.is_fork:
            self._await_drained()
            self._leave()

    def _await_drained(self) -> None:
        if not self.sequence.wait_while(DRAINING, self.remaining()):
            self.sequence.move("expired")

    def _leave(self) -> None:
        """Run ``on_worker_stop`` and end the program. Runs in the main thread, usually in the SIGTERM handler."""
        loop = running_loop()
        if loop is not None:
            # Raise between two callbacks of the loop, not in the middle of the program's frames; and not immediately,
            # because the loop may be about to end by itself. In that case the signal is sent again.
            if self.sequence.can("leave"):
                loop.call_soon_threadsafe(loop.call_later, _LOOP_SECONDS, self._leave_loop, loop)
            if self.sequence.move("end_loop"):
                start_thread(self._repeat_sigterm, "ending_loop")
        elif self.sequence.move("leave"):
            self.ensure_exit()
            self.callback.run(self.remaining)
            if not self._was_ready and is_importing(sys._getframe()):  # noqa: SLF001 - documented
                end_now()  # as SIGTERM ends any Python program that is still starting
            sys.unraisablehook = functools.partial(self._raise_again, sys.unraisablehook)
            raise SystemExit(0)

    def _leave_loop(self, loop: Any) -> None:
        if not self.sequence.move("leave"):
            return
        self.ensure_exit()
        if not self.callback.is_set:
            raise SystemExit(0)
        task = loop.create_task(self.callback.run_in_loop(self.remaining))
        task.add_done_callback(_exit)

    def ensure_exit(self, *, hurry: bool = False) -> None:
        """Ensure that the process exits when its time is over (``forced_exit``), even if SystemExit does not end it."""
        start_thread(functools.partial(end_in_time, self.remaining, hurry=hurry, say=warn))

    def _raise_again(self, hook: Callable[[Any], None], ignored: Any) -> None:
        """Repeat a SystemExit that was raised where exceptions are ignored: in ``__del__``, or a callback from C."""
        if ignored.exc_type is not SystemExit:
            hook(ignored)
        elif self.sequence.move("ignored"):
            start_thread(self._repeat_sigterm, "drained")

    def _at_exit(self) -> None:
        """Run ``on_worker_stop`` if a stop was announced meanwhile, or wait for it if it is running."""
        if self.is_fork:
            return
        self.sequence.move("exit")
        self._await_drained()
        if self.callback.is_set and self._channel is not None:
            self._channel.catch_up()
        if self.stopping:
            self.callback.run(self.remaining)

    # A fork

    def _after_fork(self) -> None:
        """Reset the state in a fork, which is not a worker: it has no servers, and SIGTERM ends it as usual."""
        if self.handles_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.servers.clear()
        self.sequence.reset()
        self.callback = StopCallback()
        if self.bus is not None:
            self.bus.restart()


def _exit(done: object) -> None:
    del done
    raise SystemExit(0)


_current: List[Runtime] = []


def current() -> Optional[Runtime]:
    """Return the runtime of this process; None if it is not a worker."""
    return _current[0] if _current else None


def install(runtime: Runtime) -> None:
    """Set the runtime of this process."""
    _current[:] = [runtime]
