"""The faults, by name: the function, how often it is wanted, and what it may cost.

What it costs is proved by ``excuses``, request by request; the column is for the reader. ``held`` means the requests
that the workers held which were hurt, and nothing else.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.tools.shortage import GROUPS, ROOT

from . import on_commands, on_machine, on_peers, on_processes, wall

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .world import World


@dataclass(frozen=True)
class Fault:
    """One kind. *here*: whether it can be done on this machine."""

    inject: Callable[[World, Random], None]
    weight: float
    costs: str = "nothing"
    here: bool = True


FAULTS: dict[str, Fault] = {
    # who dies or stands still
    "kill worker": Fault(on_processes.kill_worker, 4, "held"),
    "stop worker": Fault(on_processes.stop_worker, 2),
    "worker exits": Fault(on_processes.deed("leave"), 1, "held"),
    "worker crashes": Fault(on_processes.deed("crash"), 1, "held"),
    "worker hangs": Fault(on_processes.hang, 2, "held"),
    "listener shut down": Fault(on_processes.shut_down_listener, 1, "what waited in its queue, or was refused"),
    "worker leaks": Fault(on_processes.deed("leak"), 1),
    "worker talks": Fault(on_processes.deed("talk"), 1),
    "background child": Fault(on_processes.background_child, 1, "held"),
    "crash loop": Fault(on_processes.crash_loop, 1, "held"),
    "kill master": Fault(on_processes.kill("master"), 4),
    "kill master often": Fault(on_processes.kill_master_often, 0.5),
    "replace master": Fault(on_processes.replace_master, 1),
    "stop master": Fault(on_processes.stop("master", 4), 1),
    "stop master for long": Fault(on_processes.stop("master", 12), 1),
    "stop guardian": Fault(on_processes.stop("guardian", 4), 2),
    "kill log writer": Fault(on_processes.kill("log writer"), 2),
    "stop log writer": Fault(on_processes.stop("log writer", 5), 2),
    "installation removed": Fault(on_processes.remove_installation, 1, "held"),
    "descriptors closed": Fault(on_processes.close_descriptors, 1),
    # peers that are not to be trusted, and those that neither read nor write
    "hostile worker": Fault(on_peers.hostile, 3),
    "clients that do not read": Fault(on_peers.clients, 1),
    "silent log writer": Fault(on_peers.silent_log_writer, 1),
    "unread output": Fault(on_peers.unread_output, 0.5),
    # what operators do
    "restart": Fault(on_commands.restart, 3),
    "upgrade": Fault(on_commands.upgrade("good"), 3),
    "port moves": Fault(on_commands.move_port, 1),
    "slow upgrade": Fault(on_commands.upgrade("slow"), 1),
    **{f"upgrade that {nature}": Fault(on_commands.bad_upgrade(nature), 1, "held") for nature in on_commands.BAD},
    "cancel": Fault(on_commands.cancel, 1),
    "scale up and down": Fault(on_commands.scale, 1),
    "scale down and up": Fault(on_commands.scale_down, 1),
    "rollback": Fault(on_commands.rollback, 1),
    "reload": Fault(on_commands.reload, 2),
    "reload of a mistake": Fault(on_commands.bad_reload, 1),
    "rotate log": Fault(on_processes.rotate_log, 1),
    "door fuzz": Fault(on_commands.fuzz, 1),
    # what the machine does, or has too little of
    "clock step": Fault(on_machine.clock_step, 2, here=wall.HERE),
    "full disk": Fault(on_machine.full_disk, 2, "held", here=ROOT),
    "no descriptors for the guardian": Fault(
        on_machine.limit("guardian", resource.RLIMIT_NOFILE, on_machine.descriptors), 1, "held"
    ),
    "no descriptors for the master": Fault(
        on_machine.limit("master", resource.RLIMIT_NOFILE, on_machine.descriptors), 1, "held"
    ),
    "no descriptors for the log writer": Fault(
        on_machine.limit("log writer", resource.RLIMIT_NOFILE, on_machine.descriptors), 1, "held"
    ),
    "no processes for the guardian": Fault(on_machine.without_processes("guardian"), 1, "held", here=GROUPS),
    "no processes for the master": Fault(on_machine.without_processes("master"), 1, "held", here=GROUPS),
    "no memory for the guardian": Fault(on_machine.limit("guardian", resource.RLIMIT_AS, on_machine.memory), 1, "held"),
    "no memory for the master": Fault(on_machine.limit("master", resource.RLIMIT_AS, on_machine.memory), 1, "held"),
    "no memory for the log writer": Fault(
        on_machine.limit("log writer", resource.RLIMIT_AS, on_machine.memory), 1, "held"
    ),
}
