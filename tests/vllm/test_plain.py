"""The engine against plain vLLM, with its own scheduler, on the same folder."""

from __future__ import annotations

import importlib
import random
from pathlib import Path

from rondo_worker.engines.vllm import VllmEngine
from tests.support.drive import Driver, answers, request
from tests.support.models import VOCAB_SIZE

NUM_TOKENS = 200


def test_greedy_answers_are_those_of_plain_vllm(model_folder: Path) -> None:
    dice = random.Random(3)
    prompts = [dice.choices(range(3, VOCAB_SIZE), k=dice.randint(1, 90)) for _ in range(8)]
    engine = VllmEngine.load(model_folder, dtype="float32", block_size=32, num_blocks=100)
    ours = answers(engine, [request(f"r{i}", p, NUM_TOKENS) for i, p in enumerate(prompts)])
    chunked = Driver(engine, max_prefill_tokens=33)
    chunked.submit(*(request(f"r{i}", p, NUM_TOKENS) for i, p in enumerate(prompts)))
    assert chunked.run() == ours
    engine.close()

    vllm = importlib.import_module("vllm")  # which the type checker's venv does not have
    llm = vllm.LLM(
        model=str(model_folder),
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=1 << 26,
    )
    params = vllm.SamplingParams(
        temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False
    )
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    theirs = {f"r{i}": list(out.outputs[0].token_ids) for i, out in enumerate(outputs)}
    assert ours == theirs
