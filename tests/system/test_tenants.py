"""Groups of different users in one service: a hostile one gets nothing of another's sockets, and delays nobody."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.tools.ports import free_port
from tests.tools.service import Service

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

CONFIGURATION = """
[groups.victim]
target = "victim.py"
workers = 1
[groups.thief]
target = "{thief}"
args = ["{port}", "{path}"]
python = "/usr/bin/python3"
cwd = "/"
workers = 1
user = "nobody"
user_group = "65534"
depends_on = ["victim"]
"""
VICTIM = """
import os, socket, threading
os.umask(0o177)
unix = socket.socket(socket.AF_UNIX); unix.bind({path!r}); unix.listen()
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\\0tenants-{port}"); abstract.listen()
tcp = socket.socket(); tcp.bind(("0.0.0.0", {port})); tcp.listen()
def serve(sock):
    while True:
        connection, _ = sock.accept()
        connection.sendall(b"victim")
        connection.close()
for sock in (unix, abstract, tcp):
    threading.Thread(target=serve, args=(sock,)).start()
"""
THIEF = """
import socket, sys, time
import cluster_service
port, path = int(sys.argv[1]), sys.argv[2]
got = []
for address in (path, "\\0tenants-%d" % port, ("0.0.0.0", port), ("127.0.0.1", port), ("127.0.0.1", 1019)):
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        sock.bind(address)
        sock.listen()
        got.append((address, sock))
    except OSError as error:
        print("refused", error.errno, flush=True)
for _ in range(300):  # as a resolver with random source ports
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", number))
        except OSError:
            pass
print("got", [address for address, _ in got], flush=True)
cluster_service.worker_ready()
time.sleep(1000)
"""


def test_a_group_of_another_user_gets_nothing_of_a_groups_sockets(tmp_path: Path, run_dir: Path) -> None:
    run_dir.chmod(0o755)
    private, public = tmp_path / "private", run_dir / "public"
    private.mkdir(mode=0o700)
    public.mkdir(mode=0o755)
    path, port = str(private / "v.sock"), free_port()
    (tmp_path / "victim.py").write_text(VICTIM.format(path=path, port=port))
    thief = public / "thief.py"
    thief.write_text(THIEF)
    configuration = CONFIGURATION.format(thief=thief, port=port, path=path)
    (tmp_path / "cluster-service.toml").write_text(configuration)
    try:
        with Service(cwd=tmp_path) as service:
            service.until_logged("[thief.1] got []")
            assert service.log.count("[thief.1] refused") == 5
            for address in (path, b"\0tenants-%d" % port, ("127.0.0.1", port)):
                for _ in range(10):
                    with socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX) as client:
                        client.connect(address)
                        assert client.recv(100) == b"victim"
            assert len(os.listdir(f"/proc/{service.pid}/fd")) < 80, "what was closed again is held"
            assert len([each for each in service.json("info")["ports"] if "udp" in str(each)]) < 40
    finally:
        thief.unlink()
        public.rmdir()
