"""Docstrings, comments, messages and pages use the words that CONTRIBUTING.md asks for (section Language).

``allowed_words.txt`` lists the words that a file still contains. Entries are only ever removed from it:
``python -m tests.test_words`` removes those that are no longer needed.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {page for pattern in ("*.md", "docs/**/*.md", "*/README.md") for page in ROOT.glob(pattern)}
CODE = {path for folder in ("src", "examples", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")}
FILES = sorted(str(path.relative_to(ROOT)) for path in PAGES | CODE)
ALLOWED = ROOT / "tests" / "allowed_words.txt"

WORDS = {
    # the word, and other forms of it: what to write instead
    "anew": ("anew", "again"),
    "as it stands": (r"(?<!long )as it (?:stands|was)|(?<!long )as ever", "unchanged, as before"),
    "befall": ("befall(?:s|en)?|behold|lest", "happen"),
    "dark canary": (r"dark (?:canar(?:y|ies)|workers?|stages?|ones?)", "preview worker, preview stage"),
    "door": (r"(?<![./])doors?", "endpoint"),
    "for good": ("for good", "permanently"),
    "go on": ("go on|goes on|went on|going on", "continue"),
    "hear of": ("hears? (?:of|nothing)|heard (?:of|nothing)", "receive"),
    "hitherto": ("hitherto|thereby|whereby|wherein|therein|thereof|thereupon", "divide the sentence"),
    "in vain": ("in vain", "without success"),
    "is no": (r"(?<!there )is no (?:table|proper|part|group|address|port|number|text|list)", "is not a, is not an"),
    "is to be had": ("(?:is|are|was|were) (?:not |not yet )?to be had", "is available, can be set"),
    "is told": ("(?:is|are|was|were|be|been) told", "receives, is notified"),
    "knock": ("knock(?:s|ed|ing)?", "request, authenticate"),
    "mend": ("mend(?:s|ed|ing)?", "repair, fix"),
    "midst": ("midst", "middle"),
    "nobody": ("nobody|no one", "no process, no client, no user"),
    "notebook": ("notebooks?", "checkpoint"),
    "of whose": ("of whose|of whom", "divide the sentence"),
    "own up": ("own(?:s|ed)? up", "report"),
    "pace": ("(?:slow|own|same) pace|paces", "rate limit, interval"),
    "pulse": ("pulses?", "heartbeat"),
    "put aside": ("put(?:s|ting)? aside", "pause accepting, ignore, move"),
    "speak of": ("speaks? of|spoke of|spoken of", "name, contain"),
    "stale worker": ("stale workers?", "outdated worker"),
    "standing": ("standing(?: line)?", "status line"),
    "stranger": ("strangers?", "unrelated process; orphan"),
    "take back": ("take[sn]? back|took back", "resume accepting, undo"),
    "that is none": ("that (?:is|are) none|which (?:is|are) none", "invalid, not one"),
    "the world": ("tells? the world", "publish"),
    "those who": ("those (?:who|whom|whose)", "clients, users, or their name"),
    "turned over": ("turned over", "rotated"),
    "whoever": ("whoever|whomever|whosoever", "any client, the caller"),
    "whom": ("whom", "which user, which process"),
    "without there being": ("without there being", "if there is no"),
}
PATTERNS = {name: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for name, (pattern, _) in WORDS.items()}

FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE_IN_TEXT = re.compile(r"``[^`\n]*``|`[^`\n]*`|\*\w+\*|\{[^{}\n]*\}")
"""Code, parameters and placeholders."""
TEXT_TOKENS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def sentences(name: str, text: str) -> str:
    """Return the text of a page without code, or the comments, docstrings and messages of a Python file.

    A string without a space is a name or a value rather than a message.
    """
    if name.endswith(".py"):
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        texts = [token.string for token in tokens if token.type in TEXT_TOKENS]
        text = "\n".join(each for each in texts if " " in each)
    return CODE_IN_TEXT.sub("", FENCE.sub("", text))


def words_in(name: str, text: str) -> dict[str, str]:
    """Return each of ``WORDS`` that *text*, of the file *name*, contains, with the words around it."""
    prose = " ".join(sentences(name, text).split())
    found = {word: pattern.search(prose) for word, pattern in PATTERNS.items()}
    return {word: prose[max(0, at.start() - 40) : at.end() + 40] for word, at in found.items() if at is not None}


@cache
def found_in(name: str) -> dict[str, str]:
    """Return ``words_in`` the file *name* of the project."""
    return words_in(name, (ROOT / name).read_text(encoding="utf-8"))


def allowed() -> dict[str, set[str]]:
    """Return the words that each file may still contain."""
    lines = [line.partition(": ") for line in ALLOWED.read_text(encoding="utf-8").splitlines() if line]
    return {name: set(words.split(", ")) for name, _, words in lines}


@pytest.mark.parametrize("name", FILES)
def test_a_file_uses_the_words_of_the_field(name: str) -> None:
    wrong = {word: around for word, around in found_in(name).items() if word not in allowed().get(name, ())}
    assert wrong == {}, "; ".join(f"instead of {word!r} write: {WORDS[word][1]}" for word in wrong)


def test_the_list_of_allowed_words_only_shrinks() -> None:
    unneeded = {name: sorted(words - needed(name)) for name, words in allowed().items() if words - needed(name)}
    assert unneeded == {}, "run: python -m tests.test_words"


def test_words_are_found_in_pages_comments_docstrings_and_messages_only() -> None:
    assert words_in("a.md", "Whoever knocks.\n\n```\nnobody\n```\n`anew`\n").keys() == {"whoever", "knock"}
    code = 'door = "nobody"  # nobody listens\nsay(f"it goes on {anew}")\n"""Mend it."""\n'
    assert words_in("a.py", code).keys() == {"nobody", "go on", "mend"}
    assert words_in("a.py", "def mend(whoever): ...\n") == {}


def needed(name: str) -> set[str]:
    """Return the words that the file contains; none if it does not exist."""
    return set(found_in(name)) if name in FILES else set()


def main() -> None:
    """Remove from the list what is no longer needed."""
    kept = {name: sorted(words & needed(name)) for name, words in sorted(allowed().items())}
    lines = [f"{name}: {', '.join(words)}\n" for name, words in kept.items() if words]
    ALLOWED.write_text("".join(lines), encoding="utf-8")
    sys.stdout.write(f"{sum(map(len, kept.values()))} words in {len(lines)} files are left\n")


if __name__ == "__main__":
    main()
