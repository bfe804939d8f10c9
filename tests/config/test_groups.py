"""Several groups in one file: what stands outside is every group's, and who waits for whom must have a beginning."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cluster_service import config
from tests.config.asking import make, sentence

if TYPE_CHECKING:
    from pathlib import Path

    from cluster_service.core.model.spec import GroupSpec

SHOP = """
name = "shop"
target = "worker.py"
workers = 2
stop_timeout = "5s"

[env]
LEVEL = "info"
SHARED = "1"

[groups.db]
singleton = true

[groups.web]
target = "shop:application"
workers = 3
bind = [":8001"]
depends_on = ["db"]
env = { LEVEL = "debug" }

[groups.jobs]
target = "v2.py"
cwd = "releases"
depends_on = ["db:started", "web:ready"]
"""

CIRCLE = """target = "worker.py"
[groups.a]
depends_on = ["c"]
[groups.b]
depends_on = ["a"]
[groups.c]
depends_on = ["b:started"]
"""


def groups(here: Path, text: str = SHOP, **options: Any) -> dict[str, GroupSpec]:
    (here / "cluster-service.toml").write_text(text)
    return {group.name: group for group in make(None, **options).spec.groups}


def test_each_group_has_its_own_and_what_is_everybody_s(here: Path) -> None:
    found = groups(here)
    assert list(found) == ["db", "web", "jobs"]
    assert [found[name].count for name in found] == [1, 3, 2]
    assert [found[name].release.target for name in found] == [
        str(here / "worker.py"), "shop:application", str(here / "releases" / "v2.py"),
    ]  # fmt: skip
    assert {group.stop_timeout for group in found.values()} == {5.0}
    assert dict(found["web"].release.env) == {"LEVEL": "debug", "SHARED": "1"}
    assert dict(found["jobs"].release.env) == {"LEVEL": "info", "SHARED": "1"}
    assert found["web"].release.binds == ("0.0.0.0:8001",)
    assert (found["db"].singleton, found["web"].singleton) == (True, False)
    assert found["db"].depends_on == ()
    assert found["web"].depends_on == (("db", "ready"),)
    assert found["jobs"].depends_on == (("db", "started"), ("web", "ready"))
    assert make(None).name == "shop"


def test_they_travel_as_json(here: Path) -> None:
    groups(here)
    settings = make(None)
    again = config.Settings.from_json(json.loads(json.dumps(settings.to_json())))
    assert again == settings
    assert again.origin == settings.origin


def test_flags_are_for_every_group_but_a_singleton_stays_one(here: Path) -> None:
    found = groups(here, workers=4, env=["LEVEL=trace"], source="flags")
    assert [found[name].count for name in found] == [1, 4, 4]
    assert dict(found["web"].release.env) == {"LEVEL": "trace", "SHARED": "1"}


def test_the_nearer_timeout_counts(here: Path) -> None:
    text = 'target = "worker.py"\nstop_timeout = "5s"\n[groups.a]\ntimeout = "7s"\n[groups.b]\nstop_timeout = "9s"\n'
    found = groups(here, text)
    assert [group.stop_timeout for group in found.values()] == [7.0, 9.0]


def test_one_of_them(here: Path) -> None:
    (here / "cluster-service.toml").write_text(SHOP)
    settings = make(None, group="web", workers=1)
    assert [(group.name, group.count, group.depends_on) for group in settings.spec.groups] == [("web", 1, ())]
    assert settings.warnings == ("web is started without what it depends on: db",)
    (group,) = make("shop:application", group="web").spec.groups
    assert group.release.target == "shop:application"


def test_a_target_for_several_groups_is_whose(here: Path) -> None:
    (here / "cluster-service.toml").write_text(SHOP)
    told = sentence(lambda: make("worker.py"))
    assert "db, web, jobs" in told
    assert "--group db" in told
    assert "did you mean 'jobs'?" in sentence(lambda: make(None, group="job"))


def test_a_group_that_is_added_waits_for_one_that_is_there(here: Path) -> None:
    group = config.group_settings("worker.py", {"depends_on": ["web"]}, directory=str(here), taken=("web",))
    assert group.depends_on == (("web", "ready"),)
    told = sentence(
        lambda: config.group_settings("worker.py", {"depends_on": ["wbe"]}, directory=str(here), taken=("web",))
    )
    assert "did you mean 'web'?" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[groups.a]\ntarget = "worker.py"\ndepends_on = ["b"]\n', ("groups.a.depends_on in", ":3", "no group 'b'")),
        ('target = "worker.py"\n[groups.a]\ndepends_on = ["a"]\n', (":3", "a → a", "remove one")),
        (CIRCLE, (":3", "a → c → b → a")),
        ('target = "worker.py"\n[groups.a]\nshare_with = ["c"]\n[groups.b]\n', (":3", "no other group")),
        ('target = "worker.py"\n[groups.a]\nshare_with = ["a"]\n', (":3", "no other group 'a'")),
        (
            'target = "/bin/true"\ncwd = "/"\n[groups.a]\nshare_with = ["b"]\n[groups.b]\nuser = "nobody"\n',
            (":4", "a and b run as different users"),
        ),
        ('target = "worker.py"\n[groups.a]\n[groups.b]\ndepends_on = ["a:up"]\n', (":4", "'a:up'", "db:ready")),
        ('target = "worker.py"\n[groups.a]\nsingleton = true\nworkers = 2\n', (":4", "2 workers", "Write 1")),
        ('target = "worker.py"\nworkers = 2\nsingleton = true\n', (":2", "singleton")),
        ("[groups.a]\nworkers = 1\n", ("[groups.a]", ":1", "no target", "Add")),
        ('target = "worker.py"\n[groups.a]\nport = 1\n', ("'groups.a.port'", ":3", "above the first table")),
        ('target = "worker.py"\n[groups.a]\ngroup = "b"\n', ("'groups.a.group'", "name of its table")),
        ('target = "worker.py"\ngroup = "b"\n[groups.a]\n', ("group in", ":2", "Remove it")),
        ('target = "worker.py"\n[groups.a]\nwrokers = 1\n', ("'wrokers'", ":3", "did you mean 'workers'?")),
        ('target = "worker.py"\n[groups.all]\n', ("[groups.all]", ":2", "every group")),
        ('target = "worker.py"\n[groups."1st"]\n', ("'1st'", ":2", "letter")),
        ('target = "worker.py"\n[groups]\nworkers = 2\n', ("groups.workers", ":3", "above it")),
        ('groups = 3\ntarget = "worker.py"\n', ("groups in", ":1", "[groups.web]")),
        ('target = "worker.py"\n[gruops.a]\n', ("'gruops'", ":2", "did you mean 'groups'?")),
    ],
)  # fmt: skip
def test_groups_that_cannot_be(here: Path, text: str, words: tuple[str, ...]) -> None:
    told = sentence(lambda: groups(here, text))
    for word in words:
        assert word in told, told


def test_every_mistake_is_told_at_once(here: Path) -> None:
    told = sentence(
        lambda: groups(here, 'target = "nosuch.py"\nhost = "nosuch.invalid"\n[groups.a]\n[groups.b]\ncwd = "x"\n')
    )
    assert told.startswith("3 mistakes in the configuration:")
    for word in ("nosuch.py", "nosuch.invalid", "groups.b.cwd"):
        assert word in told


# -- command -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ['["sh", "-c", "a b, {slot}", ""]', """'sh -c "a b, {slot}" ""'"""])
def test_a_command_is_any_program_with_its_arguments(here: Path, written: str) -> None:
    found = groups(here, f"[groups.cache]\ncommand = {written}\n")["cache"].release
    assert (found.kind, found.target.rpartition("/")[2], found.args) == ("command", "sh", ("-c", "a b, {slot}", ""))


def test_a_python_file_after_command_is_a_program_too(here: Path) -> None:
    (here / "serve.py").write_text("#!/usr/bin/env python3\n")
    (here / "serve.py").chmod(0o755)
    found = groups(here, '[groups.web]\ncommand = ["./serve.py", "-x"]\n')["web"].release
    assert (found.kind, found.target, found.args) == ("command", f"{here}/serve.py", ("-x",))


def test_what_stands_nearer_says_what_is_run(here: Path) -> None:
    text = 'command = ["sh"]\n[groups.a]\n[groups.b]\ntarget = "worker.py"\n'
    found = groups(here, text)
    assert [(name, group.release.kind) for name, group in found.items()] == [("a", "command"), ("b", "script")]
    (here / "cluster-service.toml").write_text('command = ["sh", "-c", "exit"]\n')
    given = make("worker.py").spec.groups[0].release
    assert (given.kind, given.args) == ("script", ()), "a target where it is started counts more"
    assert make(None).spec.groups[0].release.args == ("-c", "exit")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("command = []\n", ("command in", "there is no program")),
        ('command = ""\n', ("command in", "there is no program")),
        ('command = ["", "x"]\n', ("command in", "there is no program")),
        ("""command = "sh 'x"\n""", ("command in", "cannot be split")),
        ('command = ["nosuch-program"]\n', ("command in", "no program 'nosuch-program' on the PATH")),
        ('command = ["sh"]\ntarget = "worker.py"\n', ("command in", "target in", "Remove one")),
        ('command = ["sh"]\nargs = ["x"]\n', ("command in", "args in", "Remove one")),
        ('command = ["sh", true]\n', ("command in", "True is not text")),
        ('target = "worker.py"\nargs = ["\\u0000"]\n', ("args in", "NUL")),
    ],
)
def test_a_command_that_cannot_be(here: Path, text: str, words: tuple[str, ...]) -> None:
    (here / "cluster-service.toml").write_text(text)
    told = sentence(lambda: make(None))
    assert all(word in told for word in words), told


def test_an_argument_may_be_empty_and_hold_commas(here: Path) -> None:
    (here / "cluster-service.toml").write_text('target = "worker.py"\nargs = ["--save", ""]\n')
    assert make(None).spec.groups[0].release.args == ("--save", "")
    (here / "cluster-service.toml").write_text('target = "worker.py"\nargs = "--apps a,b"\n')
    assert make(None).spec.groups[0].release.args == ("--apps", "a,b")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("worker.py", "web"),
        ("-m http.server", "web"),
        ("sh", "web"),
        ("celery", "celery"),
        ("rq", "rq"),
        ("huey_consumer.py", "huey"),
        ("shop:application", "web"),
    ],
)
def test_the_group_of_a_queue_is_not_called_web(
    here: Path, monkeypatch: pytest.MonkeyPatch, target: str, name: str
) -> None:
    for program in ("celery", "rq", "huey_consumer.py"):
        (here / program).write_text("#!/bin/sh\n")
        (here / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(here), prepend=":")
    made = make(target, program=target not in ("worker.py", "-m http.server", "shop:application"))
    assert [group.name for group in made.spec.groups] == [name]
    assert list(made.shown["groups"]) == [name]
    assert made.spec.groups[0].expect_port is (None if name == "web" else False), "a queue worker does not listen"
    assert make("worker.py", group="jobs").spec.groups[0].name == "jobs"
