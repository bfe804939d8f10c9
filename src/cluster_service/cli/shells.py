"""Completion of ``cservice`` in bash, zsh and fish: the scripts, and the words they request at each Tab.

    script(shell) -> str                             the output of ``cservice completion SHELL``
    answer(shell, line, session, options) -> str     the output of ``cservice completion --words SHELL LINE``

LINE ends at the cursor. An answer has one line per word: the word, a tab and its meaning. A last line ``:files`` or
``:directories`` lets the shell complete file names too. The words come from ``completion``, as in the console.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster_service import rundir
from cluster_service.commands.registry import Command, Parameter
from cluster_service.config.settings_table import SETTINGS, Setting
from cluster_service.config.targets import APP
from cluster_service.errors import CommandError

from . import completion, rendering
from .completion import Choice, Choices
from .options import LOCAL_COMMANDS, SHELLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

    from .session import Session

BASH = r"""# Completion of cservice in bash: source <(cservice completion bash)
_cservice() {
    local text
    COMPREPLY=()
    while IFS=$'\t' read -r text _; do
        case $text in
            :files) compopt -o default 2>/dev/null ;;
            :directories) compopt -o dirnames 2>/dev/null ;;
            *) COMPREPLY+=("$text") ;;
        esac
    done < <("${COMP_WORDS[0]/#\~/$HOME}" completion --words bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    [[ ${COMPREPLY[0]-} == *: ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _cservice cservice cserviced
"""

ZSH = r"""#compdef cservice cserviced
# Completion of cservice in zsh: source <(cservice completion zsh), after compinit; or as _cservice in your $fpath
_cservice() {
    local -a found
    local text doc files
    while IFS=$'\t' read -r text doc; do
        case $text in
            :files|:directories) files=$text ;;
            *) found+=("${text//:/\\:}${doc:+:$doc}") ;;
        esac
    done < <("${(Q)words[1]}" completion --words zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)
    (( $#found )) && _describe cservice found
    [[ $files == :files ]] && _files
    [[ $files == :directories ]] && _files -/
}
if [[ $funcstack[1] == _cservice ]]; then
    _cservice "$@"
else
    compdef _cservice cservice cserviced
fi
"""

FISH = r"""# Completion of cservice in fish: cservice completion fish | source
function __cservice_words
    set -l program (commandline -opc)[1]
    set -l line (commandline -cp)
    for found in ($program completion --words fish "$line" 2>/dev/null)
        switch $found
            case ':files'
                __fish_complete_path (commandline -ct)
            case ':directories'
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $found
        end
    end
end
complete -c cservice -f -a '(__cservice_words)'
complete -c cserviced -f -a '(__cservice_words)'
"""

SCRIPTS = dict(zip(SHELLS, (BASH, ZSH, FISH), strict=True))
PATHS = {"access_key_file": "files", "ca_file": "files", "client_cert": "files", "run_dir": "directories"}
"""Options of cservice itself whose values are file names."""
BREAKS = "=:"
"""Characters at which bash splits words."""


def script(shell: str) -> str:
    """Return the completion script for *shell*. Raises CommandError bad_request."""
    if shell not in SCRIPTS:
        raise CommandError("bad_request", f"there is no completion for {shell!r}", f"Write one of: {', '.join(SHELLS)}")
    return SCRIPTS[shell]


def answer(shell: str, line: str, session: Session, options: Sequence[click.Parameter]) -> str:
    """Return the possible words at the end of *line*. *options*: those of cservice itself."""
    words, current = completion.split(line)
    if not words:
        return ""
    program, *words = words
    if os.path.basename(program) == "cserviced":
        words = ["start", *words]
    choices = _complete(words, current, session, options)
    texts = [choice.text for choice in choices.found]
    if shell == "bash":
        behind = max(current.rfind(char) for char in BREAKS) + 1
        texts = [shlex.quote(text[behind:]) if text[behind:] else "" for text in texts]
    lines = [
        f"{rendering.clean(text)}\t{rendering.clean(choice.doc.partition(chr(10))[0]) if choice.doc else ''}"
        for text, choice in zip(texts, choices.found, strict=True)
    ]
    return "".join(f"{each}\n" for each in [*lines, *([f":{choices.files}"] if choices.files else [])])


class _Known(completion.Asked):
    """The commands of the service, those that need no service, and ``start`` with all its options."""

    def commands(self) -> Sequence[Command]:
        """Return the commands."""
        commands = [start() if command.name == "start" else command for command in super().commands()]
        return commands + list(LOCAL_COMMANDS)


def _complete(words: Sequence[str], current: str, session: Session, options: Sequence[click.Parameter]) -> Choices:
    flags = {flag: option for option in options for flag in option.opts}
    given: dict[str, str] = {}
    rest: list[str] = []
    command = start()
    waiting: click.Parameter | None = None
    for word in words:
        flag, equals, value = word.partition("=")
        option = flags.get(flag)
        if waiting is not None:
            given[str(waiting.name)], waiting = word, None
        elif option is None or "--" in rest or _in_target(command, rest):
            rest.append(word)
        elif getattr(option, "is_flag", False):
            continue
        elif equals:
            given[str(option.name)] = value
        else:
            waiting = option
    if waiting is not None:
        return _value(waiting, current)
    flag, equals, begun = current.partition("=")
    if equals and flag in flags:
        chosen = _value(flags[flag], begun)
        return replace(chosen, found=tuple(Choice(f"{flag}={each.text}", each.doc) for each in chosen.found))
    if _in_target(command, rest):
        return Choices(files="files")
    offers = _Known(session.with_options(**given).client)
    choices = completion.complete(rest, current, offers)
    if not current.startswith("-") or "--" in rest:
        return choices
    known = {choice.text for choice in choices.found}
    more = [Choice(flag, str(getattr(option, "help", ""))) for flag, option in flags.items() if flag not in known]
    return Choices((*choices.found, *completion.starting(current, more).found))


def _in_target(command: Command, words: Sequence[str]) -> bool:
    """Return True if the words after *words* are arguments of the user's program."""
    if words and words[0].endswith(".py"):
        return True
    if words[:1] != ["start"] or "target" not in completion.place(command, words[1:]).given:
        return False
    return "--" in words or not any(APP.match(word) for word in words[1:])  # options may follow an app


def _value(option: click.Parameter, current: str) -> Choices:
    if option.name == "name":
        try:
            running = rundir.running()
        except CommandError:
            return Choices()
        return completion.starting(current, [Choice(held.name, f"pid {held.pid}") for held in running])
    return Choices(files=PATHS.get(str(option.name), ""))


def start() -> Command:
    """Return ``start`` with the settings as its options."""
    target = Parameter("target", "target", "what to run", required=True, positional=True)
    options = [_option(setting) for setting in SETTINGS if setting.flags]
    return Command("start", "Start a program as a service.", dict, (target, *options))


def _option(setting: Setting) -> Parameter:
    flag = setting.flags[-1].split("/")[0]
    short = next((each for each in setting.flags if not each.startswith("--")), "")
    kind = "flag" if setting.kind == "flag" else "caller" if setting.metavar == "DIR" else "any"
    if setting.metavar in ("FILE", "PATH"):
        kind = "file"
    return Parameter(
        flag.removeprefix("--").replace("-", "_"), kind, setting.doc, choices=setting.choices, short=short,
        many=setting.many,
    )  # fmt: skip
