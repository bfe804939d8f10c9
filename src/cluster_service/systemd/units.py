"""systemd units, generated from the settings of a service. Nothing is installed.

Rule: include only hardening that cannot break a service about which nothing else is known. So there is no system call
filter, no MemoryDenyWriteExecute (JIT compilers) and no PrivateDevices (GPUs), and paths named in the settings stay
accessible. ``systemd-analyze security NAME`` shows what else a particular service could restrict.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from typing import TYPE_CHECKING, Any

from cluster_service import isolation
from cluster_service.config.settings_table import BY_NAME, INTERNAL
from cluster_service.config.targets import MODULE
from cluster_service.core.rules import shutdown_order
from cluster_service.errors import CommandError
from cluster_service.wire import addresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cluster_service.config.service_config import Origin, Settings

WATCHDOG = 30
"""WatchdogSec: longer than the guardian needs to detect that the master hangs, shorter than an operator would wait."""
GRACE = 30
"""Seconds added to the service's own limits for start and stop."""

SECRETS = ("CSERVICE_ACCESS_KEY",)
_NOT_IN_A_UNIT = ("detach", "console", "access_key")
_DIRECTORIES = (
    ("/run/", "RuntimeDirectory"),
    ("/var/lib/", "StateDirectory"),
    ("/var/cache/", "CacheDirectory"),
    ("/var/log/", "LogsDirectory"),
)
"""Prefix of a directory to which the service writes -> the directive by which systemd creates it."""
_HOMES = tuple(f"/{place}/" for place in ("home", "root", "run/user"))
_TEMPORARY = ("/tmp/", "/var/tmp/")  # noqa: S108 - only used as prefixes

HARDENING = (
    "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectKernelTunables=yes", "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes", "ProtectControlGroups=yes", "ProtectClock=yes", "ProtectHostname=yes",
    "RestrictSUIDSGID=yes", "RestrictRealtime=yes", "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
)  # fmt: skip

_PLAIN = re.compile(r"[\w@:/.,+=-]+\Z", re.ASCII)


def program() -> list[str]:
    """Return the command line of ``cservice`` for programs with another PATH."""
    script = os.path.join(sysconfig.get_path("scripts"), "cservice")
    return [script] if os.access(script, os.X_OK) else isolation.command("cluster_service.__main__:main")


def units(
    settings: Settings,
    argv: Sequence[str],
    *,
    user: str | None = None,
    listen: Sequence[str] = (),
    writable: Sequence[str] = (),
) -> dict[str, Any]:
    """Return ``{"name", "unit", "socket"}`` with the texts of two files; *socket* is None without *listen*.

    *argv*: the command line that starts the service; *user*: the user that runs it (None: root); *writable*:
    directories to which its program writes. Raises CommandError bad_request.
    """
    name = settings.name
    relative = [path for path in writable if not os.path.isabs(path)]
    if relative:
        raise CommandError("bad_request", f"{relative[0]} is not an absolute path", "Write it from the root on: /…")
    lines = ["[Unit]", f"Description={_value(_description(settings))}", "After=network.target"]
    if listen:
        lines += [f"Requires={name}.socket", f"After={name}.socket"]
    lines += ["", "[Service]", *_service(settings, argv, user, listen, writable)]
    lines += ["", "[Install]", "WantedBy=multi-user.target", *([f"Also={name}.socket"] if listen else [])]
    return {
        "name": name,
        "unit": "\n".join(lines) + "\n",
        "socket": "\n".join(_socket(name, listen, user)) + "\n" if listen else None,
    }


def _description(settings: Settings) -> str:
    return f"{settings.name}: " + ", ".join(dict.fromkeys(group.release.target for group in settings.spec.groups))


def _service(
    settings: Settings, argv: Sequence[str], user: str | None, listen: Sequence[str], writable: Sequence[str]
) -> list[str]:
    origin = settings.origin
    assert origin is not None  # the settings were made by this version
    groups = settings.spec.groups
    binds = [bind for group in groups for bind in group.release.binds]
    start = max((group.ready_timeout for group in groups), default=0.0) + GRACE
    stop = settings.spec.shutdown_delay + shutdown_order.configured_shutdown_time(groups) + GRACE
    lines = [
        "Type=notify", "NotifyAccess=main", f"ExecStart={' '.join(map(_argument, argv))}",
        "ExecReload=/bin/kill -HUP $MAINPID", f"WorkingDirectory={_value(origin.directory)}",
    ]  # fmt: skip
    lines += [f"User={_value(user)}"] if user else []
    if "env" in origin.options or "CSERVICE_ENV" in origin.environment:
        lines.append("# Everybody can read this file. Secrets belong in another: EnvironmentFile=/etc/…, of mode 0600.")
    lines += [f"Environment={_quoted(f'{key}={value}')}" for key, value in _environment(origin)]
    lines += [
        "KillMode=mixed", f"TimeoutStartSec={start:g}", f"TimeoutStopSec={stop:g}", f"WatchdogSec={WATCHDOG}",
        "Restart=on-failure", "RestartSec=1",
        "# 2: wrongly started, 3: one of the name runs. Trying again changes neither.", "RestartPreventExitStatus=2 3",
    ]  # fmt: skip
    written = [os.path.dirname(path) for path in (settings.state, settings.log_file, settings.pid_file) if path]
    written += [] if listen else [os.path.dirname(path) for bind in binds if (path := addresses.parse(bind).path)]
    places = _places([*written, *writable], own_run_dir="run_dir" in origin.options, settings=settings)
    lines += [f"{key}={' '.join(map(_quoted, values))}" for key, values in places.items()]
    several = len(places.get("RuntimeDirectory", ())) > 1  # other users may need access to one of them
    lines += [f"RuntimeDirectoryMode={'0755' if several else '0700'}"] if "RuntimeDirectory" in places else []
    if not writable:
        lines.append("# What else the program writes to: --writable DIR (the rest of the file system is read-only).")
    pythons = [path for group in groups for path in (group.release.python, os.path.realpath(group.release.python))]
    named = [origin.directory, *argv, os.path.realpath(sys.executable), *written, *writable, *pythons]
    named += [group.release.cwd for group in groups] + [group.release.target for group in groups]
    lines += _hardening(named, [] if listen else binds, user)
    return lines


