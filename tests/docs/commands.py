"""The commands that the pages show: those of ```sh, ```bash and ```console blocks, and every `rigserve ...` and `make ...` in the text."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent

import click

from services.cli.main import main
from tests.docs.marks import PROJECT, pages

SHELLS = ("sh", "bash", "console")
INLINE = re.compile(r"`((?:rigserve|make) [a-z][^`]*)`")
PLACEHOLDER = re.compile(r"\.\.\.|\{|\||(?<![A-Z_])[A-Z]{3,}(?![A-Z_=])|(?<=-)\|")


@dataclass(frozen=True, slots=True)
class Block:
    page: Path
    line: int  # of the opening fence, from 1
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    page: Path
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text.replace("\\\n", " "), comments=True)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, with their language ('' where none is said)."""
    opened, language, inside = 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf8").splitlines(), 1):
        fence = line.lstrip().startswith("```")
        if fence and not opened:
            opened, language, inside = number, line.strip().removeprefix("```"), []
        elif fence:
            yield Block(page, opened, language, dedent("\n".join(inside)))
            opened = 0
        else:
            inside.append(line)
    assert not opened, f"{page}:{opened}: this block is never closed"


def commands(page: Path) -> list[Command]:
    """In order. In a console block a command begins with "$ ", the rest is what it printed."""
    found = []
    for block in blocks(page):
        if block.language in SHELLS:
            found += list(_commands(block))
    return found


def _commands(block: Block) -> Iterator[Command]:
    waiting, begun = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if not waiting:
            if block.language == "console" and not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ") if block.language == "console" else line
            begun = number
        waiting = f"{waiting}\n{line}" if waiting else line
        if not waiting.strip() or waiting.lstrip().startswith("#"):
            waiting = ""
        elif whole(waiting):
            yield Command(block.page, begun, waiting)
            waiting = ""
    assert not waiting, f"{block.page}:{begun}: this command has no end"


def whole(text: str) -> bool:
    """Whether bash takes this text as one or more whole commands: no open quote, here-document, loop or continuation."""
    if text.endswith("\\"):
        return False
    said = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    return said.returncode == 0 and not said.stderr


@cache
def shown() -> tuple[Command, ...]:
    """All commands of all blocks of all pages."""
    return tuple(command for page in pages() for command in commands(page))


def inline() -> Iterator[Command]:
    """What stands as code in sentences and tables. Those that say a place for something (NAME, ..., a|b) are not whole commands."""
    for page in pages():
        fenced = False
        for number, line in enumerate(page.read_text(encoding="utf8").splitlines(), 1):
            if line.lstrip().startswith("```"):
                fenced = not fenced
            for text in () if fenced else INLINE.findall(line):
                if not PLACEHOLDER.search(text):
                    yield Command(page, number, text)


def parse(words: list[str]) -> None:
    """`rigserve` takes these words: its commands and options exist and their values are valid. Nothing is done.

    Raises click.UsageError. A file that is not there is no fault of the page.
    """
    command: click.Command = main
    context = click.Context(main, info_name="rigserve")
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = click.Context(command, info_name=name, parent=context)
    try:
        command.make_context(context.info_name, list(rest), parent=context.parent)
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):  # --help; a group by its name
        return
    except click.BadParameter as error:
        if "does not exist" not in error.format_message():
            raise
