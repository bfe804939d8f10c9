"""Guardians for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from cluster_service.wire import facts, orders
from tests.contract.real import RealKernel

if TYPE_CHECKING:
    from collections.abc import Iterator


class Start(Protocol):
    """Starts a guardian with parts of its boot message changed; says hello, unless it is not to connect."""

    def __call__(self, boot: dict[str, Any] | None = None, **how: Any) -> RealKernel: ...


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[RealKernel] = []

    def begin(boot: dict[str, Any] | None = None, **how: Any) -> RealKernel:
        kernel = RealKernel(boot, **how)
        started.append(kernel)
        if kernel.stream is not None:
            kernel.send(orders.Hello())
            kernel.snapshot = kernel.fact(facts.Snapshot)
        return kernel

    yield begin
    for kernel in started:
        kernel.close()


@pytest.fixture
def kernel(start: Start) -> RealKernel:
    return start()
