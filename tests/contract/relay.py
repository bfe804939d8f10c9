"""A master that is none: it hands its stream to the guardian, and its boot file, to the test, and waits for the test
to hang up.

``python -I -S relay.py ADDRESS``: the abstract Unix socket where the test waits.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    stream, boot = int(os.environ["CSERVICE_GUARDIAN_FD"]), int(os.environ["CSERVICE_BOOT_FD"])
    with socket.socket(socket.AF_UNIX) as test:
        test.connect("\0" + sys.argv[1])
        socket.send_fds(test, [str(os.getpid()).encode()], [stream, boot])
        os.close(stream)
        os.close(boot)
        test.recv(1)


if __name__ == "__main__":
    main()
