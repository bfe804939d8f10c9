"""The HTTP interface as an OpenAPI 3.1 document, generated from the definitions of the commands. Pure.

    document(commands) -> dict

Each command, built-in or custom, has its own path, with a JSON schema of its arguments. A schema accepts what
``arguments`` accepts, except for spellings that only people use (capitals, spaces around a word). Every possible status
is listed, with the error object where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_service._version import __version__
from cluster_service.commands.registry import CLOSED
from cluster_service.config.settings_table import BY_NAME, Setting
from cluster_service.errors import CODES

from . import dashboard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cluster_service.commands.registry import Command, Parameter

Json = dict[str, Any]

_TEXT: Json = {"type": ["string", "number"], "minLength": 1, "pattern": r"^[^\u0000]+$"}
_DURATION: Json = {
    "type": ["number", "string"],
    "minimum": 0,
    "maximum": 315360000,
    "pattern": r"^\s*\+?(\d+(\.\d*)?|\.\d+)\s*(ms|s|m|h|)\s*$",
    "examples": [60, "1500ms", "10s", "5m"],
}
_FLAG: Json = {"enum": [True, False, "true", "false", "yes", "no", "on", "off", "1", "0", 1, 0]}

KINDS: Mapping[str, Json] = {
    "any": {},
    "string": {"type": ["string", "number"]},
    "number": {"type": ["number", "string"], "pattern": r"^\s*[+-]?(\d|\.\d).*$"},
    "object": {"type": ["object", "string"]},
    "text": _TEXT,
    "argument": {"type": ["string", "number"]},
    "target": _TEXT,
    "file": _TEXT,
    "caller": _TEXT,
    "executable": _TEXT,
    "url path": {"type": "string", "pattern": "^/", "examples": ["/health"]},
    "integer": {"type": ["integer", "string"], "pattern": r"^\s*[+-]?\d[\d_]*\s*$"},
    "duration": _DURATION,
    "timeout": _DURATION,
    "milliseconds": {
        **_DURATION,
        "maximum": 315360000000,
        "description": "A plain number counts in milliseconds.",
    },
    "size": {"type": ["integer", "string"], "minimum": 0, "examples": [1048576, "512m", "2g"]},
    "flag": _FLAG,
    "choice": {"type": "string"},
    "selector": {
        "type": ["string", "integer"],
        "minimum": 0,
        "maximum": 9999999999,
        "pattern": r"^(pid:\d{1,10}|\d{1,10}|[A-Za-z][\w.-]{0,80})$",
        "examples": ["all", "web", "web.1", 4711],
    },
    "change": {
        "type": ["string", "integer"],
        "minimum": -999999,
        "maximum": 999999,
        "pattern": r"^\s*[+-]?\d{1,6}\s*$",
        "examples": ["4", "+1", "-1"],
    },
    "setting": {},
}
"""Kind of argument -> its JSON schema. A kind not listed here accepts any value; the command checks it."""


def _object(required: str = "", /, **properties: Json) -> Json:
    found: Json = {"type": "object", "properties": properties}
    return {**found, "required": required.split()} if required else found


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _see(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_STRING: Json = {"type": "string"}
_STRING_OR_NOT: Json = {"type": ["string", "null"]}
_COUNT: Json = {"type": "integer", "minimum": 0}
_COUNT_OR_NOT: Json = {"type": ["integer", "null"], "minimum": 0}
_SECONDS: Json = {"type": "number"}
_SECONDS_OR_NOT: Json = {"type": ["number", "null"]}
_STATES = ["starting", "serving", "draining", "stopping", "waiting", "broken"]

SCHEMAS: Json = {
    "Error": _object(
        "error",
        error=_object("code message", code={"type": "string", "enum": list(CODES)}, message=_STRING, hint=_STRING),
        operation=_see("Operation"),
    ),
    "Operation": _object(
        "id command state reason steps replaced of",
        id=_STRING,
        command=_STRING,
        state={"enum": ["running", "done", "failed", "undone", "cancelled"]},
        reason=_STRING_OR_NOT,
        steps=_list(_object("at text", at={"type": "string", "format": "date-time"}, text=_STRING)),
        steps_dropped=_COUNT,
        replaced=_COUNT,
        of=_COUNT,
        started_at={"type": "string", "format": "date-time"},
        ended_at={"type": ["string", "null"], "format": "date-time"},
    ),
    "Worker": _object(
        "group slot pid state generation reason target cwd python uptime_s restarts memory_bytes cpu_percent listening"
        " connections",
        group=_STRING,
        slot=_COUNT,
        pid=_COUNT_OR_NOT,
        state={"enum": _STATES},
        generation=_COUNT,
        reason=_STRING,
        target=_STRING,
        cwd=_STRING,
        python=_STRING_OR_NOT,
        uptime_s=_SECONDS_OR_NOT,
        restarts=_COUNT,
        memory_bytes=_COUNT_OR_NOT,
        cpu_percent=_SECONDS_OR_NOT,
        listening=_list(_STRING),
        connections=_COUNT_OR_NOT,
        next_try_s=_SECONDS_OR_NOT,
        status=_STRING,
        detail=_STRING,
        not_listening={"type": "boolean"},
    ),
    "Workers": _object("service workers", service=_STRING, workers=_list(_see("Worker"))),
    "Health": _object(
        "status serving wanted",
        status={"enum": ["ok", "degraded", "down"]},
        serving=_COUNT,
        wanted=_COUNT,
        problems=_list(_object("group slot state", group=_STRING, slot=_COUNT, state=_STRING)),
    ),
    "Info": _object(
        "name version pid uptime_s groups operation",
        name=_STRING,
        version=_STRING,
        pid=_COUNT,
        master_pid=_COUNT,
        uptime_s=_SECONDS,
        share=_STRING,
        ports=_list(_STRING),
        doors=_list(_STRING),
        groups={"type": "object", "additionalProperties": {"type": "object"}},
        operation={"oneOf": [_see("Operation"), {"type": "null"}]},
    ),
    "Operations": _object("service operations", service=_STRING, operations=_list(_see("Operation"))),
    "Command": _object(
        "name usage doc access operation changes parameters",
        name=_STRING,
        usage=_STRING,
        doc=_STRING,
        access={"enum": ["inproc", "local", "remote", "disabled"]},
        allowed={"type": "boolean", "description": "Whether the one who asks may give it from here."},
        operation={"type": "boolean"},
        changes={"type": "boolean"},
        parameters=_list(_object("name kind doc required", name=_STRING, kind=_STRING, doc=_STRING)),
    ),
    "Commands": _object("commands", commands=_list(_see("Command"))),
    "Plan": _object(
        "service changes",
        service=_STRING,
        file=_STRING_OR_NOT,
        changes=_list(
            _object(
                "group effect text",
                group=_STRING,
                effect={"enum": ["start", "stop", "scale", "replace", "settings", "service"]},
                text=_STRING,
            )
        ),
    ),
    "Version": _object("version service", version=_STRING, service=_STRING_OR_NOT),
    "Probe": _object("status", status={"enum": ["ok", "unavailable"]}),
}

RESULTS: Mapping[str, Json] = {
    "workers": _see("Workers"),
    "health": _see("Health"),
    "info": _see("Info"),
    "version": _see("Version"),
    "operations": {"anyOf": [_see("Operations"), _see("Operation")]},
    "help": {"anyOf": [_see("Commands"), _see("Command")]},
    "events": _object("service events", service=_STRING, events={"type": "array", "items": {"type": "object"}}),
    "logs": _object("file lines", file=_STRING, lines={"type": "array", "items": _STRING}),
    "reload": {"anyOf": [_see("Operation"), _see("Plan")]},
    "config": {"type": "object"},
    "systemd": _object("name unit socket", name=_STRING, unit=_STRING, socket=_STRING_OR_NOT),
    "ls": _object(
        "services", services=_list(_object("name pid since", name=_STRING, pid=_COUNT_OR_NOT, since=_STRING_OR_NOT))
    ),
    "exit": _object("exiting", exiting={"type": "boolean"}),
}
"""Results of the built-in commands other than operations. A command that overrides one may return other fields."""

REFUSALS: Mapping[int, str] = {
    400: "The request or its arguments are wrong, or the command failed.",
    401: "The access key is missing or wrong.",
    403: "Not from here: a web page of another origin, a right that is missing, or a directory that is not allowed.",
    404: "There is no such command, worker, group or operation.",
    405: "Not by this method.",
    408: "The body did not arrive in time.",
    409: "Another operation is under way, or the service is ending.",
    411: "The body has no Content-Length.",
    413: "The body is too long.",
    414: "The path and query are too long.",
    421: "This door is not called by that Host.",
    429: "Too many wrong access keys from this address.",
    431: "The headers are too long.",
    500: "An error in the service itself: its log tells more under the id in the message.",
    503: "Too many connections, or the service cannot do it now.",
}
_ALWAYS = (400, 401, 403, 408, 411, 413, 414, 421, 429, 431, 500, 503)
_PROBES = (400, 411, 414, 421, 431, 500)


def document(commands: Iterable[Command], *, allow_http_get: bool = False) -> Json:
    """Return the OpenAPI document for *commands*."""
    known = [command for command in commands if command.access not in CLOSED]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cluster-service",
            "version": __version__,
            "description": "Commands to a running service. Each is the same at the command line and the console.",
        },
        "security": [{"bearer": []}, {"header": []}, {"query": []}],
        "tags": [{"name": "commands"}, {"name": "reading"}, {"name": "probes"}, {"name": "dashboard"}],
        "paths": {
            "/cli": _cli(allow_http_get=allow_http_get),
            **{f"/api/v1/commands/{command.name}": {"post": _command(command)} for command in known},
            **_reading(),
            **_probes(),
            **_dashboard(),
        },
        "components": {
            "schemas": SCHEMAS,
            "responses": {
                _name(status): {"description": doc, "content": _json(_see("Error"))} for status, doc in REFUSALS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-Access-Key"},
                "query": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "accessKey",
                    "description": "Deprecated: a URL is kept in logs and histories.",
                },
            },
        },
    }


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _name(status: int) -> str:
    return f"Refused{status}"


def _answers(fine: Mapping[int, Json], *more: int, always: tuple[int, ...] = _ALWAYS) -> Json:
    """Return the responses of an operation of the document: *fine* and the refusals."""
    refusals = {str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in sorted({*always, *more})}
    return {**{str(status): answer for status, answer in fine.items()}, **refusals}


def _fine(doc: str, schema: Json) -> Json:
    return {"description": doc, "content": _json(schema)}


def _accepted() -> Json:
    return {
        **_fine("It has begun; Location is where it can be followed.", _see("Operation")),
        "headers": {"Location": {"schema": _STRING}},
    }


# -- commands ----------------------------------------------------------------------------------------------------------


def _command(command: Command) -> Json:
    result = RESULTS.get(command.name, {}) if not command.custom or command.name == "health" else {}
    fine = {200: _fine("Done.", _see("Operation") if command.operation and not result else result)}
    if command.operation or command.custom:
        fine[202] = _accepted()
    doc = "\n".join(line.strip() for line in command.doc.strip().splitlines())
    shown: Json = {
        "operationId": f"command_{command.name}",
        "tags": ["commands"],
        "summary": command.summary,
        "description": f"{doc}\n\nLevel: {command.access}.",
        "requestBody": {"content": _json(_arguments(command)), "required": any(p.required for p in command.parameters)},
        "responses": _answers(fine, 404, 409),
    }
    return shown


def _arguments(command: Command) -> Json:
    required = [parameter.name for parameter in command.parameters if parameter.required]
    shown: Json = {
        "type": "object",
        "properties": {parameter.name: _argument(parameter) for parameter in command.parameters},
        "additionalProperties": False,
    }
    return {**shown, "required": required} if required else shown


def _argument(parameter: Parameter) -> Json:
    schema: Json = dict(KINDS.get(parameter.kind, {}))
    if parameter.kind == "setting":
        schema = _setting(BY_NAME.get(parameter.name))
    if parameter.kind == "choice":
        schema = {"enum": list(parameter.choices)}
    if parameter.many:
        pairs = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
        schema = {"anyOf": [_list(schema), pairs] if parameter.name == "env" else [_list(schema), schema]}
    if not parameter.required and schema:
        schema = _or_null(schema)
    about = f"{parameter.doc} (default: {parameter.default})" if parameter.default else parameter.doc
    return {**schema, "description": about}


def _setting(setting: Setting | None) -> Json:
    """Return the schema of a group setting; the configuration checks its value."""
    if setting is None:
        return {}
    if setting.kind == "choice":
        return {"enum": list(setting.choices)}
    if setting.kind == "integer":
        bounds = {"minimum": setting.least, "maximum": setting.most}
        return {"type": ["integer", "string"], **{name: value for name, value in bounds.items() if value is not None}}
    return _DURATION if setting.kind == "duration" else {}


def _or_null(schema: Json) -> Json:
    """Return *schema* extended to accept null, which means not given."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}


