"""Serves an app, ``package.module:app``, with a server from the virtualenv of the user.

The app is loaded first, so that its errors are reported before a port is bound.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import List, Sequence

from .interface import interface_of
from .loading import load_app
from .run import CANNOT_SERVE, refuse
from .runtime import current


def serve_app(target: str, server: str, binds: List[str], arguments: Sequence[str]) -> None:
    """Serve *target* on each of *binds* with *server*, until the worker stops."""
    runtime = current()
    if runtime is None:
        raise RuntimeError("an app is served in a worker")
    sys.argv = [target, *arguments]
    sys.path.insert(0, os.getcwd())
    require(server)
    if server == "granian":
        from .serve_granian import serve  # noqa: PLC0415 - one of the two

        serve(target, binds, runtime)
        return
    app = load_app(target)
    interface = interface_of(app)
    if interface == "wsgi":
        require("a2wsgi", f"{target} is a WSGI app, which is served by uvicorn through a2wsgi")
    from .serve_uvicorn import serve as serve_with_uvicorn  # noqa: PLC0415

    serve_with_uvicorn(app, interface, binds, runtime)


def require(package: str, why: str = "") -> None:
    """Exit with an error message if *package* is not installed for this interpreter."""
    if importlib.util.find_spec(package) is None:
        why = why or f"the app is to be served by {package}"
        refuse(
            f"{why}, and {package} is not installed for {sys.executable}. "
            f"Install it: {sys.executable} -m pip install {package}",
            CANNOT_SERVE,
        )
