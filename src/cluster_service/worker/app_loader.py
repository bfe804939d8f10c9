"""Load an app, ``package.module:app``, and detect its interface.

package.module:app                   an attribute, possibly nested: ``module:api.app``
package.module:create_app()          a factory to call; constant arguments are allowed, as in gunicorn
package.module:create_app            a factory is also detected by its signature: it takes no argument, unlike an app

The app is loaded first, so that its errors are reported before a port is bound. Its interface is detected by its
signature:

app(scope, receive, send)          asgi3: a coroutine function, or a callable with three arguments
app(scope)(receive, send)          asgi2: one argument, or a class constructed with one whose instances take two
app(environ, start_response)       wsgi: two arguments
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import inspect
import os
import re
import sys
from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple

from .reporting import CANNOT_SERVE, exit_with_message, hide_our_frames, warn


def require(package: str, why: str = "") -> None:
    """Exit with an error message if *package* is not installed for this interpreter."""
    if importlib.util.find_spec(package) is None:
        why = why or f"the app is served by {package}"
        exit_with_message(
            f"{why}, but {package} is not installed for {sys.executable}. "
            f"Install it: {sys.executable} -m pip install {package}",
            CANNOT_SERVE,
        )


def load_app(target: str) -> Any:
    """Return the app named by *target*, or exit with an error message or the module's own traceback."""
    module_name, _, expression = target.partition(":")
    name, call = _parse(target, expression)
    module = _import(module_name)
    app = module
    for part in name.split("."):
        if not hasattr(app, part):
            _no_attribute(module_name, name, app, part)
        app = getattr(app, part)
    if call is not None:
        app = _make(app, *call)
    elif makes_an_app(app):
        warn(f"{target} takes no arguments: calling {target}() to create the app")
        app = _make(app, [], {})
    elif needs_arguments(app):
        exit_with_message(
            f"cannot create the app: {target} needs an argument. Pass constants in quotes, as in "
            f"'{target}(\"production\")', or name a function without arguments that calls it",
            CANNOT_SERVE,
        )
    if not callable(app):
        exit_with_message(f"{target} is not an app: {type(app).__name__} objects are not callable", CANNOT_SERVE)
    return app


def _parse(target: str, expression: str) -> Tuple[str, Any]:
    """Return the dotted name, and the arguments if it is a call, else None."""
    try:
        tree = ast.parse(expression or "app", mode="eval").body
        call = None
        if isinstance(tree, ast.Call):
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
            call = [ast.literal_eval(argument) for argument in tree.args], keywords
            tree = tree.func
        parts: List[str] = []
        while isinstance(tree, ast.Attribute):
            parts.append(tree.attr)
            tree = tree.value
        if not isinstance(tree, ast.Name):
            raise ValueError("not a name")  # noqa: TRY004 - caught below
    except (SyntaxError, ValueError):
        exit_with_message(
            f"{target}: expected a name or a call with constant arguments after the colon: app, api.app, create_app()",
            CANNOT_SERVE,
        )
    return ".".join([tree.id, *reversed(parts)]), call


def _import(name: str) -> Any:
    try:
        __import__(name)  # not importlib.import_module, whose frames would appear in the user's traceback
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == name or name.startswith(missing + "."):
            _no_module(missing)
        hide_our_frames(error)
        warn(f"{name} {_why_missing(missing)}")
        raise
    except SystemExit:
        raise
    except BaseException as error:
        hide_our_frames(error)
        raise
    return sys.modules[name]


def _why_missing(missing: str) -> str:
    """Explain why the module *missing* is not found; suggest pip only if nothing of that name is installed."""
    top = missing.partition(".")[0]
    if top in sys.modules or _is_there(top):
        return f"imports {missing}, but the installed {top} has no such module. Check the name and the version of {top}"
    near = _did_you_mean(top, _modules_in(os.getcwd()))
    if near:
        return f"imports {missing}, which is neither in {os.getcwd()} nor installed{near}"
    return (
        f"imports {missing}, which is not installed for {sys.executable}. If the package has the same name, run: "
        f"{sys.executable} -m pip install {top}"
    )


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _no_module(missing: str) -> NoReturn:
    directory = os.path.join(os.getcwd(), *missing.split(".")[:-1])
    hint = _did_you_mean(missing.rpartition(".")[2], _modules_in(directory))
    exit_with_message(
        f"there is no module {missing!r} in {os.getcwd()}, and none is installed for {sys.executable}{hint}",
        CANNOT_SERVE,
    )


def _modules_in(directory: str) -> List[str]:
    try:
        found = sorted(os.listdir(directory))
    except OSError:
        return []
    return [
        entry.removesuffix(".py")
        for entry in found
        if entry.endswith(".py") or os.path.isfile(os.path.join(directory, entry, "__init__.py"))
    ]


def _no_attribute(module_name: str, name: str, owner: Any, part: str) -> NoReturn:
    public = [each for each in vars(owner) if not each.startswith("_")] if hasattr(owner, "__dict__") else []
    hint = _did_you_mean(part, public)
    place = module_name if name.split(".", maxsplit=1)[0] == part else f"{module_name}:{name.rpartition('.' + part)[0]}"
    exit_with_message(f"{place} has no {part!r}{hint}", CANNOT_SERVE)


def _did_you_mean(name: str, known: List[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f". Did you mean {' or '.join(near)}?" if near else ""


def _make(factory: Any, arguments: List[Any], keywords: Dict[str, Any]) -> Any:
    try:
        return factory(*arguments, **keywords)
    except SystemExit:
        raise
    except BaseException as error:
        hide_our_frames(error)
        raise


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
