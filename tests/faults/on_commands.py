"""Faults that operators make, and what they rightly do meanwhile: releases good and bad, restarts, reloads."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from tests.tools.attack import Attack

from .subject import GROUPS, STOP_TIMEOUT, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .world import World

BAD = {
    "syntax error": {},
    "raises": {},
    "never ready": {"timeout": "3"},
    "exits": {},
    "hangs": {"monitor": "8"},
    "answers 500": {"monitor": "8"},
}
"""What a bad release is like → options that give it time to show."""


def restart(world: World, random: Random) -> None:
    """Of all, a group, a slot or a worker."""
    slot = f"{random.choice(GROUPS)}.{random.randint(1, WORKERS)}"
    chosen = random.choice(("all", random.choice(GROUPS), slot, "pid"))
    began = time.monotonic()
    done = world.command("restart", world.worker(random) if chosen == "pid" else chosen)
    if done is not None and done["state"] == "failed" and not world.hurt_since(began):
        world.story.breaks("2 ready-first", f"restart {chosen} failed and nobody was hurt: {done['reason']}")


def move_port(world: World, _random: Random) -> None:
    """The script's next workers listen elsewhere: none of them may take the place of one that serves."""
    lever = world.subject.lever("script", "move")
    with world.hurting():
        lever.touch()
        try:
            done = world.command("restart", "script")
        finally:
            lever.unlink(missing_ok=True)
    if done is not None and done["state"] == "done":
        world.story.breaks("2 ready-first", "a restart of workers that listen on another port is said to be done")


def upgrade(nature: str) -> Callable[[World, Random], None]:
    """To a release that is good, or slow to start, and must be taken where nobody is hurt."""

    def inject(world: World, random: Random) -> None:
        group = random.choice(GROUPS)
        release = world.subject.release(nature)
        began = time.monotonic()
        done = world.command(
            "upgrade", group, world.subject.target(group, release), cwd=str(world.subject.folder / release)
        )
        if done is not None and done["state"] in ("failed", "undone") and not world.hurt_since(began):
            world.story.breaks("3 releases", f"{release} ({nature}) is good and was not taken: {done['reason']}")

    return inject


def bad_upgrade(nature: str) -> Callable[[World, Random], None]:
    """To a release that must not be taken, whoever is hurt meanwhile."""

    def inject(world: World, random: Random) -> None:
        group = "web" if nature == "answers 500" else random.choice(GROUPS)  # whose answers can be counted
        release = world.subject.release(nature)
        world.story.tell("release", release=release, nature=nature)
        with world.hurting():  # it may cost a restart beside it its time, and its canary is a worker that fails
            done = world.command(
                "upgrade", group, world.subject.target(group, release), cwd=str(world.subject.folder / release),
                **BAD[nature],
            )  # fmt: skip
        if done is not None and done["state"] == "done":
            world.story.breaks("3 releases", f"{release} of {group}, which {nature}, was taken")

    return inject


def cancel(world: World, random: Random) -> None:
    """An upgrade that would be watched for long is undone by its operator."""
    group = random.choice(GROUPS)
    release = world.subject.release("good")
    with world.hurting():
        answer = None
        with contextlib.suppress(Exception):
            answer = world.subject.client().command(
                "upgrade", group, world.subject.target(group, release), cwd=str(world.subject.folder / release),
                monitor="100", wait=False,
            )  # fmt: skip
        if answer is None:
            return
        world.last(random.uniform(0, 4))
        for _ in range(5):  # a master that is killed may take the command with it
            if world.command("cancel", answer["id"]) is not None:
                break
            world.last(1)


def scale(world: World, random: Random) -> None:
    """Up and down again."""
    group = random.choice(GROUPS)
    world.command("scale", str(WORKERS + random.randint(1, 2)), group)
    world.last(random.uniform(0, 2))
    for _ in range(5):
        done = world.command("scale", str(WORKERS), group)
        if done is not None and done["state"] == "done":
            break
        world.last(1)


def scale_down(world: World, random: Random) -> None:
    """Down to one and up again."""
    group = random.choice(GROUPS)
    world.command("scale", "1", group)
    world.last(random.uniform(0, 2))
    for _ in range(5):
        done = world.command("scale", str(WORKERS), group)
        if done is not None and done["state"] == "done":
            break
        world.last(1)


def rollback(world: World, random: Random) -> None:
    """To whatever was promoted before."""
    world.command("rollback", random.choice(GROUPS))


def reload(world: World, random: Random) -> None:
    """Of settings that nobody restarts for, or of what a worker is, or by SIGHUP."""
    how = random.choice(("settings", "workers", "signal"))
    if how == "settings":
        world.subject.configure(stop_timeout=STOP_TIMEOUT + random.choice((-1, 0, 1)))
    else:
        world.subject.configure(touched=random.getrandbits(16))
    if how == "signal":
        os.kill(world.subject.pid, signal.SIGHUP)
    else:
        world.command("reload")


def bad_reload(world: World, random: Random) -> None:
    """A configuration with a mistake, which must change nothing."""
    broken = random.choice(("wrokers = 4", "stop_timeout = '10 parsecs'", "[[[", "workers = 4\nworkers = 5"))
    world.subject.configure(broken=broken)
    try:
        answer = world.command("reload")
        if answer is not None:
            world.story.breaks("3 releases", f"a configuration with a mistake was taken up: {broken!r}")
    finally:
        world.subject.configure()


def fuzz(world: World, random: Random) -> None:
    """Garbage, slow heads, huge bodies, wrong keys and many held connections at the TCP door."""
    with Attack(world.subject.door_port, held=300, seed=random.getrandbits(16)):
        world.last(random.uniform(2, 5))
