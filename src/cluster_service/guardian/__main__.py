"""The programs of the guardian (``--boot-fd N NAME``) and of its log writer (``--log-writer N TITLE``).

``cservice start`` executes this program in its own process, so this is the process that the user, systemd or the
container runtime knows. NAME is only for readers of a process list. The program first repairs its initial state: closed
standard descriptors, ignored or blocked signals, stray descriptors.
"""

from __future__ import annotations

import fcntl
import os
import sys
from types import ModuleType
from typing import Any


class _LateInspect(ModuleType):
    """Placeholder for ``inspect``, which ``dataclasses`` imports, until an attribute missing here is used.

    With its own imports, ``inspect`` would take an eighth of the guardian's memory, and our records need none of it.
    """

    @staticmethod
    def get_annotations(owner: type) -> dict[str, Any]:
        """Return the annotations of a class, unevaluated."""
        return dict(vars(owner).get("__annotations__") or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop("inspect", None)
        import inspect  # the real one

        return getattr(inspect, name)


def main() -> int:
    """Run the program; return the exit code."""
    if len(sys.argv) < 3 or sys.argv[1] not in ("--boot-fd", "--log-writer") or not sys.argv[2].isdigit():
        os.write(2, b"the guardian is started by: cservice start\n")
        return 2
    if sys.version_info < (3, 14):  # annotations are evaluated lazily from 3.14 on
        sys.modules["inspect"] = _LateInspect("inspect")
    # Without site-packages (-S), locate our package by the path of this file.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    number = int(sys.argv[2])
    return _write_logs(number, *sys.argv[3:4]) if sys.argv[1] == "--log-writer" else _guard(number)


def _write_logs(control: int, title: str = "") -> int:
    from cluster_service.guardian import log_writer  # after the path is set

    _be_called(title)
    log_writer.main(control)
    return 0


def _guard(boot_fd: int) -> int:
    from cluster_service.guardian import boot_message as boots  # after the path is set
    from cluster_service.guardian import syscalls
    from cluster_service.guardian.guardian import Guardian

    descriptor = _above_standard(boot_fd)
    try:
        boot = boots.read(descriptor)
        lock = None if boot.lock_fd is None else _above_standard(boot.lock_fd)
    except (boots.BootError, OSError) as error:
        return _refuse(str(error))
    _be_called(boot.title("guardian"))
    _open_standard()
    given = len(boot.manager.sockets)
    _close_others({*range(3, 3 + given), *([] if lock is None else [lock])})
    os.chdir("/")  # the caller's directory may be a release, or be unmounted
    problem = _write_pid_file(boot.pid_file) or _try_log_file(boot.log_file)
    if problem:
        return _refuse(problem)
    guardian = Guardian(boot)
    syscalls.release_memory()
    return guardian.run()


def _be_called(title: str) -> None:
    from cluster_service.machine.process_title import Title  # after the path is set

    if title:
        Title().set(title)


def _refuse(problem: str) -> int:
    os.write(2, f"cservice: {problem}\n".encode("utf-8", "replace"))
    return 1


def _above_standard(descriptor: int) -> int:
    """Return a close-on-exec duplicate that is not 0, 1 or 2, which it may be if those were closed."""
    if descriptor > 2:
        os.set_inheritable(descriptor, False)
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _open_standard() -> None:
    for number in (0, 1, 2):
        try:
            fcntl.fcntl(number, fcntl.F_GETFD)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(number, True)


def _close_others(kept: set[int]) -> None:
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, 1 << 20)


def _write_pid_file(path: str | None) -> str:
    if path is None:
        return ""
    from cluster_service.machine import files  # after the path is set

    try:
        files.replace(path, b"%d\n" % os.getpid(), 0o644, follow=False)
    except OSError as error:
        return f"the pid file {path} cannot be written: {error.strerror}"
    return ""


def _try_log_file(path: str | None) -> str:
    if path is None:
        return ""
    from cluster_service.machine import files  # after the path is set

    try:
        os.close(files.open_for_append(path))
    except OSError as error:
        return f"the log file {path} cannot be opened: {error.strerror}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
