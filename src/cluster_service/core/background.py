"""Programs that put themselves into the background, and how to have them stay in the foreground. Pure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .spec import Release

FOREGROUND = {
    "nginx": "-g 'daemon off;'",
    "redis-server": "--daemonize no",
    "valkey-server": "--daemonize no",
    "httpd": "-DFOREGROUND",
    "apache2": "-DFOREGROUND",
    "gunicorn": "no --daemon",
    "uwsgi": "no --daemonize",
    "php-fpm": "--nodaemonize",
    "haproxy": "-db",
    "caddy": "caddy run, not caddy start",
    "memcached": "no -d",
}
"""A program's name -> what makes it stay in the foreground."""


def verdict(pid: int, release: Release) -> str:
    """Return what is said of a worker that has left process *pid* in the background."""
    program = os.path.basename(release.target)
    named = next((name for name in FOREGROUND if program.startswith(name)), "")
    how = FOREGROUND[named] if named else "for example nginx: daemon off;"
    return f"put itself into the background as PID {pid} and was ended there; run it in the foreground ({how})"
