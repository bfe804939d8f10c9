"""Our own processes, apart from the Python environment of the user.

    command("cluster_service.master.main:main")   the words that run a function of ours in an isolated interpreter
    enter("cluster_service.__main__:main")        become that, if the user's environment would be imported from here
    admit_user_paths()                            let the user's code find its modules, behind ours

PYTHONPATH, PYTHONHOME, PYTHONOPTIMIZE, PYTHONWARNINGS, the user's site-packages and the current directory are made for
the program that we run, not for us: an old ``typing_extensions`` there must not reach the master. So our processes run
under ``python -I``, by way of this file, which makes our package importable if it stands outside of site-packages
(``pip install --target``, ``pip install --user``, a checkout). Workers and a program that calls ``cservice.start`` have
the user's environment, whole.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

FILE = os.path.abspath(__file__)
PACKAGE = os.path.dirname(FILE)
HOME = os.path.dirname(PACKAGE)
"""The directory that holds our package."""
VARIABLES = (
    "PYTHONPATH", "PYTHONPLATLIBDIR", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONDEVMODE", "PYTHONINSPECT",
)  # fmt: skip
"""What changes which modules are found, or how they run."""
DEPENDENCIES = ("a2wsgi", "click", "cronsim", "prompt_toolkit", "rich", "setproctitle", "starlette", "uvicorn")
"""The packages that ours needs, by the names that are imported."""


def command(function: str) -> list[str]:
    """Return the words that run *function* (``module:name``) without the user's Python environment."""
    return [sys.executable, "-I", FILE, function]


def enter(function: str, *, anywhere: bool = False) -> None:
    """Become a process that runs *function* with the arguments of this one, unless this one is isolated already, or
    its environment makes no difference. *anywhere*: the current directory may be on ``sys.path``.
    """
    if sys.flags.isolated or not sys.executable:
        return
    here = anywhere and not sys.flags.safe_path
    if here or any(os.environ.get(name) for name in VARIABLES) or any(each in sys.path for each in _user_site()):
        try:
            os.execv(sys.executable, [*command(function), *sys.argv[1:]])
        except OSError:  # this process does it as it is
            return


def admit_user_paths() -> None:
    """Append to ``sys.path`` what the user's environment would have put there: ours are found first."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    for path in (*paths, *_user_site()):
        if path not in sys.path:
            sys.path.append(path)


def _user_site() -> list[str]:
    if os.environ.get("PYTHONNOUSERSITE") or not _reads_user_site():
        return []
    import site  # the interpreter has imported it, unless an option forbids it

    path = site.getusersitepackages()
    return [path] if os.path.isdir(path) else []


def _reads_user_site() -> bool:
    """Whether this interpreter, if it were not isolated, would: not in a virtual environment of its own packages."""
    try:
        with open(os.path.join(sys.prefix, "pyvenv.cfg"), encoding="utf-8") as file:
            settings = [line.lower().replace(" ", "").strip() for line in file]
    except OSError:
        return True
    return "include-system-site-packages=true" in settings


def _find_ourselves() -> None:
    """Make our package, and what it needs, importable."""
    spec = importlib.util.find_spec("cluster_service")
    if spec is None or not spec.origin or os.path.realpath(os.path.dirname(spec.origin)) != os.path.realpath(PACKAGE):
        sys.path.insert(0, HOME)
        importlib.invalidate_caches()
    if any(importlib.util.find_spec(name) is None for name in DEPENDENCIES):  # installed where only the user looks
        admit_user_paths()


def main() -> None:
    """Run the function that the first argument names."""
    module, _, function = sys.argv[1].partition(":")
    sys.argv = ["cservice", *sys.argv[2:]]
    _find_ourselves()
    sys.exit(getattr(importlib.import_module(module), function)())


if __name__ == "__main__":
    main()
