"""A service as process 1 of a PID namespace, in a file system that is as poor as a container's may be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.tools import opened
from tests.tools.processes import children_of
from tests.tools.service import CSERVICE, DEADLINE, Done, Service

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = Path(__file__).parent.parent / "programs"
CONFINE = str(PROGRAMS / "confine.py")
NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount")

BEGIN = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
{opened}
{poor}
exec "$@"
"""
READ_ONLY = """
{kept}
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
while read -r _ where _; do
  case "$where" in /proc*|{run_dir}*) ;; *) mount -o remount,ro,bind "$where" 2>/dev/null || true ;; esac
done < /proc/self/mounts
if touch /tmp/x /run/x /dev/shm/x /var/tmp/x / 2>/dev/null; then echo "it can be written to"; exit 99; fi
"""


def why_not() -> str:
    """Why there can be no such thing here; empty when there can."""
    if os.geteuid() != 0:
        return "namespaces of PIDs and mounts need root"
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    done = subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


class Container(Service):
    """``Service`` as process 1. *poor*: nothing can be written, but (*keep*) the run directory; *uid*: as whom;
    *seccomp*: whether that is allowed.
    """

    def __init__(
        self,
        *arguments: str,
        poor: bool = False,
        keep: bool = True,
        uid: int | None = None,
        seccomp: bool = True,
        env: Sequence[str] = (),
        name: str = "test",
        program: Sequence[str] = (CSERVICE, "start", "--name", "{name}"),
    ) -> None:
        reason = why_not()
        if reason:
            pytest.skip(reason)
        run_dir = os.environ["XDG_RUNTIME_DIR"]
        self.uid = uid
        kept = f"mount --bind '{run_dir}' '{run_dir}'" if keep else ""
        ro = READ_ONLY.format(kept=kept, run_dir=run_dir if keep else "/nowhere") if poor else ""
        confine = [*(["--uid", str(uid)] if uid is not None else []), *([] if seccomp else ["--no-seccomp"])]
        variables = [f"PATH={os.environ['PATH']}", *([f"XDG_RUNTIME_DIR={run_dir}"] if keep else []), *env]
        script = BEGIN.format(opened=opened.script(), poor=ro)
        command = ["unshare", *NAMESPACES, "sh", "-c", script, "sh", "env", "-i", *variables, sys.executable, CONFINE]
        command += [*confine, "--", *program]
        super().__init__(*arguments, name=name, command=command, cwd=PROGRAMS)

    def __enter__(self) -> Self:
        """Start it."""
        if self.uid is not None:
            os.chown(os.environ["XDG_RUNTIME_DIR"], self.uid, 0)
            (Path(os.environ["XDG_RUNTIME_DIR"]) / "cluster-service").mkdir(mode=0o700)
            os.chown(Path(os.environ["XDG_RUNTIME_DIR"]) / "cluster-service", self.uid, 0)
        return super().__enter__()

    @property
    def pid(self) -> int:
        """The guardian's pid, as it is outside."""
        return next(iter(children_of(self.process.pid)), self.process.pid)

    def signal(self, number: int) -> None:
        """Send process 1 a signal, as the engine does: from outside."""
        os.kill(self.pid, number)

    def cli(self, *arguments: str, stdin: str = "") -> Done:
        """Give it a command, as ``docker exec`` does: from within, and as the same user."""
        run_dir = f"XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}"
        user = ["setpriv", f"--reuid={self.uid or 0}", "--regid=0", "--clear-groups"]
        argv = ["nsenter", "-t", str(self.pid), "-p", "-m", *user, "env", "-i", run_dir, CSERVICE, "--name", self.name]
        done = subprocess.run(
            [*argv, *arguments], input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def stop(self) -> int:
        """Ask it by SIGTERM to end; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()
