"""StopFilter against a naive reading of the whole text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_gateway.text.stops import StopFilter

# A small alphabet makes overlaps, borders and near misses common.
TEXT = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4).map(tuple)


def cut(text: str, borders: list[int]) -> list[str]:
    edges = [0, *sorted(border % (len(text) + 1) for border in borders), len(text)]
    return [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def expected(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Try every end in turn; at the first that completes a stop string, take the longest."""
    for end in range(1, len(text) + 1):
        matched = [stop for stop in stops if text[:end].endswith(stop)]
        if matched:
            return text[: end - max(map(len, matched))], True
    return text, False


def run(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    filtered = StopFilter(stops)
    out, stopped = "", False
    for piece in pieces:
        emitted, stopped = filtered.push(piece)
        out += emitted
    return out + filtered.finish(), stopped


@settings(deadline=None)
@given(text=TEXT, stops=STOPS, borders=st.lists(st.integers(0, 40), max_size=10))
def test_equals_the_naive_reference_however_the_text_is_cut(
    text: str, stops: tuple[str, ...], borders: list[int]
) -> None:
    assert run(cut(text, borders), stops) == expected(text, stops)


@settings(deadline=None)
@given(text=TEXT, stops=STOPS)
def test_holds_back_only_what_may_become_a_stop_string(text: str, stops: tuple[str, ...]) -> None:
    filtered = StopFilter(stops)
    emitted = ""
    for index, char in enumerate(text):
        piece, stopped = filtered.push(char)
        emitted += piece
        if stopped:
            break
        seen = text[: index + 1]
        held = seen[len(emitted) :]
        starts = {stop[:length] for stop in stops for length in range(1, len(stop))}
        longest = max((start for start in starts if seen.endswith(start)), key=len, default="")
        assert held == longest


def test_a_stop_string_across_pieces_is_never_passed_on() -> None:
    filtered = StopFilter(("</end>",))
    assert filtered.push("answer</e") == ("answer", False)
    assert filtered.push("nd>rest") == ("", True)
    assert filtered.push("more") == ("", True)
    assert filtered.finish() == ""


def test_held_text_that_became_no_stop_string_comes_out() -> None:
    filtered = StopFilter(("\n\nUser:",))
    assert filtered.push("hi\n\n") == ("hi", False)
    assert filtered.push("Use a hammer\n") == ("\n\nUse a hammer", False)
    assert filtered.finish() == "\n"


@pytest.mark.parametrize("stops", [("b", "abc"), ("abc", "b")])
def test_the_match_that_is_complete_first_wins(stops: tuple[str, ...]) -> None:
    assert run(["xabc"], stops) == ("xa", True)


def test_of_matches_complete_together_the_longest_wins() -> None:
    assert run(["xabcy"], ("c", "abc", "bc")) == ("x", True)


def test_without_stop_strings_text_passes_at_once() -> None:
    filtered = StopFilter()
    assert filtered.push("a") == ("a", False)
    assert filtered.finish() == ""


def test_work_is_linear_for_a_repetitive_stop_string() -> None:
    filtered = StopFilter(("a" * 20_000 + "b",))
    began = time.perf_counter()
    for _ in range(2_000):
        filtered.push("a" * 20)
    assert time.perf_counter() - began < 5.0  # quadratic work would take minutes
    assert filtered.finish() == "a" * 20_000
