"""Whatever happens to an instance scheduler, no block and no token is lost or doubled."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from rondo.policy.econoserve import make_instance_policy
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, PlanItem
from rondo.policy.turns import PROMPT_WAIT_S, TurnEnd
from rondo.prefix import block_names
from rondo.types import Batching, BatchKind, Phase, Slo

EOS = 1
BLOCK = 4
NUM_BLOCKS = 24


class InstanceMachine(RuleBasedStateMachine):
    """Prompts, grants, cancels and steps in any order; grants may come before their prompts."""

    requests = Bundle("requests")
    policy = "block-growth"

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = InstanceScheduler(
            KvLedger(NUM_BLOCKS, BLOCK),
            max_running=5,
            max_prefill_tokens=12,
            eos_token_ids=(EOS,),
            policy=make_instance_policy(self.policy),
        )
        self.now_s = 0.0
        self.turn = 0
        self.count = 0
        self.tokens: dict[str, int] = {}
        self.known: set[str] = set()
        self.granted: set[str] = set()
        self.ended: set[str] = set()
        self.content: dict[str, list[int]] = {}  # a request's prompt and answer so far
        self.blocks: dict[int, bytes] = {}  # the name of what was computed into a block last

    @rule(target=requests)
    def name(self) -> str:
        self.count += 1
        return f"r{self.count}"

    @rule(
        request=requests,
        prompt=st.integers(1, 40),
        answer=st.integers(1, 30),
        family=st.integers(0, 2),
        follows=requests,
    )
    def prompt_arrives(
        self, request: str, prompt: int, answer: int, family: int, follows: str
    ) -> None:
        """Prompts of one family begin alike, those of family 0 with nobody."""
        if request in self.known | self.ended:
            return
        job = Job(request, prompt, answer, max(1, answer // 2), Slo(ttft_s=1, tpot_s=0.1), 0.0)
        tokens = [family or 9 + self.count] * prompt
        if follows in self.ended and family:  # a chat's next turn: question and answer come again
            tokens = [*self.content.get(follows, ()), *tokens][:60]
            job.prompt_tokens = len(tokens)
        job.block_names = block_names(tokens, BLOCK)
        job.tail = tokens[len(tokens) // BLOCK * BLOCK :]
        self.content[request] = tokens
        if self.scheduler.add(job) is None:
            self.known.add(request)
        else:
            assert job.prompt_tokens + answer > NUM_BLOCKS * BLOCK - BLOCK

    @rule(
        request=requests,
        opens=st.booleans(),
        budget_s=st.floats(0.0, 2.0),
        batching=st.builds(Batching, kind=st.sampled_from(BatchKind), tokens=st.integers(0, 20)),
    )
    def granted_turn(self, request: str, opens: bool, budget_s: float, batching: Batching) -> None:
        if request in self.ended:
            return
        self.turn += opens or self.turn == 0
        self.scheduler.grant(self.turn, [request], budget_s, self.now_s, batching)
        self.granted.add(request)

    @rule()
    def revoked(self) -> None:
        self.scheduler.revoke(self.turn)

    @rule(request=requests)
    def cancelled(self, request: str) -> None:
        self.scheduler.cancel(request)
        if request in self.known:
            self.ended.add(request)
        self.known.discard(request)
        self.granted.discard(request)

    @rule(steps=st.integers(1, 6), eos=st.booleans())
    def steps(self, steps: int, eos: bool) -> None:
        for _ in range(steps):
            if not self.step(eos):
                return

    def step(self, eos: bool) -> bool:
        plan = self.scheduler.plan(self.now_s)
        for event in self.scheduler.take_turn_events():
            if isinstance(event, TurnEnd):
                self.granted -= set(event.leftover)
        if plan is None:
            return False
        assert plan.items
        assert bool(plan.chunks) == (plan.phase is not Phase.DECODE)
        assert bool(plan.decodes) == (plan.phase is not Phase.PREFILL)
        assert len(plan.decodes) == plan.num_decodes
        assert sum(item.start for item in plan.decodes) == plan.context_tokens
        assert all(item.num_tokens == 1 for item in plan.decodes)
        assert plan.prompt_tokens <= 12
        for item in plan.items:
            assert len(item.blocks) * BLOCK >= item.start + item.num_tokens
            names = block_names(self.content[item.request_id][: item.start], BLOCK)
            assert [self.blocks.get(b) for b in item.blocks[: len(names)]] == [*names]
        for item in plan.items:
            self.write(item)
        self.now_s += 0.1
        token = EOS if eos else 5
        known = {member.request_id: member for member in self.scheduler.members(self.now_s)}
        tokens = {
            item.request_id: token
            for item in plan.items
            if item.start + item.num_tokens
            == known[item.request_id].prompt_tokens + known[item.request_id].tokens_out
        }
        outcome = self.scheduler.commit(plan, tokens)
        assert {new.request_id for new in outcome.tokens} == set(tokens)
        for new in outcome.tokens:
            self.content[new.request_id].append(token)
            assert new.request_id in self.granted
            assert new.index == self.tokens.get(new.request_id, 0)
            self.tokens[new.request_id] = new.index + 1
        for finished in outcome.finished:
            assert finished.tokens_out == self.tokens[finished.request_id]
            self.known.discard(finished.request_id)
            self.granted.discard(finished.request_id)
            self.ended.add(finished.request_id)
        return True

    def write(self, item: PlanItem) -> None:
        """What the blocks hold after the step; only full blocks have names."""
        names = block_names(self.content[item.request_id], BLOCK)
        for index in range(item.start // BLOCK, -(-(item.start + item.num_tokens) // BLOCK)):
            full = (index + 1) * BLOCK <= item.start + item.num_tokens
            self.blocks.pop(item.blocks[index], None)
            if full and index < len(names):
                self.blocks[item.blocks[index]] = names[index]

    @invariant()
    def sound(self) -> None:
        self.scheduler.check_invariants()
        kv = self.scheduler.occupancy()
        assert kv.used_blocks + kv.free_blocks == kv.total_blocks
        assert {member.request_id for member in self.scheduler.members(self.now_s)} == self.known

    def teardown(self) -> None:
        """Granted everything, all requests end and all blocks are free."""
        self.turn += 1
        self.scheduler.grant(self.turn, sorted(self.known), 1e9, self.now_s)
        self.granted |= self.known
        for _ in range(5000):
            if not self.step(eos=False):
                break
        self.now_s += 2 * PROMPT_WAIT_S
        self.scheduler.expire(self.now_s)
        assert self.scheduler.plan(self.now_s) is None
        assert not self.known
        assert self.scheduler.ledger.num_free == NUM_BLOCKS


TestInstanceMachine = InstanceMachine.TestCase
TestInstanceMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class EconoserveMachine(InstanceMachine):
    """The same where KV is reserved ahead and lent."""

    policy = "econoserve"


class ShortestFirstMachine(InstanceMachine):
    """The same where prompts overtake each other."""

    policy = "shortest-first"


TestEconoserveMachine = EconoserveMachine.TestCase
TestEconoserveMachine.settings = settings(TestInstanceMachine.settings, max_examples=50)
TestShortestFirstMachine = ShortestFirstMachine.TestCase
TestShortestFirstMachine.settings = settings(TestInstanceMachine.settings, max_examples=50)
