"""Programs that probe their port and do not start while any process accepts the connection (CherryPy).

The service keeps the sockets of a worker that has ended, so the port answers, and such a program would never start
again. Its failed start is recognized by its output. If no worker uses the port, it is closed immediately, and again
after the next worker has ended. If another worker serves there, the reason says so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster_service.core.protocol import actions, event_records

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster_service.core.model.worker import Worker

    from .step_context import StepContext

_IN_USE = re.compile(r"\b(?:in use|not free|(?:not |un)available|already|occupied|taken|busy)\b", re.IGNORECASE)


def explain_failed_start(cluster: StepContext, worker: Worker, lines: Iterable[str]) -> str:
    """Return why *worker* has not started, if it wrote that a port is taken which the service has open; else ''.

    *lines*: the last lines that it wrote. Only the ports on which its own group has listened count: a worker must not
    be able to close the port of another group. A port that no worker uses is closed from now on, as soon as none does.
    """
    if worker.ready_at is not None or worker.addresses or worker.bind_error or worker.signal is not None:
        return ""
    address = _find_reported_address(_list_own_ports(cluster, worker.group), lines)
    if not address:
        return ""
    cluster.asked.add(address)
    if _is_declared(cluster, address):
        return f"it does not start while {address} answers, which the service opens because of bind"
    there = next((each for each in cluster.workers.values() if _uses(each, address)), None)
    if there is None:
        return f"the service had {address} open for the next worker, and has closed it"
    where = f"it does not start while {address} answers, where {there.name} serves"
    return f"{where}; with singleton = true that ends first"


def close_probed_ports(cluster: StepContext) -> None:
    """Close the ports that no worker uses and whose program does not start while they answer."""
    for address in sorted(cluster.asked & cluster.unused.keys()):
        if any(_uses(worker, address) for worker in cluster.workers.values()) or _is_declared(cluster, address):
            continue
        del cluster.unused[address]
        cluster.todo.append(actions.CloseListener(address))
        cluster.publish(event_records.PortClosed(address))


def _list_own_ports(cluster: StepContext, name: str) -> list[str]:
    """Return the shared addresses on which workers of the group *name* listen, or listened last."""
    own = {address for worker in cluster.workers_of(name) for address in worker.addresses}
    own |= {address for slot in cluster.groups[name].slots.values() for address in slot.ports}
    return [address for address in cluster.unused if address in own]


def _find_reported_address(addresses: Iterable[str], lines: Iterable[str]) -> str:
    """Return the address, out of *addresses*, that one of *lines* reports as in use; empty: none."""
    reports = [line for line in lines if _IN_USE.search(line)]
    for address in addresses:
        port = address.removesuffix("+v4").rpartition(":")[2]
        if port.isdigit() and any(re.search(rf"(?<!\d){port}(?!\d)", line) for line in reports):
            return address
    return ""


def _is_declared(cluster: StepContext, address: str) -> bool:
    return any(address in release.binds for group in cluster.groups.values() for release in group.releases.values())


def _uses(worker: Worker, address: str) -> bool:
    return worker.state != "gone" and address in worker.addresses
