"""The document of the doors is a document, and the doors do what it says: whatever is sent, they answer as it lists.

schemathesis makes the requests, right and wrong ones, the same each time; ``CSERVICE_TEST_EXAMPLES`` makes more.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from cluster_service.commands.arguments import KINDS
from cluster_service.commands.registry import COMMANDS, Command, Parameter
from cluster_service.config.credentials import Key
from cluster_service.server import openapi
from tests.control.machine import KEY, Running, running
from tests.control.test_http import ask
from tests.tools.conform import conform, places

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("CSERVICE_TEST_EXAMPLES", "25"))
"""Requests of each kind to each operation of the document."""

ENDS_THE_SERVICE = ("exit", "shutdown")
"""Commands that the key of these tests may not give."""

DOCUMENT = openapi.document(COMMANDS.all())
PLACES = list(places(DOCUMENT))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service for all the requests."""
    allow = tuple(name for name in COMMANDS.names() if name not in ENDS_THE_SERVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster_service.server.access.BURST", 1_000_000)
        patch.setattr("cluster_service.server.app.FAILURE_DELAY", 0.0)
        with running(tmp_path_factory.mktemp("run"), keys=(Key("tests", KEY, allow),)) as opened:
            yield opened


def test_it_is_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    OpenAPIV31SpecValidator(openapi.document(COMMANDS.all(), allow_http_get=True)).validate()


def test_it_is_served_and_needs_the_key(service: Running) -> None:
    assert ask(service, "GET", "/openapi.json", tcp=True).status == 401
    assert ask(service, "GET", "/openapi.json", tcp=True, X_Access_Key=KEY).data == json.loads(json.dumps(DOCUMENT))
    assert ask(service, "GET", "/openapi.json").data["openapi"] == "3.1.0"


def test_every_kind_of_argument_has_a_schema() -> None:
    assert set(KINDS) <= set(openapi.KINDS)


def test_every_built_in_command_has_a_result() -> None:
    missing = [
        command.name for command in COMMANDS.all() if not command.operation and command.name not in openapi.RESULTS
    ]
    assert missing == []


def test_custom_commands_are_in_it(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(service: object, **_: object) -> dict[str, Any]:
        raise AssertionError

    how = Parameter("how", "choice", "how", choices=("warmly", "coldly"))
    greet = Command("greet", "Greets.", run, (Parameter("name", "text", "whom", required=True), how))
    hidden = Command("hush", "Says nothing.", run, access="inproc")
    monkeypatch.setattr(COMMANDS, "_added", {"greet": greet, "hush": hidden})
    document = ask(service, "GET", "/openapi.json").data
    OpenAPIV31SpecValidator(document).validate()
    assert "/api/v1/commands/hush" not in document["paths"]
    shown = document["paths"]["/api/v1/commands/greet"]["post"]
    schema = shown["requestBody"]["content"]["application/json"]["schema"]
    assert (shown["summary"], schema["required"]) == ("Greets.", ["name"])
    assert schema["properties"]["how"]["enum"] == ["warmly", "coldly", None]


@pytest.mark.parametrize("asked", PLACES, ids=" ".join)
def test_the_doors_do_what_it_says(place: Running, asked: tuple[str, str, str]) -> None:
    strict = not asked[1].endswith(
        "/start"
    )  # its settings are checked by the configuration, which this service has not
    conform(DOCUMENT, asked, place.port, KEY, examples=EXAMPLES, strict=strict)
