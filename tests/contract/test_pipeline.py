"""The pipeline engine beyond the contract: steps in flight, failing steps, dying stages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rondo.errors import ConfigError, EngineError, ModelError
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.live import LiveScheduler
from rondo.policy.plan import Job, PlanItem, StepPlan, plan_of
from rondo.types import Phase, Sampling
from rondo_worker.__main__ import load_engine
from rondo_worker.engines.base import EngineGone, EngineRequest, UnsupportedRequest
from rondo_worker.engines.pipeline import PipelineEngine
from rondo_worker.engines.torch import TorchEngine
from rondo_worker.loop import EngineLoop, StepRecord
from rondo_worker.settings import WorkerSettings
from tests.support.drive import SLO, answers, request
from tests.support.engines import BLOCK_SIZES, NUM_BLOCKS, batch, prompts
from tests.support.models import save_model

SIZE = BLOCK_SIZES["pipeline"]
OPTIONS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "block_size": SIZE,
    "num_blocks": NUM_BLOCKS,
}
#: Blocks of each request here: enough for prompt and answer.
PER_REQUEST = 17


@pytest.fixture
def engine(model_folder: Path) -> Iterator[PipelineEngine]:
    made = PipelineEngine.load(model_folder, num_stages=2, **OPTIONS)
    yield made
    made.close()


@pytest.fixture
def single(model_folder: Path) -> TorchEngine:
    return TorchEngine.load(model_folder, **OPTIONS)


def table(index: int) -> range:
    return range(index * PER_REQUEST, (index + 1) * PER_REQUEST)


def chunk(item: EngineRequest, index: int, start: int = 0, end: int | None = None) -> StepPlan:
    count = (len(item.prompt) if end is None else end) - start
    return plan_of(Phase.PREFILL, [PlanItem(item.request_id, start, count, table(index))])


def step_until_gone(engine: PipelineEngine, item: EngineRequest) -> None:
    """The first step may still come through, as far as the engine knows."""
    for _ in range(2):
        engine.submit(chunk(item, 0))
        engine.take(30.0)


def wait_gone(pids: tuple[int, ...]) -> None:
    end_s = time.monotonic() + 20
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < end_s:
                os.kill(pid, 0)
                time.sleep(0.02)
            raise AssertionError(f"process {pid} is still there")


def test_two_batches_circulate_and_give_the_tokens_of_one_engine(
    engine: PipelineEngine, single: TorchEngine
) -> None:
    requests = batch(6, max_tokens=20, temperature=0.8, presence_penalty=0.5)
    expected = answers(single, requests)
    got: dict[str, list[int]] = {item.request_id: [] for item in requests}
    for number, item in enumerate(requests):
        engine.add(item)
        assert engine.submit(chunk(item, number)) == number
    assert engine.in_flight == 6
    groups = [list(range(3)), list(range(3, 6))]
    for number in range(6 + 2 * 19):
        done = engine.take(60.0)
        assert done is not None
        assert done.ticket == number
        assert done.error is None
        for request_id, token in done.tokens.items():
            got[request_id].append(token)
        first = number - 5  # with the last prefill of a group its first decode begins
        if number in (2, 5) or first > 0:
            group = groups[0 if number == 2 else 1 if number == 5 else first % 2 == 0]
            rows = [(requests[index], index) for index in group]
            length = len(got[rows[0][0].request_id])
            if length < 20:
                items = [
                    PlanItem(r.request_id, len(r.prompt) + length - 1, 1, table(index))
                    for r, index in rows
                ]
                engine.submit(plan_of(Phase.DECODE, items))
    assert got == expected


@pytest.mark.parametrize("name", ["llama-tied-mqa", "qwen2-window", "qwen3"])
@pytest.mark.parametrize("native", [True, False])
def test_every_kind_of_model_can_be_cut(name: str, native: bool, tmp_path: Path) -> None:
    save_model(tmp_path, name)
    requests = batch(5, max_tokens=12)
    expected = answers(TorchEngine.load(tmp_path, **OPTIONS, native=native), requests)
    engine = PipelineEngine.load(
        tmp_path, num_stages=2, stage_layers=(1, 2), native=native, **OPTIONS
    )
    try:
        assert answers(engine, requests, max_prefill_tokens=25) == expected
    finally:
        engine.close()


def test_chunks_of_a_prompt_follow_each_other_in_flight(
    engine: PipelineEngine, single: TorchEngine
) -> None:
    item = request("r", prompts(1, shortest=40, longest=40)[0], 1)
    engine.add(item)
    for start in (0, 7, 20):
        engine.submit(chunk(item, 0, start, {0: 7, 7: 20}.get(start)))
    tokens = [done.tokens for _ in range(3) if (done := engine.take())]
    assert tokens == [{}, {}, {"r": answers(single, [item])["r"][0]}]
    with pytest.raises(EngineError, match="no step"):
        engine.take()


def test_take_does_not_wait_longer_than_it_may(engine: PipelineEngine) -> None:
    item = request("r", prompts(1)[0], 4)
    engine.add(item)
    os.kill(engine.pids[1], signal.SIGSTOP)
    try:
        engine.submit(chunk(item, 0))
        assert engine.take(0.05) is None
        assert engine.in_flight == 1
    finally:
        os.kill(engine.pids[1], signal.SIGCONT)
    assert engine.take() is not None


def test_a_failing_step_fails_alone_and_what_builds_on_it(
    engine: PipelineEngine, single: TorchEngine
) -> None:
    good, bad = batch(2, max_tokens=3)
    bad = request("bad", prompts(1, shortest=30, longest=30)[0])
    engine.add(good)
    engine.add(bad)
    nowhere = [10**6] * PER_REQUEST
    engine.submit(plan_of(Phase.PREFILL, [PlanItem("bad", 0, 20, nowhere)]))
    engine.submit(chunk(good, 1))
    engine.submit(plan_of(Phase.PREFILL, [PlanItem("bad", 20, 10, table(0))]))
    failed, fine, spoilt = (engine.take() for _ in range(3))
    assert failed is not None
    assert fine is not None
    assert spoilt is not None
    assert failed.error is not None
    assert failed.error.problem.startswith("torch: ")
    assert failed.error.request_ids == ("bad",)
    assert fine.tokens == {good.request_id: answers(single, [good])[good.request_id][0]}
    assert spoilt.error is not None
    assert "earlier step" in spoilt.error.problem
    # Nothing of it counts: the same request can be computed from its beginning.
    assert engine.step(chunk(bad, 0)) == {"bad": answers(single, [bad])["bad"][0]}


def test_a_step_does_not_overtake_those_in_flight(engine: PipelineEngine) -> None:
    item = request("r", prompts(1)[0], 4)
    engine.add(item)
    engine.submit(chunk(item, 0))
    with pytest.raises(EngineError, match="in flight"):
        engine.step(chunk(item, 0))


def test_a_request_that_no_stage_could_compute_is_refused_when_added(
    engine: PipelineEngine,
) -> None:
    sampling = Sampling(grammar='{"grammars": []}')  # the model folder has no tokenizer
    with pytest.raises(UnsupportedRequest):
        engine.add(request("g", (3, 4), 2, sampling))
    assert len(answers(engine, batch(2))) == 2


def test_timelines_tell_what_each_stage_did_and_when(engine: PipelineEngine) -> None:
    answers(engine, batch(2, max_tokens=3))
    assert engine.take_timelines() == [[], []], "nothing is kept that nobody asked for"
    before_s = time.monotonic()
    answers(engine, batch(4, max_tokens=5))
    engine.peak_bytes()  # asks the stages, too, and takes nothing away
    first, second = engine.take_timelines()
    assert [span.number for span in first] == [span.number for span in second] == [*range(3, 8)]
    assert [span.phase for span in second] == [Phase.PREFILL] + [Phase.DECODE] * 4
    for a, b in zip(first, second, strict=True):
        assert before_s <= a.begin_s <= b.begin_s <= b.end_s <= time.monotonic()
        assert a.begin_s <= a.end_s
        assert 0 <= b.busy_s <= b.end_s - b.begin_s + 0.02
    assert engine.take_timelines() == [[], []]


def test_a_timeline_has_the_steps_that_were_in_flight_when_it_was_asked_for(
    engine: PipelineEngine,
) -> None:
    engine.take_timelines()
    items = batch(2)
    for index, item in enumerate(items):
        engine.add(item)
        engine.submit(chunk(item, index))
    for line in engine.take_timelines():
        assert [span.number for span in line] == [0, 1]
    assert engine.in_flight == 2
    done = [engine.take(), engine.take()]
    assert [each.ticket for each in done if each] == [0, 1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stage_that_dies_ends_all_of_them(engine: PipelineEngine, victim: int) -> None:
    pids = engine.pids
    item = request("r", prompts(1)[0], 4)
    engine.add(item)
    os.kill(pids[victim], signal.SIGKILL)
    with pytest.raises(EngineGone, match=r"stage \d of the pipeline died"):
        step_until_gone(engine, item)
    wait_gone(pids)
    assert engine.pids == ()
    engine.remove("r")
    with pytest.raises(EngineGone):
        engine.add(request("s", (3, 4), 2))


def test_a_worker_whose_stage_dies_ends_its_loop(engine: PipelineEngine) -> None:
    pids, died, stepped = engine.pids, threading.Event(), threading.Event()
    errors: list[Exception] = []

    def on_death(error: Exception) -> None:
        errors.append(error)
        died.set()

    def on_record(record: StepRecord) -> None:
        assert record.error is None, "no request is to blame"
        if record.outcome:
            stepped.set()

    scheduler = InstanceScheduler(KvLedger(NUM_BLOCKS, SIZE), max_running=8, max_prefill_tokens=512)
    loop = EngineLoop(engine, scheduler, on_record, on_death)

    def begin(scheduler: LiveScheduler, _engine: Any) -> None:
        item = request("r", prompts(1)[0], 450)
        engine.add(item)
        scheduler.add(Job("r", len(item.prompt), 450, 450, SLO, 0.0, ignore_eos=True))
        scheduler.grant(1, ["r"], 1e9, 0.0)

    loop.post(begin)
    loop.start()
    assert stepped.wait(30)
    os.kill(pids[0], signal.SIGKILL)
    assert died.wait(30)
    loop.stop(10)
    assert isinstance(errors[0], EngineGone)
    wait_gone(pids)


def test_closing_ends_the_processes(engine: PipelineEngine) -> None:
    pids = engine.pids
    assert len(pids) == 2
    engine.close()
    engine.close()
    wait_gone(pids)


def test_stages_do_not_outlive_a_controller_that_is_killed(model_folder: Path) -> None:
    program = (
        "import sys; from rondo_worker.engines.pipeline import PipelineEngine\n"
        f"engine = PipelineEngine.load({str(model_folder)!r}, device='cpu', num_blocks=9)\n"
        "print(*engine.pids, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as controller:
        assert controller.stdout is not None
        pids = tuple(map(int, controller.stdout.readline().split()))
        assert len(pids) == 2
        controller.kill()
    wait_gone(pids)


def test_a_worker_loads_it_by_its_settings(model_folder: Path) -> None:
    settings = WorkerSettings(
        model=str(model_folder),
        engine="pipeline",
        pipeline_parallel=2,
        stage_cores="0,0-1",
        dtype="float32",
        num_blocks=60,
        threads=1,
    )
    engine, profile = load_engine(settings)
    try:
        assert isinstance(engine, PipelineEngine)
        assert (engine.num_stages, engine.spec.num_blocks) == (2, 60)
        assert profile.decode_s(4, 40) > 0
        assert len(answers(engine, batch(2))) == 2
    finally:
        engine.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_stages_are_pinned_to_their_cores(model_folder: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    wanted = ((cores[0],), (cores[-1],), tuple(cores))
    engine = PipelineEngine.load(model_folder, num_stages=3, cores=wanted, **OPTIONS)
    try:
        assert tuple(tuple(sorted(os.sched_getaffinity(pid))) for pid in engine.pids) == wanted
        assert engine.num_stages == 3
        assert len(answers(engine, batch(2))) == 2
    finally:
        engine.close()


def test_what_is_wrong_is_said_by_name(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_stages"):
        PipelineEngine.load(model_folder, num_stages=4, **OPTIONS)
    with pytest.raises(ConfigError, match="stage_layers"):
        PipelineEngine.load(model_folder, stage_layers=(1, 1), **OPTIONS)
    with pytest.raises(ConfigError, match="stage_cores"):
        PipelineEngine.load(model_folder, cores=((0,),), **OPTIONS)
    with pytest.raises(ConfigError, match="num_blocks"):
        PipelineEngine.load(model_folder, **{**OPTIONS, "num_blocks": 10**9})
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        PipelineEngine.load(tmp_path, **OPTIONS)
