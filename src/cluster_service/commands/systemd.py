"""The ``systemd`` command: print units. The command line runs it, unless ``--running`` is given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cluster_service.errors import CommandError

from .registry import Command, Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster_service.config.service_config import Settings

    from .service_interface import Service


def run(
    service: Service,
    socket: bool = False,
    listen: Sequence[str] = (),
    user: str | None = None,
    writable: Sequence[str] = (),
    args: Sequence[str] = (),
    running: bool = True,  # noqa: ARG001 - here the service always runs
) -> dict[str, Any]:
    """Return the units of the running service. Raises CommandError bad_request."""
    if args:
        raise CommandError("bad_request", "systemd: a running service has arguments of its own", "Leave them out.")
    settings, argv = service.started_with()
    origin = settings.origin
    if origin is not None and ("env" in origin.options or "CSERVICE_ENV" in origin.environment):
        raise CommandError(
            "bad_request",
            "systemd: the unit would show the workers' variables, which a service tells nobody",
            "Print it where the service is started: cservice systemd -- ARGUMENTS OF START",
        )
    return _units(settings, argv, socket, listen, user, writable)


def here(
    session: Mapping[str, Any],
    socket: bool = False,
    listen: Sequence[str] = (),
    user: str | None = None,
    writable: Sequence[str] = (),
    args: Sequence[str] = (),
    running: bool = False,
) -> dict[str, Any] | None:
    """Return the units of a service started with *args*, or configured in the current directory."""
    if running:
        return None
    from cluster_service.config.resolve import resolve
    from cluster_service.config.service_config import Origin, plain  # only needed to make a unit
    from cluster_service.systemd import units

    read = session["read_start"](list(args), session)
    origin = Origin(
        directory=os.getcwd(),
        options=plain(read.options),
        source="flags",
        target=read.target,
        args=tuple(read.args),
        program=read.program,
        environment={name: value for name, value in os.environ.items() if name.startswith("CSERVICE_")},
    )
    settings = resolve(origin, os.environ, make=False, by_us=False)
    if not settings.spec.groups:
        raise CommandError(
            "bad_request",
            "systemd: there is nothing to be started",
            "Say what, after --: cservice systemd -- --name web -w 4 package.module:app",
        )
    argv = [*units.program(), "start", *units.arguments(origin, settings)]
    return _units(settings, argv, socket, listen, user, [os.path.abspath(path) for path in writable])


def _units(
    settings: Settings,
    argv: Sequence[str],
    socket: bool,
    listen: Sequence[str],
    user: str | None,
    writable: Sequence[str],
) -> dict[str, Any]:
    from cluster_service.config import setting_values  # only needed to make a unit
    from cluster_service.systemd import units

    groups = settings.spec.groups
    wanted = [setting_values.canonical(address) for address in listen]
    if socket and not wanted:
        wanted = [bind for group in groups for bind in group.release.binds]
        if not wanted:
            raise CommandError(
                "bad_request",
                "systemd: it is not known where this program listens",
                "Say it: --listen 127.0.0.1:8000 (repeatable).",
            )
    as_others = any(group.release.within.user is not None for group in groups)
    if user is None and os.geteuid() != 0 and not as_others:
        import pwd  # rarely needed

        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            user = str(os.geteuid())
    return units.units(settings, argv, user=user, listen=wanted, writable=writable)


COMMAND = Command(
    name="systemd",
    doc="""Print a unit by which systemd starts the service, and with --socket one for its sockets.

    What would stand after `cservice start` stands after `--`; without it, the configuration of this directory is meant.
    The unit is hardened as far as that cannot break a service of which nothing else is known. Nothing is installed.
    """,
    run=run,
    parameters=(
        Parameter("socket", "flag", "print a .socket unit too, so that systemd holds the sockets"),
        Parameter("listen", "text", "an address for it (repeatable)", many=True, metavar="ADDR", default="--bind's"),
        Parameter("user", "text", "as whom the service runs", metavar="USER", default="the caller; root: root"),
        Parameter("writable", "text", "a directory that the program writes to (repeatable)", many=True, metavar="DIR"),
        Parameter("running", "flag", "the unit of the running service"),
        Parameter("args", "text", "what would stand after cservice start: after --", many=True),
    ),
    changes=False,
    render="systemd",
    here=here,
)
