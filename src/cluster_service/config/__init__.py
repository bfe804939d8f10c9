"""Arguments, environment and files -> what to start. The only place that knows file formats.

    settings(options, *, target=None, args=(), program=False, source="keywords", directory=None, environ=os.environ)
        -> Settings                       raises CommandError bad_request with a sentence; then nothing was changed
    group_settings(target, options, *, directory, taken=(), environ=os.environ)
        -> core.spec.GroupSpec            for the command ``start TARGET`` on a running service
    Settings(spec, host, port, access_key, allow_query_key, trusted_hosts, doors, run_dir, log_file, pid_file, state,
             detach, master_hang_timeout, warnings); .name, .stop_timeout, .socket, .to_json(), Settings.from_json(data)

``table``     every setting, once: its kind, default, option, other names
``values``    one function for each kind of value: durations, sizes, …
``kinds``     one function for each kind of setting
``files``     a file as it was written, and the line of each setting
``merge``     flags over environment over files; all the mistakes at once
``resolve``   what all of it comes to: Settings (``record``), of ``groups`` and ``doors``; ``shown``: where it came from
``looking``   the same for people, without making anything
``binds`` ``cpus`` ``keys`` ``targets``   what an address, "auto", a key and a target come to on this machine
``releases``  what a release comes to, at the start and for an upgrade; ``check``: whether it can be run at all
``asuser``    looking at files as the user of the workers; ``running``: running programs as that user
``probe``     runs under the workers' interpreter, with the user of the workers

The names are imported when they are first used: most commands need none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .groups import group_settings
    from .record import Settings
    from .resolve import settings

__all__ = ["Settings", "group_settings", "settings"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - part of being lazy

    return getattr(importlib.import_module(".resolve", __name__), name)
