"""The sockets that the guardian opens for us: those of apps, and those of the doors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster_service.wire import facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.wire import orders

    from .kernel import Kernel


class Sockets:
    """What was asked for, and is waited for."""

    def __init__(self, kernel: Kernel, log: Callable[[str], None]) -> None:
        self._kernel = kernel
        self._log = log
        self._waiting: dict[str, asyncio.Future[int | None]] = {}

    async def listen(self, order: orders.Listen) -> int | None:
        """Have a socket opened; return the descriptor of a door. Raises ValueError with the guardian's sentence."""
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting[order.address] = future
        self._kernel.send(order)
        return await future

    def settle(self, fact: facts.Listening | facts.ListenFailed, descriptor: int | None) -> None:
        """Give the answer to whoever waits for it; a failure that nobody waits for is told."""
        future = self._waiting.pop(fact.address, None)
        if future is None or future.done():
            if isinstance(fact, facts.ListenFailed):
                self._log(fact.error)
        elif isinstance(fact, facts.Listening):
            future.set_result(descriptor)
        else:
            future.set_exception(ValueError(fact.error))
