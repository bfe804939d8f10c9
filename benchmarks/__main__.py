"""Run the benchmarks and print one table. Each figure is compared with a reference measured in the same run."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile

from benchmarks import client, measures


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(measures.ALL)}; all without one")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to see that it runs")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in measures.ALL]
    if unknown:
        parser.error(f"no benchmark is named {unknown[0]}; there are {', '.join(measures.ALL)}")
    rounds = measures.QUICK if arguments.quick else measures.FULL
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}"
    print(f"Python {platform.python_version()}, {machine}, load by {client.NAME}\n")
    print("| what | cluster-service | compared with | ratio |\n|--|--|--|--|", flush=True)
    for name in arguments.names or measures.ALL:
        with tempfile.TemporaryDirectory(prefix="cs-") as directory:
            os.environ["XDG_RUNTIME_DIR"] = directory
            for line in measures.ALL[name](rounds):
                print(line, flush=True)


if __name__ == "__main__":
    main()
