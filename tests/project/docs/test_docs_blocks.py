"""Every fenced block of every page is run, and every link between pages leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import docs_blocks
from support.docs_blocks import PAGES, ROOT, Block
from support.docs_runner import Runner

GROUPS = [group for page in PAGES if page.exists() for group in docs_blocks.groups(page)]
WANTED = (
    "index streaming-page recipes workers testing command-line cron batch operating reliability how-it-works "
    "troubleshooting compatibility performance migrating WIRE"
)


@pytest.mark.parametrize("name", WANTED.split())
def test_the_page_is_there(name: str) -> None:
    assert (ROOT / "docs" / f"{name}.md").is_file()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0].name)
def test_blocks(group: list[Block], runner: Runner) -> None:
    for block in group:
        runner.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in docs_blocks.links(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in docs_blocks.anchors(file), f"{page.name}: {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    for name in ("README.md", "README.ko.md"):
        targets = {target.partition("#")[0] for target in docs_blocks.links(ROOT / name)}
        assert {f"docs/{page}.md" for page in WANTED.split()} <= targets


def test_the_korean_readme_keeps_step() -> None:
    """The same headings, the same blocks, the same tables: a translation of what is there, no more and no less."""
    english, korean = ROOT / "README.md", ROOT / "README.ko.md"

    def shape(page: Path) -> list[str]:
        found = [re.match(r"#+|\||[-*] |\d\. ", line) for line in docs_blocks.prose(page)]
        return [match.group() for match in found if match]

    def code(page: Path) -> list[str]:
        """Without what is said to people: comments, strings, and so the columns."""
        texts = [re.sub(r'#.*|"[^"]*"', "", block.text) for block in docs_blocks.blocks(page)]
        return [" ".join(text.split()) for text in texts]

    def targets(page: Path) -> list[str]:
        return sorted(t for t in docs_blocks.links(page) if not t.startswith("README"))

    assert shape(korean) == shape(english)
    assert targets(korean) == targets(english)
    assert code(korean) == code(english)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_and_fences(page: Path) -> None:
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        assert line == line.rstrip(), f"{page.name}:{number}: blanks at its end"
        assert "\t" not in line, f"{page.name}:{number}: a tab"


BROKEN = {
    "```python\n1 / 0\n```\n": ZeroDivisionError,
    "```python\nif\n```\n": SyntaxError,
    "```sh\nif\n```\n": AssertionError,
    "```sh\nparlant-sync send --nothing\n```\n": AssertionError,
    "```perl\n1\n```\n": pytest.fail.Exception,
    "```python\nprint(2)\n```\n<!-- output -->\n```text\n3\n```\n": AssertionError,
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_block_is_noticed(text: str, tmp_path: Path, runner: Runner) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    ((*before, last),) = docs_blocks.groups(page)
    for block in before:
        runner.run(block)
    with pytest.raises(BROKEN[text]):
        runner.run(last)
