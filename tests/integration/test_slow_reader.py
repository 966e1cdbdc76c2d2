"""An answer that nobody reads for a while: it holds up nothing, and is complete when it is read."""

from __future__ import annotations

from tests.support.collect import eventually
from tests.support.generations import Result, complete, read, servable, start_gateway, text_of
from tests.support.services import Stage, expected_tokens, metric, steps_of

LONG, SHORT = 900, 40


async def test_an_unread_answer_holds_up_neither_worker_nor_neighbours(stage: Stage) -> None:
    await stage.coordinator()
    worker = await stage.worker(profile=steps_of(2.0, 1.0))
    gateway = await start_gateway(await stage.harness.bus("g0"), stall_s=0.2)
    await servable(gateway)
    unread = gateway.generation("unread", [20, 30], LONG)
    await unread.start()
    for index in range(5):
        result = await complete(gateway.generation(f"other-{index}", [20, 40 + index], SHORT))
        expected = expected_tokens([20, 40 + index], SHORT, ignore_eos=True)
        assert result.text == text_of(expected)
    used = "rondo_kv_blocks"
    await eventually(
        lambda: metric(worker.registry, used, state="used") == 0, "all of it is computed"
    )
    assert metric(gateway.registry, "rondo_resyncs_total") == 0, "silence is the reader's here"
    result = Result()
    await read(unread, result)
    unread.close()
    assert result.text == text_of(expected_tokens([20, 30], LONG, ignore_eos=True))
    assert result.num_tokens == LONG
