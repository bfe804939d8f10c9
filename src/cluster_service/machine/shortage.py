"""What the system has too little of, and what can be done about it: sentences for those who have to find out."""

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
"""By the number of the error. They go by themselves when there is enough again."""

NO_PROCESS = (
    "the system refuses another process (raise RLIMIT_NPROC of this user, pids.max of its control group, or"
    " kernel.pid_max)"
)
"""What EAGAIN means where it comes from fork(2)."""

NO_THREAD = (
    "the system refuses another thread (raise RLIMIT_NPROC of this user, pids.max of its control group, or the limit of"
    " memory)"
)
"""What Python's ``RuntimeError: can't start new thread`` means."""


def is_one(error: BaseException) -> bool:
    """Whether *error* says that there is too little of something, and the same may go well later."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SENTENCES)


def explain(error: BaseException) -> str:
    """Return the sentence for *error*; for one that is no shortage, the system's own words."""
    if isinstance(error, MemoryError):
        return SENTENCES[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return NO_THREAD
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    return SENTENCES.get(error.errno or 0) or error.strerror or str(error)