def _hardening(named: Iterable[str], binds: Iterable[str], user: str | None) -> list[str]:
    paths = [f"{path}/" for path in named]
    at_home = any(path.startswith(_HOMES) for path in paths)
    lines = [*HARDENING, f"ProtectHome={'read-only' if at_home else 'yes'}"]
    if not any(path.startswith(_TEMPORARY) for path in paths):
        lines.append("PrivateTmp=yes")
    if user is not None:
        low = any(0 < addresses.parse(bind).port < 1024 for bind in binds)
        capability = "CAP_NET_BIND_SERVICE" if low else ""
        lines += [f"CapabilityBoundingSet={capability}", *([f"AmbientCapabilities={capability}"] if low else [])]
    return lines


def _places(directories: Iterable[str], *, own_run_dir: bool, settings: Settings) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if own_run_dir:
        found["ReadWritePaths"] = [settings.run_dir]
    else:
        # A subdirectory per service, because systemd removes it when the service stops.
        found["RuntimeDirectory"] = [f"cluster-service/{settings.name}"]
    for directory in dict.fromkeys(directories):
        for prefix, key in _DIRECTORIES:
            if directory.startswith(prefix):
                found.setdefault(key, []).append(directory.removeprefix(prefix))
                break
        else:
            found.setdefault("ReadWritePaths", []).append(directory)
    return found


def _socket(name: str, listen: Sequence[str], user: str | None) -> list[str]:
    parsed = [addresses.parse(text) for text in listen]
    lines = ["[Unit]", f"Description=Sockets of {name}", "", "[Socket]"]
    both = {each.dual for each in parsed if each.kind != "unix" and each.host == "::"}
    if len(both) > 1:
        raise CommandError(
            "bad_request",
            "a .socket unit cannot hold both [::] for IPv6 alone and [::] for both families",
            "Leave one of them out, or write two units.",
        )
    for each in parsed:
        where = each.host if each.kind == "unix" else str(each).removeprefix("udp:").removesuffix("+v4")
        lines.append(f"Listen{'Datagram' if each.kind == 'udp' else 'Stream'}={_value(where)}")
    lines += [f"BindIPv6Only={'both' if both.pop() else 'ipv6-only'}"] if both else []
    if any(each.path is not None for each in parsed):
        lines += [f"SocketUser={_value(user)}"] if user else []
        lines.append("SocketMode=0666")
    return [*lines, f"FileDescriptorName={name}", "", "[Install]", "WantedBy=sockets.target"]


# -- command line -----------------------------------------------------------------------------------------------------


def arguments(origin: Origin, settings: Settings) -> list[str]:
    """Return the arguments of ``cservice start`` for a service started like *origin*.

    Raises CommandError bad_request if the unit, which is world-readable, would contain a key.
    """
    if origin.options.get("access_key") not in (None, "auto") or any(key in origin.environment for key in SECRETS):
        raise CommandError(
            "bad_request",
            "the access key would stand in the unit, which everybody can read",
            "Put it in a file: --access-key-file FILE, owned by the service's user and read by nobody else.",
        )
    words: list[str] = ["--access-key", "auto"] if origin.options.get("access_key") == "auto" else []
    for name, value in origin.options.items():
        setting = BY_NAME.get(name)
        if setting is None or not setting.flags or name in _NOT_IN_A_UNIT or value is None:
            continue
        flags = setting.flags[-1].split("/")
        if setting.kind == "flag":
            words.append(flags[0] if value not in (False, "false", "no", "off", 0) else flags[-1])
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        if isinstance(value, dict):
            values = [f"{key}={item}" for key, item in value.items()]
        for each in values:
            words += [f"{flags[0]}={each}"] if str(each).startswith("-") else [flags[0], str(each)]
    if origin.target is not None:
        # under systemd, PATH differs from the caller's
        module = MODULE.match(origin.target)
        words += (
            ["--", settings.spec.groups[0].release.target] if origin.program
            else ["-m", module[1]] if module else [origin.target]
        )  # fmt: skip
    if not origin.program and any(arg.startswith("-") for arg in origin.args[:1]):
        words.append("--")
    return [*words, *origin.args]


def _environment(origin: Origin) -> list[tuple[str, str]]:
    passed = sorted(origin.environment.items())
    return [(key, value) for key, value in passed if key not in INTERNAL and key not in SECRETS and value]


# -- quoting: systemd.syntax(7), systemd.service(5) -------------------------------------------------------------------


def _value(text: str) -> str:
    return " ".join(text.replace("%", "%%").splitlines())


def _quoted(text: str) -> str:
    text = text.replace("%", "%%")
    if _PLAIN.match(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _argument(text: str) -> str:
    return _quoted(text.replace("$", "$$"))
