"""Which layers and which cores each stage gets."""

from __future__ import annotations

from collections.abc import Sequence

from rondo.errors import ConfigError
from rondo_worker.cores import parse_cores
from rondo_worker.engines.hf_config import ModelConfig

#: The setting, as errors name it.
STAGE_CORES = "stage_cores"


def split_layers(config: ModelConfig, num_stages: int) -> list[range]:
    """Neighbouring layers for each stage, so that the slowest decodes as fast as possible.

    The head, of which a decode step computes every row, counts as layers of its size; the
    embedding costs nothing.

    Raises:
        ConfigError: there are fewer layers than stages.
    """
    if not 1 <= num_stages <= config.num_layers:
        problem = f"{num_stages} stages for a model of {config.num_layers} layers"
        raise ConfigError("num_stages", problem)
    if num_stages == 1:
        return [range(config.num_layers)]
    vocabulary = config.vocab_size * config.hidden_size
    tables = 1 if config.tied_embeddings else 2
    head = vocabulary / ((config.num_parameters - tables * vocabulary) / config.num_layers)
    last = min(
        range(1, config.num_layers - num_stages + 2),
        key=lambda count: (_slowest(config.num_layers, num_stages, count, head), -count),
    )
    return ranges(_even(config.num_layers - last, num_stages - 1) + [last])


def ranges(counts: Sequence[int]) -> list[range]:
    """Ranges of these lengths, one after the other from 0."""
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def parse_stage_cores(text: str, num_stages: int) -> tuple[tuple[int, ...], ...]:
    """Cores of each stage: "0,1" has one each, "0-3,4-7" four; nothing for "".

    Raises:
        ConfigError: it cannot be read, or names more or fewer stages.
    """
    if not text:
        return ()
    parts = [parse_cores(part, STAGE_CORES) for part in text.split(",")]
    cores = tuple(tuple(sorted(part)) for part in parts)
    if len(cores) != num_stages or not all(cores):
        problem = f"{text!r} does not name cores for {num_stages} stages, like 0,1 or 0-3,4-7"
        raise ConfigError(STAGE_CORES, problem)
    return cores


def _slowest(num_layers: int, num_stages: int, last: int, head: float) -> float:
    """What the slowest stage computes, in layers, when the last one has `last` of them."""
    return max([*_even(num_layers - last, num_stages - 1), last + head])


def _even(num_layers: int, num_stages: int) -> list[int]:
    """As equal as possible, the larger ones first."""
    count, more = divmod(num_layers, num_stages)
    return [count + (index < more) for index in range(num_stages)]
