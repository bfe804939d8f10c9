"""From the start of the interpreter to the first line of the program.

    entry_point.py script /abs/worker.py ARGS…                     a file, as if it were run alone
    entry_point.py module package.module ARGS…                     a module, as with ``python -m``
    entry_point.py app package.module:app SERVER BIND,BIND ARGS…   an app, on uvicorn or granian

The worker's own variables are removed from the environment first, so that neither the program nor its children see
them; those documented for programs (``CSERVICE_NAME``, …) remain.
"""

from __future__ import annotations

import os
import sys
from typing import Collection, Dict, List, Optional, Sequence

from .heartbeat import Heartbeat
from .import_hooks import install_hooks
from .runtime import Runtime, install
from .worker_process import ProcessTitle

PUBLIC = ("CSERVICE_NAME", "CSERVICE_GROUP", "CSERVICE_SLOT", "CSERVICE_GENERATION", "CSERVICE_REASON")
"""Our variables on which a program may rely."""


def main(arguments: Sequence[str], at_start: Collection[str]) -> None:
    """Run the worker described by *arguments*. *at_start*: modules imported by the interpreter itself."""
    settings = _take_settings()
    runtime = Runtime(
        _descriptor(settings.get("CSERVICE_CHANNEL")),
        settings.get("CSERVICE_SHARE", "none"),
        Heartbeat(_descriptor(settings.get("CSERVICE_BOARD"))),
        ProcessTitle(settings.get("CSERVICE_TITLE")),
    )
    runtime.check = _descriptor(settings.get("CSERVICE_CHECK"))
    ports = _descriptor(settings.get("CSERVICE_PORTS"))
    install(runtime)
    runtime.start()
    if ports is not None:
        from .port_sharing import share_ports  # only in that mode

        share_ports(ports)
    install_hooks(runtime)
    _buffer_by_line()
    kind, target, *rest = arguments
    if kind == "script":
        from .script import run_script

        run_script(target, rest, at_start)
    elif kind == "module":
        from .script import run_module

        run_module(target, rest, at_start)
    else:
        server, binds, *args = rest
        _serve_app(runtime, target, server, [bind for bind in binds.split(",") if bind], args)


def _serve_app(runtime: Runtime, target: str, server: str, binds: List[str], arguments: Sequence[str]) -> None:
    """Serve the app *target* on each of *binds* with *server*, until the worker stops."""
    from .app_loader import interface_of, load_app, require  # only for an app

    sys.argv = [target, *arguments]
    sys.path.insert(0, os.getcwd())
    require(server)
    if server == "granian":
        from .granian_server import serve  # needs granian

        serve(target, binds, runtime)
        return
    app = load_app(target)
    interface = interface_of(app)
    if interface == "wsgi":
        require("a2wsgi", f"{target} is a WSGI app, which is served by uvicorn through a2wsgi")
    from .drains.uvicorn_server import serve as serve_with_uvicorn  # needs uvicorn

    serve_with_uvicorn(app, interface, binds, runtime)


def _take_settings() -> Dict[str, str]:
    return {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CSERVICE_") and name not in PUBLIC
    }


def _descriptor(text: Optional[str]) -> Optional[int]:
    if not text:
        return None
    try:
        fd = int(text)
        os.set_inheritable(fd, False)
    except (ValueError, OSError):
        return None  # an invalid descriptor cannot be used; the program runs without it
    return fd


def _buffer_by_line() -> None:
    """Make standard output and error line-buffered although they are not terminals."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
