"""What a custom command receives: its context, and its arguments, from the parameters of its function."""

from __future__ import annotations

import asyncio
import collections.abc
import datetime as dt
import enum
import functools
import inspect
import pathlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from cluster_service.commands.registry import Parameter
from cluster_service.config.settings_table import canonical

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from cluster_service.commands.registry import Command
    from cluster_service.commands.service_interface import Caller, Service


def on_loop(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], seconds: float | None = None) -> Any:
    """Run *coroutine* on *loop*, the master's event loop. In a thread, return its result. In a coroutine, return a
    future of its result. In a thread, raises TimeoutError after *seconds*.
    """
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(seconds)
    if here is loop:
        return loop.create_task(coroutine)
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


class Dispatcher(Protocol):
    """What contexts and custom commands use of the commands from within (``internal_commands.Dispatch``)."""

    loop: asyncio.AbstractEventLoop

    @property
    def service(self) -> Service:
        """The running service."""

    def log(self, who: str, text: str) -> None:
        """Write *text* to the log, each line after *who*."""

    def inside(self, name: str, args: Sequence[Any], options: Mapping[str, Any], within: float | None = None) -> Any:
        """Give a command, or publish an event, as the service's program."""

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers."""

    def broadcast(self, message: Any, group: str | None) -> Any:
        """Send *message* to workers."""

    async def follow(self, operation: str) -> dict[str, Any]:
        """Return the operation when it has ended."""

    async def run(self, command: Command, given: Mapping[str, Any], caller: Caller = ...) -> Any:
        """Run *command* with checked arguments."""


class Context:
    """The caller of a command, and the service. An ``async`` command must ``await`` the results marked "awaitable".

    ``name``: the command. ``service``: the name of the service. ``caller``: ``door`` (``unix``, ``tcp``, ``worker``,
    ``master``), ``peer`` and ``key`` (the name of the access key, never the key itself).
    """

    def __init__(
        self,
        name: str,
        caller: Caller,
        dispatch: Dispatcher,
        builtin: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]],
    ) -> None:
        self.name = name
        self.service = dispatch.service.name
        self.caller = caller
        self._dispatch = dispatch
        self._builtin = builtin

    def __repr__(self) -> str:
        """Return, for example, ``<Context of greet, given by uid:0 at unix>``."""
        return f"<Context of {self.name}, given by {self.caller.peer or 'the program'} at {self.caller.door}>"

    def log(self, text: object) -> None:
        """Write *text* to the log of the service, each line with the name of the command."""
        self._dispatch.log(self.name, str(text))

    def command(self, name: str, /, *args: Any, **options: Any) -> Any:
        """Run another command and return its result (awaitable); of a long one, the operation when it begins.

        It runs with the rights of the service's program, whatever the rights of the caller. Raises CommandError.
        """
        return self._dispatch.inside(name, args, options)

    def follow(self, operation: dict[str, Any]) -> Any:
        """Wait until *operation* has ended, successfully or not, and return it (awaitable)."""
        return on_loop(self._dispatch.loop, self._dispatch.follow(str(operation["id"])))

    def builtin(self, **arguments: Any) -> Any:
        """Run the overridden built-in command with the arguments of this one, updated by *arguments* (awaitable).

        Raises CommandError if this command overrides none.
        """
        return on_loop(self._dispatch.loop, self._builtin(arguments))

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers, as the command ``workers`` does."""
        return self._dispatch.workers()

    def broadcast(self, message: Any, group: str | None = None) -> Any:
        """Send *message* to the workers of *group*, or to all; return how many received it (awaitable)."""
        return self._dispatch.broadcast(message, group)


__all__ = ["Context", "on_loop"]


CONTEXT = ("context", "_context", "ctx", "_ctx", "_")
"""Names of a first parameter that receives the context."""
RESERVED = frozenset(("access_key", "no_wait", "within", "json", "help"))
"""Names that have a meaning of their own at some endpoint."""

Convert = Callable[[Any], Any]

