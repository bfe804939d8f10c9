"""What a worker knows of its service: whether it is ready, and when it has to stop.

A stop begins with the channel's ``stop`` (which announces its timeout), with SIGTERM, or with the channel's end (the
service is gone). From there:

- SIGTERM is handled here, unless the program has installed a handler of its own: that one runs once the worker has
  stopped accepting and its requests are answered (``gate``), and ``on_worker_stop`` is run beside it.
- The servers that the runtime knows (``drains``) stop accepting and finish what they hold, watched by a thread of their
  own, so that the main thread may go on with the request that it is in. Then SIGTERM is handled a second time, in the
  main thread: ``on_worker_stop`` is run, once, and SystemExit(0) unwinds the program as ``sys.exit`` would.
- A program that is still importing what it needs, and has not been ready yet, is not unwound: what is raised in an
  import is swallowed or changed too often. It ends at once, when ``on_worker_stop``, if it has given that, has run.
- Nothing waits beyond the announced time: shortly before it the worker ends, whatever threads it may still have.
"""

from __future__ import annotations

import atexit
import functools
import signal
import sys
import threading  # here, in the main thread: a thread that imported it first would be taken for the main one
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from cluster_service.wire.channel import BUS

from .bus import Bus
from .callback import StopCallback
from .channel import Channel
from .family import has_died, on_fork
from .gate import Gate
from .leaving import CALLBACK, end_in_time, end_now
from .midst import importing, running_loop
from .say import complain
from .serving import guarded
from .sockets import is_listening
from .stop import DEFAULT_TIMEOUT, Stop
from .threads import run_beside
from .unpatched import allocate_lock, get_ident, os

if TYPE_CHECKING:
    from types import FrameType

    from .pulse import Pulse
    from .serving import Serving
    from .titles import Titles


