"""Ask rondo-tiny its tasks and log how long the answers were, for the output-length predictor.

The torch engine answers, under Rondo's own instance scheduler; the log is what a gateway with
RONDO_RECORD_LENGTHS writes, and what `rondo-bench lengths` reads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer

from rondo.local.model_folder import find_model
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.types import FinishReason, Sampling, Slo
from rondo_tiny.corpus import TASKS, Chat, held_out_chats, training_chats
from rondo_worker.engines.base import EngineRequest
from rondo_worker.engines.torch import TorchEngine

CONCURRENCY = 96
MODEL_LEN = 1024
#: Of the requests this share names a limit of its own; the others may fill the context.
LIMITED_SHARE = 0.25
#: Such limits, log-uniform.
LIMITS = (8, 256)
SLO = Slo(ttft_s=1e6, tpot_s=1e6)


def chats_of(side: str, seed: int, number: int) -> list[Chat]:
    """Prompts of one side of the split: `held-out` ones are in no training chat."""
    if side == "training":
        return list(itertools.islice(training_chats(seed), number))
    total = sum(weight for _, weight in TASKS.values())
    chats: list[Chat] = []
    for task, (_, weight) in TASKS.items():
        chats += held_out_chats(seed, task, round(number * weight / total))
    random.Random(f"{seed} order").shuffle(chats)
    return chats


def requests(chats: list[Chat], seed: int) -> Iterator[EngineRequest]:
    """Requests as a gateway would send them, some with a limit of their own."""
    rng = random.Random(f"{seed} limits")
    tokenizer = AutoTokenizer.from_pretrained(find_model(None, weights=True))
    for number, chat in enumerate(chats):
        prompt = tokenizer.apply_chat_template(
            chat.messages(), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        room = MODEL_LEN - len(prompt)
        limit = round(math.exp(rng.uniform(*map(math.log, LIMITS))))
        yield EngineRequest(
            request_id=str(number),
            prompt=tuple(prompt),
            max_tokens=min(room, limit) if rng.random() < LIMITED_SHARE else room,
            sampling=Sampling(temperature=0.0),
            ignore_eos=False,
        )


def answer(wanted: list[EngineRequest]) -> Iterator[dict[str, object]]:
    """The log's records, in the order in which the answers end."""
    engine = TorchEngine.load(find_model(None, weights=True))
    spec = engine.spec
    scheduler = InstanceScheduler(
        KvLedger(spec.num_blocks, spec.block_size),
        max_running=CONCURRENCY,
        max_prefill_tokens=4096,
        eos_token_ids=spec.eos_token_ids,
    )
    queue = list(reversed(wanted))
    live: dict[str, EngineRequest] = {}
    counts: Counter[str] = Counter()
    while queue or live:
        while queue and len(live) < CONCURRENCY:
            request = queue.pop()
            live[request.request_id] = request
            engine.add(request)
            scheduler.grant(scheduler.turn_number + 1, [request.request_id], 1e9, 0.0)
            assert scheduler.add(job_of(request)) is None  # rondo-tiny's prompts are small
        plan = scheduler.plan(0.0)
        assert plan is not None  # something is in flight, and nothing waits for a message
        outcome = scheduler.commit(plan, engine.step(plan))
        counts.update(token.request_id for token in outcome.tokens)
        for finished in outcome.finished:
            engine.remove(finished.request_id)
            request = live.pop(finished.request_id)
            yield record_of(request, counts.pop(finished.request_id), finished.reason)


def job_of(request: EngineRequest) -> Job:
    """The request as the scheduler needs it."""
    return Job(
        request_id=request.request_id,
        prompt_tokens=len(request.prompt),
        max_tokens=request.max_tokens,
        predicted_tokens=request.max_tokens,
        slo=SLO,
        arrival_s=0.0,
    )


def record_of(request: EngineRequest, num_tokens: int, reason: FinishReason) -> dict[str, object]:
    """One line of the log."""
    return {
        "model": "rondo-tiny",
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "output": num_tokens,
        "finish": reason.value,
    }


def main() -> None:
    """Read the command line and write a log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--side", choices=("training", "held-out"), default="training")
    parser.add_argument("--number", type=int, default=8000, help="of answers, about")
    parser.add_argument("--seed", type=int, default=21)
    options = parser.parse_args()
    chats = chats_of(options.side, options.seed, options.number)
    with options.out.open("w") as file:
        for record in answer(list(requests(chats, options.seed))):
            file.write(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
