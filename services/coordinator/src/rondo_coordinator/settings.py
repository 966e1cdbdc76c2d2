"""Settings of a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from rondo.errors import ConfigError
from rondo.journal_writer import DEFAULT_MAX_BYTES
from rondo.policy.catalog import LIVE_POLICY_NAMES, PolicySettings, make_policy
from rondo.policy.events import MacroScheduler
from rondo.policy.macro import QueueSettings
from rondo.service.settings import BaseSettings


class CoordinatorSettings(BaseSettings, frozen=True, kw_only=True):
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
    ] = 3.0
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

    def journal_folder(self) -> Path | None:
        """The folder of the journals, there or not; None when they are off."""
        return Path(self.journal) if self.journal else None
