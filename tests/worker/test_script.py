"""A script in a worker is what it is alone: its namespace, its output, its exit code, its children."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.worker.harness import DEADLINE, Ports, Worker, write

if TYPE_CHECKING:
    from pathlib import Path

FACTS = """
import json, signal, sys, threading, warnings
print(json.dumps({
    "names": sorted(vars()), "argv": sys.argv, "path": sys.path, "file": __file__, "name": __name__, "spec": __spec__,
    "loader": [type(__loader__).__name__, __loader__.path], "builtins": type(__builtins__).__name__, "doc": __doc__,
    "main": sys.modules["__main__"].__dict__ is globals(), "flags": str(sys.flags), "filters": str(warnings.filters),
    "threads": [repr(type(each)) for each in threading.enumerate()], "interrupt": str(signal.getsignal(signal.SIGINT)),
    "orig_argv": getattr(sys, "orig_argv", [])[-3:], "hook": sys.excepthook is sys.__excepthook__,
}))
"""

PROGRAMS: dict[str, str] = {
    "raises": "def f():\n    raise ValueError('no')\n\nf()\n",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('two') from error\n",
    "syntax": "x = 1\nif x\n    pass\n",
    "exits": "import sys\nprint('out')\nsys.exit(7)\n",
    "exits with text": "import sys\nsys.exit('the reason')\n",
    "exits with none": "raise SystemExit\n",
    "interrupted": "raise KeyboardInterrupt\n",
    "hook": (
        "import sys, traceback\n"
        "sys.excepthook = lambda t, e, tb: print(t, e, len(traceback.extract_tb(tb)))\n"
        "1 / 0\n"
    ),
    "missing module": "import no_such_module\n",
    "raises at exit": "import atexit\natexit.register(lambda: print('bye', __name__))\nprint('hi')\n1 / 0\n",
    "deprecated": "import warnings\nwarnings.warn('old', DeprecationWarning)\nprint('on')\n",
    "thread": "import threading\nt = threading.Thread(target=lambda: print('in a thread'))\nt.start()\n",
    "recursion": "class A: pass\nimport pickle\nprint(type(pickle.loads(pickle.dumps(A()))) is A)\n",
}


def alone(python: str, *argv: str, cwd: Path | None = None) -> tuple[int, str]:
    """What it does without a service."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [python, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        check=False, env=environment, cwd=cwd, timeout=DEADLINE,
    )  # fmt: skip
    return done.returncode, done.stdout.rstrip("\n")


def test_it_finds_what_it_finds_alone(python: str, tmp_path: Path) -> None:
    script = write(tmp_path / "dir" / "worker.py", FACTS)
    with Worker("script", script, "a", "b", python=python) as worker:
        assert worker.wait() == 0, worker.output
        code, text = alone(python, script, "a", "b")
        assert code == 0
        assert json.loads(worker.output) == json.loads(text)


WHAT_IS_THERE = "import sys\nnames = sorted(sys.modules)\nimport json\nprint(json.dumps(names))\n"
UNUSUAL = ("traceback", "ctypes", "socket", "select", "queue", "random", "secrets", "email", "code", "platform", "test")


def loaded_by_the_runtime(python: str, script: str) -> list[str]:
    """The modules that a script finds imported in a worker, and not alone."""
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        there = set(json.loads(worker.output))
    return sorted({name.partition(".")[0] for name in there - set(json.loads(alone(python, script)[1]))})


def test_modules_beside_a_script_may_have_the_names_of_the_library_s(python: str, tmp_path: Path) -> None:
    names = loaded_by_the_runtime(python, write(tmp_path / "first.py", WHAT_IS_THERE))
    names = sorted({*names, *UNUSUAL} - {"cluster_service", "threading"})  # the interpreter itself needs the last
    for name in names:
        write(tmp_path / f"{name}.py", "OWN = 'the script has its own'\n")
    text = "import sys\n" + "".join(
        f"import {name}\nsys.stdout.write('{name} ' + getattr({name}, 'OWN', 'not its own') + chr(10))\n"
        for name in names
    )
    script = write(tmp_path / "worker.py", text)
    code, said = alone(python, script)
    assert code == 0, said
    assert said.count("the script has its own") > len(UNUSUAL)
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        assert worker.output == said


def test_a_package_replaces_a_module_and_a_directory_alone_does_not(python: str, tmp_path: Path) -> None:
    write(tmp_path / "json" / "__init__.py", "from .own import OWN\n")
    write(tmp_path / "json" / "own.py", "OWN = 1\n")
    (tmp_path / "signal").mkdir()
    script = write(tmp_path / "worker.py", "import json, signal\nprint(json.OWN, hasattr(signal, 'SIGTERM'))\n")
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        assert (0, worker.output) == alone(python, script) == (0, "1 True")


