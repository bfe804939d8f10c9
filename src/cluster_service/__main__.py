"""The programs ``cservice`` (also ``python -m cluster_service``) and ``cserviced``."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from . import isolation

if TYPE_CHECKING:
    from types import ModuleType


def main() -> None:
    """``cservice``."""
    isolation.enter("cluster_service.__main__:main", anywhere=__name__ == "__main__")
    _command_line().main()


def main_detached() -> None:
    """``cserviced``: ``cservice start --detach``."""
    isolation.enter("cluster_service.__main__:main_detached")
    _command_line().main_detached()


def _command_line() -> ModuleType:
    """Import it. Ctrl-C ends the process meanwhile: in the middle of an import, KeyboardInterrupt is a traceback."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import command_line  # see above

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command_line


if __name__ == "__main__":
    main()
