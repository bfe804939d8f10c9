"""Import hooks: run code when, and only when, the program imports a module.

A finder is inserted first in ``sys.meta_path``. For the few modules in the table it lets the other finders find the
module, and makes the loader call our hook after (or before) the module is executed. A hook must never break the import.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence

from .reporting import warn

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from .runtime import Runtime

HOOKS = {
    # module: the functions (module, runtime) of this package that are called for it
    "aiohttp.web_protocol": ("drains.tracked_servers:track_aiohttp",),
    "asyncio.base_events": ("heartbeat:send_from_loops",),
    "asyncio.unix_events": ("program_handlers:wrap_handlers",),
    "eventlet.greenio.base": ("port_sharing:share_green_sockets",),
    "gevent._socket3": ("port_sharing:share_green_sockets",),
    "gevent.hub": ("program_handlers:wrap_handlers",),
    "grpc._server": ("drains.grpc_server:drain_servers",),
    "grpc.aio._server": ("drains.grpc_server:drain_servers",),
    "http.server": ("drains.http_handlers:track_requests",),
    "multiprocessing.util": ("worker_process:wrap_spawning",),
    "setproctitle": ("worker_process:give_title_back",),
    "socketserver": ("drains.socket_server:drain_servers",),
    "tornado.http1connection": ("drains.tracked_servers:track_tornado",),
    "tornado.httpserver": ("drains.tracked_servers:track_tornado",),
    "twisted.web.http": ("drains.twisted_server:track_channels",),
    "uvicorn.server": ("drains.uvicorn_server:drain_servers",),
    "uvloop": ("program_handlers:wrap_handlers", "port_sharing:report_listening", "heartbeat:send_from_loops"),
    "waitress.channel": ("drains.tracked_servers:track_waitress",),
    "waitress.task": ("drains.tracked_servers:track_waitress",),
    "websockets.asyncio.server": ("drains.websockets_server:drain_servers",),
    "wsgiref.handlers": ("drains.http_handlers:track_requests",),
}

BEFORE = frozenset(("setproctitle",))
"""Modules whose hook must run before they are executed."""

Hook = Callable[["ModuleType"], None]


def install_hooks(runtime: Runtime) -> None:
    """Install the hooks of ``HOOKS``, and run those of modules that are already imported."""
    for_module: Dict[str, Hook] = {}
    for name, functions in HOOKS.items():
        for_module[name] = _guarded(functions, runtime)
    for name in [name for name in for_module if name in sys.modules]:
        for_module.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, AfterImport(for_module))


def _guarded(functions: Sequence[str], runtime: Runtime) -> Hook:
    def hook(module: ModuleType) -> None:
        try:
            for each in functions:
                place, _, function = each.partition(":")
                getattr(importlib.import_module(f"{__package__}.{place}"), function)(module, runtime)
        except Exception as error:  # noqa: BLE001 - the program runs without the hook
            warn(f"cannot modify {module.__name__}, and leaves it unchanged: {error!r}")

    return hook


class AfterImport:
    """A finder that delegates to other finders, and wraps the loader to call a hook."""

    def __init__(self, hooks: Dict[str, Hook]) -> None:
        self._hooks = hooks
        self._finding: List[str] = []

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        """Find a module for ``sys.meta_path``."""
        if name not in self._hooks or name in self._finding:
            return None
        self._finding.append(name)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                spec: Optional[ModuleSpec] = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _Loader(spec.loader, self._hooks[name], name in BEFORE)  # type: ignore[assignment]
                    return spec
        finally:
            self._finding.remove(name)
        return None


class _Loader:
    def __init__(self, loader: Any, hook: Hook, before: bool) -> None:  # noqa: FBT001 - private, called once
        self._loader = loader
        self._hook = hook
        self._before = before

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        spec.loader = self._loader  # the module must see its own loader
        module: Optional[ModuleType] = self._loader.create_module(spec)
        spec.loader = self  # type: ignore[assignment]
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        if self._before:
            self._hook(module)
        self._loader.exec_module(module)
        if not self._before:
            self._hook(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
