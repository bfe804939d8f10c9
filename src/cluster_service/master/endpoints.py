"""The endpoints of a service: the guardian holds the sockets, the master answers the requests.

While no master runs, clients wait in the backlog of the socket for the next one. An endpoint that cannot be opened
causes one warning and does not end the service, unless ``require_control`` is set; opening it is retried until it
succeeds.

The key file and the certificate are read again by each master and by ``rekey``. If one can no longer be read, one
warning is logged: ``rekey`` then keeps the previous keys, while a new master accepts no key at all, since a key that
was valid when the service started may have been revoked since.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster_service.config import credentials
from cluster_service.errors import CommandError
from cluster_service.machine import shortage
from cluster_service.server.access import Access
from cluster_service.server.http_server import Door, serve
from cluster_service.wire import orders

from .service_api import RunningService

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Sequence

    from cluster_service.config import Settings

    from .interfaces import Master

TRY_AGAIN = 5.0
"""Seconds between attempts to open an endpoint."""

DESCRIPTORS = 4096
"""Maximum descriptors of the master, if the hard limit permits: client connections must not exhaust those that the
master needs for its work.
"""


class _Place(NamedTuple):
    """An endpoint to be opened."""

    address: str
    tls: ssl.SSLContext | None = None
    probe: bool = False
    """True if it answers probes only."""
    optional: bool = False
    """True for a further address of the same endpoint: its absence is not reported."""


class Doors:
    """The endpoints: the owner's Unix socket always, TCP with an access key and not in safe mode, and those that answer
    probes only.
    """

    def __init__(self, master: Master) -> None:
        self._master = master
        self._tasks: set[asyncio.Task[None]] = set()
        self._access: Access | None = None
        self._tls: ssl.SSLContext | None = None
        self.addresses: list[str] = []
        self.probes: list[str] = []

    async def open(self) -> None:
        """Open every endpoint that can be opened. Raises ValueError if one cannot and is required."""
        settings = self._master.settings
        _raise_descriptors()
        tcp = () if self._master.hello.safe else settings.doors
        if tcp and settings.tls_cert is not None:
            tcp = tcp if self._secure(settings) else ()
        self._access = Access(
            self._current(settings) or (),  # accept no key if the file cannot be read
            bound=[settings.host],
            **_rules(settings),
        )
        places = [_Place(f"unix:{settings.socket}")] if settings.run_dir else []
        places += [_Place(address, self._tls, optional=number > 0) for number, address in enumerate(tcp)]
        places += [_Place(address, probe=True) for address in settings.probes]
        opened, shut = [], []
        for place in places:
            try:
                opened.append((place, await self._open_one(place)))
            except ValueError as error:
                if not place.optional:
                    self._shut(str(error))
                    shut.append(place)
        self._serve(opened)
        if shut:
            self._begin(self._try_again(shut))

    async def _try_again(self, shut: list[_Place]) -> None:
        while shut:
            await asyncio.sleep(TRY_AGAIN)
            for place in list(shut):
                with contextlib.suppress(ValueError):
                    door = await self._open_one(place)
                    shut.remove(place)
                    self._master.log(f"a door that was shut is open: {door.address}")
                    self._serve([(place, door)])

    def _serve(self, opened: list[tuple[_Place, Door]]) -> None:
        """Answer requests at the endpoints that have been opened."""
        if not opened or self._access is None:
            return
        doors = [door for place, door in opened if not place.probe]
        probes = [door for place, door in opened if place.probe]
        self.addresses += [door.address for door in doors]
        self.probes += [door.address for door in probes]
        self._begin(
            serve(
                RunningService(self._master),
                doors,
                self._access,
                guardian=self._master.hello.guardian_pid,
                probes=probes,
                metrics=self._master.settings.probe_metrics,
            )
        )

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def adopt(self, settings: Settings) -> None:
        """Apply the rules, keys and certificate of *settings*."""
        if self._access is not None:
            self._access.rule(**_rules(settings))
        self.rekey(settings)

    def rekey(self, settings: Settings) -> None:
        """Apply the keys and the certificate of *settings*; open connections stay open."""
        found = self._current(settings)
        if self._access is not None and found is not None:
            self._access.rekey(found)
        if self._tls is not None and settings.tls_cert is not None:
            from cluster_service.config import credentials  # only with TLS

            try:
                credentials.server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)  # all or none
                credentials.load_own(self._tls, settings.tls_cert, settings.tls_key, "tls")
            except CommandError as error:
                self._master.log(f"the certificate stays as it was: {error.message}")

    def _current(self, settings: Settings) -> Sequence[credentials.Key] | None:
        """Read the key file again if there is one, and return the keys, which the master's settings then contain; None
        if it cannot be read.
        """
        if settings.key_file is None:
            return settings.keys or credentials.numbered([settings.access_key])
        try:
            found = credentials.load(settings.key_file, "access_key_file")
        except CommandError as error:
            self._master.log(f"the access keys are not read again: {error.message}")
            return None
        self._master.use_settings(replace(self._master.settings, keys=found, access_key=found[0].secret))
        return found

    def _secure(self, settings: Settings) -> bool:
        from cluster_service.config import credentials  # only with TLS

        assert settings.tls_cert is not None
        try:
            self._tls = credentials.server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        except CommandError as error:
            self._shut(error.message)
            return False
        return True

    async def _open_one(self, place: _Place) -> Door:
        """Open one endpoint. Raises ValueError with the reason."""
        descriptor = await self._master.sockets.listen(orders.Listen(place.address, door=True, mode=0o600))
        if descriptor is None:  # sent, but this process had no free descriptor
            raise ValueError(f"{place.address}: {shortage.SENTENCES[errno.EMFILE]}")
        return Door(socket.socket(fileno=descriptor), place.tls)

    def _shut(self, reason: str) -> None:
        """Log that an endpoint cannot be opened. Raises ValueError if it is required and the service just started."""
        first = self._master.hello.master_starts <= 1  # a service that has been running continues without endpoints
        if self._master.settings.require_control and first:
            raise ValueError(f"a door cannot be opened, and the service requires it: {reason}")
        self._master.log(f"a door stays shut for now: {reason}")

    async def close(self, seconds: float) -> None:
        """Let pending responses complete, for at most *seconds*."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)


def _rules(settings: Settings) -> dict[str, Any]:
    """Return the rules of ``Access`` from *settings*."""
    names = (
        "trusted_hosts", "allow_query_key", "allow_http_get", "remote_commands", "upgrade_roots", "trust_loopback",
    )  # fmt: skip
    return {name: getattr(settings, name) for name in names}


def _raise_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
