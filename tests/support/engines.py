"""Every engine that is installed, on one tiny model, and requests for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rondo.perf.profile import LatencyProfile
from rondo.types import Sampling
from rondo_worker.engines.base import Engine, EngineRequest
from rondo_worker.engines.emulated import EmulatedEngine
from rondo_worker.engines.pipeline import PipelineEngine
from rondo_worker.engines.torch import TorchEngine
from rondo_worker.engines.vllm import VllmEngine
from tests.support.drive import request
from tests.support.models import VOCAB_SIZE, build_model

#: Tokens in a KV block of each engine; vLLM's kernels for the CPU want 32.
BLOCK_SIZES = {"torch": 4, "pipeline": 4, "emulated": 4, "vllm": 32}
NUM_BLOCKS = 200
MakeEngine = Callable[..., Engine]
LOADERS: dict[str, MakeEngine] = {
    "torch": TorchEngine.load,
    "pipeline": partial(PipelineEngine.load, num_stages=2),
    "vllm": VllmEngine.load,
}

QUICK = LatencyProfile(
    name="quick",
    source="made up for tests",
    prefill_floor_ms=(0.02, 0.0),
    prefill_line_ms=(0.01, 0.0001),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(0.02, 0.0001, 0.0),
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_model("llama", head_dim=32).save_pretrained(folder)  # vLLM has no smaller heads
    return folder


@pytest.fixture(params=[name for name in BLOCK_SIZES if name != "vllm" or find_spec("vllm")])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def block_size(kind: str) -> int:
    return BLOCK_SIZES[kind]


@pytest.fixture
def make_engine(kind: str, block_size: int, model_folder: Path) -> Iterator[MakeEngine]:
    made: list[Engine] = []

    def make(**options: Any) -> Engine:
        sizes: dict[str, Any] = {"block_size": block_size, "num_blocks": NUM_BLOCKS, **options}
        if kind == "emulated":
            made.append(EmulatedEngine.from_model(model_folder, QUICK, **sizes))
        else:
            made.append(LOADERS[kind](model_folder, device="cpu", dtype="float32", **sizes))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine()


def prompts(count: int, *, shortest: int = 3, longest: int = 40) -> list[tuple[int, ...]]:
    dice = random.Random(7)
    return [
        tuple(dice.choices(range(3, VOCAB_SIZE), k=dice.randint(shortest, longest)))
        for _ in range(count)
    ]


def batch(count: int, max_tokens: int = 24, **sampling: Any) -> list[EngineRequest]:
    """Requests r0.. with their own seeds; greedy unless a temperature is given."""
    options = {"temperature": 0.0, **sampling}
    return [
        request(f"r{i}", prompt, max_tokens, Sampling(seed=1000 + i, **options))
        for i, prompt in enumerate(prompts(count))
    ]
