"""Who may knock, and for what: the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from cluster_service.config.credentials import Key
from cluster_service.errors import CommandError
from cluster_service.server.access import BURST, REFILL, Access, Admission, Knock, check_right
from cluster_service.server.rate_limits import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_service.commands.registry import Level

KEY = "a key of more than sixteen letters"
HOST = ("host", "localhost:11987")


def knock(
    *headers: tuple[str, str],
    peer: str = "127.0.0.1",
    local: str = "127.0.0.1",
    query_keys: tuple[str, ...] = (),
    body_keys: tuple[str, ...] = (),
) -> Knock:
    return Knock("tcp", peer, local, headers, query_keys, body_keys)


def refused(access: Access, request: Knock) -> str:
    """Return the code of the refusal, or the empty text."""
    try:
        access.check_origin(request)
        access.admit(request, 0.0)
    except CommandError as error:
        return "told the key" if KEY in str(error) + error.hint else error.code
    return ""


BEARER = ("authorization", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("host", "code"),
    [
        (("localhost:11987",), ""),
        (("LOCALHOST",), ""),
        (("127.0.0.1:11987",), ""),
        (("127.0.0.53",), ""),
        (("[::1]:11987",), ""),
        (("[::ffff:127.0.0.1]",), ""),
        (("web.example:80",), ""),
        (("10.0.0.7:11987",), ""),
        ((), "misdirected"),
        (("localhost", "localhost"), "misdirected"),
        (("",), "misdirected"),
        (("attacker.example",), "misdirected"),
        (("localhost.attacker.example",), "misdirected"),
        (("localhost@attacker.example",), "misdirected"),
        (("127.0.0.1.attacker.example",), "misdirected"),
        (("10.0.0.8",), "misdirected"),
        (("local host",), "misdirected"),
        (("[::1",), "misdirected"),
        (("localhost:port",), "misdirected"),
        (("0.0.0.0",), "misdirected"),
    ],
)
def test_the_host_must_be_ours(host: tuple[str, ...], code: str) -> None:
    access = Access([KEY], trusted_hosts=["Web.example"], bound=["localhost"])
    request = knock(*(("host", value) for value in host), BEARER, local="10.0.0.7")
    assert refused(access, request) == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ((), ""),
        ((("origin", "http://localhost:11987"),), ""),
        ((("origin", "null"),), "forbidden"),
        ((("origin", "http://localhost:8000"),), "forbidden"),
        ((("origin", "http://attacker.example"),), "forbidden"),
        ((("origin", "file://localhost:11987"),), "forbidden"),
        ((("origin", ""),), "forbidden"),
        ((("origin", "http://localhost:11987"), ("origin", "null")), "forbidden"),
        ((("sec-fetch-site", "none"),), ""),
        ((("sec-fetch-site", "same-origin"),), ""),
        ((("sec-fetch-site", "same-site"),), "forbidden"),
        ((("sec-fetch-site", "cross-site"),), "forbidden"),
    ],
)
def test_web_pages_of_others_are_refused(headers: tuple[tuple[str, str], ...], code: str) -> None:
    assert refused(Access([KEY]), knock(HOST, BEARER, *headers)) == code


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (knock(HOST, BEARER), ""),
        (knock(HOST, ("authorization", f"bearer   {KEY}")), ""),
        (knock(HOST, ("x-access-key", KEY)), ""),
        (knock(HOST, query_keys=(KEY,)), ""),
        (knock(HOST, body_keys=(KEY,)), ""),
        (knock(HOST, BEARER, query_keys=(KEY,)), ""),
        (knock(HOST), "unauthorised"),
        (knock(HOST, ("authorization", "Bearer ")), "unauthorised"),
        (knock(HOST, ("authorization", f"Basic {KEY}")), "unauthorised"),
        (knock(HOST, ("x-access-key", KEY + "x")), "unauthorised"),
        (knock(HOST, ("x-access-key", KEY[:-1])), "unauthorised"),
        (knock(HOST, query_keys=("",)), "unauthorised"),
        (knock(HOST, ("x-access-key", "schlüssel")), "unauthorised"),
        (knock(HOST, BEARER, query_keys=("other",)), "bad_request"),
        (knock(HOST, ("x-access-key", "other"), body_keys=(KEY,)), "bad_request"),
        (knock(HOST, query_keys=(KEY, "other")), "bad_request"),
    ],
)
def test_the_key(request_: Knock, code: str) -> None:
    assert refused(Access([KEY]), request_) == code


def test_a_key_of_other_letters_is_sent_as_utf_8() -> None:
    key = "schlüssel-ключ-鍵-0123456789"
    sent = key.encode().decode("latin-1")
    assert refused(Access([key]), knock(HOST, ("authorization", f"Bearer {sent}"))) == ""
    assert refused(Access([key]), knock(HOST, query_keys=(key,))) == ""


def test_each_of_several_keys_opens_and_is_told_by_its_number() -> None:
    access = Access(["first key of the two", "second key of the two"])
    assert access.admit(knock(HOST, ("x-access-key", "second key of the two")), 0.0).key == "key2"
    assert access.admit(knock(HOST, ("x-access-key", "first key of the two")), 0.0).key == "key1"


def test_without_a_key_nothing_opens_the_tcp_door() -> None:
    for access in (Access(), Access([""])):
        assert refused(access, knock(HOST, query_keys=("",))) == "unauthorised"
        assert refused(access, knock(HOST)) == "unauthorised"


@pytest.mark.parametrize(
    ("allowed", "peer", "code"),
    [
        ("true", "127.0.0.1", ""),
        ("true", "10.0.0.9", ""),
        ("loopback", "127.0.0.1", ""),
        ("loopback", "10.0.0.9", "unauthorised"),
        ("false", "127.0.0.1", "unauthorised"),
    ],
)
def test_the_key_in_the_query_can_be_narrowed(allowed: str, peer: str, code: str) -> None:
    assert refused(Access([KEY], allow_query_key=allowed), knock(HOST, peer=peer, query_keys=(KEY,))) == code


@pytest.mark.parametrize(
    ("request_", "level"),
    [
        (Knock("unix", "uid:0", headers=(HOST,)), "local"),
        (knock(HOST, BEARER), "local"),
        (knock(("host", "[::1]:11987"), BEARER, peer="::1"), "local"),
        (knock(HOST, BEARER, peer="::ffff:127.0.0.1"), "local"),
        (knock(HOST, BEARER, peer="10.0.0.9"), "remote"),
        (knock(("host", "web.example"), BEARER), "remote"),
        (knock(HOST, BEARER, ("x-forwarded-for", "127.0.0.1")), "remote"),
        (knock(HOST, BEARER, ("forwarded", "for=127.0.0.1")), "remote"),
        (knock(HOST, BEARER, ("via", "1.1 proxy")), "remote"),
        (knock(HOST, BEARER, ("x-real-ip", "127.0.0.1")), "remote"),
    ],
)
def test_who_is_local(request_: Knock, level: str) -> None:
    """Over TCP nobody, unless loopback is trusted: behind a proxy every client has a loopback address."""
    for trusted in (False, True):
        access = Access([KEY], trusted_hosts=["web.example"], trust_loopback=trusted)
        access.check_origin(request_)
        over_tcp = level if trusted else "remote"
        assert access.admit(request_, 0.0).level == (level if request_.door == "unix" else over_tcp)


def test_the_refusal_of_a_local_command_says_what_to_do() -> None:
    access = Access([KEY])
    with pytest.raises(CommandError) as refusal:
        access.check_right("restart", "local", access.admit(knock(HOST, BEARER), 0.0))
    assert "Unix socket" in refusal.value.message
    assert "cservice restart ... without --url" in refusal.value.hint
    assert "--remote-command restart" in refusal.value.hint


@pytest.mark.parametrize(
    ("level", "local", "remote"),
    [("remote", True, True), ("local", True, False), ("inproc", False, False), ("disabled", False, False)],
)
def test_rights(level: Level, local: bool, remote: bool) -> None:
    def allowed(admission: Admission) -> bool:
        try:
            check_right("greet", level, admission)
        except CommandError as error:
            return error.code != "forbidden"
        return True

    assert allowed(Admission("owner", "local")) is local
    assert allowed(Admission("key1", "remote")) is remote


def test_wrong_keys_are_limited_for_each_peer_and_forgiven_in_time() -> None:
    access = Access([KEY])

    def code(peer: str, key: str, now: float) -> str:
        try:
            access.admit(knock(HOST, ("x-access-key", key), peer=peer), now)
        except CommandError as error:
            return error.code
        return ""

    assert [code("10.0.0.9", "wrong", 0.0) for _ in range(BURST)] == ["unauthorised"] * BURST
    assert code("10.0.0.9", "wrong", 0.0) == "too_many_requests"
    assert code("10.0.0.9", KEY, 0.0) == "", "wrong keys locked out the right one of the same address"
    assert code("10.0.0.10", "wrong", 0.0) == "unauthorised"
    assert code("10.0.0.9", "wrong", 1.01 / REFILL) == "unauthorised"
    for number in range(PEERS + 1):
        code(f"peer {number}", "wrong", 0.0)
    assert len(access._tries) == PEERS


def test_no_key_is_shown() -> None:
    assert KEY not in repr(Access([KEY])) + repr(knock(HOST, body_keys=(KEY,)))


@pytest.mark.parametrize(
    ("allow", "name", "code"),
    [
        (("*",), "health", ""),
        (("*",), "restart", ""),
        (("health",), "health", ""),
        (("health",), "workers", "forbidden"),
        (("health",), "restart", "forbidden"),
        ((), "health", "forbidden"),
    ],
)
def test_allow_lists(allow: tuple[str, ...], name: str, code: str) -> None:
    access = Access([Key("ci", KEY, allow)], trust_loopback=True)
    admission = access.admit(knock(HOST, BEARER), 0.0)
    assert admission.key == "ci"
    assert told(lambda: access.check_right(name, "local" if name == "restart" else "remote", admission)) == code


def told(function: Callable[[], object]) -> str:
    """The code of the error that *function* raises, or the empty text."""
    try:
        function()
    except CommandError as error:
        return error.code
    return ""


def test_an_allow_list_makes_nobody_local() -> None:
    """A local command that is given from elsewhere needs both: to be let out, and to be on the key's list."""
    proxied = knock(HOST, BEARER, ("x-forwarded-for", "10.0.0.9"))
    for remote_commands, allow, code in (
        ((), ("restart",), "forbidden"),
        (("restart",), ("*",), ""),
        (("restart",), ("health",), "forbidden"),
    ):
        access = Access([Key("ci", KEY, allow)], remote_commands=remote_commands)
        admission = access.admit(proxied, 0.0)
        assert told(lambda: access.check_right("restart", "local", admission)) == code  # noqa: B023 - called at once
        assert told(lambda: access.check_right("hush", "inproc", admission)) == "forbidden"  # noqa: B023 - called immediately


