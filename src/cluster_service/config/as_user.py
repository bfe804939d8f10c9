"""Examination of files named by a configuration or a release, as the user of the workers.

``call`` runs one of ``FUNCTIONS``. For another identity it runs in a new process of ours with that identity: a path
controlled by that user is never followed, opened or read with the privileges of the service, and one that blocks (a
FIFO, a FUSE file system) delays at most ``SECONDS``. The answer is JSON of limited size.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster_service.machine.identity import Identity

SECONDS = 10.0
MAX_ANSWER_BYTES = 4 << 20

FUNCTIONS = {
    "resolve": "releases:resolve_here",
    "release_of": "releases:release_here",
    "directory": "releases:check_directory",
    "files": "releases:check_files",
    "script": "targets:check_script",
    "interpreter": "targets:first_line_python",
    "variables": "environment_files:read_here",
}
"""Functions that can be called, by name. Arguments and results are JSON values."""
_LATE_IMPORTS = ("difflib", "encodings.utf_8_sig", "shutil")
"""Modules that the functions import late: the other user may have no access to the files of our interpreter."""


def call(identity: Identity, name: str, *arguments: Any) -> Any:
    """Return the result of the function *name*, called as *identity*. Blocking. Raises CommandError."""
    from cluster_service.machine.identity import OWN  # this file is also run as a program

    return _function(name)(*arguments) if identity == OWN else _elsewhere(identity, name, arguments)


def _function(name: str) -> Any:
    module, _, function = FUNCTIONS[name].partition(":")
    return getattr(importlib.import_module(f"cluster_service.config.{module}"), function)


def _elsewhere(identity: Identity, name: str, arguments: tuple[Any, ...]) -> Any:
    import subprocess  # rarely needed, and slow to import

    from cluster_service.errors import CODES, CommandError
    from cluster_service.machine import shortage

    who = identity.name or identity.uid
    request = json.dumps(
        {"uid": identity.uid, "gid": identity.gid, "groups": identity.groups(), "name": name, "arguments": arguments}
    ).encode()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", os.path.abspath(__file__)],
            input=request,
            capture_output=True,
            cwd="/",
            start_new_session=True,
            timeout=SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout) if len(done.stdout) <= MAX_ANSWER_BYTES else {}
        if "result" in answer:
            return answer["result"]
        code, message, hint = (str(part) for part in answer["error"])
    except subprocess.TimeoutExpired:
        late = f"the files of user {who} could not be read within {SECONDS:g} s"
        raise CommandError("failed", late, "Is a FIFO or a file system that does not answer among them?") from None
    except OSError as error:
        raise CommandError("failed", f"no process for user {who}: {shortage.explain(error)}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        said = (done.stderr.decode("utf-8", "replace").splitlines() or ["nothing"])[-1][:300]
        raise CommandError("failed", f"cannot look at the files of user {who}: {said}") from None
    raise CommandError(code if code in CODES else "failed", message, f"{hint} (Looked at as user {who}.)".lstrip())


def main() -> None:
    """Answer the request on standard input."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from cluster_service.errors import CommandError  # after the path is set
    from cluster_service.machine.identity import forbid_new_privileges

    request = json.load(sys.stdin)
    function = _function(request["name"])
    for module in _LATE_IMPORTS:
        importlib.import_module(module)
    os.setgroups(request["groups"])
    os.setresgid(*[request["gid"]] * 3)
    os.setresuid(*[request["uid"]] * 3)
    forbid_new_privileges()
    try:
        answer: dict[str, Any] = {"result": function(*request["arguments"])}
    except CommandError as error:
        answer = {"error": [error.code, error.message, error.hint]}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
