"""The worker's end of its channel to the guardian.

- Nothing here blocks the program: data that the socket does not accept immediately waits in an outbox.
- The program may close the descriptor of the channel, and the number may be reused for one of its files
  (``descriptors``). Then nothing is sent or read any more, and ``on_lost`` is called; the worker continues.
- The reader is a low-level thread (``unpatched``), invisible to the program.
- The reader stops before the process forks and restarts afterwards, so that a fork is as safe as without it. (Early
  versions of 3.13 count the threads afterwards and warn.) A forked child may send but never reads.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Deque, Dict, Optional

from cluster_service.wire import worker_protocol as wire

from .descriptors import OwnedDescriptor, pipe
from .unpatched import allocate_lock, get_ident, get_native_id, os, select, start_thread

_OUTBOX = 1000
"""Maximum number of messages queued while the guardian does not read; the oldest are dropped first."""
_IDLE = 0.5
_BUS_OUTBOX = 500
"""Number of queued messages above which messages of the bus are refused, to keep room for those of the runtime."""


class Channel:
    """Messages to and from the guardian. *on_message*, *on_end* and *on_idle* are called in the reader thread.

    *on_idle* is called at least every ``_IDLE`` seconds.

    The socket is used by its number: a socket object that lives until interpreter shutdown crashes Python 3.9.
    """

    def __init__(
        self,
        fd: int,
        on_message: Callable[[Dict[str, Any]], None],
        on_end: Callable[[], None],
        on_idle: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        self._socket = OwnedDescriptor(fd)
        self._on_message = on_message
        self._on_end = on_end
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._outbox: Deque[bytes] = deque(maxlen=_OUTBOX)
        self._ended = False
        self._reads = False
        self._reader = self._reader_id = 0
        self._forking = 0
        self._wake_r: OwnedDescriptor
        self._wake_w: OwnedDescriptor
        self._gone = allocate_lock()
        self._guard = allocate_lock()
        self._receiving = allocate_lock()

    def send(self, message: Dict[str, Any]) -> None:
        """Send *message*, or queue it if the guardian is busy. Never blocks; does nothing if there is no guardian."""
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
        """Send *message* of the bus. Return False if it was dropped: the queue is full or the channel has ended."""
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
            self._ended = True  # the reader, if any, detects it by itself
        return True

    def _wake(self, why: bytes) -> bool:
        """Wake the reader. Return False if the program has closed the pipe; the reader detects that by itself."""
        try:
            self._wake_w.write(why)
        except BlockingIOError:
            return True  # the pipe is full: the reader will wake anyway
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Start the reader, in this process only."""
        self._wake_r, self._wake_w = pipe()
        self._reads = True
        self._run_reader()
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )

    def catch_up(self) -> None:
        """Process all messages received so far. Called just before the process exits."""
        if not self._reads or not self._receiving.acquire(timeout=1.0):
            return
        try:
            while self._reads and self._take():
                pass
        finally:
            self._receiving.release()

    def _run_reader(self) -> None:
        self._gone.acquire()
        if not start_thread(self._read):
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
        """Process one message or the end of the channel. Return False if there is no message."""
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
            return True  # perhaps from a newer guardian: ignore it
        self._on_message(message)
        return True

    def _lose(self) -> None:
        """Stop using the channel: the program has closed it."""
        self._ended = True
        self._reads = False
        self._outbox.clear()
        self._on_lost()

    def _before_fork(self) -> None:
        with self._guard:
            self._forking += 1
            if self._forking > 1 or not self._reads or get_ident() == self._reader:
                return
            self._wake(b"f")  # if this fails, the reader wakes by itself after _IDLE
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
        """The descriptor of the channel; None if the program has closed it."""
        return self._socket.fd if self._socket.is_ours() else None


def _empty(end: OwnedDescriptor) -> None:
    try:
        end.read(4096)
    except OSError:
        pass  # the pipe is empty, or the program has closed it


def _await_thread(native_id: int) -> None:
    """Wait until the kernel has ended a thread that has nothing left to do, which takes microseconds."""
    for _ in range(1000):
        if not os.path.exists(f"/proc/self/task/{native_id}"):
            return
