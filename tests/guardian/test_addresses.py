"""One canonical spelling for each address."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from cluster_service.guardian import reaping, socket_factory
from cluster_service.wire.addresses import Address, AddressError, from_sockaddr, parse

CANONICAL = [
    "127.0.0.1:8000",
    "0.0.0.0:80",
    "[::1]:8000",
    "[::]:8000",
    "[::]:8000+v4",
    "[fe80::1%1]:8000",
    "unix:/run/app.sock",
    "unix:@name",
    "udp:127.0.0.1:53",
    "udp:[::1]:53",
    "udp:[::]:53+v4",
    "[::ffff:127.0.0.1]:80",
    "unix:/run/\udcff",
]


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_spellings_stay(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("[2001:DB8::0:1]:80", "[2001:db8::1]:80"),
        ("[fe80::1%lo]:80", "[fe80::1%1]:80"),
        ("unix:/run/../tmp//x", "unix:/tmp/x"),
        ("127.0.0.1:080", "127.0.0.1:80"),
    ],
)
def test_other_spellings_are_made_canonical(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not an address"),
        ("localhost:80", "is not an address"),
        ("127.0.0.1", "is not an address"),
        ("127.0.0.1:0", "from 1 to 65535"),
        ("127.0.0.1:65536", "from 1 to 65535"),
        ("300.0.0.1:80", "not an IP address"),
        ("[::g]:80", "not an IP address"),
        ("[::1]:80+v4", "only [::]"),
        ("[fe80::1%nosuch0]:80", "no network interface"),
        ("unix:relative", "must be absolute"),
        ("unix:", "must be absolute"),
        ("unix:@", "1 to 107 bytes"),
        ("unix:/" + "x" * 107, "1 to 107 bytes"),
        ("unix:/a\0b", "must be absolute"),
    ],
)
def test_what_is_no_address_is_said(text: str, said: str) -> None:
    with pytest.raises(AddressError, match=said.replace("[", r"\[")):
        parse(text)


@pytest.mark.parametrize(("text", "v6only"), [("[::]:80", True), ("[::]:80+v4", False), ("[::ffff:1.2.3.4]:80", False)])
def test_v6only(text: str, v6only: bool) -> None:
    assert parse(text).v6only is v6only


@pytest.mark.parametrize("text", CANONICAL)
def test_what_the_kernel_is_given_is_read_back(text: str) -> None:
    address = parse(text)
    if address.kind == "unix":
        name = address.sockaddr()
        data = struct.pack("=H", socket.AF_UNIX) + name
    elif address.family == socket.AF_INET:
        data = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", address.port, socket.inet_aton(address.host))
    else:
        host, port, _, scope = address.sockaddr()
        data = struct.pack("=H", socket.AF_INET6) + struct.pack(
            "!HI16s", port, 0, socket.inet_pton(socket.AF_INET6, host)
        )
        data += struct.pack("=I", scope)
    assert from_sockaddr(data, address.kind, v6only=address.v6only) == address


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\2",
        struct.pack("=H", socket.AF_INET),
        struct.pack("=H2x4s8x", socket.AF_INET, b"\x7f\0\0\1"),
        struct.pack("=H", socket.AF_UNIX),
        struct.pack("=H", socket.AF_UNIX) + b"\0",
        struct.pack("=H30x", socket.AF_NETLINK),
        struct.pack("=H26x", socket.AF_INET6),
    ],
)
def test_what_is_not_to_be_shared_is_none(data: bytes) -> None:
    assert from_sockaddr(data, "tcp", v6only=False) is None


def test_odd_paths() -> None:
    family = struct.pack("=H", socket.AF_UNIX)
    assert from_sockaddr(family + b"app.sock\0rubbish", "unix", v6only=False) == Address("unix", "app.sock")
    assert from_sockaddr(family + b"@file", "unix", v6only=False) == Address("unix", "./@file")
    padded = from_sockaddr(family + b"\0name" + bytes(103), "unix", v6only=False)
    assert padded is not None
    assert padded.sockaddr() == b"\0name" + bytes(103)


def test_a_scope_counts_only_where_it_has_a_meaning() -> None:
    def of(host: str) -> str:
        raw = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16s", 80, 0, socket.inet_pton(socket.AF_INET6, host))
        return str(from_sockaddr(raw + struct.pack("=I", 2), "tcp", v6only=True))

    assert (of("fe80::1"), of("::1")) == ("[fe80::1%2]:80", "[::1]:80")


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("udp:224.0.0.251:5353", True),
        ("udp:[ff02::fb]:5353", True),
        ("udp:127.0.0.1:53", False),
        ("127.0.0.1:80", False),
    ],
)
def test_groups(text: str, group: bool) -> None:
    assert socket_factory.multicast(parse(text)) is group


def test_ends_as_sentences() -> None:
    assert str(reaping.End(3, None)) == "exited with code 3"
    assert str(reaping.End(None, 9)) == "was killed by SIGKILL"
    assert str(reaping.End(None, 35)) == "was killed by signal 35"


def test_a_group_that_is_empty_or_not_ours_is_not_signalled() -> None:
    assert not reaping.signal_group(1, 0, leader_lives=False)
    assert not reaping.signal_group(os.getpid(), 0, leader_lives=False, others={os.getpid(): None})
    assert os.getpgid(1) not in reaping.living_groups()
