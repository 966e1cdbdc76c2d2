"""Brings vLLM up in this process: its version, its environment, its options, its executor.

Read in vLLM 0.32.0: v1/engine/core.py, whose `EngineCore` does the same and then starts the
scheduler that Rondo does without; platforms/cpu.py; utils/torch_utils.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rondo.errors import ConfigError, ModelError
from rondo_worker.engines.hf_config import ConfigFile
from rondo_worker.engines.vllm.memory import weight_bytes

SUPPORTED_VERSION = "0.32.0"
#: KV pool on a CPU, unless asked for otherwise: this share of what is free, and at most so much.
CPU_KV_SHARE = 0.25
CPU_KV_MAX_BYTES = 1 << 30

#: What this module uses of vLLM, and where it is.
NAMES = {
    "EngineArgs": "vllm.engine.arg_utils",
    "SamplingParams": "vllm.sampling_params",
    "EngineCore": "vllm.v1.engine.core",
    "Executor": "vllm.v1.executor.abstract",
    "SchedulerOutput": "vllm.v1.core.sched.output",
    "CachedRequestData": "vllm.v1.core.sched.output",
    "NewRequestData": "vllm.v1.core.sched.output",
    "GrammarOutput": "vllm.v1.core.sched.output",
    "load_general_plugins": "vllm.plugins",
    "current_platform": "vllm.platforms",
}
#: The fields that are filled; no other field may be required.
FIELDS = {
    "SchedulerOutput": "scheduled_new_reqs scheduled_cached_reqs num_scheduled_tokens "
    "total_num_scheduled_tokens scheduled_spec_decode_tokens scheduled_encoder_inputs "
    "finished_req_ids free_encoder_mm_hashes",
    "CachedRequestData": "req_ids resumed_req_ids new_token_ids all_token_ids new_block_ids "
    "num_computed_tokens num_output_tokens",
    "NewRequestData": "req_id prompt_token_ids mm_features sampling_params pooling_params "
    "block_ids num_computed_tokens lora_request",
    "GrammarOutput": "structured_output_request_ids grammar_bitmask",
}

#: Set before vllm is imported, whatever the user has: the design rests on them.
REQUIRED_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in this process
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the runner that `engine` was written for
}
#: Set unless the user has: nothing is fetched, reported, or bound to an outer address.
DEFAULT_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    "VLLM_CONFIGURE_LOGGING": "0",  # its records go to the program's own handlers
}
#: Set unless the user has, to folders below `_cache_folder`.
CACHE_ENV = {
    "VLLM_CACHE_ROOT": "vllm",
    "VLLM_CONFIG_ROOT": "vllm-config",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """vLLM, loaded: what it holds, and what one pass of its model runner may.

    `num_blocks` is what Rondo may use: vLLM's null block is not counted. `stages`: of the pipeline.
    `num_threads`: for whichever thread steps, see `use_threads`.
    """

    api: Any
    executor: Any
    max_model_len: int
    vocab_size: int
    block_size: int
    num_blocks: int
    kv_bytes: int
    weight_bytes: int
    eos_token_ids: tuple[int, ...]
    max_tokens: int
    max_rows: int
    stages: int
    num_threads: int


def start(
    folder: Path,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    compiled: bool | None = None,
    **options: Any,
) -> Runtime:
    """Loads a model; see `VllmEngine` for the arguments and errors."""
    if not folder.is_dir():
        raise ModelError(str(folder), "is not a folder")
    eos = read_eos_token_ids(folder)
    threads = prepare_process(num_threads)
    api = find_vllm()
    platform = api.current_platform
    if device.partition(":")[0] not in ("auto", platform.device_type):
        raise ConfigError(
            "device", f"{device!r}, but this vllm is built for {platform.device_name}"
        )
    on_cpu: bool = platform.is_cpu()
    args = engine_args(folder, on_cpu=on_cpu, **options)
    args["enforce_eager"] = on_cpu if compiled is None else not compiled
    try:
        config = api.EngineArgs(**args).create_engine_config()
        executor, num_blocks, kv_bytes = build_executor(api, config)
    except (AttributeError, TypeError) as error:
        raise ConfigError("engine", _mismatch(api.version, str(error))) from error
    except (ValueError, RuntimeError, NotImplementedError, AssertionError, OSError) as error:
        raise ModelError(str(folder), f"vllm: {error}") from error
    return Runtime(
        api=api,
        executor=executor,
        max_model_len=config.model_config.max_model_len,
        vocab_size=config.model_config.get_vocab_size(),
        block_size=config.cache_config.block_size,
        num_blocks=num_blocks,
        kv_bytes=kv_bytes,
        weight_bytes=weight_bytes(folder, config.model_config.dtype.itemsize),
        eos_token_ids=eos,
        max_tokens=config.scheduler_config.max_num_batched_tokens,
        max_rows=config.scheduler_config.max_num_seqs,
        stages=config.parallel_config.pipeline_parallel_size,
        num_threads=threads,
    )


def prepare_process(num_threads: int | None) -> int:
    """The environment of vLLM, before it is imported; how many threads it is to use."""
    os.environ.update(REQUIRED_ENV)
    folder = _cache_folder()
    caches = {name: str(folder / below) for name, below in CACHE_ENV.items()}
    for name, value in {**DEFAULT_ENV, **caches}.items():
        os.environ.setdefault(name, value)
    import torch  # with vllm installed it is, too

    if num_threads is not None and num_threads < 1:
        raise ConfigError("num_threads", f"is {num_threads}; expected at least 1")
    threads = num_threads or torch.get_num_threads()
    use_threads(threads)
    # Without this variable vLLM goes down to one thread when it has loaded a model.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def use_threads(num_threads: int) -> None:
    """Has the calling thread compute with so many.

    OpenMP keeps that number for each thread, and vLLM's kernels ask OpenMP, not torch. By the
    name in `torch._C`, because vLLM replaces `torch.set_num_threads` by a function without effect.
    """
    import torch

    torch._C.set_num_threads(num_threads)


def find_vllm() -> SimpleNamespace:
    """The names of `NAMES`, checked.

    Raises:
        ConfigError: vllm is missing, of another version, or not what this package expects.
    """
    try:
        version: str = importlib.import_module("vllm.version").__version__
    except ImportError as error:
        raise ConfigError(
            "engine", f"vllm cannot be imported ({error}); make install-vllm"
        ) from None
    if version.partition("+")[0] != SUPPORTED_VERSION:
        raise ConfigError("engine", _mismatch(version, "it is another version"))
    try:
        api = SimpleNamespace(
            version=version,
            **{
                name: getattr(importlib.import_module(where), name) for name, where in NAMES.items()
            },
        )
    except (ImportError, AttributeError) as error:
        raise ConfigError("engine", _mismatch(version, str(error))) from error
    for name, given in FIELDS.items():
        fields = dataclasses.fields(getattr(api, name))
        strange = {*given.split()} - {field.name for field in fields}
        needed = {f.name for f in fields if _is_required(f)} - {*given.split()}
        if strange or needed:
            problem = f"{name} has no {sorted(strange)} or needs {sorted(needed)}"
            raise ConfigError("engine", _mismatch(version, problem))
    return api


def engine_args(
    folder: Path,
    *,
    on_cpu: bool,
    dtype: str = "auto",
    block_size: int | None = None,
    num_blocks: int | None = None,
    kv_memory_bytes: int | None = None,
    max_model_len: int | None = None,
    max_running: int = 256,
    max_prefill_tokens: int = 4096,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
) -> dict[str, Any]:
    """Options of `EngineArgs`; see `VllmEngine` for the arguments."""
    if on_cpu and block_size and block_size % 32:
        raise ConfigError("block_size", f"is {block_size}; on a CPU vllm takes multiples of 32")
    if on_cpu and pipeline_parallel > 1:  # its later stages miss buffers that a warm-up makes
        raise ConfigError("pipeline_parallel", f"vllm {SUPPORTED_VERSION} fails with it on a CPU")
    if on_cpu and kv_memory_bytes is None:
        kv_memory_bytes = _cpu_kv_bytes()
    return {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "block_size": block_size,
        "num_gpu_blocks_override": num_blocks + 1 if num_blocks else None,
        "kv_cache_memory_bytes": kv_memory_bytes,
        "max_model_len": max_model_len or -1,  # -1: as much as the model and the pool allow
        "max_num_seqs": max_running,
        "max_num_batched_tokens": max_prefill_tokens + max_running,
        "tensor_parallel_size": tensor_parallel,
        "pipeline_parallel_size": pipeline_parallel,
        "enable_prefix_caching": False,  # Rondo's ledger does that
        "disable_hybrid_kv_cache_manager": True,
        "async_scheduling": False,
        "disable_log_stats": True,
    }


def build_executor(api: SimpleNamespace, config: Any) -> tuple[Any, int, int]:
    """vLLM's executor with weights and KV tensors, the number of blocks that Rondo may use, and
    the bytes of the KV tensors on all devices.

    Raises:
        ModelError: the model needs more than one kind of KV block table.
    """
    api.load_general_plugins()
    executor = api.Executor.get_class(config)(config)
    # What EngineCore does between executor and scheduler, by its own method.
    core = object.__new__(api.EngineCore)
    core.model_executor = executor
    core.available_gpu_memory_for_kv_cache = -1
    pool = core._initialize_kv_caches(config)
    groups = pool.kv_cache_groups
    if len(groups) != 1 or pool.needs_kv_cache_zeroing:
        executor.shutdown()
        kinds = ", ".join(type(group.kv_cache_spec).__name__ for group in groups) or "none"
        raise ModelError(
            config.model_config.model, f"KV caches of {kinds}; supported is one of plain attention"
        )
    kv_bytes = sum(tensor.size for tensor in pool.kv_cache_tensors)
    return executor, pool.num_blocks - 1, kv_bytes * config.parallel_config.world_size


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """What generation_config.json says wins: chat models add their end-of-turn token there."""
    config, generation = folder / "config.json", folder / "generation_config.json"
    ids = ConfigFile.read(generation).token_ids("eos_token_id") if generation.is_file() else ()
    return ids or ConfigFile.read(config).token_ids("eos_token_id")


def _cpu_kv_bytes() -> int:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(int(free * CPU_KV_SHARE), CPU_KV_MAX_BYTES)


def _cache_folder() -> Path:
    """In the venv that vllm is installed in, else a temporary one: never in the home folder."""
    if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix) / "cache"
    return Path(tempfile.gettempdir()) / f"rondo-vllm-{os.getuid()}"


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _mismatch(version: str, problem: str) -> str:
    return f"vllm {version} is installed, vllm {SUPPORTED_VERSION} is supported: {problem}"
