"""A complete service in one process, in virtual time: for our tests, and for tests of hooks and custom commands.

``Clock``       virtual monotonic time
``Program``     the behaviour of a simulated program: its start, crash, hang and stop
``FakeKernel``  the guardian, with simulated processes
``World``       a clock, a guardian and a master that drives the real core

    world = World.of(2, Program(boot=0.5))
    world.on(seen.append)                       # a hook
    world.run(1)
    world.kernel.kill(world.serving()[0].worker)
    world.run(5)
    assert len(world.serving()) == 2
"""

from __future__ import annotations

from .fake_kernel import FakeKernel
from .simulated_programs import NEVER, Process, Program
from .virtual_time import Clock, Timer
from .world import MasterAway, World

__all__ = ["NEVER", "Clock", "FakeKernel", "MasterAway", "Process", "Program", "Timer", "World"]
