"""``cservice.start``, and the commands and events of a user's own program, which controls the service.

The program that calls ``start`` runs twice. The first time, ``start`` becomes the guardian in place (same pid, another
program); the guardian then runs the same program again as the master, where ``start`` is the master's loop and the
handlers registered before it are called. In a worker, ``start`` only says that the worker is ready.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from .hooks import HOOKS, Hooks, hears_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.control.registry import Level


Function = TypeVar("Function", bound="Callable[..., Any]")


@overload
def on(name: str, handler: Function, **options: Any) -> Function: ...
@overload
def on(name: str, handler: None = None, **options: Any) -> Callable[[Function], Function]: ...


def on(name: str, handler: Any = None, **options: Any) -> Any:
    """Call *handler(event)* in the master for each event *name* (``worker_exit``, ``workerExit``; ``*``: all), or make
    *handler* the command *name*. Without *handler*: a decorator.

    A name that is no event of the service's is an event of the program's own where the handler's argument is called
    ``event``, and otherwise a command (*options*: see ``command``). Raises ValueError and TypeError.
    """
    if handler is None:
        return lambda function: on(name, function, **options)
    if hears_events(name, handler):
        HOOKS.on(name, handler)
    else:
        HOOKS.extensions.command(name, handler, **options)
    return handler


@overload
def command(name: Function) -> Function: ...
@overload
def command(
    name: str | None = None,
    *,
    access: Level | None = None,
    timeout: float | str | None = None,
    help: str | None = None,
    workers: bool | None = None,
) -> Callable[[Function], Function]: ...


def command(
    name: Any = None,
    *,
    access: Level | None = None,
    timeout: float | str | None = None,
    help: str | None = None,  # noqa: A002 - what it is called at every command line
    workers: bool | None = None,
) -> Any:
    """Make the decorated function a command of the service, at every door: ``@command("greet")`` or ``@command``.

    *name*: by default the function's. A built-in command's name overrides that one; what its handler returns for
    ``health`` is added to the built-in's. *access*: who may give it: ``remote`` (whoever has an access key), ``local``
    (the owner at the Unix socket; the default), ``inproc`` (only the service's own processes), ``disabled``.
    *timeout*: seconds or "10s" (default: 60 s) after which its caller is told that it is late. *help*: by default the
    docstring. *workers*: whether workers may trigger it; by default they may, unless it overrides a built-in command
    that changes something. The function's arguments are the command's (``signature``); one called ``context``, the
    first, is given a ``Context``. Raises ValueError and TypeError.
    """

    def register(function: Any) -> Any:
        chosen = name if isinstance(name, str) else getattr(function, "__name__", "")
        HOOKS.extensions.command(chosen, function, access=access, timeout=timeout, doc=help, workers=workers)
        return function

    return register(name) if callable(name) else register


def disable(name: str) -> None:
    """Let nobody give the command *name*, built-in or defined before. Raises ValueError when there is none."""
    from cluster_service.control.errors import CommandError  # noqa: PLC0415

    try:
        HOOKS.extensions.registry.disable(name)
    except CommandError as error:
        raise ValueError(error.message) from None


def trigger(name: str, /, *args: Any, within: float | None = None, **options: Any) -> Any:
    """Give a command in the master, and return its result; a name that is no command's is told as an event.

    In a coroutine on the master's loop: ``await`` it. *within*: seconds, in a thread. Before the service runs: None.
    Raises CommandError, and TimeoutError after *within*.
    """
    dispatch = HOOKS.extensions.dispatch
    return None if dispatch is None else dispatch.inside(name, args, options, within)


def broadcast(message: Any, group: str | None = None, *, within: float | None = None) -> Any:  # noqa: ARG001 - the same as in a worker
    """Send *message* (JSON, 60 KB at most) to the workers of *group*, or to all; return how many took it.

    In a coroutine on the master's loop: ``await`` it. Before the service runs: 0. Raises CommandError.
    """
    dispatch = HOOKS.extensions.dispatch
    return 0 if dispatch is None else dispatch.broadcast(message, group)


def start(target: str | None = None, *, on_worker_stop: Callable[..., Any] | None = None, **options: Any) -> None:
    """Run *target* as a service; return when it has ended (in the master; elsewhere the process has become another).

    *target*: a Python file or ``package.module:app``; left out, it comes from the configuration.
    *on_worker_stop(event)* is called in the master for each worker that is asked to end. *options*: the settings of the
    command line in snake case (``worker_count``, ``access_key``, ``cwd``, ``bind`` …). In a worker, this is
    ``worker_ready(on_worker_stop=…)``.

    Raises SystemExit with a sentence on standard error: 2 for a wrong setting, 3 when a service of that name runs.
    """
    from cluster_service.worker.api import is_master, is_worker, worker_ready  # noqa: PLC0415

    if is_worker():
        worker_ready(on_worker_stop=on_worker_stop)
        return
    if is_master():
        from .main import main  # noqa: PLC0415

        if on_worker_stop is not None:
            HOOKS.on("worker_stop", on_worker_stop)
        sys.exit(main(HOOKS))
    _become_guardian(target, options)


def _become_guardian(target: str | None, options: dict[str, Any]) -> NoReturn:
    from cluster_service import boot, config  # noqa: PLC0415
    from cluster_service.control.console import beside  # noqa: PLC0415
    from cluster_service.control.errors import CommandError  # noqa: PLC0415

    try:
        settings = config.settings(options, target=target)
        for warning in settings.warnings:
            print(f"cservice: {warning}", file=sys.stderr)  # noqa: T201
        console = beside.attach if settings.console and beside.wanted(settings) else None
        boot.start(settings, boot.Program.this(), console)
    except boot.AlreadyRunning as running:
        print(f"cservice: {running}", file=sys.stderr)  # noqa: T201
        raise SystemExit(3) from None
    except CommandError as error:
        print(f"cservice: {error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201
        raise SystemExit(error.exit_code) from None
    raise SystemExit(0)  # detached: the service is up


__all__ = ["Hooks", "broadcast", "command", "disable", "on", "start", "trigger"]