PLAIN: dict[Any, tuple[str, str, Convert]] = {
    str: ("string", "text", str),
    int: ("integer", "a whole number", int),
    float: ("number", "a number", float),
    bool: ("flag", "yes or no", bool),
    dict: ("object", "a JSON object", dict),
    pathlib.Path: ("file", "a path", pathlib.Path),
    dt.timedelta: ("duration", "a time: 10s, 5m", lambda seconds: dt.timedelta(seconds=seconds)),
    Any: ("any", "any value", lambda value: value),
    object: ("any", "any value", lambda value: value),
    inspect.Parameter.empty: ("any", "any value", lambda value: value),
}
"""Maps an annotation to the kind, the help, and the conversion of the checked value for the function."""

MANY: dict[Any, Callable[[Any], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
}

TEXTS = frozenset(
    ("text", "argument", "selector", "change", "target", "file", "caller", "executable", "url path", "setting")
)
TIMES = frozenset(("duration", "timeout"))


@dataclass(frozen=True)
class Shape:
    """Meaning of an annotation."""

    kind: str
    doc: str
    convert: Convert
    choices: tuple[str, ...] = ()
    many: bool = False


@dataclass(frozen=True)
class Signature:
    """How to call a handler."""

    parameters: tuple[Parameter, ...]
    takes_context: bool
    _names: Mapping[str, str]
    _converts: Mapping[str, Convert]
    _places: tuple[str, ...]
    """Parameters that are passed by position: ``*args`` follows them, or they are positional-only."""
    _rest: str
    _defaults: Mapping[str, Any]

    def call(self, handler: Callable[..., Any], context: Context, arguments: Mapping[str, Any]) -> Any:
        """Call *handler* with checked *arguments*."""
        given = {name: self._converts[name](value) for name, value in arguments.items()}
        by_place: list[Any] = [context] if self.takes_context else []
        for name in self._places:
            if name in given:
                by_place.append(given.pop(name))
            elif self._rest in given and name in self._defaults:
                by_place.append(self._defaults[name])
            else:
                break
        by_place += given.pop(self._rest, ())
        return handler(*by_place, **{self._names[name]: value for name, value in given.items()})


def signature_of(handler: Callable[..., Any], like: Mapping[str, Parameter] | None = None) -> Signature:
    """Return how to call *handler*. *like*: the parameters of the command that it overrides, by name.

    Raises TypeError if the signature cannot be offered as a command.
    """
    found, hints = _look(handler)
    takes_context = False
    parameters: list[Parameter] = []
    names: dict[str, str] = {}
    converts: dict[str, Convert] = {}
    places: list[str] = []
    defaults: dict[str, Any] = {}
    rest = ""
    for number, parameter in enumerate(found):
        annotation = hints.get(parameter.name, parameter.annotation)
        if number == 0 and _is_context(parameter, annotation):
            takes_context = True
            continue
        name = canonical(parameter.name).strip("_") or parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            raise TypeError(f"{_called(handler)}: **{parameter.name} cannot be a command's: name each argument")
        if name in RESERVED or name in names:
            why = "has a meaning of its own" if name in RESERVED else "is there twice"
            raise TypeError(f"{_called(handler)}: an argument cannot be called {parameter.name!r}, which {why}")
        shape = _shape(annotation, handler, parameter.name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            shape = replace(shape, many=True, convert=_each(shape.convert, list))
            rest = name
        made = _parameter(name, shape, parameter)
        parameters.append(_as_before(made, shape, like.get(name) if like else None))
        names[name], converts[name] = parameter.name, shape.convert
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            places.append(name)
        if parameter.default is not parameter.empty:
            defaults[name] = parameter.default
    last = [each.name for each in parameters if each.positional][-1:]
    parameters = [
        replace(each, positional=False) if each.many and [each.name] != last else each for each in parameters
    ]  # several values can only come last
    return Signature(tuple(parameters), takes_context, names, converts, tuple(places), rest, defaults)


def _look(handler: Callable[..., Any]) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    try:
        found = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        raise TypeError(f"{_called(handler)} does not tell its arguments: wrap it in a function") from None
    function = inspect.unwrap(handler)
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and hasattr(function, "__call__"):  # noqa: B004 - an object that is called
        function = function.__call__
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{_called(handler)}: an annotation cannot be understood: {error}") from None
    except TypeError:
        hints = {}  # such as a functools.partial: use the annotations of its parameters
    return found, hints


def _is_context(parameter: inspect.Parameter, annotation: Any) -> bool:
    by_place = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return by_place and (parameter.name in CONTEXT or annotation is Context)


def _parameter(name: str, shape: Shape, parameter: inspect.Parameter) -> Parameter:
    by_name = parameter.kind is parameter.KEYWORD_ONLY or shape.kind == "flag"
    has_default = parameter.default is not parameter.empty
    optional = has_default or shape.kind == "flag" or parameter.kind is parameter.VAR_POSITIONAL
    return Parameter(
        name,
        shape.kind,
        shape.doc,
        required=not optional,
        positional=not by_name,
        choices=shape.choices,
        many=shape.many,
        default=_shown(parameter.default) if has_default else "",
    )


def _as_before(made: Parameter, shape: Shape, before: Parameter | None) -> Parameter:
    """Write an argument as in the built-in command that is overridden, if both have it with the same annotation."""
    same = before is not None and (
        shape.kind in {before.kind, "any"}
        or (shape.kind == "string" and before.kind in TEXTS)
        or (shape.kind == "number" and before.kind in TIMES)
    )
    if before is None:
        return replace(made, remote="plain")
    if not same:
        return replace(made, remote=before.remote)  # a handler may pass it on to the built-in command
    return replace(before, required=made.required, default=made.default or before.default)


def _shown(default: Any) -> str:
    if default is None or default is False or default == "":
        return ""
    if isinstance(default, enum.Enum):
        default = default.value
    if isinstance(default, dt.timedelta):
        return f"{default.total_seconds():g}s"
    return "" if isinstance(default, (list, tuple, set, dict)) and not default else str(default)


def _shape(annotation: Any, handler: Callable[..., Any], name: str) -> Shape:
    """Return the meaning of *annotation*. Raises TypeError."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        shape = _shape(inside[0], handler, name)
        texts = [each for each in inside[1:] if isinstance(each, str)]
        return replace(shape, doc=texts[0]) if texts else shape
    if origin in (typing.Union, types.UnionType):
        one = [each for each in inside if each is not type(None)]
        if len(one) == 1:
            return _shape(one[0], handler, name)
    elif origin is typing.Literal:
        return _one_of({str(each): each for each in inside if each is not None})
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _one_of({str(each.value): each for each in annotation})
    elif (origin or annotation) in MANY:
        make = MANY[origin or annotation]
        item = _shape(inside[0] if inside else Any, handler, name)
        if not item.many and (len(inside) < 2 or inside[1] is Ellipsis):
            return replace(item, many=True, convert=_each(item.convert, make), doc=f"{item.doc}, or several")
    elif (origin or annotation) in (dict, collections.abc.Mapping):
        return Shape(*PLAIN[dict])
    elif _hashable(annotation) and annotation in PLAIN:
        return Shape(*PLAIN[annotation])
    written = getattr(annotation, "__name__", None) if isinstance(annotation, type) else str(annotation)
    raise TypeError(
        f"{_called(handler)}: the argument {name!r} is annotated {written}, which cannot be read from a command line: "
        "write str, int, float, bool, dict, Path, timedelta, Literal[…], an Enum, list[…] or X | None"
    )


def _hashable(annotation: Any) -> bool:
    try:
        hash(annotation)
    except TypeError:
        return False
    return True


def _one_of(values: Mapping[str, Any]) -> Shape:
    return Shape("choice", "a word", lambda word: values[str(word)], choices=tuple(values))


def _each(convert: Convert, make: Callable[[Any], Any]) -> Convert:
    return lambda items: make([convert(item) for item in items])


def _called(handler: Callable[..., Any]) -> str:
    return str(getattr(handler, "__qualname__", None) or handler)
