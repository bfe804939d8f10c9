"""The settings with which a service is started: one frozen record, and the origin of each for display (no secrets)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster_service import rundir
from cluster_service.core.model.spec import Spec
from cluster_service.core.rules import redaction
from cluster_service.core.rules.redaction import HIDDEN

from .credentials import Key
from .settings_table import BY_NAME, GROUP, SERVICE, SETTINGS, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .precedence import Collected, Given, Source


@dataclass(frozen=True)
class Origin:
    """How a service was started: everything needed to read its configuration again. May contain the access key."""

    directory: str
    """The working directory of the caller."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The flags or keywords as given."""
    source: Source = "keywords"
    target: str | None = None
    args: tuple[str, ...] = ()
    program: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    """The ``CSERVICE_…`` variables at the start; our processes do not keep all of them."""

    def environ(self, present: Mapping[str, str]) -> dict[str, str]:
        """Return the environment in which to read the configuration. *present*: that of this process."""
        others = {name: value for name, value in present.items() if not name.startswith("CSERVICE_")}
        return {**others, **self.environment}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Origin:
        """Invert ``dataclasses.asdict``, also after conversion to JSON."""
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        return cls(**{**known, "args": tuple(known.get("args", ()))})


def plain(value: Any) -> Any:
    """Return an option as a JSON value."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


@dataclass(frozen=True)
class Settings:
    """A service to start. Durations are in seconds, paths are absolute."""

    spec: Spec
    host: str = "localhost"
    port: int = 11987
    access_key: str = field(default="", repr=False)
    """The first key. Empty: no TCP endpoint."""
    keys: tuple[Key, ...] = field(default=(), repr=False)
    key_file: str | None = None
    """The file of the keys; None if they were given directly."""
    allow_query_key: str = "true"
    trusted_hosts: tuple[str, ...] = ()
    doors: tuple[str, ...] = ()
    """Addresses of the TCP endpoint; empty without an access key. A failure to open the second one (on a machine
    without IPv6) causes no warning.
    """
    allow_http_get: bool = False
    remote_commands: tuple[str, ...] = ()
    upgrade_roots: tuple[str, ...] = ()
    trust_loopback: bool = False
    tls_cert: str | None = None
    """If set, the TCP endpoint uses HTTPS."""
    tls_key: str | None = None
    tls_client_ca: str | None = None
    require_control: bool = False
    probes: tuple[str, ...] = ()
    """Addresses that answer liveness and readiness probes without a key."""
    probe_metrics: bool = False
    run_dir: str = ""
    """Empty if no directory is suitable; the service then has no Unix endpoint."""
    log_file: str | None = None
    log_max_size: int = 100 << 20
    """Size in bytes at which the log file is rotated; 0: never."""
    log_keep: int = 5
    audit_file: str | None = None
    """None: this user has no directory for one."""
    pid_file: str | None = None
    state: str | None = None
    commands: str | None = None
    """A directory of files that define custom commands."""
    detach: bool = False
    console: bool | None = None
    """Run a console on the terminal that starts the service; None: if there is a terminal."""
    master_hang_timeout: float = 30.0
    process_titles: bool = True
    """Set descriptive titles of our processes and the workers in the process list."""
    origin: Origin | None = field(default=None, compare=False, repr=False)
    """How it was started; None: by a version that did not record it."""
    shown: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The origin of each value (``config.service_config``)."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Warnings for the user who starts the service."""

    @property
    def name(self) -> str:
        """The name of the service."""
        return self.spec.name

    @property
    def stop_timeout(self) -> float:
        """The longest stop timeout of any group, in seconds."""
        return max(group.stop_timeout for group in self.spec.groups)

    @property
    def socket(self) -> str:
        """The path of the Unix endpoint."""
        return rundir.socket_path(self.run_dir, self.name)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object for the boot message. It contains the access key."""
        data = asdict(replace(self, spec=Spec("", ())))
        return {**data, "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Invert ``to_json``; fields of other versions are ignored."""
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        for name in ("trusted_hosts", "doors", "probes", "remote_commands", "upgrade_roots", "warnings"):
            known[name] = tuple(known.get(name, ()))
        known["keys"] = tuple(Key.from_json(key) for key in known.get("keys", ()))
        known["spec"] = Spec.from_json(known["spec"])
        origin = known.get("origin")
        known["origin"] = Origin.from_json(origin) if origin is not None else None
        return cls(**known)


_FROM = {"flags": "option", "keywords": "keyword", "environment": "environment", "file": "file"}


def shown(collected: Collected, wanted: Mapping[str | None, Mapping[str, Given]]) -> dict[str, Any]:
    """Return ``{"service", "file", "settings": [row], "groups": {name: [row]}}``.

    A row is ``{"name", "value", "from", "where"}``; *from*: option, keyword, environment, file or default. *wanted*:
    the settings of each group to start; None as the name of the only group.
    """
    whole = collected.whole
    only = whole["group"].value if "group" in whole else BY_NAME["group"].default
    return {
        "service": whole["name"].value if "name" in whole else BY_NAME["name"].default,
        "file": collected.path,
        "settings": [_row(setting, whole) for setting in SETTINGS if setting.scope == SERVICE],
        "groups": {
            name or only: [
                _row(setting, given) for setting in SETTINGS if setting.scope == GROUP and setting.name != "group"
            ]
            for name, given in wanted.items()
        },
    }


def _row(setting: Setting, given: Mapping[str, Given]) -> dict[str, Any]:
    found = given.get(setting.name)
    if found is None:
        row = {"name": setting.name, "value": _plain(setting, setting.default), "from": "default", "where": ""}
        return {**row, "note": setting.shown} if setting.shown else row
    return {
        "name": setting.name,
        "value": _plain(setting, found.value),
        "from": _FROM[found.source],
        "where": found.origin,
    }


def _plain(setting: Setting, value: Any) -> Any:
    if setting.kind == "key":
        return HIDDEN if value not in (None, "auto") else value
    if setting.kind == "env":
        return {name: HIDDEN for name, _ in value}
    if setting.kind == "depends":
        return [f"{group}:{condition}" for group, condition in value]
    if isinstance(value, tuple):
        return redaction.redact_arguments([str(item) for item in value])
    return redaction.redact_text(value) if isinstance(value, str) else value
