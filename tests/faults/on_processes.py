"""Faults of processes: they are killed, stopped, crash, hang, or cannot start."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from .subject import GROUPS
from .world import Gone

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .world import World


ACCEPTS_AGAIN = 30.0
"""Seconds. It takes some milliseconds, but the guardian may be stopped, or have no descriptor for its helper."""


def kill_worker(world: World, random: Random) -> None:
    """SIGKILL, of one or of several at once."""
    with world.hurting():
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            with contextlib.suppress(ProcessLookupError):
                world.subject.kill_worker(world.worker(random))


def stop_worker(world: World, random: Random) -> None:
    """SIGSTOP, for less than a hang."""
    with world.hurting(), world.subject.stopped_worker(world.worker(random)):
        world.last(random.uniform(0.1, 4))


def deed(name: str) -> Callable[[World, Random], None]:
    """Some worker does what its release can do."""

    def inject(world: World, random: Random) -> None:
        group = random.choice(GROUPS)
        with world.hurting(), contextlib.suppress(OSError, AssertionError):
            world.subject.deed(group, name)

    return inject


def hang(world: World, random: Random) -> None:
    """A worker's loop stands still, with or without the interpreter's lock; it must be found and replaced."""
    group, how = random.choice(GROUPS), random.choice(("hang", "freeze"))
    with world.hurting():
        seen = len(world.subject.events)
        try:
            pid = world.subject.deed(group, how)
        except (OSError, AssertionError):
            return
        exits = ("worker_exit", "master_start")
        world.subject.until(
            lambda: any(each["type"] in exits and each.get("pid", pid) == pid for each in world.subject.events[seen:]),
            f"the end of the worker that hangs ({group}, pid {pid})",
        )


def shut_down_listener(world: World, random: Random) -> None:
    """shutdown(2) of a port that workers share, as a program does that ends so; the port must accept again."""
    group = random.choice(GROUPS)
    world.last(random.uniform(0, 2))
    with world.hurting():
        try:
            shut_down = world.subject.shut_down_listener(group)
        except OSError as error:
            raise Gone(str(error)) from None
        end = time.monotonic() + ACCEPTS_AGAIN
        while time.monotonic() < end and not world.over.is_set():
            with contextlib.suppress(OSError, AssertionError):
                world.subject.deed(group, "")
                shut_down.until = time.monotonic()
                return
            world.last(0.01)
        world.story.breaks("1 requests", f"the port of {group} did not accept again within {ACCEPTS_AGAIN:g} s")


def background_child(world: World, random: Random) -> None:
    """A worker starts a process that leaves its group and ignores SIGTERM; where the worker ends, that must end."""
    group, how = random.choice(GROUPS), random.choice(("nurse", "orphan", "daemonize"))
    with world.hurting():
        try:
            pid = world.subject.deed(group, how)
        except (OSError, AssertionError):
            return
        if how == "nurse":
            return  # until the worker ends is for the checks to see
        world.subject.until(
            lambda: pid not in world.subject.worker_pids() and pid not in world.subject.background().values(),
            f"the end of what worker {pid} of {group} has put into the background ({how})",
        )


def crash_loop(world: World, random: Random) -> None:
    """No worker of a group gets beyond its start for a while; those that serve go on, but for one."""
    group = random.choice(GROUPS)
    lever = world.subject.lever(group)
    with world.hurting():
        lever.touch()
        try:
            world.subject.deed(group, random.choice(("leave", "crash")))
            world.last(random.uniform(1, 8))
        except (OSError, AssertionError) as error:
            raise Gone(str(error)) from None
        finally:
            lever.unlink(missing_ok=True)


def kill(role: str) -> Callable[[World, Random], None]:
    """SIGKILL of a part of the service."""

    def inject(world: World, _random: Random) -> None:
        if role == "master":
            world.kill_master()
        else:
            world.send(world.pid(role), signal.SIGKILL)

    return inject


def kill_master_often(world: World, random: Random) -> None:
    """As soon as there is another one it is killed too, until there is one in safe mode, perhaps."""
    for _ in range(random.randint(2, 6)):
        world.kill_master()
        world.last(random.uniform(0, 1.5))


def replace_master(world: World, _random: Random) -> None:
    """SIGUSR2: a new one takes over."""
    os.kill(world.subject.pid, signal.SIGUSR2)


def stop(role: str, longest: float) -> Callable[[World, Random], None]:
    """SIGSTOP and SIGCONT of a part of the service. *longest*: seconds."""

    def inject(world: World, random: Random) -> None:
        with world.hurting(), world.stopped(world.pid(role)):
            world.last(random.uniform(0.1, longest))

    return inject


def rotate_log(world: World, _random: Random) -> None:
    """The log file is moved away, and the guardian told."""
    log = world.subject.disk / "service.log"
    with contextlib.suppress(FileNotFoundError):
        log.rename(log.with_suffix(".old"))
    os.kill(world.subject.pid, signal.SIGUSR1)


def remove_installation(world: World, random: Random) -> None:
    """The files of the product are gone for a while, as when a deployment deletes the release that holds them."""
    installation = world.subject.installation
    away = installation.with_name("away")
    with world.short("installation"):
        installation.rename(away)
        try:
            world.last(random.uniform(0.5, 6))
        finally:
            away.rename(installation)


def close_descriptors(world: World, _random: Random) -> None:
    """A worker closes what it did not open, as daemons do, and opens files that get those numbers: nobody writes there.

    What it holds is served to its end, and so is everything that comes.
    """
    with world.hurting(), contextlib.suppress(OSError, AssertionError):
        world.subject.deed("script", "close")
