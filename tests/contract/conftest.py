"""The two guardians that the contract tests run on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from .fake import FakeContract
from .real import RealKernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .interface import Kernel

IMPLEMENTATIONS = {"fake": FakeContract, "real": RealKernel}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    made: Kernel = IMPLEMENTATIONS[request.param]()
    yield made
    made.close()


@pytest.fixture
def address() -> str:
    """An address of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def taken(kernel: Kernel) -> Iterator[str]:
    """An address where a stranger listens."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        name = f"127.0.0.1:{stranger.getsockname()[1]}"
        if isinstance(kernel, FakeContract):
            kernel.take(name)
        yield name
