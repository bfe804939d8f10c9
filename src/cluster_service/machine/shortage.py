"""Explanations of resource shortages: what the system has run out of, and what to do about it."""

from __future__ import annotations

import errno

SENTENCES = {
    errno.EMFILE: "the process has no descriptor left (raise RLIMIT_NOFILE: ulimit -n, or LimitNOFILE= of systemd)",
    errno.ENFILE: "the machine has no descriptor left (raise fs.file-max, or end what holds so many)",
    errno.ETOOMANYREFS: "this user has too many descriptors on their way between processes (raise RLIMIT_NOFILE)",
    errno.ENOMEM: "there is no memory left (raise the limit of the service, or end what uses so much)",
    errno.ENOSPC: "the disk is full (make room on it)",
    errno.EDQUOT: "the quota of the disk is used up (make room on it)",
}
"""errno -> explanation. These errors disappear when the resource is available again."""

NO_PROCESS = (
    "the system refuses another process (raise RLIMIT_NPROC of this user, pids.max of its control group, or"
    " kernel.pid_max)"
)
"""The meaning of EAGAIN from fork(2)."""

NO_THREAD = (
    "the system refuses another thread (raise RLIMIT_NPROC of this user, pids.max of its control group, or the limit of"
    " memory)"
)
"""The meaning of Python's ``RuntimeError: can't start new thread``."""


def is_one(error: BaseException) -> bool:
    """Return True if *error* reports a shortage, so that a retry may succeed later."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SENTENCES)


def explain(error: BaseException) -> str:
    """Return the explanation of *error*; if it is not a shortage, its own text."""
    if isinstance(error, MemoryError):
        return SENTENCES[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return NO_THREAD
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    return SENTENCES.get(error.errno or 0) or error.strerror or str(error)
