"""Whatever happens to a torch engine, it keeps no block, no request and no memory."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from rondo.types import Sampling
from rondo_worker.engines.torch import TorchEngine
from tests.support.drive import Driver, answers, request
from tests.support.models import VOCAB_SIZE, build_model, save_model

NUM_BLOCKS = 40
BLOCK_SIZE = 4
#: Rounds of random adds, aborts and steps of the memory test, and how much the process may grow in
#: the second half of them: an allocator's pages, but not a list a request.
NUM_ROUNDS = 5000
GROWTH_BYTES = 4 << 20

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([0, 3]),
    min_p=st.sampled_from([0.0, 0.1]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    seed=st.integers(-(2**31), 2**31),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TorchEngine:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, "mistral-window")
    return TorchEngine.load(
        folder, device="cpu", dtype="float32", block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS
    )


@pytest.fixture(scope="module")
def small_engine(tmp_path_factory: pytest.TempPathFactory) -> TorchEngine:
    """Of one layer, for a test that takes many steps."""
    folder = tmp_path_factory.mktemp("small")
    build_model("mistral-window", num_hidden_layers=1, hidden_size=16).save_pretrained(folder)
    return TorchEngine.load(
        folder, device="cpu", dtype="float32", block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS
    )


def assert_empty(engine: TorchEngine, driver: Driver) -> None:
    pool = driver.scheduler.occupancy()
    assert (pool.free_blocks, pool.used_blocks) == (NUM_BLOCKS, 0)
    for request_id in driver.answers:
        assert engine._sequences.find(request_id) is None


class EngineMachine(RuleBasedStateMachine):
    """Requests come and go between steps; answers that end are those of a request alone."""

    requests = Bundle("requests")
    engine: TorchEngine

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(self.engine, max_running=6, max_prefill_tokens=24)
        self.count = 0
        self.live: dict[str, None] = {}
        self.asked = {}  # type: ignore[var-annotated]

    @rule(
        target=requests,
        length=st.integers(1, 50),
        max_tokens=st.integers(1, 30),
        sampling=SAMPLINGS,
        ignore_eos=st.booleans(),
    )
    def add(self, length: int, max_tokens: int, sampling: Sampling, ignore_eos: bool) -> str:
        self.count += 1
        prompt = random.Random(self.count).choices(range(3, VOCAB_SIZE), k=length)
        item = request(f"r{self.count}", prompt, max_tokens, sampling, ignore_eos)
        self.driver.submit(item)
        self.asked[item.request_id] = item
        self.live[item.request_id] = None
        return item.request_id

    @rule(request_id=requests)
    def abort(self, request_id: str) -> None:
        if request_id in self.live:
            self.driver.cancel(request_id)
            del self.live[request_id]

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.driver.step()
        for request_id in self.driver.finished:
            self.live.pop(request_id, None)

    @invariant()
    def the_engine_knows_what_lives(self) -> None:
        for request_id in self.driver.answers:
            known = self.engine._sequences.find(request_id) is not None
            assert known == (request_id in self.live)

    def teardown(self) -> None:
        self.driver.run(5000)
        assert_empty(self.engine, self.driver)
        for request_id in [*self.driver.finished][:1]:
            item = self.asked[request_id]
            alone = answers(self.engine, [item])[request_id]
            assert alone == self.driver.answers[request_id]


def test_no_sequence_of_events_leaves_anything_behind(engine: TorchEngine) -> None:
    class Machine(EngineMachine):
        pass

    Machine.engine = engine
    limits = settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True)
    run_state_machine_as_test(Machine, settings=limits)


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
def test_memory_is_flat_over_thousands_of_adds_aborts_and_steps(small_engine: TorchEngine) -> None:
    dice = random.Random(3)
    driver = Driver(small_engine, max_running=6, max_prefill_tokens=24)
    live: list[str] = []
    before = 0
    for number in range(NUM_ROUNDS):
        if len(live) < 8 and dice.random() < 0.3:
            prompt = dice.choices(range(3, VOCAB_SIZE), k=dice.randint(1, 60))
            temperature = dice.choice([0.0, 0.9])
            sampling = Sampling(temperature=temperature, top_p=0.9, seed=number)
            driver.submit(request(f"r{number}", prompt, dice.randint(1, 40), sampling))
            live.append(f"r{number}")
        if live and dice.random() < 0.05:
            driver.cancel(live.pop(dice.randrange(len(live))))
        driver.step()
        live = [r for r in live if r not in driver.finished]
        if number == NUM_ROUNDS // 2:
            before = resident_bytes()
    driver.run(5000)
    assert_empty(small_engine, driver)
    assert resident_bytes() - before < GROWTH_BYTES
