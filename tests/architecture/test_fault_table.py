"""The table of faults in docs/operations.md names tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = ["fault", "what happens", "what a client sees", "what an operator sees", "how long", "tests"]


def rows() -> list[list[str]]:
    section = (ROOT / "docs/operations.md").read_text().split("## What happens when")[1]
    lines = section.split("\n\n| ", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_table_says_all_of_every_fault() -> None:
    head, _, *faults = rows()
    assert [cell.strip("| ") for cell in head] == HEAD
    assert len(faults) > 25
    for row in faults:
        assert len(row) == len(HEAD), row
        assert all(row), row


@pytest.mark.parametrize("row", rows()[2:], ids=lambda row: row[0].strip("| "))
def test_every_fault_has_its_tests(row: list[str]) -> None:
    named = re.findall(r"`([a-z0-9_/]+\.py)::(\w+)`", row[-1])
    assert named
    for path, name in named:
        tree = ast.parse((ROOT / "tests" / path).read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {node.name for node in tree.body if isinstance(node, functions)}, path
