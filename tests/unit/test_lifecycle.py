"""Latencies from stamps."""

from __future__ import annotations

import math

import pytest

from rondo.metrics.lifecycle import Lifecycle, percentile


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