def _cli(*, allow_http_get: bool) -> Json:
    line: Json = {"type": "string", "examples": ["restart all"]}
    shown: Json = {
        "operationId": "cli",
        "tags": ["commands"],
        "summary": "Give a command line.",
        "description": "The original's endpoint: the command as it is typed, in the query or in the body. An operation"
        " is waited for, unless the command says --no-wait.",
        "parameters": [{"name": "cmd", "in": "query", "schema": line}],
        "responses": _answers({200: _fine("Done.", {}), 202: _accepted()}, 404),
    }
    body = {
        "text/plain": {"schema": line},
        **_json({"type": "object", "properties": {"cmd": line}}),
    }
    paths: Json = {"post": {**shown, "requestBody": {"content": body, "required": False}}}
    if allow_http_get:
        paths["get"] = {**shown, "operationId": "cli_by_get", "deprecated": True}
    return paths


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(identity: str, summary: str, schema: Json, *more: int, parameters: tuple[Json, ...] = ()) -> Json:
    shown: Json = {
        "operationId": identity,
        "tags": ["reading"],
        "summary": summary,
        "responses": _answers({200: _fine("As it is now.", schema)}, *more),
    }
    return {"get": {**shown, "parameters": list(parameters)} if parameters else shown}


def _reading() -> Json:
    at = (
        {"name": "id", "in": "path", "required": True, "schema": _STRING},
        {
            "name": "seen",
            "in": "query",
            "schema": {"type": "integer", "minimum": 0},
            "description": "How many of its steps, from the first on, are known already. Without it: all of them.",
        },
        {
            "name": "wait",
            "in": "query",
            "schema": {"type": "number", "minimum": 0, "maximum": 60},
            "description": "Seconds to wait for more steps than *seen*, or for its end.",
        },
    )
    return {
        "/api/v1/commands": _read("commands", "The commands that there are.", _see("Commands")),
        "/api/v1/workers": _read("workers", "The workers.", _see("Workers")),
        "/api/v1/health": _read("health", "Whether all is well.", _see("Health")),
        "/api/v1/info": _read("info", "The service as a whole.", _see("Info")),
        "/api/v1/operations": _read("operations", "The operations, newest first.", _see("Operations")),
        "/api/v1/operations/{id}": _read("operation", "One operation.", _see("Operation"), 404, parameters=at),
        "/api/v1/events": {"get": _events()},
        "/metrics": {"get": _metrics()},
        "/openapi.json": _read("openapi", "This document.", {"type": "object"}),
    }


