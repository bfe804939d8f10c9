"""The figures of runs, as Markdown: one row a run, and a table of how often each fault was injected."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .machine import Outcome

HEAD = (
    "| seed | minutes | faults | workers started | masters | requests | failed: held by a worker that was hurt | failed"
    " otherwise | answered at the second try | longest answer | guardian's memory | promises broken |\n"
    "| -- | -- | -- | -- | -- | -- | -- | -- | -- | -- | -- | -- |\n"
)


def row(outcome: Outcome) -> str:
    """One run."""
    excused = sum(outcome.excused.values())
    failed = sum(result.failed for result in outcome.results)
    cells = (
        outcome.seed,
        f"{outcome.seconds / 60:.1f}",
        sum(outcome.faults.values()),
        outcome.workers,
        outcome.masters,
        sum(result.sent for result in outcome.results),
        excused,
        failed - excused,
        sum(result.retried for result in outcome.results),
        f"{max((result.longest for result in outcome.results), default=0.0):.1f} s",
        " → ".join(f"{size / 2**20:.1f} MB" for size in outcome.guardian),
        len(outcome.broken),
    )
    return "| " + " | ".join(map(str, cells)) + " |\n"


def kinds(outcome: Outcome) -> str:
    """How often each fault was injected, and what was excused for it."""
    faults = ", ".join(f"{name} {count}" for name, count in outcome.faults.items())
    costs = ", ".join(f"{count} × {deed}" for deed, count in sorted(outcome.excused.items()))
    return f"Seed {outcome.seed}: {faults}. Requests excused: {costs or 'none'}.\n"


def text(outcome: Outcome) -> str:
    """For the terminal."""
    lines = [HEAD + row(outcome), kinds(outcome)]
    lines += [f"  {result}" for result in outcome.results]
    lines += [f"BROKEN {sentence}" for sentence in outcome.broken]
    return "\n".join(lines)


def write(path: Path, outcome: Outcome) -> None:
    """Add a run to the report at *path*, which is made where there is none."""
    old = path.read_text(encoding="utf-8") if path.exists() else HEAD + "\n"
    table, _, rest = old.partition("\n\n")
    path.write_text(f"{table.rstrip()}\n{row(outcome)}\n{rest}{kinds(outcome)}\n", encoding="utf-8")
