"""The ``exit`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, when: str) -> dict[str, Any]:
    """Kill every worker and exit."""
    assert when == "now"  # the only choice
    return service.exit_now()


COMMAND = Command(
    name="exit",
    doc="""Kill every worker and end the service at once: `exit now`.

    Requests that are being answered are lost; `shutdown all` is the graceful way. In a console, `exit` alone leaves the
    console.
    """,
    run=run,
    parameters=(
        Parameter(
            "when", "choice", "write `exit now` to kill every worker at once, or `shutdown all` for a graceful end",
            required=True, positional=True, choices=("now",), remote="plain",
        ),
    ),
    remote=True,
    render="exiting",
)  # fmt: skip
