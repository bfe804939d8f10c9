"""Authentication and authorization of requests. Pure: takes the facts of a request and the time, returns a decision.

The order of the checks is fixed, and every refusal is a CommandError: ``Host`` (421) -> ``Origin`` and
``Sec-Fetch-Site`` (403) -> [the route: 404, 405] -> the key (401, 400, 429) -> the right (403). Only an access key
makes a request more trusted; a header that says it was forwarded makes it less trusted.

On the Unix endpoint the credentials of the peer are checked when it connects. A peer there is the owner, or a worker
of this service, which may not send commands over it. A TCP client is ``remote``, even on this machine, unless
``trust_loopback`` is set: behind a proxy every client has the address of the proxy. A key is compared by HMAC under a
random secret of this process, against every known key, without early exit. A valid key is accepted whatever its address
has sent before; only wrong keys are delayed and limited. No message contains a key (``redaction``).
"""

from __future__ import annotations

import hmac
import ipaddress
import itertools
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote_to_bytes

from cluster_service.config.credentials import EVERYTHING, Key, numbered
from cluster_service.errors import CommandError

from .key_redaction import Redaction
from .rate_limits import Paces

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cluster_service.commands.registry import Level

FORWARDED = frozenset(
    ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "x-original-host")
)
"""Headers that proxies add, besides ``X-Forwarded-…``. A request with one of them does not count as local."""

LOCAL_NAMES = frozenset(("localhost",))
FAILURE_DELAY = 0.3
"""Delay of the answer to a wrong key, in seconds. Only the client that sent it waits."""
BURST = 10
"""Number of wrong keys that one peer may try in a row before it is refused with 429."""
MAX_KEYS_IN_HEAD = 4
"""Maximum number of keys checked in the first bytes of a parked connection."""
REFILL = 0.5
"""Further wrong keys that a peer may try, per second."""

_KEY_IN_HEAD = re.compile(
    rb"\r\n(?:authorization:[ \t]*bearer[ \t]|x-access-key:)([^\r\n]*)|[?&]access[-_]?key=([^&\s]*)", re.IGNORECASE
)
"""Matches an access key in the raw bytes of a request: in its headers or its query."""

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?\Z", re.ASCII)


