"""What ``package.module:app`` may be, and the sentences for what it may not."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.worker.app_loader import interface_of, makes_an_app
from tests.tools.ports import free_port
from tests.worker.harness import Worker, get, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The plain form."""


def asgi_by_hand(scope: Any, receive: Any, send: Any) -> Any:
    """A middleware that returns what another app does."""
    return asgi(scope, receive, send)


def asgi2(scope: Any) -> Any:
    """The double callable of ASGI 2."""


def wsgi(environ: Any, start_response: Any) -> Any:
    """The plain form."""


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As Starlette, FastAPI and Django's ASGIHandler have it."""


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> Any:
        """As Flask and Django's WSGIHandler have it."""


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None:
        """As PEP 3333 has it: its instances are the answers."""

    def __iter__(self) -> Any:
        """The answer."""


class Asgi2Class:
    def __init__(self, scope: Any) -> None:
        """One for each connection."""

    async def __call__(self, receive: Any, send: Any) -> None:
        """The connection."""


class AsgiEndpoint:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        """As Starlette's HTTPEndpoint has it."""

    def __await__(self) -> Any:
        """The connection."""


def wrapped(app: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(app)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return app(*args, **kwargs)

    return wrapper


def opaque(*args: Any) -> Any:
    """Nothing can be told of it."""


async def asgi_with_more(extra: int, scope: Any, receive: Any, send: Any) -> None:
    """For a partial."""


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi, "asgi3"), (asgi_by_hand, "asgi3"), (AsgiObject(), "asgi3"), (AsgiEndpoint, "asgi3"),
        (wrapped(asgi), "asgi3"),
        (functools.partial(asgi_with_more, 1), "asgi3"), (opaque, "asgi3"), (lambda _a, _b, _c: None, "asgi3"),
        (asgi2, "asgi2"), (Asgi2Class, "asgi2"), (lambda _a: None, "asgi2"),
        (wsgi, "wsgi"), (WsgiObject(), "wsgi"), (WsgiClass, "wsgi"), (wrapped(wsgi), "wsgi"),
        (lambda _a, _b: None, "wsgi"),
        (WsgiObject().__call__, "wsgi"), (AsgiObject().__call__, "asgi3"),
    ],
)  # fmt: skip
def test_the_interface_is_told_by_what_an_app_takes(app: Any, interface: str) -> None:
    assert interface_of(app) == interface


@pytest.mark.parametrize("framework", ["flask:Flask", "fastapi:FastAPI", "starlette.applications:Starlette"])
def test_the_frameworks(framework: str) -> None:
    module, _, name = framework.partition(":")
    app = getattr(pytest.importorskip(module), name)(*(["x"] if name == "Flask" else []))
    assert interface_of(app) == ("wsgi" if name == "Flask" else "asgi3")
    assert not makes_an_app(app)


def no_argument() -> Any:
    """A factory."""


def optional_argument(config: Any = None) -> Any:
    """A factory, too."""


@pytest.mark.parametrize(
    ("thing", "makes"),
    [
        (no_argument, True), (optional_argument, True), (asgi, False), (wsgi, False), (opaque, False), (asgi2, False),
        (WsgiObject, True), (AsgiObject(), False), (5, False),
    ],
)  # fmt: skip
def test_factories_are_recognised(thing: Any, makes: bool) -> None:
    assert makes_an_app(thing) is makes


PACKAGE = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

class api:
    app = application

def create_app(name="x", *, answer=b"ok"):
    def made(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]
    return made

def make_app(settings):
    return create_app(settings)

