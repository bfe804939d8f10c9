"""The command line, as a process, against real doors."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service.commands.registry import BUILT_IN, COMMANDS
from tests.control.machine import KEY, Running, running
from tests.tools.service import CSERVICE, Done, cservice

if TYPE_CHECKING:
    from pathlib import Path


def popen(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([CSERVICE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def on_terminal(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run the command line on a terminal of its own; return its exit code and what the terminal shows."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **(env or {})}
    process = subprocess.Popen(
        [CSERVICE, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
    )
    os.close(theirs)
    os.write(ours, stdin.encode())
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(20), shown.decode().replace("\r\n", "\n")


def test_workers_piped_is_a_plain_table(service: Running) -> None:
    done = cservice("workers")
    assert (done.code, done.err) == (0, "")
    heads, *rows = done.out.splitlines()
    assert heads.split() == ["GROUP", "SLOT", "PID", "STATE", "GEN", "UPTIME", "RESTARTS", "MEMORY", "CPU", "LISTENING"]
    assert [row.split()[:4] for row in rows] == [["web", "1", "101", "serving"], ["web", "2", "102", "serving"]]
    assert "1m 15s" in rows[0]
    assert "30 MB" in rows[0]
    assert "\x1b" not in done.out


def test_workers_on_a_terminal_is_a_table_with_colour(service: Running) -> None:
    code, shown = on_terminal("workers")
    assert code == 0
    assert "\x1b[32mserving\x1b[0m" in shown
    code, shown = on_terminal("workers", env={"NO_COLOR": "1"})
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("--json", "workers"), "workers"),
        (("workers", "--json"), "workers"),
        (("health", "--json"), "status"),
        (("info", "--json"), "groups"),
        (("operations", "--json"), "operations"),
        (("version", "--json"), "version"),
        (("help", "--json"), "commands"),
        (("help", "restart", "--json"), "parameters"),
        (("restart", "all", "--json"), "steps"),
        (("--json", "restart all"), "steps"),
        (("scale", "+1", "--json"), "steps"),
        (("shutdown", "all", "--json"), "steps"),
        (("exit", "now", "--json"), "exiting"),
    ],
)
def test_json_is_one_document_and_nothing_else(service: Running, arguments: tuple[str, ...], key: str) -> None:
    done = cservice(*arguments)
    assert (done.code, done.err) == (0, "")
    assert key in json.loads(done.out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("restart", "all"), {"restart": "all", "timeout": None}),
        (("restart all",), {"restart": "all", "timeout": None}),
        (("restart all", "--access-key", KEY), {"restart": "all", "timeout": None}),
        (("restart", "web", "5"), {"restart": "web", "timeout": 5.0}),
        (("restart", "web", "timeout:5"), {"restart": "web", "timeout": 5.0}),
        (("restart", "web", "--timeout", "1500ms"), {"restart": "web", "timeout": 1.5}),
        (("restart", "--timeout=5m", "web"), {"restart": "web", "timeout": 300.0}),
        (("restart", "web", '{"timeout": 5}'), {"restart": "web", "timeout": 5.0}),
        (('restart web {"timeout": 5}',), {"restart": "web", "timeout": 5.0}),
        (("scale", "4"), {"scale": "4", "group": None, "timeout": None}),
        (("scale", "-1"), {"scale": "-1", "group": None, "timeout": None}),
        (("scale", "+1", "web", "5"), {"scale": "+1", "group": "web", "timeout": 5.0}),
        (("scale -1 web",), {"scale": "-1", "group": "web", "timeout": None}),
        (("shutdown", "web"), {"shutdown": "web", "timeout": None}),
        (("exit", "now"), {"exit": "now"}),
    ],
)
def test_commands(service: Running, arguments: tuple[str, ...], told: dict[str, object]) -> None:
    done = cservice(*arguments)
    assert done.code == 0, done
    assert service.machine.told == [told]


def test_an_operation_prints_one_line_a_step(service: Running) -> None:
    done = cservice("restart", "all")
    assert done.out.splitlines() == [
        "restart all begins",
        "web.1 replaced",
        "web.2 replaced",
        "restart all: done (2 of 2)",
    ]
    assert done.err == ""


@pytest.mark.parametrize("at", ["unix", "tcp"])
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("restart", "nosuch"), 1, ("nosuch", "workers")),
        (("restart",), 2, ("restart", "all|GROUP|SLOT|PID", "missing")),
        (("restart", "all", "5", "6"), 2, ("'6'", "too many")),
        (("restart", "all", "soon"), 2, ("'soon'", "not a duration", "10s")),
        (("restart", "all", "0"), 2, ("'0'", "no time")),
        (("restart", "all", "--tiemout", "5"), 2, ("--tiemout", "--timeout")),
        (("restart", "all", '{"timeout": }'), 2, ("JSON",)),
        (("restart", "all", '{"tiemout": 5}'), 2, ("tiemout", "timeout")),
        (("restart", "a l l"), 2, ("a l l", "pid")),
        (("scale",), 2, ("N|+N|-N",)),
        (("scale", "many"), 2, ("many", "+1")),
        (("scale", "1.5"), 2, ("1.5", "+1")),
        (("exit",), 2, ("exit now", "shutdown all")),
        (("exit", "later"), 2, ("later", "now")),
        (("workers", "5"), 2, ("'5'", "too many")),
        (("operations", "77"), 1, ("77",)),
        (("help", "restrt"), 2, ("restrt", "restart")),
        (("restrt", "all"), 2, ("restrt", "restart")),
        (("restrt all",), 2, ("restrt", "restart")),
        (("restart 'all",), 2, ("quotation",)),
        (("__init__",), 2, ("__init__",)),
    ],
)
def test_a_sentence_and_an_exit_code(
    service: Running, at: str, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    where = ("--url", f"http://localhost:{service.port}", "--access-key", KEY) if at == "tcp" else ()
    done = cservice(*where, *arguments)
    assert done.code == code, done
    assert done.out == ""
    for word in words:
        assert word in done.err
    assert all("nosuch" in told.values() for told in service.machine.told)
    told = cservice(*where, "--json", *arguments)
    assert told.code == code
    assert json.loads(told.out)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("workers",), 3, ("no service 'default'", "cservice start")),
        (("--name", "other", "workers"), 3, ("no service 'other'",)),
        (("workers", "--name", "other"), 3, ("no service 'other'",)),
        (("--name", "o/ther", "workers"), 2, ("o/ther", "letter")),
        (("--url", "ftp://localhost", "workers"), 2, ("--url", "http://localhost:11987")),
        (("--bad", "workers"), 2, ("--bad",)),
        (("--nmae", "x", "workers"), 2, ("--nmae", "--name")),
        (("workers", "--name"), 2, ("--name", "argument")),
        ((), 3, ("no service 'default'",)),
        (("--json", "--name"), 2, ("--name",)),
    ],
)
def test_without_a_service(arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    done = cservice(*arguments)
    assert done.code == code, done
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    if "--json" in arguments:
        assert "error" in json.loads(done.out)
    else:
        assert done.out == ""


def test_a_refused_key(service: Running) -> None:
    url = f"http://localhost:{service.port}"
    assert cservice("--url", url, "workers").code == 4
    assert cservice("workers", "--url", url, "--access-key", "wrong").code == 4
    assert cservice("workers", "--url", url, env={"CSERVICE_ACCESS_KEY": KEY}).code == 0
    unknown = cservice("greet", "Ann", "--url", url, "--access-key", "wrong")
    assert (unknown.code, "the access key is wrong" in unknown.err) == (4, True), "it may be a command of its own"


def test_the_key_may_stand_in_a_file_that_only_its_owner_reads(service: Running, tmp_path: Path) -> None:
    where = ("--url", f"http://localhost:{service.port}", "--access-key-file", str(tmp_path / "key"))
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "key").chmod(0o644)
    done = cservice(*where, "workers")
    assert (done.code, "chmod 600" in done.err) == (2, True)
    (tmp_path / "key").chmod(0o600)
    assert cservice(*where, "workers").code == 0


def test_the_name_from_the_environment(run_dir: Path) -> None:
    with running(run_dir, "second", keys=()):
        assert cservice("info", env={"CSERVICE_NAME": "second"}).code == 0
        assert cservice("info", "--name", "third", env={"CSERVICE_NAME": "second"}).code == 3


def fail_when_followed(service: Running, state: str) -> None:
    assert service.machine.following.wait(20)
    service.machine.call(
        service.machine.finish, service.machine.done[0], state, "worker web.1 died: ImportError: nosuch"
    )


@pytest.mark.parametrize("state", ["failed", "undone", "cancelled"])
def test_the_reason_of_a_failed_operation_goes_to_standard_error(held: Running, state: str) -> None:
    held.machine.following.clear()
    process = popen("restart", "all")
    fail_when_followed(held, state)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ImportError" not in out
    assert f"restart all: {state}: worker web.1 died: ImportError: nosuch" in err
    rejoined = cservice("operations", "1", "--json")
    assert rejoined.code == 1
    assert json.loads(rejoined.out)["operation"]["state"] == state


def test_no_wait_and_rejoin(held: Running) -> None:
    done = cservice("restart", "all", "--no-wait")
    assert done.code == 0
    assert "cservice operations 1" in done.out
    held.machine.following.clear()
    process = popen("operations", "1")
    assert held.machine.following.wait(20)
    held.machine.call(held.machine.finish, held.machine.done[0], "done", None)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "restart all begins" in out
    assert "restart all: done" in out
    assert "restart all" in cservice("operations").out


def test_ctrl_c_leaves_the_operation_and_says_how_to_rejoin(held: Running) -> None:
    held.machine.following.clear()
    process = popen("restart", "all")
    assert held.machine.following.wait(20)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "restart all begins" in out
    assert "cservice operations 1" in err
    assert held.machine.done[0]["state"] == "running"


def test_a_reader_that_leaves_early_is_no_error(service: Running) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen([CSERVICE, "workers"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (141, "")


def test_the_console_reads_commands_from_a_pipe(service: Running) -> None:
    done = cservice(stdin="# a comment\n\nworkers\nrestart web 5\nhealth\n")
    assert (done.code, done.err) == (0, "")
    assert "restart web: done (2 of 2)" in done.out
    assert "ok: 2 of 2 serving" in done.out
    assert "default>" not in done.out
    assert service.machine.told == [{"restart": "web", "timeout": 5.0}]


@pytest.mark.parametrize(
    ("typed", "code", "told"),
    [
        ("", 0, []),
        ("quit\nexit now\n", 0, []),
        ("exit\nexit now\n", 0, []),
        ("restrt all\nworkers\n", 2, []),
        ("restart nosuch\nworkers\n", 1, ["nosuch"]),
        ("restart 'all\n", 2, []),
        ("scale -1\n", 0, ["-1"]),
        ("exit now\nworkers\n", 0, ["now"]),
        ("shutdown all\nworkers\n", 0, ["all"]),
    ],
)
def test_what_a_console_ends_with(service: Running, typed: str, code: int, told: list[str]) -> None:
    done = cservice(stdin=typed)
    assert done.code == code, done
    assert [next(iter(entry.values())) for entry in service.machine.told] == told


def test_the_console_with_json_prints_a_document_a_line(service: Running) -> None:
    done = cservice("--json", stdin="workers\nrestart all\nrestrt\n")
    documents = [json.loads(line) for line in done.out.splitlines()]
    assert [next(iter(document)) for document in documents] == ["service", "id", "error"]


def test_the_console_on_a_terminal_prompts(service: Running) -> None:
    code, shown = on_terminal(stdin="health\nquit\n")
    assert code == 0
    assert "default> " in shown
    assert "2 of 2 serving" in shown


@pytest.mark.parametrize("command", BUILT_IN)
def test_every_command_has_help(command: str) -> None:
    definition = COMMANDS.get(command)
    assert definition.name == command
    assert definition.summary.endswith(".")
    long = cservice(command, "--help")
    short = cservice("help", command)
    assert (long.code, short.code) == (0, 0)
    assert definition.usage in short.out
    for parameter in definition.parameters:
        assert parameter.doc.split("\n")[0][:30] in short.out
    assert long.out.startswith("Usage: cservice ")


def test_help_lists_every_command_once() -> None:
    done = cservice("--help")
    assert done.code == 0
    for command in BUILT_IN:
        assert len(re.findall(rf"^  {command} ", done.out, re.MULTILINE)) == 1
    assert "Traceback" not in done.err
    listed = cservice("help").out
    for command in BUILT_IN:
        assert re.search(rf"^  {command}\b", listed, re.MULTILINE)


def test_version_without_a_service() -> None:
    assert cservice("version").code == 0
    assert cservice("--version").out.startswith("cluster-service ")
    module = subprocess.run(
        [sys.executable, "-m", "cluster_service", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == cservice("--version").out


def test_the_files_of_the_commands_are_those_that_are_listed() -> None:
    import cluster_service.commands as package

    files = {name.removesuffix(".py") for name in os.listdir(package.__path__[0]) if name.endswith(".py")}
    shared = {"__init__", "arguments", "json_text", "registry", "service_interface"}
    assert files - shared == set(BUILT_IN)


def test_a_short_command_imports_nothing_heavy(service: Running) -> None:
    program = (
        "import sys; from cluster_service.cli.command_line import run; code = run(['workers', '--json']); "
        "heavy = {'rich', 'starlette', 'uvicorn', 'asyncio', 'msgspec', 'psutil', 'subprocess', 'tomllib', 'logging'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_a_name_in_the_service_s_answer_cannot_steer_the_terminal(service: Running) -> None:
    service.machine.groups = {"web\x1b[2J": [1]}
    for done in (cservice("workers"), Done(*on_terminal("workers"), "")):
        assert "\x1b[2J" not in done.out
        assert "\\x1b[2J" in done.out


def test_shutdown_returns_when_the_name_is_free_even_if_there_was_nothing_to_wait_for(run_dir: Path) -> None:
    with running(run_dir, at_once=True) as service:
        assert cservice("shutdown", "all").code == 0
        assert cservice("workers").code == 3
        assert service.machine.ended.is_set()


def test_an_interrupt_in_the_middle_of_the_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import sys\nprint('importing', flush=True)\nsys.stdin.read()\n")
    program_text = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['cservice', 'workers']\n"
        "from cluster_service.__main__ import main\nmain()"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program_text],  # isolated, as the command line is
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"importing\n"
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == -signal.SIGINT
        assert program.stderr is not None
        assert program.stderr.read() == b""
