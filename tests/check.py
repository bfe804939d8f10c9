"""Everything that must hold, in one command: python -m tests.check [arguments of pytest]."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

STEPS = {
    "lint": ["ruff", "check"],
    "spelling": ["codespell_lib"],
    "types": ["mypy"],
    "tests": ["pytest", "-n", str(1 + len(os.sched_getaffinity(0))), "--dist", "worksteal"],
}
"""Step -> the module that does it, and its arguments. The fastest comes first; the tests close the output.

Most tests wait for processes most of the time, so there is one runner more than there are processors.
"""


def main() -> int:
    """Run every step, also after one has failed; return 0 when all passed."""
    failed = []
    for step, (module, *arguments) in STEPS.items():
        print(f"== {step}: {module} {' '.join(arguments)}".rstrip(), flush=True)
        more = sys.argv[1:] if step == "tests" else []
        if subprocess.run([sys.executable, "-m", module, *arguments, *more], cwd=ROOT, check=False).returncode:
            failed.append(step)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
