"""Configuration: from arguments, environment and files to what is started. Only this package knows file formats.

    settings(options, *, target=None, args=(), program=False, source="keywords", directory=None, environ=os.environ)
        -> Settings                       raises CommandError bad_request; then nothing was changed
    group_settings(target, options, *, directory, taken=(), environ=os.environ)
        -> core.model.spec.GroupSpec            for the command ``start TARGET`` on a running service
    Settings(spec, host, port, access_key, allow_query_key, trusted_hosts, doors, run_dir, log_file, pid_file, state,
             detach, master_hang_timeout, warnings, …); .name, .stop_timeout, .socket, .to_json(), .from_json(data)

``settings_table``     every setting: its kind, default, option and aliases; ``worker_settings``: those of a group
``setting_values``     parsers of plain values; ``parsers``: of the kinds of setting; ``foreign_settings``: other names
``config_files``       configuration files, with the line of each setting; ``environment_files``
``precedence``         flags over environment over files; reports all mistakes together
``resolve``            builds the settings of a service: ``service_config``, ``groups``, ``endpoint_config``,
                       ``credentials``, ``grants``
``releases``           resolves a release, at the start and for an upgrade; ``targets``: what a target is
``as_user``            examines files as the user of the workers; ``user_programs``: runs programs as that user
``interpreter_probe``  runs ``target_probe`` under the interpreter and user of the workers

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
