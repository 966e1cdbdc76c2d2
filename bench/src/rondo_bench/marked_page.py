"""Puts tables into a hand-written Markdown page, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rondo.errors import ConfigError

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def read_page(path: Path) -> str:
    """The page, which has both marks.

    Raises:
        ConfigError: it is not there, or has no marks.
    """
    text = path.read_text() if path.is_file() else ""
    if BEGIN not in text or END not in text:
        raise ConfigError("--write", f"{path} lacks the lines {BEGIN} and {END}")
    return text


def put_tables(path: Path, lines: Sequence[str]) -> None:
    """Puts the lines between the marks of the page; what is around them stays.

    Raises:
        ConfigError: the page is not there, or has no marks.
    """
    text = read_page(path)
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n{END}{after}")
