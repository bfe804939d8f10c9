"""The definition of a setting, from which its option, environment variable, file key and reference derive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GROUP = "group"
SERVICE = "service"
MANY = frozenset(("env", "env_files", "limits", "binds", "words", "arguments", "hosts", "paths", "depends", "groups"))
"""Kinds with several values."""


@dataclass(frozen=True)
class Setting:
    """One setting. *kind* names a function of ``kinds.KINDS``; *default* is a parsed value of that kind."""

    name: str
    kind: str
    default: Any
    doc: str
    flags: tuple[str, ...] = ()
    scope: str = GROUP
    also: tuple[str, ...] = ()
    """Aliases, mostly from the original. One that ends in ``_ms`` is in milliseconds."""
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    metavar: str = ""
    shown: str = ""
    """The default as shown in help, if ``default`` is not suitable."""
    sources: tuple[str, ...] = ("flags", "environment", "file")
    """Where it may be given; keyword arguments may give every setting."""

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return f"CSERVICE_{self.name.upper()}"

    @property
    def many(self) -> bool:
        """True if its option may be repeated."""
        return self.kind in MANY
