"""The TCP door with TLS: the client verifies, the door may want a certificate too, and what is no TLS is hung up on."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trustme

from cluster_service.config import tls
from cluster_service.control.client import Client, connect
from cluster_service.control.errors import CommandError
from tests.tools.doors import KEY, OTHER, answer, keys, open_door
from tests.tools.service import DEADLINE, UnixConnection, cservice

if TYPE_CHECKING:
    from pathlib import Path


class Papers(NamedTuple):
    """Certificates, each in a file with its key."""

    authority: Path
    server: Path
    client: Path
    strangers: Path


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    """An authority, a server and a client with its certificates, and a client with somebody else's."""
    found = Papers(*(tmp_path / f"{name}.pem" for name in Papers._fields))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(found.authority))
    for path, issued in (
        (found.server, authority.issue_cert("localhost", "127.0.0.1")),
        (found.client, authority.issue_cert("client")),
        (found.strangers, trustme.CA().issue_cert("client")),
    ):
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    for path in found:
        path.chmod(0o600)
    return found


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with the key."""
    return keys(tmp_path / "key", KEY)


def test_tls_with_verification(papers: Papers, key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file), "--tls-cert", str(papers.server)) as (service, port):
        url = f"https://localhost:{port}"
        assert f"https://127.0.0.1:{port}" in service.json("info")["doors"]
        client = connect(url=url, access_key=KEY, ca_file=str(papers.authority))
        assert client.command("restart", "all")["state"] == "done"
        with pytest.raises(CommandError, match="not to be trusted"):
            connect(url=url, access_key=KEY).health()
        with pytest.raises(CommandError, match="wrong"):
            connect(url=url, access_key=OTHER, ca_file=str(papers.authority)).health()
        options = ("--url", url, "--access-key-file", str(key_file), "--ca-file", str(papers.authority))
        assert cservice(*options, "--json", "health").code == 0
        refused = cservice(*options[:-2], "health")
        assert (refused.code, "--ca-file" in refused.err) == (3, True)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as plain:
            plain.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in plain.recv(1000)
        assert client.health()["status"] == "ok"
        assert answer(UnixConnection(service.door), "GET", "/live").status == 200


def test_mutual_tls(papers: Papers, key_file: Path) -> None:
    options = ("--tls-cert", str(papers.server), "--tls-client-ca", str(papers.authority))
    with open_door("--access-key-file", str(key_file), *options) as (_, port):

        def client(paper: Path | None) -> Client:
            return connect(
                url=f"https://localhost:{port}",
                access_key=KEY,
                ca_file=str(papers.authority),
                client_cert=str(paper) if paper else None,
            )

        assert client(papers.client).health()["status"] == "ok"
        for paper in (None, papers.strangers):
            with pytest.raises(CommandError) as caught:
                client(paper).health()
            assert caught.value.code == "unavailable"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-key", "server.pem"], "without tls_cert"),
        (["--tls-cert", "nosuch.pem"], "cannot be read: No such file"),
        (["--tls-cert", "authority.pem"], "no certificate and its key"),
        (["--tls-cert", "open.pem"], "chmod o="),
        (["--tls-cert", "server.pem", "--tls-client-ca", "empty.pem"], "holds no certificates"),
        (["--host", "0.0.0.0"], "--tls-cert"),
    ],
)
def test_tls_settings_that_cannot_be(
    options: list[str], words: str, papers: Papers, tmp_path: Path, key_file: Path
) -> None:
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "open.pem").write_bytes(papers.server.read_bytes())
    (tmp_path / "open.pem").chmod(0o644)
    done = cservice("start", "--access-key-file", str(key_file), *options, "--", "sleep", "1", cwd=tmp_path)
    assert done.code == 2
    assert words in done.err


def test_nothing_older_than_tls_1_2(papers: Papers) -> None:
    assert tls.server_context(str(papers.server), None, None).minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.client_context(str(papers.authority), None).minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.client_context(None, None).verify_mode == ssl.CERT_REQUIRED
