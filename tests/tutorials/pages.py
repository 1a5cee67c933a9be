"""A tutorial is run as its reader would: block after block in one folder, commands too, and what it prints is compared.

Blocks marked ``py`` run in one namespace a page, in a folder that holds the files of docs/examples; commands
``forgetting …`` of ``sh`` blocks run between them. A ``text`` block right after one of them is what it prints.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from tests.house.sources import ROOT

PAGES = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r"^```(?P<language>py|sh|text)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]+\]\(\.\./pictures/(tutorial-[\w-]+\.png)\)")
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:\.\d+)?(?![\w])")


class Block(NamedTuple):
    """Where its text stands in the page, what it is, and the text."""

    start: int
    end: int
    language: str
    code: str


def blocks(text: str) -> list[Block]:
    """All blocks of a page, in order."""
    return [Block(*found.span("code"), found["language"], found["code"]) for found in BLOCK.finditer(text)]


def run(path: Path, folder: Path) -> list[tuple[Block, str]]:
    """Run a page in a folder; every ``text`` block, with what was printed in its place."""
    text, printed, outputs = path.read_text(encoding="utf-8"), "", []
    namespace: dict[str, object] = {"__name__": "page"}
    for example in (ROOT / "docs" / "examples").glob("*.py"):
        shutil.copy(example, folder)
    with _inside(folder):
        for block in blocks(text):
            if block.language == "text":
                outputs.append((block, printed))
                continue
            with contextlib.redirect_stdout(io.StringIO()) as heard:
                if block.language == "py":
                    lines = text.count("\n", 0, block.start)
                    exec(compile("\n" * lines + block.code, str(path), "exec"), namespace)
                else:
                    _commands(block.code)
            printed = heard.getvalue()
    return outputs


@contextlib.contextmanager
def _inside(folder: Path):
    """Work in a folder whose files can be imported, and are forgotten afterwards."""
    before, known, place = list(sys.path), set(sys.modules), Path.cwd()
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(place)
        sys.path[:] = before
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


def _commands(code: str) -> None:
    """Every ``forgetting`` command of a shell block."""
    from forgetting.cli import main

    for line in code.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "forgetting":
            main(words, standalone_mode=False)


def differences(expected: str, printed: str) -> list[str]:
    """Lines that differ in their words, or in a number by more than other processors make: 3 tenths, from 1 to 6."""
    theirs, ours = expected.rstrip().splitlines(), printed.rstrip().splitlines()
    if len(theirs) != len(ours):
        return [f"{len(theirs)} lines on the page, {len(ours)} printed: {ours}"]
    return [f"{old!r} is now {new!r}" for old, new in zip(theirs, ours, strict=True) if not _alike(old, new)]


def _alike(old: str, new: str) -> bool:
    words = [re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip() for line in (old, new)]
    numbers = [[float(found.replace("−", "-")) for found in NUMBER.findall(line)] for line in (old, new)]
    return words[0] == words[1] and all(
        abs(a - b) <= min(6.0, max(1.0, 0.3 * abs(a))) for a, b in zip(*numbers, strict=True))


def prose(text: str) -> str:
    """A page without its blocks and links."""
    return re.sub(r"\]\([^)]*\)|`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def unfounded(text: str) -> list[str]:
    """Numbers of the prose that are figures (a decimal or a percent sign) and stand in none of the page's blocks."""
    known = {found.lstrip("-−+") for block in blocks(text) for found in NUMBER.findall(block.code)}
    figures = re.findall(r"(?<![\w.])(\d+\.\d+|\d+(?= %))", prose(text))
    return [figure for figure in figures if figure not in known]
