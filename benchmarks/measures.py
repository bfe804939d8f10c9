"""The measurements. Each yields complete rows of the table.

Rounds alternate between this service and the program it is compared with, so that a slower machine slows both. Each
figure is the median.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import client
from tests.tools import ask
from tests.tools.ports import free_port
from tests.tools.processes import children_of, descendants, memory
from tests.tools.service import CSERVICE, PYTHON, Service, UnixConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = Path(PYTHON).parent


class Rounds(NamedTuple):
    """Amount of work of a measurement."""

    repeat: int
    seconds: float
    """Seconds of load in one round."""
    idle: float
    """Seconds for which idle processes are observed."""


FULL = Rounds(5, 5.0, 20.0)
QUICK = Rounds(1, 1.0, 3.0)


def line(what: str, ours: str, other: str, ratio: float | None) -> str:
    """Return one row of the table."""
    return f"| {what} | {ours} | {other} | {'–' if ratio is None else f'{ratio:.2f}'} |"


# throughput


@contextlib.contextmanager
def own_manager(port: int, *command: str) -> Iterator[int]:
    """Run a server with its own process manager and yield its pid once it responds.

    As with our service, its output goes to a file and it has its own session (the kernel schedules the CPU by session).
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=EXAMPLES, stdout=log, stderr=log, start_new_session=True)
        try:
            until_answered(port, process)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


def until_answered(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return as soon as *port* responds."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            ask.http(("127.0.0.1", port))
            return
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} ended with {process.returncode}")


@contextlib.contextmanager
def served(*arguments: str, count: int) -> Iterator[Service]:
    """Run our service with *count* workers, all serving."""
    with tempfile.TemporaryDirectory() as directory:
        options = ("-w", str(count), "--log-file", f"{directory}/log")
        with Service(*options, *arguments, cwd=EXAMPLES) as service:
            service.serving(count)
            yield service


class Case(NamedTuple):
    """One comparison of throughput. ``PORT`` is replaced by the port."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    arrival: client.Arrival = "spread"


QUIET = str(Path(__file__).parent / "quiet_uvicorn.py")
UVICORN = ("uvicorn", "asgi_app:app", "--workers", "2", "--port", "PORT")
GRANIAN = ("granian", "asgi_app:app", "--workers", "2", "--port", "PORT", "--interface", "asgi")
APP = ("--bind", "127.0.0.1:PORT", "asgi_app:app")

CASES = {
    "uvicorn, no access log": Case(("--env", "PORT=PORT", QUIET), (*UVICORN, "--no-access-log")),
    "uvicorn, access log": Case(APP, UVICORN),
    "granian": Case(("--server", "granian", *APP), GRANIAN),
    "granian, all connections at once": Case(("--server", "granian", *APP), GRANIAN, "burst"),
}


class Figure(NamedTuple):
    """Result of one round."""

    rate: float
    """Requests per second."""
    cost: float
    """Seconds of CPU time per request, of all processes of the service together."""


def measured(root: int, port: int, seconds: float, arrival: client.Arrival) -> Figure:
    """Measure the service whose first process is *root* under load."""
    pids = [root, *descendants(root)]
    before = sum(processor(pid) for pid in pids)
    rate = client.throughput(port, seconds, arrival)
    return Figure(rate, (sum(processor(pid) for pid in pids) - before) / (rate * seconds))


def throughput(rounds: Rounds) -> Iterator[str]:
    """Measure rate and CPU time per request of an app on two workers, against the server's own process manager."""
    port = free_port()
    for name, case in CASES.items():
        ours = [part if part == "PORT=PORT" else part.replace("PORT", str(port)) for part in case.ours]
        ours = [f"PORT={port}" if part == "PORT=PORT" else part for part in ours]
        program, *options = (part.replace("PORT", str(port)) for part in case.theirs)
        pairs: list[tuple[Figure, Figure]] = []
        for _ in range(rounds.repeat):
            with served(*ours, count=2) as service:
                one = measured(service.pid, port, rounds.seconds, case.arrival)
            with own_manager(port, str(SCRIPTS / program), *options) as pid:
                pairs.append((one, measured(pid, port, rounds.seconds, case.arrival)))
        yield line(
            f"{name}, 2 workers: requests/s",
            f"{statistics.median(one.rate for one, _ in pairs):,.0f}",
            f"`{program} --workers 2`: {statistics.median(other.rate for _, other in pairs):,.0f}",
            statistics.median(one.rate / other.rate for one, other in pairs),
        )
        yield line(
            f"{name}, 2 workers: CPU time per request",
            f"{statistics.median(one.cost for one, _ in pairs) * 1e6:.0f} µs",
            f"`{program} --workers 2`: {statistics.median(other.cost for _, other in pairs) * 1e6:.0f} µs",
            statistics.median(one.cost / other.cost for one, other in pairs),
        )


# start and replacement


