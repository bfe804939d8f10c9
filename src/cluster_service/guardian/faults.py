"""Handling of unexpected exceptions: one aborts only the step that raised it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cluster_service.machine import shortage

if TYPE_CHECKING:
    from collections.abc import Callable

_REPEAT_SECONDS = 10.0
"""Seconds in which the same fault is logged at most once."""
_MAX_REMEMBERED = 100


class Faults:
    """Log of unexpected exceptions, and runner of steps that must all be attempted even if some of them fail."""

    def __init__(self, log: Callable[[str], None], now: Callable[[], float]) -> None:
        self._log = log
        self._now = now
        self._logged: dict[str, float] = {}

    def run(self, where: str, *steps: Callable[[], object]) -> None:
        """Run every step, in order. An exception is logged with *where* and aborts only its own step."""
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - the next step must run
                self.report(error, where)

    def report(self, error: Exception, where: str = "") -> None:
        """Log *error*. Raises no exception, even if logging fails for lack of memory or descriptors."""
        with contextlib.suppress(Exception):
            short = shortage.is_one(error)
            key = "shortage" if short else f"{where} {error!r}"[:500]
            now = self._now()
            if now - self._logged.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
                return
            place = f" ({where})" if where else ""
            if short:
                self._log(f"the guardian could not do something, and tries again: {shortage.explain(error)}{place}")
            else:
                self._log(f"a fault in the guardian, which goes on{place}: {_shown(error)}")
            if len(self._logged) >= _MAX_REMEMBERED:
                self._logged.clear()
            self._logged[key] = now


def _shown(error: Exception) -> str:
    try:
        import traceback  # noqa: PLC0415 - saves memory: faults are rare

        return "".join(traceback.format_exception(error))
    except (OSError, ImportError):  # the module's file can no longer be read
        return repr(error)
