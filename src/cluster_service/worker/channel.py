"""The worker's end of its channel to the guardian.

- Nothing here blocks the program: what the socket does not take at once waits in an outbox.
- A program may close the channel's descriptor, and the number may become one of its files (``descriptors``): then
  nothing is sent or read any more, and ``on_lost`` is called. The worker goes on.
- The reader is a bare thread (``threads``), which the program does not see among its own.
- The reader is not there while the process forks (it ends before and comes back after), so a fork is as safe as it
  would be alone. (Early 3.13 counts the threads afterwards, and warns of it.) A forked child may send, and never reads:
  the channel is the worker's.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Deque, Dict, Optional

from cluster_service.wire import channel as wire

from .descriptors import Owned, pipe
from .threads import run_beside
from .unpatched import allocate_lock, get_ident, get_native_id, os, select

_OUTBOX = 1000
"""Messages kept while the guardian does not read; older ones are dropped first."""
_IDLE = 0.5
_BUS_OUTBOX = 500
"""As many may be waiting when a message of the bus is added: there is always room for the worker's own."""


class Channel:
    """Messages to and from the guardian. *on_message* and *on_end* are called in the reader's thread.

    So is *on_idle*, every ``_IDLE`` seconds at least.

    It is held by its number: a socket object that lives to the interpreter's end crashes Python 3.9 there.
    """

    def __init__(
        self,
        fd: int,
        on_message: Callable[[Dict[str, Any]], None],
        on_end: Callable[[], None],
        on_idle: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        os.set_inheritable(fd, False)  # noqa: FBT003
        os.set_blocking(fd, False)
        self._socket = Owned(fd)
        self._on_message = on_message
        self._on_end = on_end
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._outbox: Deque[bytes] = deque(maxlen=_OUTBOX)
        self._ended = False
        self._reads = False
        self._reader = self._reader_id = 0
        self._forking = 0
        self._wake_r: Owned
        self._wake_w: Owned
        self._gone = allocate_lock()
        self._guard = allocate_lock()
        self._receiving = allocate_lock()

    def send(self, message: Dict[str, Any]) -> None:
        """Send *message* now or, where the guardian is busy, soon. Never blocks, never fails for want of a guardian."""
        data = wire.encode(message)
        if self._ended:
            return
        while self._outbox and not self._reads and self._offer(self._outbox[0]):
            self._outbox.popleft()
        if not self._outbox and self._offer(data):
            return
        self._outbox.append(data)
        if self._reads:
            self._wake(b"o")

    def offer(self, message: Dict[str, Any]) -> bool:
        """Send *message* of the bus. False when too many wait already, or nobody reads any more: it is dropped."""
        if self._ended or len(self._outbox) >= _BUS_OUTBOX:
            return False
        self.send(message)
        return not self._ended

    def _offer(self, data: bytes) -> bool:
        try:
            self._socket.write(data)
        except BlockingIOError:
            return False
        except OSError:
            self._ended = True  # the reader, if there is one, finds out by itself
        return True

    def _wake(self, why: bytes) -> bool:
        """Wake the reader. False where the program has closed the pipe: the reader finds out by itself."""
        try:
            self._wake_w.write(why)
        except BlockingIOError:
            return True  # it has been woken more often than it has looked
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Begin to read, from this process only."""
        self._wake_r, self._wake_w = pipe()
        self._reads = True
        self._run_reader()
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )

    def catch_up(self) -> None:
        """Have what has come on the channel by now been acted upon. For the moment before the process ends."""
        if not self._reads or not self._receiving.acquire(timeout=1.0):
            return
        try:
            while self._reads and self._take():
                pass
        finally:
            self._receiving.release()

    def _run_reader(self) -> None:
        self._gone.acquire()
        if not run_beside(self._read):
            self._gone.release()

    def _read(self) -> None:
        self._reader = get_ident()
        self._reader_id = get_native_id()
        try:
            self._read_until_woken()
        finally:
            self._gone.release()

    def _read_until_woken(self) -> None:
        while True:
            if not (self._socket.is_ours() and self._wake_r.is_ours()):
                self._lose()
                return
            poll = select.poll()
            poll.register(self._wake_r.fd, select.POLLIN)
            poll.register(self._socket.fd, select.POLLIN | (select.POLLOUT if self._outbox else 0))
            self._on_idle()
            events = dict(poll.poll(_IDLE * 1000))
            if self._wake_r.fd in events:
                _empty(self._wake_r)
                if self._forking:
                    return
            got = events.get(self._socket.fd, 0)
            if got & select.POLLOUT:
                while self._outbox and self._offer(self._outbox[0]):
                    self._outbox.popleft()
            if got & ~select.POLLOUT:
                with self._receiving:
                    self._take()
                if not self._reads:
                    return

    def _take(self) -> bool:
        """Act upon one message, or the end. False when there is no message."""
        try:
            data = self._socket.read(wire.LIMIT)
        except BlockingIOError:
            return False
        except OSError:
            if not self._socket.is_ours():
                self._lose()
                return False
            data = b""
        if not data:
            self._ended = True
            self._reads = False
            self._on_end()
            return False
        try:
            message = wire.decode(data)
        except wire.ChannelError:
            return True  # a newer guardian's, perhaps: not for us
        self._on_message(message)
        return True

    def _lose(self) -> None:
        """Go on without the channel: the program has closed it."""
        self._ended = True
        self._reads = False
        self._outbox.clear()
        self._on_lost()

    def _before_fork(self) -> None:
        with self._guard:
            self._forking += 1
            if self._forking > 1 or not self._reads or get_ident() == self._reader:
                return
            self._wake(b"f")  # without it, the reader looks by itself within a moment
            self._gone.acquire()
            self._gone.release()
            _await_thread(self._reader_id)

    def _after_fork_in_parent(self) -> None:
        with self._guard:
            self._forking -= 1
            if self._forking == 0 and self._reads and get_ident() != self._reader:
                self._run_reader()

    def _after_fork_in_child(self) -> None:
        self._guard = allocate_lock()
        self._receiving = allocate_lock()
        self._outbox.clear()
        if self._reads:
            self._reads = False
            self._wake_r.close()
            self._wake_w.close()

    @property
    def fd(self) -> Optional[int]:
        """The channel's descriptor; None where the program has closed it."""
        return self._socket.fd if self._socket.is_ours() else None


def _empty(end: Owned) -> None:
    try:
        end.read(4096)
    except OSError:
        pass  # there is nothing, or the program has closed it


def _await_thread(native_id: int) -> None:
    """Return when the kernel has seen the end of a thread that has nothing left to do, which takes it microseconds."""
    for _ in range(1000):
        if not os.path.exists(f"/proc/self/task/{native_id}"):
            return