class Runtime:
    """The worker's side of the service. Made once, in the main thread, before the program runs."""

    def __init__(self, channel: Optional[int], share: str, pulse: Pulse, titles: Titles) -> None:
        self.share = share
        self.pulse = pulse
        self.check: Optional[int] = None
        """The descriptor of the socket on which the worker is checked, where it is to be."""
        self.titles = titles
        self.pid = os.getpid()
        """The worker's process; a fork of it has another."""
        self.callback = StopCallback()
        self._stop = Stop()
        self._told: Optional[bool] = None
        self._was_ready = False
        self._main = get_ident()
        self._parent = os.getppid()
        self.servings: List[Serving] = []
        self._draining = False
        self._drained = allocate_lock()
        self._drained.acquire()
        self._leaving = False
        self._exiting = False
        self._left = allocate_lock()
        self._left.acquire()
        self._handled = allocate_lock()
        self._handled.acquire()
        self._channel: Optional[Channel] = None
        if channel is not None:
            self._channel = Channel(
                channel, self._on_message, self._on_channel_end, pulse.interpreter_turns, self._on_channel_lost
            )
        self.bus = Bus(self._channel.offer) if self._channel is not None else None
        self.gate = Gate(self)

    def start(self) -> None:
        """Listen to the channel and to SIGTERM."""
        self.gate.install()
        signal.signal(signal.SIGTERM, self.on_sigterm)
        atexit.register(self._at_exit)
        on_fork(self._be_fork)
        if self._channel is not None:
            self._channel.start()

    @property
    def channel_fd(self) -> Optional[int]:
        """The channel's descriptor, for a process that is to be handed it."""
        return None if self._channel is None else self._channel.fd

    # Readiness

    @property
    def told(self) -> Optional[bool]:
        """What was last said about readiness; None: nothing yet."""
        return self._told

    def tell_ready(self, ready: bool) -> None:  # noqa: FBT001 - the message's own field
        """Say that the worker serves, or (False) that it does not yet. Said twice it is told once."""
        if ready == self._told:
            return
        self._told = ready
        self._was_ready |= ready
        if self._channel is not None:
            self._channel.send({"type": "ready", "ready": ready})

    def notify(self, fields: Dict[str, str]) -> None:
        """Say *fields* of sd_notify(3)."""
        if self._channel is not None:
            self._channel.send({"type": "notify", "fields": fields})

    def server_started(self) -> None:
        """An app's server serves: that is ready, unless the app has said that it is not yet."""
        if self._told is None:
            self.tell_ready(True)  # noqa: FBT003

    # Stopping

    def serves(self, serving: Serving) -> None:
        """Drain *serving* when the worker stops. The second time it does nothing."""
        if serving in self.servings:
            return
        self.servings.append(serving)
        if self._draining or self._leaving:  # the program has caught the SystemExit, and goes on
            serving.begin()

    def serves_no_more(self, serving: Optional[Serving]) -> None:
        """The server has ended. Of one that is not known, or no more, nothing need be said."""
        if serving in self.servings:
            self.servings.remove(serving)

    @property
    def stopping(self) -> bool:
        """Whether the worker has been asked to stop."""
        return self._stop.begun

    @property
    def draining(self) -> bool:
        """Whether the servers have been told to stop accepting."""
        return self._draining

    @property
    def deadline(self) -> float:
        """When the worker should have ended by itself (``time.monotonic()``); infinite as long as it need not stop."""
        return self._stop.deadline

    def remaining(self) -> float:
        """Seconds left to stop in; the default when no stop was announced."""
        return self._stop.remaining()

    def begin(self, timeout: Optional[float] = None) -> None:
        """Take note that the worker has to stop, within *timeout* seconds if that was told. The first word counts."""
        if timeout is None:
            if self._channel is not None and not self.stopping:
                self._channel.catch_up()  # the announcement is on its way whenever the service has sent the signal
            timeout = DEFAULT_TIMEOUT
        self._stop.begin(timeout)
        self.pulse.accepting.end()
        self.titles.show_end()

    def await_exit(self) -> None:
        """End the calling thread, which has nothing left to do, when the worker is drained."""
        self._await_drained()  # in the main thread, SIGTERM's handler may raise SystemExit here
        self.leave()
        raise SystemExit(0)

    def leave(self) -> None:
        """End the program, if this is its main thread, with all that belongs to the end of a worker."""
        if get_ident() == self._main and self.pid == os.getpid():
            self._leave()

    def _await_drained(self) -> None:
        if self._draining and self._drained.acquire(timeout=self.remaining()):
            self._drained.release()

    def handles_sigterm(self) -> bool:
        """Whether SIGTERM comes here, rather than to a handler of the program's own."""
        return not self.gate.holds() and signal.getsignal(signal.SIGTERM) == self.on_sigterm

    def _on_message(self, message: Dict[str, Any]) -> None:
        if message["type"] == "stop":
            timeout = message.get("timeout")
            self.begin(float(timeout) if isinstance(timeout, (int, float)) else DEFAULT_TIMEOUT)
            if self.handles_sigterm():
                run_beside(self._insist, self._handled)
            elif not self.gate.holds():
                self.stop_beside()
        elif message["type"] == "state":
            self._was_ready = True
            self.titles.show(str(message.get("state")))
        elif message["type"] in BUS and self.bus is not None:
            self.bus.heard(message)

    def _insist(self, done: Any) -> None:
        """See to it that the main thread handles SIGTERM, until what it is for is *done*.

        A system call that it enters at the moment the signal arrives is not interrupted, and Python's handlers run
        between system calls; it might wait in there for ever. Only our own handler is insisted on: it takes any number.
        """
        while not done.acquire(timeout=0.5):
            if not self.handles_sigterm():
                return
            signal.pthread_kill(self._main, signal.SIGTERM)
        done.release()

    def _on_channel_end(self) -> None:
        if self.bus is not None:
            self.bus.end()
        run_beside(self._service_is_gone)

    def _on_channel_lost(self) -> None:
        """The program has closed the channel's descriptor. The service sends SIGTERM where the worker is to end."""
        if self.bus is not None:
            self.bus.end()
        complain(
            "the program has closed the descriptor of its channel to the service; it serves on, but cannot report its "
            "readiness, and is stopped by SIGTERM alone. Close no descriptor that the program has not opened"
        )

    def _service_is_gone(self) -> None:
        if not has_died(self._parent):
            return  # the channel alone has ended; a stop comes by SIGTERM
        self.begin()
        if not self.gate.holds():
            self.stop_beside()
        # The kernel sends SIGTERM when the guardian dies. A second one means "at once" to some programs, so it is sent
        # from here only where the first cannot have come. (Our own handler takes any number.)
        if self.handles_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
        self._insist(self._handled)

    @property
    def server_runs_callback(self) -> bool:
        """Whether a server drains itself at the signal, and runs ``on_worker_stop``."""
        return any(each.runs_callback for each in self.servings)

    def stop_beside(self) -> None:
        """Run ``on_worker_stop`` beside a program that handles SIGTERM in its own way (not where a drain will)."""
        if not self.callback.given or self._exiting or self.handles_sigterm() or self.server_runs_callback:
            return
        # Not a daemon: the interpreter waits for it, so that the program's end does not cut the cleanup short.
        try:
            threading.Thread(
                target=self.callback.run, args=(self.remaining,), name=CALLBACK, daemon=False
            ).start()
        except RuntimeError:
            pass  # the interpreter is ending: _at_exit does it

    def _at_exit(self) -> None:
        """Run ``on_worker_stop`` if a stop was announced only just now. Wait for its end, if it runs."""
        self._exiting = True
        if self.pid != os.getpid():
            return
        self._await_drained()  # whatever the main thread was doing, it has come to its end before that
        if self.callback.given and self._channel is not None:
            self._channel.catch_up()
        if self.stopping:
            self.callback.run(self.remaining)

    def on_sigterm(self, signum: int, frame: Optional[FrameType]) -> None:
        """Handle SIGTERM, where the program does not."""
        del frame
        if self.pid != os.getpid():  # a fork that no hook of Python's has seen
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        if self._handled.locked():
            self._handled.release()
        self.begin()
        if self._draining:
            if not self._drained.locked():
                self._leave()
        elif self.servings or is_listening():
            self._draining = True
            if not self.server_runs_callback:
                from .drains.rest import Rest  # noqa: PLC0415 - at the stop only

                self.servings.append(Rest())
            for serving in list(self.servings):
                guarded(serving, serving.begin)
            run_beside(self._drain)
        else:
            self._leave()

    def _drain(self) -> None:
        for serving in list(self.servings):
            guarded(serving, serving.drain, self.deadline)
        self._drained.release()
        if self.handles_sigterm():
            signal.pthread_kill(self._main, signal.SIGTERM)
        self._insist(self._left)

    def _leave(self) -> None:
        """Run ``on_worker_stop`` and end the program. In the main thread, most often within SIGTERM's handler."""
        if self._leaving:
            return
        loop = running_loop()
        if loop is not None:
            # Not in the middle of the program's frames but between two of the loop's callbacks; and not at once, as
            # the loop may be about to end by itself: then the signal is sent again.
            loop.call_soon_threadsafe(loop.call_later, 0.05, self._leave_loop, loop)
            run_beside(self._insist, self._left)
            return
        self._go()
        self.callback.run(self.remaining)
        if not self._was_ready and importing(sys._getframe()):  # noqa: SLF001 - documented
            end_now()  # as SIGTERM ends any Python program that is only about to begin
        sys.unraisablehook = functools.partial(self._come_again, sys.unraisablehook)
        raise SystemExit(0)

    def _come_again(self, hook: Callable[[Any], None], ignored: Any) -> None:
        """See to a SystemExit that was raised where exceptions are ignored: in ``__del__``, in a callback of C's."""
        if ignored.exc_type is not SystemExit:
            hook(ignored)
        elif self._leaving:
            self._leaving = False
            self._left.acquire(blocking=False)
            run_beside(self._insist, self._left)

    def _go(self) -> None:
        """From here, the program is on its way out."""
        self._leaving = True
        self._left.release()
        self.must_end()

    def must_end(self, *, hurry: bool = False) -> None:
        """See to it that the process ends when its time is over (``leaving``), even if SystemExit does not end it."""
        run_beside(functools.partial(end_in_time, self.remaining, hurry=hurry, say=complain))

    def _leave_loop(self, loop: Any) -> None:
        if self._leaving:
            return
        self._go()
        if not self.callback.given:
            raise SystemExit(0)
        task = loop.create_task(self.callback.run_in_loop(self.remaining))
        task.add_done_callback(_exit)

    def _be_fork(self) -> None:
        """A fork is no worker: it ends at SIGTERM as any process does, and knows no server."""
        if self.handles_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.servings.clear()
        self._draining = self._leaving = False
        self._stop.forget()
        self.callback = StopCallback()
        if self.bus is not None:
            self.bus.restart()


def _exit(done: object) -> None:
    del done
    raise SystemExit(0)


_current: List[Runtime] = []


def current() -> Optional[Runtime]:
    """Return this process's runtime; None in a program that is no worker."""
    return _current[0] if _current else None


def install(runtime: Runtime) -> None:
    """Make *runtime* this process's own."""
    _current[:] = [runtime]
