"""The boot message: the whole configuration of the guardian, a JSON object in a memory file from its parent process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from . import syscalls


class BootError(Exception):
    """The boot message is invalid. The text is a full sentence."""


@dataclass(frozen=True, eq=False, repr=False)
class Start:
    """Command, working directory and environment of a master."""

    argv: list[str]
    cwd: str
    env: dict[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class Manager:
    """Settings from the service manager (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3))."""

    notify: str = ""
    """NOTIFY_SOCKET; empty: no notifications."""
    watchdog: float = 0.0
    """Watchdog timeout in seconds, within which the service must report that it is alive; 0: no watchdog."""
    sockets: list[str] = field(default_factory=list)
    """Names of the activated sockets: the descriptors from 3 on."""


@dataclass(frozen=True, eq=False, repr=False)
class Boot:
    """Fields of the boot message that the guardian uses. Durations are in seconds; paths are absolute."""

    name: str
    run_dir: str
    master: Start
    safe_master: Start
    message: dict[str, Any]
    """The complete message, for the master, with the settings: the guardian does not interpret them, and they contain
    the access key.
    """
    lock_fd: int | None = None
    """Descriptor of the file ``run_dir/NAME.lock``, which is locked, and which the guardian removes when it exits."""
    stop_timeout: float = 60.0
    master_hang_timeout: float = 30.0
    log_file: str | None = None
    log_max_size: int = 0
    log_keep: int = 0
    pid_file: str | None = None
    process_titles: bool = True
    manager: Manager = field(default_factory=Manager)

    def title(self, what: str) -> str:
        """Return the process title of the service's process *what*; empty: leave the title unchanged."""
        return f"cservice: {self.name} {what}" if self.process_titles else ""


def read(descriptor: int) -> Boot:
    """Read the boot message from *descriptor* and close it. Raises BootError."""
    try:
        message = json.loads(syscalls.read_memory_file(descriptor))
        master = _start(message["master"])
        safe = message.get("safe_master")
        lock = message.get("lock_fd")
        return Boot(
            name=str(message["name"]),
            run_dir=str(message["run_dir"]),
            master=master,
            safe_master=master if safe is None else _start(safe),
            message=message,
            lock_fd=None if lock is None else int(lock),
            stop_timeout=float(message.get("stop_timeout", 60.0)),
            master_hang_timeout=float(message.get("master_hang_timeout", 30.0)),
            log_file=message.get("log_file"),
            log_max_size=int(message.get("log_max_size", 0)),
            log_keep=int(message.get("log_keep", 0)),
            pid_file=message.get("pid_file"),
            process_titles=bool(message.get("process_titles", True)),
            manager=Manager(**message.get("manager", {})),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BootError(f"started without a proper boot message ({error!r}); use: cservice start") from None


def _start(data: dict[str, Any]) -> Start:
    return Start([str(part) for part in data["argv"]], str(data.get("cwd", "/")), dict(data["env"]))
