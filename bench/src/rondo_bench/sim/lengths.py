"""Length files: the prompt and answer lengths of real requests, one request a row.

A length of 0 is clamped to 1, and `LengthTable.num_clamped` says how many were: a request has at
least one prompt token, and its prefill yields a token. Negative lengths are refused.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from rondo.errors import ConfigError

IntArray = NDArray[np.int64]

#: Prompt, answer and (may be absent) predicted answer; the first pair that a file has counts.
_COLUMNS = (
    ("num_prefill_tokens", "num_decode_tokens", "num_predicted_decode_tokens"),
    ("est_prefill_tokens", "pred_output_tokens", "num_predicted_decode_tokens"),
)
#: What a file may call a length; anything longer is a mistake, not a request.
MAX_TOKENS = 2**31 - 1
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, eq=False)
class LengthTable:
    """Lengths in tokens, all arrays int64 of shape (rows,); `predicted_tokens` may be absent."""

    prompt_tokens: IntArray
    output_tokens: IntArray
    predicted_tokens: IntArray | None = None
    num_clamped: int = 0

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def sample(self, rng: np.random.Generator, count: int) -> LengthTable:
        """`count` rows drawn with replacement; the same generator state draws the same rows."""
        rows = rng.integers(0, len(self), size=count)
        predicted = self.predicted_tokens
        return LengthTable(
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            predicted_tokens=None if predicted is None else predicted[rows],
        )


def load_lengths(path: Path | str) -> LengthTable:
    """The length file at `path`: CSV, plain or gzipped, with a line of column names.

    Columns are `num_prefill_tokens, num_decode_tokens` and perhaps `num_predicted_decode_tokens`,
    or LongBench's `est_prefill_tokens, pred_output_tokens`; others are ignored.

    Raises:
        ConfigError: the file cannot be read, lacks a column, has a value that is no length, or
            no row. It names the file, the column and the line.
    """
    with open_text(path) as file:
        rows = csv.reader(file)
        header = read_header(rows, path)
        names = _length_columns(header, path)
        table = [
            [parse_tokens(row, header, name, path, rows.line_num) for name in names]
            for row in rows
            if row
        ]
    if not table:
        raise ConfigError(str(path), "has no rows")
    raw = np.array(table, dtype=np.int64).T
    lengths = np.maximum(raw, 1)
    return LengthTable(
        prompt_tokens=lengths[0],
        output_tokens=lengths[1],
        predicted_tokens=lengths[2] if len(names) > 2 else None,
        num_clamped=int(np.count_nonzero(raw < 1)),
    )


def _length_columns(header: Sequence[str], path: Path | str) -> list[str]:
    """The names of the prompt, answer and perhaps predicted columns of a file."""
    for prompt, output, predicted in _COLUMNS:
        if prompt in header and output in header:
            return [prompt, output] + [predicted] * (predicted in header)
    missing = [name for name in _COLUMNS[0][:2] if name not in header]
    raise ConfigError(str(path), f"line 1: lacks the column {', '.join(missing)}")


@contextmanager
def open_text(path: Path | str) -> Iterator[TextIO]:
    """The text of a file, gunzipped when its first bytes say so.

    Raises:
        ConfigError: it cannot be opened, or proves unreadable within the block (truncated gzip,
            not UTF-8, broken CSV quoting).
    """
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            data = gzip.GzipFile(fileobj=raw) if zipped else raw
            with io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as file:
                yield file
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error


def read_header(rows: Iterator[list[str]], path: Path | str) -> list[str]:
    """The column names, from the first row of a CSV. ConfigError when the file is empty."""
    header = next(rows, None)
    if not header:
        raise ConfigError(str(path), "is empty")
    return [name.strip() for name in header]


def cell(row: Sequence[str], header: Sequence[str], name: str, path: Path | str, line: int) -> str:
    """The text in column `name` of a row. ConfigError when the row is too short for it."""
    index = header.index(name)
    if index >= len(row):
        raise ConfigError(str(path), f"line {line}: {name} is missing")
    return row[index]


def parse_tokens(
    row: Sequence[str], header: Sequence[str], name: str, path: Path | str, line: int
) -> int:
    """The whole number of 0 or more in column `name` of a row; ConfigError for anything else."""
    text = cell(row, header, name, path, line)
    try:
        tokens = int(text)
    except ValueError:
        tokens = -1
    if not 0 <= tokens <= MAX_TOKENS:
        raise ConfigError(str(path), f"line {line}: {name} is {text!r}, not a number of tokens")
    return tokens
