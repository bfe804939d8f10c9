"""User identities, how a process takes one, and the capabilities of this process, see capabilities(7)."""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

CAP_NET_BIND_SERVICE = 10
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21
CAP_SYS_NICE = 23
CAP_SYS_RESOURCE = 24


def has(number: int) -> bool:
    """Return True if this process has capability *number* in its effective set."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


PR_SET_NO_NEW_PRIVS = 38


class Unknown(Exception):
    """There is no such user or group, or this process cannot switch to it. The text is for the operator."""


class Identity(NamedTuple):
    """A user, its primary group, and the account that determines its supplementary groups (None: it has none)."""

    uid: int
    gid: int
    name: str | None = None

    @property
    def user_id(self) -> int:
        """The effective uid; for ``OWN`` that of this process."""
        return os.geteuid() if self.uid < 0 else self.uid

    def groups(self) -> list[int]:
        """Return the supplementary groups."""
        return os.getgrouplist(self.name, self.gid) if self.name is not None else []


OWN = Identity(-1, -1)
"""The current identity of this process: nothing is changed."""


def of(user: str | None, group: str | None) -> Identity:
    """Return the identity in the settings ``user`` and ``user_group``. Raises Unknown."""
    if user is None and group is None:
        return OWN
    import grp  # rarely needed, and the guardian must stay small
    import pwd

    uid, gid, name = os.getuid(), os.getgid(), None
    if user is not None:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        except (KeyError, OverflowError):
            if not user.isdecimal():
                raise Unknown(f"there is no user {user} on this machine") from None
            if group is None:
                raise Unknown(f"user {user} is not in the user database: name a group too") from None
            uid = int(user)
    if group is not None:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise Unknown(f"there is no group {group} on this machine") from None
    if os.geteuid() == 0:
        return Identity(uid, gid, name)
    if (uid, gid) != (os.getuid(), os.getgid()):
        raise Unknown(f"workers can run as user {user or uid} only when the service is started by root")
    return OWN


def become(identity: Identity) -> None:
    """Change the groups, gid and uid of this process permanently. Raises OSError."""
    if identity == OWN:
        return
    if identity.name is None:
        os.setgroups([])
    else:
        os.initgroups(identity.name, identity.gid)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)


def forbid_new_privileges() -> None:
    """Set no_new_privs: nothing that this process executes gains privileges, e.g. by setuid files. Raises OSError."""
    zero = ctypes.c_ulong(0)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl PR_SET_NO_NEW_PRIVS")


def variables(user: str | None) -> dict[str, str]:
    """Return HOME, USER and LOGNAME of the account *user*; empty if it is None or unknown, or we are not root."""
    if user is None or os.geteuid() != 0:
        return {}
    import pwd  # rarely needed

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return {}
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
