"""Entry point of the master's process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket

from cluster_service.config import Settings
from cluster_service.worker.program_api import be_master

from .hooks import HOOKS, Hooks


def main(hooks: Hooks | None = None) -> int:
    """Run the master of the guardian that started this process; return the exit code of the process.

    Raises SystemExit if the process was not started by a guardian.
    """
    guardian, boot = os.environ.pop("CSERVICE_GUARDIAN_FD", ""), os.environ.pop("CSERVICE_BOOT_FD", "")
    if not guardian or not boot:
        raise SystemExit("the master is started by a service's guardian: use cservice start")
    os.environ.pop("CSERVICE_ROLE", None)
    be_master()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the guardian handles it
    os.set_inheritable(int(guardian), False)
    settings = _read(int(boot))
    if settings.process_titles:
        _set_title(f"cservice: {settings.name} master")
    return asyncio.run(_run(settings, socket.socket(fileno=int(guardian)), hooks or HOOKS))


async def _run(settings: Settings, stream: socket.socket, hooks: Hooks) -> int:
    from .loop import Master  # needs a running event loop

    return await Master(settings, stream, hooks).run()


def _read(descriptor: int) -> Settings:
    """Read the settings from the boot message and close it, since it contains the access key."""
    size = os.fstat(descriptor).st_size
    boot = json.loads(os.pread(descriptor, size, 0))
    os.close(descriptor)
    return Settings.from_json(boot["settings"])


def _set_title(title: str) -> None:
    from setproctitle import setproctitle

    setproctitle(title)
