"""Detection of ASGI or WSGI, by the signature of an app.

app(scope, receive, send)          asgi3: a coroutine function, or a callable with three arguments
app(scope)(receive, send)          asgi2: one argument, or a class constructed with one whose instances take two
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
    """Return asgi3, asgi2 or wsgi. An ambiguous app, such as one with ``*args``, counts as asgi3."""
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
        return "asgi3"  # app(scope, receive, send) creates an awaitable
    if hasattr(app, "__iter__"):
        return "wsgi"  # app(environ, start_response) creates the answer
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
    """Return True if *signature* accepts *count* positional arguments."""
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def needs_arguments(thing: Any) -> bool:
    """Return True if *thing* has the name of a factory but requires one argument: ``create_app(config)``."""
    if not inspect.isfunction(thing) or inspect.iscoroutinefunction(thing):
        return False
    signature = inspect.signature(thing)
    one = [count for count in range(4) if takes(signature, count)] == [1]  # like an ASGI 2 app
    return one and bool(_FACTORY.match(thing.__name__)) and not set(signature.parameters) & set(_NAMES)


def makes_an_app(thing: Any) -> bool:
    """Return True if *thing* is a factory: callable without arguments, but not like an app."""
    if not callable(thing) or inspect.iscoroutinefunction(thing):
        return False
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return False
    return takes(signature, 0) and not takes(signature, 2) and not takes(signature, 3)
