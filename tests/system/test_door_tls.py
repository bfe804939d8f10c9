"""The TCP door with TLS: the client verifies, the door may want a certificate too, and what is no TLS is hung up on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme

import cluster_service as cservice
from cluster_service.client.client import connect
from cluster_service.config import credentials
from cluster_service.errors import CommandError
from cluster_service.server.endpoint_connections import CONNECTIONS
from tests.tools.doors import KEY, OTHER, answer, keys, open_door
from tests.tools.service import DEADLINE, UnixConnection
from tests.tools.service import cservice as cservice_cli

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
    with open_door("--access-key-file", str(key_file), "--tls-cert", str(papers.server), "--trust-loopback") as (
        service,
        port,
    ):
        url = f"https://localhost:{port}"
        assert f"https://127.0.0.1:{port}" in service.json("info")["doors"]
        client = connect(url=url, access_key=KEY, ca_file=str(papers.authority))
        assert client.command("restart", "all")["state"] == "done"
        with pytest.raises(CommandError, match="not to be trusted"):
            connect(url=url, access_key=KEY).health()
        with pytest.raises(CommandError, match="wrong"):
            connect(url=url, access_key=OTHER, ca_file=str(papers.authority)).health()
        options = ("--url", url, "--access-key-file", str(key_file), "--ca-file", str(papers.authority))
        assert cservice_cli(*options, "--json", "health").code == 0
        refused = cservice_cli(*options[:-2], "health")
        assert (refused.code, "--ca-file" in refused.err) == (3, True)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as plain:
            plain.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in plain.recv(1000)
        assert client.health()["status"] == "ok"
        assert answer(UnixConnection(service.door), "GET", "/live").status == 200


def test_the_async_client_verifies_too(papers: Papers, key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file), "--tls-cert", str(papers.server), "--trust-loopback") as (
        service,
        port,
    ):
        url, ca_file = f"https://localhost:{port}", str(papers.authority)

        async def refusal(**how: str) -> str:
            with pytest.raises(CommandError) as caught:
                await (await cservice.aconnect(url=how.pop("url", url), **how)).health()
            return f"{caught.value.code}: {caught.value.message} {caught.value.hint}"

        async def story() -> None:
            client = await cservice.aconnect(url=url, access_key=KEY, ca_file=ca_file)
            assert [row["state"] for row in await client.workers()] == ["serving"]
            events = client.events()
            coming = asyncio.ensure_future(anext(events))
            assert (await client.command("restart", "all"))["state"] == "done"
            assert (await coming)["service"] == "test"
            await events.aclose()  # type: ignore[attr-defined]
            results = await asyncio.gather(*(client.health() for _ in range(5)))
            assert {result["status"] for result in results} == {"ok"}
            assert "--ca-file" in await refusal(access_key=KEY)
            assert "not to be trusted" in await refusal(access_key=KEY, ca_file=str(papers.strangers))
            assert "the access key is wrong" in await refusal(access_key=OTHER, ca_file=ca_file)
            plain = await refusal(access_key=KEY, url=f"http://localhost:{port}")
            assert plain.startswith("unavailable: ")

        asyncio.run(asyncio.wait_for(story(), DEADLINE))
        assert KEY not in service.log


def test_a_name_that_the_certificate_does_not_hold_is_refused(tmp_path: Path, key_file: Path) -> None:
    authority, papers = trustme.CA(), tmp_path / "other.pem"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("web.example").private_key_and_cert_chain_pem.write_to_path(str(papers))
    papers.chmod(0o600)
    with open_door("--access-key-file", str(key_file), "--tls-cert", str(papers)) as (_, port):
        how: dict[str, str] = {
            "url": f"https://localhost:{port}",
            "access_key": KEY,
            "ca_file": str(tmp_path / "ca.pem"),
        }
        with pytest.raises(CommandError, match="not valid for 'localhost'"):
            connect(**how).health()
        with pytest.raises(CommandError, match="not valid for 'localhost'"):
            asyncio.run(health(how))


async def health(how: dict[str, str]) -> object:
    return await (await cservice.aconnect(**how)).health()


def test_a_new_certificate_is_taken_up_by_reload(papers: Papers, key_file: Path) -> None:
    with open_door("--access-key-file", str(key_file), "--tls-cert", str(papers.server)) as (service, port):
        trusted = {"url": f"https://localhost:{port}", "access_key": KEY, "ca_file": str(papers.authority)}
        assert connect(**trusted).health()["status"] == "ok"
        pids = [row["pid"] for row in service.workers()]
        authority = trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(papers.server))
        assert service.cli("reload").code == 0
        with pytest.raises(CommandError, match="not to be trusted"):
            connect(**trusted).health()
        authority.cert_pem.write_to_path(str(papers.authority))
        assert connect(**trusted).health()["status"] == "ok"
        papers.server.write_text("no certificate")
        assert service.cli("reload").code == 2  # a mistake changes nothing
        assert connect(**trusted).health()["status"] == "ok"
        assert [row["pid"] for row in service.workers()] == pids


def test_mutual_tls(papers: Papers, key_file: Path) -> None:
    options = ("--tls-cert", str(papers.server), "--tls-client-ca", str(papers.authority))
    with open_door("--access-key-file", str(key_file), *options) as (service, port):
        url = f"https://localhost:{port}"

        def how(paper: Path | None) -> dict[str, Any]:
            client_cert = str(paper) if paper else None
            return {"url": url, "access_key": KEY, "ca_file": str(papers.authority), "client_cert": client_cert}

        async def health(paper: Path | None) -> str:
            return (await (await cservice.aconnect(**how(paper))).health())["status"]

        assert connect(**how(papers.client)).health()["status"] == "ok"
        assert asyncio.run(health(papers.client)) == "ok"
        for paper in (None, papers.strangers):
            for ask in (lambda: connect(**how(paper)).health(), lambda: asyncio.run(health(paper))):  # noqa: B023 - called immediately
                with pytest.raises(CommandError) as caught:
                    ask()
                assert (caught.value.code, "--client-cert" in caught.value.hint) == ("unavailable", True)
        how_told = ("--url", url, "--access-key-file", str(key_file), "--ca-file", str(papers.authority))
        assert cservice_cli(*how_told, "--client-cert", str(papers.client), "--json", "health").code == 0
        environment = {"CSERVICE_CLIENT_CERT": str(papers.client)}
        assert cservice_cli(*how_told, "--json", "health", env=environment).code == 0
        refused = cservice_cli(*how_told, "health")
        assert (refused.code, "--client-cert" in refused.err) == (3, True)
        assert service.json("health")["status"] == "ok"  # the owner's door wants neither


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
    done = cservice_cli("start", "--access-key-file", str(key_file), *options, "--", "sleep", "1", cwd=tmp_path)
    assert done.code == 2
    assert words in done.err


def test_nothing_older_than_tls_1_2(papers: Papers) -> None:
    assert credentials.server_context(str(papers.server), None, None).minimum_version == ssl.TLSVersion.TLSv1_2
    assert credentials.client_context(str(papers.authority), None).minimum_version == ssl.TLSVersion.TLSv1_2
    assert credentials.client_context(None, None).verify_mode == ssl.CERT_REQUIRED


def test_handshakes_that_are_not_finished_keep_nobody_out(papers: Papers, key_file: Path) -> None:
    """They hold every place of the endpoint, and each that comes takes the place of the oldest."""
    with (
        open_door("--access-key-file", str(key_file), "--tls-cert", str(papers.server)) as (_, port),
        contextlib.ExitStack() as stack,
    ):
        for number in range(CONNECTIONS + 10):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
            if number % 2:
                stranger.sendall(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a handshake
        client = connect(url=f"https://localhost:{port}", access_key=KEY, ca_file=str(papers.authority))
        assert client.health()["status"] == "ok"
