"""What has happened: a JSON object a line in a file, from which a run can be told and replayed.

Times are seconds since the run began. The service's own events, and the lines of its log, stand among the faults.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TOLD = 60
"""Records before the first broken promise that are printed."""


class Story:
    """The records of one run. May be written by several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.monotonic()
        self.broken: list[str] = []
        """The promises that were broken, as sentences."""
        self._records: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._file = path.open("w", encoding="utf-8")

    def tell(self, what: str, **more: Any) -> None:
        """Write one record."""
        with self._lock:
            record = {"at": round(time.monotonic() - self.began, 3), "what": what, **more}
            self._records.append(record)
            if not self._file.closed:
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()

    def breaks(self, promise: str, sentence: str) -> None:
        """A promise is broken. *promise*: its number and name."""
        self.tell("BROKEN", promise=promise, sentence=sentence)
        self.broken.append(f"{promise}: {sentence}")

    def count(self, what: str) -> int:
        """How many records there are of *what*."""
        return sum(record["what"] == what for record in self._records)

    def faults(self) -> dict[str, int]:
        """Fault → how often it was injected."""
        found: dict[str, int] = {}
        for record in self._records:
            if record["what"] == "fault":
                found[record["fault"]] = found.get(record["fault"], 0) + 1
        return dict(sorted(found.items()))

    def text(self) -> str:
        """What led to the first broken promise, for people."""
        places = [place for place, record in enumerate(self._records) if record["what"] == "BROKEN"]
        end = places[0] + 1 if places else len(self._records)
        return "\n".join(map(line, self._records[max(0, end - TOLD) : end]))

    def close(self) -> None:
        """No more is written."""
        with self._lock:
            self._file.close()


def line(record: dict[str, Any]) -> str:
    """One record as a line."""
    rest = {key: value for key, value in record.items() if key not in ("at", "what")}
    shown = " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in rest.items())
    return f"{record['at']:9.3f}  {record['what']:<8}{shown}"


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a story."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
