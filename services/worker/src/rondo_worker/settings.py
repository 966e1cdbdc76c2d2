"""Settings of a worker."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from rondo.service.settings import BaseSettings


class WorkerSettings(BaseSettings, frozen=True, kw_only=True):
    """One instance: its engine, its model and its limits."""

    model: Annotated[str, Meta(description="folder of the model, in Hugging Face layout")]
    model_name: Annotated[str, Meta(description="name clients use; the folder's by default")] = ""
    engine: Annotated[
        str,
        Meta(
            pattern="^(torch|pipeline|vllm|emulated)$",
            description="torch, pipeline, vllm or emulated",
        ),
    ] = "torch"
    profile: Annotated[
        str, Meta(description="latency profile of the emulated engine: a name or a JSON file")
    ] = "codellama-34b-l20-tp4"
    demo: Annotated[bool, Meta(description="obeys faults that a gateway's console orders")] = False
    instance_id: Annotated[str, Meta(description="id on the bus; a random one by default")] = ""
    device: Annotated[str, Meta(description="auto, cpu, cuda or cuda:N")] = "auto"
    dtype: Annotated[
        str, Meta(pattern="^(auto|float32|bfloat16|float16)$", description="of weights and KV")
    ] = "auto"
    threads: Annotated[
        int, Meta(ge=0, description="CPU threads of torch; 0 leaves it to torch")
    ] = 0
    cores: Annotated[
        str, Meta(description="CPU cores of this worker, e.g. 0-3,8; empty: whichever are free")
    ] = ""
    tensor_parallel: Annotated[
        int, Meta(ge=1, le=64, description="devices that share each layer; vllm only")
    ] = 1
    pipeline_parallel: Annotated[
        int, Meta(ge=1, le=64, description="devices with layers of their own; vllm and pipeline")
    ] = 1
    stage_cores: Annotated[
        str,
        Meta(description="cores of each stage of the pipeline engine, like 0,1 or 0-3,4-7"),
    ] = ""
    instance_policy: Annotated[
        str,
        Meta(
            description="which request runs next, and what KV it gets: block-growth, "
            "shortest-first, max-length, exact or econoserve",
        ),
    ] = "block-growth"
    pipeline_policy: Annotated[
        str,
        Meta(
            description="scheduler of the pipeline engine, for throughput: tdpipe, tdpipe-fused, "
            "pp-separate or pp-hybrid; empty: one step at a time, as in every engine",
        ),
    ] = ""
    compile: Annotated[
        str,
        Meta(
            pattern="^(auto|on|off)$",
            description="compile at start: vllm the model, torch decodes to CUDA graphs; "
            "auto: not on a CPU",
        ),
    ] = "auto"
    block_size: Annotated[
        int, Meta(ge=0, le=1024, description="tokens in a KV block; 0 takes the engine's own")
    ] = 0
    num_blocks: Annotated[int, Meta(ge=0, description="KV blocks; 0 sizes the pool itself")] = 0
    kv_memory_mib: Annotated[
        int, Meta(ge=0, description="memory of the KV pool where num_blocks is 0; 0: the engine's")
    ] = 0
    native: Annotated[
        bool, Meta(description="compiled decode kernels of the torch engine; false: torch alone")
    ] = True
    prefix_cache: Annotated[
        bool, Meta(description="prompts that begin alike share the KV of their first blocks")
    ] = True
    max_model_len: Annotated[
        int, Meta(ge=0, description="limit of prompt plus answer; 0 takes the model's")
    ] = 0
    max_running: Annotated[int, Meta(ge=1, description="requests that decode together")] = 256
    max_prefill_tokens: Annotated[int, Meta(ge=1, description="tokens in a prefill step")] = 4096
    drain_timeout_s: Annotated[
        float, Meta(ge=0, description="how long a stopping worker lets its requests finish")
    ] = 30.0
    step_timeout_s: Annotated[
        float,
        Meta(ge=0, description="an engine step that takes longer ends the worker; 0: no limit"),
    ] = 300.0
