"""The sockets that the guardian opens for the master: those of apps and those of the endpoints."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster_service.wire import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire import orders

    from .kernel import Kernel


class Sockets:
    """Requests for sockets that the guardian has not answered yet."""

    def __init__(self, kernel: Kernel, log: Callable[[str], None]) -> None:
        self._kernel = kernel
        self._log = log
        self._waiting: dict[str, asyncio.Future[int | None]] = {}

    async def listen(self, order: orders.Listen) -> int | None:
        """Let the guardian open a socket; return the descriptor of an endpoint. Raises ValueError with its message."""
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting[order.address] = future
        self._kernel.send(order)
        return await future

    def settle(self, fact: facts.Listening | facts.ListenFailed, descriptor: int | None) -> None:
        """Complete the request that *fact* answers; log a failure that no request waits for."""
        future = self._waiting.pop(fact.address, None)
        if future is None or future.done():
            if isinstance(fact, facts.ListenFailed):
                self._log(fact.error)
        elif isinstance(fact, facts.Listening):
            future.set_result(descriptor)
        else:
            future.set_exception(ValueError(fact.error))
