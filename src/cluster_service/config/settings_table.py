"""The table of settings, from which options, environment variables, file keys and keyword arguments derive.

The settings of groups are in ``worker_settings``.
"""

from __future__ import annotations

import re

from . import worker_settings
from .setting_values import GROUP, SERVICE, Setting

SERVICE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "name",
        "name",
        "default",
        "Name of the service: one of a name per user and machine.",
        ("--name",),
        SERVICE,
        metavar="NAME",
    ),
    Setting(
        "give_up",
        "choice",
        "never",
        "End the service (exit code 69) when every slot is broken.",
        ("--give-up",),
        SERVICE,
        choices=("never", "all-broken"),
    ),
    Setting(
        "shutdown_delay",
        "duration",
        0.0,
        "At a shutdown: serve on for this long, no longer ready, before the workers are drained.",
        ("--shutdown-delay",),
        SERVICE,
        metavar="TIME",
        shown="0s",
    ),
    Setting(
        "state",
        "path",
        None,
        "Remember the promoted release and the history in this file, over a restart of the service.",
        ("--state",),
        SERVICE,
        metavar="FILE",
        shown="nothing is remembered",
    ),
    Setting(
        "commands",
        "path",
        None,
        "Directory of Python files that define commands of the service's own.",
        ("--commands",),
        SERVICE,
        metavar="DIR",
        shown="none",
    ),
    Setting(
        "detach",
        "flag",
        default=False,
        doc="Run in the background; return once the service is up.",
        flags=("--detach/--no-detach",),
        scope=SERVICE,
    ),
    Setting(
        "console",
        "flag",
        default=None,
        doc="Be a console as well, on the terminal that the service is started on.",
        flags=("--console/--no-console",),
        scope=SERVICE,
        shown="only on a terminal",
    ),
    Setting(
        "log_file",
        "path",
        None,
        "Write the log to this file.",
        ("--log-file",),
        SERVICE,
        metavar="FILE",
        shown="standard output",
    ),
    Setting(
        "log_max_size",
        "size",
        100 << 20,
        "Begin a new log file when it has grown so large (FILE becomes FILE.1, and so on); 0: never.",
        ("--log-max-size",),
        SERVICE,
        metavar="SIZE",
        shown="100m",
    ),
    Setting(
        "log_keep",
        "integer",
        5,
        "How many log files of the past are kept.",
        ("--log-keep",),
        SERVICE,
        least=0,
        most=1000,
        metavar="N",
    ),
    Setting(
        "audit_file",
        "path",
        None,
        "Write a line for each command to this file (4 MB, and as much before that in FILE.1).",
        ("--audit-file",),
        SERVICE,
        metavar="FILE",
        shown="NAME.audit in ~/.local/state/cluster-service",
    ),
    Setting(
        "pid_file",
        "path",
        None,
        "Write the pid of the guardian to this file.",
        ("--pid-file",),
        SERVICE,
        metavar="FILE",
    ),
    Setting(
        "config",
        "path",
        None,
        "Read settings from this file (TOML, or JSON in the original's shape).",
        ("--config",),
        SERVICE,
        metavar="FILE",
        shown="cluster-service.toml, pyproject.toml",
        sources=("flags", "environment"),
    ),
    Setting(
        "run_dir",
        "path",
        None,
        "Private directory of the control socket.",
        ("--run-dir",),
        SERVICE,
        metavar="DIR",
        shown="in $XDG_RUNTIME_DIR or /tmp",
    ),
    Setting(
        "master_hang_timeout",
        "duration",
        30.0,
        "A master that does not answer for this long is replaced; workers are untouched.",
        ("--master-hang-timeout",),
        SERVICE,
        least=1,
        metavar="TIME",
        shown="30s",
    ),
    Setting(
        "process_titles",
        "flag",
        default=True,
        doc="Say in the process list what each process is: cservice: default web.1 serving.",
        flags=("--process-titles/--no-process-titles",),
        scope=SERVICE,
    ),
)


