"""What a setting is: one record, from which its option, environment variable, file key and reference come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GROUP = "group"
SERVICE = "service"
MANY = frozenset(("env", "env_files", "limits", "binds", "words", "arguments", "hosts", "paths", "depends", "groups"))
"""Kinds of which several values are given."""


@dataclass(frozen=True)
class Setting:
    """One setting. *kind* names a function of ``kinds.KINDS``; *default* is in the form that the kind gives."""

    name: str
    kind: str
    default: Any
    doc: str
    flags: tuple[str, ...] = ()
    scope: str = GROUP
    also: tuple[str, ...] = ()
    """Other names: the original's, mostly. One that ends in ``_ms`` counts in milliseconds."""
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    metavar: str = ""
    shown: str = ""
    """The default as help shows it, where ``default`` does not say it well."""
    sources: tuple[str, ...] = ("flags", "environment", "file")
    """Where it may be given; keyword arguments may give every setting."""

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return f"CSERVICE_{self.name.upper()}"

    @property
    def many(self) -> bool:
        """Whether its option may be given more than once."""
        return self.kind in MANY