def test_a_key_for_loopback_only() -> None:
    access = Access([Key("ci", KEY, loopback=True)], trusted_hosts=["web.example"])
    assert refused(access, knock(HOST, BEARER)) == ""
    assert refused(access, knock(HOST, BEARER, peer="10.0.0.9")) == "forbidden"
    assert refused(access, knock(("host", "web.example"), BEARER)) == "forbidden"
    assert refused(access, knock(HOST, BEARER, ("via", "1.1 proxy"))) == "forbidden"


def test_keys_are_replaced_while_the_door_is_open() -> None:
    access = Access([KEY, "the second of the keys"])
    access.rekey(["the second of the keys", "the third of the keys"])
    assert refused(access, knock(HOST, BEARER)) == "unauthorised"
    for number, key in enumerate(("the second of the keys", "the third of the keys"), 1):
        assert access.admit(knock(HOST, ("x-access-key", key)), 0.0).key == f"key{number}"


def test_what_was_admitted_before_goes_on_only_with_the_same_rights() -> None:
    access = Access([Key("ci", KEY, ("events",)), Key("other", "the second of the keys")])
    admission = access.admit(knock(HOST, BEARER), 0.0)
    assert access.still_opens(admission, "events")
    for keys, goes_on in (
        ([Key("ci", KEY, ("events",)), Key("new", "the third of the keys")], True),
        ([Key("other", "the second of the keys")], False),
        ([Key("ci", "another secret of that name", ("events",))], False),
        ([Key("ci", KEY, ("health",))], False),
        ([KEY], True),
        ([], False),
    ):
        access.rekey(keys)
        assert access.still_opens(admission, "events") is goes_on
    assert access.still_opens(access.admit(Knock("unix", "uid:0"), 0.0), "events")


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by a comparison that takes the same time for all."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr("cluster_service.server.access.hmac.compare_digest", compare)
    access = Access([KEY, "the second of the keys", "the third of the keys"])
    assert refused(access, knock(HOST, BEARER)) == ""
    assert len(set(compared)) == 3