def alone(port: int) -> float:
    """Return the seconds from the start of the example program, without a service, to its first response."""
    start = time.perf_counter()
    environment = {**os.environ, "PORT": str(port)}
    with subprocess.Popen(
        [PYTHON, "http_server.py"], cwd=EXAMPLES, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        until_answered(port, process)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def starting(rounds: Rounds) -> Iterator[str]:
    """Measure the time until eight workers serve, and from a worker's death until its successor serves."""
    port = free_port()
    single, eight, replaced = [], [], []
    for _ in range(rounds.repeat):
        single.append(alone(port))
        start = time.perf_counter()
        with served("--env", f"PORT={port}", "http_server.py", count=8) as service:
            eight.append(time.perf_counter() - start)
            victim = service.serving(8)[0]
            killed = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            service.until_event("worker_ready", 9)
            replaced.append(time.perf_counter() - killed)
    floor = statistics.median(single)
    floor_text = f"the program alone, until its first response: {floor:.2f} s"
    measured = {"start to 8 of 8 serving": eight, "SIGKILL of a worker to its successor serving": replaced}
    for what, figures in measured.items():
        median = statistics.median(figures)
        yield line(what, f"{median:.2f} s", floor_text, median / floor)


# overhead


def processor(pid: int) -> float:
    """Return the seconds of CPU time used by *pid* itself, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def overhead(rounds: Rounds) -> Iterator[str]:
    """Measure memory and idle CPU use of guardian and master with eight workers."""
    sleeper = subprocess.Popen([PYTHON, "-c", "import signal; signal.pause()"])
    port = free_port()
    try:
        with served("--env", f"PORT={port}", "http_server.py", count=8) as service:
            master = service.json("info")["master_pid"]
            others = [pid for pid in children_of(service.pid) if pid != master and pid not in service.serving(8)]
            before = {pid: processor(pid) for pid in (service.pid, master, *others)}
            time.sleep(rounds.idle)
            bare = memory(sleeper.pid)
            names = {service.pid: "guardian", master: "master"} | dict.fromkeys(others, "log writer")
            for pid, name in names.items():
                size = memory(pid)
                idle = (processor(pid) - before[pid]) / rounds.idle
                yield line(
                    f"{name}, 8 workers: resident memory",
                    f"{size / 2**20:.1f} MiB",
                    f"an idle Python process: {bare / 2**20:.1f} MiB",
                    size / bare,
                )
                yield line(f"{name}, 8 workers: idle CPU use", f"{idle * 100:.2f} % of a core", "–", None)
    finally:
        sleeper.kill()
        sleeper.wait()


def whole_tree(service: Service, master: int) -> float:
    """Return the seconds of CPU time used by the processes of the service, including those that have exited."""
    total = 0.0
    for pid in {service.pid, master, *children_of(service.pid)}:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks = sum(int(field) for field in fields[11:15]) if pid == service.pid else sum(map(int, fields[11:13]))
            total += ticks / os.sysconf("SC_CLK_TCK")
    return total


def crash_loop(rounds: Rounds) -> Iterator[str]:
    """Measure the CPU time of eight workers that fail at import, against eight that sleep."""
    seconds = max(rounds.idle, 3.0)
    figures = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, source in {"failing": "import nosuch_module", "sleeping": "import signal; signal.pause()"}.items():
            (Path(directory) / f"{name}.py").write_text(source, encoding="utf-8")
            with Service("-w", "8", f"{name}.py", cwd=Path(directory)) as service:
                service.until_event("worker_start", 8)
                master = service.json("info")["master_pid"]
                time.sleep(seconds)
                figures[name] = whole_tree(service, master)
                spawns = sum(event["type"] == "worker_start" for event in service.events)
                if name == "failing":
                    tries = spawns
    yield line(
        f"8 workers that fail at import, {seconds:.0f} s: CPU time",
        f"{figures['failing']:.2f} s ({tries} starts)",
        f"8 that sleep, started once: {figures['sleeping']:.2f} s",
        figures["failing"] / figures["sleeping"],
    )


# commands


def timed(*command: str) -> float:
    """Return the seconds that *command* takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def commands(rounds: Rounds) -> Iterator[str]:
    """Measure ``cservice workers --json``, and the time until a killed master's successor responds."""
    port = free_port()
    with served("--env", f"PORT={port}", "http_server.py", count=2) as service:
        ours, floor = [], []
        for _ in range(rounds.repeat * 6):
            ours.append(timed(CSERVICE, "--name", service.name, "workers", "--json"))
            floor.append(timed(PYTHON, "-c", "import click, http.client"))
        ratio = statistics.median(ours) / statistics.median(floor)
        yield line(
            "`cservice workers --json`",
            f"{statistics.median(ours) * 1000:.0f} ms",
            f'`python -c "import click, http.client"`: {statistics.median(floor) * 1000:.0f} ms',
            ratio,
        )
        gaps = [answered_after_death(service) for _ in range(rounds.repeat)]
        yield line("SIGKILL of the master to the first response", f"{statistics.median(gaps):.2f} s", "–", None)


def answered_after_death(service: Service) -> float:
    """Kill the master; return the seconds until its successor responds."""
    master = service.json("info")["master_pid"]
    start = time.perf_counter()
    os.kill(master, signal.SIGKILL)
    while True:
        connection = UnixConnection(service.door)
        try:
            connection.request("GET", "/api/v1/workers")
            if connection.getresponse().status == 200:
                return time.perf_counter() - start
        except (OSError, http.client.HTTPException):
            continue  # the dead master had accepted the connection
        finally:
            connection.close()


ALL: dict[str, Callable[[Rounds], Iterator[str]]] = {
    "throughput": throughput,
    "starting": starting,
    "overhead": overhead,
    "crash-loop": crash_loop,
    "commands": commands,
}
"""Maps a name to its measurement, in the order of execution."""

if __name__ == "__main__":
    sys.exit("run: python -m benchmarks")
