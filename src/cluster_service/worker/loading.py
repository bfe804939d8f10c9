"""Loading of ``package.module:app``, with a clear error message if that fails.

package.module:app                   an attribute, possibly nested: ``module:api.app``
package.module:create_app()          a factory to call; constant arguments are allowed, as in gunicorn
package.module:create_app            a factory is also detected by its signature: it takes no argument, unlike an app
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import sys
from typing import Any, Dict, List, NoReturn, Tuple

from .interface import makes_an_app, needs_arguments
from .run import CANNOT_SERVE, hide_our_frames, refuse
from .say import complain


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
        complain(f"{target} takes no argument: it is called, as {target}(), for the app")
        app = _make(app, [], {})
    elif needs_arguments(app):
        refuse(
            f"{target} is called for the app, and needs an argument. Write constants in quotes, as in "
            f"'{target}(\"production\")', or a function without arguments that calls it",
            CANNOT_SERVE,
        )
    if not callable(app):
        refuse(f"{target} is no app: {type(app).__name__} objects cannot be called", CANNOT_SERVE)
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
        refuse(
            f"{target}: after the colon stands a name, or a call with constant arguments: app, api.app, create_app()",
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
        complain(f"{name} {_why_missing(missing)}")
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
        return f"needs {missing}, and the {top} that is there has no such module: a slip, or another version of it?"
    near = _did_you_mean(top, _modules_in(os.getcwd()))
    if near:
        return f"needs {missing}, which is neither in {os.getcwd()} nor installed{near}"
    return (
        f"needs {missing}, which is not installed for {sys.executable}. If that is a package's name, too: "
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
    refuse(
        f"there is no module {missing!r} in {os.getcwd()}, nor is it installed for {sys.executable}{hint}", CANNOT_SERVE
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
    refuse(f"{place} has no {part!r}{hint}", CANNOT_SERVE)


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
