"""Requests made from the doors' own OpenAPI document, by schemathesis: whatever is sent, the answer is as it lists."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi import checks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def places(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Every (method, path, mode) that can be asked; *mode*: positive for right requests, negative for wrong ones."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path == "/api/v1/events":  # it does not end
                continue
            yield method, path, "positive"
            if "requestBody" in operation or "parameters" in operation:  # else nothing can be wrong
                yield method, path, "negative"


def conform(
    document: Mapping[str, Any], place: tuple[str, str, str], port: int, key: str, *, examples: int, strict: bool = True
) -> None:
    """Ask *examples* times, the same each time: no error of the server, no status and no answer that *document* does
    not list, and, where *strict*, no good answer to a wrong request.
    """
    method, path, mode = place
    operation = schemathesis.openapi.from_dict(json.loads(json.dumps(document)))[path][method]
    wanted = [*CHECKS, checks.negative_data_rejection] if strict else CHECKS
    headers = {"X-Access-Key": key, "Connection": "close"}

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def ask_all(case: Any) -> None:
        answer = case.call(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30)
        case.validate_response(answer, checks=wanted)

    ask_all()
