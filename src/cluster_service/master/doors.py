"""The service's doors, as the master opens them: the guardian holds the sockets, the master answers.

While a master is away, whoever knocks waits in the socket's queue for the next one. A door that cannot be opened is
one warning and never a dead service.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from cluster_service.control.access import Access
from cluster_service.control.http import Door, serve
from cluster_service.wire import orders

from .service import RunningService

if TYPE_CHECKING:
    from .loop import Master


class Doors:
    """The Unix door of the owner always; the TCP door with an access key, and not in safe mode."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._task: asyncio.Task[None] | None = None
        self.addresses: list[str] = []

    async def open(self) -> None:
        """Open every door that can be opened."""
        settings = self._master.settings
        tcp = () if self._master.hello.safe else settings.doors
        doors = [await self._open_one(f"unix:{settings.socket}", mode=0o600, optional=False)]
        for place, address in enumerate(tcp):
            doors.append(await self._open_one(address, mode=0o600, optional=place > 0))
        opened = [door for door in doors if door is not None]
        self.addresses = [door.address for door in opened]
        if opened:
            access = Access(
                [settings.access_key],
                trusted_hosts=settings.trusted_hosts,
                bound=[settings.host],
                allow_query_key=settings.allow_query_key,
            )
            self._task = asyncio.get_running_loop().create_task(serve(RunningService(self._master), opened, access))

    async def _open_one(self, address: str, *, mode: int, optional: bool) -> Door | None:
        """*optional*: that it cannot be opened is not worth a warning."""
        try:
            descriptor = await self._master.listen(orders.Listen(address, door=True, mode=mode))
        except ValueError as error:
            if not optional:
                self._master.log(f"a door stays shut: {error}")
            return None
        return None if descriptor is None else Door(socket.socket(fileno=descriptor))

    async def close(self, seconds: float) -> None:
        """Let answers under way be finished, for *seconds* at most."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task], timeout=seconds)
