"""What README and documentation show works: code blocks run, commands exist, every method has its card.

Blocks marked ``python`` run in order, in one namespace a page, in an empty folder. One that must not run stands under a
comment that says why: ``<!-- not run: it needs a GPU -->``.
"""

import re
import shlex
from pathlib import Path

import pytest
import torch

import forgetting
from tests.house.sources import ROOT, files

BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>[\w-]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SECTIONS = ("**Formula.**", "**Aims at**", "**Cost.**", "**When it works.**", "**When it does not.**", "**Reference.**")
PAGES = [path for path in files(".md") if path.parent == ROOT or path.is_relative_to(ROOT / "docs")]
CARDS = {path.stem: path for path in PAGES if path.parent == ROOT / "docs" / "methods" and path.stem != "index"}


def blocks(text: str, language: str) -> list[tuple[int, str, str | None]]:
    """Line, code and the reason not to run it, of every block in a language."""
    return [
        (text.count("\n", 0, found.start("code")) + 1, found["code"], found["reason"])
        for found in BLOCK.finditer(text)
        if found["language"] == language
    ]


def name(path: Path) -> str:
    """A page's name in the list of tests."""
    return str(path.relative_to(ROOT))


def run_page(path: Path) -> int:
    """Run a page's Python blocks; how many ran. An exception names the page's own line."""
    namespace: dict[str, object] = {"__name__": "page"}
    ran = 0
    for line, code, reason in blocks(path.read_text(encoding="utf-8"), "python"):
        if reason is None:
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
            ran += 1
    return ran


@pytest.mark.parametrize("path", [path for path in PAGES if "```python" in path.read_text(encoding="utf-8")], ids=name)
def test_code_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert run_page(path) > 0


def test_a_wrong_block_fails_at_its_own_line_and_a_marked_one_is_left_out(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n<!-- not run: it is wrong -->\n```python\n1 / 0\n```\n")
    assert run_page(page) == 1
    page.write_text("text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as failure:
        run_page(page)
    assert failure.traceback[-1].lineno + 1 == 8


def commands() -> list[tuple[str, str]]:
    """Page and line of every ``forgetting`` or ``make`` command in a shell block."""
    found = []
    for path in PAGES:
        for _, code, _ in blocks(path.read_text(encoding="utf-8"), "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] in ("forgetting", "make"):
                    found.append((name(path), shlex.join(words)))
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_exist(page, command, tmp_path, monkeypatch):
    program, *words = shlex.split(command)
    if program == "make":
        targets = [word for word in words if "=" not in word]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), page
        return
    from forgetting import methods, tasks
    from forgetting.cli import main
    from forgetting.tasks.given import GIVEN

    monkeypatch.chdir(tmp_path)
    if words[0] == "report":
        (tmp_path / words[1]).mkdir()
    command = main.commands[words[0]]
    context = command.make_context(words[0], words[1:])
    if words[0] == "run":
        assert context.params["sequence"] in (*tasks.names(), *GIVEN), page
        known = (*methods.names(), "all")
        for method in context.params["names"].split(","):
            assert method in known or (ROOT / method.partition(":")[0]).exists() or "." in method, page


def test_every_method_has_a_card_and_every_card_a_method():
    from forgetting import methods

    assert sorted(CARDS) == sorted(methods.names())


@pytest.mark.parametrize("path", CARDS.values(), ids=name)
def test_cards_are_whole(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem}\n")
    assert [section for section in SECTIONS if section not in text] == []


def links() -> list[tuple[str, str]]:
    """Page and target of every link to a file of this repository."""
    return [
        (name(path), target)
        for path in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if not re.match(r"\w+:|[\w-]+$", target)
    ]


@pytest.mark.parametrize(("page", "target"), links())
def test_links_lead_somewhere(page, target):
    assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_example_of_the_pages_is_a_regularizer_of_thirty_lines():
    source = (ROOT / "docs" / "examples" / "my_regularizer.py").read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "my_regularizer"}
    exec(compile(source, "my_regularizer.py", "exec"), namespace)
    assert issubclass(namespace["MyRegularizer"], forgetting.Regularizer)
    assert len(source.splitlines()) <= 30
