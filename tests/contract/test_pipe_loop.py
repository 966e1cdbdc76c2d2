"""The pipeline's loop on real stages: the texts of one process, whatever the scheduler."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rondo.policy.ledger import KvLedger
from rondo.policy.live import LiveScheduler
from rondo.policy.plan import Job
from rondo.policy.tdpipe import SCHEDULER_NAMES, PipeInstance, PipeSetup, make_scheduler
from rondo.types import Phase, Sampling
from rondo_worker.engines.base import Engine, EngineGone, EngineRequest
from rondo_worker.engines.pipeline import PipelineEngine
from rondo_worker.engines.torch import TorchEngine
from rondo_worker.loop import StepRecord
from rondo_worker.pipe_loop import make_loop
from tests.support.drive import SLO, answers, request
from tests.support.engines import BLOCK_SIZES, QUICK, batch, prompts

OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "block_size": BLOCK_SIZES["torch"]}
#: So few that requests are preempted.
NUM_BLOCKS = 60


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[PipelineEngine]:
    made = PipelineEngine.load(model_folder, num_stages=2, num_blocks=NUM_BLOCKS, **OPTIONS)
    yield made
    made.close()


class Served:
    """Requests on a running loop, and what came of them."""

    def __init__(self, engine: PipelineEngine, policy: str) -> None:
        spec = engine.spec
        setup = PipeSetup(KvLedger(spec.num_blocks, spec.block_size), QUICK, engine.num_stages)
        self.instance = PipeInstance(
            make_scheduler(policy, setup), max_running=64, max_prefill_tokens=512
        )
        self.tokens: dict[str, list[int]] = {}
        self.with_logprobs: dict[str, int] = {}
        self.num_recomputed = 0
        self.died: list[Exception] = []
        self.over, self.begun = threading.Event(), threading.Event()
        self.loop = make_loop(engine, self.instance, self._on_record, self._on_death)

    def post(self, requests: list[EngineRequest]) -> None:
        """Half of them are lines, the others are granted."""

        def come(scheduler: LiveScheduler, engine: Engine) -> None:
            for index, item in enumerate(requests):
                self.tokens[item.request_id] = []
                engine.add(item)
                expected = item.max_tokens // 2  # too few: the pool runs dry
                job = Job(
                    item.request_id,
                    len(item.prompt),
                    item.max_tokens,
                    expected,
                    SLO,
                    time.monotonic(),
                    ignore_eos=True,
                    background=index % 2 == 0,
                )
                assert scheduler.add(job) is None
            scheduler.grant(1, [item.request_id for item in requests], 1e9, time.monotonic())

        self.loop.post(come)

    def _on_record(self, record: StepRecord) -> None:
        assert record.error is None
        if record.outcome is None:
            if record.progress.phase is Phase.IDLE and self.tokens:
                self.over.set()
            return
        for new in record.outcome.tokens:
            assert new.index == len(self.tokens[new.request_id])
            self.tokens[new.request_id].append(new.token)
        for name in record.logprobs.tokens:
            self.with_logprobs[name] = self.with_logprobs.get(name, 0) + 1
        self.begun.set()

    def _on_death(self, error: Exception) -> None:
        self.died.append(error)
        self.over.set()


@pytest.mark.parametrize("policy", SCHEDULER_NAMES)
def test_texts_are_those_of_one_process(
    policy: str, engine: PipelineEngine, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "close", lambda: None)  # the next scheduler needs it, too
    requests = batch(16, max_tokens=20)
    scored = request("scored", prompts(1)[0], 12, Sampling(temperature=0.9, seed=3, logprobs=2))
    expected = answers(
        TorchEngine.load(model_folder, num_blocks=400, **OPTIONS), [*requests, scored]
    )
    served = Served(engine, policy)
    served.post([*requests, scored])
    served.loop.start()
    assert served.over.wait(60)
    served.loop.stop(10)
    assert not served.died
    assert served.tokens == expected
    assert served.with_logprobs == {"scored": 12}
    assert served.instance.pipe.num_preempted or policy != "tdpipe", "the pool did not run dry"
    served.instance.check_invariants()
    assert served.instance.ledger.num_free == NUM_BLOCKS


def test_a_stage_that_dies_ends_the_loop(model_folder: Path) -> None:
    engine = PipelineEngine.load(model_folder, num_stages=2, num_blocks=400, **OPTIONS)
    pids = engine.pids
    served = Served(engine, "tdpipe")
    served.post([request(f"r{i}", prompt, 400) for i, prompt in enumerate(prompts(4))])
    served.loop.start()
    assert served.begun.wait(30)
    os.kill(pids[1], signal.SIGKILL)
    assert served.over.wait(30)
    served.loop.stop(10)
    assert isinstance(served.died[0], EngineGone)
    assert engine.pids == ()
