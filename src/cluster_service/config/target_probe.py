"""Static examination of a target. Runs under the interpreter of the workers (3.9 or newer); prints one line of JSON.

    python target_probe.py script FILE               in the directory of the workers, with their environment
    python target_probe.py module MODULE             a target of ``python -m``
    python target_probe.py app MODULE ATTRIBUTE
    {"version": [3, 12]}                      always
    "broken": "File …, line 3 …"              a file does not compile: the script, the module, or a parent package
    "missing": "a.b", "near": [...]           the module certainly does not exist
    "file": "…", "names": [...]               the module exists, and its source certainly does not bind the name

Nothing of the target is imported or run, and nothing is written. Uncertain results are omitted: packages that are not
plain files, `from x import *`, `globals()`, `__getattr__`.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import json
import os
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DYNAMIC = {"globals", "locals", "vars", "exec", "eval", "setattr", "__import__", "__dict__", "modules"}
"""Names whose use in a module means that its source does not determine which names it binds."""


def find(module: str) -> dict[str, Any]:  # noqa: PLR0911 - each result has its own return
    """Return ``{"missing", "near"}``, ``{"file", "package"}`` or ``{"broken"}``; empty if uncertain."""
    parts = module.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])  # imports nothing for a top-level name
    except (ImportError, ValueError, AttributeError):
        return {}
    if spec is None:
        return {"missing": parts[0], "near": sorted(_modules_in(os.getcwd()))}
    for depth, part in enumerate(parts[1:], 2):
        broken = compile_error(str(spec.origin)) if _is_source(spec.origin) else ""
        if broken:
            return {"broken": broken}
        places = spec.submodule_search_locations
        if places is None:
            return {"missing": ".".join(parts[:depth]), "near": []}
        folders = list(getattr(places, "_path", places))
        if not all(os.path.isdir(folder) for folder in folders):
            return {}
        found = next((found for found in (_file_spec(part, folder) for folder in folders) if found), None)
        if found is None:
            if spec.origin and spec.origin.endswith("__init__.py") and _changes_path(spec.origin):
                return {}
            near = sorted({name for folder in folders for name in _modules_in(folder)})
            return {"missing": ".".join(parts[:depth]), "near": near}
        spec = found
    if not _is_source(spec.origin):
        return {}
    return {"file": spec.origin, "package": bool(spec.submodule_search_locations)}


def _is_source(origin: str | None) -> bool:
    return bool(origin) and str(origin).endswith(".py") and os.path.isfile(str(origin))


def compile_error(file: str) -> str:
    """Return the error that Python would print if *file* does not compile, else an empty string."""
    with open(file, "rb") as opened:
        source = opened.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        return "".join(traceback.format_exception_only(type(error), error)).rstrip()
    except ValueError as error:  # null bytes, in some versions
        return f'  File "{file}"\n{type(error).__name__}: {error}'
    return ""


def _file_spec(name: str, folder: str) -> importlib.machinery.ModuleSpec | None:
    loaders = [
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (importlib.machinery.SourceFileLoader, importlib.machinery.SOURCE_SUFFIXES),
        (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
    ]
    finder = importlib.machinery.FileFinder(folder, *loaders)
    return finder.find_spec(name)


def _changes_path(init: str) -> bool:
    try:
        with open(init, encoding="utf-8") as file:
            return "__path__" in file.read()
    except (OSError, UnicodeDecodeError):
        return True


def _modules_in(folder: str) -> Iterator[str]:
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    for entry in entries:
        name, suffix = os.path.splitext(entry)
        if name.isidentifier() and (suffix == ".py" or (not suffix and os.path.isdir(os.path.join(folder, entry)))):
            yield name


def bound_names(source: bytes) -> set[str] | None:
    """Return the names that the module *source* may bind at its top level, or None if uncertain."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in DYNAMIC:
            return None
        if isinstance(node, ast.Attribute) and node.attr in DYNAMIC:
            return None
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return None
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == "__getattr__":
            return None
        if isinstance(node, ast.Global):
            names.update(node.names)
    names.update(_binds(tree))
    return names


def _binds(scope: ast.AST) -> Iterator[str]:
    """Yield the names bound in *scope*, including its if, try, with, for and match blocks, but no inner scopes."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name).split(".")[0]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(getattr(node, "name", None), str):  # except … as name, case … as name
            yield str(getattr(node, "name"))  # noqa: B009 - no common type has it
        yield from _binds(node)


def _is_submodule(init: str, name: str) -> bool:
    folder = os.path.dirname(init)
    return name in set(_modules_in(folder)) or _file_spec(name, folder) is not None


def look(module: str, attribute: str) -> dict[str, Any]:
    """Return what is certain about ``module:attribute``."""
    found = find(module)
    if "file" not in found:
        return found
    file = str(found["file"])
    broken = compile_error(file)
    if broken:
        return {"broken": broken}
    with open(file, "rb") as source:
        names = bound_names(source.read())
    name = attribute.split(".", maxsplit=1)[0]
    if names is None or name in names or (name.startswith("__") and name.endswith("__")):
        return {}
    if found["package"] and _is_submodule(file, name):
        return {}
    public: list[str] = sorted(known for known in names if not known.startswith("_"))
    return {"file": file, "names": public}


def look_at_module(module: str) -> dict[str, Any]:
    """Return what is certain about ``python -m module``."""
    found = find(module)
    if found.get("package"):
        found = find(f"{module}.__main__")
    return {"broken": compile_error(str(found["file"]))} if "file" in found else found


def look_at_script(path: str) -> dict[str, Any]:
    """Return what is certain about ``python path``; nothing is for a zip file."""
    if os.path.isdir(path):
        path = os.path.join(path, "__main__.py")
    else:
        import zipfile  # for scripts only

        if zipfile.is_zipfile(path):
            return {}
    return {"broken": compile_error(path)}


LOOKS: dict[str, Callable[..., dict[str, Any]]] = {"app": look, "module": look_at_module, "script": look_at_script}
"""Kind of target -> the function that examines it."""


def main() -> None:
    """Print the result for the target in the arguments."""
    sys.path[0] = os.getcwd()
    kind, target, *attribute = sys.argv[1:]
    found: dict[str, Any] = {"version": list(sys.version_info[:2])}
    try:
        found.update(LOOKS[kind](target, *attribute))
    except Exception:  # noqa: BLE001, S110 - an uncertain result is omitted
        pass
    print(json.dumps(found))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
