"""Where a running service is to be reached, and what can be said of it without asking: for clients of both kinds.

    find(name, *, url=None, access_key=None, run_dir=None, ca_file=None, client_cert=None) -> Place
    judge(place, status, body) -> the JSON object that was answered; raises CommandError
    no_door(place, error), broken(place, error, name) -> CommandError      what to tell when nobody answers

Only the standard library, and little of it: the command line is as quick as this module.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service import rundir

from .errors import CODES, CommandError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from .results import Operation, Step

Json = dict[str, Any]

TIMEOUT = 30.0
"""Seconds that an answer may take, besides what was asked to wait."""
WAIT = 20.0
"""Seconds that one question for news of an operation may stay open."""
PATIENCE = 30.0
"""Seconds for which a broken connection is tried again while something still has to be read."""
ENDING = 10.0
"""Seconds that a service may take to end once its door is shut, for those who follow its events."""
STARTING = 15.0
"""Seconds that a service may take from its start to its control socket: its master is still being loaded."""
PORT = 11987


class Broken(Exception):
    """The connection ended before an answer came: what was asked may or may not have been done."""


@dataclass(frozen=True)
class Place:
    """Where a service is."""

    shown: str
    """How messages name it."""
    path: str | None = None
    """Of its Unix socket, or else:"""
    host: str = ""
    port: int = PORT
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    lock: str | None = None
    """The file that it locks for as long as it runs, where it is one of this machine."""

    def headers(self) -> dict[str, str]:
        """Return what is sent with every request. A key is never sent in a URL."""
        if self.key is None:
            return {}
        return {"Authorization": "Bearer " + self.key.encode().decode("latin-1")}

    def gone(self, seconds: float) -> bool:
        """Wait for the service to end, *seconds* at most, and tell whether it has. Of one elsewhere it is not known:
        False.
        """
        return self.lock is not None and rundir.wait_free(self.lock, seconds)

    def check_runs(self) -> None:
        """Raise CommandError unavailable when the service surely has ended."""
        if self.gone(0.0):
            raise CommandError("unavailable", f"{self.shown} has ended")


def find(
    name: str = "default",
    *,
    url: str | None = None,
    access_key: str | None = None,
    run_dir: str | None = None,
    ca_file: str | None = None,
    client_cert: str | None = None,
) -> Place:
    """Return where the running service *name* is, or the one at *url*; see ``client.connect``."""
    if url is not None:
        return _at_url(url, access_key, ca_file, client_cert)
    rundir.check_name(name)
    found = rundir.find(name, run_dir)
    if found is not None:
        directory, holder = found
        place = Place(str(holder), rundir.socket_path(directory, name), lock=rundir.lock_path(directory, name))
        _await_door(place)
        return place
    if access_key is not None:  # somebody else's, perhaps, on this machine
        host = os.environ.get("CSERVICE_HOST") or "localhost"
        return _at_url(f"http://{host}:{os.environ.get('CSERVICE_PORT') or PORT}", access_key)
    raise _no_service(name, run_dir)


def _await_door(place: Place) -> None:
    """Wait for the control socket of a service that has just been started; not for one that ends, nor for long."""
    assert place.path is not None  # noqa: S101 - for the type checker
    end = time.monotonic() + STARTING
    while not os.path.exists(place.path) and time.monotonic() < end and not place.gone(0.0):
        time.sleep(0.05)


def _no_service(name: str, run_dir: str | None) -> CommandError:
    directory = rundir.existing(run_dir)
    path = rundir.socket_path(directory, name) if directory is not None else None
    if path is not None and os.path.exists(path):
        return CommandError(
            "unavailable",
            f"service {name!r} is dead: its socket {path} is left, but nobody runs it",
            "Start it again: cservice start … (the socket is replaced then).",
        )
    others = rundir.running(run_dir)
    hint = (
        f"Running: {', '.join(holder.name for holder in others)} (--name)."
        if others
        else "cservice start TARGET starts one."
    )
    return CommandError("unavailable", f"no service {name!r} runs here", hint)


def _at_url(url: str, access_key: str | None, ca_file: str | None = None, client_cert: str | None = None) -> Place:
    if url.startswith("unix:"):
        return Place(url, url.removeprefix("unix:").removeprefix("//"), key=access_key)
    from urllib.parse import urlsplit  # noqa: PLC0415 - http.client has it already; the owner's door needs none

    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.path not in ("", "/")
        or parts.query
        or parts.username
    ):
        raise CommandError(
            "bad_request",
            "--url: that is not the URL of a service",
            "Write http://localhost:11987, or unix:/path/of.sock.",
        )
    context = None
    if parts.scheme == "https":
        from cluster_service.config.tls import client_context  # noqa: PLC0415 - OpenSSL is only loaded where needed

        context = client_context(ca_file, client_cert)
    return Place(f"{parts.scheme}://{parts.netloc}", None, host, port or PORT, context, access_key)


# -- what came back ----------------------------------------------------------------------------------------------------


def judge(place: Place, status: int, body: bytes) -> Json:
    """Return the JSON object that was answered. Raises CommandError: the one that was, or that it is no service."""
    try:
        result = json.loads(body)
        error = result.get("error")
    except (ValueError, AttributeError):
        raise CommandError(
            "unavailable", f"what answers at {place.shown} is no cluster-service (HTTP {status})"
        ) from None
    if isinstance(error, dict):
        code = error.get("code")
        known = code if code in CODES else "failed"
        raise CommandError(known, str(error.get("message")), str(error.get("hint", "")))
    return dict(result)


def no_door(place: Place, error: OSError) -> CommandError:
    """Return what to tell when no connection could be made."""
    if place.lock is not None:
        place.check_runs()
        return CommandError(
            "unavailable", f"{place.shown} runs, but its control socket does not answer: {error.strerror or error}"
        )
    untrusted = getattr(error, "verify_message", "")  # ssl.SSLCertVerificationError
    if untrusted:
        return CommandError(
            "unavailable",
            f"the certificate of {place.shown} is not to be trusted: {untrusted}",
            "--ca-file FILE names the authority that has signed it.",
        )
    reason = error.strerror or str(error)
    hint = "Its TCP door is open only when it has an access key."
    return CommandError("unavailable", f"nothing answers at {place.shown}: {reason}", hint)


def late(place: Place, seconds: float) -> CommandError:
    """Return what to tell when no answer came in time."""
    return CommandError("timeout", f"{place.shown} did not answer in {seconds:.0f} s")


def hung_up(place: Place, error: Broken, *, answered: bool) -> CommandError | None:
    """Return what to tell when a connection broke that is not worth another try; None: it is. *answered*: it has, once.

    A door with TLS that wants a certificate hangs up on whoever has none.
    """
    if place.tls is None or answered:
        return None
    return CommandError(
        "unavailable",
        f"{place.shown} hangs up before it answers: {error}",
        "Does it want a certificate of ours? --client-cert FILE",
    )


def check_retry(place: Place, error: Broken, *, answered: bool, late: bool) -> None:
    """Return when what was to be read may be asked for again after *error*; else raise CommandError. *late*: it has
    been tried for ``PATIENCE``.
    """
    told = hung_up(place, error, answered=answered)
    if told is None and late:
        told = CommandError("unavailable", f"{place.shown} does not answer: {error}")
    if told is not None:
        raise told from None
    place.check_runs()


def may_have_begun(place: Place, name: str, error: Broken, *, answered: bool) -> CommandError:
    """Return what to tell when the connection broke after the command *name* was sent."""
    told = hung_up(place, error, answered=answered)
    if told is not None:
        hint = f"{told.hint} If not, {name} may have begun: cservice operations shows."
        return CommandError(told.code, told.message, hint)
    return CommandError(
        "failed",
        f"the connection to {place.shown} broke ({error}) before it answered: {name} may have begun",
        "cservice operations shows what it is doing.",
    )


# -- operations --------------------------------------------------------------------------------------------------------


class OperationFailed(CommandError):
    """An operation did not end well; ``operation`` is it."""

    def __init__(self, operation: Mapping[str, Any]) -> None:
        super().__init__("failed", operation["reason"] or f"the operation is {operation['state']}")
        self.operation: Json = dict(operation)

    def to_json(self) -> Json:
        """Return the error object, and the operation beside it."""
        return {**super().to_json(), "operation": self.operation}


def ends_service(operation: Mapping[str, Any]) -> bool:
    """Tell whether the end of *operation* is the service's."""
    return str(operation["command"]).split()[:2] == ["shutdown", "all"]


