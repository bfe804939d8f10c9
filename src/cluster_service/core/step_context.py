"""What the handlers of one step work on: the state of the service, and the actions ordered so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import actions
from .cluster_state import ClusterState

if TYPE_CHECKING:
    from . import events
    from .spec import Spec


class StepContext(ClusterState):
    """State of the service during one step of the control loop."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.judging_time = False
        """Whether this turn may judge a worker's time to be over: a Tick's only, for facts may be unread."""
        self.todo: list[actions.Action] = []
        """What this turn has ordered so far."""
        self.unsettled = False
        """The last turn did not come to an end: the next ``Tick`` is not wanted at once."""

    def publish(self, event: events.Event) -> None:
        """Tell the world of *event*."""
        self.todo.append(actions.Publish(event))
