"""How large a fused step may be, on a real profile: CodeLlama-34B on four L20."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rondo.perf.correction import CorrectedModel
from rondo.perf.profile import load_profile
from rondo.policy.events import InstanceInfo
from rondo.policy.step_size import CHUNK_TOKENS, GROUP_FACTOR, most_within, size_step
from rondo.policy.view import INFEASIBLE_TPOT_FACTOR, InstanceView
from rondo.types import KvOccupancy, Phase, Progress, RequestInfo, RequestProgress, Slo

PROFILE = load_profile("codellama-34b-l20-tp4")
LIMIT_S = 0.1
#: Beside more decodes than this, a fused step has a fixed cost.
FREE_DECODES = 108


def viewed(num_decodes: int, *, saved_s: float = 0.0, steps: int = 100) -> InstanceView:
    """An instance as its full report shows it: decodes of 20 + 100 tokens, `saved_s` ahead."""
    view = InstanceView(
        InstanceInfo(
            instance_id="i",
            latency=PROFILE,
            block_size=16,
            num_blocks=PROFILE.num_blocks,
            max_model_len=16_384,
            max_running=512,
            max_prefill_tokens=4096,
        ),
        rank=0,
    )
    members = tuple(
        RequestProgress(
            request_id=f"r{i}",
            prompt_tokens=20,
            max_tokens=400,
            predicted_tokens=400,
            tokens_out=steps + 1,
            slo=Slo(ttft_s=1.0, tpot_s=LIMIT_S),
            age_s=steps * LIMIT_S - saved_s + 0.1,
            decode_age_s=steps * LIMIT_S - saved_s,
        )
        for i in range(num_decodes)
    )
    kv = KvOccupancy(total_blocks=100, used_blocks=0, free_blocks=100, reserved_blocks=0)
    report = Progress(
        phase=Phase.DECODE,
        turn=0,
        decode_steps=steps,
        num_running=num_decodes,
        num_waiting=0,
        kv=kv,
        members=members,
    )
    view.take(report, 0.0)
    return view


def asked(prompt_tokens: int = 20) -> RequestInfo:
    return RequestInfo(
        request_id="new",
        prompt_tokens=prompt_tokens,
        max_tokens=100,
        predicted_tokens=100,
        slo=Slo(ttft_s=1.0, tpot_s=LIMIT_S),
        arrival_s=0.0,
    )


def step_s(view: InstanceView, tokens: int) -> float:
    return PROFILE.step_s(tokens, 0, len(view.running), view.context_tokens())


@pytest.mark.parametrize("num_decodes", [0, 1, 30, FREE_DECODES])
def test_beside_few_decodes_a_step_takes_what_the_limit_allows(num_decodes: int) -> None:
    view = viewed(num_decodes, saved_s=5.0)
    size = size_step(view, asked(), 0.99, 0.0)
    assert size.enough == 0
    if num_decodes:
        assert step_s(view, size.tokens) <= 0.99 * LIMIT_S < step_s(view, size.tokens + 32)
    assert size.batching.tokens == size.tokens + num_decodes


def test_beside_many_decodes_a_step_must_be_worth_its_fixed_cost() -> None:
    view = viewed(200)
    size = size_step(view, asked(), 0.99, 0.0)
    fixed_s = step_s(view, 1) - step_s(view, 0)
    per_token_s = step_s(view, 1001) / 1000 - step_s(view, 1) / 1000
    assert fixed_s > 0
    least = GROUP_FACTOR * fixed_s / per_token_s
    assert least <= size.enough <= least + CHUNK_TOKENS
    assert size.tokens < size.enough, "nothing is saved yet"
    assert step_s(view, size.tokens) <= 0.99 * LIMIT_S


def test_what_plain_steps_saved_pays_for_a_group_and_for_no_more() -> None:
    poor, some, rich = (
        size_step(viewed(200, saved_s=saved_s), asked(), 0.99, 0.0).tokens
        for saved_s in (0.0, 0.02, 5.0)
    )
    assert poor < some < rich
    view = viewed(200, saved_s=0.02)
    assert step_s(view, some) <= 0.99 * LIMIT_S + 0.02
    assert rich == size_step(view, asked(), 0.99, 0.0).enough


def test_a_prompt_of_many_steps_spreads_what_is_saved_over_them() -> None:
    short = size_step(viewed(200, saved_s=0.05), asked(20), 0.99, 0.0)
    long = size_step(viewed(200, saved_s=0.05), asked(2000), 0.99, 0.0)
    steps = 2000 / long.enough
    assert long.tokens < short.tokens
    assert step_s(viewed(200), long.tokens) <= 0.99 * LIMIT_S + 0.05 / steps


def test_no_prompt_joins_where_one_decode_more_is_too_many() -> None:
    """A profile in which a fused step is cheaper than the plain ones around it."""
    view = viewed(30)
    dear = msgspec.structs.replace(PROFILE, decode_ms=(20.0, 5.0, 0.0))
    view.latency = CorrectedModel(dear)
    assert size_step(view, asked(), 1.0, 0.0).tokens == 0
    view.latency = CorrectedModel(msgspec.structs.replace(dear, decode_ms=(20.0, 1.0, 0.0)))
    assert size_step(view, asked(), 1.0, 0.0).tokens > 0


def test_what_waits_is_given_the_limit_that_it_can_meet() -> None:
    """A lone request needs 24 ms a token here: who asks for less does not stop the others."""
    view = viewed(30)
    strict = msgspec.structs.replace(asked(), slo=Slo(ttft_s=1.0, tpot_s=0.001))
    alone_s = PROFILE.step_s(0, 0, 1, 20)
    size = size_step(view, strict, 0.99, 0.0)
    limit_s = 0.99 * min(LIMIT_S, INFEASIBLE_TPOT_FACTOR * alone_s)
    assert step_s(view, size.tokens) <= limit_s < step_s(view, size.tokens + 32)


@example(costs=[0.0, 5e-324, 1.0, 2.0, 3.0], limit_s=1.5, guess=1)
@given(
    costs=st.lists(st.floats(0, 10), min_size=1, max_size=60).map(sorted),
    limit_s=st.floats(-1, 11),
    guess=st.integers(1, 60),
)
def test_most_within_is_what_counting_up_finds(
    costs: list[float], limit_s: float, guess: int
) -> None:
    most = len(costs)
    asked_for: list[int] = []

    def cost_s(count: int) -> float:
        assert 1 <= count <= most
        asked_for.append(count)
        return costs[count - 1]

    found = most_within(cost_s, limit_s, most, min(guess, most))
    assert found == sum(cost <= limit_s for cost in costs)
    asked_for.clear()
    assert most_within(cost_s, limit_s, most, max(1, found)) == found
    assert len(asked_for) <= 2, "a right guess needs no search"
