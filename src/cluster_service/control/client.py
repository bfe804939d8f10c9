"""The other end of the doors, for programs and for the command line.

    connect(name="default", *, url=None, access_key=None, run_dir=None, ca_file=None, client_cert=None) -> Client
    Client.workers() -> list   .health() .info() .operations() .commands() -> dict
    Client.command(name, *args, **options) -> dict       an operation is waited for; raises CommandError
    Client.operation(id) -> dict                         Client.follow(id) -> dict, when it has ended, well or not

Only the standard library, and little of it: the command line is as quick as this module. A key is sent as a header,
never in a URL. Reading is repeated when the connection breaks (a master was replaced, its door stays open); what
changes something is never sent twice.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from cluster_service import rundir

from .errors import CODES, CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .registry import Command

TIMEOUT = 30.0
"""Seconds that an answer may take, besides what was asked to wait."""
WAIT = 20.0
"""Seconds that one question for news of an operation may stay open."""
PATIENCE = 30.0
"""Seconds for which a broken connection is tried again while something still has to be read."""

Json = dict[str, Any]


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


class Broken(Exception):
    """The connection ended before an answer came: what was asked may or may not have been done."""


class Client:
    """A running service, from outside. Not for several threads at once."""

    def __init__(
        self,
        where: str,
        connection: Callable[[float], http.client.HTTPConnection],
        *,
        key: str | None = None,
        lock: str | None = None,
    ) -> None:
        """*where*: how messages name it; *connection*: makes one with a timeout; *lock*: the file that a running
        service locks.
        """
        self._where = where
        self._connection = connection
        self._key = key
        self._lock = lock
        self._answered = False

    def __repr__(self) -> str:
        """``<Client of service 'web'>``: no key."""
        return f"<Client of {self._where}>"

    # -- reading -----------------------------------------------------------------------------------------------------

    def workers(self) -> list[Json]:
        """Return one object a worker, and one for each slot that has none."""
        return list(self.read("/api/v1/workers")["workers"])

    def health(self) -> Json:
        """Return ``{"status": "ok" | "degraded" | "down", "serving", "wanted", …}``."""
        return self.read("/api/v1/health")

    def info(self) -> Json:
        """Return the service as a whole."""
        return self.read("/api/v1/info")

    def operations(self) -> list[Json]:
        """Return the operations that are remembered, newest first."""
        return list(self.read("/api/v1/operations")["operations"])

    def operation(self, operation: str, *, seen: int = 0, wait: float = 0.0) -> Json:
        """Return one operation: at once, or within *wait* seconds when it has more than *seen* steps or has ended."""
        return self.read(f"/api/v1/operations/{_quoted(operation)}?seen={seen}&wait={wait}", TIMEOUT + wait)

    def commands(self) -> list[Json]:
        """Return the definitions of the commands."""
        return list(self.read("/api/v1/commands")["commands"])

    def read(self, path: str, timeout: float = TIMEOUT) -> Json:
        """GET *path*, again when the connection breaks. Raises CommandError."""
        deadline = time.monotonic() + PATIENCE
        while True:
            began = time.monotonic()
            try:
                return self._ask("GET", path, None, timeout)
            except Broken as error:
                if self._where.startswith("https:") and not self._answered:
                    raise CommandError(
                        "unavailable",
                        f"{self._where} hangs up before it answers: {error}",
                        "Does it want a certificate of ours? --client-cert FILE",
                    ) from None
                if time.monotonic() > deadline:
                    raise CommandError("unavailable", f"{self._where} does not answer: {error}") from None
                self._must_run()
                time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))

    def glance(self, path: str, seconds: float) -> Json:
        """GET *path* once, within *seconds*, for whoever can do without the answer. Raises CommandError."""
        try:
            return self._ask("GET", path, None, seconds)
        except Broken as error:
            raise CommandError("unavailable", f"{self._where} does not answer: {error}") from None

    # -- commanding --------------------------------------------------------------------------------------------------

    def command(
        self,
        name: str,
        /,
        *args: object,
        wait: bool = True,
        on_step: Callable[[Json], object] | None = None,
        **options: Any,
    ) -> Json:
        """Give a command and return its result. Raises CommandError; ``failed`` when an operation did not end well.

        *args*: its positional arguments in their order; *options*: by name; relative paths start from the directory of
        this process. *wait*: until an operation has ended, telling *on_step* of each of its ``{"at", "text"}`` steps.
        """
        command, arguments = self._read(name, args, options)
        result = self.give(name, arguments, command.timeout)
        if "steps" not in result or not wait:
            return result
        ended = self.follow(result, on_step)
        if ended["state"] != command.succeeds:
            raise OperationFailed(ended)
        return ended

    def _read(self, name: str, args: tuple[object, ...], options: Mapping[str, Any]) -> tuple[Command, Json]:
        """Return the command, one of ours or of the service's own, and its arguments as they are sent."""
        from .arguments import from_call, from_here  # noqa: PLC0415 - the command line has read them itself
        from .registry import COMMANDS  # noqa: PLC0415

        try:
            command = COMMANDS.get(name)
            return command, from_here(command, from_call(command, args, options))
        except CommandError:
            from . import remote  # noqa: PLC0415 - only for what is not known here

            own = remote.find(remote.commands_of(self), name)
            if not own.custom:
                raise
            return own, from_here(own, from_call(own, args, options))

    def give(self, name: str, arguments: Mapping[str, Any], takes: float = 0.0) -> Json:
        """POST the command and return the first answer: a result, or an operation that may still run.

        *takes*: seconds that the command itself may take.
        """
        try:
            result = self._ask("POST", f"/api/v1/commands/{_quoted(name)}", arguments, TIMEOUT + takes)
            if name == "exit":
                self._gone(TIMEOUT)
            return result
        except Broken as error:
            if name == "exit" and self._gone(TIMEOUT):
                return {"exiting": True}
            self._must_run()
            raise CommandError(
                "failed",
                f"the connection to {self._where} broke ({error}) before it answered: {name} may have begun",
                "cservice operations shows what it is doing.",
            ) from None

    def follow(
        self,
        operation: Json | str,
        on_step: Callable[[Json], object] | None = None,
        *,
        on_news: Callable[[Json], object] | None = None,
        wait: float = WAIT,
    ) -> Json:
        """Return *operation* (or the one with that id) when it has ended, well or not.

        *on_step* is told of each step, once; of those that the service has forgotten, by one that says how many.
        *on_news* is told of the operation itself while it runs, every *wait* seconds at least.
        """
        if isinstance(operation, str):
            operation = self.operation(operation)
        seen = 0
        while True:
            fresh, seen = _fresh(operation, seen)
            for step in fresh:
                if on_step is not None:
                    on_step(step)
            if operation["state"] != "running":
                break
            if on_news is not None:
                on_news(operation)
            try:
                operation = self.operation(operation["id"], seen=seen, wait=wait)
            except CommandError as error:
                if error.code == "unavailable" and _ends_service(operation) and self._gone(TIMEOUT):
                    return {**operation, "state": "done"}
                raise
        if _ends_service(operation) and operation["state"] == "done":
            self._gone(TIMEOUT)  # so that its name and ports are free for the caller's next step
        return operation

    def open(self, path: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
        """GET *path* and return the answer, to be read as it comes and closed. Raises CommandError and Broken."""
        connection = self._connection(timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise self._no_door(error) from None
        try:
            connection.request("GET", path, headers={**self._headers(), **headers, "Connection": "close"})
            answer = connection.getresponse()
            if answer.status != 200:
                self._judge(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Broken(str(error) or type(error).__name__) from None
        except CommandError:
            connection.close()
            raise
        return answer

    def check_runs(self) -> None:
        """Raise CommandError unavailable when the service surely has ended."""
        self._must_run()

    def _headers(self) -> dict[str, str]:
        if self._key is None:
            return {}
        return {"Authorization": "Bearer " + self._key.encode().decode("latin-1")}

    # -- one exchange ------------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float) -> Json:
        headers = {"Accept": "application/json", **self._headers()}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connection = self._connection(timeout)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise self._no_door(error) from None
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
            except TimeoutError:
                raise CommandError("timeout", f"{self._where} did not answer in {timeout:.0f} s") from None
            except (OSError, http.client.HTTPException) as error:
                raise Broken(str(error) or type(error).__name__) from None
        finally:
            connection.close()
        self._answered = True
        return self._judge(answer.status, text)

    def _judge(self, status: int, text: bytes) -> Json:
        try:
            result = json.loads(text)
            error = result.get("error")
        except (ValueError, AttributeError):
            raise CommandError(
                "unavailable", f"what answers at {self._where} is no cluster-service (HTTP {status})"
            ) from None
        if isinstance(error, dict):
            code = error.get("code")
            known = code if code in CODES else "failed"
            raise CommandError(known, str(error.get("message")), str(error.get("hint", "")))
        return dict(result)

    def _no_door(self, error: OSError) -> CommandError:
        if self._lock is not None:
            self._must_run()
            return CommandError(
                "unavailable", f"{self._where} runs, but its control socket does not answer: {error.strerror}"
            )
        untrusted = getattr(error, "verify_message", "")  # ssl.SSLCertVerificationError
        if untrusted:
            return CommandError(
                "unavailable",
                f"the certificate of {self._where} is not to be trusted: {untrusted}",
                "--ca-file FILE names the authority that has signed it.",
            )
        reason = error.strerror or str(error)
        hint = "Its TCP door is open only when it has an access key."
        return CommandError("unavailable", f"nothing answers at {self._where}: {reason}", hint)

    def _must_run(self) -> None:
        """Raise CommandError unavailable when the service surely has ended."""
        if self._lock is not None and self._gone(0.0):
            raise CommandError("unavailable", f"{self._where} has ended")

    def _gone(self, seconds: float) -> bool:
        """Wait for the service to end, *seconds* at most, and tell whether it has. Of a remote one it is not known:
        False.
        """
        if self._lock is None:
            return False
        return rundir.wait_free(self._lock, seconds)


class OperationFailed(CommandError):
    """An operation did not end well; ``operation`` is it."""

    def __init__(self, operation: Json) -> None:
        super().__init__("failed", operation["reason"] or f"the operation is {operation['state']}")
        self.operation = operation

    def to_json(self) -> Json:
        """Return the error object, and the operation beside it."""
        return {**super().to_json(), "operation": self.operation}


def _ends_service(operation: Json) -> bool:
    return str(operation["command"]).split()[:2] == ["shutdown", "all"]


def _fresh(operation: Json, seen: int) -> tuple[list[Json], int]:
    """Return the steps after the first *seen*, and how many there have been: they are numbered from the operation's
    beginning, also when the first ones were cut.
    """
    steps, dropped = operation["steps"], int(operation.get("steps_dropped") or 0)
    fresh = list(steps[max(0, seen - dropped) :])
    lost = dropped - seen
    if lost > 0:
        text = f"({lost} step{'' if lost == 1 else 's'} before this {'is' if lost == 1 else 'are'} not remembered)"
        fresh.insert(0, {"at": steps[0]["at"] if steps else None, "text": text})
    return fresh, max(seen, dropped + len(steps))


def _quoted(text: str) -> str:
    """Escape one segment of a path."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "._-")
        else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )


def connect(
    name: str = "default",
    *,
    url: str | None = None,
    access_key: str | None = None,
    run_dir: str | None = None,
    ca_file: str | None = None,
    client_cert: str | None = None,
) -> Client:
    """Return a client of the running service *name*, or of the one at *url* (``https://host:port``, ``http://…``,
    ``unix:/path``).

    The certificate of an ``https`` one is verified: by the authorities in *ca_file*, else by the system's.
    *client_cert*: a PEM file of our own certificate and its key, for doors that want one.

    Raises CommandError unavailable when no such service runs on this machine. Whether one answers at *url* shows with
    the first question.
    """
    if url is not None:
        return _at_url(url, access_key, ca_file, client_cert)
    rundir.check_name(name)
    found = rundir.find(name, run_dir)
    if found is not None:
        directory, holder = found
        path = rundir.socket_path(directory, name)
        return Client(
            str(holder), lambda timeout: _UnixConnection(path, timeout), lock=rundir.lock_path(directory, name)
        )
    if access_key is not None:  # somebody else's, perhaps, on this machine
        host = os.environ.get("CSERVICE_HOST") or "localhost"
        return _at_url(f"http://{host}:{os.environ.get('CSERVICE_PORT') or 11987}", access_key)
    raise _no_service(name, run_dir)


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


def _at_url(url: str, access_key: str | None, ca_file: str | None = None, client_cert: str | None = None) -> Client:
    if url.startswith("unix:"):
        path = url.removeprefix("unix:").removeprefix("//")
        return Client(url, lambda timeout: _UnixConnection(path, timeout), key=access_key)
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
    name = str(host)
    shown = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme == "http":
        return Client(
            shown, lambda timeout: http.client.HTTPConnection(name, port or 11987, timeout=timeout), key=access_key
        )
    from cluster_service.config.tls import client_context  # noqa: PLC0415 - OpenSSL is only loaded where it is needed

    context = client_context(ca_file, client_cert)
    return Client(
        shown,
        lambda timeout: http.client.HTTPSConnection(name, port or 11987, timeout=timeout, context=context),
        key=access_key,
    )
