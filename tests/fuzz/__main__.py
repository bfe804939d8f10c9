"""The command: ``python -m tests.fuzz --help``."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile

from . import run
from .boundaries import BOUNDARIES


def main() -> int:
    """Fuzz; 0: every rule held, 1: one was broken."""
    options = _options()
    names = list(BOUNDARIES) if options.boundary == "all" else [options.boundary]
    print(f"seed {options.seed}", flush=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp") as folder:
        for name in [name for name in os.environ if name.startswith("CSERVICE_")]:
            del os.environ[name]
        os.environ["XDG_RUNTIME_DIR"], os.environ["XDG_STATE_HOME"] = folder, f"{folder}/state"
        for name in names:
            figures = run.run(name, options.seed, batches=options.batches, seconds=options.minutes * 60)
            found.append(figures)
            print(f"BROKEN {figures.broken}\n{figures}" if figures.broken else figures, flush=True)
    broken = [figures.boundary for figures in found if figures.broken]
    print(f"{sum(figures.inputs for figures in found)} inputs; rules broken at: {', '.join(broken) or 'no boundary'}")
    return 1 if broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Send a service what it should not get.")
    parser.add_argument("--boundary", choices=["all", *BOUNDARIES], default="all", help="all: one after the other")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each boundary")
    parser.add_argument("--batches", type=int, default=1 << 60, help="of each boundary, at most")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="(default: a random one)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
