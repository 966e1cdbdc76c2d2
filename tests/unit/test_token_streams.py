"""A worker's token streams: logprobs and the first token's ledger, also when asked for again."""

from __future__ import annotations

import pytest

from rondo.logprobs import Logprobs
from rondo.policy.plan import NewToken
from rondo.types import FinishReason
from rondo.wire.messages import Message, Resync, TokenDelta, TokenFrame
from rondo_worker.engines.base import StepLogprobs, UnsupportedRequest
from rondo_worker.streams import EMBEDDINGS_A_FRAME, TokenStreams

PROMPT = Logprobs.pack(1, [-3.0, -4.0], [5, 6], [-0.5, -0.25])


def row(index: int) -> Logprobs:
    return Logprobs.pack(1, [-1.0 - index], [index], [-0.5])


class Wire:
    """What was sent."""

    def __init__(self) -> None:
        self.deltas: list[TokenDelta] = []
        self.frame_sizes: list[int] = []
        self.streams = TokenStreams("w0", self.send)
        self.streams.open("r", "g0")

    def send(self, _subject: str, message: Message) -> None:
        assert isinstance(message, TokenFrame)
        self.deltas += message.deltas
        self.frame_sizes.append(len(message.deltas))

    def say(self, count: int, *, scored: bool) -> None:
        """A prefill of two steps, then so many tokens; the last one ends the answer."""
        self.streams.prefilled(["r"], 10.0, 10.25)
        self.streams.prefilled(["r"], 11.0, 11.5)
        for index in range(count):
            finish = FinishReason.LENGTH if index == count - 1 else None
            logprobs = StepLogprobs({"r": row(index)}, {} if index else {"r": PROMPT})
            new = (NewToken("r", index, 10 + index, finish),)
            if scored:
                self.streams.step(new, 11.5, logprobs)
            else:
                self.streams.step(new, 11.5)

    def again(self, index: int) -> TokenDelta:
        self.streams.resync(Resync(request_id="r", gateway_id="g0", from_index=index))
        return self.deltas[-1]


def test_logprobs_ride_on_their_tokens() -> None:
    wire = Wire()
    wire.say(3, scored=True)
    assert [delta.logprobs for delta in wire.deltas] == [row(0), row(1), row(2)]
    first, *rest = [delta.first for delta in wire.deltas]
    assert first is not None
    assert first.prefill_s == pytest.approx(0.75)
    assert first.prompt == PROMPT
    assert rest == [None, None]


def test_what_is_asked_for_again_has_them_too() -> None:
    wire = Wire()
    wire.say(3, scored=True)
    tail = wire.again(1)
    assert tail.logprobs == Logprobs.join([row(1), row(2)])
    assert (tail.tokens, tail.first, tail.finish) == ((11, 12), None, FinishReason.LENGTH)
    whole = wire.again(0)
    assert whole.logprobs == Logprobs.join([row(0), row(1), row(2)])
    assert whole.first is not None
    assert wire.again(3).logprobs is None


def test_without_them_a_delta_is_small() -> None:
    wire = Wire()
    wire.say(2, scored=False)
    assert wire.deltas[1] == TokenDelta("r", 1, (11,), FinishReason.LENGTH)


def test_a_refusal_names_what_the_engine_lacks() -> None:
    wire = Wire()
    wire.streams.fail(UnsupportedRequest("grammar", "none here", ("r",)))
    [delta] = wire.deltas
    assert (delta.finish, delta.error, delta.refused) == (
        FinishReason.ERROR,
        "none here",
        "grammar",
    )


def test_an_embedding_comes_with_the_first_token_and_again() -> None:
    wire = Wire()
    new = (NewToken("r", 0, 10, FinishReason.LENGTH),)
    wire.streams.step(new, 11.5, StepLogprobs(embeddings={"r": b"\0\0\x80?"}))
    for delta in (wire.deltas[0], wire.again(0)):
        assert delta.first is not None
        assert delta.first.embedding == b"\0\0\x80?"
        assert (delta.tokens, delta.finish) == ((10,), FinishReason.LENGTH)


def test_many_embeddings_of_one_step_go_in_several_frames() -> None:
    wire = Wire()
    names = [f"e{index}" for index in range(2 * EMBEDDINGS_A_FRAME + 1)]
    for name in names:
        wire.streams.open(name, "g0")
    vectors = dict.fromkeys(names, bytes(32 * 1024))
    tokens = tuple(NewToken(name, 0, 5, FinishReason.LENGTH) for name in names)
    wire.streams.step(tokens, 11.5, StepLogprobs(embeddings=vectors))
    assert [delta.request_id for delta in wire.deltas] == names
    assert wire.frame_sizes == [EMBEDDINGS_A_FRAME, EMBEDDINGS_A_FRAME, 1]
    plain = tuple(NewToken(name, 0, 5, None) for name in names)
    other = Wire()
    for name in names:
        other.streams.open(name, "g0")
    other.streams.step(plain, 11.5)
    assert other.frame_sizes == [len(names)]
