"""Reload of the configuration: the arguments from the start of the service, with the files as they are now.

A mistake in the files is rejected with the message that ``start`` would give, and nothing changes. The settings in
effect are compared with the new ones: groups by the core (``core.engine.spec_reload``), the service as a whole here. A
setting that needs a new guardian is listed in every plan until the service is restarted as a whole.

The checkpoint contains the settings that were applied, except the access keys: the next master reads those again.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from cluster_service.commands.service_interface import CALLER
from cluster_service.config import Settings
from cluster_service.config.resolve import keys_of, look, resolve, verdict
from cluster_service.core.engine import spec_reload
from cluster_service.core.protocol import requests
from cluster_service.errors import CommandError
from cluster_service.machine import shortage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster_service.config.service_config import Origin
    from cluster_service.core.model.cluster_state import Operation

    from .interfaces import Master

Json = dict[str, Any]

APPLIED_SETTINGS = (
    "allow_query_key", "trusted_hosts", "allow_http_get", "remote_commands", "upgrade_roots", "trust_loopback",
    "require_control", "tls_key",
)  # fmt: skip
"""Settings of the service that a reload applies immediately."""
RESTART_SETTINGS = (
    "host", "port", "tls_client_ca", "run_dir", "log_file", "audit_file", "pid_file", "state", "commands",
    "master_hang_timeout", "log_max_size", "log_keep", "process_titles", "probes", "probe_metrics",
)  # fmt: skip
"""Settings that change only when the service is stopped and started again."""
AFTER_RESTART = "after the service is restarted"


class Reloading:
    """Reloads of one master."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._taken: Json | None = None
        """Settings recorded in the checkpoint; None: those from the start of the service are in effect."""
        self._signalled = False
        """True if SIGHUP arrived and its reload has not begun."""
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """True while a reload requested by SIGHUP is about to begin; once it has, its operation reports it."""
        return self._signalled or (self._task is not None and not self._task.done())

    # -- requests of commands ------------------------------------------------------------------------------------------

    async def plan(self) -> Json:
        """Return ``{"service", "file", "changes"}``. Raises CommandError."""
        new = await self._read()
        _, changes = self._compare(new)
        return {
            "service": self._master.settings.name,
            "file": new.shown.get("file"),
            "changes": [asdict(change) for change in changes],
        }

    async def take_up(
        self,
        monitor: float | None = None,
        timeout: float | None = None,  # of the workers
        *,
        everybody: bool = False,
    ) -> Operation:
        """Begin the reload and return its operation. *everybody*: replace every worker. Raises CommandError, in which
        case nothing changed.
        """
        async with self._lock:
            new = await self._read()
            return self._take_up(new, requests.Reload(new.spec, monitor, timeout, everybody=everybody))

    async def configuration(self, action: str) -> Json:
        """Return the settings in effect, or whether the files are valid. Raises CommandError."""
        if action == "show":
            shown = self._master.settings.shown
            if not shown:
                raise CommandError("failed", "it is not known how this service was started", "Start it anew.")
            return dict(shown)
        return verdict(await self._read())

    # -- applying ------------------------------------------------------------------------------------------------------

    def _origin(self) -> Origin:
        origin = self._master.settings.origin
        if origin is None:
            raise CommandError("failed", "it is not known how this service was started", "Start it anew.")
        return origin

    async def _read(self) -> Settings:
        origin = self._origin()
        try:
            new = await asyncio.to_thread(resolve, origin, origin.environ(os.environ))
        except RuntimeError as error:
            raise CommandError(
                "unavailable", f"the configuration cannot be read: {shortage.explain(error)}", "Try again."
            ) from None
        before, now = (settings.shown.get("file") for settings in (self._master.settings, new))
        if CALLER.get().door == "tcp" and now != before:
            raise CommandError(
                "forbidden",
                f"the service runs with {before or 'no configuration file'}, and now {now or 'none'} would be read",
                "A key may only take up changes in the same file: cservice reload over the Unix socket reads this one.",
            )
        return new

    def _compare(self, new: Settings) -> tuple[Settings, list[spec_reload.Change]]:
        """Return the settings that would be in effect and the changes that lead to them."""
        master = self._master
        old = master.settings
        spec = replace(new.spec, name=old.name)
        for group in spec.groups:
            try:
                master.share_of(group.name, group.release)
            except ValueError as error:
                raise CommandError("bad_request", str(error), "Leave share out: the best available is taken.") from None
        found = spec_reload.compare_specs(master.cluster, spec) + _of_the_service(old, new)
        kept = {name: getattr(old, name) for name in (*RESTART_SETTINGS, "doors", "detach", "console")}
        if bool(old.tls_cert) != bool(new.tls_cert):
            kept |= {"tls_cert": old.tls_cert, "tls_key": old.tls_key}
        return replace(new, spec=spec, shown=_shown(old.shown, new.shown), **kept), found

    def _take_up(self, new: Settings, request: requests.Reload) -> Operation:
        master = self._master
        merged, changes = self._compare(new)
        notes = tuple(f"service: {each.text}" for each in _of_the_service(master.settings, new))
        before = master.settings, self._taken, self._signalled
        master.use_settings(merged)  # before the step, which writes the checkpoint
        self._taken = kept(merged)
        self._signalled = self._signalled and not request.everybody
        try:
            operation = master.request(replace(request, spec=merged.spec, notes=notes))
        except requests.Rejected as refusal:
            settings, self._taken, self._signalled = before
            master.use_settings(settings)
            raise CommandError(refusal.code, refusal.message, refusal.hint) from None
        if master.doors is not None:
            master.doors.adopt(merged)
        told = [f"{each.group or 'service'}: {each.text}" for each in changes]
        line = f"the configuration was read again: {len(told) or 'no'} change{'' if len(told) == 1 else 's'}"
        for note in notes:
            master.log(f"reload: {note}")
        master.tell("config_reload", {"operation": operation.id, "changes": told}, line)
        return operation

    # -- SIGHUP --------------------------------------------------------------------------------------------------------

    def on_signal(self) -> bool:
        """Reload the configuration and replace every worker. Return False if only the core can handle the signal."""
        if self._master.settings.origin is None:
            return False
        if self._task is None or self._task.done():
            self._signalled = True
            self._master.note()  # until the checkpoint records the new operation, a successor repeats the reload
            self._task = asyncio.get_running_loop().create_task(self._on_signal())
            self._task.add_done_callback(lambda _task: self._master.tell_standing())
        else:
            self._master.log("SIGHUP: the one before is still being carried out")
        return True

    async def _on_signal(self) -> None:
        try:
            await self.take_up(everybody=True)
        except CommandError as error:
            if error.code == "stopping" and not self._master.cluster.ending:  # the next master begins it
                return
            hint = f"\n{error.hint}" if error.hint else ""
            if error.code == "busy" and self._master.doors is not None:  # revoke keys without waiting
                self._master.doors.rekey(self._master.settings)
                self._master.log(f"SIGHUP: only the file of access keys is read again: {error.message}{hint}")
            else:
                self._master.log(f"SIGHUP: nothing was changed: {error.message}{hint}")
        except Exception as error:  # noqa: BLE001 - no thread or memory, which would otherwise go unlogged
            self._master.log(f"SIGHUP: the configuration could not be read: {shortage.explain(error)}")
        self._signalled = False
        self._master.note()

    def close(self) -> None:
        """Leave a pending reload to the successor."""
        if self._task is not None:
            self._task.cancel()

    # -- the checkpoint ------------------------------------------------------------------------------------------------

    def notebook(self) -> Json:
        """Return the part of the checkpoint for reloads, which contains no secrets."""
        taken = {} if self._taken is None else {"settings": self._taken}
        return {**taken, "signalled": True} if self._signalled else taken

    def resume(self) -> None:
        """Begin a reload that an earlier master received by SIGHUP and did not begin, except in safe mode."""
        if self._signalled and not self._master.hello.safe:
            self.on_signal()
        else:
            self._signalled = False

    def restore(self, notebook: Mapping[str, Any]) -> None:
        """Restore the state of an earlier master from *notebook*."""
        master = self._master
        self._signalled = bool(notebook.get("signalled"))
        taken = notebook.get("settings")
        if taken is None:
            return
        self._taken = dict(taken)
        found = Settings.from_json({**master.settings.to_json(), **taken})
        found = replace(found, spec=master.cluster.spec, shown=_seen(found))
        if found.key_file is None and found.origin is not None:
            try:
                secrets, _ = keys_of(found.origin, found.origin.environ(os.environ), found.run_dir)
            except CommandError as error:
                master.log(f"the access keys are not read again: {error.message}")
                secrets = ()
            found = replace(found, keys=secrets, access_key=secrets[0].secret if secrets else "")
        master.use_settings(found)


