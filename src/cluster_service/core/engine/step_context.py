"""The state of the service during a step, and the actions that the step has ordered so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster_service.core.model.cluster_state import ClusterState
from cluster_service.core.protocol import actions

if TYPE_CHECKING:
    from cluster_service.core.model.spec import Spec
    from cluster_service.core.protocol import event_records


class StepContext(ClusterState):
    """State of the service during one step of the control loop."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.may_time_out = False
        """True in the step of a ``Tick``: all facts have been read, so a deadline may count as missed."""
        self.todo: list[actions.Action] = []
        """The actions that this step has ordered so far."""
        self.did_not_converge = False
        """True if the last step still found changes after the maximum of rounds: the next ``Tick`` is delayed."""

    def publish(self, event: event_records.Event) -> None:
        """Queue *event* for publication."""
        self.todo.append(actions.Publish(event))
