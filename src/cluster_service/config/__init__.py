"""Configuration: from arguments, environment and files to what is started. Only this package knows file formats.

    settings(options, *, target=None, args=(), program=False, source="keywords", directory=None, environ=os.environ)
        -> Settings                       raises CommandError bad_request; then nothing was changed
    group_settings(target, options, *, directory, taken=(), environ=os.environ)
        -> core.spec.GroupSpec            for the command ``start TARGET`` on a running service
    Settings(spec, host, port, access_key, allow_query_key, trusted_hosts, doors, run_dir, log_file, pid_file, state,
             detach, master_hang_timeout, warnings, …); .name, .stop_timeout, .socket, .to_json(), .from_json(data)

``table``     every setting: its kind, default, option and aliases
``values``    parsers of plain values: durations, sizes, …
``kinds``     parsers of the kinds of setting
``files``     configuration files, with the line of each setting
``merge``     precedence: flags over environment over files; reports all mistakes at once
``resolve``   builds Settings (``record``) with ``groups`` and ``doors``; ``shown``: the origin of each value
``looking``   ``cservice config``: the same without creating anything
``binds`` ``cpus`` ``keys`` ``targets``   resolve an address, "auto", a key and a target on this machine
``releases``  resolves a release, at the start and for an upgrade; ``check``: checks if it can run at all
``asuser``    examines files as the user of the workers; ``running``: runs programs as that user
``probe``     runs under the interpreter and user of the workers

Names are imported on first use, because most commands need none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .groups import group_settings
    from .resolve import settings
    from .service_config import Settings

__all__ = ["Settings", "group_settings", "settings"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # imported lazily

    return getattr(importlib.import_module(".resolve", __name__), name)
