"""Short ways to tell a story on a simulated machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cluster_service.core.model.spec import GroupSpec, Release, RestartPolicy, Spec
from cluster_service.core.protocol import event_records
from cluster_service.testing import Program, World

if TYPE_CHECKING:
    from cluster_service.core.model.cluster_state import Operation

E = TypeVar("E")

GOOD = Program(boot=0.5)
BROKEN = Program(boot=1.0, dies_at=0.3, lines=("Traceback (most recent call last):", "ImportError: no module named x"))
HANGS = Program(boot=1e9, not_yet=True)


def world(count: int = 2, program: Program = GOOD, kind: Any = "script", **more: Any) -> World:
    """A service with the group ``web`` of *count* workers that run *program*. *more*: settings of it and the group."""
    of_service = {name: more.pop(name) for name in ("give_up", "shutdown_delay") if name in more}
    group = GroupSpec("web", count, Release(kind, "app"), **more)
    return World(Spec("default", (group,), **of_service), {"app": program})


def started(count: int = 2, program: Program = GOOD, **more: Any) -> World:
    """The same, with all of its workers serving."""
    made = world(count, program, **more)
    assert made.run_until(lambda: not running(made), 120.0)
    assert len(made.serving()) == count
    made.events.clear()
    return made


def policy(**fields: Any) -> RestartPolicy:
    return RestartPolicy(**fields)


def operation(made: World) -> Operation:
    """That of the last request; before any, the last one."""
    assert made.cluster is not None
    return made.cluster.operation(made.asked or made.cluster.operations[-1].id)


def running(made: World) -> list[Operation]:
    return [] if made.cluster is None else made.cluster.running_operations()


def told(made: World, kind: type[E]) -> list[E]:
    """The events of one kind that were published."""
    return [event for event in made.events if isinstance(event, kind)]


def starts(made: World) -> list[float]:
    """When workers were started."""
    return [each.at for each in made.history if isinstance(each.what, event_records.WorkerStart)]


def slots(made: World) -> list[int]:
    """The slots of the processes that really serve."""
    return sorted(process.spawn.meta["slot"] for process in made.serving())


def generations(made: World) -> list[int]:
    return sorted(process.spawn.meta["generation"] for process in made.serving())
