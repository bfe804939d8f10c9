"""The HTTP endpoints: paths, headers, bodies and keys that are nearly right, chunked, pipelined, slow, and garbage."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .hostile import values
from .oracles import Broken, strict
from .subject import KEY, READS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from .subject import Subject

AT_ONCE = 6
QUIET_SECONDS = 0.25
"""How long to wait for more once something was answered."""
SILENT_SECONDS = 0.8
"""How long to wait for a first byte. A request that is not complete is not answered sooner than its deadline."""
ACTING = ("start", "restart", "upgrade", "rollback", "cancel", "test", "scale", "reload", "shutdown", "exit")
"""Commands that the key does not open; at the Unix socket, where no key is needed, they are never named."""
PATHS = (
    "/", "/cli", "/live", "/ready", "/metrics", "/openapi.json", "/api/v1/commands", "/api/v1/operations/1",
    "/api/v1/operations/x?seen=1&wait=0", "/api/v1/events", "/dashboard/app.js", "/nothing", "//",
    "/../../etc/passwd",
    *(f"/api/v1/{name}" for name in ("workers", "health", "info", "operations")),
    *(f"/api/v1/commands/{name}" for name in (*READS, *ACTING)),
)  # fmt: skip
GOOD_PATHS = (
    "/cli", "/cli", "/metrics", "/openapi.json", "/ready", "/api/v1/commands", "/api/v1/operations/1", "/api/v1/events",
    *(f"/api/v1/{name}" for name in ("workers", "health", "info", "operations")),
    *(f"/api/v1/commands/{name}" for name in ("health", "info", "workers", "operations")),
)  # fmt: skip
KEY_PATHS = (
    f"/{KEY}", f"/api/v1/commands/{KEY}", f"/api/v1/operations/{KEY}", f"/cli?cmd=help+{KEY}", f"/cli?cmd={KEY}",
)  # fmt: skip
METHODS = ("HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "G\0T", "")
HEADERS = (
    "Host: localhost", "Host: evil.example", "Host:", "Host: localhost\r\nHost: localhost", "Host: [::1]:1",
    "Host: \xff",
    "Content-Length: -1", "Content-Length: 1e3", "Content-Length: 99999999999999999999", "Content-Length: 5, 5",
    "Content-Length: 3\r\nContent-Length: 4", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 3", "Expect: 100-continue",
    "Upgrade: websocket\r\nConnection: upgrade",
    "Origin: null", "Origin: http://localhost", "Sec-Fetch-Site: cross-site", "X-Forwarded-For: 127.0.0.1",
    "Range: bytes=0-",
    "Last-Event-ID: -1", "Last-Event-ID: 9999999999999999999999", "Last-Event-ID: \u0663", "Accept: */*;q=nan",
    " folded: x",
    "No-Colon", "Bad\0Name: x", "X: " + "y" * 9000, "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: multipart/form-data; boundary=x", "Content-Type: application/json; charset=utf-7",
    "Connection: close",
    "Authorization: Basic eDp5", "Authorization: Bearer", "Authorization: Bearer \xff\xfe",
    "X-Access-Key: wrong-key-0123456789",
    f"Authorization: Bearer {KEY}", f"X-Access-Key: {KEY}", f"X-Access-Key: {KEY}\r\nX-Access-Key: {KEY}",
    f"Authorization: Bearer {KEY} {KEY}", f"Cookie: accessKey={KEY}",
    f"Referer: http://localhost/?accessKey={KEY}",
)  # fmt: skip
COMMAND: dict[str, Any] = {"name": "health", "cmd": "health", "wait": True, "count": 3, "accessKey": "wrong"}


def inputs(random: Random, count: int) -> Iterator[dict[str, Any]]:
    """Requests as bytes, the place where they go, and how they are sent."""
    for _ in range(count):
        requests = [_request(random) for _ in range(random.choice((1, 1, 1, 1, 2, 20)))]
        data = b"".join(requests)
        how = random.random()
        if how < 0.1:
            data = values.garble(random, data)
        elif how < 0.13:
            data = random.randbytes(random.choice((1, 100, 30000)))
        lowered = data.lower()
        unix = random.random() < 0.3 and not any(word.encode() in lowered for word in ACTING)
        slow = random.random() < 0.1
        yield {"to": "unix" if unix else "tcp", "data": data, "slow": slow, "leave": random.random() < 0.15}


def _request(random: Random) -> bytes:
    """A valid request to some path, with up to three things about it changed."""
    path = random.choice((*GOOD_PATHS, random.choice(PATHS)))
    posted = path == "/cli" or path.startswith("/api/v1/commands/")
    method, version = "POST" if posted else "GET", "1.1"
    headers = ["Host: localhost", f"Authorization: Bearer {KEY}"]
    body = random.choice(READS).encode() if path == "/cli" else b"{}" if posted else b""
    chunked = False
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        change = random.randrange(10)
        if change == 0:
            path += random.choice(("?", "&", "%00", "%ff", ";x", "/", "?cmd=", "?wait=", "?seen=")) + values.text(
                random
            )
        elif change == 1:
            path = random.choice((path + f"?accessKey={KEY}", "http://localhost" + path, *KEY_PATHS))
        elif change == 2:
            method = random.choice(METHODS)
        elif change == 3:
            version = random.choice(("1.0", "1.0", "2.0", "0.9", "1.1\0"))
        elif change == 4:
            del headers[random.randint(0, len(headers)) :]
        elif change in (5, 6):
            headers += random.sample(HEADERS, random.choice((1, 1, 3)))
        elif change == 7:
            headers += [f"X-{number}: y" for number in range(random.choice((5, 200)))]
        elif change == 8:
            chunked = True
        else:
            body = _body(random)
    if chunked:
        headers.append("Transfer-Encoding: chunked")
        body = _chunked(random, body)
    elif body:
        headers.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([f"{method} {path[:9000]} HTTP/{version}", *headers, "", ""])
    return head.encode("utf-8", "surrogatepass") + body


def _body(random: Random) -> bytes:
    how = random.random()
    if how < 0.2:
        return f"{random.choice(READS)} {values.text(random)}".encode("utf-8", "surrogatepass")
    if how < 0.3:
        return (b" {" * 200000)[: random.choice((1000, 20000, 250000))]
    return values.datagram(random, COMMAND)


def _chunked(random: Random, body: bytes) -> bytes:
    size = random.choice((f"{len(body):x}", f"{len(body):x};x=y", "-1", "ffffffffffffffffff", "0x5", "", "1"))
    return size.encode() + b"\r\n" + body + random.choice((b"\r\n0\r\n\r\n", b"\r\n", b"", b"0\r\nTrailer: x\r\n\r\n"))


def perform(subject: Subject, given: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Send the requests of a batch; return how many were answered 2xx, and the violations."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda one: _once(subject, one), given))
    return sum(ok for ok, _ in outcomes), [sentence for _, found in outcomes for sentence in found]


def _once(subject: Subject, given: dict[str, Any]) -> tuple[bool, list[str]]:
    answer = b""
    try:
        with _connect(subject, given["to"]) as sock:
            if given["slow"]:
                for place in range(0, min(len(given["data"]), 300), 3):
                    sock.sendall(given["data"][place : place + 3])
                    time.sleep(0.005)  # a client that is slow, not a test that waits
            else:
                sock.sendall(given["data"])
            if given["leave"]:
                return False, []
            sock.settimeout(SILENT_SECONDS)
            while more := sock.recv(65536):
                answer += more
                sock.settimeout(QUIET_SECONDS)
    except OSError:
        pass  # cut off, or nothing more comes
    return _judge(answer)


def _connect(subject: Subject, to: str) -> socket.socket:
    if to == "tcp":
        return socket.create_connection(("127.0.0.1", subject.door_port), timeout=5)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(subject.door))
    return sock


def _judge(answer: bytes) -> tuple[bool, list[str]]:
    """Look at every answer in *answer*; those that were cut off count for what came of them."""
    good, found = False, []
    rest = answer
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        if not end:
            break
        line, *raw = head.split(b"\r\n")
        if not line.startswith(b"HTTP/1.1 "):
            found.append(f"an answer that is not HTTP: {line[:200]!r}")
            break
        status = int(line.split(b" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in raw)}
        good = good or 200 <= status < 300
        if status == 500:
            found.append(f"an internal error: {rest[:300]!r}")
        if KEY.encode() in head or KEY.encode() in rest:
            found.append(f"the access key is repeated in an answer: {head[:200]!r}")
        length = headers.get(b"content-length")
        if length is None or status < 200:
            if status < 200:
                continue
            break  # a stream, or chunks
        body, whole = rest[: int(length)], len(rest) >= int(length)
        if body.startswith(b"HTTP/1.1 ") or (not body and status != 204):
            continue  # the answer to HEAD has the length of a body that does not come
        rest = rest[int(length) :]
        if whole and headers.get(b"content-type", b"").startswith(b"application/json"):
            try:
                document = strict(body, f"an answer {status}")
                if status >= 400 and set(document) != {"error"}:
                    found.append(f"an error that is not the error object: {json.dumps(document)[:300]}")
            except Broken as broken:
                found.append(str(broken))
    return good, found