number = 5
"""


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("application", b"ok"), ("api.app", b"ok"), ("create_app", b"ok"), ("create_app()", b"ok"),
        ("create_app('y', answer=b'made')", b"made"),
    ],
)  # fmt: skip
def test_an_app_is_found(tmp_path: Path, expression: str, answer: bytes) -> None:
    write(tmp_path / "package" / "web.py", PACKAGE)
    write(tmp_path / "package" / "__init__.py", "")
    port = free_port()
    with Worker("app", f"package.web:{expression}", "uvicorn", f"127.0.0.1:{port}", cwd=tmp_path) as worker:
        worker.ready()
        assert get(port).endswith(b"\r\n\r\n" + answer)
        worker.stop()
        assert worker.wait() == 0, worker.output


NOWHERE = "in {cwd}, and none is installed for {python}"
FORM = "expected a name or a call with constant arguments after the colon: app, api.app, create_app()"


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("pakage.web:application", f"there is no module 'pakage' {NOWHERE}. Did you mean package?"),
        ("package.wbe:application", f"there is no module 'package.wbe' {NOWHERE}. Did you mean web?"),
        ("package.web:aplication", "package.web has no 'aplication'. Did you mean application?"),
        ("package.web:api.ap", "package.web:api has no 'ap'. Did you mean app?"),
        ("package.web:number", "package.web:number is not an app: int objects are not callable"),
        ("package.web:a b", f"package.web:a b: {FORM}"),
        (
            "package.web:make_app",
            (
                "cannot create the app: package.web:make_app needs an argument. Pass constants in quotes, as in "
                "'package.web:make_app(\"production\")', or name a function without arguments that calls it"
            ),
        ),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path, server: str, target: str, sentence: str) -> None:
    pytest.importorskip(server)
    write(tmp_path / "package" / "web.py", PACKAGE)
    write(tmp_path / "package" / "__init__.py", "")
    with Worker("app", target, server, f"127.0.0.1:{free_port()}", cwd=tmp_path) as worker:
        assert worker.wait() == 3, worker.output
        ours = [line for line in worker.lines if line.startswith("cservice: ")]
        assert ours == ["cservice: " + sentence.format(cwd=tmp_path, python=worker.python)]
        assert "Traceback" not in worker.output


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
def test_an_error_at_import_is_shown_as_it_is(tmp_path: Path, server: str) -> None:
    pytest.importorskip(server)
    write(tmp_path / "web.py", "import helper\n")
    write(tmp_path / "helper.py", "def f():\n    raise ValueError('no database')\n\nf()\n")
    with Worker("app", "web:app", server, f"127.0.0.1:{free_port()}", cwd=tmp_path) as worker:
        assert worker.wait() == 1, worker.output
        begin = worker.lines.index("Traceback (most recent call last):")
        files = [line.split('"')[1] for line in worker.lines[begin:] if line.startswith("  File ")]
    assert files == [str(tmp_path / "web.py"), str(tmp_path / "helper.py"), str(tmp_path / "helper.py")]
    assert "ValueError: no database" in worker.lines


def test_a_missing_dependency_of_the_app_is_named(tmp_path: Path) -> None:
    write(tmp_path / "web.py", "import no_such_package.module\n")
    with Worker("app", "web:app", "uvicorn", f"127.0.0.1:{free_port()}", cwd=tmp_path) as worker:
        assert worker.wait() == 1, worker.output
        assert "ModuleNotFoundError: No module named 'no_such_package'" in worker.output
        assert f"web imports no_such_package, which is not installed for {worker.python}" in worker.output
        assert "-m pip install no_such_package" in worker.output


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("json.nosuch", "web imports json.nosuch, but the installed json has no such module"),
        ("helper.nosuch", "web imports helper.nosuch, but the installed helper has no such module"),
        ("hleper", "web imports hleper, which is neither in {cwd} nor installed. Did you mean helper?"),
    ],
)
def test_what_is_there_or_the_program_s_own_is_not_to_be_installed(tmp_path: Path, missing: str, told: str) -> None:
    """As by a wrong entry of INSTALLED_APPS."""
    write(tmp_path / "helper.py", "")
    write(tmp_path / "web.py", f"import importlib\nimportlib.import_module({missing!r})\n")
    with Worker("app", "web:app", "uvicorn", f"127.0.0.1:{free_port()}", cwd=tmp_path) as worker:
        assert worker.wait() == 1, worker.output
        assert told.format(cwd=tmp_path) in worker.output
        assert "pip install" not in worker.output


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
def test_a_server_that_is_not_installed_is_named(tmp_path: Path, server: str) -> None:
    write(tmp_path / "web.py", PACKAGE)
    write(tmp_path / "hide.py", f"import importlib.util as u\nf = u.find_spec\n"
          f"u.find_spec = lambda name, *a: None if name == {server!r} else f(name, *a)\n")  # fmt: skip
    write(tmp_path / "sitecustomize.py", "import hide\n")
    env = {"PYTHONPATH": str(tmp_path)}
    with Worker("app", "web:application", server, f"127.0.0.1:{free_port()}", cwd=tmp_path, env=env) as worker:
        assert worker.wait() == 3, worker.output
        assert worker.output == (
            f"cservice: the app is served by {server}, but {server} is not installed for {worker.python}. "
            f"Install it: {worker.python} -m pip install {server}"
        )


@pytest.mark.parametrize("framework", ["flask", "fastapi", "starlette", "django-less"])
def test_hello_world(tmp_path: Path, framework: str) -> None:
    programs = {
        "flask": "import flask\napp = flask.Flask(__name__)\n@app.get('/')\ndef index(): return 'ok'\n",
        "fastapi": "import fastapi\napp = fastapi.FastAPI()\n@app.get('/')\ndef index(): return 'ok'\n",
        "starlette": "from starlette.applications import Starlette\nfrom starlette.responses import PlainTextResponse\n"
                     "from starlette.routing import Route\n"
                     "app = Starlette(routes=[Route('/', lambda request: PlainTextResponse('ok'))])\n",
        "django-less": "def app(environ, start_response):\n    start_response('200 OK', [])\n    yield b'ok'\n",
    }  # fmt: skip
    if framework in ("flask", "fastapi"):
        pytest.importorskip(framework)
    write(tmp_path / "web.py", programs[framework])
    port = free_port()
    with Worker("app", "web:app", "uvicorn", f"127.0.0.1:{port}", "arg", cwd=tmp_path) as worker:
        worker.ready()
        answer = get(port)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"o" in answer.partition(b"\r\n\r\n")[2]
        worker.stop()
        assert worker.wait() == 0, worker.output
