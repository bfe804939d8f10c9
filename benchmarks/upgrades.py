"""Consecutive upgrades under load: python -m benchmarks.upgrades [app|script] [--import-seconds S] [--times N].

Two kinds of clients send 200 requests per second each: with one connection per request, and with persistent
connections. The result is the number of failed requests, and the longest request beside the lag of the load generator.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from tests.tools import releases
from tests.tools.load import Load
from tests.tools.ports import free_port
from tests.tools.service import Service

RATE = 200
"""Requests per second of each kind of client."""


def main() -> None:
    """Upgrade back and forth and print the results of the requests."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upgrades", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=sorted(releases.FILES), default="app")
    parser.add_argument("--import-seconds", type=float, default=0.0, help="how long the program takes to import")
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cs-") as directory:
        os.environ["XDG_RUNTIME_DIR"] = directory
        place = Path(directory)
        head = f"import time; time.sleep({given.import_seconds})" if given.import_seconds else ""
        folders = [releases.write(place / version, version, given.kind, head=head) for version in ("v1", "v2")]
        for line in run(given.kind, folders, given.times):
            print(line)


def run(kind: str, folders: list[Path], times: int) -> list[str]:
    """Return a line for each kind of client."""
    port = free_port()
    more = ["--bind", f"127.0.0.1:{port}"] if kind == "app" else []
    arguments = [str(port)] if kind == "script" else []
    start = ["-w", "2", "--ready-after", "60s", *more, *releases.target(folders[0], kind), *arguments]
    with Service(*start, cwd=folders[0]) as service:
        service.serving(2)
        url = f"http://127.0.0.1:{port}/"
        with Load(url, rate=RATE, mode="new") as fresh, Load(url, rate=RATE, mode="keepalive") as kept:
            for turn in range(1, times + 1):
                folder = folders[turn % 2]
                where = ["--cwd", str(folder), "--monitor", "500ms"]
                done = service.cli("upgrade", "all", *releases.target(folder, kind), *where)
                if done.code:
                    raise SystemExit(done.err)
            return [f"new connections: {fresh.finish()}", f"kept connections: {kept.finish()}"]


if __name__ == "__main__":
    main()
