"""What a service is started with, as one frozen record: absolute, checked, and the same after a trip through JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster_service import rundir
from cluster_service.core.spec import Spec

from .keys import Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .merge import Source


@dataclass(frozen=True)
class Origin:
    """How a service was started: all that is needed to read its configuration again. It may hold the access key."""

    directory: str
    """The caller's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The flags or keywords, as they were given."""
    source: Source = "keywords"
    target: str | None = None
    args: tuple[str, ...] = ()
    program: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables ``CSERVICE_…`` of that moment: our processes do not keep them all."""

    def environ(self, present: Mapping[str, str]) -> dict[str, str]:
        """The environment to read the configuration in. *present*: this process's."""
        others = {name: value for name, value in present.items() if not name.startswith("CSERVICE_")}
        return {**others, **self.environment}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Origin:
        """Inverse of ``dataclasses.asdict`` after a trip through JSON."""
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        return cls(**{**known, "args": tuple(known.get("args", ()))})


def plain(value: Any) -> Any:
    """Return an option as JSON has it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


@dataclass(frozen=True)
class Settings:
    """A service to start. Durations are seconds, paths absolute."""

    spec: Spec
    host: str = "localhost"
    port: int = 11987
    access_key: str = field(default="", repr=False)
    """The first of them. Empty: no TCP door."""
    keys: tuple[Key, ...] = field(default=(), repr=False)
    key_file: str | None = None
    """Where the keys stand; None when they were given themselves."""
    allow_query_key: str = "true"
    trusted_hosts: tuple[str, ...] = ()
    doors: tuple[str, ...] = ()
    """Addresses of the TCP door, as the guardian names them; none without an access key. That the second cannot be
    opened (a machine without IPv6) is no reason for a warning."""
    allow_http_get: bool = False
    remote_commands: tuple[str, ...] = ()
    upgrade_roots: tuple[str, ...] = ()
    trust_loopback: bool = False
    tls_cert: str | None = None
    """The TCP door speaks HTTPS."""
    tls_key: str | None = None
    tls_client_ca: str | None = None
    require_control: bool = False
    probes: tuple[str, ...] = ()
    """Where everybody is told whether the service lives and is ready."""
    probe_metrics: bool = False
    run_dir: str = ""
    """Empty: there is no place for one, and no owner's door."""
    log_file: str | None = None
    log_max_size: int = 100 << 20
    """Bytes of the log file, after which it becomes one of the past; 0: any number."""
    log_keep: int = 5
    audit_file: str | None = None
    """None: this user has no place for one."""
    pid_file: str | None = None
    state: str | None = None
    commands: str | None = None
    """A directory of files with commands of the service's own."""
    detach: bool = False
    console: bool | None = None
    """A console on the terminal of the one who starts the service; None: where there is a terminal."""
    master_hang_timeout: float = 30.0
    process_titles: bool = True
    """Whether our processes and the workers say in the process list what they are."""
    origin: Origin | None = field(default=None, compare=False, repr=False)
    """How it was started; None: by a version that did not say."""
    shown: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Where each value came from (``config.shown``)."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Sentences to be shown to the one who starts the service."""

    @property
    def name(self) -> str:
        """The service's name."""
        return self.spec.name

    @property
    def stop_timeout(self) -> float:
        """The longest that a worker of any group may take to end, in seconds."""
        return max(group.stop_timeout for group in self.spec.groups)

    @property
    def socket(self) -> str:
        """The path of the owner's door."""
        return rundir.socket_path(self.run_dir, self.name)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able object, for the boot message: it holds the access key."""
        data = asdict(replace(self, spec=Spec("", ())))
        return {**data, "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Inverse of ``to_json``; names of another version are left out."""
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        for name in ("trusted_hosts", "doors", "probes", "remote_commands", "upgrade_roots", "warnings"):
            known[name] = tuple(known.get(name, ()))
        known["keys"] = tuple(Key.from_json(key) for key in known.get("keys", ()))
        known["spec"] = Spec.from_json(known["spec"])
        origin = known.get("origin")
        known["origin"] = Origin.from_json(origin) if origin is not None else None
        return cls(**known)
