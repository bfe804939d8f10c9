"""Clients that ask all the time, each on new connections or on one that they keep, and count what they do not get."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from tests.worker.harness import KeepAlive, get

if TYPE_CHECKING:
    from collections.abc import Callable


class Load:
    """A number of clients of each kind, from entering it to leaving it."""

    def __init__(self, port: int, *, new: int = 2, keep: int = 2, body: bytes = b"ok") -> None:
        self._port = port
        self._body = body
        self._end = threading.Event()
        self._grown = threading.Condition()
        self.answers = 0
        self.failures: list[str] = []
        work: list[Callable[[], None]] = [self._ask_anew] * new + [self._ask_on] * keep
        self._threads = [threading.Thread(target=each) for each in work]

    def _count(self, body: bytes) -> None:
        with self._grown:
            self.answers += 1
            if body != self._body:
                self.failures.append(f"answer {body[:200]!r}")
            self._grown.notify_all()

    def _ask_anew(self) -> None:
        while not self._end.is_set():
            try:
                self._count(get(self._port).partition(b"\r\n\r\n")[2])
            except OSError as error:
                self.failures.append(f"new: {error!r}")

    def _ask_on(self) -> None:
        client = KeepAlive(self._port)
        while not self._end.is_set():
            try:
                _, headers, body = client.ask()
                self._count(body)
                if headers.get("connection", "").lower() == "close":
                    client.socket.close()
                    client = KeepAlive(self._port)
            except OSError as error:
                self.failures.append(f"keep-alive: {error!r}")
                client.socket.close()
                client = KeepAlive(self._port)
        client.socket.close()

    def wait(self, count: int) -> None:
        """Wait for *count* more answers."""
        with self._grown:
            target = self.answers + count
            assert self._grown.wait_for(lambda: self.answers >= target, 30.0), (
                f"{self.answers} answers, {self.failures}"
            )

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
