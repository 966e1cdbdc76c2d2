"""Whatever happens to a live pipeline, every answer is what the engine computes for its prompt.

The emulated engine checks each plan: positions, block tables, and that no block has two users.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.policy.plan import Job
from rondo.policy.tdpipe import SCHEDULER_NAMES, PipeStep
from rondo.policy.turns import TurnEnd, TurnStart
from rondo.prefix import block_names
from tests.support.drive import SLO, request
from tests.support.pipes import EmulatedPipe, new_pipe_instance
from tests.support.services import SPEC, expected_tokens, steps_of

SMALL = replace(SPEC, block_size=4, num_blocks=30)
NOTHING = steps_of(0.0, 0.0)


class Live:
    """An instance and its engine, run as the worker's loop runs them."""

    def __init__(self, name: str) -> None:
        self.engine = EmulatedPipe(NOTHING, SMALL)
        self.instance = new_pipe_instance(name, SMALL, steps_of(1.0, 1.0))
        self.flying: deque[PipeStep] = deque()
        self.now_s = 0.0
        self.tokens: dict[str, list[int]] = {}
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.limits: dict[str, int] = {}
        self.ended: set[str] = set()
        self.prefilled: list[str] = []
        self.started: list[str] = []
        self.turns: list[TurnStart | TurnEnd] = []

    def add(self, name: str, lengths: tuple[int, int, int], *, background: bool) -> None:
        """Prompts begin alike, so that they share blocks."""
        prompt = (*range(20, 20 + lengths[0]), 59 + lengths[1])
        self.prompts[name], self.limits[name] = prompt, lengths[1]
        self.tokens[name] = []
        self.engine.add(request(name, prompt, lengths[1], ignore_eos=False))
        job = Job(name, len(prompt), lengths[1], lengths[2], SLO, 0.0, background=background)
        job.block_names = block_names(prompt, SMALL.block_size)
        assert self.instance.add(job) is None

    def cancel(self, name: str) -> None:
        if self.instance.cancel(name):
            del self.tokens[name]
        self.engine.remove(name)

    def fill(self) -> None:
        while (step := self.instance.next_step(self.now_s)) is not None:
            self.engine.submit(step.plan)
            self.flying.append(step)
        self.turns += self.instance.take_turn_events()

    def land(self) -> None:
        done = self.engine.take()
        assert done is not None
        assert done.error is None, done.error
        self.now_s += 1.0
        outcome = self.instance.land(self.flying.popleft(), done.tokens, self.now_s)
        for new in outcome.tokens:
            assert new.index == len(self.tokens[new.request_id])
            self.tokens[new.request_id].append(new.token)
        self.prefilled += outcome.prefilled
        self.started += [each.request_id for each in outcome.started]
        for end in outcome.finished:
            assert end.tokens_out == len(self.tokens[end.request_id])
            self.ended.add(end.request_id)
            self.engine.remove(end.request_id)
        self.check()

    def check(self) -> None:
        self.instance.check_invariants()
        members = {m.request_id: m for m in self.instance.members(self.now_s)}
        assert members.keys() == self.tokens.keys() - self.ended
        assert all(m.tokens_out == len(self.tokens[name]) for name, m in members.items())
        assert self.instance.num_running + self.instance.num_waiting == len(members)
        assert self.instance.num_running >= 0
        kv = self.instance.occupancy()
        assert kv.used_blocks + kv.free_blocks == SMALL.num_blocks


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(1, 50)),
        min_size=1,
        max_size=14,
    ),
    background=st.integers(0, 2**14),
    early=st.integers(0, 14),
    events=st.lists(st.sampled_from(["land", "add", "cancel", "again"]), max_size=30),
)
def test_answers_are_exact_and_told_in_order(
    name: str,
    lengths: list[tuple[int, int, int]],
    background: int,
    early: int,
    events: list[str],
) -> None:
    live = Live(name)
    lines = {f"r{i}": bool(background >> i & 1) for i in range(len(lengths))}
    live.instance.grant(1, [r for r, is_line in lines.items() if not is_line], 1e9, 0.0)
    todo = list(lines)

    def come(request_id: str) -> None:
        index = int(request_id[1:])
        live.add(request_id, lengths[index], background=lines[request_id])
        live.instance.grant(1, [request_id], 1e9, live.now_s)

    for _ in range(min(early, len(todo))):
        come(todo.pop())
    live.fill()
    while live.flying or todo:
        event = events.pop() if events else "land"
        if todo and (event == "add" or not live.flying):
            come(todo.pop())
        elif event in ("cancel", "again") and live.flying:
            victim = live.flying[-1].plan.items[0].request_id
            if victim in live.tokens and victim not in live.ended:
                live.cancel(victim)
                if event == "again":
                    come(victim)
        elif live.flying:
            live.land()
        live.fill()
    assert live.ended == live.tokens.keys()
    for request_id, tokens in live.tokens.items():
        prompt, limit = live.prompts[request_id], live.limits[request_id]
        assert tokens == expected_tokens(prompt, limit, ignore_eos=False)
    assert set(live.prefilled) >= live.ended
    begun = {r for r, tokens in live.tokens.items() if len(tokens) > 1}
    assert set(live.started) >= begun
    starts = [turn for turn in live.turns if isinstance(turn, TurnStart)]
    ends = [turn for turn in live.turns if isinstance(turn, TurnEnd)]
    assert len(starts) == len(ends), "a turn that began has ended"
    assert live.instance.ledger.num_free == SMALL.num_blocks
