"""The ``test`` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service.config import setting_values

from . import NO_WAIT
from .registry import Command, Parameter

if TYPE_CHECKING:
    from .service_interface import Service


def run(service: Service, script: str, timeout: str = "0ms") -> dict[str, Any]:
    """Start the operation. *timeout*: a duration with its unit; 0 means no limit."""
    return service.test(script, setting_values.duration(timeout) or None)


COMMAND = Command(
    name="test",
    doc="""Run a test script against the code base that serves, in its environment.

    SCRIPT is a Python file, run by the workers' interpreter, or any executable. It runs in the workers' directory, with
    CSERVICE_TEST_URL and CSERVICE_TEST_PORT, the service's own address, in its environment. Exit code 0 is success.
    Over TIMEOUT it is killed with everything that it has started, and has failed.
    """,
    run=run,
    parameters=(
        Parameter("script", "file", "the script", required=True, positional=True, remote="file"),
        Parameter(
            "timeout", "milliseconds", "how long it may take, in milliseconds unless a unit is given", positional=True,
            default="no limit", remote="plain",
        ),
        NO_WAIT,
    ),
    operation=True,
    remote=True,
    render="operation",
)  # fmt: skip