def test_a_worker_is_refused_at_the_owner_s_door() -> None:
    assert refused(Access([KEY]), Knock("unix", "uid:0", headers=(HOST,), worker=True)) == "forbidden"


def test_whatever_text_is_no_error_of_ours() -> None:
    for text in ("\ud800", "\udcff", "\0", "x" * 100_000, "é"):
        assert refused(Access([KEY]), knock(HOST, body_keys=(text,))) == "unauthorised"
        assert refused(Access([KEY]), knock(HOST, query_keys=(text,))) == "unauthorised"


@pytest.mark.parametrize(
    ("peers", "same", "other"),
    [
        ("2001:db8::{:x}", "2001:db8::ffff", "2001:db8:0:1::1"),
        ("127.0.{}.1", "::1", "10.0.0.1"),
        ("::ffff:127.0.0.{}", "127.9.9.9", "::ffff:10.0.0.1"),
    ],
)
def test_the_addresses_of_one_machine_are_one_peer(peers: str, same: str, other: str) -> None:
    access = Access([KEY])
    wrong = ("x-access-key", "wrong")
    for number in range(BURST):
        assert refused(access, knock(HOST, wrong, peer=peers.format(number))) == "unauthorised"
    assert refused(access, knock(HOST, wrong, peer=same)) == "too_many_requests"
    assert refused(access, knock(HOST, BEARER, peer=same)) == ""
    assert refused(access, knock(HOST, wrong, peer=other)) == "unauthorised"


@pytest.mark.parametrize(
    ("head", "opens"),
    [
        (f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n", True),
        (f"GET /x HTTP/1.1\r\nx-access-key:{KEY}\r\n", True),
        (f"POST /cli?cmd=x&{urlencode({'accessKey': KEY})} HTTP/1.1\r\n", True),
        (f"POST /cli?{urlencode({'access_key': KEY})}", True),
        (f"GET /x HTTP/1.1\r\nX-Access-Key: {KEY}x\r\n", False),
        (f"GET /x HTTP/1.1\r\nX-Other: {KEY}\r\n", False),
        ("GET /x HTTP/1.1\r\nX-Access-Key:\r\n", False),
        ("", False),
    ],
)
def test_a_key_is_found_in_the_first_bytes_of_a_connection(head: str, *, opens: bool) -> None:
    assert Access([KEY]).opens(head.encode()) is opens
    assert not Access().opens(head.encode())


def test_keys_in_the_body_must_be_the_one_of_the_headers() -> None:
    access = Access([KEY])
    admission = access.admit(knock(HOST, BEARER), 0.0)
    access.check_same(admission, ())
    access.check_same(admission, (KEY,))
    with pytest.raises(CommandError, match="two different"):
        access.check_same(admission, (KEY, "other"))
