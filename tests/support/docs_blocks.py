"""The fenced blocks of the Markdown pages, and the comments before them that say how they are run.

====================================  ==================================================================================
``<!-- not run: why -->``             only compiled (``python``), or checked by ``bash -n`` (``sh``)
``<!-- continues -->``                runs after the block before it, with its variables and files
``<!-- file: NAME -->``               is written to a file of that name, for the blocks after it
``<!-- exit: 4 -->``                  (``sh``) ends with that exit code
``<!-- output -->``                   this block is what the block before it wrote to stdout
====================================  ==================================================================================

``sh`` blocks are run where they call ``parlant-sync`` or ``pytest``, others are checked by ``bash -n``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.ko.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
    *ROOT.glob("examples/*/*.md"),
]
# Blocks in these languages are not for running: diagrams, output, configuration.
SHOWN = {"", "text", "ini", "toml", "json", "yaml", "html", "nginx", "console"}
_FENCE = re.compile(r"^( *)(`{3,})(\w*)\s*$")
_COMMENT = re.compile(r"<!--\s*(not run|continues|file|exit|output)(?::\s*(.*?))?\s*-->", re.DOTALL)


@dataclass
class Block:
    page: Path
    line: int  # of its first line
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text("utf-8").splitlines()
    start, comments = 0, ""
    while start < len(lines):
        opened = _FENCE.match(lines[start])
        if opened is None:
            # Comments count for the block that follows them, with nothing but blank lines and comments in between.
            line = lines[start].strip()
            if line and not _inside_comment(comments) and not line.startswith("<!--"):
                comments = ""
            elif line:
                comments += line + "\n"
            start += 1
            continue
        indent, fence, language = opened.groups()
        end = next((n for n in range(start + 1, len(lines)) if lines[n].strip() == fence), None)
        assert end is not None, f"{page.name}:{start + 1}: a fence that is never closed"
        text = "\n".join(line.removeprefix(indent) for line in lines[start + 1 : end])
        notes = {name: value or "" for name, value in _COMMENT.findall(comments)}
        yield Block(page, start + 2, language, text + "\n", notes)
        start, comments = end + 1, ""


def _inside_comment(text: str) -> bool:
    return text.count("<!--") > text.count("-->")


def groups(page: Path) -> list[list[Block]]:
    """Blocks that are run one after the other, in one place."""
    found: list[list[Block]] = []
    for block in blocks(page):
        if block.language in SHOWN and "output" not in block.notes and "file" not in block.notes:
            continue
        if found and ("continues" in block.notes or "output" in block.notes):
            found[-1].append(block)
        else:
            found.append([block])
    return found


# -- links

_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")


def prose(page: Path) -> list[str]:
    """The lines outside of fences, without code spans."""
    found: list[str] = []
    fence = ""
    for line in page.read_text("utf-8").splitlines():
        opened = _FENCE.match(line)
        if not fence and opened:
            fence = opened.group(2)
        elif fence and line.strip() == fence:
            fence = ""
        elif not fence:
            found.append(line)
    return found


def links(page: Path) -> list[str]:
    return [target for line in prose(page) for target in _LINK.findall(line)]


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    found: dict[str, int] = {}
    result: set[str] = set()
    for line in prose(page):
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if heading is None:
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1)).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result