@dataclass(frozen=True)
class Knock:
    """The facts of a request on which access is decided."""

    door: Literal["unix", "tcp"]
    peer: str
    """The address of the peer (TCP), or ``uid:N`` (Unix)."""
    local: str = ""
    """The local address that received the request (TCP)."""
    headers: tuple[tuple[str, str], ...] = ()
    """Header names are lower case."""
    query_keys: tuple[str, ...] = ()
    body_keys: tuple[str, ...] = field(default=(), repr=False)
    worker: bool = False
    """The peer is a worker of this service, or a descendant of one (Unix)."""

    def values(self, name: str) -> list[str]:
        """Return every value of the header *name*."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True)
class Admission:
    """The identity of an admitted client. *key*: ``owner`` on the Unix endpoint, else the name of the access key."""

    key: str
    level: Literal["local", "remote"]
    query: bool = False
    """The key was in the query: the answer carries a deprecation notice."""
    allow: tuple[str, ...] = (EVERYTHING,)
    """The allow-list of the key."""
    digest: bytes = field(default=b"", repr=False, compare=False)
    """The digest by which ``Access`` recognizes the key."""

    def allows(self, name: str) -> bool:
        """Return True if the allow-list contains the command."""
        return EVERYTHING in self.allow or name in self.allow


@dataclass(frozen=True)
class _Known:
    """An access key, stored as its digest."""

    digest: bytes
    name: str
    allow: tuple[str, ...]
    loopback: bool


class Access:
    """The keys and rules of the TCP endpoint."""

    def __init__(
        self,
        keys: Sequence[str | Key] = (),
        *,
        trusted_hosts: Iterable[str] = (),
        bound: Iterable[str] = (),
        allow_query_key: str = "true",
        allow_http_get: bool = False,
        remote_commands: Iterable[str] = (),
        upgrade_roots: Iterable[str] = (),
        trust_loopback: bool = False,
    ) -> None:
        """Set up the keys and rules.

        *bound*: host names or addresses on which the TCP endpoint listens; *allow_query_key*: ``true``, ``loopback`` or
        ``false``; *remote_commands*: ``local`` commands that remote clients may give; *upgrade_roots*: absolute
        directories; *trust_loopback*: TCP clients on this machine count as local.
        """
        self._secret = secrets.token_bytes(32)
        self._known: tuple[_Known, ...] = ()
        self.rekey(keys)
        self._bound = tuple(bound)
        self.rule(
            trusted_hosts=trusted_hosts,
            allow_query_key=allow_query_key,
            allow_http_get=allow_http_get,
            remote_commands=remote_commands,
            upgrade_roots=upgrade_roots,
            trust_loopback=trust_loopback,
        )
        self._tries = Paces(REFILL, BURST)

    def __repr__(self) -> str:
        """Return ``<Access 1 key, hosts: localhost>``, without the key."""
        count = len(self._known)
        return f"<Access {count} key{'' if count == 1 else 's'}, hosts: {', '.join(sorted(self._hosts))}>"

    def rule(
        self,
        *,
        trusted_hosts: Iterable[str],
        allow_query_key: str,
        allow_http_get: bool,
        remote_commands: Iterable[str],
        upgrade_roots: Iterable[str],
        trust_loopback: bool,
    ) -> None:
        """Replace the rules."""
        self._trust_loopback = trust_loopback
        self.allow_http_get = allow_http_get
        self.upgrade_roots = tuple(upgrade_roots)
        self._remote = frozenset(remote_commands)
        self._hosts = LOCAL_NAMES | {host.strip("[]").lower() for host in (*trusted_hosts, *self._bound) if host}
        self._query = allow_query_key

    def rekey(self, keys: Sequence[str | Key]) -> None:
        """Replace the access keys."""
        plain = iter(numbered([key for key in keys if isinstance(key, str)]))
        named = [key if isinstance(key, Key) else next(plain) for key in keys]
        self._known = tuple(
            _Known(self._digest(key.secret), key.name, key.allow, key.loopback) for key in named if key.secret
        )
        self.redaction = Redaction(key.secret for key in named)

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode("utf-8", "surrogatepass"), "sha256")

    # -- checks that precede authentication --------------------------------------------------------------------------

    def check_origin(self, knock: Knock) -> None:
        """Refuse requests sent by web pages, or sent to a host name that is not ours (DNS rebinding)."""
        hosts = knock.values("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0], knock):
            said = f"{hosts[0]!r}" if len(hosts) == 1 else f"{len(hosts)} Host headers"
            raise CommandError(
                "misdirected",
                f"this door is not called {said[:80]}",
                "Use localhost, or name the host with --trusted-host.",
            )
        for origin in knock.values("origin"):
            scheme, _, host = origin.partition("://")
            if scheme not in ("http", "https") or host.lower() != hosts[0].lower():
                raise CommandError("forbidden", "requests from web pages of other origins are refused")
        for site in knock.values("sec-fetch-site"):
            if site not in ("none", "same-origin"):
                raise CommandError(
                    "forbidden", "requests from web pages of other sites are refused", "Type the address yourself."
                )

    def _is_ours(self, header: str, knock: Knock) -> bool:
        match = _HOST.match(header)
        if match is None:
            return False
        host = match["host"].strip("[]").lower()
        return host in self._hosts or _is_loopback(host) or (bool(knock.local) and _same_address(host, knock.local))

    # -- the key -----------------------------------------------------------------------------------------------------

    def admit(self, knock: Knock, now: float) -> Admission:
        """Authenticate the request and return the identity of its client.

        *now*: seconds of a monotonic clock. Raises CommandError ``forbidden``, ``unauthorised``, ``bad_request`` (two
        different keys) or ``too_many_requests``.
        """
        if knock.worker:
            raise CommandError(
                "forbidden",
                "a worker may not command its service by the owner's door",
                "cservice.trigger(…) asks the service from within a worker.",
            )
        if knock.door == "unix":
            return Admission("owner", "local")
        headers = _header_keys(knock)
        given = {self._digest(key) for key in (*headers, *knock.query_keys, *knock.body_keys)}
        if len(given) > 1:
            raise _two_keys()
        matched = self._match(next(iter(given))) if given else None
        in_query = bool(knock.query_keys)
        if matched is not None and in_query and not self._query_allowed(knock):
            raise CommandError(
                "unauthorised", "an access key in the URL is not accepted here", "Send it as Authorization: Bearer KEY."
            )
        if matched is None:
            if given and self._tries.waits(knock.peer, now):
                raise CommandError(
                    "too_many_requests", "too many wrong access keys from this address", "Wait a few seconds."
                )
            if given:
                self._tries.take(knock.peer, now)
            what = "the access key is wrong" if given else "an access key is needed"
            raise CommandError("unauthorised", what, "Send it as Authorization: Bearer KEY, X-Access-Key or accessKey.")
        loopback = _is_from_loopback(knock)
        if matched.loopback and not loopback:
            raise CommandError("forbidden", "this access key opens only for this machine itself, and not for a proxy")
        local = loopback and self._trust_loopback
        return Admission(matched.name, "local" if local else "remote", in_query, matched.allow, matched.digest)

    def _match(self, digest: bytes) -> _Known | None:
        matched = None
        for known in self._known:
            if hmac.compare_digest(digest, known.digest):
                matched = known
        return matched

    def check_same(self, admission: Admission, keys: Iterable[str]) -> None:
        """Raise CommandError bad_request if one of *keys*, found in the body, differs from the admitted key."""
        if admission.digest and any(self._digest(key) != admission.digest for key in keys):
            raise _two_keys()

    def opens(self, head: bytes) -> bool:
        """Return True if the first bytes of a connection contain a valid key; only ``admit`` grants access."""
        for match in itertools.islice(_KEY_IN_HEAD.finditer(head), MAX_KEYS_IN_HEAD):
            header, query = match.groups()
            key = unquote_to_bytes(query.replace(b"+", b" ")) if header is None else header
            if self._match(self._digest(key.decode("utf-8", "replace").strip())) is not None:
                return True
        return False

    def still_opens(self, admission: Admission, name: str) -> bool:
        """Return True if *admission*, granted before the keys were replaced, may still give the command *name*."""
        return not admission.digest or any(
            known.digest == admission.digest and (EVERYTHING in known.allow or name in known.allow)
            for known in self._known
        )

    def check_right(self, name: str, level: Level, admission: Admission) -> None:
        """Raise CommandError forbidden if *admission* may not give a command of that *level*."""
        check_right(name, "remote" if level == "local" and name in self._remote else level, admission)

    def _query_allowed(self, knock: Knock) -> bool:
        return self._query == "true" or (self._query == "loopback" and _is_loopback(knock.peer))


def _is_from_loopback(knock: Knock) -> bool:
    """Return True if the request came from this machine, to a loopback name, and shows no sign of a proxy."""
    hosts = knock.values("host")
    match = _HOST.match(hosts[0]) if hosts else None
    host = match["host"].strip("[]").lower() if match else ""
    forwarded = any(name in FORWARDED or name.startswith("x-forwarded") for name, _ in knock.headers)
    return _is_loopback(knock.peer) and (host in LOCAL_NAMES or _is_loopback(host)) and not forwarded


def _two_keys() -> CommandError:
    return CommandError(
        "bad_request", "the request holds two different access keys", "Send one, as Authorization: Bearer KEY."
    )


def check_right(name: str, level: Level, admission: Admission) -> None:
    """Raise CommandError forbidden if *admission* may not give a command of that *level*."""
    if level == "remote" or (level == "local" and admission.level == "local"):
        if admission.allows(name):
            return
        raise CommandError(
            "forbidden", f"the access key {admission.key} may not give {name}", "Its allow = […] says so."
        )
    hint = (
        f"Use the Unix socket (cservice {name} ... without --url), or allow it where the service is started: "
        f"--remote-command {name}."
        if level == "local"
        else ""
    )
    raise CommandError("forbidden", f"{name} may not be given from here ({REFUSALS[level]})", hint)


REFUSALS: Mapping[str, str] = {
    "local": "only over the service's Unix socket",
    "inproc": "only by the program of the service",
    "disabled": "it is switched off",
}


def has_key_in_head(knock: Knock) -> bool:
    """Return True if the headers or the query contain a key, so that the body need not be read to find one."""
    return bool(knock.query_keys or _header_keys(knock))


def _header_keys(knock: Knock) -> list[str]:
    keys = []
    for value in knock.values("authorization"):
        scheme, _, key = value.strip().partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            keys.append(_utf8(key.strip()))
    return keys + [_utf8(value.strip()) for value in knock.values("x-access-key") if value.strip()]


def _utf8(text: str) -> str:
    """Decode a header value, which arrives as Latin-1, as UTF-8 if possible: keys with other letters are sent so."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _same_address(host: str, local: str) -> bool:
    try:
        one, other = ipaddress.ip_address(host), ipaddress.ip_address(local)
    except ValueError:
        return False
    return (getattr(one, "ipv4_mapped", None) or one) == (getattr(other, "ipv4_mapped", None) or other)
