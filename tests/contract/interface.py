"""What the contract tests need of a guardian, whichever it is.

``fact`` takes the next fact that matches and leaves the others for later calls, so a test need not care how facts of
different kinds interleave. A real implementation answers ``Ping`` by itself. Nothing is sent on a new connection but
what the test sends: the test says ``Hello``.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

F = TypeVar("F")

DEADLINE = 20.0
"""Seconds after which a fact that did not come is a failure."""


class Kernel(Protocol):
    """A guardian with the test for its master."""

    def send(self, order: Any) -> None:
        """Send one order."""

    def fact(self, kind: type[F], **match: Any) -> F:
        """Wait for the next fact of this class whose fields equal *match*, take it out and return it.

        Raises AssertionError, with the facts that did come, when there is none within ``DEADLINE``.
        """

    def restart_master(self) -> None:
        """Drop the connection, as a master that dies does, and connect as the next one. Facts not taken are gone."""

    def program(self, name: str, *args: str) -> list[str]:
        """Return the argv of one of ``programs.PROGRAMS``."""

    def close(self) -> None:
        """End the guardian and all that it started."""