def test_the_runtime_keeps_the_library_s_modules(python: str, tmp_path: Path) -> None:
    for name in ("json", "signal", "socket", "select", "traceback", "ctypes", "struct", "selectors", "types", "queue"):
        write(tmp_path / f"{name}.py", "")
    script = write(
        tmp_path / "worker.py",
        """
        import cluster_service as cservice, time

        def stopped():
            print("stopped", flush=True)
            raise ValueError("in the callback")

        cservice.worker_ready(on_worker_stop=stopped)
        while True:
            time.sleep(0.1)
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert "stopped" in worker.output
        assert "ValueError: in the callback" in worker.output


def test_a_link_imports_from_beside_its_target(python: str, tmp_path: Path) -> None:
    script = write(tmp_path / "release" / "worker.py", FACTS)
    (tmp_path / "current.py").symlink_to(script)
    with Worker("script", str(tmp_path / "current.py"), "a", "b", python=python) as worker:
        assert worker.wait() == 0, worker.output
        assert json.loads(worker.output) == json.loads(alone(python, str(tmp_path / "current.py"), "a", "b")[1])


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_it_ends_as_it_ends_alone(python: str, tmp_path: Path, name: str) -> None:
    script = tmp_path / "worker.py"
    script.write_text(PROGRAMS[name])
    with Worker("script", str(script), python=python) as worker:
        code = worker.wait()
        assert (code, worker.output) == alone(python, str(script))


def test_it_leaves_nothing_to_warn_of(python: str, tmp_path: Path) -> None:
    script = write(tmp_path / "worker.py", "import socket, asyncio\nprint('here')\n")
    with Ports() as ports:
        env = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
        with Worker("script", script, python=python, share="python", ports=ports, env=env) as worker:
            assert worker.wait() == 0
            assert worker.output == "here"


def test_a_file_in_no_known_encoding_is_a_syntax_error(tmp_path: Path) -> None:
    """The interpreter's own words for it differ between a file and a text; ours is a text."""
    script = tmp_path / "worker.py"
    script.write_bytes(b"x = '\xff'\n")
    with Worker("script", str(script)) as worker:
        assert worker.wait() == 1
        assert worker.lines[0].strip().startswith(f'File "{script}", line 1')
        assert worker.lines[-1].startswith("SyntaxError: (unicode error)")


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_its_multiprocessing_children_find_everything(python: str, tmp_path: Path, method: str) -> None:
    script = write(
        tmp_path / "worker.py",
        f"""
        import multiprocessing, os
        import cluster_service  # installed for us, not necessarily for this interpreter

        class Thing:
            def __init__(self, n): self.n = n

        def double(thing):
            cluster_service.worker_ready()
            return Thing(thing.n * 2), os.getpid()

        if __name__ == "__main__":
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                results = pool.map(double, [Thing(n) for n in range(4)], chunksize=1)
            print([thing.n for thing, pid in results], os.getpid() not in [pid for thing, pid in results])
        """,
    )
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        assert worker.output == "[0, 2, 4, 6] True"


def test_a_terminated_child_dies_as_it_does_alone(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import multiprocessing, signal
        def hold(end):
            end.send("up")
            wait()
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=hold, args=(theirs,))
        child.start()
        ours.recv()
        child.terminate()
        child.join()
        print(child.exitcode)
        """,
    )
    with Worker("script", script, python=python) as worker:
        assert worker.wait() == 0, worker.output
        assert worker.output == "-15"


def test_a_fork_is_alone_in_its_process(python: str, tmp_path: Path) -> None:
    """With another thread about, a fork warns (3.12) and is in danger."""
    script = write(
        tmp_path / "worker.py",
        """
        import os, warnings
        warnings.simplefilter("error")
        for _ in range(20):
            pid = os.fork()
            if not pid:
                os._exit(len(os.listdir("/proc/self/task")))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        import cluster_service
        cluster_service.worker_ready()
        wait()
        """,
    )
    with Worker("script", script, python=python) as worker:
        worker.ready()
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.output == ""


def test_its_environment_holds_what_is_documented_and_no_more(python: str, tmp_path: Path) -> None:
    script = write(
        tmp_path / "worker.py",
        """
        import os, subprocess
        print(sorted(name for name in os.environ if name.startswith(("CSERVICE", "NOTIFY"))))
        print(subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE, text=True).stdout.split())
        """,
    )
    env = {"NOTIFY_SOCKET": "@x", "CSERVICE_ROLE": "x", "CSERVICE_ACCESS_KEY": "secret"}
    with Worker("script", script, python=python, env=env) as worker:
        assert worker.wait() == 0, worker.output
        names, fds = worker.lines
    public = [f"CSERVICE_{name}" for name in ("GENERATION", "GROUP", "NAME", "REASON", "SLOT")]
    assert names == str([*public, "NOTIFY_SOCKET"])
    assert fds == str(["0", "1", "2", "3"])  # the last is what lists them


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.py", None, "cservice: cannot read {path}: No such file or directory"),
        ("program", b"\x7fELF\0\0", "cservice: {path} is not a Python file. Run any other program after '--'"),
        ("server.js", b"const x = require('http');\n", "cservice: {path} was run as a Python file."),
    ],
)
def test_what_cannot_be_run_is_told_in_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with Worker("script", str(path)) as worker:
        assert worker.wait() == (1 if name.endswith(".js") else 2)
        assert sentence.format(path=path) in worker.output


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with Worker("script", str(tmp_path)) as worker:
        assert worker.wait() == 2
        told = f"{tmp_path} is a directory without a __main__.py; name the Python file to run"
        assert worker.output == f"cservice: {told}"


def test_lines_are_seen_at_once(python: str, tmp_path: Path) -> None:
    script = write(tmp_path / "worker.py", "import signal\nprint('here')\nwait()\n")
    with Worker("script", script, python=python) as worker:
        worker.line("here")
        worker.stop()
        assert worker.wait() == 0


def test_an_old_interpreter_is_told_so(tmp_path: Path) -> None:
    """The file must be read by any Python. Here one claims to be old."""
    script = write(tmp_path / "worker.py", "print('never')\n")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 8, 1)\n")
    with Worker("script", script, env={"PYTHONPATH": str(site)}) as worker:
        assert worker.wait() == 1
        assert "a worker needs Python 3.9 or newer" in worker.output
        assert "is 3.8; choose another with --python" in worker.output
