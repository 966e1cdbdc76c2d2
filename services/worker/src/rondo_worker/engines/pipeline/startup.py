"""Starts the stages of a pipeline: who gets which layers, which device, how large a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from rondo.errors import ConfigError
from rondo_worker.engines.base import EngineGone, EngineSpec
from rondo_worker.engines.hf_config import ModelConfig, read_config
from rondo_worker.engines.pipeline.messages import Begin, Loaded, Ready, Report, StageOptions
from rondo_worker.engines.pipeline.processes import StageProcesses
from rondo_worker.engines.pipeline.split import STAGE_CORES, ranges, split_layers
from rondo_worker.engines.torch.kv_pool import CUDA_SHARE, block_bytes, choose_num_blocks
from rondo_worker.engines.torch.options import choose_device, choose_dtype, limit_model_len

R = TypeVar("R", Loaded, Ready)


@dataclass(frozen=True, slots=True)
class Started:
    """Stages that are ready for their first step."""

    spec: EngineSpec
    folder: Path
    stages: StageProcesses
    on_cpu: bool


def start_stages(
    path: Path,
    *,
    num_stages: int,
    model_name: str | None,
    device: str,
    dtype: str,
    block_size: int,
    num_blocks: int | None,
    kv_memory_bytes: int | None,
    max_model_len: int | None,
    num_threads: int | None,
    native: bool,
    stage_layers: Sequence[int],
    cores: Sequence[Sequence[int]],
) -> Started:
    """See `PipelineEngine.load`."""
    config = read_config(path)
    _check(num_stages, num_threads, block_size, cores)
    places = _devices(choose_device(device), num_stages)
    number = choose_dtype(dtype, places[0])
    longest = limit_model_len(config, max_model_len)
    layers = _layers(config, num_stages, stage_layers)
    options = [
        StageOptions(
            stage=index,
            num_stages=num_stages,
            folder=str(config.folder),
            layers=(part.start, part.stop),
            device=str(places[index]),
            backend=_backend(places),
            dtype=str(number).removeprefix("torch."),
            block_size=block_size,
            max_model_len=longest,
            native=native,
            rendezvous="",
            cores=tuple(cores[index]) if cores else (),
            num_threads=num_threads or (len(cores[index]) if cores else None),
        )
        for index, part in enumerate(layers)
    ]
    stages = StageProcesses(options)
    try:
        loaded = _all(stages.gather(), Loaded)
        wanted = (num_blocks, kv_memory_bytes)
        count = _num_blocks(config, block_size, number, places, layers, loaded, wanted)
        stages.tell(Begin(count))
        ready = _all(stages.gather(), Ready)
    except BaseException:
        stages.end()
        raise
    spec = _spec(config, model_name, (longest, block_size, count), loaded, ready)
    return Started(spec, config.folder, stages, places[0].type == "cpu")


def _spec(
    config: ModelConfig,
    name: str | None,
    sizes: tuple[int, int, int],
    loaded: Sequence[Loaded],
    ready: Sequence[Ready],
) -> EngineSpec:
    """The instance as one; `sizes` are its longest request, tokens in a block, and blocks."""
    longest, block_size, count = sizes
    return EngineSpec(
        model=name or config.folder.resolve().name,
        engine="pipeline",
        max_model_len=min(longest, count * block_size),
        vocab_size=config.vocab_size,
        block_size=block_size,
        num_blocks=count,
        eos_token_ids=config.eos_token_ids,
        weight_bytes=sum(report.weight_bytes for report in loaded),
        kv_bytes=sum(report.kv_bytes for report in ready),
    )


def _check(
    num_stages: int, num_threads: int | None, block_size: int, cores: Sequence[Sequence[int]]
) -> None:
    if block_size < 1:
        raise ConfigError("block_size", f"is {block_size}; expected at least 1")
    if num_threads is not None and num_threads < 1:
        raise ConfigError("num_threads", f"is {num_threads}; expected at least 1")
    if cores and len(cores) != num_stages:
        raise ConfigError(STAGE_CORES, f"names {len(cores)} stages of {num_stages}")


def _layers(config: ModelConfig, num_stages: int, wanted: Sequence[int]) -> list[range]:
    if not wanted:
        return split_layers(config, num_stages)
    if len(wanted) != num_stages or sum(wanted) != config.num_layers or min(wanted) < 1:
        problem = f"{[*wanted]} does not split {config.num_layers} layers over {num_stages} stages"
        raise ConfigError("stage_layers", problem)
    return ranges(wanted)


def _devices(device: torch.device, num_stages: int) -> list[torch.device]:
    """A CUDA device for each stage, from the first on; all on one where that is named, or where
    there are too few."""
    if device.type == "cpu" or device.index is not None:
        return [device] * num_stages
    if torch.cuda.device_count() < num_stages:
        return [torch.device("cuda", 0)] * num_stages
    return [torch.device("cuda", index) for index in range(num_stages)]


def _backend(places: Sequence[torch.device]) -> str:
    """NCCL wants a device for each of its processes."""
    alone = places[0].type == "cuda" and len(set(places)) == len(places)
    return "nccl" if alone else "gloo"


def _num_blocks(
    config: ModelConfig,
    block_size: int,
    dtype: torch.dtype,
    places: Sequence[torch.device],
    layers: Sequence[range],
    loaded: Sequence[Loaded],
    wanted: tuple[int | None, int | None],
) -> int:
    """Blocks of every stage's pool: as told, or as the fullest device allows."""
    if places[0].type == "cpu":  # one memory for all stages: the model counts as a whole
        return choose_num_blocks(config, block_size, dtype, places[0], *wanted)
    num_blocks, memory_bytes = wanted
    if num_blocks is not None:
        return num_blocks
    if memory_bytes is not None:
        return max(1, memory_bytes // block_bytes(config, block_size, dtype))
    per_layer = block_bytes(config, block_size, dtype) // config.num_layers
    counts = []
    for place, part, report in zip(places, layers, loaded, strict=True):
        share = CUDA_SHARE / places.count(place)
        counts.append(int(report.free_bytes * share) // (per_layer * len(part)))
    if min(counts) < 1:
        raise ConfigError("num_blocks", "a stage's device has no room for a KV block")
    return min(counts)


def _all(reports: Sequence[Report], kind: type[R]) -> list[R]:
    found = [report for report in reports if isinstance(report, kind)]
    if len(found) < len(reports):
        raise EngineGone("a stage spoke out of turn")
    return found
