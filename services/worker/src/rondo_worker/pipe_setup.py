"""The scheduler of a worker whose pipeline engine runs several steps in flight."""

from __future__ import annotations

from rondo.errors import ConfigError
from rondo.policy.ledger import KvLedger
from rondo.policy.tdpipe import (
    SCHEDULER_NAMES,
    FusedSettings,
    PipeInstance,
    PipeSettings,
    PipeSetup,
    make_scheduler,
)
from rondo.types import LatencyModel
from rondo_worker.engines.base import EngineSpec
from rondo_worker.settings import WorkerSettings

#: Background requests that the instance takes, in KV pools: the more prompts wait, the longer its
#: phases can be.
BACKGROUND_POOLS = 3.0


def check_pipeline_policy(settings: WorkerSettings) -> None:
    """Refuses a scheduler that does not exist, or has no pipe to schedule.

    Raises:
        ConfigError: names the setting.
    """
    name = settings.pipeline_policy
    if name and name not in SCHEDULER_NAMES:
        problem = f"{name!r} is not one of: {', '.join(SCHEDULER_NAMES)}"
        raise ConfigError("RONDO_PIPELINE_POLICY", problem)
    if name and settings.engine != "pipeline":
        problem = f"{name!r} needs RONDO_ENGINE=pipeline, not {settings.engine}"
        raise ConfigError("RONDO_PIPELINE_POLICY", problem)


def make_pipe_instance(
    settings: WorkerSettings, spec: EngineSpec, latency: LatencyModel
) -> PipeInstance:
    """The scheduler that `RONDO_PIPELINE_POLICY` names; `latency` predicts whole steps, all stages
    one after the other."""
    stages, most = settings.pipeline_parallel, settings.max_prefill_tokens
    defaults = PipeSettings()
    chosen = PipeSettings(
        prefill_tokens=min(defaults.prefill_tokens, most),
        budget_tokens=min(defaults.budget_tokens, most),
        max_batch=-(-settings.max_running // stages),
        fused=FusedSettings(step_tokens=min(defaults.fused.step_tokens, most)),
    )
    ledger = KvLedger(spec.num_blocks, spec.block_size)
    return PipeInstance(
        make_scheduler(settings.pipeline_policy, PipeSetup(ledger, latency, stages, chosen)),
        max_running=settings.max_running,
        max_prefill_tokens=settings.max_prefill_tokens,
        eos_token_ids=spec.eos_token_ids,
    )
