"""Hostile JSON values, texts and datagrams. Everything is drawn from the ``random`` that is passed in."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

FORGED = "FORGED"
"""Stands in every forged log line: at the start of what would be a line of its own, were it not escaped."""
FORGERIES = tuple(
    f"{newline}{prefix} {FORGED}"
    for newline in ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
    for prefix in ("[cservice]", "[web.1]")
)
TEXTS = (
    "", "0", "1", "-1", "true", "null", "nan", "inf", "1e309", "9" * 400, "\u0663\u0664", "\xb2", "a=b", "=",
    "%s%n{0}", "\0",
    "\x1b[2J\x1b]0;x\x07",
    "\x7f", "\u202e", "\ud800", "\udfff\ud800", "\ufeff", "../../etc/passwd", "/dev/zero", "unix:/etc/x", "unix:@x",
    "127.0.0.1:1", "[::1]:80", "udp:0.0.0.0:53", "http://127.0.0.1:1/", "__proto__", "web", "web.1", "all", "x" * 5000,
    *FORGERIES,
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 255, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64,
    10**18, 10**400, -(10**400), 0.1, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
PIECES = (b"\0", b"\n", b"\xff\xfe", b"=", b'"', b"{", b"[", b"1e999", b"\\u0000")
OPENERS = (b"[", b"{", b'{"a":', b"[{", b'"', b'{"type":')


def text(random: Random) -> str:
    """Return a text that is likely to be taken for something else."""
    chosen = random.choice(TEXTS)
    return chosen + random.choice(TEXTS) if random.random() < 0.3 else chosen


def value(random: Random, depth: int = 0) -> Any:
    """Return any JSON value, nan and lone surrogates included."""
    kind = random.randrange(9 if depth < 4 else 6)
    if kind < 2:
        return random.choice(NUMBERS)
    if kind < 5:
        return text(random)
    if kind == 5:
        return random.choice((None, True, False))
    if kind == 6:
        return [value(random, depth + 1) for _ in range(random.choice((0, 1, 3, 40)) if depth < 2 else 1)]
    if kind == 7:
        return {text(random)[:50]: value(random, depth + 1) for _ in range(random.randrange(4))}
    nested: Any = value(random, depth + 4)
    for _ in range(random.choice((10, 200, 500))):
        nested = [nested] if random.random() < 0.5 else {"a": nested}
    return nested


def mutate(random: Random, message: dict[str, Any]) -> dict[str, Any]:
    """Return *message* with one to three of its fields, at any depth, replaced, removed, renamed or added."""
    changed = copy.deepcopy(message)
    for _ in range(random.choice((1, 1, 2, 3))):
        place: Any = changed
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            inner = [key for key in keys if isinstance(place[key], (dict, list)) and place[key]]
            if not inner or random.random() < 0.5:
                break
            place = place[random.choice(inner)]
        if isinstance(place, list):
            place.insert(random.randint(0, len(place)), value(random))
            continue
        how = random.random()
        key = random.choice(keys) if keys else "x"
        if how < 0.7:
            place[key] = value(random)
        elif how < 0.8:
            place.pop(key, None)
        elif how < 0.9:
            place[text(random)[:80]] = place.pop(key, None)
        else:
            place[text(random)[:80]] = value(random)
    return changed


def encode(random: Random, message: Any) -> bytes:
    """Return *message* as JSON, or as what passes for JSON in some parsers."""
    try:
        written = json.dumps(message, ensure_ascii=random.random() < 0.7)
    except (RecursionError, ValueError):
        return b"[" * 5000
    return written.encode("utf-8", "surrogatepass")


def garble(random: Random, data: bytes) -> bytes:
    """Return *data* with bytes flipped, cut, repeated or put in."""
    changed = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 3, 10))):
        place = random.randrange(len(changed) or 1)
        how = random.randrange(5)
        if how == 0 and changed:
            changed[place] ^= 1 << random.randrange(8)
        elif how == 1:
            del changed[place:]
        elif how == 2:
            changed[place:place] = random.choice(PIECES)
        elif how == 3:
            changed[place:place] = changed[: random.randrange(2000)]
        else:
            changed[place:place] = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    return bytes(changed)


def datagram(random: Random, message: dict[str, Any]) -> bytes:
    """Return a datagram that is *message*, nearly *message*, or garbage; of up to 70,000 bytes."""
    how = random.random()
    if how < 0.1:
        return encode(random, message)
    if how < 0.65:
        return encode(random, mutate(random, message))
    if how < 0.8:
        return garble(random, encode(random, message))
    size = random.choice((1, 2, 100, 4096, 65535, 65536, 65537, 70000))
    if how < 0.88:
        return (random.choice(OPENERS) * size)[:size]
    if how < 0.94:
        key = random.choice(list(message))
        return encode(random, {**message, key: "x" * max(0, size - 200)})
    return random.getrandbits(8 * size).to_bytes(size, "little")
