"""Settings of a coordinator."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from rondo.errors import ConfigError
from rondo.journal_writer import DEFAULT_MAX_BYTES
from rondo.policy.catalog import LIVE_POLICY_NAMES, PolicySettings, make_policy
from rondo.policy.events import MacroScheduler
from rondo.policy.macro import QueueSettings
from rondo.policy.mitosis import MitosisSettings
from rondo.policy.scaling import TriggerSettings
from rondo.service.settings import BaseSettings


class Scaling(str, Enum):
    """Whether the number of instances follows the load."""

    OFF = "off"
    DRY_RUN = "dry-run"
    ON = "on"


class ScalingSettings(BaseSettings, frozen=True, kw_only=True):
    """How large a macro-instance may be, and how many instances there may be."""

    macro_lower: Annotated[
        int, Meta(ge=1, description="least instances of a macro-instance that has a sibling")
    ] = 32
    macro_upper: Annotated[
        int, Meta(ge=1, description="most instances of a macro-instance; one more splits it")
    ] = 64
    instance_grace_s: Annotated[
        float, Meta(ge=0, description="an instance that is back sooner keeps its macro-instance")
    ] = 15.0
    scaling: Annotated[
        Scaling,
        Meta(description="whether the number of instances follows the load: off, dry-run or on"),
    ] = Scaling.OFF
    min_instances: Annotated[int, Meta(ge=1, description="of a model, where it is scaled")] = 1
    max_instances: Annotated[int, Meta(ge=1, description="of a model, where it is scaled")] = 1024
    scaling_window_s: Annotated[float, Meta(gt=0, description="load is judged over so long")] = 10.0
    scaling_cooldown_s: Annotated[
        float, Meta(ge=0, description="least time from one change of the number to the next")
    ] = 30.0

    def mitosis(self) -> MitosisSettings:
        """N_l and N_u.

        Raises:
            ConfigError: a split would leave too few.
        """
        try:
            return MitosisSettings(n_lower=self.macro_lower, n_upper=self.macro_upper)
        except ConfigError as error:
            raise ConfigError("RONDO_MACRO_UPPER", error.problem) from error

    def trigger(self) -> TriggerSettings:
        """When to scale.

        Raises:
            ConfigError: the least is above the most.
        """
        if self.min_instances > self.max_instances:
            problem = f"{self.max_instances} is below RONDO_MIN_INSTANCES, {self.min_instances}"
            raise ConfigError("RONDO_MAX_INSTANCES", problem)
        return TriggerSettings(
            min_instances=self.min_instances,
            max_instances=self.max_instances,
            cooldown_s=self.scaling_cooldown_s,
        )


class CoordinatorSettings(ScalingSettings, frozen=True, kw_only=True):
    """Policy, queue bounds, time-outs and the journal."""

    coordinator_id: Annotated[str, Meta(description="id; a random one by default")] = ""
    policy: Annotated[
        str, Meta(description=f"macro-instance scheduler: {', '.join(LIVE_POLICY_NAMES)}")
    ] = "padg"
    max_wait_s: Annotated[
        float, Meta(gt=0, description="how long a request may wait for admission")
    ] = 60.0
    max_pending: Annotated[
        int, Meta(ge=1, description="how many requests may wait for admission")
    ] = 4096
    instance_timeout_s: Annotated[
        float, Meta(ge=2, description="an instance that is silent for so long is dropped")
    ] = 4.0
    lease_s: Annotated[
        float, Meta(ge=1, description="an owner that is silent for so long is replaced")
    ] = 2.0
    journal: Annotated[
        str, Meta(description="folder for journals of all decisions; none by default")
    ] = ""
    journal_max_bytes: Annotated[int, Meta(ge=4096, description="size at which a journal ends")] = (
        DEFAULT_MAX_BYTES
    )

    def policy_settings(self) -> PolicySettings:
        """What the policy is told."""
        queue = QueueSettings(max_wait_s=self.max_wait_s, max_pending=self.max_pending)
        return PolicySettings(queue=queue)

    def make_policy(self) -> MacroScheduler:
        """A fresh policy object.

        Raises:
            ConfigError: no policy that a cluster can run has this name.
        """
        if self.policy not in LIVE_POLICY_NAMES:
            known = ", ".join(LIVE_POLICY_NAMES)
            raise ConfigError("RONDO_POLICY", f"{self.policy!r} is not one of: {known}")
        return make_policy(self.policy, self.policy_settings())

    def check(self) -> None:
        """Raises ConfigError when settings are wrong that only a later decision would read."""
        self.make_policy()
        self.mitosis()
        self.trigger()

    def journal_folder(self) -> Path | None:
        """The folder of the journals, there or not; None when they are off."""
        return Path(self.journal) if self.journal else None