ENDPOINT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "host",
        "text",
        "localhost",
        "Address of the TCP door; open only with an access key.",
        ("--host",),
        SERVICE,
        metavar="HOST",
    ),
    Setting(
        "port", "integer", 11987, "Port of the TCP door.", ("--port",), SERVICE, least=1, most=65535, metavar="PORT"
    ),
    Setting(
        "access_key",
        "key",
        None,
        "Access key of the TCP door (seen in the process list: prefer a file); auto makes one.",
        ("--access-key",),
        SERVICE,
        metavar="KEY",
    ),
    Setting(
        "access_key_file",
        "path",
        None,
        "File that holds the access key, or several, readable by its owner only.",
        ("--access-key-file",),
        SERVICE,
        metavar="FILE",
    ),
    Setting(
        "allow_query_key",
        "choice",
        "true",
        "Whether the access key may stand in a URL's query.",
        ("--allow-query-key",),
        SERVICE,
        choices=("true", "loopback", "false"),
    ),
    Setting(
        "trusted_hosts",
        "hosts",
        (),
        "Further host names by which the TCP door may be called (repeatable).",
        ("--trusted-host",),
        SERVICE,
        ("trusted_host",),
        metavar="HOST",
    ),
    Setting(
        "allow_insecure_remote",
        "flag",
        default=False,
        doc="Let the TCP door listen beyond this machine, without encryption.",
        flags=("--allow-insecure-remote/--no-allow-insecure-remote",),
        scope=SERVICE,
    ),
    Setting(
        "allow_http_get",
        "flag",
        default=False,
        doc="Let GET /cli give commands, for old scripts.",
        flags=("--allow-http-get/--no-allow-http-get",),
        scope=SERVICE,
    ),
    Setting(
        "remote_commands",
        "words",
        (),
        "Local commands that a key may give over TCP too (repeatable).",
        ("--remote-command",),
        SERVICE,
        ("remote_command",),
        metavar="COMMAND",
    ),
    Setting(
        "trust_loopback",
        "flag",
        default=False,
        doc="Let a key give local commands over TCP from this machine. Not for use behind a proxy on it.",
        flags=("--trust-loopback/--no-trust-loopback",),
        scope=SERVICE,
    ),
    Setting(
        "upgrade_roots",
        "paths",
        (),
        "Directories that code started or upgraded to over TCP must lie in (repeatable).",
        ("--upgrade-root",),
        SERVICE,
        ("upgrade_root",),
        metavar="DIR",
        shown="none: it cannot be done",
    ),
    Setting(
        "tls_cert",
        "path",
        None,
        "Certificate of the TCP door (PEM, with its chain): it speaks HTTPS.",
        ("--tls-cert",),
        SERVICE,
        metavar="FILE",
    ),
    Setting(
        "tls_key",
        "path",
        None,
        "Private key of the certificate, readable by its owner only.",
        ("--tls-key",),
        SERVICE,
        metavar="FILE",
        shown="in the certificate's file",
    ),
    Setting(
        "tls_client_ca",
        "path",
        None,
        "Let only those knock whose certificate one of these authorities has signed (PEM).",
        ("--tls-client-ca",),
        SERVICE,
        metavar="FILE",
    ),
    Setting(
        "probes",
        "binds",
        (),
        "Answer /live and /ready here, to everybody and without a key (repeatable).",
        ("--probes",),
        SERVICE,
        ("probe",),
        metavar="ADDR",
        shown="only at the doors",
    ),
    Setting(
        "probe_metrics",
        "flag",
        default=False,
        doc="Answer /metrics there too.",
        flags=("--probe-metrics/--no-probe-metrics",),
        scope=SERVICE,
    ),
    Setting(
        "require_control",
        "flag",
        default=False,
        doc="End the service when a door cannot be opened, rather than warn.",
        flags=("--require-control/--no-require-control",),
        scope=SERVICE,
    ),
)


__all__ = ["ALIASES", "BY_NAME", "GROUP", "INTERNAL", "SERVICE", "SETTINGS", "WORKER_IDENTITY", "Setting", "canonical"]

SETTINGS: tuple[Setting, ...] = (*worker_settings.GROUP_SETTINGS, *SERVICE_SETTINGS, *ENDPOINT_SETTINGS)

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
ALIASES: dict[str, str] = {alias: setting.name for setting in SETTINGS for alias in (setting.name, *setting.also)}
"""Every name and alias in snake case -> the name of the setting."""

INTERNAL: frozenset[str] = frozenset(
    f"CSERVICE_{name}"
    for name in (
        *("SLOT", "GENERATION", "REASON", "CHANNEL", "PORTS", "BOARD", "TITLE", "CHECK", "CHECK_PID"),
        *("GUARDIAN_FD", "BOOT_FD", "BOARD_FD", "ROLE", "URL", "CA_FILE", "CLIENT_CERT", "TEST_URL", "TEST_PORT"),
        "NO_SECCOMP",
        "NO_STEERING",
    )
)
"""Variables with the prefix of settings that are none: those set for a worker or a test, and those between our own
processes.
"""

WORKER_IDENTITY = ("CSERVICE_NAME", "CSERVICE_GROUP", "CSERVICE_SHARE")
"""Variables that identify a worker; inside a worker they are not settings."""


def canonical(name: str) -> str:
    """Return ``worker_count`` for ``workerCount``, ``worker-count`` and ``worker_count``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
