"""From where a setting was given, to the one value that counts: flags (or keywords) over environment over files.

Every error names where the value stands: ``--workers``, ``CSERVICE_WORKERS`` or the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cluster_service.control.errors import CommandError
from cluster_service.rundir import check_name

from . import binds, values
from .table import ALIASES, BY_NAME, INTERNAL, SETTINGS, WORKER_IDENTITY, Setting, canonical

Source = Literal["flags", "keywords", "environment", "file"]


@dataclass(frozen=True)
class Given:
    """A value of the right kind, and where it stood. *base*: the absolute directory that relative paths start from."""

    value: Any
    origin: str
    base: str
    source: Source


def gather(
    options: Mapping[str, Any],
    source: Source,
    directory: str,
    environ: Mapping[str, str],
) -> dict[str, Given]:
    """Return every setting that was given anywhere, by name."""
    strongest = read(options, source, directory)
    environment = from_environment(environ, directory)
    path = strongest.get("config") or environment.get("config")
    files = from_file(path.value, path.origin) if path else from_directory(directory)
    return {**files, **environment, **strongest}


def read(
    options: Mapping[str, Any],
    source: Source,
    base: str,
    where: str = "",
    scope: str | None = None,
) -> dict[str, Given]:
    """Return *options* (any spelling of the names) as checked values. None means: not given.

    *where*: the file, for errors; *scope*: only settings of that scope are known here.
    """
    allowed = {
        alias: name
        for alias, name in ALIASES.items()
        if (scope is None or BY_NAME[name].scope == scope) and (source != "file" or "file" in BY_NAME[name].sources)
    }
    given: dict[str, Given] = {}
    for spelling, raw in options.items():
        if raw is None:
            continue
        alias = canonical(spelling)
        if alias == "workers" and source == "file" and isinstance(raw, str) and _is_target(raw):
            alias = "target"  # the original's name for it
        name = allowed.get(alias)
        in_file = f" in {where}" if where else ""
        if name is None:
            raise CommandError(
                "bad_request",
                f"there is no setting {spelling!r}{in_file}{values.suggestion(alias, allowed)}",
                "cservice start --help lists the settings.",
            )
        setting = BY_NAME[name]
        origin = {"flags": _flag_of(setting), "keywords": spelling}.get(source, f"{spelling}{in_file}")
        if name in given:
            raise CommandError("bad_request", f"{origin}: given twice, also as {given[name].origin}")
        given[name] = Given(
            convert(setting, raw, base, origin, "ms" if alias.endswith("_ms") else "s"), origin, base, source
        )
    return given


def _is_target(text: str) -> bool:
    return text.endswith(".py") or "/" in text or ":" in text


def _flag_of(setting: Setting) -> str:
    return setting.flags[-1].split("/")[0] if setting.flags else setting.name.upper()


def from_environment(environ: Mapping[str, str], directory: str) -> dict[str, Given]:
    """Return what the ``CSERVICE_…`` variables say. An empty one says nothing."""
    known = {setting.environment: setting for setting in SETTINGS if "environment" in setting.sources}
    inside = "CSERVICE_SLOT" in environ
    given: dict[str, Given] = {}
    for variable in sorted(environ):
        if not variable.startswith("CSERVICE_") or variable in INTERNAL or not environ[variable]:
            continue
        if inside and variable in WORKER_IDENTITY:
            continue
        setting = known.get(variable)
        if setting is None:
            raise CommandError(
                "bad_request",
                f"the environment variable {variable} is no setting{values.suggestion(variable, known)}",
                f"Unset it: names that start with CSERVICE_ are the service's own. (env -u {variable} …)",
            )
        given[setting.name] = Given(
            convert(setting, environ[variable], directory, variable), variable, directory, "environment"
        )
    return given


def from_directory(directory: str) -> dict[str, Given]:
    """Return what cluster-service.toml in *directory* says, or else [tool.cluster-service] of its pyproject.toml."""
    own = os.path.join(directory, "cluster-service.toml")
    if os.path.isfile(own):
        return from_file(own)
    project = os.path.join(directory, "pyproject.toml")
    if os.path.isfile(project):
        table = _parse(project).get("tool", {})
        table = table.get("cluster-service", {}) if isinstance(table, dict) else {}
        return _from_table(table, f"{project} [tool.cluster-service]", directory)
    return {}


def from_file(path: str, origin: str = "") -> dict[str, Given]:
    """Return what the configuration file *path* says: TOML, or JSON in the original's shape."""
    data = _parse(path, f"{origin}: " if origin else "")
    if os.path.basename(path) == "pyproject.toml":
        data = data.get("tool", {}).get("cluster-service", {})
    elif set(data) == {"cluster"}:
        data = data["cluster"]
    return _from_table(data, path, os.path.dirname(path))


def _from_table(table: Any, where: str, base: str) -> dict[str, Given]:
    if not isinstance(table, dict):
        raise CommandError("bad_request", f"{where} holds no table of settings")
    return read(table, "file", base, where)


