"""The command: ``python -m tests.faults --help``."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from . import machine, plan, report, story
from .table import FAULTS


def main() -> int:
    """Run once; 0: every promise was kept, 1: one was broken."""
    options = _options()
    path = Path(options.story or f"{tempfile.gettempdir()}/faults-{options.seed}.jsonl")
    told = None if options.replay is None else list(plan.told(story.read(options.replay)))
    if told is None:
        weights = {name: fault.weight for name, fault in FAULTS.items() if fault.here}
        if options.only:
            weights = {name: weight for name, weight in weights.items() if name in options.only}
        rounds = plan.drawn(options.seed, weights)
    else:
        rounds = iter(told)
    tale = story.Story(path)
    print(f"seed {options.seed}; the story is written to {path}", flush=True)
    outcome = machine.run(rounds, tale, seed=options.seed, seconds=options.minutes * 60, rate=options.rate)
    tale.close()
    if options.report:
        report.write(options.report, outcome)
    print(report.text(outcome))
    if outcome.broken:
        print(f"{tale.text()}\n\nagain: python -m tests.faults --replay {path}")
    return 1 if outcome.broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break a service, and see it go on.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="(default: a random one)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second, all in all")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="the rounds of this story rather than a seed's")
    parser.add_argument("--story", metavar="FILE", help="where to write what happens")
    parser.add_argument("--report", type=Path, metavar="FILE", help="add the figures to this Markdown table")
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), metavar="FAULT", help="(repeatable)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
