"""Messages with descriptors: no peer that does not read, or sends too much, makes us wait or loses us descriptors."""

from __future__ import annotations

import os
import resource
import socket

import pytest

from cluster_service.guardian.master_link import Link
from cluster_service.machine import descriptor_passing
from cluster_service.wire import facts, framing


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_peer_that_does_not_read_is_not_waited_for(kind: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        assert ours.getblocking()
        with pytest.raises(BlockingIOError):
            fill(ours)
        with pytest.raises(BlockingIOError):
            descriptor_passing.receive(ours, 1, 1)


def fill(sock: socket.socket) -> None:
    while True:
        descriptor_passing.send(sock, b"x" * 1000, [0])


def test_descriptors_arrive_not_inheritable_and_those_that_do_not_are_noticed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        descriptor_passing.send(ours, b"two", [0, 1])
        data, descriptors, truncated = descriptor_passing.receive(theirs, 100, 2)
        assert (data, len(descriptors), truncated) == (b"two", 2, False)
        assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        descriptor_passing.send(ours, b"two", [0, 1])
        data, descriptors, truncated = descriptor_passing.receive(theirs, 100, 0)
        assert (data, descriptors, truncated) == (b"two", [], True)


def test_a_socket_for_the_master_that_cannot_be_sent_is_left_out_and_its_fact_is_not() -> None:
    """In a process without the right to exceed it, RLIMIT_NOFILE bounds what is on its way (unix(7))."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, _in_a_process_without_rights().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    assert said == "[False, False]"


def _in_a_process_without_rights() -> str:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    ours, theirs = socket.socketpair()
    hoard, other = socket.socketpair()
    other.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
    try:
        while True:
            descriptor_passing.send(hoard, b"x", [0] * 10)
    except OSError as error:
        if error.errno not in descriptor_passing.SHORTAGES:
            return repr(error)
    link = Link(ours)
    for _ in range(2):
        link.send(facts.Listening("127.0.0.1:8000", descriptor=True), 0)
    messages = framing.Decoder().feed(theirs.recv(65536))
    return str([each.get("descriptor", False) for each in messages])
