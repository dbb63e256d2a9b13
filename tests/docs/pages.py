"""The pages of the documentation, and the fenced blocks on them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the language after the fence, what is in it, and its lines [first, last) of the page,
    fences left out."""

    page: str
    language: str
    content: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.page}:{self.first}"

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Commands with the outputs shown below them: of `console` behind `$ `, of `sh` every line, without outputs."""
        if self.language == "sh":
            return [(command, "") for command in re.split(r"(?<!\\)\n", self.content) if command.strip()]
        steps: list[tuple[str, str]] = []
        lines = self.content.splitlines(keepends=True)
        while lines:
            line = lines.pop(0)
            if line.startswith("$ "):
                command = line[2:]
                while lines and not _whole(command):
                    command += lines.pop(0)
                steps.append((command.rstrip("\n"), ""))
            elif steps:
                steps[-1] = (steps[-1][0], steps[-1][1] + line)
            else:
                raise ValueError(f"{self}: a console block begins with '$ ' and a command, not with {line!r}")
        return steps


def _whole(command: str) -> bool:
    """Whether a command ends here: not behind a backslash, and not inside quotes."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\\n")


@cache
def text(page: str) -> str:
    """A page as it is."""
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """The fenced and indented blocks of a page, in order."""
    found = []
    for token in MarkdownIt("commonmark").parse(text(page)):
        if token.type not in ("fence", "code_block"):
            continue
        assert token.map is not None
        first, last = token.map
        if token.type == "fence":
            first, last = first + 1, last - 1
        found.append(Block(page, token.info.split(" ")[0], token.content, first, last))
    return tuple(found)


def pages() -> list[str]:
    """Every page that is written by hand: not the adapters' cards."""
    places = ("*.md", "docs/*.md", "clients/*/*.md", "examples/*.md", "docker/*.md", "benchmarks/*.md")
    return sorted({path.relative_to(ROOT).as_posix() for place in places for path in ROOT.glob(place)})
