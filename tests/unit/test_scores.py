"""Logprobs in OpenAI's shapes."""

from __future__ import annotations

import pytest
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.completion_choice import Logprobs as TextLogprobs

from rondo.logprobs import Logprobs, TokenLogprobs
from rondo_gateway.scores import LOWEST, ScoreShaper, join_text
from rondo_gateway.text.assembler import Scored
from rondo_gateway.text.vocabulary import vocabulary_of
from tests.unit.test_detokenizer import KINDS, byte_level, llama_like, word_suffix


def test_a_chats_logprobs() -> None:
    tokenizer = byte_level()
    a, b, *_ = tokenizer.encode("é").ids
    row = TokenLogprobs(-0.25, ((a, -0.25), (b, -float("inf"))))
    shaped = ScoreShaper(tokenizer, 2).chat([Scored(a, row, 0)])
    parsed = ChoiceLogprobs.model_validate(shaped, strict=True)
    assert parsed.content is not None
    [entry] = parsed.content
    assert entry.bytes == list("é".encode()[:1])
    assert (entry.token, entry.logprob) == ("\ufffd", -0.25)
    assert [top.logprob for top in entry.top_logprobs] == [-0.25, LOWEST]
    assert [top.bytes for top in entry.top_logprobs] == [[0xC3], [0xA9]]
    assert not ScoreShaper(tokenizer, 0).chat([Scored(a, row, 0)])["content"][0]["top_logprobs"]


def test_a_completions_logprobs_behind_an_echo() -> None:
    tokenizer = byte_level()
    prompt = tokenizer.encode("the é").ids
    x = tokenizer.encode("x").ids[0]
    shaper = ScoreShaper(tokenizer, 1)
    own = [-1.0] * (len(prompt) - 1)
    rows = Logprobs.pack(1, own, prompt[1:], [-0.5] * (len(prompt) - 1))
    before = shaper.prompt(prompt, rows)
    after = shaper.text([Scored(x, TokenLogprobs(-2.0, ((prompt[0], -0.1),)), 0)], len("the é"))
    whole = join_text(before, after)
    TextLogprobs.model_validate(after, strict=True)
    assert whole["token_logprobs"] == [None, *own, -2.0]
    assert whole["top_logprobs"][0] is None
    assert whole["top_logprobs"][-1] == {whole["tokens"][0]: -0.1, "x": -2.0}
    assert whole["text_offset"][0] == 0
    assert whole["text_offset"][-1] == len("the é")
    assert len({len(values) for values in whole.values()}) == 1


def test_a_prompt_of_one_token_has_no_logprobs() -> None:
    shaped = ScoreShaper(byte_level(), 1).prompt([5], None)
    assert (shaped["token_logprobs"], shaped["top_logprobs"]) == ([None], [None])


def test_tokens_by_their_ids() -> None:
    row = TokenLogprobs(-1.0, ((7, -0.5),))
    shaped = ScoreShaper(byte_level(), 1, as_ids=True).text([Scored(5, row, 0)])
    assert shaped["tokens"] == ["token_id:5"]
    assert shaped["top_logprobs"] == [{"token_id:7": -0.5, "token_id:5": -1.0}]


# With a word suffix the blank behind a token depends on the next one, so no token has it.
@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k is not word_suffix], ids=lambda k: k.__name__
)
def test_the_bytes_of_all_tokens_make_up_the_text(kind) -> None:  # type: ignore[no-untyped-def]
    tokenizer = kind()
    vocabulary = vocabulary_of(tokenizer)
    # From the second word on, so that what decoders do to the start of a text is left out.
    anchor = tokenizer.encode("x").ids
    ids = [*anchor, *tokenizer.encode(" over lazy dog").ids]
    data = b"".join(vocabulary.exact_bytes(index) for index in ids)
    assert data.decode().split() == tokenizer.decode(ids).split()
    assert vocabulary.exact_bytes(10**6) == b""


def test_byte_tokens_show_their_byte() -> None:
    tokenizer = llama_like()
    token = tokenizer.token_to_id("<0xE4>")
    assert token is not None
    assert vocabulary_of(tokenizer).exact_bytes(token) == b"\xe4"
