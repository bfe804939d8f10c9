"""The table of settings: the one source for options, environment variables, file keys and keyword arguments.

``setting`` is a name in snake case; kebab-case and camelCase are the same name everywhere. ``CSERVICE_<NAME>`` is its
environment variable. ``GROUP`` settings say what a group's workers are and may be given to the ``start`` command too;
the rest belong to the service as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

GROUP = "group"
SERVICE = "service"


@dataclass(frozen=True)
class Setting:
    """One setting. *kind* names a function of ``kinds.KINDS``; *default* is in the form that the kind gives."""

    name: str
    kind: str
    default: Any
    doc: str
    flags: tuple[str, ...] = ()
    scope: str = GROUP
    also: tuple[str, ...] = ()
    """Other names: the original's, mostly. One that ends in ``_ms`` counts in milliseconds."""
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    metavar: str = ""
    shown: str = ""
    """The default as help shows it, where ``default`` does not say it well."""
    sources: tuple[str, ...] = ("flags", "environment", "file")
    """Where it may be given; keyword arguments may give every setting."""

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return f"CSERVICE_{self.name.upper()}"

    @property
    def many(self) -> bool:
        """Whether its option may be given more than once."""
        return self.kind in ("env", "binds", "words", "paths", "depends")


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "target",
        "text",
        None,
        "What to run: a Python file, package.module:app, or (after --) any program.",
        also=("worker",),
        sources=("file",),
    ),
    Setting("args", "words", (), "Arguments of the target.", sources=("file",)),
    Setting(
        "workers",
        "count",
        "auto",
        "Number of workers; auto: the CPUs that this process may use.",
        ("-w", "--workers"),
        also=("worker_count",),
        metavar="N|auto",
    ),
    Setting(
        "name",
        "name",
        "default",
        "Name of the service: one of a name per user and machine.",
        ("--name",),
        SERVICE,
        metavar="NAME",
    ),
    Setting("group", "group", "web", "Name of the group of workers.", ("--group",), metavar="GROUP"),
    Setting(
        "depends_on",
        "depends",
        (),
        "Start when every worker of that group is ready, or has been started (repeatable).",
        ("--depends-on",),
        metavar="GROUP[:ready|started]",
    ),
    Setting(
        "singleton",
        "flag",
        default=False,
        doc="One worker, and never two at a time: the old one ends before the new one starts.",
        flags=("--singleton/--no-singleton",),
    ),
    Setting("cwd", "path", None, "Working directory of the workers.", ("--cwd",), metavar="DIR", shown="the caller's"),
    Setting("env", "env", (), "Set a variable in the workers' environment (repeatable).", ("--env",), metavar="K=V"),
    Setting(
        "python",
        "text",
        None,
        "Interpreter of the workers.",
        ("--python",),
        metavar="PATH",
        shown="the target's own .venv, else this one",
    ),
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
        "words",
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
        "Commands that may be given from other machines too, though they are local by themselves (repeatable).",
        ("--remote-command",),
        SERVICE,
        ("remote_command",),
        metavar="COMMAND",
    ),
    Setting(
        "upgrade_roots",
        "paths",
        (),
        "Directories that code started or upgraded to from other machines must lie in (repeatable).",
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
        "require_control",
        "flag",
        default=False,
        doc="End the service when a door cannot be opened, rather than warn.",
        flags=("--require-control/--no-require-control",),
        scope=SERVICE,
    ),
    Setting(
        "auto_restart",
        "flag",
        default=True,
        doc="Start workers again that end by themselves.",
        flags=("--auto-restart/--no-auto-restart",),
    ),
    Setting(
        "restart_delay",
        "duration",
        0.1,
        "Wait before the first restart; doubled for each failure in a row.",
        ("--restart-delay",),
        also=("restart_delay_ms",),
        metavar="TIME",
        shown="100ms",
    ),
    Setting(
        "restarts_per_minute",
        "integer",
        10,
        "Restarts of a slot in a minute after which it is broken.",
        ("--restarts-per-minute",),
        least=1,
        metavar="N",
    ),
    Setting(
        "ready_timeout",
        "duration",
        60.0,
        "How long a worker may take to become ready.",
        ("--ready-timeout",),
        least=1,
        metavar="TIME",
        shown="60s",
    ),
    Setting(
        "stop_timeout",
        "duration",
        60.0,
        "How long a worker may take to end before it is killed.",
        ("--stop-timeout",),
        metavar="TIME",
        shown="60s",
    ),
    Setting(
        "timeout", "duration", None, "Both --ready-timeout and --stop-timeout.", ("--timeout",), least=1, metavar="TIME"
    ),
    Setting(
        "ready_after",
        "duration",
        5.0,
        "A worker that never says that it is ready, nor listens, is taken to be after this long.",
        ("--ready-after",),
        metavar="TIME",
        shown="5s",
    ),
    Setting(
        "hang_timeout",
        "duration",
        60.0,
        "A worker whose main loop has not turned for this long hangs; 0: none is ever found to.",
        ("--hang-timeout",),
        metavar="TIME",
        shown="60s",
    ),
    Setting(
        "monitor",
        "duration",
        10.0,
        "How long an upgrade watches its canary, and then the whole; 0: not at all.",
        ("--monitor",),
        metavar="TIME",
        shown="10s",
    ),
    Setting(
        "health_check",
        "url_path",
        None,
        "Path that an upgrade asks of its canary, and that must answer well (/health).",
        ("--health-check",),
        metavar="PATH",
        shown="nothing is asked",
    ),
    Setting(
        "share",
        "choice",
        "auto",
        "How workers share their ports.",
        ("--share",),
        choices=("auto", "seccomp", "python", "inherit", "none"),
        shown="the best available",
    ),
    Setting(
        "bind",
        "binds",
        (),
        "Where an app is served: host:port, :port or unix:/path (repeatable).",
        ("--bind",),
        also=("binds",),
        metavar="ADDR",
        shown="127.0.0.1:8000",
    ),
    Setting("server", "choice", "uvicorn", "Server of an app.", ("--server",), choices=("uvicorn", "granian")),
    Setting("user", "text", None, "Run the workers as this user (needs root).", ("--user",), metavar="USER"),
    Setting(
        "user_group",
        "text",
        None,
        "Run the workers with this group of users.",
        ("--user-group",),
        metavar="GROUP",
        shown="the user's own",
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
)

BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
ALIASES: dict[str, str] = {alias: setting.name for setting in SETTINGS for alias in (setting.name, *setting.also)}
"""Every name in snake case -> the setting's own."""

INTERNAL: frozenset[str] = frozenset(
    f"CSERVICE_{name}"
    for name in (
        *("SLOT", "GENERATION", "REASON", "CHANNEL", "PORTS", "BOARD"),
        *("GUARDIAN_FD", "BOOT_FD", "BOARD_FD", "ROLE", "URL", "CA_FILE", "CLIENT_CERT", "TEST_URL", "TEST_PORT"),
    )
)
"""Variables that start like a setting's and are none: what a worker or a test finds, and what our own processes tell
each other."""

WORKER_IDENTITY = ("CSERVICE_NAME", "CSERVICE_GROUP", "CSERVICE_SHARE")
"""Variables that a worker finds and that, there, say who it is and not what a service is to be."""


def canonical(name: str) -> str:
    """``workerCount``, ``worker-count`` and ``worker_count`` -> ``worker_count``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
