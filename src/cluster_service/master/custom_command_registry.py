"""Custom commands: make commands of functions and run them.

    EXTENSIONS.command("greet", greet, access="local")     add a command to the registry, for every endpoint
    EXTENSIONS.load("commands/", log)                      run the ``.py`` files of a directory, which add theirs

The caller of a command always receives a response within its timeout: the result as JSON, the CommandError that the
handler raised, ``failed`` with an id under which the traceback is logged, or ``timeout``; never a traceback.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import importlib.util
import inspect
import json
import os
import secrets
import sys
import traceback
from typing import TYPE_CHECKING, Any, get_args

from cluster_service import isolation
from cluster_service.commands.registry import COMMANDS, NAME, Command, Level, Registry
from cluster_service.commands.service_interface import CALLER
from cluster_service.config import setting_values
from cluster_service.errors import CommandError

from .command_context import Context, signature_of
from .user_code import HANDLERS, Crowded, Late, Raised, Unstarted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster_service.commands.service_interface import Caller

    from .command_context import Dispatcher


TIMEOUT = 60.0
"""Default timeout of a command, in seconds."""
RESULT_LIMIT = 4 * 1024 * 1024
"""Maximum length of a result, in bytes of JSON."""
PACKAGE = "cservice_commands"
"""Prefix of the module names of a directory of commands."""


class Custom:
    """One custom command."""

    def __init__(
        self,
        name: str,
        handler: Callable[..., Any],
        home: Extensions,
        *,
        access: Level | None,
        timeout: float,
        doc: str | None,
        workers: bool | None,
    ) -> None:
        self.handler = handler
        self._home = home
        before = home.registry.built_in(name)
        self._before = before
        like = {parameter.name: parameter for parameter in before.parameters} if before else {}
        self._signature = signature_of(handler, like)
        text = doc or inspect.getdoc(handler) or (before.doc if before else "") or f"Run {name}."
        reads = before is not None and not before.changes
        self.command = Command(
            name=name,
            doc=text,
            run=self.run,
            parameters=self._signature.parameters,
            access=access or (before.access if before else "local"),
            operation=False,
            succeeds=before.succeeds if before else "done",
            changes=not reads,
            render=before.render if before else "custom",
            custom=True,
            timeout=timeout,
            workers=workers if workers is not None else before is None or reads,
        )

    async def run(self, _service: Any, **arguments: Any) -> dict[str, Any]:
        """Run the command for an endpoint, which requires an object as the result."""
        value = await self.call(arguments, CALLER.get())
        return value if isinstance(value, dict) else {"result": value}

    async def call(self, arguments: Mapping[str, Any], caller: Caller) -> Any:
        """Run the handler with checked *arguments*; return its result as JSON. Raises CommandError."""
        dispatch = self._home.dispatch
        if dispatch is None:
            raise CommandError("unavailable", f"{self.command.name}: no service runs in this process")
        if self.command.name != "health":
            return await self._call(dispatch, arguments, caller)
        own = await dispatch.run(self._before, {}) if self._before else {}
        try:
            more = await self._call(dispatch, arguments, caller)
        except CommandError as error:
            worse = "degraded" if own.get("status") == "ok" else own.get("status")
            return {**own, "status": worse, "error": error.message}
        return {**own, **more} if isinstance(more, dict) else own if more is None else {**own, "result": more}

    async def _call(self, dispatch: Dispatcher, arguments: Mapping[str, Any], caller: Caller) -> Any:
        name = self.command.name

        async def builtin(changes: dict[str, Any]) -> Any:
            if self._before is None:
                raise CommandError("not_found", f"{name} overrides no command")
            return await dispatch.run(self._before, {**_known(self._before, arguments), **changes})

        context = Context(name, caller, dispatch, builtin)

        def call() -> Any:
            result = self._signature.call(self.handler, context, arguments)
            return _later(result) if inspect.isawaitable(result) else as_json(result)

        try:
            return await HANDLERS.run(
                call, self.command.timeout, on_loop=inspect.iscoroutinefunction(inspect.unwrap(self.handler))
            )
        except Late:
            raise CommandError(
                "timeout", f"{name} has not ended within {self.command.timeout:g} s and is left to itself"
            ) from None
        except Crowded:
            raise CommandError(
                "unavailable", f"{name}: {HANDLERS.most} commands of the service's own are at work already"
            ) from None
        except Unstarted as why:
            raise CommandError("unavailable", f"{name} was not started: {why}", "Try again.") from None
        except Raised as raised:
            if isinstance(raised.error, CommandError):
                raise raised.error from None
            identity = secrets.token_hex(4)
            dispatch.log(f"error {identity} in {name}", raised.story())
            message = f"{name} failed; the service's log tells more under {identity}"
            raise CommandError("failed", message) from None


async def _later(result: Any) -> Any:
    return as_json(await result)


def _known(command: Command, arguments: Mapping[str, Any]) -> dict[str, Any]:
    names = {parameter.name for parameter in command.parameters}
    return {name: value for name, value in arguments.items() if name in names}


def as_json(value: Any) -> Any:
    """Convert *value* to JSON types: dataclasses to objects, sets to lists, dates and paths to text.

    Raises TypeError for any other type, and ValueError if the result exceeds ``RESULT_LIMIT``.
    """
    text = json.dumps(value, default=_as_json, allow_nan=False)
    if len(text) > RESULT_LIMIT:
        raise ValueError(f"a result of {len(text)} bytes is over the limit of {RESULT_LIMIT}")
    return json.loads(text)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a command's result must be JSON, and {type(value).__name__} is not: return a dict, list or text")


class Extensions:
    """The commands of a user's program. *registry*: where they are registered."""

    def __init__(self, registry: Registry = COMMANDS) -> None:
        self.registry = registry
        self.dispatch: Dispatcher | None = None
        """Set while a master runs in this process."""

    def command(
        self,
        name: str,
        handler: Callable[..., Any],
        *,
        access: Level | None = None,
        timeout: float | str | None = None,
        doc: str | None = None,
        workers: bool | None = None,
    ) -> Custom:
        """Register *handler* as the command *name*; see ``python_api.command``. Raises ValueError and TypeError."""
        if not isinstance(name, str) or not NAME.match(name):
            raise ValueError(
                f"{name!r} cannot be the name of a command: a letter, then letters, digits, '.', '-', '_', 64 at most"
            )
        if not callable(handler):
            raise TypeError(f"the handler of {name!r} must be callable, not {type(handler).__name__}")
        if access is not None and access not in get_args(Level):
            raise ValueError(f"{name}: access={access!r} is none of {', '.join(get_args(Level))}")
        try:
            seconds = TIMEOUT if timeout is None else setting_values.duration(timeout)
        except CommandError as error:
            raise ValueError(f"{name}: timeout: {error.message}") from None
        custom = Custom(name, handler, self, access=access, timeout=seconds, doc=doc, workers=workers)
        self.registry.add(custom.command)
        return custom

    def load(self, directory: str, log: Callable[[str], None]) -> None:
        """Run each ``.py`` file of *directory*, in alphabetical order, except those that begin with ``_`` or ``.``.
        If a file fails, log the error and skip only the commands of that file.
        """
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(".py") and name[0] not in "._")
        except OSError as error:
            log(f"the commands in {directory} cannot be read: {error.strerror}")
            return
        if directory not in sys.path:
            sys.path.append(directory)  # lets the files share modules whose names begin with _
        isolation.admit_user_paths()
        for name in names:
            self._load(os.path.join(directory, name), log)

    def _load(self, path: str, log: Callable[[str], None]) -> None:
        before = self.registry.added()
        module_name = f"{PACKAGE}.{os.path.basename(path)[:-3]}"
        try:
            spec = importlib.util.spec_from_file_location(module_name, path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{path} cannot be loaded")
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a file must not end the master
            sys.modules.pop(module_name, None)
            self.registry.restore(before)
            log(f"{path} is left out, and its commands with it:\n{_story(error, path)}")
            return
        for name in sorted(set(before) & set(self.registry.added())):
            if before[name] is not self.registry.added()[name]:
                log(f"{path} replaces the command {name}, which was defined before")


def _story(error: BaseException, path: str) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != path:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
