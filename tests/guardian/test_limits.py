"""What the kernel knows of real workers: limits, priority, processors, users; and of the guardian itself."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.guardian.process_limits import NAMES, PROTECTED
from cluster_service.machine.identity import CAP_SYS_RESOURCE, has
from cluster_service.wire import facts, orders
from tests.tools.processes import children_of, log_writer_of
from tests.tools.shortage import size_of

from .puppet import Puppet
from .test_spawn import spawn

if TYPE_CHECKING:
    from tests.contract.real import RealKernel

    from .conftest import Start

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
USABLE = sorted(os.sched_getaffinity(0))
PYTHON = "/usr/bin/python3"


def status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def limit(pid: int, name: str) -> list[str]:
    text = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()[:2]


def oom(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


LIMITS: dict[str, Any] = {
    "umask": 0o027,
    "rlimits": {"NOFILE": [64, 128], "CORE": [0, 0], "AS": [1 << 33, 1 << 33], "FSIZE": [1 << 20, -1]},
    "nice": 7,
    "cpus": USABLE[-1:],
    "oom_score_adj": 321,
}


def check_limits(pid: int) -> None:
    assert status(pid)["Umask"] == "0027"
    assert status(pid)["Cpus_allowed_list"] == str(USABLE[-1])
    assert limit(pid, "Max open files") == ["64", "128"]
    assert limit(pid, "Max core file size") == ["0", "0"]
    assert limit(pid, "Max address space") == [str(1 << 33)] * 2
    assert limit(pid, "Max file size") == [str(1 << 20), "unlimited"]
    assert os.getpriority(os.PRIO_PROCESS, pid) == 7
    assert oom(pid) == 321


@pytest.mark.parametrize("share", ["none", "seccomp"])
def test_a_worker_gets_what_was_ordered_and_the_next_one_nothing_of_it(kernel: RealKernel, share: str) -> None:
    check_limits(Puppet(kernel, 1, share=share, **LIMITS).pid)
    plain, own = Puppet(kernel, 2, share=share).pid, os.getpid()
    assert status(plain)["Umask"] == status(own)["Umask"]
    assert status(plain)["Cpus_allowed_list"] == status(own)["Cpus_allowed_list"]
    assert limit(plain, "Max open files") == limit(own, "Max open files")
    assert os.getpriority(os.PRIO_PROCESS, plain) == os.getpriority(os.PRIO_PROCESS, own)


@ROOT
def test_they_hold_for_another_user_too(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1, python=PYTHON, user="nobody", **LIMITS)
    check_limits(puppet.pid)
    assert status(puppet.pid)["Uid"].split() == ["65534"] * 4
    assert puppet.do("result = [os.getuid(), os.getgid(), os.getgroups()]") == [65534, 65534, [65534]]


@ROOT
def test_a_service_of_an_ordinary_user_gives_its_workers_less_and_not_more(start: Start, run_dir: Path) -> None:
    run_dir.chmod(0o755)

    def become_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))

    kernel = start(prepare=become_nobody, python=PYTHON)
    check_limits(Puppet(kernel, 1, python=PYTHON, **LIMITS).pid)
    spawn(kernel, ["/bin/true"], rlimits={"NOFILE": [100, 201]})
    error = kernel.fact(facts.SpawnFailed).error
    assert "the limit nofile=100:201 cannot be set" in error
    assert "it may be at most 200 here" in error
    # What is only a wish costs a word, which goes where the worker's own errors go.
    Puppet(kernel, 3, python=PYTHON, nice=-5, oom_score_adj=-500)
    for word in ("nice -5 is not to be had", "oom_score_adj -500 is not to be had"):
        assert kernel.wrote(word)


def test_processors_that_are_gone_cost_a_word(kernel: RealKernel) -> None:
    puppet = Puppet(kernel, 1, cpus=[4000])
    assert kernel.wrote("cpu_affinity 4000 is not to be had (Invalid argument): the worker runs without")
    assert status(puppet.pid)["Cpus_allowed_list"] == status(os.getpid())["Cpus_allowed_list"]


def test_a_limit_that_this_system_has_not(kernel: RealKernel) -> None:
    spawn(kernel, ["/bin/true"], rlimits={"PATIENCE": [1, 1]})
    assert kernel.fact(facts.SpawnFailed).error == "this system has no limit patience"


def test_the_guardian_is_spared_where_it_may_and_nobody_inherits_that(start: Start) -> None:
    def be_expendable() -> None:
        Path("/proc/self/oom_score_adj").write_text("150", encoding="ascii")

    kernel = start(prepare=be_expendable)
    puppet = Puppet(kernel, 1)
    guardian = kernel.process.pid
    assert oom(guardian) == (PROTECTED if has(CAP_SYS_RESOURCE) else 150)
    others = [pid for pid in children_of(guardian) if pid != puppet.pid]
    assert len(others) == 3  # the master, the log writer and the cleaner
    assert [oom(pid) for pid in (puppet.pid, *others)] == [150] * 4


LOWERED = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_DATA: 1 << 30,
    resource.RLIMIT_FSIZE: 1 << 20,
    resource.RLIMIT_NOFILE: 200,
    resource.RLIMIT_STACK: 1 << 18,
}


def limits_of(pid: int) -> dict[int, tuple[int, int]]:
    return {number: resource.prlimit(pid, number) for number in NAMES}


def lower(pid: int) -> None:
    """Set limits on process *pid*, as prlimit(1) does; a process that inherits them can start no thread."""
    for number, limit in {**LOWERED, resource.RLIMIT_AS: size_of(pid) + (4 << 20)}.items():
        resource.prlimit(pid, number, (limit, limit if has(CAP_SYS_RESOURCE) else resource.prlimit(pid, number)[1]))


@pytest.mark.parametrize("share", ["none", "seccomp"])
def test_no_process_inherits_a_limit_that_was_set_on_the_guardian(start: Start, share: str) -> None:
    own = limits_of(os.getpid())
    kernel = start()
    guardian = kernel.process.pid
    before = set(children_of(guardian))
    lower(guardian)
    puppet = Puppet(kernel, 1, share=share)
    puppet.do("t = threading.Thread(target=bool); t.start(); t.join()")
    if share == "seccomp":
        puppet.do("tcp('127.0.0.1', 0)")  # which starts the helper
    kernel.restart_master()
    started = set(children_of(guardian)) - before
    assert puppet.pid in started
    assert kernel.master_pid in started
    helpers = started - {puppet.pid, kernel.master_pid}
    assert len(helpers) == 1 if share == "seccomp" else len(helpers) <= 1  # the exit of the master may start it too
    descriptors = {resource.RLIMIT_NOFILE: (own[resource.RLIMIT_NOFILE][1],) * 2}
    for pid in started:
        helper = pid not in (puppet.pid, kernel.master_pid)
        assert limits_of(pid) == {**own, **(descriptors if helper else {})}


def test_a_limit_that_was_ordered_counts_whatever_the_guardian_has(kernel: RealKernel) -> None:
    lower(kernel.process.pid)
    check_limits(Puppet(kernel, 1, **LIMITS).pid)


@ROOT
def test_where_a_hard_limit_may_not_be_raised_again_a_worker_gets_what_is_left(start: Start, run_dir: Path) -> None:
    run_dir.chmod(0o755)

    def become_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)

    kernel = start(prepare=become_nobody, python=PYTHON)
    low = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 1 << 20}
    code = (
        f"import resource\nfor each in {low}.items(): resource.prlimit({kernel.process.pid}, each[0], (each[1],) * 2)"
    )
    subprocess.run([PYTHON, "-c", code], check=True, user=65534, group=65534)
    puppet = Puppet(kernel, 1, python=PYTHON, share="none")
    found = puppet.do(f"import resource; result = [[each, resource.getrlimit(each)] for each in {[*NAMES]}]")
    expected = {**limits_of(os.getpid()), **{number: (limit, limit) for number, limit in low.items()}}
    assert {number: tuple(pair) for number, pair in found} == expected


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


@pytest.mark.parametrize("shown", [True, False])
def test_the_guardian_and_its_log_writer_say_what_they_are(start: Start, shown: bool) -> None:
    kernel = start({"process_titles": shown})
    kernel.send(orders.Log("a line of the log writer"))
    assert kernel.wrote("a line of the log writer")
    writer = log_writer_of(kernel.process.pid)
    assert writer is not None
    if shown:
        assert title(kernel.process.pid) == "cservice: contract guardian"
        assert title(writer) == "cservice: contract log writer"
    else:
        assert title(kernel.process.pid).endswith("\0contract")
        assert "\0--log-writer\x003\0" in f"{title(writer)}\0"
