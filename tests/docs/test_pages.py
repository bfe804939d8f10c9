"""The pages say what the code says, and lead where they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate.py"))
PAGES = [*GENERATOR["pages"](), ROOT / "benchmarks" / "README.md", ROOT / "examples" / "README.md"]


def text(name: str) -> str:
    """The page *name*, from the project's root."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_generated_blocks_are_fresh() -> None:
    stale = [str(page.relative_to(ROOT)) for page in GENERATOR["stale"]()]
    assert stale == [], "run: python docs/generate.py"


def test_every_block_is_shown_somewhere() -> None:
    shown = {name for page in PAGES for _, name, _ in GENERATOR["BLOCK"].findall(page.read_text(encoding="utf-8"))}
    assert shown == set(GENERATOR["BLOCKS"])


def test_every_command_and_argument_has_its_place() -> None:
    page = text("docs/commands.md")
    for command in GENERATOR["COMMANDS"].all():
        assert f"\n## {command.name}\n" in page
        assert all(parameter.option in page for parameter in command.parameters)


def test_every_setting_has_its_place() -> None:
    page = text("docs/configuration.md")
    assert [entry.name for entry in GENERATOR["SETTINGS"] if f"`{entry.name}`" not in page] == []
    for setting in GENERATOR["SETTINGS"]:
        assert setting.doc.strip(), f"{setting.name} has no description"


def test_every_event_and_transition_has_its_place() -> None:
    page = text("docs/events.md")
    for cls in GENERATOR["event_records"].EVENTS:
        assert f"\n## {GENERATOR['name_of'](cls)}\n" in page
        assert cls.__doc__
    diagram = text("docs/architecture.md")
    for state, moves in GENERATOR["TRANSITIONS"].items():
        for event, other in moves.items():
            assert re.search(rf"{state} --> {other}: .*\b{event}\b", diagram)


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page.suffix != ".md" or page in seen or not page.exists():
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        todo += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert set(PAGES) <= seen
