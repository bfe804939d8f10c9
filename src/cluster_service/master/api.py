"""``cservice.start`` and ``cservice.on``: a service under the control of a user's own program.

The program that calls ``start`` runs twice. The first time, ``start`` becomes the guardian in place (same pid, another
program); the guardian then runs the same program again as the master, where ``start`` is the master's loop and the
handlers registered before it are called. In a worker, ``start`` only says that the worker is ready.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .hooks import HOOKS, Hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from .hooks import Published


def on(event: str, handler: Callable[[Published], Any]) -> None:
    """Call *handler(event)* in the master for each event of that name: ``worker_exit``, ``workerExit``; ``*``: all.

    Raises ValueError for an unknown event and TypeError for a handler that cannot be called.
    """
    HOOKS.on(event, handler)


def start(target: str | None = None, *, on_worker_stop: Callable[..., Any] | None = None, **options: Any) -> None:
    """Run *target* as a service; return when it has ended (in the master; elsewhere the process has become another).

    *target*: a Python file or ``package.module:app``; left out, it comes from the configuration.
    *on_worker_stop(event)* is called in the master for each worker that is asked to end. *options*: the settings of the
    command line in snake case (``worker_count``, ``access_key``, ``cwd``, ``bind`` …). In a worker, this is
    ``worker_ready(on_worker_stop=…)``.

    Raises SystemExit with a sentence on standard error: 2 for a wrong setting, 3 when a service of that name runs.
    """
    from cluster_service.worker.api import is_worker, worker_ready  # noqa: PLC0415

    if is_worker():
        worker_ready(on_worker_stop=on_worker_stop)
        return
    if os.environ.get("CSERVICE_ROLE") == "master":
        from .main import main  # noqa: PLC0415

        if on_worker_stop is not None:
            HOOKS.on("worker_stop", on_worker_stop)
        sys.exit(main(HOOKS))
    _become_guardian(target, options)


def _become_guardian(target: str | None, options: dict[str, Any]) -> NoReturn:
    from cluster_service import boot, config  # noqa: PLC0415
    from cluster_service.control.errors import CommandError  # noqa: PLC0415

    try:
        settings = config.settings(options, target=target)
        for warning in settings.warnings:
            print(f"cservice: {warning}", file=sys.stderr)  # noqa: T201
        boot.start(settings, boot.Program.this())
    except boot.AlreadyRunning as running:
        print(f"cservice: {running}", file=sys.stderr)  # noqa: T201
        raise SystemExit(3) from None
    except CommandError as error:
        print(f"cservice: {error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    raise SystemExit(0)  # detached: the service is up


__all__ = ["Hooks", "on", "start"]
