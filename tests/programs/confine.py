"""Becomes a program as a container would have it: another user, no home, perhaps no seccomp. Run as root.

confine.py [--uid N] [--no-seccomp] -- PROGRAM [ARGS ...]
"""

import ctypes
import os
import struct
import sys

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
NUMBER, FIRST = 0, 16  # in struct seccomp_data
PR_SET_SECCOMP, MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
CALLS = {"x86_64": (317, 157), "aarch64": (277, 167)}  # seccomp, prctl


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_seccomp():
    seccomp, prctl = CALLS[os.uname().machine]
    instructions = (
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 4, 0, seccomp),
        (EQUAL, 0, 2, prctl),
        (LOAD, 0, 0, FIRST),
        (EQUAL, 1, 0, PR_SET_SECCOMP),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    )
    code = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(Program(len(instructions), code)), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


split = sys.argv.index("--")
options, argv = sys.argv[1:split], sys.argv[split + 1 :]
if "--no-seccomp" in options:
    refuse_seccomp()
if "--uid" in options:
    uid = int(options[options.index("--uid") + 1])
    os.setgroups([])
    os.setgid(0)  # as OpenShift has it: any uid, group 0
    os.setuid(uid)
os.execvp(argv[0], argv)
