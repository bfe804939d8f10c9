"""As whom a worker runs, and what it gets from the kernel: part of its release, so that it is undone with it.

The values are kept as people write them, in one canonical form: a plan of ``reload`` can show them, and two that mean
the same are equal. Nothing here looks at the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

UNLIMITED = "unlimited"
SPREAD = "spread"
TERM = "TERM"
NULL, KEEP_OPEN = "null", "keep-open"


@dataclass(frozen=True)
class Limits:
    """What was asked for; the rest is as the guardian found it when it was started."""

    user: str | None = None
    user_group: str | None = None
    umask: str | None = None
    """Octal."""
    limits: tuple[str, ...] = ()
    """``nofile=1024:65536`` (soft and hard), ``core=0``, ``as=unlimited``; bytes and seconds are plain numbers."""
    nice: int | None = None
    cpu_affinity: str | None = None
    """``0-3,6``; ``spread``: slot n has the nth of those that the service may use; ``spread:0-3``: of these."""
    oom_score_adj: int | None = None
    stdin: str = NULL
    """``null``, or ``keep-open``: nothing can be read either, but its end never comes."""
    stop_signal: str = TERM
    """What asks it to end, as ``wire.signals.signal_number`` reads it; a name stands without SIG."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Limits:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        return cls(**{**data, "limits": tuple(data.get("limits", ()))})


def numbers(limit: str) -> tuple[str, int, int]:
    """``nofile=1024:unlimited`` -> ``("nofile", 1024, -1)``, as setrlimit(2) has it in Python."""
    name, _, pair = limit.partition("=")
    soft, _, hard = pair.partition(":")
    return name, _number(soft), _number(hard or soft)


def _number(text: str) -> int:
    return -1 if text == UNLIMITED else int(text)


def cpus(affinity: str, slot: int, usable: Sequence[int]) -> list[int]:
    """Return the CPUs of the worker in *slot*. *usable*: those that the service may use, ascending."""
    if not affinity.startswith(SPREAD):
        return listed(affinity)
    _, _, among = affinity.partition(":")
    places = [cpu for cpu in listed(among) if cpu in usable] if among else list(usable)
    return [places[(slot - 1) % len(places)]] if places else []


def listed(text: str) -> list[int]:
    """``0-3,6`` -> ``[0, 1, 2, 3, 6]``. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        found |= set(range(int(first), int(last if dash else first) + 1))
    return sorted(found)


def list_of(cpus: Sequence[int]) -> str:
    """Inverse of ``listed``."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
