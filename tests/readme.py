"""Run what a document shows, and compare what it prints with what the document says it prints.

In a document::

    ```python             is executed; all of a document's programs share one namespace
    ```console            each line that begins with ``$ `` is a command (a trailing backslash
                          continues it); the lines below it, if any, are its exact output
    <!-- output -->       above a ```text block: the block is what the program before it prints
    <!-- not run: why --> above a block: it is neither run nor compared
    ```text               and other data formats are never run

In expected output ``...`` stands for anything. Blocks run from top to bottom in one empty
directory, with this environment's commands on the PATH. ``make`` lines are not run; they must name
targets of the Makefile.

As a program, ``python readme.py DOCUMENT`` runs one document in the current directory.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

RUN = {"console", "python"}
# Never run; anything else is refused, so that no program escapes by a misspelt language.
DATA = {"diff", "ini", "json", "mermaid", "sql", "text", "toml", "yaml"}
COMMAND_S_MAX = 120


class DocumentError(Exception):
    """The document is not written as its rules ask, or does not do what it says."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, text, first line's number, and the comment above it."""

    language: str
    text: str
    line: int
    output: bool = False  # `<!-- output -->` stands above it
    skipped: str | None = None  # the reason in `<!-- not run: reason -->`


@dataclass(frozen=True)
class Command:
    """One command of a console block and its expected output; ``None`` is not compared."""

    text: str
    expected: str | None
    line: int


def parse(document: str) -> list[Block]:
    """The fenced blocks of a Markdown document, in order.

    Raises:
        DocumentError: a fence is never closed or names no known language; a skipped block gives
            no reason; ``<!-- output -->`` follows no program.
    """
    blocks: list[Block] = []
    lines = document.splitlines()
    comment = ""
    number = 0
    while number < len(lines):
        line = lines[number].strip()
        number += 1
        fence = re.match(r"(`{3,}|~{3,})\s*(\S*)", line)
        if fence is None:
            if line:
                comment = line if line.startswith("<!--") else ""
            continue
        start, indent = number, len(lines[number - 1]) - len(lines[number - 1].lstrip())
        while number < len(lines) and lines[number].strip() != fence[1]:
            number += 1
        if number == len(lines):
            raise DocumentError(f"line {start}: this block is never closed")
        text = "".join(text_line[indent:] + "\n" for text_line in lines[start:number])
        blocks.append(_block(fence[2], text, start + 1, comment))
        if blocks[-1].output and (len(blocks) < 2 or blocks[-2].language != "python"):
            raise DocumentError(f"line {start}: an output block must follow a python block")
        comment = ""
        number += 1
    return blocks


def _block(language: str, text: str, line: int, comment: str) -> Block:
    if language not in RUN | DATA:
        raise DocumentError(
            f"line {line - 1}: language {language!r} is none of {sorted(RUN | DATA)};"
            " programs are python or console, what is not run is text"
        )
    skip = re.fullmatch(r"<!--\s*not run:?(.*?)-->", comment)
    if skip and not skip[1].strip():
        raise DocumentError(f"line {line - 1}: say why the block is not run")
    output = re.fullmatch(r"<!--\s*output\s*-->", comment) is not None
    if output and language != "text":
        raise DocumentError(f"line {line - 1}: an output block is text, not {language}")
    return Block(language, text, line, output, skip[1].strip() if skip else None)


def commands(block: Block) -> list[Command]:
    """The commands of a console block.

    Raises:
        DocumentError: output stands above the first command.
    """
    found: list[Command] = []
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        start = number
        if not lines[number].startswith("$ "):
            raise DocumentError(f"line {block.line + number}: a console block begins with '$ '")
        text = lines[number].removeprefix("$ ")
        number += 1
        while text.endswith("\\") and number < len(lines):
            text += "\n" + lines[number]
            number += 1
        output = []
        while number < len(lines) and not lines[number].startswith("$ "):
            output.append(lines[number])
            number += 1
        expected = "\n".join(output).strip("\n")
        found.append(Command(text, expected or None, block.line + start))
    return found


def makefile_targets(makefile: str) -> set[str]:
    """The targets that a Makefile declares phony."""
    return {
        target
        for line in makefile.splitlines()
        if line.startswith(".PHONY:")
        for target in line.removeprefix(".PHONY:").split()
    }


def check_make_lines(blocks: list[Block], targets: set[str]) -> None:
    """Hold every ``$ make`` line, also in blocks that are not run, against the Makefile.

    Raises:
        DocumentError: a line names a target that is not there.
    """
    for block in blocks:
        if block.language == "console":
            for command in commands(block):
                for target in _make_goals(command.text):
                    if target not in targets:
                        raise DocumentError(f"line {command.line}: make has no target {target!r}")


def _make_goals(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    if words[:1] != ["make"]:
        return []
    return [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]


def compare(expected: str, found: str, where: str) -> None:
    """Hold printed output against expected output, in which ``...`` stands for anything.

    Raises:
        DocumentError: they differ; the message shows both.
    """
    want, got = (
        "".join(line.rstrip() + "\n" for line in text.strip("\n").splitlines())
        for text in (expected, found)
    )
    if not doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS):
        raise DocumentError(f"{where}: expected\n{want}but it printed\n{got}")


def run(blocks: list[Block]) -> int:
    """Run a document's blocks in the current directory; return how many were run.

    Raises:
        DocumentError: a program fails, or prints something else than the document says.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for block, following in zip_longest(blocks, blocks[1:]):
        if block.skipped is not None or block.language not in RUN:
            continue
        count += 1
        if block.language == "console":
            for command in commands(block):
                _run_command(command)
            continue
        printed = _run_python(block, namespace)
        if following is not None and following.output and following.skipped is None:
            compare(following.text, printed, f"line {following.line}")
    return count


def _run_command(command: Command) -> None:
    if command.text.split()[:1] == ["make"]:
        return
    where = f"line {command.line}: $ {command.text}"
    try:
        result = subprocess.run(
            ["bash", "-c", command.text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise DocumentError(f"{where}: not done in {COMMAND_S_MAX} s") from expired
    if result.returncode:
        raise DocumentError(f"{where}: exit status {result.returncode}\n{result.stdout}")
    if command.expected is not None:
        compare(command.expected, result.stdout, where)


def _run_python(block: Block, namespace: dict[str, object]) -> str:
    printed = io.StringIO()
    # Blank lines in front give tracebacks the document's own line numbers.
    source = "\n" * (block.line - 1) + block.text
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "<document>", "exec"), namespace)
    except (Exception, SystemExit) as error:
        raise DocumentError(f"line {block.line}: {traceback.format_exc()}") from error
    return printed.getvalue()


def environment() -> dict[str, str]:
    """This process's environment, for running a document: our commands first, no colours."""
    beside = str(Path(sys.executable).parent)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return inherited | {
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]),
        "PYTHONWARNINGS": "error::DeprecationWarning:__main__",
        "TERM": "dumb",
    }


if __name__ == "__main__":
    try:
        run(parse(Path(sys.argv[1]).read_text()))
    except DocumentError as error:
        sys.exit(f"{sys.argv[1]}, {error}")
