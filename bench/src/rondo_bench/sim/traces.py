"""Request traces, replayed: when real requests came, and how long they were.

Two formats, told apart by their content. Azure's CSV (Patel et al., Splitwise, ISCA 2024) has
`TIMESTAMP, ContextTokens, GeneratedTokens`, exact to 100 ns. Mooncake's JSON lines (FAST 2025) have
`timestamp` in ms, `input_length, output_length`, and were collected in batches: about every 3 s
some ten requests carry one timestamp, so their order is known and their times are not.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from rondo.errors import ConfigError
from rondo_bench.sim.lengths import MAX_TOKENS, IntArray, cell, open_text, parse_tokens, read_header

FloatArray = NDArray[np.float64]
_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class _MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


_MOONCAKE = msgspec.json.Decoder(_MooncakeLine)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A trace from its first request on; all arrays of shape (requests,), in order of time.

    `at_s` counts from the first timestamp. `batched`: equal times are an artefact of collection.
    Lengths are in tokens; 0 became 1, since every request has a prompt and its prefill yields a
    token.
    """

    at_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    batched: bool

    def __len__(self) -> int:
        return len(self.at_s)

    def spread(self, rng: np.random.Generator) -> Trace:
        """This trace with the requests of each batch at random times until the next one.

        Times are uniform over the gap, in the order of the file; the last batch takes the gap
        before it. A request alone with its timestamp keeps it, and so does a trace that is not
        batched, or has one batch and hence no gap.
        """
        if not self.batched or len(self) == 0:
            return self
        starts, inverse, sizes = np.unique(self.at_s, return_inverse=True, return_counts=True)
        if len(starts) < 2:
            return self
        gaps = np.diff(starts)
        gaps = np.append(gaps, gaps[-1])
        gaps[sizes == 1] = 0.0
        offsets = rng.random(len(self)) * gaps[inverse]
        # Batches do not overlap, so one sort orders the times within each and mixes none.
        return replace(self, at_s=np.sort(self.at_s + offsets), batched=False)

    def first(self, count: int) -> Trace:
        """The first `count` requests, or all when there are fewer."""
        return replace(
            self,
            at_s=self.at_s[:count],
            prompt_tokens=self.prompt_tokens[:count],
            output_tokens=self.output_tokens[:count],
        )

    def at_rate(self, rate: float) -> Trace:
        """This trace with its times stretched to `rate` requests a second in the mean.

        The mean rate is one over the mean time between requests.

        Raises:
            ConfigError: the rate is not above 0, or the trace has no duration, so that no factor
                helps.
        """
        if not (rate > 0 and math.isfinite(rate)):
            raise ConfigError("rate", f"must be above 0, not {rate}")
        span_s = float(self.at_s[-1] - self.at_s[0])
        if span_s <= 0.0:
            raise ConfigError("rate", "the trace's requests all come at one instant")
        factor = (len(self) - 1) / (span_s * rate)
        return replace(self, at_s=self.at_s * factor)


def load_trace(path: Path | str) -> Trace:
    """The trace at `path`: Azure's CSV or Mooncake's JSON lines, plain or gzipped.

    Raises:
        ConfigError: the file cannot be read, lacks a column, has a bad value, or no request. It
            names the file, the column and the line.
    """
    with open_text(path) as file:
        numbered = ((n, line) for n, line in enumerate(file, 1) if line.strip())
        first = next(numbered, None)
        if first is None:
            raise ConfigError(str(path), "is empty")
        lines = itertools.chain([first], numbered)
        batched = first[1].lstrip().startswith("{")
        rows = list(_mooncake_rows(lines, path) if batched else _azure_rows(lines, path))
    if not rows:
        raise ConfigError(str(path), "has no rows")
    times = np.array([row[0] for row in rows], dtype=np.float64)
    lengths = np.maximum(np.array([row[1:] for row in rows], dtype=np.int64), 1)
    order = np.argsort(times, kind="stable")
    return Trace(
        at_s=times[order] - times[order[0]],
        prompt_tokens=lengths[order, 0],
        output_tokens=lengths[order, 1],
        batched=batched,
    )


def _azure_rows(
    lines: Iterator[tuple[int, str]], path: Path | str
) -> Iterator[tuple[float, int, int]]:
    """(seconds since the first row, prompt tokens, answer tokens) of each row."""
    _, first = next(lines)
    header = read_header(csv.reader([first]), path)
    for name in _AZURE_COLUMNS:
        if name not in header:
            raise ConfigError(str(path), f"line 1: lacks the column {name}")
    start: datetime | None = None
    for number, line in lines:
        row = next(csv.reader([line]))
        at = _instant(cell(row, header, "TIMESTAMP", path, number), path, number)
        start = start or at
        yield (
            (at - start).total_seconds(),
            parse_tokens(row, header, "ContextTokens", path, number),
            parse_tokens(row, header, "GeneratedTokens", path, number),
        )


def _instant(text: str, path: Path | str, line: int) -> datetime:
    """A date and time; without a zone it is taken for UTC, so that no clock change moves it."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(str(path), f"line {line}: TIMESTAMP is {text!r}, not a time") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _mooncake_rows(
    lines: Iterator[tuple[int, str]], path: Path | str
) -> Iterator[tuple[float, int, int]]:
    """(seconds, prompt tokens, answer tokens) of each line; msgspec's words name a bad field."""
    for number, line in lines:
        try:
            row = _MOONCAKE.decode(line)
        except msgspec.DecodeError as error:
            raise ConfigError(str(path), f"line {number}: {error}") from error
        yield row.timestamp / 1000.0, row.input_length, row.output_length
