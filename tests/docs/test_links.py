"""Every relative link of the documentation leads to an existing file, and every #anchor to a heading of its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PLACES = ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md")
PAGES = sorted(page for place in PLACES for page in ROOT.glob(place))

FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]: +(\S+)", re.MULTILINE)


def prose(text: str) -> str:
    """Return the Markdown *text* without its fenced code blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of the Markdown *text*."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        repeated = (name for number in range(1, 100) if (name := f"{slug}-{number}") not in found)
        found.add(next(repeated) if slug in found else slug)
    return found


def broken_links(page: Path) -> list[str]:
    """Return the relative links of *page* whose file or anchor does not exist."""
    found = []
    text = page.read_text(encoding="utf-8")
    inline_code_removed = re.sub(r"`[^`\n]*`", "", prose(text))
    for link in ("".join(groups) for groups in LINK.findall(inline_code_removed)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_has_a_target(page: Path) -> None:
    assert broken_links(page) == []


def test_a_missing_file_and_a_missing_anchor_are_found(tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_text("# Programs after `--`\n\n## Ports\n\n## Ports\n\n```sh\n# a comment\n```\n")
    page = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#programs-after---) [c](other.md#ports-1) [d](#here) [e](https://example.com/#x)"
    bad = "[f](absent.md) [g](other.md#a-comment) [h](#there)\n\n[i]: other.md#ports-2\n\n`[j](absent.md)`"
    page.write_text(f"# Here\n\n{good}\n\n{bad}\n")
    assert broken_links(page) == ["absent.md", "other.md#a-comment", "#there", "other.md#ports-2"]
