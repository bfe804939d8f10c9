"""From the start of the interpreter to the first line of the program.

    boot.py script /abs/worker.py ARGS…                     a file, as if it were run alone
    boot.py module package.module ARGS…                     a module, as with ``python -m``
    boot.py app package.module:app SERVER BIND,BIND ARGS…   an app, on uvicorn or granian

The worker's own variables are removed from the environment first, so that neither the program nor its children see
them; those documented for programs (``CSERVICE_NAME``, …) remain.
"""

from __future__ import annotations

import os
import sys
from typing import Collection, Dict, NoReturn, Optional, Sequence

from .imports import install_hooks
from .pulse import Pulse
from .runtime import Runtime, install
from .titles import Titles

PUBLIC = ("CSERVICE_NAME", "CSERVICE_GROUP", "CSERVICE_SLOT", "CSERVICE_GENERATION", "CSERVICE_REASON")
"""Our variables on which a program may rely."""
CANNOT_SERVE = 3
"""Exit code if an app cannot be served: not found, server not installed, address in use, or startup failed."""


def main(arguments: Sequence[str], at_start: Collection[str]) -> None:
    """Run the worker described by *arguments*. *at_start*: modules imported by the interpreter itself."""
    settings = _take_settings()
    runtime = Runtime(
        _descriptor(settings.get("CSERVICE_CHANNEL")),
        settings.get("CSERVICE_SHARE", "none"),
        Pulse(_descriptor(settings.get("CSERVICE_BOARD"))),
        Titles(settings.get("CSERVICE_TITLE")),
    )
    runtime.check = _descriptor(settings.get("CSERVICE_CHECK"))
    ports = _descriptor(settings.get("CSERVICE_PORTS"))
    install(runtime)
    runtime.start()
    if ports is not None:
        from .ports import share_ports  # noqa: PLC0415 - only in that mode

        share_ports(ports)
    install_hooks(runtime)
    _buffer_by_line()
    kind, target, *rest = arguments
    if kind == "script":
        from .script import run_script  # noqa: PLC0415

        run_script(target, rest, at_start)
    elif kind == "module":
        from .script import run_module  # noqa: PLC0415

        run_module(target, rest, at_start)
    else:
        from .app import serve_app  # noqa: PLC0415

        server, binds, *args = rest
        serve_app(target, server, [bind for bind in binds.split(",") if bind], args)


def _take_settings() -> Dict[str, str]:
    return {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CSERVICE_") and name not in PUBLIC
    }


def _descriptor(text: Optional[str]) -> Optional[int]:
    if not text:
        return None
    try:
        fd = int(text)
        os.set_inheritable(fd, False)  # noqa: FBT003
    except (ValueError, OSError):
        return None  # an invalid descriptor cannot be used; the program runs without it
    return fd


def _buffer_by_line() -> None:
    """Make standard output and error line-buffered although they are not terminals."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)


def refuse(sentence: str, code: int) -> NoReturn:
    """Exit with an error message for the operator, before the program starts."""
    if sys.stderr is not None:
        sys.stderr.write(f"cservice: {sentence}\n")
    raise SystemExit(code)


def hide_our_frames(error: BaseException) -> None:
    """Report *error*, if it ends the program, without the frames of this package above those of the program."""
    home = os.path.dirname(__file__)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(home):
        trace = trace.tb_next
    hook = sys.excepthook

    def report(kind: type, value: BaseException, seen: object) -> None:
        if value is error:
            value.__traceback__ = seen = trace
        hook(kind, value, seen)  # type: ignore[arg-type]

    sys.excepthook = report
