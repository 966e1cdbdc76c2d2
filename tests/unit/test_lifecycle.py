"""Latencies from stamps."""

from __future__ import annotations

import math

import pytest

from rondo.metrics.lifecycle import Lifecycle, percentile
from rondo_gateway.lengths import FIRST_GUESS, MARGIN, OutputLengths


def test_ttft_and_tpot() -> None:
    times = Lifecycle(10.0)
    assert (times.ttft_s, times.tpot_s) == (None, None)
    times.tokens(1, 10.5, keep_gaps=True)
    assert (times.ttft_s, times.tpot_s) == (0.5, None)
    times.tokens(2, 10.7, keep_gaps=True)
    times.tokens(1, 11.1, keep_gaps=True)
    assert times.num_tokens == 4
    assert times.tpot_s == pytest.approx(0.2)
    assert times.gaps_s == pytest.approx([0.2, 0.4])


def test_percentiles() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([0, 10], 0.99) == pytest.approx(9.9)
    assert percentile([7], 0.0) == percentile([7], 1.0) == 7
    assert math.isnan(percentile([], 0.5))


def test_answer_lengths_are_learned() -> None:
    lengths = OutputLengths()
    assert lengths.predict("m", 10_000, exact=False) == round(FIRST_GUESS * MARGIN)
    assert lengths.predict("m", 50, exact=False) == 50
    assert lengths.predict("m", 9_000, exact=True) == 9_000
    for _ in range(200):
        lengths.observe("m", 20)
    assert lengths.predict("m", 10_000, exact=False) == 24
    assert lengths.predict("other", 10_000, exact=False) == round(FIRST_GUESS * MARGIN)
