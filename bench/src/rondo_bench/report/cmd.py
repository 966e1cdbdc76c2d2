"""rondo-bench report: the results of the experiments as one HTML file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rondo.errors import ConfigError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `report` to the command line."""
    parser = commands.add_parser(
        "report", help="write the results of the experiments as one HTML file"
    )
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="folder of <experiment>.json"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a short summary, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0.

    Raises:
        ConfigError: a result is malformed, or a file cannot be read or written.
    """
    # matplotlib takes most of a second to import, which other commands need not wait for
    from rondo_bench.report.data import load_results
    from rondo_bench.report.html import make_sections, render
    from rondo_bench.report.markdown import summary

    results = load_results(args.results)
    sections = make_sections(results)
    _write("--out", args.out, render(sections))
    if args.markdown:
        page = os.path.relpath(args.out, args.markdown.parent)
        _write("--markdown", args.markdown, summary(results, sections, Path(page).as_posix()))
    return 0


def _write(option: str, path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(option, str(error)) from error
    print(f"wrote {path} ({len(text.encode()) / 1024:.0f} KiB)")
