"""The text of an answer: stops, minimal lengths, and logprobs beside the text they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rondo.logprobs import TokenLogprobs
from rondo.types import FinishReason
from rondo_gateway.text.assembler import AnswerText, Scored, TextRules
from tests.unit.test_detokenizer import BORDERS, EVERY_KIND, TEXT, byte_level, llama_like

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def run(
    rules: TextRules,
    ids: Sequence[int],
    ended: FinishReason = LENGTH,
    borders: Sequence[int] = (),
    kind: Callable[[], Tokenizer] = byte_level,
) -> tuple[str, FinishReason | None, int, list[Scored]]:
    """The text, how it ended, the tokens used, and what was scored; as the gateway reads."""
    answer = AnswerText(kind(), rules)
    edges = sorted({0, len(ids), *(border % (len(ids) + 1) for border in borders)})
    pairs = list(zip(edges, edges[1:], strict=False)) or [(0, 0)]
    text, used = "", 0
    scored: list[Scored] = []
    for begin, end in pairs:
        rows = [TokenLogprobs(-1.0 - i, ()) for i in range(begin, end)] if rules.scored else []
        last = ended if end == len(ids) else None
        part = answer.push(ids[begin:end], rows, last)
        text += part.text
        used += part.num_used
        scored += part.scored
        if part.finish:
            return text, part.finish, used, scored
    return text, None, used, scored


def ids_of(text: str) -> list[int]:
    return list(byte_level().encode(text).ids)


@settings(deadline=None)
@given(text=TEXT, borders=BORDERS, scored=st.booleans(), stop=st.text(min_size=1, max_size=3))
def test_the_result_does_not_depend_on_how_tokens_come(
    text: str, borders: list[int], scored: bool, stop: str
) -> None:
    for rules in (TextRules(scored=scored), TextRules(stops=(stop,), scored=scored)):
        ids = ids_of(text)
        assert run(rules, ids, borders=borders) == run(rules, ids)


@EVERY_KIND
@settings(deadline=None, max_examples=40)
@given(text=TEXT)
def test_with_logprobs_the_text_is_the_same(kind: Callable[[], Tokenizer], text: str) -> None:
    ids = kind().encode(text).ids
    plain = run(TextRules(), ids, kind=kind)
    with_them = run(TextRules(scored=True), ids, borders=range(len(ids)), kind=kind)
    assert with_them[:3] == plain[:3]
    assert [item.token for item in with_them[3]] == ids


@pytest.mark.parametrize("stop", ["lazy", "zy d", "👍🏽", "e\u0301", "d\n", " ", "世界"])
@pytest.mark.parametrize("include", [False, True])
def test_stop_strings_across_borders_and_within_characters(stop: str, include: bool) -> None:
    text = f"The crazy dog{stop}and more"
    expected = text[: text.index(stop) + (len(stop) if include else 0)]
    rules = TextRules(stops=(stop,), include_stop=include)
    for kind in (byte_level, llama_like):
        ids = kind().encode(text).ids
        got, finish, used, _ = run(rules, ids, borders=range(len(ids)), kind=kind)
        assert (got, finish) == (expected, STOP)
        assert used <= len(ids)


def test_scored_tokens_know_their_place_and_end_with_the_text() -> None:
    ids = ids_of("ab👍 stop here")
    text, _, _, scored = run(TextRules(stops=("stop",), scored=True), ids)
    assert text == "ab👍 "
    assert scored
    assert [item.offset for item in scored] == sorted(item.offset for item in scored)
    tokenizer = byte_level()
    ends = len(tokenizer.decode([item.token for item in scored]))
    assert ends == len(text), "no token of the stop string is shown"
    for item in scored:
        head = tokenizer.decode([s.token for s in scored if s.offset < item.offset])
        assert text.startswith(head)


def test_the_end_token_is_no_text_unless_included() -> None:
    tokenizer = byte_level()
    end = tokenizer.token_to_id("<|end|>")
    assert end is not None
    ids = [*ids_of("bye"), end]
    assert run(TextRules(scored=True), ids, STOP)[:3] == ("bye", STOP, len(ids))
    assert len(run(TextRules(scored=True), ids, STOP)[3]) == len(ids) - 1
    shown = TextRules(include_stop=True, hide_special=False)
    assert run(shown, ids, STOP)[0] == "bye<|end|>"


def test_stop_tokens_end_an_answer() -> None:
    ids = ids_of("one two three")
    rules = TextRules(stop_token_ids=(ids[3],))
    text, finish, used, _ = run(rules, ids)
    assert (text, finish, used) == (byte_level().decode(ids[:3]), STOP, 4)
    text, *_ = run(TextRules(stop_token_ids=(ids[3],), include_stop=True), ids)
    assert text == byte_level().decode(ids[:4])


def test_nothing_stops_before_the_minimal_length() -> None:
    ids = ids_of("no no no no no")
    early = run(TextRules(stops=("no",)), ids)
    late = run(TextRules(stops=("no",), min_tokens=len(ids) - 2), ids, borders=range(len(ids)))
    assert early[0] == ""
    assert len(late[0]) > 5
    assert late[1] is STOP
    held = TextRules(stop_token_ids=(ids[0],), min_tokens=len(ids))
    assert run(held, ids)[1] is LENGTH
