"""Shutdown of the master after its service has ended."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from cluster_service.wire import orders

from .carrying import story_of

if TYPE_CHECKING:
    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.protocol.actions import End

    from .loop import Master

FETCH_SECONDS = 1.0
"""Seconds, after the last worker has exited, for the client that requested the shutdown to fetch the result."""

DOOR_SECONDS, DOOR_SECONDS_NOW = 2.0, 0.5
"""Seconds for pending responses and handlers to complete: normally, and after ``exit now``."""


class Leaving:
    """The shutdown of *master*."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._owed = ""
        """Id of the operation whose result a client has yet to fetch."""
        self._fetched = asyncio.Event()

    def owe(self, operation: Operation) -> None:
        """Keep the endpoints open at the end, for ``FETCH_SECONDS`` at most, until *operation* was fetched."""
        self._owed = operation.id
        self._fetched.clear()

    def answered(self, operation: Operation) -> None:
        """Note that *operation* in its current state is being sent to a client."""
        if operation.id == self._owed and not operation.running:
            self._fetched.set()

    async def say_bye(self, action: End) -> None:
        """Send the last responses, then order the guardian to exit, which happens even if the former fails."""
        master = self._master
        if action.code:
            master.log(f"every slot is broken: the service ends with exit code {action.code}")
        seconds = DOOR_SECONDS_NOW if action.now else DOOR_SECONDS
        try:
            if self._owed and master.doors is not None and not action.now:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._fetched.wait(), FETCH_SECONDS)
            if master.doors is not None:
                await master.doors.close(seconds)
            await master.hooks.idle(seconds)
            await master.memory.settle()  # before another service can start in its place
            await asyncio.to_thread(master.auditor.close)
        except Exception as error:  # noqa: BLE001 - a service that was asked to end must end
            master.log(f"the master failed as the service ended: {story_of(error)}")
        master.say_bye(orders.Bye(action.code))
