"""System calls missing from Python's standard library: the only use of ctypes in the project.

Each is a thin function that raises OSError like the functions of ``os``, and knows nothing about its callers. Layouts
and numbers are those of the kernel headers named beside them, which are part of the kernel's stable interface.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


# prctl: linux/prctl.h

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38


def prctl(option: int, value: int) -> None:
    """Call ``prctl(option, value, 0, 0, 0)``."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def disconnect(descriptor: int) -> None:
    """Disconnect a socket (connect(2) with AF_UNSPEC); it stays bound."""
    nothing = ctypes.create_string_buffer(16)  # struct sockaddr: sa_family is AF_UNSPEC, 0
    _check(_libc.connect(ctypes.c_int(descriptor), nothing, ctypes.c_uint32(16)), "connect")


# System call numbers: asm/unistd.h of each machine; audit architectures: linux/audit.h


class Machine(NamedTuple):
    """Machine-specific values that a seccomp filter needs."""

    audit_arch: int
    bind: int
    listen: int
    seccomp: int


MACHINES = {
    "x86_64": Machine(audit_arch=0xC000003E, bind=49, listen=50, seccomp=317),
    "aarch64": Machine(audit_arch=0xC00000B7, bind=200, listen=201, seccomp=277),
}
MACHINE = MACHINES.get(os.uname().machine) if sys.maxsize > 1 << 32 else None

_PIDFD_GETFD = 438
_PIDFD_OPEN = 434
_PIDFD_THREAD = os.O_EXCL  # linux/pidfd.h


def pidfd_open(pid: int, *, thread: bool = False) -> int:
    """Return a descriptor for process *pid*, or for the single thread *pid* (Linux 6.9)."""
    flags = _PIDFD_THREAD if thread else 0
    return _check(_libc.syscall(_long(_PIDFD_OPEN), _long(pid), _long(flags)), f"pidfd_open {pid}")


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """Return a close-on-exec copy of *descriptor* of the process to which *pidfd* refers."""
    result = _libc.syscall(_long(_PIDFD_GETFD), _long(pidfd), _long(descriptor), _long(0))
    return _check(result, f"pidfd_getfd {descriptor}")


def _long(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)


# seccomp user notification: linux/seccomp.h, linux/filter.h, linux/bpf_common.h

_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
_FLAG_WAIT_KILLABLE_RECV = 1 << 5  # Linux 5.19: once received, only a fatal signal interrupts the system call
_RET_ALLOW = 0x7FFF0000
_RET_USER_NOTIF = 0x7FC00000

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_NR_OFFSET, _ARCH_OFFSET = 0, 4  # in struct seccomp_data

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_NOTIF = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, {nr, arch, instruction pointer, args}
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, val, error, flags
_ADDFD = struct.Struct("=QIIII")  # struct seccomp_notif_addfd: id, flags, srcfd, newfd, newfd_flags
_ID = struct.Struct("=Q")

_IOWR, _IOW = 3 << 30, 1 << 30
_NOTIF_RECV = _IOWR | _NOTIF.size << 16 | ord("!") << 8 | 0
_NOTIF_SEND = _IOWR | _RESPONSE.size << 16 | ord("!") << 8 | 1
_NOTIF_ID_VALID = _IOW | _ID.size << 16 | ord("!") << 8 | 2
_NOTIF_ADDFD = _IOW | _ADDFD.size << 16 | ord("!") << 8 | 3

_ADDFD_FLAG_SETFD = 1
_FLAG_CONTINUE = 1


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Notification(NamedTuple):
    """A system call that waits for an answer. *thread* is the id of the calling thread."""

    id: int
    thread: int
    number: int
    args: tuple[int, ...]


def bind_filter(machine: Machine) -> bytes:
    """Return a filter that sends notifications of ``bind`` and ``listen`` and allows everything else.

    Calls of another architecture (32-bit programs) have other numbers and are allowed.
    """
    instructions = (
        (_LOAD_WORD, 0, 0, _ARCH_OFFSET),
        (_JUMP_IF_EQUAL, 0, 3, machine.audit_arch),
        (_LOAD_WORD, 0, 0, _NR_OFFSET),
        (_JUMP_IF_EQUAL, 2, 0, machine.bind),
        (_JUMP_IF_EQUAL, 1, 0, machine.listen),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_RETURN, 0, 0, _RET_USER_NOTIF),
    )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions)


_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h


