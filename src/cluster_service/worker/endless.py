"""Which answers never end by themselves; and in WSGI, how they are ended when the worker stops."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")
"""Content types of answers that go on until somebody ends them."""
_TYPE, _LENGTH = "content-type", "content-length"


def endless(method: str, headers: Any) -> bool:
    """Whether the answer with *headers*, pairs of text or of bytes, to a request of *method* ends by itself never.

    Only one to a GET: that to a POST (a language model's words, say) is finite, and cannot be asked for again. Nor is
    one whose length is told.
    """
    if method != "GET" or not isinstance(headers, (list, tuple)):
        return False
    found = False
    for name, value in headers:
        if len(name) in (len(_TYPE), len(_LENGTH)):
            text = _text(name)
            if text == _LENGTH:
                return False
            found = found or (text == _TYPE and _text(value).startswith(ENDLESS))
    return found


def _text(part: Any) -> str:
    return (part if isinstance(part, str) else bytes(part).decode("latin-1")).strip().lower()


def ending_wsgi(app: Callable[..., Any], stopping: Callable[[], bool]) -> Callable[..., Any]:
    """Return the WSGI app *app*, whose streams of events end with the first event that comes when it is *stopping*."""

    def ending(environ: Dict[str, Any], start_response: Any) -> Any:
        never_ends = False

        def watching(status: str, headers: List[Tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal never_ends
            never_ends = endless(environ["REQUEST_METHOD"], headers)
            return start_response(status, headers, *exc_info)

        body = app(environ, watching)
        file_wrapper = environ.get("wsgi.file_wrapper")
        finite = (list, tuple, bytes, file_wrapper) if isinstance(file_wrapper, type) else (list, tuple, bytes)
        if isinstance(body, finite):
            return body  # and some servers have a faster way for it
        return Body(body, lambda: never_ends and stopping())

    return ending


class Body:
    """The parts of a WSGI app's answer, until *over*."""

    def __init__(self, body: Any, over: Callable[[], bool]) -> None:
        self._body = body
        self._parts = iter(body)
        self._over = over

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> Any:
        part = next(self._parts)
        if self._over():
            raise StopIteration
        return part

    def close(self) -> None:
        """Part of WSGI: the server has done with it."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
