"""Result pages say what was measured, and whether it is enough."""

from __future__ import annotations

from pathlib import Path

from rondo_bench.control import cmd as control
from rondo_bench.control.bus_cost import BusCost
from rondo_bench.control.measure import Admissions, Idle
from rondo_bench.machine import span
from rondo_bench.streaming import compare as streaming
from rondo_bench.streaming.measure import Load, Round, body


def one_round(cpu_us: float, num_tokens: int = 1000) -> Round:
    return Round(
        num_tokens=num_tokens, num_events=1000, wall_s=0.1, cpu_s=cpu_us * 1e-6 * num_tokens
    )


def test_costs_are_over_tokens() -> None:
    found = one_round(25.0)
    assert round(found.cpu_us_a_token, 6) == 25.0
    assert round(found.tokens_per_core_s) == 40_000
    assert found.tokens_per_s == 10_000


def test_the_streaming_page_judges_every_bar() -> None:
    rounds = {
        streaming.ONE: [one_round(20.0), one_round(50.0), one_round(25.0)],
        streaming.BUNDLED: [one_round(12.0)] * 3,
        streaming.VLLM: [one_round(80.0), one_round(120.0), one_round(90.0)],
        streaming.LITELLM: [one_round(500.0)] * 3,
    }
    options = streaming.Options(
        rounds=3, num_streams=8, output_tokens=10, vllm=None, litellm=None, command="made"
    )
    page = streaming.as_markdown(rounds, options)
    assert "| events/s of one core | 25,000 | 40,000 | met |" in page
    assert "| tokens/s of one core, 16 an event | 100,000 | 83,333 | **missed** |" in page
    # ratios are taken round by round, so that what slows a round slows both sides: 4, 2.4, 3.6
    assert "| vLLM's API server over the gateway | 3.0 | 3.6 | met |" in page
    assert "| LiteLLM's proxy over the gateway | 5.0 | 20.0 | met |" in page
    assert set(streaming.as_json(rounds)) == set(rounds)


def test_the_control_page_judges_every_bar() -> None:
    fast = Admissions(per_s=500.0, p50_s=0.001, p99_s=0.004, coordinator_cpu_us=100.0)
    slow = Admissions(per_s=500.0, p50_s=0.001, p99_s=0.006, coordinator_cpu_us=100.0)
    busy = Idle(coordinator=0.01, gateway=0.03, nats=0.0, messages_per_s=64.0)
    found = {64: control.Rounds([fast, slow, fast], [slow] * 3, [busy] * 3)}
    cost = BusCost(requests=10, tokens=1000, frames=100, reports=10, messages=140, bytes=50_000)
    options = control.Options(sizes=(64,), rate=200.0, clients=16, duration_s=1.0, rounds=3)
    page = control.as_markdown(found, [cost], options)
    assert "| admission p99 at 64 instances, ms | 5 | 4.00 | met |" in page
    assert "| idle CPU of the coordinator at 64, % of a core | 2 | 1.00 | met |" in page
    assert "| idle CPU of the gateway at 64, % of a core | 2 | 3.00 | **missed** |" in page
    assert "| messages an engine step and gateway | 1.2 | 1.10 | met |" in page
    assert "| 1,000 | 100 | 10 | 1.10 | 3.00 | 0.140 | 50 |" in page
    assert "flame" not in page


def test_the_control_page_shows_the_flame_graphs_that_were_drawn() -> None:
    one = Admissions(per_s=500.0, p50_s=0.001, p99_s=0.004, coordinator_cpu_us=100.0)
    idle = Idle(coordinator=0.01, gateway=0.01, nats=0.0, messages_per_s=64.0)
    cost = BusCost(requests=1, tokens=1, frames=1, reports=0, messages=1, bytes=1)
    options = control.Options(
        sizes=(4, 64), rate=1.0, clients=1, duration_s=1.0, rounds=1, flames=Path("docs/results")
    )
    found = {size: control.Rounds([one], [one], [idle]) for size in options.sizes}
    page = control.as_markdown(found, [cost], options)
    assert "--flames docs/results" in page
    assert "[64](flame-coordinator-64.svg)" in page


def test_a_span_shows_how_far_rounds_are_apart() -> None:
    assert span([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"
    assert span([2.0], 0) == "2"


def test_streamed_requests_are_those_of_a_chat_or_a_text() -> None:
    chat = body("m", Load(num_streams=1, output_tokens=5))
    text = body("m", Load(num_streams=1, output_tokens=5, chat=False))
    assert b'"messages"' in chat
    assert b'"prompt"' in text
