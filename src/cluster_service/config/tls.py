"""TLS of the TCP endpoint: checks of its files, and the contexts for the server and the client.

The minimum version is TLS 1.2. A private key is owned by us or by root and not accessible to other users (group access
is allowed). Every error names the setting and the file, but not its content.
"""

from __future__ import annotations

import os
import ssl
import stat

from cluster_service.control.errors import CommandError


def server_context(cert: str, key: str | None, client_ca: str | None) -> ssl.SSLContext:
    """Return the context of an endpoint.

    *key*: None if it is in *cert*; *client_ca*: the authority that must have signed the certificates of clients. Raises
    CommandError bad_request.
    """
    _check_private(key or cert, "tls_key" if key else "tls_cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_own(context, cert, key, "tls")
    if client_ca is not None:
        _trust(context, client_ca, "tls_client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca_file: str | None, client_cert: str | None) -> ssl.SSLContext:
    """Return the context of a client, which always verifies: against *ca_file*, else against the system's authorities.

    *client_cert*: a PEM file with a certificate and its key, for endpoints that require one. Raises CommandError
    bad_request.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _trust(context, ca_file, "ca_file")
    if client_cert is not None:
        load_own(context, client_cert, None, "client")
    return context


def load_own(context: ssl.SSLContext, cert: str, key: str | None, whose: str) -> None:
    """Load a certificate into *context*, replacing an earlier one. Raises CommandError bad_request."""
    for path, setting in ((cert, f"{whose}_cert"), (key, f"{whose}_key")):
        if path is not None:
            _check_readable(path, setting)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Protected:
        raise CommandError(
            "bad_request",
            f"{whose}_key: the key in {key or cert} is protected by a password, which nobody is there to type",
            "openssl pkey -in KEY -out PLAIN removes it.",
        ) from None
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise CommandError(
            "bad_request",
            f"{whose}_cert: {cert}{f' and {key}' if key else ''} are no certificate and its key, in PEM ({reason})",
        ) from None


def _trust(context: ssl.SSLContext, path: str, setting: str) -> None:
    _check_readable(path, setting)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise CommandError("bad_request", f"{setting}: {path} holds no certificates in PEM form ({reason})") from None


def _check_readable(path: str, setting: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise CommandError("bad_request", f"{setting}: {path} cannot be read: {error.strerror}") from None


def _check_private(path: str, setting: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        raise CommandError("bad_request", f"{setting}: {path} cannot be read: {error.strerror}") from None
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()):
        raise CommandError(
            "bad_request", f"{setting}: {path} belongs to user {found.st_uid}, not to you ({os.geteuid()})"
        )
    if mode & 0o007:
        raise CommandError(
            "bad_request",
            f"{setting}: the private key in {path} can be read by others (mode {mode:04o})",
            f"chmod o= {path}",
        )


class _Protected(Exception):
    """The key is encrypted with a password."""


def _no_password() -> str:
    raise _Protected
