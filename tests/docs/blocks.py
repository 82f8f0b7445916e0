"""The fenced blocks of the documentation's pages, and what its commands are."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("bash", "python")
SHOWN = ("text", "json", "jsonl", "yaml", "jinja", "mermaid")
"""Of these a text is what the block before it prints, and one with a title is a file."""
_FENCE = re.compile(r"(?P<indent> *)```(?P<language>\S*)(?: +(?P<rest>.*))?")
_REASON = re.compile(r" *<!-- not run: (?P<reason>.+) -->")
_TITLE = re.compile(r'title="(?P<title>[\w./-]+)"')
_HERE_DOCUMENT = re.compile(r"<<-? *'?(\w+)'?(.*\n)(?:.*\n)*?\1\n")
_BETWEEN = re.compile(r"[|&;()]+")
_REDIRECTION = re.compile(r"\d?[<>]+&?")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    title: str | None
    reason: str | None
    """Why it is not run, or not held against what was printed."""
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and self.reason is None


def blocks(page: Path, text: str | None = None) -> Iterator[Block]:
    """The blocks of a page, or of this text for it, in their order."""
    lines = enumerate((page.read_text("utf-8") if text is None else text).splitlines(), start=1)
    before = ""
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            before = line if line.strip() else before
            continue
        inside = []
        for _, line in lines:
            if line.strip() == "```":
                break
            inside.append(line)
        title = _TITLE.search(fence["rest"] or "")
        reason = _REASON.fullmatch(before)
        yield Block(
            page,
            number,
            fence["language"],
            title and title["title"],
            reason and reason["reason"],
            textwrap.dedent("\n".join(inside)) + "\n",
        )
        before = ""


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a script, without its redirections."""
    for line in _HERE_DOCUMENT.sub(r"\2", text).replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        lexer.whitespace_split = True
        parts = iter(lexer)
        for part in parts:
            if _REDIRECTION.fullmatch(part):
                next(parts, None)
            elif _BETWEEN.fullmatch(part):
                if words:
                    yield words
                words = []
            else:
                words.append(part)
        if words:
            yield words