def attach_reuseport(sock: socket.socket, code: bytes) -> None:
    """Attach the classic BPF program *code*, which selects a socket of *sock*'s SO_REUSEPORT group per connection."""
    program = bytes(_Program(len(code) // _INSTRUCTION.size, code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def install_filter(code: bytes, machine: Machine) -> int:
    """Install the seccomp filter *code* on the calling thread, permanently, and return the notification descriptor.

    Requires CAP_SYS_ADMIN or no_new_privs (EACCES). EBUSY: the thread already has such a filter.
    """
    program = _Program(len(code) // _INSTRUCTION.size, code)
    number, mode = _long(machine.seccomp), _long(_SET_MODE_FILTER)
    for flags in (_FLAG_NEW_LISTENER | _FLAG_WAIT_KILLABLE_RECV, _FLAG_NEW_LISTENER):
        result: int = _libc.syscall(number, mode, _long(flags), ctypes.byref(program))
        if result >= 0 or ctypes.get_errno() != errno.EINVAL:
            break
    _check(result, "seccomp")
    os.set_inheritable(result, False)
    return result


def _ioctl(descriptor: int, request: int, data: bytearray) -> bytearray:
    while True:
        try:
            fcntl.ioctl(descriptor, request, data, True)
        except InterruptedError:
            continue
        return data


def notif_receive(descriptor: int) -> Notification:
    """Return the next notification. ENOENT: its thread has died. Blocks unless the descriptor is readable."""
    data = _ioctl(descriptor, _NOTIF_RECV, bytearray(_NOTIF.size))
    identity, thread, _flags, number, _arch, _instruction, *args = _NOTIF.unpack(data)
    return Notification(identity, thread, number, tuple(args))


def notif_valid(descriptor: int, identity: int) -> bool:
    """Return whether the thread still waits for the answer; if not, its id may have been reused."""
    try:
        _ioctl(descriptor, _NOTIF_ID_VALID, bytearray(_ID.pack(identity)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def notif_replace(descriptor: int, identity: int, ours: int, theirs: int, *, close_on_exec: bool) -> None:
    """Replace descriptor *theirs* of the waiting thread with our descriptor *ours*."""
    flags = os.O_CLOEXEC if close_on_exec else 0
    _ioctl(descriptor, _NOTIF_ADDFD, bytearray(_ADDFD.pack(identity, _ADDFD_FLAG_SETFD, ours, theirs, flags)))


def notif_answer(descriptor: int, identity: int, error: int = 0) -> None:
    """Make the system call return 0, or fail with errno *error*, without executing it."""
    _ioctl(descriptor, _NOTIF_SEND, bytearray(_RESPONSE.pack(identity, 0, -error, 0)))


def notif_continue(descriptor: int, identity: int) -> None:
    """Let the kernel execute the system call unchanged."""
    _ioctl(descriptor, _NOTIF_SEND, bytearray(_RESPONSE.pack(identity, 0, 0, _FLAG_CONTINUE)))


# inotify: linux/inotify.h

IN_MOVED_FROM = 0x40
IN_DELETE = 0x200
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
_IN_ONLYDIR = 0x01000000
_INOTIFY_EVENT = struct.Struct("=iIII")  # struct inotify_event: wd, mask, cookie, len, and then the name


class Change(NamedTuple):
    """One inotify event: its *watch*, *mask*, and the *name* of the directory entry."""

    watch: int
    mask: int
    name: bytes


def inotify_open() -> int:
    """Return a non-blocking inotify descriptor."""
    return _check(_libc.inotify_init1(ctypes.c_int(os.O_CLOEXEC | os.O_NONBLOCK)), "inotify_init1")


def inotify_watch(descriptor: int, directory: bytes) -> int:
    """Watch *directory* for removed or renamed entries. Watching it twice returns the same number."""
    mask = ctypes.c_uint32(IN_MOVED_FROM | IN_DELETE | _IN_ONLYDIR)
    return _check(_libc.inotify_add_watch(ctypes.c_int(descriptor), ctypes.c_char_p(directory), mask), "inotify")


def inotify_unwatch(descriptor: int, watch: int) -> None:
    """Undo ``inotify_watch``; do nothing if the directory is already gone."""
    _libc.inotify_rm_watch(ctypes.c_int(descriptor), ctypes.c_int(watch))


def inotify_read(descriptor: int) -> list[Change]:
    """Return the changes since the last call."""
    try:
        data = os.read(descriptor, 64 * 1024)
    except BlockingIOError:
        return []
    changes, offset = [], 0
    while offset < len(data):
        watch, mask, _cookie, length = _INOTIFY_EVENT.unpack_from(data, offset)
        offset += _INOTIFY_EVENT.size
        changes.append(Change(watch, mask, data[offset : offset + length].rstrip(b"\0")))
        offset += length
    return changes


# Memory files: memfd_create(2) itself is in os


def memory_file(name: str, content: bytes) -> int:
    """Return a close-on-exec descriptor for an anonymous file with *content*, at its start. Raises OSError."""
    descriptor = os.memfd_create(name)
    try:
        written = 0
        while written < len(content):
            written += os.pwrite(descriptor, content[written:], written)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_memory_file(descriptor: int) -> bytes:
    """Return the complete content of *descriptor*, regardless of its position, and close it."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


_M_TRIM_THRESHOLD, _M_TOP_PAD = -1, -2  # malloc.h
_KEPT_BYTES = 4096


def release_memory() -> None:
    """Return memory freed after imports and startup to the system, where the C library supports it (glibc).

    Also keep little of the memory that is freed from now on.
    """
    if hasattr(_libc, "malloc_trim"):
        for parameter in (_M_TRIM_THRESHOLD, _M_TOP_PAD):
            _libc.mallopt(ctypes.c_int(parameter), ctypes.c_int(_KEPT_BYTES))
        _libc.malloc_trim(ctypes.c_size_t(0))
