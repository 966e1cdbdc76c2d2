"""Settings of a coordinator."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from rondo.errors import ConfigError
from rondo.service.settings import BaseSettings


class CoordinatorSettings(BaseSettings, frozen=True, kw_only=True):
    """Policy, queue bounds and time-outs."""

    coordinator_id: Annotated[str, Meta(description="id; a random one by default")] = ""
    slack: Annotated[
        str,
        Meta(description="what of the saved TPOT must cover a turn: mean, or a quantile 0 to 1"),
    ] = "0.1"
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

    def slack_quantile(self) -> float | None:
        """None for the mean.

        Raises:
            ConfigError: neither `mean` nor a number from 0 to 1.
        """
        if self.slack == "mean":
            return None
        try:
            value = float(self.slack)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise ConfigError("RONDO_SLACK", f"{self.slack!r} is neither 'mean' nor from 0 to 1")
        return value
