"""ASGI or WSGI: told by what an app can be called with.

app(scope, receive, send)          asgi3: a coroutine function, or anything that takes three arguments
app(scope)(receive, send)          asgi2: one argument, or a class made from one whose instances take two
app(environ, start_response)       wsgi: two arguments
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any, Callable, Optional

_FACTORY = re.compile(r"(create|make|build|get)_|.*factory")
_NAMES = {"environ": "wsgi", "start_response": "wsgi", "scope": "asgi3", "receive": "asgi3"}


def interface_of(app: Any) -> str:
    """Return asgi3, asgi2 or wsgi. An app that could be any, with ``*args``, is taken for the first."""
    function = app
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):
        return _interface_of_class(function)
    if not inspect.isroutine(function):
        function = function.__call__
    if inspect.iscoroutinefunction(function):
        return "asgi3"
    return _by_arguments(app) or "asgi3"


def _interface_of_class(app: type) -> str:
    if hasattr(app, "__await__"):
        return "asgi3"  # app(scope, receive, send) makes something to be awaited
    if hasattr(app, "__iter__"):
        return "wsgi"  # app(environ, start_response) makes the answer
    call = vars(app).get("__call__") or getattr(app, "__call__", None)  # noqa: B004 - the function, not whether there is one
    if inspect.iscoroutinefunction(call):
        return "asgi2"
    return _by_arguments(app) or "asgi2"


def _by_arguments(app: Callable[..., Any]) -> Optional[str]:
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return None
    for name in signature.parameters:
        if name in _NAMES:
            kind = _NAMES[name]
            return "asgi2" if kind == "asgi3" and takes(signature, 1) and not takes(signature, 3) else kind
    fits = [kind for kind, count in (("asgi3", 3), ("wsgi", 2), ("asgi2", 1)) if takes(signature, count)]
    return fits[0] if len(fits) == 1 else None


def takes(signature: inspect.Signature, count: int) -> bool:
    """Whether *count* positional arguments fit."""
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def needs_arguments(thing: Any) -> bool:
    """Whether *thing*, by its name, is a factory that cannot be called without an argument: ``create_app(config)``."""
    if not inspect.isfunction(thing) or inspect.iscoroutinefunction(thing):
        return False
    signature = inspect.signature(thing)
    one = [count for count in range(4) if takes(signature, count)] == [1]  # as an app of ASGI 2 does
    return one and bool(_FACTORY.match(thing.__name__)) and not set(signature.parameters) & set(_NAMES)


def makes_an_app(thing: Any) -> bool:
    """Whether *thing* is a factory rather than an app: called without arguments, and not as any app is."""
    if not callable(thing) or inspect.iscoroutinefunction(thing):
        return False
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return False
    return takes(signature, 0) and not takes(signature, 2) and not takes(signature, 3)