def kept(settings: Settings) -> Json:
    """Return the part of *settings* for the checkpoint: what a successor cannot know otherwise, without secrets."""
    return {name: getattr(settings, name) for name in (*APPLIED_SETTINGS, "tls_cert", "key_file")}


def _seen(settings: Settings) -> Mapping[str, Any]:
    """Return where the values come from, according to the files now, or as known before if they cannot be read."""
    if settings.origin is None:
        return settings.shown
    try:
        return _shown(settings.shown, look(settings.origin, settings.origin.environ(os.environ)))
    except CommandError:
        return settings.shown


def _of_the_service(old: Settings, new: Settings) -> list[spec_reload.Change]:
    """Return the changes that concern the service as a whole, except those that the core finds."""
    found = [
        spec_reload.Change("", "settings", _text(name, getattr(old, name), getattr(new, name)))
        for name in (*APPLIED_SETTINGS, "tls_cert")
        if getattr(old, name) != getattr(new, name) and bool(old.tls_cert) == bool(new.tls_cert)
    ]
    if old.keys != new.keys and bool(old.doors) == bool(new.doors):
        found.append(spec_reload.Change("", "settings", "access_key: changed"))
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in (*RESTART_SETTINGS, "name")]
    found += [
        spec_reload.Change("", "service", f"{_text(name, before, after)} ({AFTER_RESTART})")
        for name, before, after in pairs
        if before != after and (name not in ("host", "port") or old.doors or new.doors)
    ]
    if bool(old.tls_cert) != bool(new.tls_cert):
        text = _text("tls_cert", old.tls_cert, new.tls_cert)
        found.append(spec_reload.Change("", "service", f"{text} ({AFTER_RESTART})"))
    if bool(old.doors) != bool(new.doors):
        text = "the TCP endpoint opens" if new.doors else "without a key, the TCP endpoint closes"
        found.append(spec_reload.Change("", "service", f"access_key: {text} {AFTER_RESTART}"))
    return found


def _text(name: str, old: object, new: object) -> str:
    return f"{name}: {spec_reload.format_setting(old)} → {spec_reload.format_setting(new)}"


def _shown(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return where the values come from, with the old rows for settings that are not in effect yet."""
    if not old or not new:
        return new
    before = {row["name"]: row for row in old["settings"]}
    late = {*RESTART_SETTINGS, "name"}
    rows = [before.get(row["name"], row) if row["name"] in late else row for row in new["settings"]]
    return {**new, "service": old["service"], "settings": rows}
