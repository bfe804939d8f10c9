"""The document of the doors is a document, and the doors do what it says: whatever is sent, they answer as it lists.

schemathesis makes the requests, right and wrong ones, the same each time; ``CSERVICE_TEST_EXAMPLES`` makes more.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator

from cluster_service.config.keys import Key
from cluster_service.control import openapi
from cluster_service.control.arguments import KINDS
from cluster_service.control.registry import COMMANDS, Command, Parameter
from tests.control.machine import KEY, Running, running
from tests.control.test_http import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("CSERVICE_TEST_EXAMPLES", "25"))
"""Requests of each kind to each operation of the document."""

ENDS_THE_SERVICE = ("exit", "shutdown")
"""Commands that the key of these tests may not give."""

DOCUMENT = openapi.document(COMMANDS.all())
PLACES = [
    (method, path, mode)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    for mode in ("positive", "negative")
    if path != "/api/v1/events"  # it does not end: see test_http
    and (mode == "positive" or "requestBody" in operation or "parameters" in operation)  # else nothing can be wrong
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service for all the requests."""
    allow = tuple(name for name in COMMANDS.names() if name not in ENDS_THE_SERVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster_service.control.access.BURST", 1_000_000)
        patch.setattr("cluster_service.control.app.FAILURE_DELAY", 0.0)
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


@pytest.mark.parametrize(("method", "path", "mode"), PLACES)
def test_the_doors_do_what_it_says(place: Running, method: str, path: str, mode: str) -> None:
    """No error of the server, no status and no answer that is not in the document."""
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.specs.openapi import checks

    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT)))
    operation = schema[path][method]
    wanted = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    if not path.endswith("/start"):  # whose settings are checked by the configuration, which this service has not
        wanted.append(checks.negative_data_rejection)
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def ask_all(case: Any) -> None:
        answer = case.call(
            base_url=f"http://127.0.0.1:{place.port}", headers={"X-Access-Key": KEY, "Connection": "close"}, timeout=20
        )
        case.validate_response(answer, checks=wanted)

    ask_all()
