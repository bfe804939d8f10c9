"""The address of a running service, and the errors of a failed connection; shared by both clients.

    find(name, *, url=None, access_key=None, run_dir=None, ca_file=None, client_cert=None) -> Place
    judge(place, status, body) -> the JSON object of the answer; raises CommandError
    no_door(place, error), late(place, seconds) -> CommandError for a service that does not answer

Imports little, and only from the standard library, because the command line loads it at every start.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_service import rundir
from cluster_service.errors import CODES, CommandError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from .results import Operation, Step

Json = dict[str, Any]

TIMEOUT = 30.0
"""Timeout for an answer in seconds, in addition to the wait that the request asked for."""
WAIT = 20.0
"""Maximum duration of one request that waits for progress of an operation, in seconds."""
PATIENCE = 30.0
"""Seconds for which a read is retried over broken connections."""
ENDING = 10.0
"""Seconds that a service may take to end after its endpoint has closed, for clients that follow its events."""
STARTING = 15.0
"""Seconds that a service may take from its start to its control socket, while the master is loading."""
PORT = 11987


class Broken(Exception):
    """The connection broke before an answer arrived; the request may or may not have been executed."""


@dataclass(frozen=True)
class Place:
    """The address of a service."""

    shown: str
    """The name of the service in messages."""
    path: str | None = None
    """The path of its Unix socket; None: ``host`` and ``port`` apply."""
    host: str = ""
    port: int = PORT
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    lock: str | None = None
    """The lock file that the service holds while it runs; None if the service was given by its URL."""

    def headers(self) -> dict[str, str]:
        """Return the headers sent with every request. A key is never sent in a URL."""
        if self.key is None:
            return {}
        return {"Authorization": "Bearer " + self.key.encode().decode("latin-1")}

    def gone(self, seconds: float) -> bool:
        """Wait at most *seconds* for the service to end, and return True if it has.

        Returns False for a service given by its URL, since its state is unknown.
        """
        return self.lock is not None and rundir.wait_free(self.lock, seconds)

    def check_runs(self) -> None:
        """Raise CommandError unavailable if the service is known to have ended."""
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
    """Return the address of the running service *name*, or of the one at *url*; see ``client.connect``."""
    if url is not None:
        return _at_url(url, access_key, ca_file, client_cert)
    rundir.check_name(name)
    found = rundir.find(name, run_dir)
    if found is not None:
        directory, holder = found
        place = Place(str(holder), rundir.socket_path(directory, name), lock=rundir.lock_path(directory, name))
        _await_door(place)
        return place
    if access_key is not None:  # the service of another user on this machine, perhaps
        host = os.environ.get("CSERVICE_HOST") or "localhost"
        return _at_url(f"http://{host}:{os.environ.get('CSERVICE_PORT') or PORT}", access_key)
    raise _no_service(name, run_dir)


def _await_door(place: Place) -> None:
    """Wait at most ``STARTING`` seconds for the control socket of a starting service, or until the service ends."""
    assert place.path is not None
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
    from urllib.parse import urlsplit  # not needed for the Unix endpoint

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
        from cluster_service.config.credentials import client_context  # loads OpenSSL only if needed

        context = client_context(ca_file, client_cert)
    return Place(f"{parts.scheme}://{parts.netloc}", None, host, port or PORT, context, access_key)


# -- answers -----------------------------------------------------------------------------------------------------------


def judge(place: Place, status: int, body: bytes) -> Json:
    """Return the JSON object of an answer.

    Raises the CommandError in it, or unavailable if the answer is not from a service.
    """
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
    """Return the error to report when the connection failed."""
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
    """Return the error to report when no answer arrived in time."""
    return CommandError("timeout", f"{place.shown} did not answer in {seconds:.0f} s")


def hung_up(place: Place, error: Broken, *, answered: bool) -> CommandError | None:
    """Return the error for a broken connection that is not worth a retry, or None. *answered*: it has answered before.

    A TLS endpoint that requires a client certificate closes connections without one.
    """
    if place.tls is None or answered:
        return None
    return CommandError(
        "unavailable",
        f"{place.shown} hangs up before it answers: {error}",
        "Does it want a certificate of ours? --client-cert FILE",
    )


def check_retry(place: Place, error: Broken, *, answered: bool, late: bool) -> None:
    """Return if a read may be retried after *error*; else raise CommandError.

    *late*: it has been retried for ``PATIENCE`` seconds.
    """
    told = hung_up(place, error, answered=answered)
    if told is None and late:
        told = CommandError("unavailable", f"{place.shown} does not answer: {error}")
    if told is not None:
        raise told from None
    place.check_runs()


def may_have_begun(place: Place, name: str, error: Broken, *, answered: bool) -> CommandError:
    """Return the error to report when the connection broke after the command *name* was sent."""
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
    """An operation did not succeed; it is in ``operation``."""

    def __init__(self, operation: Mapping[str, Any]) -> None:
        super().__init__("failed", operation["reason"] or f"the operation is {operation['state']}")
        self.operation: Json = dict(operation)

    def to_json(self) -> Json:
        """Return the error object together with the operation."""
        return {**super().to_json(), "operation": self.operation}


def ends_service(operation: Mapping[str, Any]) -> bool:
    """Return True if the service ends with *operation*."""
    return str(operation["command"]).split()[:2] == ["shutdown", "all"]


def ended_with_service(operation: Operation) -> Operation:
    """Return *operation*, a shutdown, as done: the service has ended before its last report arrived."""
    from datetime import UTC, datetime  # rarely needed

    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    reason = operation.get("reason") or "the service ended before its last report arrived"
    return {**operation, "state": "done", "replaced": operation["of"], "ended_at": now, "reason": reason}


class Following:
    """Calls *on_step* once for each step of an operation, until ``goes_on`` returns False."""

    def __init__(self, on_step: Callable[[Step], object] | None) -> None:
        self._on_step = on_step
        self.seen = 0
        """Number of steps since the start of the operation, including dropped ones."""

    def goes_on(self, operation: Operation) -> bool:
        """Report the new steps of *operation* and return True while it is running."""
        for step in self._fresh(operation):
            if self._on_step is not None:
                self._on_step(step)
        return operation["state"] == "running"

    def _fresh(self, operation: Operation) -> list[Step]:
        """Return the steps not reported yet; if some were dropped, preceded by one that states their number."""
        steps, dropped = operation["steps"], int(operation.get("steps_dropped") or 0)
        fresh = list(steps[max(0, self.seen - dropped) :])
        lost = dropped - self.seen
        if lost > 0:
            text = f"({lost} step{'' if lost == 1 else 's'} before this {'is' if lost == 1 else 'are'} not remembered)"
            fresh.insert(0, {"at": steps[0]["at"] if steps else "", "text": text})
        self.seen = max(self.seen, dropped + len(steps))
        return fresh


def quoted(text: str) -> str:
    """Percent-encode one segment of a path."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "._-")
        else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )


# -- event stream ------------------------------------------------------------------------------------------------------


class Lines:
    """Parser of server-sent events, line by line."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def event(self, raw: bytes) -> Json | None:
        """Take one line; return the event that it completes, or None. Raises ValueError for invalid JSON."""
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        return {"event": fields.get("event", ""), **json.loads(fields["data"])} if "data" in fields else None
