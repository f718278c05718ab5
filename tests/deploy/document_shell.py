"""The shell of a document's fences, taken apart: simple commands with their words, and what they assign.

Owns the subset that documents may use: lines, continuations, pipes, `&&`, `;`, redirections, `$(…)`, quotes, variables. What lies beyond it is a
fault: a document is no place for a program.
"""

import re
import shlex
import subprocess
from dataclasses import dataclass

_OPERATORS = {"|", "||", "&&", ";", "&"}
_REDIRECTIONS = {">", ">>", "<"}
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)")
SUBSTITUTED = "SUBSTITUTED"
"""Stands in a word for what a command would have printed."""


class ShellError(Exception):
    """The text is no shell, or more of it than a document may have."""


@dataclass(frozen=True)
class Command:
    """One simple command. sets, uses: names of shell variables."""

    words: tuple[str, ...]
    sets: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


def refusal_of_bash(text: str) -> str:
    """What `bash -n` says of it; empty where it is satisfied."""
    return subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False).stderr.strip()


def commands(text: str) -> list[Command]:
    """In the order in which they run; what stands in `$(…)` before the command that takes it. Raises ShellError."""
    found: list[Command] = []
    for line in text.replace("\\\n", " ").splitlines():
        found += _of_line(line)
    return found


def _of_line(line: str) -> list[Command]:
    before, outer = _without_substitutions(line)
    lexer = shlex.shlex(outer, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError as error:
        raise ShellError(f"{error}: {line.strip()}") from error
    if "(" in words or ")" in words:
        raise ShellError(f"a subshell or a function: {line.strip()}")
    uses = tuple(_VARIABLE.findall(re.sub(r"'[^']*'", "", outer.partition(" #")[0])))
    parts: list[list[str]] = [[]]
    for word in words:
        if word in _OPERATORS:
            parts.append([])
        else:
            parts[-1].append(word)
    return before + [_command(part, uses) for part in parts if part]


def _command(words: list[str], uses: tuple[str, ...]) -> Command:
    kept: list[str] = []
    skips = False
    for word in words:
        if not skips and word not in _REDIRECTIONS:
            kept.append(word)
        skips = word in _REDIRECTIONS
    sets: list[str] = []
    while kept and (assigned := _ASSIGNMENT.fullmatch(kept[0])):
        sets.append(assigned[1])
        kept.pop(0)
    return Command(tuple(kept), tuple(sets), uses)


def _without_substitutions(line: str) -> tuple[list[Command], str]:
    found: list[Command] = []
    while (start := line.find("$(")) >= 0:
        depth, end = 1, start + 2
        while end < len(line) and depth:
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        if depth:
            raise ShellError(f"a $( that does not close: {line.strip()}")
        found += _of_line(line[start + 2 : end - 1])
        line = line[:start] + SUBSTITUTED + line[end:]
    return found, line
