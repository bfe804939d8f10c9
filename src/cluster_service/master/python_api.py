"""``cservice.start``, and the commands and events of a user's program that controls a service.

The program that calls ``start`` runs twice. The first time, ``start`` executes the guardian in the same process (the
pid stays the same). The guardian then runs the same program as the master, where ``start`` runs the master's control
loop and calls the handlers registered before it. In a worker, ``start`` only reports that the worker is ready.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from .hooks import HOOKS, Hooks, hears_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.commands.registry import Level


Function = TypeVar("Function", bound="Callable[..., Any]")


@overload
def on(name: str, handler: Function, **options: Any) -> Function: ...
@overload
def on(name: str, handler: None = None, **options: Any) -> Callable[[Function], Function]: ...


def on(name: str, handler: Any = None, **options: Any) -> Any:
    """Call *handler(event)* in the master for each event *name* (``worker_exit``, ``workerExit``; ``*``: all), or make
    *handler* the command *name*. Without *handler*, return a decorator.

    A name that is not a built-in event is a custom event if the handler's parameter is called ``event``, and otherwise
    a command (*options*: see ``command``). Raises ValueError and TypeError.
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
    help: str | None = None,  # noqa: A002 - its name on every command line
    workers: bool | None = None,
) -> Any:
    """Make the decorated function a command of the service, at every endpoint: ``@command("greet")`` or ``@command``.

    *name*: by default that of the function. The name of a built-in command overrides it; the result of a handler for
    ``health`` is added to the built-in result. *access*: who may run it: ``remote`` (clients with an access key),
    ``local`` (the owner, over the Unix socket; the default), ``inproc`` (only processes of the service), ``disabled``.
    *timeout*: seconds or "10s" (default: 60 s) after which the caller receives a timeout error. *help*: by default the
    docstring. *workers*: whether workers may trigger it; by default they may, unless it overrides a built-in command
    that changes something. The parameters of the function are those of the command (``command_context``); a first
    parameter called ``context`` receives a ``Context``. Raises ValueError and TypeError.
    """

    def register(function: Any) -> Any:
        chosen = name if isinstance(name, str) else getattr(function, "__name__", "")
        HOOKS.extensions.command(chosen, function, access=access, timeout=timeout, doc=help, workers=workers)
        return function

    return register(name) if callable(name) else register


def disable(name: str) -> None:
    """Disable the command *name*, built-in or custom, for all callers. Raises ValueError if it does not exist."""
    from cluster_service.errors import CommandError

    try:
        HOOKS.extensions.registry.disable(name)
    except CommandError as error:
        raise ValueError(error.message) from None


def trigger(name: str, /, *args: Any, within: float | None = None, **options: Any) -> Any:
    """Run a command in the master and return its result; a name that is not a command is published as an event.

    In a coroutine on the master's event loop, ``await`` the result. *within*: timeout in seconds, in a thread. Return
    None before the service runs. Raises CommandError, and TimeoutError after *within*.
    """
    dispatch = HOOKS.extensions.dispatch
    return None if dispatch is None else dispatch.inside(name, args, options, within)


def broadcast(message: Any, group: str | None = None, *, within: float | None = None) -> Any:  # noqa: ARG001 - the same as in a worker
    """Send *message* (JSON, at most 60 KB) to the workers of *group*, or to all; return how many received it.

    In a coroutine on the master's event loop, ``await`` the result. Return 0 before the service runs. Raises
    CommandError.
    """
    dispatch = HOOKS.extensions.dispatch
    return 0 if dispatch is None else dispatch.broadcast(message, group)


def start(target: str | None = None, *, on_worker_stop: Callable[..., Any] | None = None, **options: Any) -> None:
    """Run *target* as a service. Return in the master when the service has ended; elsewhere, never return.

    *target*: a Python file or ``package.module:app``; by default, from the configuration.
    *on_worker_stop(event)* is called in the master for each worker that is asked to stop. *options*: the settings of
    the command line in snake case (``worker_count``, ``access_key``, ``cwd``, ``bind`` …). In a worker, this is
    ``worker_ready(on_worker_stop=…)``.

    Raises SystemExit with a message on stderr: 2 for an invalid setting, 3 if a service of that name is running.
    """
    from cluster_service.worker.program_api import is_master, is_worker, worker_ready

    if is_worker():
        worker_ready(on_worker_stop=on_worker_stop)
        return
    if is_master():
        from .main import main

        if on_worker_stop is not None:
            HOOKS.on("worker_stop", on_worker_stop)
        sys.exit(main(HOOKS))
    _become_guardian(target, options)


def _become_guardian(target: str | None, options: dict[str, Any]) -> NoReturn:
    from cluster_service import config, launcher
    from cluster_service.cli.console import foreground
    from cluster_service.errors import CommandError

    try:
        settings = config.settings(options, target=target)
        for warning in settings.warnings:
            print(f"cservice: {warning}", file=sys.stderr)
        console = foreground.attach if settings.console and foreground.wanted(settings) else None
        launcher.start(settings, launcher.Program.this(), console)
    except launcher.AlreadyRunning as running:
        print(f"cservice: {running}", file=sys.stderr)
        raise SystemExit(3) from None
    except CommandError as error:
        print(f"cservice: {error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    raise SystemExit(0)  # detached: the service is running


__all__ = ["Hooks", "broadcast", "command", "disable", "on", "start", "trigger"]
