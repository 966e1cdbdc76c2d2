"""Compares the torch engine with transformers, step by step."""

from __future__ import annotations

import random

import torch
from transformers import PreTrainedModel

from rondo.policy.plan import StepPlan
from rondo_worker.engines.base import EngineRequest
from rondo_worker.engines.torch import TorchEngine
from tests.support.drive import Driver
from tests.support.models import VOCAB_SIZE

TOLERANCE = 1e-4


def prompt(length: int, seed: int) -> tuple[int, ...]:
    """A random prompt without special tokens."""
    return tuple(random.Random(seed).choices(range(3, VOCAB_SIZE), k=length))


@torch.no_grad()
def reference_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Logits at every position of one sequence, by transformers."""
    logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def check_against_reference(
    engine: TorchEngine,
    model: PreTrainedModel,
    requests: list[EngineRequest],
    *,
    max_prefill_tokens: int = 4096,
    tolerance: float = TOLERANCE,
) -> Driver:
    """Runs the requests; compares every logit that was used, and each greedy token.

    The reference sees each whole sequence once: position i of it is the step that computed i + 1.
    """
    seen: dict[str, list[torch.Tensor]] = {item.request_id: [] for item in requests}

    def record(plan: StepPlan, tokens: dict[str, int]) -> None:
        logits = engine.last_logits
        assert set(logits) == set(tokens)
        for request_id in tokens:
            seen[request_id].append(logits[request_id].float().cpu())

    driver = Driver(engine, max_prefill_tokens=max_prefill_tokens, on_step=record)
    driver.submit(*requests)
    driver.run()
    for item in requests:
        answer = driver.answers[item.request_id]
        assert len(answer) == item.max_tokens
        tokens = [*item.prompt, *answer]
        expected = reference_logits(model, tokens).float().cpu()[len(item.prompt) - 1 : -1]
        actual = torch.stack(seen[item.request_id])
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
        assert answer == expected.argmax(-1).tolist()
    return driver
