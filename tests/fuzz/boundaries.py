"""The table of boundaries: where the inputs come from, who performs them, and how the hostile group is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import lines, rest
from .hostile import calls, channel, memory, notify, ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from .subject import Subject

    Inputs = Callable[[Random, int], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Boundary:
    """One boundary. *perform*: by the tests themselves; None: by a hostile worker. *stranger*: by an unrelated user."""

    inputs: Inputs
    batch: int
    """Inputs of one batch: one or two seconds."""
    perform: Callable[[Subject, list[dict[str, Any]]], tuple[int, list[str]]] | None = None
    module: str = ""
    settings: str = ""
    stranger: bool = False


BOUNDARIES: dict[str, Boundary] = {
    "channel": Boundary(channel.inputs, 120, module="channel"),
    "notify": Boundary(notify.inputs, 120, module="notify"),
    "stranger": Boundary(notify.inputs, 60, module="notify", stranger=True),
    "memory": Boundary(memory.inputs, 150, module="memory"),
    "ports": Boundary(ports.inputs, 80, module="ports", settings='share = "python"\n'),
    "calls": Boundary(calls.inputs, 40, module="calls", settings='share = "seccomp"\n'),
    "rest": Boundary(rest.inputs, 30, rest.perform),
    "lines": Boundary(lines.inputs, 40, lines.perform),
}
