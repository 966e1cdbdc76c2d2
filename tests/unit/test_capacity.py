"""What an instance can serve, from the closed forms of its steps."""

from __future__ import annotations

import pytest

from rondo.perf.profile import LatencyProfile
from rondo.policy.capacity import Lengths, ceiling_rate, memory_rate
from rondo.policy.changes import Begun, Ended
from rondo.policy.load_count import LEAST_ENDED, LoadCount
from rondo.types import RequestInfo, Slo

#: 10 ms a step and 1 ms a decoding sequence; prompts 0.1 ms a token.
PROFILE = LatencyProfile(
    name="test",
    source="made up",
    prefill_floor_ms=(0.0, 0.0),
    prefill_line_ms=(10.0, 0.1),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(10.0, 1.0, 0.0),
)


def test_decodes_alone_fill_the_step_up_to_the_limit() -> None:
    lengths = Lengths(prompt=1.0, prompt_squared=1.0, answer=100.0, context=50.0)
    # 90 sequences in steps of 100 ms are 900 tokens/s; fused steps with a prompt token are cheaper.
    assert ceiling_rate(PROFILE, lengths, 0.1) >= 9.0
    assert ceiling_rate(PROFILE, lengths, 0.05) < ceiling_rate(PROFILE, lengths, 0.1)


def test_long_prompts_cost_their_tokens() -> None:
    lengths = Lengths(prompt=1000.0, prompt_squared=1e6, answer=1.0, context=1000.0)
    # 0.1 ms a token is 10 prompts/s, less what the steps' fixed part takes.
    assert 8.0 < ceiling_rate(PROFILE, lengths, 1.0) < 10.0


def test_what_fits_into_memory_is_a_limit_of_its_own() -> None:
    lengths = Lengths(prompt=100.0, prompt_squared=1e4, answer=100.0, context=150.0)
    assert memory_rate(2000, lengths, 0.1) == pytest.approx(10 / 10.0)  # ten at a time, for 10 s


def ended(prompt: int, answer: int) -> Ended:
    info = RequestInfo(
        request_id="r",
        prompt_tokens=prompt,
        max_tokens=answer,
        predicted_tokens=answer,
        slo=Slo(ttft_s=1.0, tpot_s=0.1),
        arrival_s=0.0,
    )
    return Ended("r", answer, info)


def test_lengths_follow_what_ends() -> None:
    count = LoadCount()
    for _ in range(LEAST_ENDED - 1):
        count.ended(ended(100, 10))
    assert count.lengths() is None
    for _ in range(2000):
        count.ended(ended(100, 10))
    known = count.lengths()
    assert known is not None
    lengths, tpot_s = known
    assert (lengths.prompt, lengths.answer, tpot_s) == pytest.approx((100.0, 10.0, 0.1))
    assert lengths.context == pytest.approx(105.0)
    for _ in range(3000):
        count.ended(ended(300, 50))
    known = count.lengths()
    assert known is not None
    assert known[0].prompt == pytest.approx(300.0, rel=0.01)


def test_who_was_not_known_to_decode_tells_nothing() -> None:
    count = LoadCount()
    for _ in range(100):
        count.ended(Ended("r", 10, None))
    assert count.lengths() is None
    count.began(Begun("r", 0.5, 2.0))
    assert (count.num_served, count.ttft_s, count.ttft_limit_s) == (1, 0.5, 2.0)
