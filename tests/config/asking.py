"""How the tests ask for settings, and for the sentence of a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cluster_service import config
from cluster_service.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "a key of more than sixteen letters"


def make(
    target: str | None = "worker.py", *args: str, program: bool = False, source: Any = "keywords", **options: Any
) -> config.Settings:
    return config.settings(options, target=target, args=args, program=program, source=source)


def release(target: str | None = "worker.py", *args: str, **more: Any) -> Any:
    return make(target, *args, **more).spec.groups[0].release


def sentence(call: Callable[[], object]) -> str:
    with pytest.raises(CommandError) as caught:
        call()
    assert caught.value.code == "bad_request"
    assert caught.value.exit_code == 2
    assert KEY not in str(caught.value)
    return f"{caught.value.message} {caught.value.hint}"
