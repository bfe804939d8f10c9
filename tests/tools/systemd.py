"""A systemd of the test's own: process 1 of new namespaces, with a control group and units of its own.

It shares the network with us, and the file system but for /run and /var/lib, and a /etc that cannot be written. It
knows the unit files in ``directory`` and nothing else of the machine, and goes with everything that it has started when
it is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest

from tests.tools import opened
from tests.tools.manager import Manager
from tests.tools.processes import children_of

DEADLINE = 60.0
PROGRAM = "/lib/systemd/systemd"

BEGIN = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
{opened}
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount --bind /etc /etc
mount -o remount,ro,bind /etc
exec env -i "PATH=$PATH" container=unshare "NOTIFY_SOCKET=$TOLD" "SYSTEMD_UNIT_PATH=$UNITS" \
    "$PROGRAM" --system --unit=default.target --log-target=console --log-level=notice
"""
NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--uts", "--ipc")
TARGETS = ("default", "sysinit", "basic", "shutdown", "network", "multi-user", "sockets")


def cgroups() -> Path | None:
    """Where the second version of control groups is mounted."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


def why_not() -> str:
    """Why there can be no systemd of our own here; empty when there can."""
    if os.geteuid() != 0:
        return "a systemd of the test's own needs root"
    missing = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if missing or not os.access(PROGRAM, os.X_OK):
        return f"not installed: {', '.join(missing) or PROGRAM}"
    place = cgroups()
    if place is None or not os.access(place, os.W_OK):
        return "there are no control groups of version 2"
    done = subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


class Systemd:
    """``with Systemd() as systemd: systemd.write("web.service", text); systemd("start", "web")``."""

    def __enter__(self) -> Self:
        reason = why_not()
        if reason:
            pytest.skip(reason)
        self.directory = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.units = self.directory / "units"
        self.units.mkdir()
        for name in TARGETS:
            self.write(f"{name}.target", f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
        place = cgroups()
        assert place is not None
        self.group = place / f"cservice-test-{os.getpid()}"
        self.group.mkdir()
        with Manager() as told, (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", f'echo $$ > "$GROUP/cgroup.procs"; exec unshare {" ".join(NAMESPACES)} sh -c "$BEGIN"'],
                env={
                    **os.environ,
                    "GROUP": str(self.group),
                    "BEGIN": BEGIN.replace("{opened}", opened.script()),
                    "TOLD": told.name,
                    "UNITS": str(self.units),
                    "PROGRAM": PROGRAM,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                told.told("READY")
            except BaseException:
                print((self.directory / "log").read_text(encoding="utf-8"))
                self.__exit__()
                raise
        (self.pid,) = children_of(self.process.pid)
        return self

    def __exit__(self, *exception: object) -> None:
        if exception and exception[0] is not None:
            for path in sorted(self.directory.rglob("*log")):
                print(f"--- {path}\n{path.read_text(encoding='utf-8')}")
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(AttributeError):
            self._wait_for_the_end()
        for path in sorted(self.group.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        self.group.rmdir()
        shutil.rmtree(self.directory)

    def _wait_for_the_end(self) -> None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        select.select([pidfd], [], [], DEADLINE)
        os.close(pidfd)

    def write(self, name: str, text: str) -> None:
        """Write a unit, or a part of one: ``web.service.d/more.conf``."""
        path = self.units / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program where systemd is."""
        inside = ["nsenter", "-t", str(self.pid), "-a", *argv]
        return subprocess.run(inside, capture_output=True, text=True, timeout=DEADLINE, check=False)

    def __call__(self, *words: str) -> str:
        """``systemctl`` with *words*, which must succeed; returns what it prints."""
        done = self.run("systemctl", *words)
        if done.returncode:
            status = self.run("systemctl", "--no-pager", "--full", "status", *words[1:]).stdout
            raise AssertionError(f"systemctl {' '.join(words)}: {done.stdout}{done.stderr}\n{status}")
        return done.stdout

    def show(self, unit: str, *names: str) -> list[str]:
        """The values of the properties *names* of *unit*."""
        found = dict(line.split("=", 1) for line in self("show", unit, "-p", ",".join(names)).splitlines())
        return [found[name] for name in names]
