"""Counts of several owners become windows of a model's load."""

from __future__ import annotations

import pytest

from rondo.policy.windows import LoadWindows
from rondo.types import MacroLoad


def load(served: int, refused: int = 0, ttft_s: float = 0.5, **more: float) -> MacroLoad:
    saved_s, running = more.get("saved_s"), int(more.get("running", 0))
    return MacroLoad(
        num_served=served,
        ttft_s=served * ttft_s,
        ttft_limit_s=served * 2.0,
        num_refused=refused,
        saved_tpot_s=saved_s,
        num_running=running,
    )


def test_the_first_look_is_no_window() -> None:
    assert LoadWindows().close([("a", 1, load(100))], 3, 10.0) is None


def test_a_window_is_the_difference_over_all_macro_instances() -> None:
    windows = LoadWindows()
    windows.close([("a", 1, load(100)), ("b", 1, load(10, 1))], 3, 10.0)
    window = windows.close([("a", 1, load(130)), ("b", 1, load(20, 4))], 4, 15.0)
    assert window is not None
    assert (window.num_served, window.num_refused, window.num_instances) == (40, 3, 4)
    assert (window.at_s, window.duration_s) == (15.0, 5.0)
    assert window.mean_ttft_s == pytest.approx(0.5)
    assert window.ttft_limit_s == pytest.approx(2.0)
    assert window.mean_saved_tpot_s is None


def test_a_new_owner_counts_from_nothing_and_so_does_a_new_macro_instance() -> None:
    windows = LoadWindows()
    windows.close([("a", 1, load(100))], 3, 10.0)
    window = windows.close([("a", 2, load(5)), ("b", 1, load(7))], 3, 20.0)
    assert window is not None
    assert window.num_served == 12


def test_saved_tpot_is_weighted_by_what_decodes() -> None:
    windows = LoadWindows()
    windows.close([], 1, 0.0)
    seen = [("a", 1, load(0, saved_s=4.0, running=30)), ("b", 1, load(0, saved_s=1.0, running=10))]
    window = windows.close([*seen, ("c", 1, load(0))], 1, 1.0)
    assert window is not None
    assert window.mean_saved_tpot_s == pytest.approx(3.25)
    assert window.mean_ttft_s is None
