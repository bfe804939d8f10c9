"""Endpoints and files of a service: addresses, keys, certificates, writable paths."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

from cluster_service import rundir
from cluster_service.errors import CommandError
from cluster_service.machine import files

from . import credentials, setting_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .credentials import Key
    from .precedence import Given

ANOTHER = "Name another place, or chmod u+w this one."


def addresses(host: str, port: int, *, allowed: bool, origin: str = "--host") -> tuple[tuple[str, ...], bool]:
    """Return the addresses of the TCP endpoint, and True if other machines can reach them. Raises CommandError."""
    if host == "localhost":
        return (f"127.0.0.1:{port}", f"[::1]:{port}"), False
    address = "::" if host == "*" else setting_values.resolve(host.strip("[]"), host)
    beyond = not ipaddress.ip_address(address).is_loopback
    if beyond and not allowed:
        raise CommandError(
            "bad_request",
            f"{origin}: on {host} the TCP door would be open to other machines without encryption",
            "Give it a certificate (--tls-cert), leave it on localhost (ssh -L helps), or say --allow-insecure-remote.",
        )
    return (setting_values.joined(address, port) + ("+v4" if host == "*" else ""),), beyond


def check_tls(cert: str | None, key: str | None, client_ca: str | None) -> None:
    """Raise CommandError bad_request if the files are not valid for TLS, or given without *cert*. All may be None."""
    if cert is None:
        if key or client_ca:
            raise CommandError(
                "bad_request", "tls_key and tls_client_ca say nothing without tls_cert", "Add tls_cert, or remove them."
            )
        return
    from . import credentials  # loads OpenSSL only if needed

    credentials.server_context(cert, key, client_ca)


def check_probes(addresses: Sequence[str]) -> None:
    """Raise CommandError bad_request unless all addresses are TCP."""
    for address in addresses:
        if address.startswith(("unix:", "udp:")):
            raise CommandError(
                "bad_request", f"probes: {address} is not HTTP over TCP", "Write 0.0.0.0:8081, :8081 or [::]:8081."
            )


def given_keys(given: Mapping[str, Given], warnings: list[str]) -> tuple[tuple[Key, ...], str | None] | None:
    """Return the keys and their file; None: a key is to be generated. Raises CommandError bad_request."""
    key, file = given.get("access_key"), given.get("access_key_file")
    if key and file:
        if key.rank == file.rank:
            raise CommandError(
                "bad_request", f"{key.origin} and {file.origin} were both given: one of them is enough", "Remove one."
            )
        key, file = (key, None) if key.rank > file.rank else (None, file)
    if file:
        return credentials.load(file.value, file.origin), file.value
    if key is None:
        return (), None
    if key.value == "auto":
        return None
    if key.source == "flags":
        warnings.append(
            "the access key can be read in the process list while this command starts: "
            "prefer --access-key-file or CSERVICE_ACCESS_KEY"
        )
    return credentials.numbered([str(key.value)]), None


def idle_port(given: Mapping[str, Given], found: object) -> list[str]:
    """Return a warning if the command line sets the port of the TCP endpoint, but no key: the app's may be meant.

    *found*: the result of ``given_keys``.
    """
    port = given.get("port")
    if found != ((), None) or port is None or port.source != "flags":
        return []
    shut = f"{port.origin} is the port of the TCP door, which stays shut without an access key"
    return [f"{shut}; an app is served at its --bind"]


def made_keys(run_dir: str, name: str) -> tuple[tuple[Key, ...], str | None]:
    """Return the keys of the service and their file, generating a key if there is none."""
    return credentials.automatic(run_dir, name), rundir.key_path(run_dir, name)


def check_commands(directory: Given | None) -> list[str]:
    """Return a warning for each command file that does not compile. Raises CommandError if the directory is missing."""
    if directory is None:
        return []
    try:
        names = sorted(name for name in os.listdir(directory.value) if name.endswith(".py") and name[0] not in "._")
    except OSError:
        raise CommandError(
            "bad_request", f"{directory.origin}: there is no directory {directory.value}", "Make it, or remove this."
        ) from None
    found = [(path, _flaw(path)) for path in (os.path.join(directory.value, name) for name in names)]
    return [f"{path}{flaw}; its commands are left out" for path, flaw in found if flaw]


def _flaw(path: str) -> str:
    """Return the syntax error in the source at *path*; empty if there is none or the file cannot be read."""
    try:
        with open(path, "rb") as file:
            compile(file.read(), path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f":{error.lineno} does not compile: {error.msg}"
    except (OSError, ValueError):
        return ""
    return ""


def check_file(path: Given | None, *, users: Sequence[tuple[str, int, list[int]]] = (), replaced: bool = False) -> None:
    """Raise CommandError unless the file is writable, and its directory is not writable by *users*
    (``grants.users_of``).

    *replaced*: each write replaces the file by a new one.
    """
    if path is None:
        return
    folder = os.path.dirname(path.value)
    if not os.path.isdir(folder):
        raise CommandError("bad_request", f"{path.origin}: the directory {folder} does not exist", f"mkdir {folder}")
    if os.path.isdir(path.value):
        raise CommandError("bad_request", f"{path.origin}: {path.value} is a directory", "Name a file in it.")
    if replaced and not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError("bad_request", f"{path.origin}: the directory {folder} cannot be written by you", ANOTHER)
    if not os.access(path.value if os.path.exists(path.value) else folder, os.W_OK):
        raise CommandError("bad_request", f"{path.origin}: {path.value} cannot be written by you", ANOTHER)
    try:
        files.check(path.value, users)
    except files.Refused as refused:
        raise CommandError("bad_request", f"{path.origin}: cannot use {path.value}: {refused.strerror}") from None
    except OSError:
        return  # such as a dangling symbolic link: opening it gives a better error