def ended_with_service(operation: Operation) -> Operation:
    """Return *operation*, a shutdown, as it ended: the service is gone, and its last report did not arrive."""
    from datetime import UTC, datetime  # noqa: PLC0415 - rarely needed

    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    reason = operation.get("reason") or "the service ended before its last report arrived"
    return {**operation, "state": "done", "replaced": operation["of"], "ended_at": now, "reason": reason}


class Following:
    """Tells *on_step* of each step of an operation, once, for as long as ``goes_on`` says that it runs."""

    def __init__(self, on_step: Callable[[Step], object] | None) -> None:
        self._on_step = on_step
        self.seen = 0
        """Steps from the operation's beginning, also when the first ones were cut."""

    def goes_on(self, operation: Operation) -> bool:
        """Tell of the steps that are new in *operation*, and return whether it still runs."""
        for step in self._fresh(operation):
            if self._on_step is not None:
                self._on_step(step)
        return operation["state"] == "running"

    def _fresh(self, operation: Operation) -> list[Step]:
        """Return the steps after those that were seen; of those that are not remembered, one that says how many."""
        steps, dropped = operation["steps"], int(operation.get("steps_dropped") or 0)
        fresh = list(steps[max(0, self.seen - dropped) :])
        lost = dropped - self.seen
        if lost > 0:
            text = f"({lost} step{'' if lost == 1 else 's'} before this {'is' if lost == 1 else 'are'} not remembered)"
            fresh.insert(0, {"at": steps[0]["at"] if steps else "", "text": text})
        self.seen = max(self.seen, dropped + len(steps))
        return fresh


def quoted(text: str) -> str:
    """Escape one segment of a path."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "._-")
        else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )


# -- the stream of events ----------------------------------------------------------------------------------------------


class Lines:
    """Server-sent events, from the lines of the stream."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def event(self, raw: bytes) -> Json | None:
        """Take one line; return the event that it completes, if it does. Raises ValueError when it is none."""
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        return {"event": fields.get("event", ""), **json.loads(fields["data"])} if "data" in fields else None
