"""Files stay under 300 lines and functions under 40."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ["shared/src", "services", "bench/src", "tools"]


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_no_file_has_more_than_300_lines() -> None:
    long = {str(p): n for p in sources() if (n := len(p.read_text().splitlines())) > 300}
    assert long == {}


def test_no_function_has_more_than_40_lines() -> None:
    long = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = [n for n in node.body if not _is_docstring(n)]
                assert body or node.body
                first = body[0].lineno if body else node.lineno
                length = (node.end_lineno or first) - first + 1
                if length > 40:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = length
    assert long == {}


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