def _metrics() -> Json:
    page = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": _STRING}}}
    return {
        "operationId": "metrics",
        "tags": ["reading"],
        "summary": "Workers by state, memory, connections, restarts: for Prometheus.",
        "responses": _answers({200: page}),
    }


def _events() -> Json:
    return {
        "operationId": "events",
        "tags": ["reading"],
        "summary": "What happens, as it happens: a stream of server-sent events.",
        "description": "With Last-Event-ID, from after that event on. What cannot be told any more is said by an event"
        " `missed`, with `after` (the id sent) and `count` (null: the service is another one now).",
        "parameters": [{"name": "Last-Event-ID", "in": "header", "schema": {"type": "integer", "minimum": 0}}],
        "responses": _answers(
            {
                200: {
                    "description": "The stream; it does not end.",
                    "content": {"text/event-stream": {"schema": _STRING}},
                }
            }
        ),
    }


def _probes() -> Json:
    def probe(identity: str, summary: str) -> Json:
        return {
            "get": {
                "operationId": identity,
                "tags": ["probes"],
                "summary": summary,
                "security": [],
                "responses": _answers(
                    {200: _fine("Yes.", _see("Probe")), 503: _fine("No.", {"anyOf": [_see("Probe"), _see("Error")]})},
                    always=_PROBES,
                ),
            }
        }

    return {
        "/live": probe("live", "Whether the service is to be left running."),
        "/ready": probe("ready", "Whether it is to be sent traffic."),
    }


def _dashboard() -> Json:
    def file(identity: str, summary: str, kinds: Iterable[str], *more: int) -> Json:
        content = {kind.partition(";")[0]: {"schema": _STRING} for kind in kinds}
        fine = {200: {"description": "The file.", "content": content}}
        answers = _answers(fine, *more, always=(*_PROBES, 403))
        shown = {"operationId": identity, "tags": ["dashboard"], "summary": summary, "security": []}
        return {"get": {**shown, "responses": answers}}

    names = [name for name, kind in dashboard.FILES.items() if kind != dashboard.HTML]
    part = file("dashboard_file", "A part of that page.", dashboard.FILES.values(), 404)
    part["get"]["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"enum": names}}]
    return {
        "/": file("dashboard", "The dashboard: a page for a browser, which asks for the key.", [dashboard.HTML]),
        "/dashboard/{name}": part,
    }
