"""A file fits in a head: fewer than 300 lines; a function on a screen: fewer than 50, its docstring not counted."""

import ast

import pytest

from tests.house.sources import ROOT, python_files

FILE_LINES = 300
FUNCTION_LINES = 50


def function_lengths(source: str) -> dict[str, int]:
    """Name and line -> lines of a function, from its decorators to its end, without its docstring."""
    lengths = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = node.end_lineno - first + 1
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                lines -= docstring.end_lineno - docstring.lineno + 1
            lengths[f"{node.name}:{node.lineno}"] = lines
    return lengths


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    source = path.read_text(encoding="utf-8")
    count = len(source.splitlines())
    assert count < FILE_LINES, f"{path.relative_to(ROOT)} has {count} lines: split it where it has two subjects"
    long = {name: lines for name, lines in function_lengths(source).items() if lines >= FUNCTION_LINES}
    assert not long, f"{path.relative_to(ROOT)}: {long} lines: give the parts names of their own"


def test_a_docstring_does_not_count_and_a_body_does():
    body = "\n".join("    x = 1" for _ in range(49))
    assert function_lengths(f'def f():\n    """One.\n\n    Two.\n    """\n{body}\n') == {"f:1": 50}
