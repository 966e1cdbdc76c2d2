"""The scheduler of a worker that runs one step at a time, with its instance policy."""

from __future__ import annotations

from rondo.errors import ConfigError
from rondo.policy.econoserve import INSTANCE_POLICY_NAMES, EconoSettings, make_instance_policy
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.types import LatencyModel
from rondo_worker.engines.base import EngineSpec
from rondo_worker.settings import WorkerSettings

_SETTING = "RONDO_INSTANCE_POLICY"
#: Predictions come from gateways, which have added a margin to what they expect.
_ECONO = EconoSettings(pad=0.0)


def check_instance_policy(settings: WorkerSettings) -> None:
    """Refuses an instance policy that does not exist, or that nothing would ask.

    Raises:
        ConfigError: names the setting.
    """
    name, default = settings.instance_policy, INSTANCE_POLICY_NAMES[0]
    if name not in INSTANCE_POLICY_NAMES:
        problem = f"{name!r} is not one of: {', '.join(INSTANCE_POLICY_NAMES)}"
        raise ConfigError(_SETTING, problem)
    if settings.pipeline_policy and name != default:
        problem = f"{name!r} has no say where RONDO_PIPELINE_POLICY names a scheduler"
        raise ConfigError(_SETTING, problem)


def make_instance_scheduler(
    settings: WorkerSettings, spec: EngineSpec, latency: LatencyModel
) -> InstanceScheduler:
    """The scheduler with the policy that `RONDO_INSTANCE_POLICY` names."""
    return InstanceScheduler(
        KvLedger(spec.num_blocks, spec.block_size),
        max_running=settings.max_running,
        max_prefill_tokens=settings.max_prefill_tokens,
        eos_token_ids=spec.eos_token_ids,
        step_cost=latency,
        policy=make_instance_policy(settings.instance_policy, _ECONO),
    )
