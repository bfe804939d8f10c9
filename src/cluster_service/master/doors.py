"""The service's doors, as the master opens them: the guardian holds the sockets, the master answers.

While a master is away, whoever knocks waits in the socket's queue for the next one. A door that cannot be opened is
one warning and never a dead service, unless the service was started with ``require_control``.

The keys' file and the certificate are read again by each master and by ``rekey``. One that cannot be read any more is
one warning: to ``rekey`` it changes nothing, and to a new master it is no key at all, since one that was valid when the
service was started may have been withdrawn since.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster_service.config import keys
from cluster_service.control.access import Access
from cluster_service.control.errors import CommandError
from cluster_service.control.http import Door, serve
from cluster_service.wire import orders

from .service import RunningService

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from cluster_service.config import Settings

    from .loop import Master

DESCRIPTORS = 4096
"""Descriptors that the master may have, where the machine lets it: connections must not use up those it works with."""


class Doors:
    """The Unix door of the owner always; the TCP door with an access key, and not in safe mode; beside them, where only
    probes are answered.
    """

    def __init__(self, master: Master) -> None:
        self._master = master
        self._task: asyncio.Task[None] | None = None
        self._access: Access | None = None
        self._tls: ssl.SSLContext | None = None
        self.addresses: list[str] = []
        self.probes: list[str] = []

    async def open(self) -> None:
        """Open every door that can be opened. Raises ValueError when one cannot and must be."""
        settings = self._master.settings
        _raise_descriptors()
        tcp = () if self._master.hello.safe else settings.doors
        doors: list[Door | None] = []
        if settings.run_dir:
            doors.append(await self._open_one(f"unix:{settings.socket}", mode=0o600, optional=False))
        if tcp and settings.tls_cert is not None:
            tcp = tcp if self._secure(settings) else ()
        for place, address in enumerate(tcp):
            doors.append(await self._open_one(address, mode=0o600, optional=place > 0, tls=self._tls))
        opened = [door for door in doors if door is not None]
        self.addresses = [door.address for door in opened]
        asked = [await self._open_one(address, mode=0o600, optional=False) for address in settings.probes]
        probes = [door for door in asked if door is not None]
        self.probes = [door.address for door in probes]
        if opened or probes:
            self._access = Access(
                self._current(settings) or (),  # none that opens, where the file cannot be read
                trusted_hosts=settings.trusted_hosts,
                bound=[settings.host],
                allow_query_key=settings.allow_query_key,
                allow_http_get=settings.allow_http_get,
                remote_commands=settings.remote_commands,
                upgrade_roots=settings.upgrade_roots,
            )
            serving = serve(
                RunningService(self._master),
                opened,
                self._access,
                guardian=self._master.hello.guardian_pid,
                probes=probes,
                metrics=settings.probe_metrics,
            )
            self._task = asyncio.get_running_loop().create_task(serving)

    def adopt(self, settings: Settings) -> None:
        """Go by the rules, keys and certificate of *settings* from now on."""
        if self._access is not None:
            self._access.rule(
                trusted_hosts=settings.trusted_hosts,
                allow_query_key=settings.allow_query_key,
                allow_http_get=settings.allow_http_get,
                remote_commands=settings.remote_commands,
                upgrade_roots=settings.upgrade_roots,
            )
        self.rekey(settings)

    def rekey(self, settings: Settings) -> None:
        """Take the keys and the certificate of *settings* from now on; connections that are open stay."""
        found = self._current(settings)
        if self._access is not None and found is not None:
            self._access.rekey(found)
        if self._tls is not None and settings.tls_cert is not None:
            from cluster_service.config import tls  # noqa: PLC0415 - only with TLS

            try:
                tls.server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)  # whole, or not at all
                tls.load_own(self._tls, settings.tls_cert, settings.tls_key, "tls")
            except CommandError as error:
                self._master.log(f"the certificate stays as it was: {error.message}")

    def _current(self, settings: Settings) -> Sequence[keys.Key] | None:
        """Return the keys, from their file as it is now, which the master's settings hold from now on; None when it
        cannot be read.
        """
        if settings.key_file is None:
            return settings.keys or keys.numbered([settings.access_key])
        try:
            found = keys.load(settings.key_file, "access_key_file")
        except CommandError as error:
            self._master.log(f"the access keys are not read again: {error.message}")
            return None
        self._master.settings = replace(self._master.settings, keys=found, access_key=found[0].secret)
        return found

    def _secure(self, settings: Settings) -> bool:
        from cluster_service.config import tls  # noqa: PLC0415 - only with TLS

        assert settings.tls_cert is not None  # noqa: S101 - for the type checker
        try:
            self._tls = tls.server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        except CommandError as error:
            self._shut(error.message)
            return False
        return True

    async def _open_one(
        self, address: str, *, mode: int, optional: bool, tls: ssl.SSLContext | None = None
    ) -> Door | None:
        """*optional*: that it cannot be opened is not worth a warning."""
        try:
            descriptor = await self._master.listen(orders.Listen(address, door=True, mode=mode))
        except ValueError as error:
            if not optional:
                self._shut(str(error))
            return None
        return None if descriptor is None else Door(socket.socket(fileno=descriptor), tls)

    def _shut(self, reason: str) -> None:
        """Tell that a door stays shut. Raises ValueError when that must not be, and the service has just begun."""
        first = self._master.hello.master_starts <= 1  # a service that has run goes on, whatever becomes of its doors
        if self._master.settings.require_control and first:
            raise ValueError(f"a door cannot be opened, and the service requires it: {reason}")
        self._master.log(f"a door stays shut: {reason}")

    async def close(self, seconds: float) -> None:
        """Let answers under way be finished, for *seconds* at most."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task], timeout=seconds)


def _raise_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
