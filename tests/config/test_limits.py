"""How limits and identities are written, and which of them this machine does not grant."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.config import grants
from cluster_service.config.precedence import read
from cluster_service.core.model.spec import ProcessLimits, Release
from cluster_service.master import launch_plan

from .asking import make, release, sentence

if TYPE_CHECKING:
    from pathlib import Path

USABLE = sorted(os.sched_getaffinity(0))
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def within(**options: Any) -> ProcessLimits:
    found = release(**options).within
    assert isinstance(found, ProcessLimits)
    return found


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"nofile": 64, "core": 0}, ("nofile=64", "core=0")),
        (["nofile=32:64", "AS=512m"], ("nofile=32:64", f"as={512 << 20}")),
        ("core=0, RLIMIT_NPROC=7", ("core=0", "nproc=7")),
        ({"cpu": "10m", "rttime": 5}, ("cpu=600", "rttime=5")),
        ({"fsize": "1g:unlimited"}, (f"fsize={1 << 30}:unlimited",)),
        ({"data": "infinity", "msgqueue": "0:64k"}, ("data=unlimited", f"msgqueue=0:{64 << 10}")),
        (["core=1", "core=0"], ("core=0",)),
    ],
)
def test_limits_are_written_in_many_ways(written: Any, found: tuple[str, ...]) -> None:
    (given,) = read({"limits": written}, "keywords", "/").values()
    assert given.value == found


def test_limits_are_added_up(tmp_path: Any) -> None:
    (tmp_path / "cluster-service.toml").write_text(
        'target = "worker.py"\nlimits = {nofile = 64, core = 0}\n[groups.web]\nlimits = {nofile = 32}\n'
    )
    (group,) = make(None, limit=["fsize=1k"]).spec.groups
    assert group.release.within.limits == ("nofile=32", "core=0", "fsize=1024")


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"umask": "27"}, "umask", "027"),
        ({"umask": "0o077"}, "umask", "077"),
        ({"umask": 0}, "umask", "000"),
        ({"nice": "5"}, "nice", 5),
        ({"oom_score_adj": 1000}, "oom_score_adj", 1000),
        ({}, "stdin", "null"),
        ({"stdin": "keep-open"}, "stdin", "keep-open"),
        ({}, "stop_signal", "TERM"),
        ({"stop_signal": "SIGTERM"}, "stop_signal", "TERM"),
        ({"cpu_affinity": USABLE[0]}, "cpu_affinity", str(USABLE[0])),
        ({"cpuAffinity": [USABLE[0], USABLE[0]]}, "cpu_affinity", str(USABLE[0])),
        ({"cpu_affinity": "Spread"}, "cpu_affinity", "spread"),
        ({"cpu_affinity": f"spread:{USABLE[-1]}"}, "cpu_affinity", f"spread:{USABLE[-1]}"),
    ],
)
def test_the_others(options: dict[str, Any], field: str, value: object) -> None:
    assert getattr(within(**options), field) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limits": {"nofil": 5}}, ("limits", "'nofil'", "did you mean 'nofile'?")),
        ({"limits": ["core"]}, ("'core' sets no limit", "nofile=65536")),
        ({"limits": {"core": "big"}}, ("core: 'big' is not a size",)),
        ({"limits": {"core": True}}, ("core", "not a size")),
        ({"limits": {"nofile": "9:8"}}, ("nofile", "soft limit 9", "hard one, 8")),
        ({"limits": {"nofile": "unlimited:8"}}, ("soft limit unlimited", "8")),
        ({"limits": {"nofile": -1}}, ("nofile", "'-1'")),
        ({"limits": {"nofile": "1:2:3"}}, ("nofile", "'2:3'")),
        ({"limits": {"as": "9999999999g"}}, ("as", "more than the kernel can count")),
        ({"limits": {"nofile": 10**15}}, ("nofile=1000000000000000 is more", "Ask for less")),
        ({"umask": "9"}, ("umask", "'9'", '"027"')),
        ({"umask": 22}, ("22", "in octal")),
        ({"umask": "1777"}, ("'1777'",)),
        ({"nice": 20}, ("nice", "from -20 to 19")),
        ({"oom_score_adj": -1001}, ("oom_score_adj", "from -1000 to 1000")),
        ({"stop_signal": "QIUT"}, ("'QIUT' is not a signal", "with or without SIG")),
        ({"stop_signal": 0}, ("0 is not a signal",)),
        ({"stop_signal": 65}, ("65 is not a signal",)),
        ({"stop_signal": True}, ("True is not a signal",)),
        ({"stop_signal": "KILL"}, ("KILL cannot be the stop signal", "every request would be cut")),
        ({"stop_signal": 19}, ("STOP cannot be the stop signal", "halts a process")),
        ({"stop_signal": "sigcont"}, ("CONT cannot be the stop signal", "continues a process")),
        ({"stop_signal": "QUIT"}, ("stop_signal", "Python target", "not by SIGQUIT", "-- python server.py")),
        ({"stdin": "tty"}, ("stdin", "null, keep-open")),
        ({"cpu_affinity": "0-"}, ("cpu_affinity", "'0-'", "spread")),
        ({"cpu_affinity": "3-1"}, ("'3-1'", "processors")),
        ({"cpu_affinity": True}, ("True",)),
        ({"cpu_affinity": "4095"}, ("no processor 4095", f"may use {USABLE[0]}")),
        ({"cpu_affinity": "spread:4095"}, ("no processor 4095",)),
        ({"user": "nosuchuser"}, ("user", "no user 'nosuchuser'", "this machine knows")),
        ({"user_group": "nosuchgroup"}, ("user_group", "nosuchgroup")),
        ({"user": "4242"}, ("4242", "not in the user database", "--user-group")),
    ],
)
def test_each_mistake_has_its_sentence(options: dict[str, Any], words: tuple[str, ...]) -> None:
    told = sentence(lambda: make(**options))
    for word in words:
        assert word in told, told


@pytest.mark.parametrize(
    ("written", "name", "number"),
    [("QUIT", "QUIT", 3), ("sigwinch", "WINCH", 28), (3, "QUIT", 3), ("10", "USR1", 10), (40, "40", 40)],
)
def test_the_stop_signal_of_a_program(written: Any, name: str, number: int) -> None:
    (given,) = read({"stop_signal": written}, "keywords", "/").values()
    assert given.value == name
    release = Release("command", "/bin/true", within=ProcessLimits(stop_signal=name))
    assert launch_plan.stop_signal(release) == number
    assert launch_plan.stop_signal(replace(release, kind="script")) == signal.SIGTERM, "after an upgrade to Python"


def test_auto_counts_the_processors_that_the_workers_may_use() -> None:
    assert make(cpu_affinity=USABLE[0]).spec.groups[0].count == 1
    assert make(cpu_affinity="spread").spec.groups[0].count == make().spec.groups[0].count


@ROOT
def test_a_number_needs_no_user(open_place: Path) -> None:
    (open_place / "worker.py").touch()
    assert within(user="4242", user_group="4243") == ProcessLimits("4242", "4243")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"user": "root"}, ("only root can run workers as somebody else",)),
        ({"user_group": "0"}, ("only root",)),
        ({"limits": {"nofile": 51}}, ("nofile=51 is more", "this user may have, which is 50", "ulimit -H")),
        ({"limits": {"nofile": "unlimited"}}, ("which is 50",)),
        ({"nice": -1}, ("only root", "-1 is below 0")),
        ({"oom_score_adj": 99}, ("only root", "99 is below 100")),
    ],
)
def test_who_is_not_root_may_not_have_everything(options: dict[str, Any], words: tuple[str, ...]) -> None:
    """In a child that is nobody, that may have fifty descriptors, and that the kernel ends sooner than others."""

    def be_nobody() -> str:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("100")
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        (wanted,) = (given := read(options, "keywords", "/")).values()
        told = sentence(lambda: grants.limits_of(given))
        assert told.startswith(wanted.origin)
        return told

    told = in_a_child(be_nobody)
    for word in words:
        assert word in told, told


def in_a_child(function: Any) -> str:
    """What *function* returns in a fork of this process; its fault, if it has one."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, function().encode())
        except BaseException as error:  # noqa: BLE001 - told by the test
            os.write(theirs, repr(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as file:
        told = file.read().decode()
    os.waitpid(pid, 0)
    return told
