"""Every engine goes on with sequences that stood aside for some steps, as if nothing had been."""

from __future__ import annotations

from rondo.perf.profile import load_profile
from rondo.policy.plan import StepPlan
from rondo_worker.engines.base import Engine
from tests.support.drive import Driver, answers
from tests.support.engines import batch


def test_sequences_stand_aside_and_come_back(engine: Engine) -> None:
    requests = batch(8)
    expected = answers(engine, requests)
    riding, aside = list[int](), list[int]()

    def look(plan: StepPlan, _tokens: object) -> None:
        if plan.num_decodes:
            riding.append(len(driver.scheduler.board.background.riding))
            aside.append(len(driver.scheduler.board.background.aside))

    driver = Driver(
        engine,
        max_prefill_tokens=48,
        on_step=look,
        step_cost=load_profile("llama-30b-l20-tp4"),  # a few may ride at a time
    )
    driver.submit(*requests[:5], background=True)
    for _ in range(6):
        driver.step()
    driver.submit(*requests[5:])
    assert driver.run() == expected
    assert max(riding) == 5, "all ride while they are alone"
    assert max(aside) > 0, "some stand aside for the others"
    assert riding.index(5) < aside.index(max(aside))