def _parse(path: str, prefix: str = "") -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - only when there is a file

    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CommandError("bad_request", f"{prefix}{path} cannot be read: {reason}") from None
    is_json = path.endswith(".json") or text.lstrip().startswith("{")
    try:
        data = json.loads(text) if is_json else tomllib.loads(text)
    except ValueError as error:
        raise CommandError(
            "bad_request", f"{prefix}{path} is not valid {'JSON' if is_json else 'TOML'}: {error}"
        ) from None
    if not isinstance(data, dict):
        raise CommandError("bad_request", f"{prefix}{path} holds no object of settings")
    return data


def convert(setting: Setting, raw: Any, base: str, origin: str, unit: str = "s") -> Any:
    """Return *raw* as the kind that *setting* has. Raises CommandError, led by *origin*."""
    try:
        return KINDS[setting.kind](setting, raw, base, unit)
    except CommandError as error:
        raise CommandError(error.code, f"{origin}: {error.message}", error.hint) from None


def _count(_setting: Setting, raw: Any, _base: str, _unit: str) -> int | str:
    if raw == "auto":
        return "auto"
    try:
        return values.integer(raw, 0, MOST_WORKERS)
    except CommandError:
        raise CommandError(
            "bad_request", f"{raw!r} is not a number of workers: write 0 to {MOST_WORKERS}, or auto"
        ) from None


MOST_WORKERS = 1024


def _duration(setting: Setting, raw: Any, _base: str, unit: str) -> float:
    seconds = values.duration(raw, unit)
    if setting.least is not None and seconds <= 0:
        raise CommandError("bad_request", f"{raw!r} is no time at all: write 60 (seconds), 1500ms, 10s, 5m or 2h")
    return seconds


def _path(_setting: Setting, raw: Any, base: str, _unit: str) -> str:
    return os.path.abspath(os.path.join(base, os.path.expanduser(values.text(raw))))


def _paths(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    return tuple(
        _path(setting, path, base, unit)
        for path in ([raw] if isinstance(raw, str) else _words(setting, raw, base, unit))
    )


def _choice(setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    return values.choice(str(raw).lower() if isinstance(raw, bool) else raw, setting.choices)


def _words(_setting: Setting, raw: Any, _base: str, _unit: str) -> tuple[str, ...]:
    words = raw.replace(",", " ").split() if isinstance(raw, str) else raw
    if not isinstance(words, Sequence):
        raise CommandError("bad_request", f"{raw!r} is not a list of texts")
    return tuple(values.text(word) for word in words)


def _env(_setting: Setting, raw: Any, _base: str, _unit: str) -> tuple[tuple[str, str], ...]:
    if isinstance(raw, Mapping):
        pairs = [
            (str(key), str(value).lower() if isinstance(value, bool) else str(value)) for key, value in raw.items()
        ]
    else:
        pairs = []
        for item in [raw] if isinstance(raw, str) else list(raw):
            if not isinstance(item, str) or "=" not in item:
                raise CommandError("bad_request", f"{item!r} sets no variable: write NAME=VALUE")
            name, _, value = item.partition("=")
            pairs.append((name, value))
    for name, value in pairs:
        if not name or "=" in name or "\0" in name + value:
            raise CommandError("bad_request", f"{name!r} cannot be the name of a variable: write NAME=VALUE")
    return tuple(dict(pairs).items())


def _binds(setting: Setting, raw: Any, base: str, unit: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(binds.canonical(word, base) for word in _words(setting, raw, base, unit)))


def _name(_setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    return check_name(values.text(raw))


def _group(setting: Setting, raw: Any, base: str, unit: str) -> str:
    name = _name(setting, raw, base, unit)
    if name == "all":
        raise CommandError("bad_request", "a group cannot be called 'all': that means every group")
    return name


def _url_path(_setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    path = values.text(raw)
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise CommandError("bad_request", f"{raw!r} is not the path of a URL: write /health")
    return path


def _key(_setting: Setting, raw: Any, _base: str, _unit: str) -> str:
    if not isinstance(raw, str) or not raw.strip() or not raw.isprintable():
        # never the value itself: it may be a key with a slip in it
        raise CommandError("bad_request", "an access key is printable text in one line")
    return raw.strip()


KINDS: dict[str, Callable[[Setting, Any, str, str], Any]] = {
    "text": lambda _setting, raw, _base, _unit: values.text(raw),
    "words": _words,
    "count": _count,
    "integer": lambda setting, raw, _base, _unit: values.integer(raw, setting.least, setting.most),
    "duration": _duration,
    "flag": lambda _setting, raw, _base, _unit: values.flag(raw),
    "choice": _choice,
    "path": _path,
    "paths": _paths,
    "env": _env,
    "binds": _binds,
    "name": _name,
    "group": _group,
    "url_path": _url_path,
    "key": _key,
}
"""Each kind of setting: (setting, raw value, base directory, unit of a plain number) -> the value."""
