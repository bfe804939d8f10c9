"""Settings of other process managers, and the equivalent setting here.

A user of gunicorn may write ``graceful_timeout``. The setting with the most similar spelling is ``ready_timeout``,
which is wrong. So an unknown name is looked up here before its spelling is compared.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import setting_values

if TYPE_CHECKING:
    from collections.abc import Iterable

WORDS: dict[str, str] = {
    # stop: gunicorn, uWSGI, uvicorn, hypercorn, granian, Puma
    "gracefultimeout": "stop_timeout", "timeoutgracefulshutdown": "stop_timeout", "shutdowntimeout": "stop_timeout",
    "workerskilltimeout": "stop_timeout", "workerreloadmercy": "stop_timeout", "workershutdowntimeout": "stop_timeout",
    "gracetimeout": "stop_timeout", "stoptime": "stop_timeout",
    # stop: supervisor, pm2, systemd, docker
    "stopwaitsecs": "stop_timeout", "killtimeout": "stop_timeout", "timeoutstopsec": "stop_timeout",
    "timeoutsec": "stop_timeout", "stopgraceperiod": "stop_timeout", "terminationgraceperiodseconds": "stop_timeout",
    # stop signal: systemd, pm2 (supervisor's and docker's stopsignal is our own name)
    "killsignal": "stop_signal",
    # start
    "listentimeout": "ready_timeout", "timeoutstartsec": "ready_timeout", "workerboottimeout": "ready_timeout",
    "startuptimeout": "ready_timeout", "startperiod": "ready_timeout",
    "startsecs": "ready_after", "minuptime": "ready_after", "warmupdelay": "ready_after",
    # hangs and checks
    "harakiri": "hang_timeout", "watchdogsec": "hang_timeout", "workertimeout": "hang_timeout",
    "timeoutworkerhealthcheck": "hang_timeout", "healthcheckpath": "check_path", "healthcheckurl": "check_path",
    "healthchecktimeout": "check_timeout", "healthcheckinterval": "check_interval",
    # restarts
    "maxrestarts": "restarts_per_minute", "startretries": "restarts_per_minute", "maxretry": "restarts_per_minute",
    "startlimitburst": "restarts_per_minute", "restartsec": "restart_delay", "respawninterval": "restart_delay",
    "expbackoffrestartdelay": "restart_delay", "respawn": "auto_restart",
    "respawnfailedworkers": "auto_restart", "restart": "auto_restart", "restartpolicy": "auto_restart",
    # number of workers
    "numprocs": "workers", "numprocesses": "workers", "processes": "workers", "instances": "workers",
    "replicas": "workers", "scale": "workers", "concurrency": "workers", "workerprocesses": "workers",
    # recycling
    "maxmemoryrestart": "max_memory", "reloadonrss": "max_memory", "workersmaxrss": "max_memory",
    "memlimit": "max_memory", "memorymax": "max_memory", "memorylimit": "max_memory",
    "limitmaxrequests": "max_requests", "maxworkerlifetime": "max_uptime", "workerslifetime": "max_uptime",
    "maxage": "max_uptime", "runtimemaxsec": "max_uptime", "cronrestart": "recycle_at",
    # what is run, and where
    "cmd": "command", "execstart": "command", "script": "target", "app": "target",
    "module": "target", "wsgifile": "target", "wsgiapp": "target", "entrypoint": "command",
    "interpreter": "python", "virtualenv": "python", "venv": "python", "home": "python",
    "chdir": "cwd", "directory": "cwd", "workingdir": "cwd", "workingdirectory": "cwd", "appdir": "cwd",
    "environment": "env", "rawenv": "env", "environmentfile": "env_files",
    "dotenv": "env_files",
    # addresses
    "uds": "bind", "httpsocket": "bind", "ports": "bind", "listenstream": "bind",
    "workerclass": "server", "servertype": "server",
    # identity and limits
    "uid": "user", "gid": "user_group", "ulimits": "limits", "limitnofile": "limits", "limitcore": "limits",
    "oomscoreadjust": "oom_score_adj", "niceness": "nice",
    # standard input: docker compose, systemd, Kubernetes
    "stdinopen": "stdin", "standardinput": "stdin", "interactive": "stdin", "tty": "stdin",
    # logs and files
    "errorlog": "log_file", "accesslog": "log_file", "errorlogfile": "log_file",
    "stdoutlogfile": "log_file", "stderrlogfile": "log_file", "outfile": "log_file", "errorfile": "log_file",
    "logto": "log_file", "logmaxbytes": "log_max_size", "stdoutlogfilemaxbytes": "log_max_size",
    "stdoutlogfilebackups": "log_keep", "pid": "pid_file",
    # the service as a whole
    "daemon": "detach", "daemonize": "detach", "background": "detach", "namespace": "group",
    "processname": "name", "procname": "name", "containername": "name", "servicename": "name",
    "after": "depends_on", "requires": "depends_on", "priority": "depends_on",
    "exitonfailure": "give_up", "prestop": "shutdown_delay", "lameduck": "shutdown_delay",
}  # fmt: skip
"""A name in lower case without ``-`` and ``_`` -> the setting."""

SENTENCES: dict[str, str] = {
    "stopasgroup": "It is always so: the stop signal goes to the worker and then to all that it leaves.",
    "finalkillsignal": "After stop_timeout it is always SIGKILL, which no program can ignore.",
    "sendsigkill": "After stop_timeout SIGKILL is always sent.",
    "killasgroup": "It is always so: the whole process group of a worker is ended with it.",
    "redirectstderr": "Standard output and standard error both go to the log, each line with the worker's name.",
    "autostart": "Every group that is configured is started.",
    "maxrequestsjitter": "max_requests has its jitter built in: up to a tenth less, different for each worker.",
    "limitmaxrequestsjitter": "max_requests has its jitter built in: up to a tenth less, different for each worker.",
    "execmode": "There is one mode: each worker is a process, and they share the ports.",
    "master": "There is always a master process.",
    "vacuum": "Sockets and files of the service are always removed at its end.",
    "waitready": "Call cservice.worker_ready() in the program, or send READY=1 to NOTIFY_SOCKET.",
    "type": "Readiness is detected: worker_ready(), READY=1 to NOTIFY_SOCKET, or the first listen on a port.",
    "reload": "Changed code is read again by: cservice restart all. Nothing is watched for changes.",
    "autoreload": "Changed code is read again by: cservice restart all. Nothing is watched for changes.",
    "watch": "Changed code is read again by: cservice restart all. Nothing is watched for changes.",
    "threads": "Threads are the program's own: set their number in the program, or run its server after --.",
    "workerconnections": "It is a setting of the server: set it in the program, or run its server after --.",
    "keepalive": "It is a setting of the server: set it in the program, or run its server after --.",
    "timeoutkeepalive": "It is a setting of the server: set it in the program, or run its server after --.",
    "backlog": "The queue of a port is as long as the program asks for when it calls listen.",
    "reuseport": "Ports are always shared, whatever the program sets.",
}
"""Names that need no setting here -> what is done without one."""


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that *word* means, by the table or else by its spelling; None if none is similar.

    *known* are settings, or flags if *word* is one.
    """
    names = list(known)
    spelled = {_plain(name): name for name in reversed(names)}
    setting = _plain(WORDS.get(_plain(word), word))
    # --limit and --env-file are the singular forms of limits and env_files
    return spelled.get(setting) or spelled.get(setting.removesuffix("s")) or setting_values.nearest(word, names)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``: did you mean 'workers'?`` if *word* means one of *known*, else an empty string."""
    found = meant(word, known)
    return f": did you mean {found!r}?" if found and _plain(word) not in SENTENCES else ""


def sentence(word: str) -> str:
    """Return what is done without a setting for *word*; empty if it is unknown."""
    return SENTENCES.get(_plain(word), "")


def _plain(word: str) -> str:
    return re.sub(r"[-_]", "", word).lower()
