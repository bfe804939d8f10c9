"""What the parts of a master use of each other, as protocols. For type checkers: no module imports it at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cluster_service.config import Settings
    from cluster_service.core.engine.cluster import Cluster
    from cluster_service.core.model.cluster_state import Operation
    from cluster_service.core.model.spec import Release
    from cluster_service.core.protocol import actions
    from cluster_service.core.protocol.requests import Request
    from cluster_service.server.audit import Auditor
    from cluster_service.wire import facts, orders

    from .background_jobs import Jobs
    from .event_log import Publisher
    from .guardian_client import Sockets
    from .heartbeats import Pulses
    from .hooks import Hooks
    from .state_file import Memory

Json = dict[str, Any]


class Endpoints(Protocol):
    """The open endpoints (``endpoints.Doors``)."""

    addresses: list[str]
    probes: list[str]

    def adopt(self, settings: Settings) -> None:
        """Apply the rules, keys and certificate of *settings*."""

    def rekey(self, settings: Settings) -> None:
        """Apply the keys and the certificate of *settings*."""

    async def close(self, seconds: float) -> None:
        """Finish answers under way, for at most *seconds*."""


class ConfigReload(Protocol):
    """Reloading of the configuration (``config_reload.Reloading``)."""

    async def plan(self) -> Json:
        """Return what a reload would change."""

    async def take_up(self, monitor: float | None = None, timeout: float | None = None) -> Operation:
        """Begin a reload."""

    async def configuration(self, action: str) -> Json:
        """Return the configuration in effect, or the verdict on the files."""


class FinalSteps(Protocol):
    """The last steps of a master (``effects.Leaving``)."""

    def owe(self, operation: Operation) -> None:
        """Keep the endpoints open until the result of *operation* was fetched."""

    def answered(self, operation: Operation) -> None:
        """Record that a client has received *operation*."""


class Broadcaster(Protocol):
    """The channel to the workers (``worker_messages.Bus``)."""

    async def broadcast(self, message: Any, group: str | None) -> int:
        """Send *message* to the workers of *group*, or to all; return how many received it."""


class Master(Protocol):
    """A master (``loop.Master``), whose attributes only it assigns."""

    cluster: Cluster
    hello: facts.Snapshot
    hooks: Hooks
    publisher: Publisher
    sockets: Sockets
    jobs: Jobs
    memory: Memory
    auditor: Auditor
    pulses: Pulses

    @property
    def settings(self) -> Settings:
        """The settings in effect."""

    @property
    def doors(self) -> Endpoints | None:
        """The endpoints; None until they are open."""

    @property
    def reloading(self) -> ConfigReload:
        """Reloading of the configuration."""

    @property
    def leaving(self) -> FinalSteps:
        """The last steps."""

    @property
    def behind(self) -> int:
        """Bytes that the guardian has not read yet."""

    def use_settings(self, settings: Settings) -> None:
        """Replace the settings in effect."""

    def request(self, request: Request) -> Operation:
        """Have the core perform *request*. Raises Rejected."""

    def share_of(self, name: str, release: Release) -> str:
        """Return the mode in which the workers of *release* share ports. Raises ValueError."""

    async def next_turn(self, wait: float) -> None:
        """Wait for the next step of the core, at most *wait* seconds."""

    def report_soon(self, report: Any) -> None:
        """Feed *report* to the core after the current step."""

    def operation_ended(self) -> None:
        """Save what outlives the service."""

    def note(self) -> None:
        """Send the checkpoint to the guardian."""

    def say(self, order: Any) -> None:
        """Send an order to the guardian."""

    def say_bye(self, bye: orders.Bye) -> None:
        """Have the guardian end the service."""

    def tell(self, name: str, fields: dict[str, Any], line: str | None) -> None:
        """Publish an event that does not come from the core."""

    def tell_standing(self) -> None:
        """Send the status line to the guardian if it has changed."""

    def end(self, action: actions.End) -> None:
        """End the service."""

    def fail(self, why: str) -> None:
        """End this master, for a successor."""

    def log(self, line: str) -> None:
        """Write *line* to the service's log."""
